//! What the kernel tells about other processes. Nothing here calls back into a mount: links are read, never followed.
//!
//! The kernel keeps `stat`, `maps`, `exe` and the links in `fd` of a process from readers while it executes a new
//! program, and it closes descriptors marked so in the middle of that. A daemon that read one of these while such a close
//! waits for its answer would wait for itself for ever; so they are read only of a process known not to execute, and with
//! a time limit. `status`, `statm`, `fdinfo` and the names in `fd` are always readable (tried on Linux 6.18), and so is a
//! process's identity: what every close needs is taken from these.

mod calls;
mod tables;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::time::ClockId;

pub use calls::{Interruption, LockCall, call, interruption, is_writing, lock_call};
pub use tables::{Has, Holds, MountId, OpenFile, cached_sizes, has_open, holds, is_mounted_over};

/// Clock ticks per second in `/proc` (USER_HZ, the same on every Linux architecture that has FUSE).
const TICKS: u64 = 100;

/// One task, from `/proc/TID/status`: some times the cost of anything else here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Process (thread group) id.
    pub tgid: u32,
    /// Parent's process id; 0 at the top of the pid namespace.
    pub ppid: u32,
    /// Supplementary groups.
    pub groups: Box<[u32]>,
}

/// Reads a task; `None` when it is gone, unreadable, or has no pid in the daemon's namespace.
pub fn task(tid: u32) -> Option<Task> {
    if tid == 0 {
        return None;
    }
    let status = read(&format!("/proc/{tid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    let mut task = Task { tgid: 0, ppid: 0, groups: Box::default() };
    for line in status.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key {
            "Tgid" => task.tgid = value.parse().ok()?,
            "PPid" => task.ppid = value.parse().ok()?,
            "Groups" => {
                task.groups = value.split_whitespace().filter_map(|g| g.parse().ok()).collect();
                break;
            }
            _ => {}
        }
    }
    (task.tgid != 0).then_some(task)
}

/// The name of a thread, at most 15 bytes, without what would play tricks on a terminal; empty when it is gone.
pub fn command(tid: u32) -> String {
    let name = read(&format!("/proc/{tid}/comm")).unwrap_or_default();
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    String::from_utf8_lossy(name).replace(char::is_control, "?")
}

/// What there is of a task's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Nothing: the task is on its way out, or a thread of the kernel.
    Gone,
    /// No code yet: in the middle of `execve`.
    Fresh,
    /// Code and data.
    Whole,
}

/// What there is of a task's address space; `None` when the task is gone or unreadable.
pub fn space(tid: u32) -> Option<Space> {
    // Pages: size, resident, shared, code, ...
    let statm = read(&format!("/proc/{tid}/statm"))?;
    let mut pages = std::str::from_utf8(&statm).ok()?.split_whitespace();
    let (size, code) = (pages.next()?, pages.nth(2)?);
    Some(match (size, code) {
        ("0", _) => Space::Gone,
        (_, "0") => Space::Fresh,
        _ => Space::Whole,
    })
}

/// True in the middle of `execve`.
pub fn is_executing(pid: u32) -> bool {
    space(pid) == Some(Space::Fresh)
}

/// A small file of `/proc`. The kernel writes such a file whole into a buffer that has the room, so that what comes back
/// with room to spare needs no second look for its end.
fn read(path: &str) -> Option<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut content = Vec::with_capacity(4096);
    loop {
        let read = rustix::io::read(&file, rustix::buffer::spare_capacity(&mut content)).ok()?;
        if read == 0 || content.len() + 1024 < content.capacity() {
            return Some(content);
        }
        content.reserve(4096);
    }
}

/// How a dying task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By a signal.
    Signal(u8),
    /// By itself, with this status.
    Status(u8),
}

impl Exit {
    /// From the status that `wait` gives.
    pub(super) fn of(code: u32) -> Exit {
        match code & 0x7f {
            0 => Exit::Status((code >> 8) as u8),
            signal => Exit::Signal(signal as u8),
        }
    }
}

/// How a process ends that is on its way out, or has a signal waiting which it cannot escape; `None` if it goes on.
pub fn dying(pid: u32) -> Option<Exit> {
    if is_executing(pid) {
        return None;
    }
    in_time(move || exit_of(pid))?.or_else(|| is_killed(pid).then_some(Exit::Signal(libc::SIGKILL as u8)))
}

