//! The state folder: where it may lie, whose it is, who uses it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::JournalError;

/// Name of the file whose lock says that a daemon uses the state folder.
const LOCK: &str = "lock";

/// Refuses a folder on a network or user space file system. A folder that does not exist yet is judged by its parent.
pub fn check_local(dir: &Path) -> Result<(), JournalError> {
    #[cfg(feature = "failpoints")]
    if crate::failpoint::anywhere() {
        return Ok(());
    }
    let mut existing = dir;
    let statfs = loop {
        match rustix::fs::statfs(existing) {
            Ok(statfs) => break statfs,
            Err(rustix::io::Errno::NOENT) => match existing.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => existing = parent,
                _ => existing = Path::new("."),
            },
            Err(errno) => {
                return Err(JournalError::io("looking at state folder", existing, &errno.into()));
            }
        }
    };
    // The magic numbers of statfs(2); the field is signed on some architectures.
    let file_system = match statfs.f_type as u32 {
        0x6969 => "NFS",
        0x6573_5546 => "FUSE",
        0x517b | 0xfe53_4d42 => "SMB",
        0xff53_4d42 => "CIFS",
        0x00c3_6400 => "Ceph",
        0x5346_414f => "AFS",
        _ => return Ok(()),
    };
    Err(JournalError::NotLocal { dir: dir.to_owned(), file_system })
}

/// True while another instance has the state folder.
pub fn is_in_use(state_dir: &Path) -> bool {
    let free = |file: File| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
    File::open(state_dir.join(LOCK)).is_ok_and(|file| !free(file))
}

pub(super) fn lock(state_dir: &Path) -> Result<File, JournalError> {
    let path = state_dir.join(LOCK);
    let file = private(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::InUse { dir: state_dir.to_owned() }),
        Err(errno) => Err(JournalError::io("locking", &path, &errno.into())),
    }
}

/// Opens or creates a file for its owner only: the journal tells of other people's files.
pub(super) fn private(path: &Path) -> Result<File, JournalError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| JournalError::io("opening", path, &error))
}
