//! What a close is told that nothing proves to be the last: its content will be published, whatever happens to the daemon.

use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;

use super::{Draft, Phase, Work};
use crate::commit::{Committer, Target};
use crate::inode::Content;
use crate::journal::Entry;
use crate::sys::{Errno, Result, at, stat};
use crate::{failpoint, unless_skipped};

impl Work {
    /// True while nothing may be written without taking a promise back, or waiting for one that is being made.
    pub(super) fn is_promised(&self) -> bool {
        self.promising.load(Ordering::Acquire) || self.promised.load(Ordering::Acquire)
    }

    /// Says durably that the content is not final. To be called while nothing changes the phase.
    pub(super) fn take_promise_back(&self, by: &Committer) -> Result<()> {
        if self.promised.load(Ordering::Acquire) {
            by.journal
                .submit_durable(Entry::Unsealed { id: self.id })
                .map_err(|error| Errno::from_raw_os_error(error.errno()))?;
            self.promised.store(false, Ordering::Release);
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
            self.sync_for_promise(&staged, by)?;
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
        self.sync_for_promise(&work.staged.file, by)?;
        failpoint!("promise_after_sync");
        // Before the row: what another host puts there in between is not what the row says, and is never overwritten.
        let below = by.held_by(target)?;
        let bytes = stat::fstat(&work.staged.file)?.size;
        by.journal.submit_durable(Entry::Sealed { id: work.id, bytes, below }).map_err(|error| {
            tracing::error!(draft = work.id, %error, "cannot promise a close");
            Errno::from_raw_os_error(error.errno())
        })?;
        work.promised.store(true, Ordering::Release);
        failpoint!("commit_after_seal");
        Ok(())
    }

    /// Its staged name too: without it a power cut would leave a promise of nothing.
    fn sync_for_promise(&self, staged: &Content, by: &Committer) -> Result<()> {
        let synced = unless_skipped!("data", at::fsync(staged)).and_then(|()| by.staging.sync());
        synced.inspect_err(|&errno| self.taint("fsync", errno))
    }
}
