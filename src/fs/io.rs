//! Reading, writing, and what else changes or inspects the content of an open file.

use std::cell::RefCell;
use std::sync::Arc;

use super::changes::Written;
use super::handle::Handle;
use super::in_place::{note_written, write_in_place};
use super::{Done, Fs};
use crate::draft::{Blocked, Caller, Draft, Expected, Keep, UNSEALING};
use crate::inode::Content;
use crate::sys::at::FallocateFlags;
use crate::sys::{Errno, Result, at, copy, mount};

/// A change of a draft's content that can be tried again once the draft is ready for it.
type Call<T> = Arc<dyn Fn(&Draft) -> Result<std::result::Result<T, Blocked>> + Send + Sync>;

thread_local! {
    /// What a session thread reads into. A fresh one for each request would have the kernel clear its pages every time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// So much an NFS client may send in one request, which a commit then has made durable: begun earlier, it would take a
/// second one. Bytes.
const ONE_REQUEST: u64 = 1 << 20;

/// What a write is called when it fails.
const WRITE: &str = "write";

/// What a request for room ahead of the writes is called. Refused, it has changed nothing that was written.
const ALLOCATE: &str = "allocate";

struct Change<T> {
    call: Call<T>,
    keep: Keep,
    /// What to call it when it fails.
    step: &'static str,
    /// How often room was made before it was tried; `None` if none is to be made for it any more.
    seen: Option<u64>,
}

impl Fs {
    /// Reads up to `size` bytes, fewer only at the end of the file, and hands them to `give`.
    pub fn read<T>(&self, fh: u64, offset: u64, size: u32, give: impl FnOnce(Result<&[u8]>) -> T) -> T {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            give(self.read_into(fh, offset, &mut buffer[..size]).map(|read| &buffer[..read]))
        })
    }

    fn read_into(&self, fh: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match &*self.handles.get(fh)? {
            Handle::Version { file, .. } | Handle::Direct { file, .. } => read_at(file, buffer, offset),
            Handle::Draft { draft, writes, .. } => {
                let read = draft.content().and_then(|file| read_at(&file, buffer, offset));
                // The kernel reads what a write does not fill of its page, and does not say so: the write has failed.
                read.inspect_err(|&errno| {
                    if *writes {
                        draft.taint("read", errno);
                    }
                })
            }
            Handle::Folder(_) => Err(Errno::ISDIR),
        }
    }

    /// Writes all of `data`, which the kernel has gathered earlier: whoever wrote it was told that all was well. Of an
    /// error the kernel would keep only that there was one, and close would not arrive here; so it is remembered in the
    /// draft, and close and fsync return it.
    pub fn write_gathered(self: &Arc<Self>, caller: Caller, fh: u64, offset: u64, data: &[u8], done: impl Done<u32>) {
        let len = data.len() as u32;
        let draft = match self.handles.get(fh).as_deref() {
            Ok(Handle::Draft { draft, writes: true, .. }) => draft.clone(),
            _ => return self.write(caller, fh, offset, data, Written::Earlier, done),
        };
        if draft.tainted().is_some() {
            return done(Ok(len));
        }
        let least = if self.options.nfs { ONE_REQUEST } else { 0 };
        let fs = self.clone();
        self.write(caller, fh, offset, data, Written::Earlier, move |written| {
            match written {
                Err(_) if draft.tainted().is_some() => {
                    // Who goes on writing is told by the answer to that.
                    fs.forget_attributes(draft.node);
                    done(Ok(len));
                }
                other => done(other),
            }
            // The kernel sends what it has gathered when the file is closed, for the most part: the disk begins while
            // the kernel goes on to that.
            draft.begin_writing_out(least);
        });
    }

    /// Writes all of `data`.
    pub fn write(
        self: &Arc<Self>,
        caller: Caller,
        fh: u64,
        offset: u64,
        data: &[u8],
        how: Written,
        done: impl Done<u32>,
    ) {
        let len = data.len() as u32;
        let seen = self.reaper.purges();
        let handle = match self.handles.get(fh) {
            Ok(handle) => handle,
            Err(errno) => return done(Err(errno)),
        };
        let strip = matches!(how, Written::Now { strip: true, .. });
        if let (Handle::Draft { draft, .. }, Written::Now { .. }) = (&*handle, how) {
            // The kernel leaves the time of such a write to the export.
            draft.show(None);
        }
        match &*handle {
            Handle::Draft { draft, writes: true, .. } => match draft.write(data, offset) {
                Ok(Ok(())) => done(self.strip_written(caller, draft, strip).map(|()| len)),
                Ok(Err(blocked)) => {
                    let change = rewrite(data, offset, seen);
                    let (fs, written) = (self.clone(), draft.clone());
                    self.change_later(draft.clone(), blocked, change, move |changed| {
                        done(changed.and_then(|()| fs.strip_written(caller, &written, strip)).map(|()| len));
                    });
                }
                Err(errno) => {
                    let change = rewrite(data, offset, seen);
                    let (fs, written) = (self.clone(), draft.clone());
                    self.change_failed(draft.clone(), errno, change, move |changed| {
                        done(changed.and_then(|()| fs.strip_written(caller, &written, strip)).map(|()| len));
                    });
                }
            },
            Handle::Direct { file, node, writes: true } => {
                done(write_in_place(file, data, offset, how).and_then(|()| {
                    if strip {
                        self.strip_set_ids(caller, &**file)?;
                    }
                    note_written(node, file, offset + u64::from(len))?;
                    Ok(len)
                }))
            }
            Handle::Folder(_) => done(Err(Errno::ISDIR)),
            _ => done(Err(Errno::BADF)),
        }
    }

    fn strip_written(&self, caller: Caller, draft: &Draft, strip: bool) -> Result<()> {
        if strip { self.strip_set_ids(caller, &*draft.content()?) } else { Ok(()) }
    }

    /// Makes the draft ready and tries the change again, off the session thread: it may mean a copy of the version
    /// below, a durable row in the journal, or waiting for a commit in flight.
    fn change_later<T: Send + 'static>(
        self: &Arc<Self>,
        draft: Arc<Draft>,
        blocked: Blocked,
        change: Change<T>,
        done: impl Done<T>,
    ) {
        let fs = self.clone();
        if blocked == Blocked::Sealing {
            // However long that takes: a write that was gathered has been answered already.
            return self.after_commit(draft.clone(), move || fs.change_now(draft, change, done));
        }
        // Who calls otherwise is told, and nothing was changed; a write that was gathered is lost.
        let refuse = move |draft: &Draft, step, errno| {
            if step == WRITE {
                draft.taint(if blocked == Blocked::Promised { UNSEALING } else { WRITE }, errno);
            }
            errno
        };
        // What is written now is the next version of the name, which is not given back before it is.
        let coming = blocked.is_copied().then(|| Expected::of(&draft));
        if blocked.is_copied()
            && draft.is_unwritten()
            && let Err(errno) = self.retake_name(&draft)
        {
            return done(Err(refuse(&draft, change.step, errno)));
        }
        // The kernel may remember the version that it was published as, or that was seen while it did not have its name, which
        // is no longer what its family sees. Not waited for: who holds the folder's lock may wait for the file's, which this
        // request holds.
        if (blocked == Blocked::Published || blocked == Blocked::Clean && draft.was_given_back())
            && let Some(target) = draft.target()
        {
            self.announce(target, true, || ());
        }
        let pool = if blocked.is_copied() { &self.copies } else { &self.slow };
        pool.run(move || {
            let unblocked = draft.unblock(&fs.committer, blocked, change.keep);
            drop(coming);
            match unblocked {
                Ok(()) => fs.change_now(draft, change, done),
                // Room helps a copy alone.
                Err(errno) if blocked.is_copied() && mount::is_no_space(errno) => {
                    fs.change_failed(draft, errno, change, done);
                }
                Err(errno) => done(Err(refuse(&draft, change.step, errno))),
            }
        });
    }

    fn change_now<T: Send + 'static>(self: &Arc<Self>, draft: Arc<Draft>, change: Change<T>, done: impl Done<T>) {
        match (change.call)(&draft) {
            Ok(Ok(value)) => done(Ok(value)),
            Ok(Err(blocked)) => self.change_later(draft, blocked, change, done),
            Err(errno) => self.change_failed(draft, errno, change, done),
        }
    }

    /// Without room, what is kept for later makes way, and the change is tried again as long as something does: others write, too.
    /// Who asks for room ahead of time may ask for more than there ever was, and is refused after one attempt.
    fn change_failed<T: Send + 'static>(
        self: &Arc<Self>,
        draft: Arc<Draft>,
        errno: Errno,
        change: Change<T>,
        done: impl Done<T>,
    ) {
        if !mount::is_no_space(errno) {
            return done(Err(errno));
        }
        let fs = self.clone();
        self.copies.run(move || {
            let is_ahead = change.step == ALLOCATE;
            // Others may have filled it again; but who is over his quota is helped by his own files alone.
            let goes_on = !is_ahead && errno == Errno::NOSPC;
            if change.seen.is_some_and(|seen| fs.reaper.make_room(seen)) {
                let seen = goes_on.then(|| fs.reaper.purges());
                return fs.change_now(draft, Change { seen, ..change }, done);
            }
            if is_ahead {
                draft.give_back_room();
            } else {
                draft.taint(change.step, errno);
            }
            done(Err(errno));
        });
    }

    /// Changes a draft's content by another call than a write.
    pub(super) fn alter<T: Send + 'static>(
        self: &Arc<Self>,
        draft: Arc<Draft>,
        keep: Keep,
        step: &'static str,
        call: impl Fn(&std::fs::File) -> Result<T> + Send + Sync + 'static,
        done: impl Done<T>,
    ) {
        let call: Call<T> = Arc::new(move |draft| draft.alter(step, &call));
        self.change_now(draft, Change { call, keep, step, seen: Some(self.reaper.purges()) }, done);
    }

    /// Allocates, punches or zeroes a range.
    pub fn fallocate(self: &Arc<Self>, caller: Caller, fh: u64, offset: u64, len: u64, mode: u32, done: impl Done<()>) {
        let fs = self.clone();
        let call = move |file: &std::fs::File| {
            at::fallocate(file, mode, offset, len)?;
            fs.strip_set_ids(caller, file)
        };
        match self.handles.get(fh).as_deref() {
            Ok(Handle::Draft { draft, writes: true, .. }) => {
                let frees = FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE | FallocateFlags::COLLAPSE_RANGE;
                let is_ahead = !FallocateFlags::from_bits_retain(mode).intersects(frees);
                let (fs, by_daemon) = (self.clone(), is_ahead && !self.options.nfs);
                let call = move |file: &std::fs::File| {
                    if by_daemon {
                        // Where there is room for a part only, the file would become longer, of which the kernel above knows
                        // nothing.
                        at::fallocate(file, mode | FallocateFlags::KEEP_SIZE.bits(), offset, len)?;
                    }
                    at::fallocate(file, mode, offset, len)?;
                    fs.strip_set_ids(caller, file)
                };
                self.alter(draft.clone(), Keep::All, if by_daemon { ALLOCATE } else { "fallocate" }, call, done);
            }
            Ok(Handle::Direct { file, node, writes: true }) => {
                let end = if mode & FallocateFlags::KEEP_SIZE.bits() == 0 { offset + len } else { 0 };
                done(call(file).and_then(|()| note_written(node, file, end)));
            }
            Ok(_) => done(Err(Errno::BADF)),
            Err(errno) => done(Err(*errno)),
        }
    }

    /// Copies between two open files inside the export's file system where it can; returns the bytes copied.
    #[allow(clippy::too_many_arguments)]
    pub fn copy_range(
        self: &Arc<Self>,
        caller: Caller,
        from: u64,
        src: u64,
        to: u64,
        dst: u64,
        len: u64,
        done: impl Done<u32>,
    ) {
        let source = self.handles.get(from).and_then(|handle| match &*handle {
            Handle::Version { file, .. } | Handle::Direct { file, .. } => Ok(file.clone()),
            Handle::Draft { draft, .. } => draft.content(),
            Handle::Folder(_) => Err(Errno::ISDIR),
        });
        let (source, target) = match (source, self.handles.get(to)) {
            (Ok(source), Ok(target)) => (source, target),
            (Err(errno), _) | (_, Err(errno)) => return done(Err(errno)),
        };
        // The answer is a 32-bit number; a caller asks again for the rest.
        let len = len.min(1 << 30);
        let (fs, stripper, creds) = (self.clone(), self.clone(), self.creds(caller));
        let call = move |file: &std::fs::File| {
            let using = source.using();
            let copy = || copy::copy_range(&*source, src, file, dst, len);
            let copied = stripper.committer.staging.acting_for(creds.as_ref(), copy)?;
            drop(using);
            stripper.strip_set_ids(caller, file).map(|()| copied as u32)
        };
        self.copies.run(move || match &*target {
            Handle::Draft { draft, writes: true, .. } => fs.alter(draft.clone(), Keep::All, "copy", call, done),
            Handle::Direct { file, node, writes: true } => done(call(file).and_then(|copied| {
                note_written(node, file, dst + u64::from(copied))?;
                Ok(copied)
            })),
            _ => done(Err(Errno::BADF)),
        });
    }

    /// Finds data or a hole.
    pub fn seek(self: &Arc<Self>, fh: u64, offset: i64, hole: bool, done: impl Done<u64>) {
        let handle = u64::try_from(offset).map_err(|_| Errno::NXIO).and_then(|at| Ok((at, self.handles.get(fh)?)));
        let (offset, handle) = match handle {
            Ok(handle) => handle,
            Err(errno) => return done(Err(errno)),
        };
        match &*handle {
            Handle::Version { file, .. } | Handle::Direct { file, .. } => {
                done(at::seek_hole_data(&**file, offset, hole));
            }
            Handle::Draft { draft, .. } if draft.is_sealing() => {
                done(draft.content().and_then(|file| at::seek_hole_data(&*file, offset, hole)));
            }
            Handle::Draft { draft, .. } => {
                // The kernel asks without having sent what it has gathered, so it is told to.
                let (fs, draft) = (self.clone(), draft.clone());
                self.gathers.run_apart(move || {
                    fs.gather(draft.node);
                    done(draft.content().and_then(|file| at::seek_hole_data(&*file, offset, hole)));
                });
            }
            Handle::Folder(_) => done(Err(Errno::ISDIR)),
        }
    }

    /// Makes what was written so far durable; publishes nothing.
    pub fn fsync(self: &Arc<Self>, fh: u64, done: impl Done<()>) {
        let handle = match self.handles.get(fh) {
            Ok(handle) => handle,
            Err(errno) => return done(Err(errno)),
        };
        self.slow.run(move || {
            done(match &*handle {
                Handle::Version { file, .. } | Handle::Direct { file, .. } => at::fsync(&**file),
                Handle::Draft { draft, .. } => sync_draft(draft),
                Handle::Folder(_) => Err(Errno::ISDIR),
            });
        });
    }

    /// Makes a folder's names durable.
    pub fn fsync_folder(self: &Arc<Self>, node: u64, done: impl Done<()>) {
        let fs = self.clone();
        self.slow.run(move || done(fs.folder(node).and_then(|folder| fs.committer.sync_folder(&folder))));
    }
}

/// A write that is to be tried again: its data is kept.
fn rewrite(data: &[u8], offset: u64, seen: u64) -> Change<()> {
    let data: Arc<[u8]> = data.into();
    Change { call: Arc::new(move |draft| draft.write(&data, offset)), keep: Keep::All, step: WRITE, seen: Some(seen) }
}

fn read_at(file: &Content, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let _using = file.using();
    at::read_at(file, buffer, offset)
}

fn sync_draft(draft: &Draft) -> Result<()> {
    draft.check()?;
    let synced = draft.content().and_then(|file| at::fsync(&*file));
    if let Err(errno) = synced {
        // An NFS client reports a lost write once; a second fsync would say that all is well.
        draft.taint("fsync", errno);
    }
    synced
}
