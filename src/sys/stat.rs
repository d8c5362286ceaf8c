//! File attributes as the export's file system reports them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, StatxAttributes, StatxFlags, StatxTimestamp};

use super::Result;

/// Bits of a mode that lend a file's rights to whoever runs it.
pub const SET_IDS: u32 = 0o6000;

/// Type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// In messages.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::File => "a regular file",
            Kind::Dir => "a folder",
            Kind::Symlink => "a symbolic link",
            Kind::Fifo => "a named pipe",
            Kind::Socket => "a socket",
            Kind::Char | Kind::Block => "a device",
        })
    }
}

impl Kind {
    /// True for a name of something that is not stored in the file system: pipes, sockets, devices.
    pub fn is_special(self) -> bool {
        matches!(self, Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block)
    }

    fn from_mode(mode: u32) -> Self {
        match FileType::from_raw_mode(mode) {
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::Char,
            FileType::BlockDevice => Kind::Block,
            _ => Kind::File,
        }
    }
}

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub sec: i64,
    /// Nanoseconds, always forward from `sec`.
    pub nsec: u32,
}

impl Time {
    /// As the standard library's time.
    pub fn to_system(self) -> SystemTime {
        let base = if self.sec >= 0 {
            UNIX_EPOCH + Duration::from_secs(self.sec.unsigned_abs())
        } else {
            UNIX_EPOCH - Duration::from_secs(self.sec.unsigned_abs())
        };
        base + Duration::from_nanos(u64::from(self.nsec))
    }

    /// From the standard library's time.
    pub fn from_system(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Time { sec: after.as_secs() as i64, nsec: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => Time { sec: -(before.as_secs() as i64), nsec: 0 },
                    nsec => Time { sec: -(before.as_secs() as i64) - 1, nsec: 1_000_000_000 - nsec },
                }
            }
        }
    }
}

impl From<StatxTimestamp> for Time {
    fn from(t: StatxTimestamp) -> Self {
        Time { sec: t.tv_sec, nsec: t.tv_nsec }
    }
}

/// Attributes of one inode.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Device of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits, without the type.
    pub perm: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub blksize: u32,
    /// Nobody may change it (`chattr +i`), where the file system tells.
    pub is_immutable: bool,
    /// It may only be appended to (`chattr +a`), likewise.
    pub is_append_only: bool,
    /// Last access.
    pub atime: Time,
    /// Last modification.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
}

impl Stat {
    /// True if no rename may take it away or replace it.
    pub fn is_fixed(&self) -> bool {
        self.is_immutable || self.is_append_only
    }
}

/// Attributes of the inode behind a descriptor (also an `O_PATH` one).
pub fn fstat(fd: impl AsFd) -> Result<Stat> {
    statx(fd, "", AtFlags::EMPTY_PATH)
}

/// Attributes of `name` in `dir`, never following a symlink.
pub fn stat_at(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<Stat> {
    statx(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The same from the server, not from the cache: what another host has changed just now.
pub fn fstat_fresh(fd: impl AsFd) -> Result<Stat> {
    statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC)
}

/// Asks the server, not the cache, for a folder's attributes: on NFS the next look-up in it is fresh.
pub fn revalidate(dir: impl AsFd) -> Result<()> {
    rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC, StatxFlags::MTIME).map(drop)
}

fn statx(dir: impl AsFd, name: impl rustix::path::Arg, flags: AtFlags) -> Result<Stat> {
    let s = name.into_with_c_str(|name| {
        rustix::io::retry_on_intr(|| {
            rustix::fs::statx(dir.as_fd(), name, flags | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS)
        })
    })?;
    Ok(Stat {
        dev: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        kind: Kind::from_mode(u32::from(s.stx_mode)),
        perm: u32::from(s.stx_mode) & 0o7777,
        nlink: s.stx_nlink,
        uid: s.stx_uid,
        gid: s.stx_gid,
        // The protocol's rdev has the kernel's 32-bit "new" encoding: 12 bits of major, 20 of minor.
        rdev: (s.stx_rdev_minor & 0xff) | (s.stx_rdev_major << 8) | ((s.stx_rdev_minor & !0xff) << 12),
        size: s.stx_size,
        blocks: s.stx_blocks,
        blksize: s.stx_blksize,
        is_immutable: s.stx_attributes.contains(StatxAttributes::IMMUTABLE),
        is_append_only: s.stx_attributes.contains(StatxAttributes::APPEND),
        atime: s.stx_atime.into(),
        mtime: s.stx_mtime.into(),
        ctime: s.stx_ctime.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_survives_the_round_trip_on_both_sides_of_the_epoch() {
        for (sec, nsec) in [(0, 0), (5, 7), (-1, 0), (-1, 999_999_999), (-5, 1), (1 << 33, 123)] {
            let t = Time { sec, nsec };
            assert_eq!(Time::from_system(t.to_system()), t);
        }
    }
}
