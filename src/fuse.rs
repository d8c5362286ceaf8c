//! The protocol adapter: decodes a request, calls the file system, maps the error, replies. No logic lives here.

mod probe;
mod reply;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno as Code, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::{Access, OFlags};

use crate::draft::Caller;
use crate::fs::{Changes, Entry, Found, Fs, Listed, Listings, LockRequest, OpenMode, SetTime, Written};
use crate::inode::Content;
use crate::metrics::{self, Op};
use crate::sys::{Errno, at, lock};
pub use probe::{Offer, offered};
use reply::{code, file_attr, file_type, reply_attr, reply_empty, reply_entry, reply_xattr};

/// What to ask the kernel for.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Gather writes to drafts in the page cache.
    pub writeback: bool,
    /// Let the kernel read versions by itself; only without `writeback`.
    pub passthrough: bool,
    /// Access control lists, which go with the kernel's own permission checks.
    pub acl: bool,
}

/// Capabilities of the kernel that every mount uses where they are offered.
const ALWAYS: InitFlags = InitFlags::FUSE_ATOMIC_O_TRUNC
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
    .union(InitFlags::FUSE_POSIX_LOCKS)
    .union(InitFlags::FUSE_FLOCK_LOCKS);

/// Those that go with the wishes.
const ON_WISH: InitFlags =
    InitFlags::FUSE_WRITEBACK_CACHE.union(InitFlags::FUSE_POSIX_ACL).union(InitFlags::FUSE_PASSTHROUGH);

/// Largest write in one request.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that the kernel may have under way in the background: read-ahead, gathered writes, releases.
const MAX_BACKGROUND: u16 = 64;

/// The adapter.
pub struct Adapter {
    fs: Arc<Fs>,
    wishes: Wishes,
    /// How the kernel treats descriptors of drafts.
    drafts: FopenFlags,
}

impl Adapter {
    /// An adapter for a file system.
    pub fn new(fs: Arc<Fs>, wishes: Wishes) -> Self {
        Adapter { fs, wishes, drafts: FopenFlags::FOPEN_KEEP_CACHE }
    }
}

fn caller(req: &Request) -> Caller {
    Caller { tid: req.pid(), uid: req.uid(), gid: req.gid() }
}

/// A time as the kernel asked for it. From one before 1970 the library has taken the part of a second away, which is to be added.
fn mended(time: SystemTime) -> SystemTime {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(_) => time,
        Err(before) => time + 2 * Duration::from_nanos(before.duration().subsec_nanos().into()),
    }
}

fn lock_request(
    fh: FileHandle,
    owner: LockOwner,
    start: u64,
    end: u64,
    typ: i32,
    pid: u32,
) -> Result<LockRequest, Errno> {
    let mode = match typ {
        libc::F_RDLCK => Some(lock::Mode::Shared),
        libc::F_WRLCK => Some(lock::Mode::Exclusive),
        libc::F_UNLCK => None,
        _ => return Err(Errno::INVAL),
    };
    Ok(LockRequest { fh: fh.0, owner: owner.0, span: lock::Span { start, end }, mode, pid })
}

/// How a descriptor that is passed through reads and writes. The kernel would open the file below for appending, too, and go on
/// with that when the descriptor no longer does so: what appends writes through the daemon. Its mappings are passed through.
fn passed_through(flags: OFlags) -> FopenFlags {
    if flags.contains(OFlags::APPEND) { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() }
}

