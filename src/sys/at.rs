//! Calls on one name in an open directory, or on one open inode.

use std::ffi::OsStr;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, AtFlags, Gid, Mode, OFlags, Timespec, UTIME_OMIT, Uid};
pub use rustix::fs::{FallocateFlags, RenameFlags, StatVfs, Timestamps};
use rustix::io::{ReadWriteFlags, retry_on_intr};

use super::stat::Time;
use super::{Errno, Result};

/// `EINVAL` for what is no name of an entry of the folder that it is looked up in.
pub fn check_name(name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') { Err(Errno::INVAL) } else { Ok(()) }
}

/// A reference to the inode itself: no access to its content, no side effect of opening (pipes, devices, atime).
pub fn open_path(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens folder `name` in `dir` for listing, never through a symlink.
pub fn open_dir(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty()))
}

/// Opens the regular file `name` in `dir` with the access bits and creation flags of `flags`.
pub fn open_file(dir: impl AsFd, name: &OsStr, flags: OFlags, mode: u32) -> Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    retry_on_intr(|| rustix::fs::openat(dir.as_fd(), name, flags, Mode::from_raw_mode(mode & 0o7777))).map(File::from)
}

/// Opens again, with other access, the inode that an `O_PATH` descriptor refers to.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<File> {
    let flags = (flags - OFlags::NOFOLLOW) | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    retry_on_intr(|| rustix::fs::open(proc_path(fd.as_fd()), flags, Mode::empty())).map(File::from)
}

/// Makes the descriptor of `file` refer to what `other` refers to; calls under way end on the old one.
#[allow(unsafe_code)]
pub fn exchange(file: impl AsFd, other: &OwnedFd) -> Result<()> {
    // SAFETY: both are open descriptors for the whole call, and `file` goes on owning its number.
    let rc = unsafe { libc::dup3(other.as_raw_fd(), file.as_fd().as_raw_fd(), libc::O_CLOEXEC) };
    if rc < 0 { Err(super::errno_of(&std::io::Error::last_os_error())) } else { Ok(()) }
}

/// The magic link to an open inode, for calls that take a path only; following it walks no name of the export.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// By the descriptor, or if that is `O_PATH`, by the path that stands for it. The path of a file that lost its last name is
/// stale to the NFS client, although the file is open.
pub(super) fn either<T>(by_fd: impl FnOnce() -> Result<T>, by_path: impl FnOnce() -> Result<T>) -> Result<T> {
    match by_fd() {
        Err(Errno::BADF) => by_path(),
        other => other,
    }
}

/// Creates a folder.
pub fn mkdir(dir: impl AsFd, name: &OsStr, mode: u32) -> Result<()> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777))
}

/// Creates a special file or an empty regular one; `mode` holds the type, `rdev` has the kernel's 32-bit encoding.
pub fn mknod(dir: impl AsFd, name: &OsStr, mode: u32, rdev: u32) -> Result<()> {
    let (major, minor) = ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xfff00));
    rustix::fs::mknodat(
        dir,
        name,
        rustix::fs::FileType::from_raw_mode(mode),
        Mode::from_raw_mode(mode & 0o7777),
        rustix::fs::makedev(major, minor),
    )
}

/// Creates a symbolic link.
pub fn symlink(target: &OsStr, dir: impl AsFd, name: &OsStr) -> Result<()> {
    rustix::fs::symlinkat(target, dir, name)
}

/// The target of the symbolic link behind an `O_PATH` descriptor.
pub fn readlink(fd: impl AsFd) -> Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes())
}

