//! The agent's only unsafe code: descriptors by number, fork, shared mappings, descriptors over sockets, signals.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

/// A descriptor that the driver named by its number. A wrong number ends in EBADF.
pub fn fd(number: RawFd) -> BorrowedFd<'static> {
    assert!(number >= 0, "descriptor number {number}");
    // SAFETY: the agent keeps its descriptors as plain numbers and never lends one it is about to close.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Closes and reports what close(2) said.
pub fn close(number: RawFd) -> Result<()> {
    // SAFETY: plain system call on a number; nothing in the agent owns the descriptor.
    check(unsafe { libc::close(number) }).map(drop)
}

/// dup(2).
pub fn dup(number: RawFd) -> Result<RawFd> {
    // SAFETY: plain system call on a number.
    check(unsafe { libc::dup(number) })
}

/// dup2(2).
pub fn dup2(number: RawFd, onto: RawFd) -> Result<RawFd> {
    // SAFETY: plain system call on numbers; `onto` is owned by nobody.
    check(unsafe { libc::dup2(number, onto) })
}

/// Makes `fd` survive exec, so that a command started by the agent inherits it.
pub fn clear_cloexec(number: RawFd) -> Result<()> {
    // SAFETY: plain system call on a number.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop)
}

/// fork(2): 0 in the child.
pub fn fork() -> Result<i32> {
    // SAFETY: the child goes on with the same code; agents that fork are single-threaded, glibc repairs malloc anyway.
    check(unsafe { libc::fork() })
}

/// waitpid(2) for one child.
pub fn wait(pid: i32) -> Result<i32> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    check(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
    Ok(status)
}

/// Ends the process at once, descriptors still open, without running anything else.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Sends a signal with its default action to this process.
pub fn kill_self(signal: i32) -> Result<()> {
    // SAFETY: SIG_DFL is a valid disposition and needs no handler to be alive.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        check(libc::kill(libc::getpid(), signal)).map(drop)
    }
}

/// Becomes another user for good, without supplementary groups.
pub fn become_user(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: plain system calls; libc applies them to all threads.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid)).map(drop)
    }
}

/// fcntl(2) with a record lock; `how` is one of `read write unlock test`, then `,wait` and `,ofd` as wanted. A test
/// returns type, start, length and process of the lock that is in the way.
pub fn record_lock(number: RawFd, how: &str, start: i64, len: i64) -> Result<Vec<i64>> {
    let is = |word: &str| how.split(',').any(|w| w == word);
    let command = match (is("test"), is("wait"), is("ofd")) {
        (true, _, false) => libc::F_GETLK,
        (true, _, true) => libc::F_OFD_GETLK,
        (_, false, false) => libc::F_SETLK,
        (_, true, false) => libc::F_SETLKW,
        (_, false, true) => libc::F_OFD_SETLK,
        (_, true, true) => libc::F_OFD_SETLKW,
    };
    let kind = match (is("unlock"), is("read")) {
        (true, _) => libc::F_UNLCK,
        (_, true) => libc::F_RDLCK,
        _ => libc::F_WRLCK,
    };
    // SAFETY: `flock` is a structure of integers that lives across the call, which writes into it for a test only.
    let lock = unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as libc::c_short;
        lock.l_start = start;
        lock.l_len = len;
        check(libc::fcntl(number, command, &raw mut lock))?;
        lock
    };
    let found = is("test") && i32::from(lock.l_type) != libc::F_UNLCK;
    Ok(if found { vec![lock.l_type.into(), lock.l_start, lock.l_len, lock.l_pid.into()] } else { Vec::new() })
}

extern "C" fn nothing(_signal: i32) {}

/// From now on the signal ends a system call with EINTR, and nothing else.
pub fn heed(signal: i32) -> Result<()> {
    // SAFETY: the handler does nothing; an all-zero sigaction is valid and asks for no restart.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as libc::sighandler_t;
        check(libc::sigaction(signal, &raw const action, std::ptr::null_mut())).map(drop)
    }
}

/// A mapping of a file.
struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: the pointer is only used under the lock of `MAPPINGS` and stays valid until `unmap` takes the entry.
unsafe impl Send for Mapping {}

static MAPPINGS: Mutex<Vec<Option<Mapping>>> = Mutex::new(Vec::new());

/// Maps a file; returns the mapping's number.
pub fn map(number: RawFd, offset: i64, len: usize, writable: bool, shared: bool) -> Result<usize> {
    let prot = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, number, offset) };
    if start == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    let mut mappings = MAPPINGS.lock().unwrap();
    mappings.push(Some(Mapping { start: start.cast(), len }));
    Ok(mappings.len() - 1)
}

