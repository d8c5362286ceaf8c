//! Whose thread asks: its process, parent and identity, from descriptors of processes. The kernel answers without writing
//! text and without anything that `execve` locks; `/proc` says the same where the kernel is older (before Linux 6.13).
#![allow(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::Duration;

use dashmap::DashMap;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::CapabilitySet;
use rustix::time::Timespec;

use super::procfs::Exit;
use super::{Errno, Result, procfs};

/// The process of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process (thread group) id.
    pub tgid: u32,
    /// Parent's process id; 0 at the top of the pid namespace.
    pub ppid: u32,
    /// What tells the process from others with its id.
    pub identity: Option<Identity>,
    /// The same for the thread that asked; `None` where threads have none of their own.
    pub thread: Option<Identity>,
}

/// What tells a process from every other one that has, had or will have its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Inode number of its descriptor, where each process has one of its own (Linux 6.9).
    Inode(u64),
    /// Ticks since boot at its start.
    Start(u64),
}

/// The process of a thread; `None` when it is gone, or has no id in the daemon's pid namespace.
pub fn of(tid: u32) -> Option<Process> {
    if tid == 0 {
        return None;
    }
    match by_descriptor(tid) {
        Ok(process) => Some(process),
        // An older kernel; or the process is gone, or has a parent outside of the pid name space: `/proc` tells.
        Err(_) => {
            let task = procfs::task(tid)?;
            Some(Process { tgid: task.tgid, ppid: task.ppid, identity: identity(task.tgid), thread: None })
        }
    }
}

/// Generations that [`ancestry`] goes up; a chain that is longer is cut there.
pub const GENERATIONS: usize = 64;

/// The process of a thread, its parent, and so on up to the top of the pid namespace.
pub fn ancestry(tid: u32) -> impl Iterator<Item = Process> {
    std::iter::successors(of(tid), |process| of(process.ppid)).take(GENERATIONS)
}

/// The identity of a process; `None` if it is gone or cannot be told now.
pub fn identity(pid: u32) -> Option<Identity> {
    let process = open(pid, PidfdFlags::empty()).ok()?;
    inode(&process).map(Identity::Inode).or_else(|| procfs::start_ticks(pid).map(Identity::Start))
}

/// A process whose end will be known although it is gone by then (Linux 6.15; before, while nobody has waited for it).
#[derive(Debug)]
pub struct Held {
    process: OwnedFd,
    tgid: u32,
    identity: Identity,
}

/// Whether a process has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It runs.
    Runs,
    /// It is on its way out, or gone, in this way.
    Ended(Exit),
    /// It is gone, and nothing is known of how.
    Unknown,
}

/// Those that are held now: one descriptor each, however many files they write.
static HELD: LazyLock<DashMap<Identity, Weak<Held>>> = LazyLock::new(DashMap::new);

impl Held {
    /// Holds a process; `None` if it is gone, or processes have no descriptors of their own kind (before Linux 6.9).
    pub fn of(process: &Process) -> Option<Arc<Held>> {
        let identity = process.identity.filter(|identity| matches!(identity, Identity::Inode(_)))?;
        if let Some(held) = HELD.get(&identity).and_then(|held| held.upgrade()) {
            return Some(held);
        }
        let descriptor = open(process.tgid, PidfdFlags::empty()).ok()?;
        let same = inode(&descriptor).map(Identity::Inode) == Some(identity);
        let held = same.then(|| Arc::new(Held { process: descriptor, tgid: process.tgid, identity }))?;
        HELD.insert(identity, Arc::downgrade(&held));
        Some(held)
    }

    /// Whether it has come to its end.
    pub fn end(&self) -> End {
        let exit = || info(&self.process).map(|Info { exit, .. }| exit.map(End::Ended));
        // The kernel looks first for what it keeps of a process that was waited for, and then for the process: of one that
        // goes in between it finds neither, and what it keeps by then.
        let gone = || exit().or_else(|_| exit()).unwrap_or(Some(End::Unknown));
        // It may go while it is looked for.
        let dying = || procfs::dying(self.tgid).map(End::Ended);
        gone().or_else(dying).or_else(gone).unwrap_or(End::Runs)
    }

    /// Waits for its end for so long.
    pub fn wait(&self, limit: Duration) {
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        // However that ends: who asks looks at the process again.
        poll(&mut ended, Some(&limit)).ok();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.remove_if(&self.identity, |_, held| held.strong_count() == 0);
    }
}

