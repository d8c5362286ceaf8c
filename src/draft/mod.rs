//! Drafts: pending writes, each with a node id of its own, hidden from everybody but the writer's family.
//!
//! Lock order: a draft's `body`, then a shard of the table, then its work's `promising`, then its `writers`, then
//! `stream`. `body` is held for reading across a write to the staged file, so that sealing (which takes it for writing)
//! waits for writes in flight: it is the one lock that spans I/O, and only this draft's writers meet it.

mod digest;
mod ending;
mod family;
mod proof;
mod stage;
mod switch;
mod table;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::commit::{Failed, Reason, Sealed, Staged, Target};
use crate::inode::{Content, Key, NodeTable};
use crate::journal::{CommitKind, DraftId, Owner};
use crate::rules::Decision;
use crate::sys::cred::Creds;
use crate::sys::stat::{self, Stat, Time};
use crate::sys::{Errno, Result, at, mount, writeback};

pub use digest::Digester;
pub use ending::{Ending, Kept};
pub use family::{Caller, Writer};
pub use proof::{Proof, last_close};
pub use stage::{Keep, NewDraft};
pub use switch::Wants;
pub use table::Drafts;

/// A pending write on one name.
#[derive(Debug)]
pub struct Draft {
    /// Its node id; never a version's.
    pub node: u64,
    /// What the rules say of its path.
    pub decision: Decision,
    /// Credentials of whoever began it.
    pub creds: Option<Creds>,
    /// Who began it, for the journal.
    pub owner: Owner,
    body: RwLock<Body>,
    writers: Mutex<family::Writers>,
    stream: Mutex<digest::Stream>,
    taint: Mutex<Option<(&'static str, Errno)>>,
    nlookup: AtomicU64,
    handles: AtomicUsize,
    only_appends: AtomicBool,
    only_resizes: AtomicBool,
    /// A version came to lie under the draft's name after the draft began.
    shadows: AtomicBool,
    /// The kernel may write to the staged file by itself, so the daemon does not see what changes.
    bulk: AtomicBool,
    /// Content went to a second staged file after a commit: the kernel may still have the first.
    again: AtomicBool,
    /// Attributes of the staged file were changed.
    touched: AtomicBool,
    /// A close was answered before its commit: who comes after that close must see what it promised.
    awaited: AtomicBool,
}

/// Content and target of a draft.
#[derive(Debug)]
pub struct Body {
    /// What there is to read and write.
    pub phase: Phase,
    /// Where it will appear; `None` once its family unlinked it.
    pub target: Option<Target>,
    /// The version it was opened over.
    pub base: Option<Base>,
    /// Where it would have appeared, once its family unlinked it: for the journal.
    pub unlinked: Vec<u8>,
}

/// The version below a draft.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its content, until a commit is on its way: an NFS client moves a file that it has open out of the way before it
    /// renames over it, and the name would be absent for that moment.
    pub file: Option<Arc<Content>>,
    /// `file` refers to the inode and cannot be read: who began the draft truncates.
    pub unread: bool,
    /// Its inode.
    pub key: Key,
    /// Names that the inode had.
    pub links: u32,
}

/// A draft's content.
#[derive(Debug)]
pub enum Phase {
    /// Nothing was changed yet: reads come from the version below.
    Clean,
    /// Accepts writes.
    Open(Work),
    /// No writer is left; a commit is on its way.
    Sealing(Arc<Content>),
    /// Published. A write that still arrives gets a fresh staged file.
    Published(Kept),
    /// Quarantined or dropped: nothing more will come of it.
    Ended(Option<Arc<Content>>),
}

/// A staged file that accepts writes.
#[derive(Debug)]
pub struct Work {
    /// The draft's id in the journal.
    pub id: DraftId,
    /// The file.
    pub staged: Staged,
    /// True while the journal says `sealed`: a close was promised without proof, and a further write must take that
    /// back first.
    pub promised: AtomicBool,
    /// Held while that is written.
    pub promising: Mutex<()>,
    /// How the version will have come to be, if nothing else is seen.
    pub kind: CommitKind,
    /// Bytes written so far, overwritten ones included.
    pub written: AtomicU64,
    /// Size and time of the copy before anybody could write to it, if that would tell whether somebody did.
    pub copied: Option<(u64, Time)>,
}

