//! Whether a process has a file open or mapped.

use std::cell::Cell;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags};

use super::{in_time, is_executing};
use crate::sys::{Errno, Result, errno_of, mountinfo};

/// Whether a process has a file open or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It has.
    Yes,
    /// It has some file with such a number: through another mount, where it is the same file in another mount name space or a
    /// stranger, or one that has the number too.
    Perhaps,
    /// It has none, or it is gone.
    No,
    /// Its tables cannot be read.
    Unknown,
}

/// What a process has of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Has {
    /// Descriptors for writing.
    pub numbers: Holds,
    /// Shared mappings, if they were asked for and there is no descriptor.
    pub mappings: Holds,
}

impl Has {
    /// Either of them.
    pub fn any(self) -> Holds {
        if self.numbers == Holds::No { self.mappings } else { self.numbers }
    }
}

/// A mount as the tables of processes name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountId {
    /// Its id in the daemon's mount name space.
    pub id: u64,
    /// Major and minor number of its device, the same in every name space.
    pub dev: (u32, u32),
}

impl MountId {
    /// The topmost mount on `mountpoint`, from `/proc/self/mountinfo`: nothing is asked of the mount itself.
    pub fn of(mountpoint: &Path) -> Option<Self> {
        let table = std::fs::read("/proc/self/mountinfo").ok()?;
        let topmost = mountinfo::lines(&table).rev().find(|line| line.point().is_some_and(|at| at == mountpoint))?;
        Some(MountId { id: topmost.id()?, dev: topmost.device()? })
    }
}

/// Looks for a file of a mount among the process's descriptors for writing, and with `mappings` among its shared mappings: by
/// the numbers of its node and of its content, or by those of `versions`, by which the kernel may know it too. A version that is
/// only read has that number itself, and so has what somebody else makes of it, or of one whose number was given out again, of
/// which `is_shared` tells: by such a number alone it is [`Holds::Perhaps`]. So many descriptors as `but` are expected, and not counted.
pub fn holds(
    pid: u32,
    mount: Option<MountId>,
    own: [u64; 2],
    versions: &[u64],
    is_shared: impl Fn(u64) -> bool,
    but: usize,
    mappings: bool,
) -> Has {
    let is_sure = |ino: u64| ino == own[0] || !is_shared(ino);
    let here = |id| mount.is_none_or(|mount| mount.id == id);
    let is_it = |ino: u64, writes: bool| writes && (own.contains(&ino) || versions.contains(&ino));
    let numbers = match find_descriptor(pid, here, is_it, but) {
        Ok((Holds::Yes, Some(found))) if !is_sure(found.ino) => Holds::Perhaps,
        Ok((held, _)) => held,
        Err(errno) => unreadable(errno),
    };
    // In the middle of `execve` a process has a new address space and nothing of the old one.
    if !mappings || numbers != Holds::No || is_executing(pid) {
        return Has { numbers, mappings: Holds::No };
    }
    let versions = versions.to_vec();
    let look = move || {
        let read = Cell::new(false);
        let is_it = |ino: u64, writes: bool| {
            let version = versions.contains(&ino);
            read.set(read.get() || version && !writes);
            own.contains(&ino) || version && writes
        };
        find_mapping(pid, mount, is_it).map(|found| (found, read.get()))
    };
    let mappings = match in_time(look) {
        Some(Ok((Some(ino), _))) if is_sure(ino) => Holds::Yes,
        Some(Ok((None, false))) => Holds::No,
        Some(Ok(_)) => Holds::Perhaps,
        Some(Err(errno)) => unreadable(errno),
        None => Holds::Unknown,
    };
    Has { numbers, mappings }
}

