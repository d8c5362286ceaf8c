//! The protocol: each request is judged by the plan, carried out on the disk, answered. Nothing is remembered by the
//! kernel, and the content of exports is not cached either, so that every call arrives. Journals need the page cache,
//! because SQLite maps a file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno as Code, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::disk::{Disk, Inode, Outcome, ROOT, Realm};
use super::plan::{Call, Moment, Op, When};
use super::{State, Volume};

const NEVER: Duration = Duration::ZERO;
/// How far FALLOC_FL_KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE are known here.
const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;
/// Of lseek(2).
const SEEK_DATA: i32 = 3;

fn code(errno: Errno) -> Code {
    Code::from_i32(errno.raw_os_error())
}

fn attr(disk: &Disk, ino: u64) -> Outcome<FileAttr> {
    let inode = disk.inode(ino)?;
    let size = if inode.kind == FileType::Symlink { inode.target.len() } else { inode.content.len() } as u64;
    Ok(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: inode.kind,
        perm: inode.perm,
        nlink: disk.links(ino),
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        blksize: 4096,
        flags: 0,
    })
}

impl Volume {
    /// One call on `ino`, or on `name` in it.
    fn call<T>(
        &self,
        op: Op,
        ino: INodeNo,
        name: Option<&OsStr>,
        run: impl FnOnce(&mut State) -> Outcome<T>,
    ) -> Outcome<T> {
        let mut state = self.0.state.lock();
        let Some(realm) = state.disk.realm(ino.0) else { return run(&mut state) };
        let waiting = state.plan.waiting;
        let path = |disk: &Disk| match name {
            Some(name) => format!("{}/{}", disk.path(ino.0), name.to_string_lossy()),
            None => disk.path(ino.0),
        };
        let is_held = state.plan.held.is_some_and(|(where_, what, most, end)| {
            (where_, what) == (realm, op) && waiting < most && (end.is_empty() || path(&state.disk).ends_with(end))
        });
        if is_held {
            state.plan.waiting += 1;
            self.0.changed.wait_while(&mut state, |state| state.plan.held.is_some());
            state.plan.waiting -= 1;
        }
        let State { disk, plan, .. } = &mut *state;
        let tell = || Call { op, path: path(disk) };
        let verdict = plan.judge(realm, op, tell);
        if let Some((When::Before, errno)) = verdict {
            return Err(errno);
        }
        let called = (op.changes() && plan.moments.is_some()).then(tell);
        let result = run(&mut state)?;
        if op.changes() {
            state.plan.changes += 1;
            let State { disk, plan, .. } = &mut *state;
            // Of the journal, what a transaction consists of is SQLite's own affair.
            if (realm == Realm::Export || op == Op::Fsync)
                && let (Some(moments), Some(call)) = (&mut plan.moments, called)
            {
                moments.push(Moment { number: plan.changes, call, disk: disk.clone() });
            }
        }
        match verdict {
            Some((_, errno)) => Err(errno),
            None => Ok(result),
        }
    }

    fn make(
        &self,
        op: Op,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        inode: impl FnOnce(Inode) -> Inode,
    ) -> Outcome<FileAttr> {
        let new = inode(Inode::new(FileType::RegularFile, 0, req.uid(), req.gid()));
        self.call(op, parent, Some(name), |state| {
            let ino = state.disk.create(parent.0, name, new)?;
            attr(&state.disk, ino)
        })
    }

    fn entry(&self, reply: ReplyEntry, made: Outcome<FileAttr>) {
        match made {
            Ok(attr) => reply.entry(&NEVER, &attr, Generation(0)),
            Err(errno) => reply.error(code(errno)),
        }
    }

    /// One that was opened for direct reading refuses: many a server opens its own file with its caller's flags, and reads
    /// into memory that is not aligned.
    fn opened(&self, ino: u64, direct: bool) -> (FileHandle, FopenFlags) {
        let state = self.0.state.lock();
        let uncached = state.disk.realm(ino) == Some(Realm::Export);
        (
            FileHandle(state.epoch | if direct { DIRECT } else { 0 }),
            if uncached { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() },
        )
    }
}

fn empty(reply: ReplyEmpty, done: Outcome<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(code(errno)),
    }
}

fn value(reply: ReplyXattr, size: u32, value: Outcome<Vec<u8>>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Code::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(code(errno)),
    }
}

/// In the number of a descriptor that was opened for direct reading.
const DIRECT: u64 = 1 << 63;