impl Work {
    /// True if the content is the copy that it began with.
    fn is_untouched(&self) -> bool {
        let there = || stat::fstat(&self.staged.file).map(|stat| (stat.size, stat.mtime));
        self.copied.is_some_and(|copied| there() == Ok(copied))
    }
}

/// After each so many bytes the disk is asked to begin: a commit of a large file then waits for the last of them only.
const EARLY_BYTES: u64 = 8 << 20;

/// What to do before a write can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The version below must be copied.
    Clean,
    /// The journal still promises the content as it is.
    Promised,
    /// A commit is on its way: wait for its end.
    Sealing,
    /// The content is published: write to a fresh copy.
    Published,
    /// The draft ended; there is nothing to write to.
    Ended,
}

impl Draft {
    /// The open file to read the draft's content from.
    pub fn content(&self) -> Result<Arc<Content>> {
        self.body.read().content()
    }

    /// The file whose inode stands for the draft where locks are concerned: the version's below it, which others have
    /// open, or its own.
    pub fn lockable(&self) -> Result<Arc<Content>> {
        let body = self.body.read();
        match body.base.as_ref().and_then(|base| base.file.clone()) {
            Some(file) => Ok(file),
            None => body.content(),
        }
    }

    /// Attributes of the draft as its family sees it.
    pub fn stat(&self) -> Result<Stat> {
        let body = self.body.read();
        let stat = stat::fstat(&*body.content()?)?;
        // When the family has taken the draft's name away, a hidden one may be left: the staged file's, or that under
        // which the version is kept for a while.
        let links = match (&body.target, &body.phase, &body.base) {
            (None, Phase::Open(_), _) => 0,
            (None, Phase::Clean, Some(base)) => stat.nlink.min(base.links.saturating_sub(1)),
            _ => stat.nlink,
        };
        Ok(Stat { nlink: links, ..stat })
    }

    /// Where the draft will appear, unless its name was taken away.
    pub fn target(&self) -> Option<Target> {
        self.body.read().target.clone()
    }

    /// The inode of the version below.
    pub fn base_key(&self) -> Option<Key> {
        self.body.read().base.as_ref().map(|base| base.key)
    }

    /// True while a commit is on its way.
    pub fn is_sealing(&self) -> bool {
        matches!(self.body.read().phase, Phase::Sealing(_))
    }

    /// The close that comes before this draft's commit is about to be answered, or was.
    pub fn await_commit(&self) {
        self.awaited.store(true, Ordering::Release);
    }

