//! What a caller wants changed of a file.

use std::time::SystemTime;

use rustix::fs::Timespec;

use crate::sys::Result;
use crate::sys::at::{self, Timestamps};
use crate::sys::stat::Time;

/// How data to be written comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// From the page cache: the kernel has gathered it.
    Earlier,
    /// As it is written.
    Now {
        /// Set-id bits are to be taken off.
        strip: bool,
        /// At the end, by a descriptor that appends. Where that is, the kernel has guessed.
        append: bool,
    },
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// This one.
    At(SystemTime),
}

impl SetTime {
    pub(super) fn exact(self) -> Option<Time> {
        match self {
            SetTime::Now => None,
            SetTime::At(time) => Some(Time::from_system(time)),
        }
    }
}

/// What to change; `None` leaves a thing as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permission bits.
    pub perm: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
    /// The kernel moves the time of change, which the export does by itself.
    pub ctime: bool,
}

impl Changes {
    /// `chown` to nobody and no group: for its owner alone, and set-id bits go with it.
    pub(super) fn is_empty_chown(&self) -> bool {
        *self == Changes { ctime: true, ..Changes::default() }
    }

    /// Who may do what with the file.
    pub(super) fn has_rights(&self) -> bool {
        self.perm.is_some() || self.uid.is_some() || self.gid.is_some()
    }

    /// What only whoever may write has to be allowed: the time of a new size, and the present as `touch` sets it. The
    /// kernel, which keeps times by itself, gives such a modification time in numbers, which only an owner may set.
    pub(super) fn by_writer(&self) -> bool {
        self.size.is_some() || matches!((self.atime, self.mtime), (Some(SetTime::Now), Some(SetTime::At(_))))
    }

    /// The kernel writes back the modification time that it keeps of an inode.
    pub(super) fn is_mtime_alone(&self) -> bool {
        self.mtime.is_some() && *self == Changes { mtime: self.mtime, ctime: self.ctime, ..Changes::default() }
    }

    fn timestamps(&self) -> Option<Timestamps> {
        if self.atime.is_none() && self.mtime.is_none() {
            return None;
        }
        let spec = |time: Option<SetTime>| match time {
            None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
            Some(SetTime::At(time)) => {
                let Time { sec, nsec } = Time::from_system(time);
                Timespec { tv_sec: sec, tv_nsec: nsec.into() }
            }
        };
        Some(Timestamps { last_access: spec(self.atime), last_modification: spec(self.mtime) })
    }
}

/// Makes the changes, but for a size.
pub(super) fn apply(fd: impl std::os::fd::AsFd, changes: Changes) -> Result<()> {
    if changes.is_empty_chown() || changes.uid.is_some() || changes.gid.is_some() {
        at::chown(fd.as_fd(), changes.uid, changes.gid)?;
    }
    if let Some(perm) = changes.perm {
        at::chmod(fd.as_fd(), perm)?;
    }
    if let Some(times) = changes.timestamps() {
        at::set_times(fd.as_fd(), &times)?;
    }
    Ok(())
}