/// A further name for an open inode.
pub fn link(fd: impl AsFd, dir: impl AsFd, name: &OsStr) -> Result<()> {
    rustix::fs::linkat(rustix::fs::CWD, proc_path(fd.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW)
}

/// A further name for what `name` in `dir` is, itself if it is a symlink.
pub fn link_at(dir: impl AsFd, name: &OsStr, to: impl AsFd, new: &OsStr) -> Result<()> {
    rustix::fs::linkat(dir, name, to, new, AtFlags::empty())
}

/// Removes a name that is not a folder.
pub fn unlink(dir: impl AsFd, name: &OsStr) -> Result<()> {
    rustix::fs::unlinkat(dir, name, AtFlags::empty())
}

/// Removes an empty folder.
pub fn rmdir(dir: impl AsFd, name: &OsStr) -> Result<()> {
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Renames; with empty flags the atomic replacement that everything here rests on.
pub fn rename(from: impl AsFd, name: &OsStr, to: impl AsFd, new: &OsStr, flags: RenameFlags) -> Result<()> {
    if flags.is_empty() {
        rustix::fs::renameat(from, name, to, new)
    } else {
        rustix::fs::renameat_with(from, name, to, new, flags)
    }
}

/// Changes the permission bits of an open inode (also an `O_PATH` one).
pub fn chmod(fd: impl AsFd, perm: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(perm & 0o7777);
    either(|| rustix::fs::fchmod(fd.as_fd(), mode), || rustix::fs::chmod(proc_path(fd.as_fd()), mode))
}

/// Changes owner and group of an open inode; `None` leaves one as it is.
pub fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    rustix::fs::chownat(fd, "", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)
}

/// Sets the times of an open inode (also an `O_PATH` one).
pub fn set_times(fd: impl AsFd, times: &Timestamps) -> Result<()> {
    // utimensat takes no empty path with O_PATH on older kernels; the magic link always works but is followed, which
    // for a symlink's own descriptor ends at the symlink.
    let by_path = || rustix::fs::utimensat(rustix::fs::CWD, proc_path(fd.as_fd()), times, AtFlags::empty());
    either(|| rustix::fs::futimens(fd.as_fd(), times), by_path)
}

/// Sets the modification time of an open inode (also an `O_PATH` one), and no other.
pub fn set_mtime(fd: impl AsFd, time: Time) -> Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_modification = Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() };
    set_times(fd, &Timestamps { last_access: omit, last_modification })
}

/// Sets the access time of an open inode, and no other.
pub fn set_atime(fd: impl AsFd, time: Time) -> Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_access = Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() };
    set_times(fd, &Timestamps { last_access, last_modification: omit })
}

/// Number of the device that a descriptor's file system is on. The file system is not asked.
pub fn device(fd: impl AsFd) -> Result<u64> {
    let s =
        rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, rustix::fs::StatxFlags::empty())?;
    Ok(rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor))
}

/// Makes a file's data and size durable.
pub fn fsync(fd: impl AsFd) -> Result<()> {
    retry_on_intr(|| rustix::fs::fsync(fd.as_fd()))
}

/// Makes a folder's names durable. File systems that cannot fsync a folder answer EINVAL: they have nothing to sync.
pub fn fsync_dir(fd: impl AsFd) -> Result<()> {
    match fsync(&fd) {
        Err(Errno::INVAL) => Ok(()),
        // XFS (seen on 6.18) has nothing to sync either once it has shut down and dropped what there was. That it has, it
        // says when it is asked for attributes. Those that are at hand will do: no request to a server.
        Ok(()) => {
            let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
            rustix::fs::statx(fd, c"", flags, rustix::fs::StatxFlags::empty()).map(drop)
        }
        other => other,
    }
}

/// Reads at an offset until the buffer is full or the file ends; returns the bytes read.
pub fn read_at(fd: impl AsFd, buf: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match retry_on_intr(|| rustix::io::pread(fd.as_fd(), &mut buf[done..], offset + done as u64))? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// Writes all of `data` at an offset.
pub fn write_at(fd: impl AsFd, data: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < data.len() {
        match retry_on_intr(|| rustix::io::pwrite(fd.as_fd(), &data[done..], offset + done as u64))? {
            0 => return Err(Errno::IO),
            n => done += n,
        }
    }
    Ok(())
}

/// Writes all of `data` at the end, wherever others have moved it meanwhile.
pub fn append(fd: impl AsFd, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        // The descriptor's position is not used and not moved.
        let piece = [IoSlice::new(data)];
        match retry_on_intr(|| rustix::io::pwritev2(fd.as_fd(), &piece, 0, ReadWriteFlags::APPEND))? {
            0 => return Err(Errno::IO),
            n => data = &data[n..],
        }
    }
    Ok(())
}