fn current(state: &State, fh: FileHandle) -> Outcome<()> {
    if fh.0 & !DIRECT == state.epoch { Ok(()) } else { Err(Errno::STALE) }
}

fn time(to: TimeOrNow) -> SystemTime {
    match to {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Filesystem for Volume {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_EXPORT_SUPPORT;
        config.add_capabilities(wanted).map_err(|_| std::io::Error::other("a kernel without file handles on FUSE"))
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.call(Op::Lookup, parent, Some(name), |state| {
            let ino = match name.as_bytes() {
                b"." => parent.0,
                b".." => state.disk.above(parent.0),
                _ => state.disk.find(parent.0, name)?,
            };
            attr(&state.disk, ino)
        });
        self.entry(reply, found);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.call(Op::Getattr, ino, None, |state| attr(&state.disk, ino.0)) {
            Ok(attr) => reply.attr(&NEVER, &attr),
            Err(errno) => reply.error(code(errno)),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.call(Op::Setattr, ino, None, |state| {
            let inode = state.disk.inode_mut(ino.0)?;
            if let Some(mode) = mode {
                inode.perm = (mode & 0o7777) as u16;
            }
            inode.uid = uid.unwrap_or(inode.uid);
            inode.gid = gid.unwrap_or(inode.gid);
            if let Some(size) = size {
                inode.content.resize(size as usize);
                inode.mtime = inode.ctime;
            }
            inode.atime = atime.map_or(inode.atime, time);
            inode.mtime = mtime.map_or(inode.mtime, time);
            attr(&state.disk, ino.0)
        });
        match changed {
            Ok(attr) => reply.attr(&NEVER, &attr),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.call(Op::Readlink, ino, None, |state| Ok(state.disk.inode(ino.0)?.target.clone())) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & 0o170_000 {
            0o010_000 => FileType::NamedPipe,
            0o140_000 => FileType::Socket,
            0o020_000 => FileType::CharDevice,
            0o060_000 => FileType::BlockDevice,
            _ => FileType::RegularFile,
        };
        let made = self.make(Op::Mknod, req, parent, name, |inode| Inode {
            kind,
            perm: (mode & 0o7777) as u16,
            rdev,
            ..inode
        });
        self.entry(reply, made);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let perm = (mode & 0o7777) as u16;
        let made = self.make(Op::Mkdir, req, parent, name, |inode| Inode { kind: FileType::Directory, perm, ..inode });
        self.entry(reply, made);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.call(Op::Unlink, parent, Some(name), |state| state.disk.unlink(parent.0, name, false)));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.call(Op::Rmdir, parent, Some(name), |state| state.disk.unlink(parent.0, name, true)));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().to_owned();
        let made = self.make(Op::Symlink, req, parent, name, |inode| Inode {
            kind: FileType::Symlink,
            perm: 0o777,
            target,
            ..inode
        });
        self.entry(reply, made);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        empty(
            reply,
            self.call(Op::Rename, newparent, Some(newname), |state| {
                state.disk.rename(parent.0, name, newparent.0, newname, flags)
            }),
        );
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let linked = self.call(Op::Link, newparent, Some(newname), |state| {
            state.disk.link(ino.0, newparent.0, newname)?;
            attr(&state.disk, ino.0)
        });
        self.entry(reply, linked);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.call(Op::Open, ino, None, |state| state.disk.inode(ino.0).map(drop)) {
            Ok(()) => {
                let direct = flags.0.cast_unsigned() & OFlags::DIRECT.bits() != 0;
                let (fh, flags) = self.opened(ino.0, direct);
                reply.opened(fh, flags);
            }
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let perm = (mode & 0o7777) as u16;
        match self.make(Op::Create, req, parent, name, |inode| Inode { perm, ..inode }) {
            Ok(attr) => {
                let (fh, flags) = self.opened(attr.ino.0, false);
                reply.created(&NEVER, &attr, Generation(0), fh, flags);
            }
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.call(Op::Read, ino, None, |state| {
            current(state, fh)?;
            if fh.0 & DIRECT != 0 {
                return Err(Errno::INVAL);
            }
            Ok(state.disk.inode(ino.0)?.content.read(offset as usize, size as usize))
        });
        match read {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.call(Op::Write, ino, None, |state| {
            current(state, fh)?;
            let inode = state.disk.inode_mut(ino.0)?;
            inode.content.write(offset as usize, data);
            inode.mtime = inode.ctime;
            Ok(())
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        empty(reply, self.call(Op::Flush, ino, None, |_| Ok(())));
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let synced = self.call(Op::Fsync, ino, None, |state| {
            current(state, fh)?;
            state.disk.sync(ino.0);
            Ok(())
        });
        empty(reply, synced);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.call(Op::Opendir, ino, None, |state| {
            let above = state.disk.above(ino.0);
            let dots = [(ino.0, "."), (if ino.0 == ROOT { ROOT } else { above }, "..")];
            let dots = dots.map(|(ino, name)| (ino, FileType::Directory, OsString::from(name)));
            let held = state.disk.entries(ino.0).map(|(name, ino, kind)| (ino, kind, name.to_owned()));
            let listing = dots.into_iter().chain(held).collect();
            state.next_listing += 1;
            state.listings.insert(state.next_listing, listing);
            Ok(state.next_listing)
        });
        match opened {
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listing = self.call(Op::Readdir, ino, None, |state| {
            // A listing begins anew where it is rewound, as a folder that is read again does.
            state.listings.get(&fh.0).cloned().ok_or(Errno::STALE)
        });
        match listing {
            Ok(listing) => {
                for (at, (ino, kind, name)) in listing.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(ino), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.0.state.lock().listings.remove(&fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let synced = self.call(Op::Fsyncdir, ino, None, |state| {
            state.disk.sync(ino.0);
            Ok(())
        });
        empty(reply, synced);
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.call(Op::Statfs, ino, None, |_| Ok(())) {
            Ok(()) => reply.statfs(1 << 24, 1 << 23, 1 << 23, 1 << 20, 1 << 19, 4096, 255, 4096),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        data: &[u8],
        flags: i32,
        _at: u32,
        reply: ReplyEmpty,
    ) {
        let set = self.call(Op::Setxattr, ino, None, |state| {
            if name.as_bytes().starts_with(b"system.posix_acl") {
                return Err(Errno::OPNOTSUPP);
            }
            let xattrs = &mut state.disk.inode_mut(ino.0)?.xattrs;
            match (flags, xattrs.contains_key(name)) {
                (1, true) => return Err(Errno::EXIST),
                (2, false) => return Err(Errno::NODATA),
                _ => {}
            }
            xattrs.insert(name.to_owned(), data.to_owned());
            Ok(())
        });
        empty(reply, set);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let found = self.call(Op::Getxattr, ino, None, |state| {
            state.disk.inode(ino.0)?.xattrs.get(name).cloned().ok_or(Errno::NODATA)
        });
        value(reply, size, found);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.call(Op::Listxattr, ino, None, |state| {
            let names = state.disk.inode(ino.0)?.xattrs.keys();
            Ok(names.flat_map(|name| [name.clone().into_vec(), vec![0]].concat()).collect())
        });
        value(reply, size, names);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.call(Op::Removexattr, ino, None, |state| {
            state.disk.inode_mut(ino.0)?.xattrs.remove(name).map(drop).ok_or(Errno::NODATA)
        });
        empty(reply, removed);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocated = self.call(Op::Fallocate, ino, None, |state| {
            let content = &mut state.disk.inode_mut(ino.0)?.content;
            let (start, end) = (offset as usize, (offset + len) as usize);
            if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
                return Err(Errno::OPNOTSUPP);
            }
            if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 && start < content.len() {
                content.write(start, &vec![0; end.min(content.len()) - start]);
            }
            if mode & KEEP_SIZE == 0 && end > content.len() {
                content.resize(end);
            }
            Ok(())
        });
        empty(reply, allocated);
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        // Everything is data.
        let found = self.call(Op::Lseek, ino, None, |state| {
            let size = state.disk.inode(ino.0)?.content.len() as i64;
            if offset >= size { Err(Errno::NXIO) } else { Ok(if whence == SEEK_DATA { offset } else { size }) }
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(code(errno)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copied = self.call(Op::CopyRange, ino_out, None, |state| {
            let data = state.disk.inode(ino_in.0)?.content.read(offset_in as usize, len as usize);
            let inode = state.disk.inode_mut(ino_out.0)?;
            inode.content.write(offset_out as usize, &data);
            inode.mtime = inode.ctime;
            Ok(data.len() as u32)
        });
        match copied {
            Ok(copied) => reply.written(copied),
            Err(errno) => reply.error(code(errno)),
        }
    }
}