/// The file below through which the kernel may reach what was opened, with its node; and the flags if it does not.
fn reached(mode: OpenMode, drafts: FopenFlags) -> (Option<(Arc<Content>, u64)>, FopenFlags) {
    match mode {
        OpenMode::Draft => (None, drafts),
        OpenMode::Version(file, node) | OpenMode::Bulk(file, node) => {
            (Some((file, node)), FopenFlags::FOPEN_KEEP_CACHE)
        }
        OpenMode::Direct(file, node) => (Some((file, node)), FopenFlags::FOPEN_DIRECT_IO),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = ALWAYS;
        if self.wishes.writeback {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        if self.wishes.acl {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        // The kernel refuses to pass files through on a connection that gathers writes.
        if self.wishes.passthrough && !self.wishes.writeback {
            wanted |= InitFlags::FUSE_PASSTHROUGH;
        }
        let wanted = wanted & config.capabilities();
        if config.add_capabilities(wanted).is_err() {
            return Err(std::io::Error::other("the kernel takes a capability back that it offered"));
        }
        if !wanted.contains(InitFlags::FUSE_WRITEBACK_CACHE) && wanted.contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP) {
            // The kernel has no use for a copy of what it does not gather: each write goes to the daemon, as large as it is.
            self.drafts = FopenFlags::FOPEN_DIRECT_IO;
        }
        let depth = u32::from(wanted.contains(InitFlags::FUSE_PASSTHROUGH));
        let out_of_range = |nearest| std::io::Error::other(format!("the kernel takes at most {nearest}"));
        config.set_max_write(MAX_WRITE).map_err(out_of_range)?;
        config.set_max_background(MAX_BACKGROUND).map_err(|nearest| out_of_range(nearest.into()))?;
        config.set_max_stack_depth(depth).map_err(out_of_range)?;
        if !wanted.contains(InitFlags::FUSE_ATOMIC_O_TRUNC) {
            return Err(std::io::Error::other("the kernel has no atomic O_TRUNC: Linux 4.20 or later is needed"));
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        metrics::request(Op::Lookup);
        self.fs.lookup(caller(req), parent.0, name, |entry| reply_entry(Op::Lookup, reply, entry));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        metrics::request(Op::Forget);
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        metrics::request(Op::Getattr);
        self.fs.getattr(caller(req), ino.0, fh.map(|fh| fh.0), |attr| reply_attr(Op::Getattr, reply, attr));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        metrics::request(Op::Setattr);
        let time = |time: TimeOrNow| match time {
            TimeOrNow::Now => SetTime::Now,
            TimeOrNow::SpecificTime(time) => SetTime::At(mended(time)),
        };
        let changes = Changes {
            perm: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time),
            mtime: mtime.map(time),
            ctime: ctime.is_some(),
        };
        self.fs.setattr(caller(req), ino.0, fh.map(|fh| fh.0), changes, |attr| reply_attr(Op::Setattr, reply, attr));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        metrics::request(Op::Readlink);
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(code(Op::Readlink, errno)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        metrics::request(Op::Mknod);
        let (caller, of) = (caller(req), name.to_owned());
        self.fs.with_drafts_known(&[(parent.0, name)], move |fs| {
            fs.with_room(
                move |fs| fs.mknod(caller, parent.0, &of, mode, umask, rdev),
                |made| reply_entry(Op::Mknod, reply, made),
            );
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        metrics::request(Op::Mkdir);
        let (caller, of) = (caller(req), name.to_owned());
        self.fs.with_drafts_known(&[(parent.0, name)], move |fs| {
            fs.with_room(
                move |fs| fs.mkdir(caller, parent.0, &of, mode, umask),
                |made| reply_entry(Op::Mkdir, reply, made),
            );
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        metrics::request(Op::Unlink);
        self.fs.unlink(caller(req), parent.0, name, |result| reply_empty(Op::Unlink, reply, result));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        metrics::request(Op::Rmdir);
        let (caller, of) = (caller(req), name.to_owned());
        self.fs.with_drafts_known(&[(parent.0, name)], move |fs| {
            reply_empty(Op::Rmdir, reply, fs.rmdir(caller, parent.0, &of));
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        metrics::request(Op::Symlink);
        let (caller, of, target) = (caller(req), name.to_owned(), target.as_os_str().to_owned());
        self.fs.with_drafts_known(&[(parent.0, name)], move |fs| {
            fs.with_room(
                move |fs| fs.symlink(caller, parent.0, &of, &target),
                |made| reply_entry(Op::Symlink, reply, made),
            );
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        metrics::request(Op::Rename);
        let flags = at::RenameFlags::from_bits_retain(flags.bits());
        let (caller, of, to) = (caller(req), name.to_owned(), newname.to_owned());
        self.fs.with_drafts_known_of((parent.0, name), (newparent.0, newname), flags, move |fs| {
            fs.rename(caller, parent.0, &of, newparent.0, &to, flags, |result| reply_empty(Op::Rename, reply, result));
        });
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        metrics::request(Op::Link);
        let (caller, to) = (caller(req), newname.to_owned());
        self.fs.with_drafts_known(&[(newparent.0, newname)], move |fs| {
            fs.link(caller, ino.0, newparent.0, &to, |linked| reply_entry(Op::Link, reply, linked));
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        metrics::request(Op::Open);
        let asked = OFlags::from_bits_retain(flags.0 as u32);
        let (fs, drafts) = (self.fs.clone(), self.drafts);
        self.fs.open(caller(req), ino.0, asked, move |opened| {
            let opened = match opened {
                Ok(opened) => opened,
                Err(errno) => return reply.error(code(Op::Open, errno)),
            };
            let fh = FileHandle(opened.fh);
            let (below, flags) = reached(opened.mode, drafts);
            match below.and_then(|(file, node)| fs.backing(opened.fh, node, || reply.open_backing(&*file))) {
                Some(id) => reply.opened_passthrough(fh, passed_through(asked), &id),
                None => reply.opened(fh, flags),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        metrics::request(Op::Create);
        let asked = OFlags::from_bits_retain(flags as u32);
        let (fs, drafts) = (self.fs.clone(), self.drafts);
        self.fs.create(caller(req), parent.0, name, mode, umask, asked, move |created| {
            let created = match created {
                Ok(created) => created,
                Err(errno) => return reply.error(code(Op::Create, errno)),
            };
            let attr = file_attr(created.entry.node, &created.entry.stat);
            let (ttl, generation, fh) = (Duration::ZERO, Generation(0), FileHandle(created.opened.fh));
            let (below, flags) = reached(created.opened.mode, drafts);
            match below.and_then(|(file, node)| fs.backing(created.opened.fh, node, || reply.open_backing(&*file))) {
                Some(id) => reply.created_passthrough(&ttl, &attr, generation, fh, passed_through(asked), &id),
                None => reply.created(&ttl, &attr, generation, fh, flags),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        metrics::request(Op::Read);
        self.fs.read(fh.0, offset, size, |read| match read {
            Ok(data) => reply.data(data),
            Err(errno) => reply.error(code(Op::Read, errno)),
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        metrics::request(Op::Write);
        let strip = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let done = |written: Result<u32, Errno>| match written {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(code(Op::Write, errno)),
        };
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if cached && !strip {
            self.fs.write_gathered(caller(req), fh.0, offset, data, done);
        } else {
            // The descriptor's flags are those of this moment, not of its open.
            let append = !cached && OFlags::from_bits_retain(flags.0 as u32).contains(OFlags::APPEND);
            self.fs.write(caller(req), fh.0, offset, data, Written::Now { strip, append }, done);
        }
    }

    fn flush(&self, req: &Request, _ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        metrics::request(Op::Flush);
        self.fs.flush(caller(req), fh.0, lock_owner.0, |result| reply_empty(Op::Flush, reply, result));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        metrics::request(Op::Release);
        reply_empty(Op::Release, reply, self.fs.release(fh.0));
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        metrics::request(Op::Fsync);
        self.fs.fsync(fh.0, |result| reply_empty(Op::Fsync, reply, result));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        metrics::request(Op::Opendir);
        match self.fs.open_folder(ino.0) {
            Ok((fh, Listings::NotKept)) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Ok((fh, Listings::Fresh)) => reply.opened(FileHandle(fh), FopenFlags::FOPEN_CACHE_DIR),
            Ok((fh, Listings::Kept)) => {
                reply.opened(FileHandle(fh), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(errno) => reply.error(code(Op::Opendir, errno)),
        }
    }

    fn readdir(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        metrics::request(Op::Readdir);
        let (fs, caller) = (self.fs.clone(), caller(req));
        self.fs.before_listing(caller, fh.0, offset, move || {
            let listed = fs.list(caller, fh.0, offset, |entry| {
                reply.add(INodeNo(entry.ino), entry.offset, file_type(entry.kind), &entry.name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(code(Op::Readdir, errno)),
            }
        });
    }

    fn readdirplus(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        metrics::request(Op::Readdirplus);
        // One time for both the name and the attributes: the shorter.
        let add = |listed: &Listed, entry: Entry, reply: &mut ReplyDirectoryPlus| {
            let attr = file_attr(entry.node, &entry.stat);
            let ttl = entry.entry_ttl.min(entry.attr_ttl);
            reply.add(INodeNo(entry.node), listed.offset, &listed.name, &ttl, &attr, Generation(0))
        };
        let (fs, caller) = (self.fs.clone(), caller(req));
        self.fs.before_listing(caller, fh.0, offset, move || {
            let page = fs.list_nodes(caller, fh.0, offset, |listed, entry| add(listed, entry, &mut reply));
            match page {
                Ok(answering) => {
                    reply.ok();
                    drop(answering);
                }
                Err(errno) => reply.error(code(Op::Readdirplus, errno)),
            }
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        metrics::request(Op::Releasedir);
        reply_empty(Op::Releasedir, reply, self.fs.close_folder(fh.0));
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        metrics::request(Op::Fsyncdir);
        self.fs.fsync_folder(ino.0, |result| reply_empty(Op::Fsyncdir, reply, result));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        metrics::request(Op::Statfs);
        match self.fs.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(errno) => reply.error(code(Op::Statfs, errno)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        metrics::request(Op::Setxattr);
        let done = |set| reply_empty(Op::Setxattr, reply, set);
        self.fs.setxattr(caller(req), ino.0, name, value, flags as u32, done);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        metrics::request(Op::Getxattr);
        reply_xattr(Op::Getxattr, reply, size, self.fs.getxattr(ino.0, name));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        metrics::request(Op::Listxattr);
        reply_xattr(Op::Listxattr, reply, size, self.fs.listxattr(caller(req), ino.0));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        metrics::request(Op::Removexattr);
        self.fs.removexattr(caller(req), ino.0, name, |removed| reply_empty(Op::Removexattr, reply, removed));
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        metrics::request(Op::Access);
        reply_empty(Op::Access, reply, self.fs.access(caller(req), ino.0, Access::from_bits_truncate(mask.bits())));
    }

    fn getlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        metrics::request(Op::Getlk);
        let found = lock_request(fh, lock_owner, start, end, typ, pid)
            .and_then(|request| self.fs.test_lock(caller(req), request));
        match found {
            Ok(Some(Found { span, mode, pid })) => {
                let typ = if mode == lock::Mode::Exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
                reply.locked(span.start, span.end, typ, pid);
            }
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Err(errno) => reply.error(code(Op::Getlk, errno)),
        }
    }

    fn setlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        metrics::request(Op::Setlk);
        match lock_request(fh, lock_owner, start, end, typ, pid) {
            Ok(request) => {
                self.fs.set_lock(caller(req), request, sleep, |result| reply_empty(Op::Setlk, reply, result))
            }
            Err(errno) => reply.error(code(Op::Setlk, errno)),
        }
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        metrics::request(Op::Ioctl);
        reply.error(Code::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel says from then on that files are always ready.
        reply.error(Code::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        metrics::request(Op::Fallocate);
        self.fs.fallocate(caller(req), fh.0, offset, length, mode as u32, |result| {
            reply_empty(Op::Fallocate, reply, result)
        });
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        metrics::request(Op::Lseek);
        if !matches!(whence, libc::SEEK_HOLE | libc::SEEK_DATA) {
            return reply.error(Code::EINVAL);
        }
        self.fs.seek(fh.0, offset, whence == libc::SEEK_HOLE, |found| match found {
            Ok(offset) => reply.offset(offset as i64),
            Err(errno) => reply.error(code(Op::Lseek, errno)),
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        metrics::request(Op::CopyFileRange);
        self.fs.copy_range(caller(req), fh_in.0, offset_in, fh_out.0, offset_out, len, |copied| match copied {
            Ok(copied) => reply.written(copied),
            Err(errno) => reply.error(code(Op::CopyFileRange, errno)),
        });
    }
}
