//! Drafts: pending writes, each with a node id of its own, hidden from everybody but the writer's family.
//!
//! Lock order: a draft's `body`, then a shard of the table, then its `writers`, then `stream`. `body` is held for reading
//! across a write to the staged file, so that sealing (which takes it for writing) waits for writes in flight, and across a
//! rename of or over the name (`rename_for`, `unname_for`, which wait for a promise first), so that no seal comes in between: it is the one lock that spans I/O,
//! and only this draft's writers wait for it. A draft that is renamed over another comes before that one; the kernel makes
//! changes of the names in a folder one after the other, so that no two renames meet in the other order. Whoever asks about a
//! draft reads past them (`read_recursive`), and no copy is made while it is held for writing: that takes `filling`, which
//! comes before all of them.

mod base;
mod body;
mod change;
mod digest;
mod ending;
mod family;
mod name;
mod promise;
mod proof;
mod reopen;
mod stage;
mod switch;
mod table;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::commit::{Failed, Reason, Sealed, Target};
use crate::failpoint;
use crate::inode::{Content, Key, NodeTable};
use crate::journal::{CommitKind, DraftId, Owner};
use crate::rules::Decision;
use crate::sys::cred::Creds;
use crate::sys::stat::{self, Stat, Time};
use crate::sys::{Errno, Result, mount};

pub use base::Base;
pub use body::{Body, Phase, Work};
pub use change::{Blocked, UNSEALING};
pub use digest::Digester;
pub use ending::{Ending, Kept, Stopped};
pub use family::Caller;
pub use proof::{Closer, Proof, last_close, note_own};
pub use stage::{Keep, NewDraft};
pub use switch::{Expected, Wants};
pub use table::Drafts;
pub use writer::{RELEASE_LIMIT, Writer};

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
    /// Held while the content to begin with is copied.
    filling: Mutex<()>,
    writers: Mutex<family::Writers>,
    stream: Mutex<digest::Stream>,
    taint: Mutex<Option<(&'static str, Errno)>>,
    /// Inode numbers of the versions that it began over, which are its own until it is published.
    began_over: Mutex<Vec<u64>>,
    /// The modification time that its writers see, where the kernel keeps it by itself.
    shown: Mutex<Option<Time>>,
    nlookup: AtomicU64,
    handles: AtomicUsize,
    /// The descriptor whose close or release was the last.
    closed_last: AtomicU64,
    /// Opens that were sent round and will reach it, and first writes on their way.
    expected: AtomicUsize,
    /// It had its name no more because nothing was written.
    given_back: AtomicBool,
    only_appends: AtomicBool,
    only_resizes: AtomicBool,
    /// Calls that changed the content.
    changes: AtomicU64,
    /// Closes of its descriptors, duplicates included.
    closes: AtomicU64,
    /// A version came to lie under the draft's name after the draft began.
    shadows: AtomicBool,
    /// The kernel may write to the staged file by itself, so the daemon does not see what changes.
    bulk: AtomicBool,
    /// Content went to a second staged file after a commit: the kernel may still have the first.
    again: AtomicBool,
    /// Attributes of the staged file were changed.
    touched: AtomicBool,
    /// The largest size that an answer to a look-up had.
    told_size: AtomicU64,
    /// The kernel may make the node anew of an answer that is older than what was written since.
    lags: AtomicBool,
    /// Held while it is looked up and noted what a process that closes has left.
    noting: Mutex<()>,
    /// Held while a draft that nobody writes is opened.
    reopening: Mutex<()>,
    /// What the last commit came to.
    committed: Mutex<Result<()>>,
    /// A close was answered before its commit: who comes after that close must see what it promised.
    awaited: AtomicBool,
}

impl Draft {
    /// The open file to read the draft's content from.
    pub fn content(&self) -> Result<Arc<Content>> {
        self.body.read_recursive().content()
    }

    /// The same, if it is whole: `EBUSY` as long as something may be written to it.
    pub fn settled_content(&self) -> Result<Arc<Content>> {
        let body = self.body.read_recursive();
        if body.phase.is_pending() { Err(Errno::BUSY) } else { body.content() }
    }

    /// The file whose inode stands for the draft where locks are concerned: the version's below it, which others have
    /// open, or its own.
    pub fn lockable(&self) -> Result<Arc<Content>> {
        let body = self.body.read_recursive();
        match body.base.as_ref().and_then(|base| base.file.clone()) {
            Some(file) => Ok(file),
            None => body.content(),
        }
    }

