//! What a thread that waits for an answer from here is doing: its system call, and whether a signal waits for it.

use std::fs;

/// The system call in which a thread waits for an answer from here: its number, its arguments, and where in the program it
/// was made. Two calls of a thread are alike only if it makes the same one again. `None` if the kernel does not tell
/// (without the right to trace the thread, or for one of another pid namespace).
pub fn call(tid: u32) -> Option<Box<str>> {
    if tid == 0 {
        return None;
    }
    for _ in 0..SETTLE {
        let call = fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
        if !call.starts_with("running") {
            return Some(call.into());
        }
        // Between sending its request and going to sleep the thread still runs.
        std::thread::yield_now();
    }
    None
}

/// The number and the second argument of such a call.
fn syscall_of(tid: u32) -> Option<(i64, u64)> {
    let call = call(tid)?;
    let mut words = call.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let second = words.nth(1)?.strip_prefix("0x")?;
    Some((number, u64::from_str_radix(second, 16).ok()?))
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

/// True if a thread is in a call that writes to a file, and does nothing else.
pub fn is_writing(tid: u32) -> bool {
    let calls = [libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev, libc::SYS_pwritev2];
    syscall_of(tid).is_some_and(|(number, _)| calls.contains(&number))
}

/// Whether a signal waits for a thread that would end its system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// None.
    No,
    /// One for the process, which another of its threads may be about to take.
    Perhaps,
    /// One that the thread will find, or it is gone.
    Yes,
}

/// Looks for a signal that waits for the thread. To be told `Yes` wrongly would do harm: the kernel turns the answer that
/// follows into a restart of the call, which happens only with a signal.
pub fn interruption(tid: u32) -> Interruption {
    if tid == 0 {
        return Interruption::No;
    }
    let Ok(status) = fs::read_to_string(format!("/proc/{tid}/status")) else { return Interruption::Yes };
    let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let set = |key: &str| field(key).and_then(|value| u64::from_str_radix(value, 16).ok()).unwrap_or(0);
    let heeded = !set("SigBlk");
    // The kernel gives a process's signal to its first thread if that does not block it.
    let first = field("Tgid") == field("Pid") || field("Threads") == Some("1");
    if set("SigPnd") & heeded != 0 || (first && set("ShdPnd") & heeded != 0) {
        Interruption::Yes
    } else if set("ShdPnd") & heeded != 0 {
        Interruption::Perhaps
    } else {
        Interruption::No
    }
}