/// The number by which a process has a file of a mount open, or with `mappings` mapped: one of `inos`, or one of `written`
/// by which it may write.
pub fn has_open(pid: u32, mount: Option<MountId>, inos: &[u64], written: &[u64], mappings: bool) -> Option<u64> {
    let mine = |ino: u64, writes: bool| inos.contains(&ino) || (writes && written.contains(&ino));
    let here = |id| mount.is_none_or(|mount| mount.id == id || device_of(pid, id) == Some(mount.dev));
    match find_descriptor(pid, here, mine, 0).ok()? {
        (Holds::Yes, found) => found.map(|found| found.ino),
        (Holds::No | Holds::Perhaps, _) if mappings && !is_executing(pid) => {
            let (inos, written) = (inos.to_vec(), written.to_vec());
            let mine = move |ino: u64, writes: bool| inos.contains(&ino) || (writes && written.contains(&ino));
            in_time(move || find_mapping(pid, mount, mine))?.ok()?
        }
        _ => None,
    }
}

/// True if a part of a mount's file system is mounted over something of this name, where the thread can see it.
pub fn is_mounted_over(tid: u32, dev: (u32, u32), name: &OsStr) -> bool {
    let Ok(table) = std::fs::read(format!("/proc/{tid}/mountinfo")) else { return false };
    let is_there = |point: PathBuf| point.as_os_str().as_bytes().rsplit(|&b| b == b'/').next() == Some(name.as_bytes());
    mountinfo::lines(&table)
        .any(|line| line.device() == Some(dev) && !line.is_whole() && line.point().is_some_and(is_there))
}

/// The device of a mount in the name space of a process, which may be another one than the daemon's.
fn device_of(pid: u32, id: u64) -> Option<(u32, u32)> {
    let table = std::fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
    mountinfo::lines(&table).find(|line| line.id() == Some(id))?.device()
}

/// A file of a mount that a process writes.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// The process.
    pub pid: u32,
    /// The numbers under which the kernel may know the file.
    pub inos: Vec<u64>,
}

/// The sizes of open files as the kernel knows them, which may have gathered writes that it has not passed on. Asks
/// nothing of the mount. `None` for a file that cannot be found, and for all if that takes too long.
pub fn cached_sizes(mount: MountId, files: Vec<OpenFile>) -> Vec<Option<u64>> {
    let count = files.len();
    if count == 0 {
        return Vec::new();
    }
    let look = move || files.iter().map(|file| cached_size(mount, file)).collect();
    in_time(look).unwrap_or_else(|| vec![None; count])
}

fn cached_size(mount: MountId, file: &OpenFile) -> Option<u64> {
    if is_executing(file.pid) {
        return None;
    }
    let mine = |ino: u64, writes: bool| writes && file.inos.contains(&ino);
    let number = find_descriptor(file.pid, |id| mount.id == id, mine, 0).ok()?.1?.number;
    let path = format!("/proc/{}/fd/{number}", file.pid);
    let stat = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::SIZE).ok()?;
    ((stat.stx_dev_major, stat.stx_dev_minor) == mount.dev).then_some(stat.stx_size)
}

/// Descriptors looked at: each costs some microseconds, and a process that closes thousands of files would have all of
/// them looked at each time.
const LARGE: usize = 512;

/// A descriptor of another process.
struct Found {
    number: u32,
    ino: u64,
}