    /// Attributes of the draft as its family sees it. Its inode number is that of the version below until another version
    /// is there: a program that compares the number of its descriptor with that of the path, before and after a write,
    /// finds one file.
    pub fn stat(&self) -> Result<Stat> {
        let body = self.body.read_recursive();
        let stat = match (&body.phase, &body.base) {
            (Phase::Clean | Phase::Filling(None), Some(base)) => base.stat()?,
            _ => stat::fstat(&*body.content()?)?,
        };
        // When the family has taken the draft's name away, a hidden one may be left: the staged file's, or that under
        // which the version is kept for a while.
        let links = match (&body.target, &body.phase, &body.base) {
            (None, Phase::Open(_), _) => 0,
            (None, Phase::Clean | Phase::Filling(None), Some(base)) => {
                stat.nlink.min(base.like.nlink.saturating_sub(1))
            }
            _ => stat.nlink,
        };
        let ino = match (&body.phase, &body.base) {
            (Phase::Published(_) | Phase::Filling(Some(_)), _) | (_, None) => stat.ino,
            (_, Some(base)) => base.like.ino,
        };
        Ok(Stat { nlink: links, ino, ..stat })
    }

    /// Where the draft will appear, unless its name was taken away.
    pub fn target(&self) -> Option<Target> {
        self.body.read_recursive().target.clone()
    }

    /// The inode of the version below.
    pub fn base_key(&self) -> Option<Key> {
        self.body.read_recursive().base.as_ref().map(|base| Key::of(&base.like))
    }

