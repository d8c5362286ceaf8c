//! What a close is told that nothing proves to be the last: its content will be published, whatever happens to the daemon.

use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::RwLockWriteGuard;

use super::{Body, Draft, Phase, Work};
use crate::commit::{Committer, Target};
use crate::journal::{DraftId, Entry, Held};
use crate::sys::{Errno, Result, at, stat};
use crate::{failpoint, unless_skipped};

/// Key in `meta`: when it was last tried whether the journal can write.
const ASKED: &str = "asked";

impl Work {
    /// True while nothing may be written without taking a promise back, or waiting for one that is being made.
    pub(super) fn holds_writes_back(&self) -> bool {
        self.promising.load(Ordering::Acquire) || self.promised.load(Ordering::Acquire)
    }

    /// Says durably that the content is not final. To be called while nothing changes the phase.
    pub(super) fn take_promise_back(&self, by: &Committer) -> Result<()> {
        if self.promised.load(Ordering::Acquire) {
            by.write_durably(Entry::Unsealed { id: self.id })?;
            self.promised.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl Body {
    /// Takes the name away, and before that what was promised for it.
    pub(super) fn take_name(&mut self, by: &Committer) -> Result<()> {
        if let Phase::Open(work) = &self.phase {
            work.take_promise_back(by)?;
        }
        if let Some(target) = self.target.take() {
            self.unlinked = target.path();
        }
        Ok(())
    }
}

impl Draft {
    /// Says durably in the journal that the content is final unless a further write says otherwise. Only for a close
    /// without proof; the data is made durable first.
    pub fn promise(&self, by: &Committer) -> Result<()> {
        // Most of it while others go on.
        let staged = match &self.body.read_recursive().phase {
            Phase::Open(work) => Some(work.staged.file.clone()),
            _ => None,
        };
        if let Some(staged) = staged {
            self.sync_for_promise(|| unless_skipped!("data", at::fsync(&*staged)))?;
        }
        // The rest while nobody writes: what comes after the sync would be promised too.
        let body = self.body.write();
        if let Phase::Open(work) = &body.phase {
            work.promising.store(true, Ordering::Release);
        }
        let body = RwLockWriteGuard::downgrade(body);
        let Phase::Open(work) = &body.phase else {
            // Given up, or another close has sealed it.
            drop(body);
            return self.check();
        };
        let promised = self.write_promise(work, body.target.as_ref(), by);
        work.promising.store(false, Ordering::Release);
        promised
    }

    fn write_promise(&self, work: &Work, target: Option<&Target>, by: &Committer) -> Result<()> {
        // The release will publish nothing.
        if self.is_refused() {
            return Err(Errno::IO);
        }
        // Another close was faster, or there is no name to publish it under.
        let Some(target) = target.filter(|_| !work.promised.load(Ordering::Acquire)) else { return Ok(()) };
        // Its staged name too: without it a power cut would leave a promise of nothing.
        self.sync_for_promise(|| {
            unless_skipped!("data", at::fsync(&work.staged.file)).and_then(|()| by.staging.sync())
        })?;
        failpoint!("promise_after_sync");
        // No folder above is renamed until the row says where it is. Not behind one that waits for a rename of a draft, which may
        // wait for this body.
        let _settled = by.renaming_folders.read_recursive();
        // Before the row: what another host puts there in between is not what the row says, and is never overwritten.
        let below = by.held_by(target)?;
        let bytes = stat::fstat(&work.staged.file)?.size;
        let (path, folder) = (target.path(), target.parent.key.ino);
        by.write_durably(Entry::Sealed { id: work.id, bytes, path, folder, below })
            .inspect_err(|errno| tracing::error!(draft = work.id, %errno, "cannot promise a close"))?;
        work.promised.store(true, Ordering::Release);
        failpoint!("commit_after_seal");
        Ok(())
    }

    fn sync_for_promise(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        sync().inspect_err(|&errno| self.taint("fsync", errno))
    }

    /// Fails if the journal could not take a promise back now: that follows a change of names which cannot be undone.
    pub fn expect_unpromise(&self, by: &Committer) -> Result<()> {
        match &self.body.read_recursive().phase {
            // Something that is another each time: what is there already, SQLite does not write.
            Phase::Open(work) if work.promised.load(Ordering::Acquire) => {
                by.write_durably(Entry::Meta { key: ASKED, value: format!("{:?}", Instant::now()) })
            }
            _ => Ok(()),
        }
    }

    /// True while the journal promises a close.
    pub fn is_promised(&self) -> bool {
        matches!(&self.body.read_recursive().phase, Phase::Open(work) if work.promised.load(Ordering::Acquire))
    }

    /// The draft's id while its content may appear, should the daemon die: a close was promised, or a commit is on its way.
    pub fn may_appear(&self) -> Option<DraftId> {
        match &self.body.read_recursive().phase {
            Phase::Open(work) if work.promised.load(Ordering::Acquire) => Some(work.id),
            Phase::Sealing(id, _) => Some(*id),
            _ => None,
        }
    }

    /// The draft's id while its row tells where it will appear.
    pub fn row(&self) -> Option<DraftId> {
        match &self.body.read_recursive().phase {
            Phase::Open(Work { id, .. }) | Phase::Sealing(id, _) => Some(*id),
            _ => None,
        }
    }

    /// Says durably where the draft will appear: before the rename on the export that moves what `from` holds, so that
    /// recovery knows both names, or with its old one if that was not made after all. For one whose close was promised.
    pub fn tell_rename(&self, by: &Committer, to: &Target, below: Held, from: Option<Vec<u8>>) -> Result<()> {
        let (path, below, folder) = (to.path(), Some(below), Some(to.parent.key.ino));
        match &self.body.read_recursive().phase {
            Phase::Open(work) => by.write_durably(Entry::Retargeted { id: work.id, path, below, folder, from }),
            _ => Ok(()),
        }
    }
}
