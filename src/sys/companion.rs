//! A process beside this one, of the same program: forked and not executed, so that it costs next to nothing.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Signal, chdir, set_parent_process_death_signal};

use super::{Errno, Result, last_error, procfs};

/// What ends a whole group or service: that is for the parent to answer.
const FOR_THE_PARENT: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Comes when the thread that forked has ended.
const ORPHANED: libc::c_int = libc::SIGUSR1;

/// What the companion has of its parent.
#[derive(Debug)]
pub struct Companion(());

/// Forks, and runs `life` in the new process, which ends with it. It stands in `/`, goes by `name` and no longer by the
/// parent's command line, and has no descriptors but `input`, which is its standard input. It is told when the calling
/// thread ends ([`Companion::outlive`]), even where the parent's process cannot end.
///
/// `EDEADLK` if there is another thread already: what that has locked would be locked in the new process for ever.
pub fn start(name: &CStr, input: OwnedFd, life: impl FnOnce(&Companion)) -> Result<()> {
    if procfs::threads() != Some(1) {
        return Err(Errno::DEADLK);
    }
    // SAFETY: this is the only thread, so the new process finds every lock and the heap as they are here.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => {
            // Nothing may unwind into the parent's stack, of which this is a copy.
            let lived = catch_unwind(AssertUnwindSafe(|| become_companion(name, input).map(|it| life(&it))));
            // SAFETY: ends the process at once, without what the parent has registered to be done at its exit.
            unsafe { libc::_exit(i32::from(!matches!(lived, Ok(Ok(()))))) }
        }
        _ => Ok(()),
    }
}

fn become_companion(name: &CStr, input: OwnedFd) -> Result<Companion> {
    block(&FOR_THE_PARENT)?;
    block(&[ORPHANED])?;
    set_parent_process_death_signal(Some(Signal::USR1))?;
    rustix::thread::set_name(name)?;
    forget_arguments(name)?;
    let null = openat(CWD, "/dev/null", OFlags::RDWR, Mode::empty())?;
    rustix::stdio::dup2_stdin(&input)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // Their numbers are about to be free for others.
    std::mem::forget((input, null));
    // SAFETY: descriptors from 3 on belong to values of the parent, which this copy neither uses nor drops from here on.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } != 0 {
        return Err(last_error());
    }
    chdir("/")?;
    Ok(Companion(()))
}

/// Whoever looks for the parent by its command line, to kill it, shall not find this process too.
fn forget_arguments(name: &CStr) -> Result<()> {
    let Some((start, end)) = procfs::own_arguments() else { return Err(Errno::NODATA) };
    let name = name.to_bytes();
    let kept = name.len().min((end - start).saturating_sub(1));
    // SAFETY: the kernel has laid the arguments out there, writable and in this process' private copy; nobody reads them
    // any more in a process that never asks for its command line.
    unsafe {
        let arguments = std::ptr::with_exposed_provenance_mut::<u8>(start);
        arguments.write_bytes(0, end - start);
        arguments.copy_from_nonoverlapping(name.as_ptr(), kept);
    }
    Ok(())
}

impl Companion {
    /// What the parent has sent, and what goes to it.
    pub fn stream(&self) -> BorrowedFd<'static> {
        rustix::stdio::stdin()
    }

    /// Waits until the thread that started this process has ended.
    pub fn outlive(&self) -> Result<()> {
        let orphaned = set_of(&[ORPHANED]);
        loop {
            // SAFETY: the set lives for the call, which writes nowhere else.
            match unsafe { libc::sigwaitinfo(&raw const orphaned, std::ptr::null_mut()) } {
                ORPHANED => return Ok(()),
                _ if last_error() == Errno::INTR => {}
                _ => return Err(last_error()),
            }
        }
    }
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: a set of signals is plain data, which sigemptyset makes valid; sigaddset changes it in place.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

fn block(signals: &[libc::c_int]) -> Result<()> {
    let set = set_of(signals);
    // SAFETY: the set lives for the call; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}