    /// True while a commit is on its way.
    pub fn is_sealing(&self) -> bool {
        matches!(self.body.read_recursive().phase, Phase::Sealing(..))
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

    /// True if its last writer may have closed it, and the version is not there yet.
    pub fn is_about_to_end(&self) -> bool {
        self.held_until().is_some() && self.is_pending() || self.is_sealing()
    }

    /// True while the draft may still become a version: it has content of its own and accepts writes, or is on its
    /// way.
    pub fn is_pending(&self) -> bool {
        self.body.read_recursive().phase.is_pending()
    }

    /// True while a writer of the draft claims its name. Also after a commit: what it writes then is the next version,
    /// and nobody shall begin one from the last meanwhile.
    pub fn wants_name(&self) -> bool {
        let phase = &self.body.read_recursive().phase;
        matches!(phase, Phase::Clean | Phase::Filling(_) | Phase::Open(_) | Phase::Published(_))
    }

    /// True if nothing was written to it, or nothing since it was published.
    pub fn is_unwritten(&self) -> bool {
        matches!(self.body.read_recursive().phase, Phase::Clean | Phase::Published(_))
    }

    /// Calls `then` with the name where it would appear, if nothing was written to it, or nothing since it was published:
    /// nobody begins to before `then` is done.
    fn while_unwritten(&self, then: impl FnOnce(&Target)) {
        let body = self.body.read_recursive();
        if let (Phase::Clean | Phase::Published(_), Some(target)) = (&body.phase, &body.target) {
            then(target);
        }
    }

    /// True if it was without its name for a while, in which the kernel may have remembered the version there.
    pub fn was_given_back(&self) -> bool {
        self.given_back.load(Ordering::Acquire)
    }

    /// True if there is no version below: the name is new.
    pub fn is_new(&self) -> bool {
        self.body.read_recursive().base.is_none()
    }

    /// The journal's id and the present size, while the draft accepts writes.
    pub fn progress(&self) -> Option<(DraftId, u64)> {
        match &self.body.read_recursive().phase {
            Phase::Open(work) => Some((work.id, stat::fstat(&work.staged.file).ok()?.size)),
            _ => None,
        }
    }

    /// Owner, mode or attributes of the draft were changed: it is a new version whether or not it is written to.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    /// True if nothing more will come of it: a quarantined draft takes no further writes.
    pub fn is_over(&self) -> bool {
        matches!(self.body.read_recursive().phase, Phase::Ended(_))
    }

    /// True while nothing was changed and there is a version below.
    pub fn is_clean(&self) -> bool {
        matches!(self.body.read_recursive().phase, Phase::Clean)
    }

    /// True while the content to begin with is being copied, which may take long.
    pub fn is_filling(&self) -> bool {
        matches!(self.body.read_recursive().phase, Phase::Filling(_))
    }

    /// True if the next write waits for a copy.
    pub fn is_copied_for_a_write(&self) -> bool {
        matches!(self.body.read_recursive().phase, Phase::Clean | Phase::Filling(_) | Phase::Published(_))
    }

    /// Waits for a copy that is being made.
    pub fn wait_filled(&self) {
        drop(self.filling.lock());
    }

    /// Ends the writing: from here on nothing can change the content. `None` if there is nothing to publish or
    /// somebody else seals already.
    pub fn seal(&self) -> Option<Ending> {
        self.seal_if(|_| true)
    }

    /// As [`Draft::seal`], for the close or the release of `closed`, which was found to be the last. `None` also if
    /// somebody has joined since: their content is not complete.
    pub fn seal_after(&self, closed: u64) -> Option<Ending> {
        failpoint!("seal_begins");
        self.seal_if(|_| {
            let is_last = !self.is_written(Some(closed));
            if is_last {
                self.closed_last.store(closed, Ordering::Release);
            }
            is_last
        })
    }

    /// Whoever joins is a writer before the content changes, and changes wait for `body`.
    fn seal_if(&self, is_over: impl FnOnce(&Body) -> bool) -> Option<Ending> {
        let began = Instant::now();
        let mut body = self.body.write();
        if !matches!(body.phase, Phase::Open(_)) || !is_over(&body) {
            return None;
        }
        let Phase::Open(work) = std::mem::replace(&mut body.phase, Phase::Ended(None)) else { return None };
        body.phase = Phase::Sealing(work.id, work.staged.file.clone());
        let untouched = !self.touched.load(Ordering::Acquire) && work.is_untouched(self.is_passed_through());
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
            // Kept, unless a write was lost since: without it the content is not what the last close would have been of.
            (Some(_), Some(Reason::Failed { step, errno }))
                if promised && step != UNSEALING && mount::is_failure(errno) =>
            {
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
                shown: self.shown.lock().take(),
                below: None,
                began,
            }),
        })
    }

    /// Ends a sealing. An open that has waited since before it keeps the name, or finds the draft published and takes the
    /// name again: `unlist`, which takes the draft off the name unless such a one is there, and the end are one step.
    pub fn finish(&self, phase: Phase, unlist: impl FnOnce()) {
        let mut body = self.body.write();
        debug_assert!(matches!(body.phase, Phase::Sealing(..)));
        unlist();
        body.phase = phase;
    }

    /// A version was put under the draft's name by somebody else.
    pub fn shadow(&self) {
        self.shadows.store(true, Ordering::Release);
    }

    /// True if the kernel may know a version under the draft's name.
    pub fn replaces(&self) -> bool {
        self.shadows.load(Ordering::Acquire) || !self.is_new()
    }

    /// True if somebody opened it for writing after the close for which it was sealed.
    pub(super) fn has_writers_since_seal(&self) -> bool {
        self.has_writers_but(self.closed_last.load(Ordering::Acquire))
    }

    /// True while an open that was sent round is about to reach it, or a first write.
    pub(super) fn is_expected(&self) -> bool {
        self.expected.load(Ordering::Acquire) > 0
    }

    fn opened(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }

    /// One descriptor is gone.
    pub fn closed(&self) {
        self.handles.fetch_sub(1, Ordering::AcqRel);
    }

    /// Lets go of the descriptor of a published or ended draft that nobody has open, and of the memory that only writers need: the
    /// kernel may remember its node for as long as it likes, and the space of a file without a name is free when its last
    /// descriptor is closed. True if it cannot, and neither can one that was not written to: the version after this one would be begun
    /// from it. Then the kernel is to forget the node, or it costs a descriptor until it looks again.
    #[must_use]
    pub fn let_go(&self, nodes: &Arc<NodeTable>) -> bool {
        let mut body = self.body.write();
        if self.is_open() {
            return false;
        }
        let (Phase::Published(Kept::Open(file)) | Phase::Ended(Some(Kept::Open(file)))) = &body.phase else {
            return matches!(body.phase, Phase::Clean);
        };
        self.stream.lock().lose();
        self.writers.lock().shrink();
        let closed = nodes.handle_of(&**file).map(|handle| Kept::Closed(handle, nodes.clone()));
        match (&mut body.phase, closed) {
            (Phase::Published(kept), Some(closed)) => *kept = closed,
            (Phase::Published(_), None) => return true,
            (phase, closed) => *phase = Phase::Ended(closed),
        }
        false
    }

    /// Takes a descriptor again, for somebody who opens a published or ended draft: `ESTALE` if its content is gone.
    pub fn take_hold(&self) -> Result<()> {
        let is_closed =
            |phase: &Phase| matches!(phase, Phase::Published(Kept::Closed(..)) | Phase::Ended(Some(Kept::Closed(..))));
        if !is_closed(&self.body.read_recursive().phase) {
            return Ok(());
        }
        let mut body = self.body.write();
        if let Phase::Published(kept) | Phase::Ended(Some(kept)) = &mut body.phase {
            *kept = Kept::Open(kept.file()?);
        }
        Ok(())
    }

    /// True while a descriptor refers to the draft.
    fn is_open(&self) -> bool {
        self.handles.load(Ordering::Acquire) > 0
    }

    /// True when neither the kernel nor a descriptor refers to the draft any more.
    fn is_unreferenced(&self) -> bool {
        self.nlookup.load(Ordering::Acquire) == 0 && !self.is_open()
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