/// The kernel has each thread of a process that dies by a signal find this one.
fn is_killed(pid: u32) -> bool {
    let status = read(&format!("/proc/{pid}/status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let pending = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
    };
    (pending("SigPnd:") | pending("ShdPnd:")) & (1 << (libc::SIGKILL - 1)) != 0
}

/// How a task without an address space, which waits for an answer from here, ends; `None` if it does not.
pub fn exit_of(tid: u32) -> Option<Exit> {
    const PF_EXITING: u64 = 0x4;
    let stat = fields_of(&read(&format!("/proc/{tid}/stat"))?)?;
    if field::<u64>(&stat, 9)? & PF_EXITING == 0 {
        return None;
    }
    Some(Exit::of(field(&stat, 52)?))
}

/// When a process started, in ticks since boot; `None` if it is gone or cannot be told now.
pub fn start_ticks(pid: u32) -> Option<u64> {
    in_time(move || start_ticks_now(pid))?
}

/// Those of `pids` that started at `ticks` or later, or of which it cannot be told; `None` if that takes too long.
pub fn started_since(mut pids: Vec<u32>, ticks: u64) -> Option<Vec<u32>> {
    in_time(move || {
        pids.retain(|&pid| start_ticks_now(pid).is_none_or(|start| start >= ticks));
        pids
    })
}

fn start_ticks_now(pid: u32) -> Option<u64> {
    if pid == 0 || is_executing(pid) {
        return None;
    }
    field(&fields_of(&read(&format!("/proc/{pid}/stat"))?)?, 22)
}

/// Ticks since boot, on the clock of [`start_ticks`].
pub fn now_ticks() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * TICKS + now.tv_nsec as u64 / (1_000_000_000 / TICKS)
}

/// The name of this start of the machine; empty where the kernel does not tell.
pub fn boot() -> String {
    #[cfg(feature = "failpoints")]
    if let Ok(pretended) = std::env::var("COMMITFS_BOOT") {
        return pretended;
    }
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The pid given out last, by `/proc/loadavg`: unchanged means that nothing was forked.
pub fn last_pid() -> Option<u32> {
    static LOADAVG: OnceLock<Option<File>> = OnceLock::new();
    let loadavg = LOADAVG.get_or_init(|| File::open("/proc/loadavg").ok()).as_ref()?;
    let mut buffer = [0; 128];
    let read = rustix::io::pread(loadavg, &mut buffer, 0).ok()?;
    std::str::from_utf8(&buffer[..read]).ok()?.split_whitespace().nth(4)?.parse().ok()
}

/// Pids go from 1 to here, as it was at the first call.
pub fn pid_max() -> u32 {
    static PID_MAX: OnceLock<u32> = OnceLock::new();
    *PID_MAX.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|max| max.trim().parse().ok()).unwrap_or(0)
    })
}

/// Whose processes `/proc` shows here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// All of the machine.
    All,
    /// Those of a pid name space other than the first, this process's own: the others have no number here.
    Own,
    /// Those of another pid name space, or none: a number in a request is somebody else's there.
    Others,
}

/// Whose processes `/proc` shows.
pub fn shows() -> Shows {
    /// Inode number of the first pid name space (`PROC_PID_INIT_INO`).
    const FIRST: u64 = 0xefff_fffc;
    let own = fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str());
    let first = || fs::metadata("/proc/self/ns/pid").is_ok_and(|space| space.ino() == FIRST);
    match (own, own && first()) {
        (true, true) => Shows::All,
        (true, false) => Shows::Own,
        (false, _) => Shows::Others,
    }
}

/// How many threads this process has.
pub fn threads() -> Option<usize> {
    Some(fs::read_dir("/proc/self/task").ok()?.count())
}

/// Where the arguments of this process lie in its memory: from here, up to there.
pub fn own_arguments() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // Fields 48 and 49; the third one comes after the name.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(48 - 3).map_while(|field| field.parse().ok());
    let (start, end): (usize, usize) = (fields.next()?, fields.next()?);
    (start != 0 && start < end).then_some((start, end))
}

/// All processes there are now.
pub fn processes() -> Option<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").ok()? {
        if let Some(pid) = entry.ok()?.file_name().to_str().and_then(|name| name.parse().ok()) {
            pids.push(pid);
        }
    }
    Some(pids)
}

/// How long to wait for a table that its process may have locked.
const TABLE_LIMIT: Duration = Duration::from_secs(1);

/// Runs `look` on a thread of its own; `None` if it does not come back in time. The thread ends when the process lets go
/// of its tables, which it does at the latest when its request is answered.
pub(super) fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let looking = std::thread::Builder::new().name("tables".to_owned()).spawn(move || {
        // Nobody waits any more after the limit.
        drop(send.send(look()));
    });
    match looking {
        Ok(_) => receive.recv_timeout(TABLE_LIMIT).ok(),
        Err(error) => {
            tracing::warn!(%error, "no thread to look at a process with");
            None
        }
    }
}

/// The fields of `/proc/TID/stat` from the third on; the second, the name, may hold anything.
fn fields_of(stat: &[u8]) -> Option<Vec<String>> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Field `number` as `proc(5)` counts them, from 1.
fn field<T: std::str::FromStr>(fields: &[String], number: usize) -> Option<T> {
    fields.get(number - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself() {
        let me = std::process::id();
        let task = task(me).unwrap();
        assert_eq!(task.tgid, me);
        assert_eq!(task.ppid, std::os::unix::process::parent_id());
        assert_eq!(space(me), Some(Space::Whole));
        assert_eq!(exit_of(me), None);
        assert!(start_ticks(me).unwrap() <= now_ticks());
        assert_eq!(started_since(vec![me], now_ticks() + 1_000_000), Some(vec![]));
        assert!(processes().unwrap().contains(&me));
    }

    #[test]
    fn a_pid_that_is_nobody_has_no_task() {
        assert_eq!(task(0), None);
        assert_eq!(space(u32::MAX >> 1), None);
        assert_eq!(command(u32::MAX >> 1), "");
    }
}