/// Whether a process has such a descriptor, by the id of its mount, by inode number and whether it is open for writing, and
/// which one if it surely has. The first `but` do not count.
fn find_descriptor(
    pid: u32,
    is_here: impl Fn(u64) -> bool,
    is_it: impl Fn(u64, bool) -> bool,
    mut but: usize,
) -> Result<(Holds, Option<Found>)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let table = rustix::fs::open(format!("/proc/{pid}/fdinfo"), flags | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = [MaybeUninit::uninit(); 4096];
    let mut names = RawDir::new(&table, &mut names);
    let mut held = Holds::No;
    let mut seen = 0;
    while let Some(entry) = names.next() {
        let entry = entry?;
        if !entry.file_name().to_bytes()[0].is_ascii_digit() {
            continue;
        }
        seen += 1;
        if seen > LARGE {
            return Ok((Holds::Unknown, None));
        }
        // The number comes in the first lines; what follows differs from kind to kind and may be long.
        let mut info = [0; 512];
        let opened = rustix::fs::openat(&table, entry.file_name(), flags, Mode::empty());
        let read = match opened.and_then(|file| rustix::io::read(file, &mut info)) {
            Ok(read) => read,
            // Closed since it was listed.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let field = |key: &[u8]| info[..read].split(|&b| b == b'\n').find_map(|line| number(line.strip_prefix(key)?));
        match (field(b"ino:"), field(b"mnt_id:")) {
            // Flags are octal: their last digit is the access mode.
            (Some(ino), _) if !is_it(ino, field(b"flags:").is_some_and(|flags| (flags % 10) & 3 != 0)) => {}
            (Some(_), Some(id)) if but > 0 && is_here(id) => but -= 1,
            (Some(ino), Some(id)) if is_here(id) => {
                let number = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
                return Ok((Holds::Yes, number.map(|number| Found { number, ino })));
            }
            (Some(_), Some(_)) => held = Holds::Perhaps,
            _ => return Ok((Holds::Unknown, None)),
        }
    }
    Ok((held, None))
}

/// The number of such a file, by inode number and whether it is writable now, among a process's shared mappings.
fn find_mapping(pid: u32, mount: Option<MountId>, is_it: impl Fn(u64, bool) -> bool) -> Result<Option<u64>> {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).map_err(|error| errno_of(&error))?;
    for line in maps.split(|&b| b == b'\n') {
        // address perms offset dev inode [path]; a shared mapping that is read-only now may become writable.
        let words: Vec<&[u8]> = line.split(|&b| b == b' ').filter(|word| !word.is_empty()).take(5).collect();
        let [_, perms, _, dev, ino] = words[..] else { continue };
        let here = || mount.is_none_or(|mount| device(dev) == Some(mount.dev));
        let writes = perms.get(1) == Some(&b'w');
        if perms.get(3) == Some(&b's')
            && let Some(ino) = number(ino).filter(|&ino| is_it(ino, writes))
            && here()
        {
            return Ok(Some(ino));
        }
    }
    Ok(None)
}

/// Major and minor number, in hexadecimal.
fn device(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.trim().parse().ok()
}

/// A process that went away in the meantime holds nothing.
fn unreadable(errno: Errno) -> Holds {
    match errno {
        Errno::NOENT | Errno::SRCH => Holds::No,
        _ => Holds::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn sees_an_open_and_a_mapped_file() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let ino = file.metadata().unwrap().ino();
        let me = std::process::id();
        let nobody = 0x3fff_ffff_ffff_ffff;
        let look =
            |mount, own, versions: &[u64], shared| holds(me, mount, [own, nobody], versions, |_| shared, 0, true).any();
        assert_eq!(look(None, ino, &[], true), Holds::Yes);
        assert_eq!(look(None, nobody, &[ino], false), Holds::Yes);
        assert_eq!(look(None, nobody, &[ino], true), Holds::Perhaps);
        assert_eq!(look(Some(MountId { id: 0, dev: (0, 0) }), ino, &[], false), Holds::Perhaps);
        drop(file);
        assert_eq!(look(None, ino, &[nobody], true), Holds::No);
    }

    #[test]
    fn a_pid_that_is_nobody_holds_nothing() {
        assert_eq!(holds(u32::MAX >> 1, None, [1, 1], &[], |_| false, 0, true).any(), Holds::No);
    }

    #[test]
    fn tells_a_file_of_a_mount_in_another_name_space_from_a_stranger() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let ino = file.metadata().unwrap().ino();
        let (me, proc) = (std::process::id(), MountId::of(Path::new("/proc")).unwrap());
        let open_on = |mount| has_open(me, Some(mount), &[ino], &[], false);
        assert_eq!(open_on(proc), Some(ino));
        assert_eq!(open_on(MountId { id: u64::MAX, ..proc }), Some(ino), "by its device");
        assert_eq!(open_on(MountId { id: u64::MAX, dev: (0, 0) }), None);
    }

    #[test]
    fn finds_the_mount_of_proc() {
        let proc = MountId::of(Path::new("/proc")).unwrap();
        let dev = std::fs::metadata("/proc").unwrap().dev();
        assert_eq!(proc.dev, (rustix::fs::major(dev), rustix::fs::minor(dev)));
    }
}
