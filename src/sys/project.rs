//! Projects, by which XFS and ext4 count space: a folder may hand its own down, and then takes in no file of another.

use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

use super::{Errno, Result};

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT`
const INHERITS: u32 = 0x200;

/// Puts a file into the project that files made in this folder are of. Nothing else of it changes.
pub fn join(folder: impl AsFd, file: impl AsFd) -> Result<()> {
    let above = get(folder)?;
    let own = get(file.as_fd())?;
    let joined = Attributes { project: above.project, ..own };
    let as_made_there = Attributes { flags: own.flags | (above.flags & INHERITS), ..joined };
    match set(file.as_fd(), as_made_there) {
        // On ext4 only folders have the flag.
        Err(Errno::OPNOTSUPP | Errno::INVAL) => set(file, joined),
        other => other,
    }
}

#[allow(unsafe_code)]
fn get(file: impl AsFd) -> Result<Attributes> {
    const GET: Opcode = opcode::read::<Attributes>(b'X', 31);
    // SAFETY: the kernel writes no more than the size that is part of GET, which is that of Attributes: integers only, any
    // bits are valid.
    unsafe { ioctl(file, Getter::<GET, Attributes>::new()) }
}

#[allow(unsafe_code)]
fn set(file: impl AsFd, attributes: Attributes) -> Result<()> {
    const SET: Opcode = opcode::write::<Attributes>(b'X', 32);
    // SAFETY: the kernel reads no more than the size that is part of SET, which is that of Attributes.
    unsafe { ioctl(file, Setter::<SET, Attributes>::new(attributes)) }
}
