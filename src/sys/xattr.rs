//! Extended attributes of open inodes, symlinks and `O_PATH` descriptors included.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;

use super::at::proc_path;
use super::{Errno, Result};

/// The value of one attribute.
pub fn get(fd: impl AsFd, name: &OsStr) -> Result<Vec<u8>> {
    let path = proc_path(fd.as_fd());
    grow(|buf| rustix::fs::getxattr(&*path, name, buf))
}

/// All names, each ended by NUL.
pub fn list(fd: impl AsFd) -> Result<Vec<u8>> {
    let path = proc_path(fd.as_fd());
    grow(|buf| rustix::fs::listxattr(&*path, buf))
}

/// Sets one attribute; `flags` are `XATTR_CREATE`, `XATTR_REPLACE` or 0.
pub fn set(fd: impl AsFd, name: &OsStr, value: &[u8], flags: u32) -> Result<()> {
    rustix::fs::setxattr(proc_path(fd.as_fd()), name, value, XattrFlags::from_bits_retain(flags))
}

/// Removes one attribute.
pub fn remove(fd: impl AsFd, name: &OsStr) -> Result<()> {
    rustix::fs::removexattr(proc_path(fd.as_fd()), name)
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