/// Whose descriptors the threads of a process have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// There is one thread, or the process is gone.
    One,
    /// All threads that have not let go of their descriptors share one table.
    Shared,
    /// A thread has a table of its own, or none any more, or that cannot be told.
    Apart,
}

/// Threads that are looked at.
const THREADS: usize = 1024;

/// Whose descriptors the threads of process `tgid` have; `tid` is one of them.
pub fn tables(tgid: u32, tid: u32) -> Tables {
    let path = format!("/proc/{tgid}/task");
    // A link for each thread, and those of every folder.
    match rustix::fs::stat(&path) {
        Ok(task) if task.st_nlink > 3 || tid != tgid => {}
        Ok(_) | Err(Errno::NOENT | Errno::SRCH) => return Tables::One,
        Err(_) => return Tables::Apart,
    }
    let Ok(threads) = std::fs::read_dir(path) else { return Tables::Apart };
    let other = |name: std::ffi::OsString| name.to_str()?.parse().ok().filter(|&other| other != tid);
    let mut others = threads.flatten().filter_map(|thread| other(thread.file_name()));
    let together = others.by_ref().take(THREADS).all(|other| match same_table(tid, other) {
        Ok(shared) => shared || has_no_table(other),
        // It has ended since.
        Err(errno) => errno == Errno::SRCH,
    });
    if together && others.next().is_none() { Tables::Shared } else { Tables::Apart }
}

/// True for a thread that has no descriptors any more: it is about to end. If its table was its own, it may be in the middle of
/// closing what was in it.
fn has_no_table(tid: u32) -> bool {
    match std::fs::read_dir(format!("/proc/{tid}/fdinfo")) {
        Ok(mut descriptors) => descriptors.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// True if two tasks have one table of descriptors, and not because neither has one any more.
pub fn share_table(one: u32, other: u32) -> bool {
    // Who executes a new program holds what the kernel locks for this, and may wait for a close that is not answered yet.
    !has_no_table(one) && procfs::in_time(move || same_table(one, other)) == Some(Ok(true))
}

/// Whether the kernel tells which threads share a table: some are built without that, a container may forbid to ask, and of the
/// processes of others only who has a capability is told.
pub fn tells_tables() -> Result<()> {
    let may = rustix::thread::capabilities(None)?.effective.contains(CapabilitySet::SYS_PTRACE);
    if rustix::process::geteuid().is_root() && !may {
        return Err(Errno::PERM);
    }
    let own = std::process::id();
    same_table(own, own).map(drop)
}

/// Whether two tasks have the same table of descriptors, or none.
fn same_table(one: u32, other: u32) -> Result<bool> {
    const KCMP_FILES: libc::c_long = 2;
    let [one, other] = [one, other].map(libc::c_long::from);
    // SAFETY: numbers only; the kernel writes nothing.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
    if order < 0 { Err(super::errno_of(&std::io::Error::last_os_error())) } else { Ok(order == 0) }
}

fn by_descriptor(tid: u32) -> Result<Process> {
    /// `PIDFD_THREAD` (Linux 6.9): of a thread that need not be its process's first.
    const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(rustix::fs::OFlags::EXCL.bits());
    let thread = open(tid, THREAD)?;
    let Info { tgid, ppid, .. } = info(&thread)?;
    if tgid == 0 {
        return Err(Errno::SRCH);
    }
    let own = Identity::Inode(inode(&thread).ok_or(Errno::NOTSUP)?);
    let identity = if tgid == tid { Some(own) } else { identity(tgid) };
    Ok(Process { tgid, ppid, identity, thread: Some(own) })
}

/// True while a thread of the process is left: its first one may end before others, which have all that is open until they do.
pub fn is_there(pid: u32) -> bool {
    match open(pid, PidfdFlags::empty()) {
        Ok(process) => {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            !matches!(poll(&mut ended, Some(&Timespec::default())), Ok(1..))
        }
        Err(errno) => errno != Errno::SRCH && std::fs::exists(format!("/proc/{pid}")).unwrap_or(true),
    }
}

fn open(pid: u32, flags: PidfdFlags) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, flags)
}

