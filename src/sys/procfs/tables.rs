//! Whether a process has a file open or mapped.

use std::fs::File;
use std::io::Read;

use rustix::fs::{Mode, OFlags};

use super::{in_time, is_executing};
use crate::sys::{Errno, Result, errno_of};

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
pub fn holds(pid: u32, inos: &[u64], mappings: bool) -> Holds {
    match holds_descriptor(pid, inos) {
        // In the middle of `execve` a process has a new address space and nothing of the old one.
        Ok(Holds::No) if mappings && !is_executing(pid) => {
            let inos = inos.to_vec();
            in_time(move || holds_mapping(pid, &inos)).unwrap_or(Holds::Unknown)
        }
        Ok(held) => held,
        Err(errno) => unreadable(errno),
    }
}

fn holds_descriptor(pid: u32, inos: &[u64]) -> Result<Holds> {
    let table = rustix::fs::open(format!("/proc/{pid}/fdinfo"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut info = Vec::new();
    for entry in rustix::fs::Dir::read_from(&table)? {
        let entry = entry?;
        if !entry.file_name().to_bytes()[0].is_ascii_digit() {
            continue;
        }
        info.clear();
        let opened = rustix::fs::openat(&table, entry.file_name(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let read = opened.and_then(|file| {
            let mut file = File::from(file);
            file.read_to_end(&mut info).map_err(|error| errno_of(&error))
        });
        match read {
            Ok(_) => {}
            // Closed since it was listed.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        }
        match info.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"ino:")).map(number) {
            Some(Some(ino)) if inos.contains(&ino) => return Ok(Holds::Yes),
            Some(Some(_)) => {}
            _ => return Ok(Holds::Unknown),
        }
    }
    Ok(Holds::No)
}

fn holds_mapping(pid: u32, inos: &[u64]) -> Holds {
    let maps = match std::fs::read(format!("/proc/{pid}/maps")) {
        Ok(maps) => maps,
        Err(error) => return unreadable(errno_of(&error)),
    };
    for line in maps.split(|&b| b == b'\n') {
        // address perms offset dev inode [path]; a shared mapping that is read-only now may become writable.
        let mut words = line.split(|&b| b == b' ').filter(|word| !word.is_empty());
        let (Some(perms), Some(ino)) = (words.nth(1), words.nth(2)) else { continue };
        if perms.get(3) == Some(&b's') && number(ino).is_some_and(|ino| inos.contains(&ino)) {
            return Holds::Yes;
        }
    }
    Holds::No
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
        assert_eq!(holds(me, &[ino], true), Holds::Yes);
        drop(file);
        assert_eq!(holds(me, &[ino, 0x3fff_ffff_ffff_ffff], true), Holds::No);
    }

    #[test]
    fn a_pid_that_is_nobody_holds_nothing() {
        assert_eq!(holds(u32::MAX >> 1, &[1], true), Holds::No);
    }
}
