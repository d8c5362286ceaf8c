//! Extended attributes of open inodes, symlinks and `O_PATH` descriptors included.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;

use super::at::{either, proc_path};
use super::{Errno, Result};

/// What a program may do by its file.
pub const CAPABILITY: &str = "security.capability";

/// The value of one attribute.
pub fn get(fd: impl AsFd, name: &OsStr) -> Result<Vec<u8>> {
    either(
        || grow(|buf| rustix::fs::fgetxattr(fd.as_fd(), name, buf)),
        || grow(|buf| rustix::fs::getxattr(&*proc_path(fd.as_fd()), name, buf)),
    )
}

/// All names, each ended by NUL.
pub fn list(fd: impl AsFd) -> Result<Vec<u8>> {
    either(
        || grow(|buf| rustix::fs::flistxattr(fd.as_fd(), buf)),
        || grow(|buf| rustix::fs::listxattr(&*proc_path(fd.as_fd()), buf)),
    )
}

/// Sets one attribute; `flags` are `XATTR_CREATE`, `XATTR_REPLACE` or 0.
pub fn set(fd: impl AsFd, name: &OsStr, value: &[u8], flags: u32) -> Result<()> {
    let flags = XattrFlags::from_bits_retain(flags);
    either(
        || rustix::fs::fsetxattr(fd.as_fd(), name, value, flags),
        || rustix::fs::setxattr(proc_path(fd.as_fd()), name, value, flags),
    )
}

/// Removes one attribute.
pub fn remove(fd: impl AsFd, name: &OsStr) -> Result<()> {
    either(|| rustix::fs::fremovexattr(fd.as_fd(), name), || rustix::fs::removexattr(proc_path(fd.as_fd()), name))
}

/// Copies all attributes that can be read and set, access control lists included. What the file system or the
/// caller's rights do not allow is left out, as a writer in place would have found it unchanged or not there at all; and
/// what `is_there` already says of name and value.
pub fn copy_all(from: impl AsFd, to: impl AsFd, is_there: impl Fn(&OsStr, &[u8]) -> bool) -> Result<()> {
    let names = match list(from.as_fd()) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
        Err(other) => return Err(other),
    };
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        let copied = get(from.as_fd(), name)
            .and_then(|value| if is_there(name, &value) { Ok(()) } else { set(to.as_fd(), name, &value, 0) });
        match copied {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NODATA | Errno::INVAL) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

fn grow(mut call: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buf = vec![0; 256];
    loop {
        match call(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(Errno::RANGE) if buf.len() < 1 << 20 => {
                let grown = buf.len() * 8;
                buf.resize(grown, 0);
            }
            Err(other) => return Err(other),
        }
    }
}