/// The number of a process descriptor's inode, where each process has one of its own.
fn inode(process: impl AsFd) -> Option<u64> {
    const PIDFS: u32 = 0x5049_4446;
    static OWN_INODES: OnceLock<bool> = OnceLock::new();
    let own_inodes = || rustix::fs::fstatfs(&process).is_ok_and(|fs| fs.f_type as u32 == PIDFS);
    if *OWN_INODES.get_or_init(own_inodes) { Some(rustix::fs::fstat(&process).ok()?.st_ino) } else { None }
}

/// What the kernel tells of a process.
struct Info {
    tgid: u32,
    ppid: u32,
    /// How it ended, once it is gone.
    exit: Option<Exit>,
}

/// `struct pidfd_info` of `linux/pidfd.h` in its first version (Linux 6.13), whose size is part of the call's number.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

fn info(process: impl AsFd) -> Result<Info> {
    const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<RawInfo>(0xff, 11);
    /// Pid, tgid and ppid, which are always told of a process that is there.
    const PID: u64 = 1;
    /// `PIDFD_INFO_EXIT` (Linux 6.15).
    const EXIT: u64 = 1 << 3;
    let mut info = RawInfo { mask: PID | EXIT, ..RawInfo::default() };
    // SAFETY: the kernel reads and writes no more than the size that is part of GET_INFO, which is that of RawInfo: integers
    // only, any bits are valid.
    unsafe { ioctl(process, Updater::<GET_INFO, RawInfo>::new(&mut info))? };
    let exit = (info.mask & EXIT != 0).then(|| Exit::of(info.exit_code.cast_unsigned()));
    Ok(Info { tgid: info.tgid, ppid: info.ppid, exit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_process_from_every_thread() {
        let me = std::process::id();
        let parent = std::os::unix::process::parent_id();
        let first = of(me).unwrap();
        assert_eq!((first.tgid, first.ppid), (me, parent));
        assert_eq!(first.identity, identity(me));
        assert_eq!(ancestry(me).map(|process| process.tgid).take(2).collect::<Vec<_>>(), [me, parent]);
        assert_ne!(first.identity, identity(parent));
        let look = || {
            let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
            (tid, of(tid).unwrap())
        };
        let (tid, other) = std::thread::spawn(look).join().unwrap();
        assert_ne!(tid, me);
        assert_eq!((other.tgid, other.ppid, other.identity), (me, parent, first.identity));
        assert!(other.thread.is_none() || other.thread != first.thread);
    }

    #[test]
    fn knows_who_has_a_table_of_its_own() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert_eq!(tables(child.id(), child.id()), Tables::One);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(tables(child.id(), child.id()), Tables::One, "gone");
        let me = std::process::id();
        // Tests have a thread each.
        assert_eq!(tables(me, me), Tables::Shared);
        assert!(share_table(me, me) && !share_table(me, std::os::unix::process::parent_id()));

        let (tell, told) = std::sync::mpsc::channel();
        let (go, going) = std::sync::mpsc::channel::<()>();
        let apart = std::thread::spawn(move || {
            // SAFETY: the thread uses none of the descriptors in its copy of the table, which are closed there alone.
            let done = unsafe { libc::unshare(libc::CLONE_FILES) };
            tell.send(done).unwrap();
            going.recv().unwrap();
            // SAFETY: as above.
            let done = unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
            tell.send(done as i32).unwrap();
            going.recv().unwrap();
        });
        assert_eq!((told.recv(), tables(me, me)), (Ok(0), Tables::Apart));
        go.send(()).unwrap();
        assert_eq!((told.recv(), tables(me, me)), (Ok(0), Tables::Shared), "nothing in it, as when a thread ends");
        go.send(()).unwrap();
        apart.join().unwrap();
    }

    #[test]
    fn descriptors_and_proc_say_the_same() {
        let me = std::process::id();
        let task = procfs::task(me).unwrap();
        match by_descriptor(me) {
            Ok(process) => assert_eq!((process.tgid, process.ppid), (task.tgid, task.ppid)),
            // An older kernel.
            Err(errno) => assert!(matches!(errno, Errno::INVAL | Errno::NOTTY | Errno::NOTSUP), "{errno}"),
        }
    }

    #[test]
    fn a_pid_that_is_nobody_has_no_process_and_no_identity() {
        assert_eq!(of(0), None);
        assert_eq!(of(u32::MAX >> 1), None);
        assert_eq!(identity(u32::MAX >> 1), None);
    }
}
