//! What a thread that waits for an answer from here is doing: its system call, and whether a signal waits for it.

use std::fs;

/// The system call in which a thread waits for an answer from here, and its second argument. `None` if the kernel does
/// not tell (without the right to trace the thread, or for one of another pid namespace).
fn syscall_of(tid: u32) -> Option<(i64, u64)> {
    if tid == 0 {
        return None;
    }
    for _ in 0..SETTLE {
        let call = fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
        // Between sending its request and going to sleep the thread still runs.
        if call.starts_with("running") {
            std::thread::yield_now();
            continue;
        }
        let mut words = call.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let second = words.nth(1)?.strip_prefix("0x")?;
        return Some((number, u64::from_str_radix(second, 16).ok()?));
    }
    None
}

/// How often a thread that is about to sleep is looked at.
const SETTLE: usize = 1000;

/// The lock that a thread asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockCall {
    /// By `flock`.
    Flock,
    /// By `fcntl`, for an open file description.
    Description,
    /// By `fcntl`, for the process; or it is in another system call.
    Other,
}

/// Which lock a thread that waits for an answer from here asks for.
pub fn lock_call(tid: u32) -> Option<LockCall> {
    let (number, command) = syscall_of(tid)?;
    let of_description = [libc::F_OFD_SETLK, libc::F_OFD_SETLKW, libc::F_OFD_GETLK];
    Some(if number == libc::SYS_flock {
        LockCall::Flock
    } else if number == libc::SYS_fcntl && of_description.iter().any(|&c| u64::from(c.cast_unsigned()) == command) {
        LockCall::Description
    } else {
        LockCall::Other
    })
}

/// True if a signal waits for the thread that would end a system call, or if the thread is gone.
pub fn is_interrupted(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    let Ok(status) = fs::read_to_string(format!("/proc/{tid}/status")) else { return true };
    let set = |key: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
    };
    (set("SigPnd") | set("ShdPnd")) & !set("SigBlk") != 0
}
