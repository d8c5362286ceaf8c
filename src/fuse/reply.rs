//! Answers in the protocol's words; those that are errors are counted.

use std::time::SystemTime;

use fuser::{Errno as Code, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr};

use crate::fs::{Attr, Entry};
use crate::metrics::{self, Op};
use crate::sys::{Errno, Kind, Stat, errno_name};

/// The answer to a request that failed, counted.
pub(super) fn code(op: Op, errno: Errno) -> Code {
    metrics::error(op, errno_name(errno));
    Code::from_i32(errno.raw_os_error())
}

/// The protocol's word for a type.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

/// Attributes as the kernel wants them.
pub(super) fn file_attr(ino: u64, stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: stat.size,
        blocks: stat.blocks,
        atime: stat.atime.to_system(),
        mtime: stat.mtime.to_system(),
        ctime: stat.ctime.to_system(),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(stat.kind),
        perm: stat.perm as u16,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        blksize: stat.blksize,
        flags: 0,
    }
}

/// A name's node, or why there is none.
pub(super) fn reply_entry(op: Op, reply: ReplyEntry, entry: Result<Entry, Errno>) {
    match entry {
        Ok(entry) => {
            reply.entry_with_ttls(&entry.attr_ttl, &entry.entry_ttl, &file_attr(entry.node, &entry.stat), Generation(0))
        }
        Err(errno) => reply.error(code(op, errno)),
    }
}

/// Attributes, or why there are none.
pub(super) fn reply_attr(op: Op, reply: ReplyAttr, attr: Result<Attr, Errno>) {
    match attr {
        Ok(attr) => reply.attr(&attr.ttl, &file_attr(attr.stat.ino, &attr.stat)),
        Err(errno) => reply.error(code(op, errno)),
    }
}

/// Done, or why not.
pub(super) fn reply_empty(op: Op, reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(code(op, errno)),
    }
}

/// A value, or its length where only that is asked for.
pub(super) fn reply_xattr(op: Op, reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Code::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(code(op, errno)),
    }
}
