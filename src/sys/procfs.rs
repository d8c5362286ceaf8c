//! What the kernel tells about other processes. Nothing here calls back into a mount: links are read, never followed.
//!
//! The kernel keeps `stat` and `maps` of a process from readers while it executes a new program, and it closes
//! descriptors marked so in the middle of that. A daemon that read them while such a close waits for its answer would
//! wait for itself for ever; so these two are read only of a process known not to execute, or with a time limit.
//! `status` and `statm` are always readable; everything else is treated alike.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::time::ClockId;

/// Clock ticks per second in `/proc` (USER_HZ, the same on every Linux architecture that has FUSE).
const TICKS: u64 = 100;

/// One task, from `/proc/TID/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Process (thread group) id.
    pub tgid: u32,
    /// Parent's process id; 0 at the top of the pid namespace.
    pub ppid: u32,
    /// Name of the thread, at most 15 bytes.
    pub comm: String,
    /// Supplementary groups.
    pub groups: Box<[u32]>,
}

/// Reads a task; `None` when it is gone, unreadable, or has no pid in the daemon's namespace.
pub fn task(tid: u32) -> Option<Task> {
    if tid == 0 {
        return None;
    }
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let mut task = Task { tgid: 0, ppid: 0, comm: String::new(), groups: Box::default() };
    for line in status.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key {
            "Name" => task.comm = value.to_owned(),
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

/// How a dying task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By a signal.
    Signal(u8),
    /// By itself, with this status.
    Status(u8),
}

/// True in the middle of `execve`: the new address space has no code yet.
pub fn is_executing(tid: u32) -> bool {
    space_of(tid).is_some_and(|(size, code)| size > 0 && code == 0)
}

/// Pages of the address space and of code in it, from `/proc/TID/statm`.
fn space_of(tid: u32) -> Option<(u64, u64)> {
    let statm = fs::read_to_string(format!("/proc/{tid}/statm")).ok()?;
    let mut words = statm.split_whitespace();
    Some((words.next()?.parse().ok()?, words.nth(2)?.parse().ok()?))
}

/// How a task that is waiting for an answer from here ends: `None` while it is alive and well. On its way out, its
/// address space is gone and PF_EXITING is set.
pub fn exit_of(tid: u32) -> Option<Exit> {
    const PF_EXITING: u64 = 0x4;
    if space_of(tid)?.0 > 0 {
        return None;
    }
    let stat = fields_of(&fs::read(format!("/proc/{tid}/stat")).ok()?)?;
    if field::<u64>(&stat, 9)? & PF_EXITING == 0 {
        return None;
    }
    let code: u32 = field(&stat, 52)?;
    Some(match code & 0x7f {
        0 => Exit::Status((code >> 8) as u8),
        signal => Exit::Signal(signal as u8),
    })
}

/// When a process started, in ticks since boot; `None` if it is gone or cannot be told now.
pub fn start_ticks(pid: u32) -> Option<u64> {
    field(&stat_fields(pid)?, 22)
}

/// Ticks since boot, on the clock of [`start_ticks`].
pub fn now_ticks() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * TICKS + now.tv_nsec as u64 / (1_000_000_000 / TICKS)
}

/// The pid given out last, by `/proc/loadavg`: unchanged means that nothing was forked.
pub fn last_pid() -> Option<u32> {
    let loadavg = fs::read_to_string("/proc/loadavg").ok()?;
    loadavg.split_whitespace().nth(4)?.parse().ok()
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

/// Whether a process has a file open or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It has a descriptor, or a shared mapping where asked for.
    Yes,
    /// It has none, or it is gone.
    No,
    /// Its tables cannot be read.
    Unknown,
}

/// Looks for any of `inos` (the inode numbers that a mount reports for one file) in the process's descriptor table,
/// and with `mappings` among its shared mappings. Files of other file systems with the same number count too, which
/// errs towards `Yes`.
/// `Unknown` also if the process does not let itself be looked at in time.
pub fn holds(pid: u32, inos: &[u64], mappings: bool) -> Holds {
    if is_executing(pid) {
        return Holds::Unknown;
    }
    let inos = inos.to_vec();
    let look = move || match holds_descriptor(pid, &inos) {
        Holds::No if mappings => holds_mapping(pid, &inos),
        other => other,
    };
    in_time(look).unwrap_or(Holds::Unknown)
}

fn holds_descriptor(pid: u32, inos: &[u64]) -> Holds {
    let table = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(table) => table,
        Err(error) => return unreadable(&error),
    };
    for entry in table {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return unreadable(&error),
        };
        match fs::read_link(entry.path()) {
            // Sockets, pipes and anonymous inodes have no absolute path.
            Ok(link) if link.as_os_str().as_bytes().first() != Some(&b'/') => continue,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return unreadable(&error),
        }
        let number = entry.file_name();
        let info = match fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy())) {
            Ok(info) => info,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return unreadable(&error),
        };
        let ino = info.lines().find_map(|line| line.strip_prefix("ino:"));
        match ino.map(|ino| ino.trim().parse::<u64>()) {
            Some(Ok(ino)) if inos.contains(&ino) => return Holds::Yes,
            Some(Ok(_)) => {}
            _ => return Holds::Unknown,
        }
    }
    Holds::No
}

fn holds_mapping(pid: u32, inos: &[u64]) -> Holds {
    let maps = match fs::read(format!("/proc/{pid}/maps")) {
        Ok(maps) => maps,
        Err(error) => return unreadable(&error),
    };
    for line in maps.split(|&b| b == b'\n') {
        // address perms offset dev inode [path]; a shared mapping that is read-only now may become writable.
        let mut words = line.split(|&b| b == b' ').filter(|word| !word.is_empty());
        let (Some(perms), Some(ino)) = (words.nth(1), words.nth(2)) else { continue };
        let ino = std::str::from_utf8(ino).ok().and_then(|ino| ino.parse().ok());
        if perms.get(3) == Some(&b's') && ino.is_some_and(|ino| inos.contains(&ino)) {
            return Holds::Yes;
        }
    }
    Holds::No
}

/// How long to wait for a table that its process may have locked.
const TABLE_LIMIT: Duration = Duration::from_millis(100);

/// Runs `look` on a thread of its own; `None` if it does not come back in time. The thread ends when the process lets go
/// of its tables, which it does at the latest when its request is answered.
fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
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

/// A process that went away in the meantime holds nothing.
fn unreadable(error: &std::io::Error) -> Holds {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => Holds::No,
        _ => Holds::Unknown,
    }
}

fn stat_fields(pid: u32) -> Option<Vec<String>> {
    if pid == 0 || is_executing(pid) {
        return None;
    }
    fields_of(&in_time(move || fs::read(format!("/proc/{pid}/stat")))?.ok()?)
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
        assert_eq!(exit_of(me), None);
        assert!(start_ticks(me).unwrap() <= now_ticks());
        assert!(processes().unwrap().contains(&me));
    }

    #[test]
    fn sees_an_open_and_a_mapped_file() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let ino = file.metadata().unwrap().ino();
        let me = std::process::id();
        assert_eq!(holds(me, &[ino], true), Holds::Yes);
        drop(file);
        assert_eq!(holds(me, &[ino, 0x3fff_ffff_ffff_ffff], true), Holds::No);
    }

    #[test]
    fn a_pid_that_is_nobody_holds_nothing() {
        assert_eq!(holds(u32::MAX >> 1, &[1], true), Holds::No);
        assert_eq!(task(0), None);
    }
}
