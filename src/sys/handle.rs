//! File handles: a name-independent, generation-checked reference to an inode that costs no descriptor.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::OFlags;
use smallvec::SmallVec;

use super::{Errno, Result};

const MAX_HANDLE: usize = 128;

/// `FILEID_INO64_GEN`.
const FUSE_NODE: i32 = 0x81;

/// How often an inode is asked for that the kernel cannot tell yet.
const MAX_TRIES: u32 = 100;

#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; MAX_HANDLE],
}

/// The export file system's own reference to an inode. Two handles are equal only for the same inode of the same
/// generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    kind: i32,
    /// Local file systems need no more than 16 bytes, NFS does.
    data: SmallVec<[u8; 16]>,
}

impl Handle {
    /// The handle of an open inode (also an `O_PATH` descriptor). `EOPNOTSUPP` where the file system has none.
    pub fn of(fd: impl AsFd) -> Result<Self> {
        Self::of_path(fd.as_fd(), c"", libc::AT_EMPTY_PATH)
    }

    /// The handle of what `name` in `dir` is, itself if it is a symlink. Opens nothing.
    pub fn at(dir: impl AsFd, name: &OsStr) -> Result<Self> {
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
        Self::of_path(dir.as_fd(), &name, 0)
    }

    /// The handle by which the kernel has an inode of a FUSE file system that it knows at the moment: its node and generation.
    /// The server is asked nothing.
    pub fn of_fuse_node(node: u64) -> Self {
        let words = [(node >> 32) as u32, node as u32, 0];
        Handle { kind: FUSE_NODE, data: words.iter().flat_map(|word| word.to_ne_bytes()).collect() }
    }

    fn of_path(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> Result<Self> {
        let mut raw = RawHandle { bytes: MAX_HANDLE as u32, kind: 0, data: [0; MAX_HANDLE] };
        let mut mount_id = 0;
        // SAFETY: `raw` has the layout of struct file_handle with MAX_HANDLE bytes behind it, as `bytes` says; `path` ends
        // with a NUL; `mount_id` is a live int.
        let rc = unsafe {
            libc::name_to_handle_at(
                dir.as_raw_fd(),
                path.as_ptr(),
                (&raw mut raw).cast::<libc::file_handle>(),
                &mut mount_id,
                flags,
            )
        };
        if rc != 0 {
            return Err(super::last_error());
        }
        let data = raw.data.get(..raw.bytes as usize).ok_or(Errno::OVERFLOW)?;
        Ok(Handle { kind: raw.kind, data: SmallVec::from_slice(data) })
    }

    /// Opens the inode; `mount` is any descriptor on its file system. `ESTALE` when the inode is gone. While its number is
    /// just being given to a new file, the kernel says `ENOMEM`.
    pub fn open(&self, mount: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        let mut raw = RawHandle { bytes: self.data.len() as u32, kind: self.kind, data: [0; MAX_HANDLE] };
        raw.data[..self.data.len()].copy_from_slice(&self.data);
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let mut tries = 0;
        loop {
            // SAFETY: `raw` has the layout of struct file_handle and holds `bytes` valid bytes; a non-negative result
            // is a new descriptor that nobody else owns.
            let fd = unsafe {
                let fd = libc::open_by_handle_at(
                    mount.as_fd().as_raw_fd(),
                    (&raw mut raw).cast::<libc::file_handle>(),
                    flags.bits() as i32,
                );
                (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
            };
            match fd {
                Some(fd) => return Ok(fd),
                None => match super::last_error() {
                    Errno::INTR => {}
                    Errno::NOMEM if tries < MAX_TRIES => {
                        tries += 1;
                        std::thread::yield_now();
                    }
                    errno => return Err(errno),
                },
            }
        }
    }

    /// Opens the inode as a file.
    pub fn open_file(&self, mount: impl AsFd, flags: OFlags) -> Result<File> {
        self.open(mount, flags).map(File::from)
    }
}

/// In a form that can be written down and compared.
impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.", self.kind)?;
        self.data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_follows_the_inode_and_dies_with_it() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "content").unwrap();
        let handle = Handle::of(File::open(&a).unwrap()).unwrap();
        let mount = File::open(dir.path()).unwrap();
        std::fs::rename(&a, &b).unwrap();
        let again = handle.open_file(&mount, OFlags::RDONLY).unwrap();
        assert_eq!(std::io::read_to_string(&again).unwrap(), "content");
        drop(again);
        std::fs::remove_file(&b).unwrap();
        assert_eq!(handle.open(&mount, OFlags::PATH).unwrap_err(), Errno::STALE);
    }
}