fn with_mapping<T>(id: usize, at: usize, len: usize, f: impl FnOnce(*mut u8) -> T) -> Result<T> {
    let mappings = MAPPINGS.lock().unwrap();
    match mappings.get(id) {
        // SAFETY: the range was checked against the mapping's length.
        Some(Some(m)) if at + len <= m.len => Ok(f(unsafe { m.start.add(at) })),
        _ => Err(Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// Stores bytes into a mapping.
pub fn store(id: usize, at: usize, data: &[u8]) -> Result<()> {
    // SAFETY: `with_mapping` checked the range; the source is a live slice elsewhere.
    with_mapping(id, at, data.len(), |to| unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) })
}

/// Loads bytes from a mapping.
pub fn load(id: usize, at: usize, len: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; len];
    let to = data.as_mut_ptr();
    // SAFETY: `with_mapping` checked the range; the target has `len` bytes.
    with_mapping(id, at, len, |from| unsafe { to.copy_from_nonoverlapping(from, len) })?;
    Ok(data)
}

/// msync(MS_SYNC) of a whole mapping.
pub fn msync(id: usize) -> Result<()> {
    let mappings = MAPPINGS.lock().unwrap();
    let Some(Some(m)) = mappings.get(id) else { return Err(Error::from_raw_os_error(libc::EFAULT)) };
    // SAFETY: start and length are those of a live mapping.
    check(unsafe { libc::msync(m.start.cast(), m.len, libc::MS_SYNC) }).map(drop)
}

/// munmap(2).
pub fn unmap(id: usize) -> Result<()> {
    let taken = MAPPINGS.lock().unwrap().get_mut(id).and_then(Option::take);
    let Some(m) = taken else { return Err(Error::from_raw_os_error(libc::EFAULT)) };
    // SAFETY: the entry was taken from the table, nobody else has the pointer.
    check(unsafe { libc::munmap(m.start.cast(), m.len) }).map(drop)
}

/// Maps eight counters of a file shared, for as long as the process lives.
pub fn counters(file: RawFd) -> Result<&'static [AtomicU64; 8]> {
    // SAFETY: a fresh shared mapping of one page that is never unmapped; atomics are valid for any bytes.
    unsafe {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let start = libc::mmap(std::ptr::null_mut(), 64, prot, libc::MAP_SHARED, file, 0);
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(&*start.cast::<[AtomicU64; 8]>())
    }
}

/// Sends one descriptor over a unix socket.
pub fn send_fd(socket: RawFd, number: RawFd) -> Result<()> {
    with_fd_message(|message, control| {
        // SAFETY: the buffer behind `control` has room for one descriptor; `message` points to live buffers.
        unsafe {
            (*control).cmsg_level = libc::SOL_SOCKET;
            (*control).cmsg_type = libc::SCM_RIGHTS;
            (*control).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(control).cast::<RawFd>().write_unaligned(number);
            check(libc::sendmsg(socket, message, 0) as i32).map(drop)
        }
    })
}

/// Receives one descriptor.
pub fn receive_fd(socket: RawFd) -> Result<RawFd> {
    with_fd_message(|message, control| {
        // SAFETY: `message` points to live buffers; a control message was received before its data is read.
        unsafe {
            check(libc::recvmsg(socket, message, 0) as i32)?;
            if message.msg_controllen == 0 || (*control).cmsg_type != libc::SCM_RIGHTS {
                return Err(Error::from_raw_os_error(libc::ENOMSG));
            }
            Ok(libc::CMSG_DATA(control).cast::<RawFd>().read_unaligned())
        }
    })
}

/// Builds a one-byte message with room for one descriptor. Not a reference to the header: the kernel reads it, and the
/// descriptor behind it, through the message.
fn with_fd_message<T>(f: impl FnOnce(&mut libc::msghdr, *mut libc::cmsghdr) -> Result<T>) -> Result<T> {
    let mut byte = [b'.'];
    let mut room = [0_u64; 4];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all-zero is a valid msghdr; the control buffer is aligned for cmsghdr and long enough for one descriptor.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = room.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let control = libc::CMSG_FIRSTHDR(&raw const message);
        f(&mut message, control)
    }
}

/// Takes a number over as an owned descriptor.
pub fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the caller got the number from the kernel just now and gives it away.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn check(result: i32) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// truncate(2) by path.
pub fn truncate(path: &std::ffi::CStr, len: i64) -> Result<()> {
    // SAFETY: a live, terminated string.
    check(unsafe { libc::truncate(path.as_ptr(), len) }).map(drop)
}