/// True if the descriptor was opened for appending: then Linux writes at the end, whatever offset a write has.
pub fn only_appends(fd: impl AsFd) -> Result<bool> {
    Ok(rustix::fs::fcntl_getfl(fd)?.contains(OFlags::APPEND))
}

/// Reads by this descriptor, and its duplicates, leave the file's access time alone from now on, where its owner is who asks.
pub fn leave_atime(fd: impl AsFd) {
    let set =
        rustix::fs::fcntl_getfl(fd.as_fd()).and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | OFlags::NOATIME));
    if let Err(errno) = set {
        tracing::debug!(%errno, "a file is read and its access time set");
    }
}

/// Sets a file's length.
pub fn truncate(fd: impl AsFd, size: u64) -> Result<()> {
    retry_on_intr(|| rustix::fs::ftruncate(fd.as_fd(), size))
}

/// Preallocates, punches, zeroes, as the flags say.
pub fn fallocate(fd: impl AsFd, mode: u32, offset: u64, len: u64) -> Result<()> {
    retry_on_intr(|| rustix::fs::fallocate(fd.as_fd(), FallocateFlags::from_bits_retain(mode), offset, len))
}

/// Finds data or a hole from `offset` on.
pub fn seek_hole_data(fd: impl AsFd, offset: u64, hole: bool) -> Result<u64> {
    let to = if hole { rustix::fs::SeekFrom::Hole(offset) } else { rustix::fs::SeekFrom::Data(offset) };
    rustix::fs::seek(fd, to)
}

/// Checks rights on an open inode for the thread's ids.
pub fn access(fd: impl AsFd, mask: Access) -> Result<()> {
    rustix::fs::accessat(rustix::fs::CWD, proc_path(fd.as_fd()), mask, AtFlags::EACCESS)
}

/// Space and limits of the file system.
pub fn statvfs(fd: impl AsFd) -> Result<StatVfs> {
    rustix::fs::fstatvfs(fd)
}

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Inode number.
    pub ino: u64,
    /// Type, where the file system tells it without a further call.
    pub kind: Option<super::Kind>,
    /// Name.
    pub name: Box<OsStr>,
}

/// The entries of an open folder, without `.` and `..`, as they are read.
pub fn entries(dir: OwnedFd) -> Result<impl Iterator<Item = Result<DirEntry>>> {
    use super::Kind;
    use rustix::fs::FileType;
    use std::os::unix::ffi::OsStrExt;

    let entries = rustix::fs::Dir::new(dir)?;
    Ok(entries.filter_map(|entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(errno) => return Some(Err(errno)),
        };
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            return None;
        }
        let kind = match entry.file_type() {
            FileType::RegularFile => Some(Kind::File),
            FileType::Directory => Some(Kind::Dir),
            FileType::Symlink => Some(Kind::Symlink),
            FileType::Fifo => Some(Kind::Fifo),
            FileType::Socket => Some(Kind::Socket),
            FileType::CharacterDevice => Some(Kind::Char),
            FileType::BlockDevice => Some(Kind::Block),
            FileType::Unknown => None,
        };
        Some(Ok(DirEntry { ino: entry.ino(), kind, name: OsStr::from_bytes(name).into() }))
    }))
}

/// The whole listing of an open folder, without `.` and `..`.
pub fn list(dir: impl AsFd) -> Result<Vec<DirEntry>> {
    entries(open_dir(dir, OsStr::new("."))?)?.collect()
}