    /// True while a commit is on its way that outsiders have to wait for. They need not for one inside a close that has
    /// not returned.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire) && self.is_sealing()
    }

    /// True while the draft may still become a version: it has content of its own and accepts writes, or is on its
    /// way.
    pub fn is_pending(&self) -> bool {
        matches!(self.body.read().phase, Phase::Open(_) | Phase::Sealing(_))
    }

    /// True while a writer of the draft claims its name. Also after a commit: what it writes then is the next version,
    /// and nobody shall begin one from the last meanwhile.
    pub fn wants_name(&self) -> bool {
        matches!(self.body.read().phase, Phase::Clean | Phase::Open(_) | Phase::Published(_))
    }

    /// Where it would appear, as long as nothing was written to it, or nothing since it was published.
    fn unwritten(&self) -> Option<Target> {
        let body = self.body.read();
        body.target.clone().filter(|_| matches!(body.phase, Phase::Clean | Phase::Published(_)))
    }

    /// True if there is no version below: the name is new.
    pub fn is_new(&self) -> bool {
        self.body.read().base.is_none()
    }

    /// The journal's id and the present size, while the draft accepts writes.
    pub fn progress(&self) -> Option<(DraftId, u64)> {
        match &self.body.read().phase {
            Phase::Open(work) => Some((work.id, stat::fstat(&work.staged.file).ok()?.size)),
            _ => None,
        }
    }

    /// Runs `call` on the staged file while no seal can come in between.
    pub fn change<T>(&self, call: impl FnOnce(&Work) -> Result<T>) -> Result<std::result::Result<T, Blocked>> {
        let body = self.body.read();
        match &body.phase {
            Phase::Open(work) if work.promised.load(Ordering::Acquire) => Ok(Err(Blocked::Promised)),
            Phase::Open(work) => call(work).map(Ok),
            Phase::Clean => Ok(Err(Blocked::Clean)),
            Phase::Sealing(_) => Ok(Err(Blocked::Sealing)),
            Phase::Published(_) => Ok(Err(Blocked::Published)),
            Phase::Ended(_) => Ok(Err(Blocked::Ended)),
        }
    }

    /// Writes to the staged file; the error taints the draft, except that there is no room: whoever asked makes room and
    /// tries once more, or taints it.
    pub fn write(&self, data: &[u8], offset: u64) -> Result<std::result::Result<(), Blocked>> {
        let written = self.change(|work| {
            at::write_at(&work.staged.file, data, offset)?;
            self.stream.lock().feed(offset, data);
            let before = work.written.fetch_add(data.len() as u64, Ordering::Relaxed);
            if before / EARLY_BYTES != (before + data.len() as u64) / EARLY_BYTES {
                writeback::start(&work.staged.file);
            }
            Ok(())
        });
        if let Ok(Ok(())) = written {
            self.only_resizes.store(false, Ordering::Relaxed);
        }
        self.tainting("write", written, |_| true)
    }

    /// The staged file for the kernel to write to by itself from now on; `None` where that could be another one than an
    /// earlier descriptor of this draft writes to. Only for who has joined as a writer, or reads.
    pub fn pass_through(&self) -> Option<Arc<Content>> {
        let body = self.body.read();
        let Phase::Open(work) = &body.phase else { return None };
        if self.again.load(Ordering::Acquire) {
            return None;
        }
        self.bulk.store(true, Ordering::Release);
        self.only_resizes.store(false, Ordering::Relaxed);
        self.stream.lock().lose();
        Some(work.staged.file.clone())
    }

    /// True if the kernel may change the content, and with it size and times, by itself.
    pub fn is_passed_through(&self) -> bool {
        self.bulk.load(Ordering::Acquire)
    }

    /// Owner, mode or attributes of the draft were changed: it is a new version whether or not it is written to.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    /// True while nothing was changed and there is a version below.
    pub fn is_clean(&self) -> bool {
        matches!(self.body.read().phase, Phase::Clean)
    }

    /// Asks the disk to begin with what was written, if that is this much and not more than what each write begins by itself:
    /// asked again and again, a file system lays a large file out in small pieces.
    pub fn begin_writing_out(&self, least: u64) {
        if let Phase::Open(work) = &self.body.read().phase
            && (least..EARLY_BYTES).contains(&work.written.load(Ordering::Relaxed))
        {
            writeback::start(&work.staged.file);
        }
    }

    /// As [`Draft::write`], by another call: a resize, a hole, a copy inside the file system.
    pub fn alter<T>(
        &self,
        step: &'static str,
        call: impl FnOnce(&File) -> Result<T>,
    ) -> Result<std::result::Result<T, Blocked>> {
        let altered = self.change(|work| call(&work.staged.file));
        if let Ok(Ok(_)) = altered {
            self.stream.lock().lose();
            if step != "truncate" {
                self.only_resizes.store(false, Ordering::Relaxed);
            }
        }
        // What the caller asked for wrongly, and was told at once, says nothing about the content.
        let wishes = [Errno::INVAL, Errno::OPNOTSUPP, Errno::FBIG, Errno::BADF, Errno::INTR];
        self.tainting(step, altered, |errno| !wishes.contains(&errno))
    }

    fn tainting<T>(
        &self,
        step: &'static str,
        result: Result<std::result::Result<T, Blocked>>,
        counts: impl FnOnce(Errno) -> bool,
    ) -> Result<std::result::Result<T, Blocked>> {
        if let Err(errno) = result
            && !mount::is_no_space(errno)
            && counts(errno)
        {
            self.taint(step, errno);
        }
        result
    }

    /// Remembers the first failure: from here on every fsync and close of the draft returns it, and it is never
    /// published.
    pub fn taint(&self, step: &'static str, errno: Errno) {
        let mut taint = self.taint.lock();
        if taint.is_none() {
            tracing::warn!(node = self.node, step, %errno, "draft tainted");
            *taint = Some((step, errno));
        }
    }

    /// The first failure, if there was one.
    pub fn tainted(&self) -> Option<(&'static str, Errno)> {
        *self.taint.lock()
    }

    /// What a close is told: the first failure, if there was one.
    pub fn check(&self) -> Result<()> {
        self.tainted().map_or(Ok(()), |(_, errno)| Err(errno))
    }

    /// Ends the writing: from here on nothing can change the content. `None` if there is nothing to publish or
    /// somebody else seals already.
    pub fn seal(&self) -> Option<Ending> {
        self.seal_if(|_| true)
    }

    /// As [`Draft::seal`], for the close or the release of `closed`, which was found to be the last. `None` also if
    /// somebody has joined since: their content is not complete.
    pub fn seal_after(&self, closed: u64) -> Option<Ending> {
        self.seal_if(|_| !self.has_writers_but(closed))
    }

    /// Whoever joins is a writer before the content changes, and changes wait for `body`.
    fn seal_if(&self, is_over: impl FnOnce(&Body) -> bool) -> Option<Ending> {
        let began = Instant::now();
        let mut body = self.body.write();
        if !matches!(body.phase, Phase::Open(_)) || !is_over(&body) {
            return None;
        }
        let Phase::Open(work) = std::mem::replace(&mut body.phase, Phase::Ended(None)) else { return None };
        body.phase = Phase::Sealing(work.staged.file.clone());
        let untouched = !self.touched.load(Ordering::Acquire) && work.is_untouched();
        let promised = work.promised.load(Ordering::Acquire);
        let target = body.target.clone();
        let kind = self.kind(&work, body.base.is_some());
        let below = body.base.as_mut().and_then(|base| base.file.take());
        drop(body);
        drop(below);
        let reason = match (self.tainted(), self.writers.lock().failed_exit(&self.decision)) {
            (Some((step, errno)), _) => Some(Reason::Failed { step, errno }),
            (None, Some(exit)) => Some(Reason::Exit(exit)),
            (None, None) => None,
        };
        Some(match (target, reason) {
            (None, _) => Ending::Unnamed { id: work.id, staged: work.staged },
            (Some(_), None) if untouched => Ending::Untouched { id: work.id, staged: work.staged },
            (Some(_), Some(Reason::Failed { step, errno })) if promised && mount::is_failure(errno) => {
                Ending::Postponed { id: work.id, staged: work.staged, failed: Failed { step, errno } }
            }
            (Some(_), Some(reason)) => Ending::Refused { id: work.id, staged: work.staged, reason },
            (Some(target), None) => Ending::Commit(Sealed {
                id: work.id,
                digest: self.stream.lock().digest(&work.staged.file),
                staged: work.staged,
                target,
                kind,
                writer: self.creds.clone(),
                marked: false,
                promised,
                below: None,
                began,
            }),
        })
    }

    /// Ends a sealing.
    pub fn finish(&self, phase: Phase) {
        let mut body = self.body.write();
        debug_assert!(matches!(body.phase, Phase::Sealing(_)));
        body.phase = phase;
    }

    /// Takes the draft's name away: nothing will be published. False while a commit is on its way.
    pub fn unname(&self) -> bool {
        let mut body = self.body.write();
        if matches!(body.phase, Phase::Sealing(_)) {
            return false;
        }
        if let Some(target) = body.target.take() {
            body.unlinked = target.path();
        }
        true
    }

    /// Gives the draft another name. False while a commit is on its way.
    pub fn retarget(&self, target: Target) -> bool {
        let mut body = self.body.write();
        if matches!(body.phase, Phase::Sealing(_)) {
            return false;
        }
        body.target = Some(target);
        true
    }

    /// A version was put under the draft's name by somebody else.
    pub fn shadow(&self) {
        self.shadows.store(true, Ordering::Release);
    }

    /// True if the kernel may know a version under the draft's name.
    pub fn replaces(&self) -> bool {
        self.shadows.load(Ordering::Acquire) || !self.is_new()
    }

    /// The daemon stops: a draft that still has writers ends here, one whose close was promised is sealed.
    pub fn stop(&self) -> Option<Ending> {
        self.give_up(Reason::Stopped, |work| !work.promised.load(Ordering::Acquire) && self.has_writers())
    }

    /// Its folder is removed whole.
    pub fn remove(&self) -> Option<Ending> {
        self.give_up(Reason::Removed, |_| true)
    }

    /// Seals, and where `lost` publishes nothing: then every close from here on says so.
    fn give_up(&self, reason: Reason, lost: impl FnOnce(&Work) -> bool) -> Option<Ending> {
        let mut given_up = false;
        let ending = self.seal_if(|body| {
            let Phase::Open(work) = &body.phase else { return false };
            given_up = body.target.is_some() && self.tainted().is_none() && lost(work);
            if given_up {
                self.taint(reason.step(), reason.errno());
            }
            true
        })?;
        Some(match ending {
            Ending::Refused { id, staged, .. } if given_up => Ending::Refused { id, staged, reason },
            other => other,
        })
    }

    /// Counts one more open descriptor, of a reader or a writer.
    pub fn opened(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }

    /// One descriptor is gone.
    pub fn closed(&self) {
        self.handles.fetch_sub(1, Ordering::AcqRel);
    }

    /// Lets go of the descriptor of a published draft that nobody has open.
    pub fn let_go(&self, nodes: &Arc<NodeTable>) {
        let mut body = self.body.write();
        if let Phase::Published(kept @ Kept::Open(_)) = &mut body.phase
            && self.handles.load(Ordering::Acquire) == 0
            && let Ok(file) = kept.file()
            && let Some(handle) = nodes.handle_of(&*file)
        {
            *kept = Kept::Closed(handle, nodes.clone());
        }
    }

    /// Takes a descriptor again, for somebody who opens a published draft: `ESTALE` if its content is gone.
    pub fn take_hold(&self) -> Result<()> {
        if !matches!(self.body.read().phase, Phase::Published(Kept::Closed(..))) {
            return Ok(());
        }
        let mut body = self.body.write();
        if let Phase::Published(kept @ Kept::Closed(..)) = &mut body.phase {
            *kept = Kept::Open(kept.file()?);
        }
        Ok(())
    }

    /// True when neither the kernel nor a descriptor refers to the draft any more.
    fn is_unreferenced(&self) -> bool {
        self.nlookup.load(Ordering::Acquire) == 0 && self.handles.load(Ordering::Acquire) == 0
    }

    fn kind(&self, work: &Work, has_base: bool) -> CommitKind {
        if !has_base {
            CommitKind::New
        } else if work.kind == CommitKind::Overwrite {
            CommitKind::Overwrite
        } else if self.only_resizes.load(Ordering::Relaxed) {
            CommitKind::Truncate
        } else if self.only_appends.load(Ordering::Relaxed) {
            CommitKind::Append
        } else {
            CommitKind::Overwrite
        }
    }
}

impl Body {
    /// Its name, for the journal: the last one if it has none any more.
    fn path(&self) -> Vec<u8> {
        self.target.as_ref().map_or_else(|| self.unlinked.clone(), Target::path)
    }

    fn content(&self) -> Result<Arc<Content>> {
        match &self.phase {
            Phase::Clean => self.base.as_ref().and_then(|base| base.file.clone()).ok_or(Errno::IO),
            Phase::Open(work) => Ok(work.staged.file.clone()),
            Phase::Sealing(file) | Phase::Ended(Some(file)) => Ok(file.clone()),
            Phase::Published(kept) => kept.file(),
            Phase::Ended(None) => Err(Errno::IO),
        }
    }
}
