//! Changes of a draft's content, and the first one that failed.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Draft, Phase, Work};
use crate::inode::Content;
use crate::sys::stat::Time;
use crate::sys::{Errno, Result, at, mount, stat, writeback};

/// After each so many bytes the disk is asked to begin: a commit of a large file then waits for the last of them only.
const EARLY_BYTES: u64 = 8 << 20;

/// What has failed when a write came after a promise and that could not be taken back.
pub const UNSEALING: &str = "taking a promise back";

/// What the caller asked for wrongly, and was told at once: the content is what it was.
const WISHES: [Errno; 4] = [Errno::INVAL, Errno::OPNOTSUPP, Errno::FBIG, Errno::BADF];

/// What to do before a write can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The version below must be copied.
    Clean,
    /// The journal promises the content as it is, or is about to.
    Promised,
    /// A commit is on its way: wait for its end.
    Sealing,
    /// The content is published: write to a fresh copy.
    Published,
    /// The draft ended; there is nothing to write to.
    Ended,
}

impl Blocked {
    /// True if it means a copy, which takes as long as the version is large.
    pub fn is_copied(self) -> bool {
        matches!(self, Blocked::Clean | Blocked::Published)
    }
}

impl Draft {
    /// Runs `call` on the staged file while no seal can come in between.
    pub fn change<T>(&self, call: impl FnOnce(&Work) -> Result<T>) -> Result<std::result::Result<T, Blocked>> {
        let body = self.body.read();
        match &body.phase {
            Phase::Open(work) if work.holds_writes_back() => Ok(Err(Blocked::Promised)),
            Phase::Open(work) => {
                let changed = call(work);
                if !changed.as_ref().is_err_and(|&errno| WISHES.contains(&errno) || mount::is_no_space(errno)) {
                    work.changed.store(true, Ordering::Release);
                }
                self.changes.fetch_add(1, Ordering::AcqRel);
                changed.map(Ok)
            }
            Phase::Clean | Phase::Filling(None) => Ok(Err(Blocked::Clean)),
            Phase::Sealing(..) => Ok(Err(Blocked::Sealing)),
            Phase::Published(_) | Phase::Filling(Some(_)) => Ok(Err(Blocked::Published)),
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
        let body = self.body.read_recursive();
        let Phase::Open(work) = &body.phase else { return None };
        if self.again.load(Ordering::Acquire) {
            return None;
        }
        self.bulk.store(true, Ordering::Release);
        self.only_resizes.store(false, Ordering::Relaxed);
        self.stream.lock().lose();
        self.show(None);
        Some(work.staged.file.clone())
    }

    /// True if the kernel may change the content, and with it size and times, by itself.
    pub fn is_passed_through(&self) -> bool {
        self.bulk.load(Ordering::Acquire)
    }

    /// True if its content went to a second staged file after a commit.
    pub fn is_again(&self) -> bool {
        self.again.load(Ordering::Acquire)
    }

    /// True if content that it gets now goes to a second staged file, or did.
    pub fn would_begin_again(&self) -> bool {
        let phase = &self.body.read_recursive().phase;
        self.is_again() || matches!(phase, Phase::Published(_) | Phase::Filling(Some(_)) | Phase::Sealing(..))
    }

    /// Asks the disk to begin with what was written, if that is this much and not more than what each write begins by itself:
    /// asked again and again, a file system lays a large file out in small pieces.
    pub fn begin_writing_out(&self, least: u64) {
        if let Phase::Open(work) = &self.body.read_recursive().phase
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
        let altered = self.change(|work| {
            // Before any seal can come, which takes the digest; and what fails may have been done in part.
            self.stream.lock().lose();
            let altered = call(&work.staged.file)?;
            self.show(None);
            if step != "truncate" {
                self.only_resizes.store(false, Ordering::Relaxed);
            }
            Ok(altered)
        });
        self.tainting(step, altered, |errno| !WISHES.contains(&errno) && errno != Errno::INTR)
    }

    /// Gives back what was allocated behind the end of the staged file. Nobody writes to it meanwhile.
    pub fn give_back_room(&self) {
        let body = self.body.write();
        if let Phase::Open(work) = &body.phase
            && let Err(errno) = stat::fstat(&work.staged.file).and_then(|now| at::truncate(&work.staged.file, now.size))
        {
            tracing::debug!(node = self.node, %errno, "a staged file keeps room that it does not need");
        }
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

    /// Writers see this modification time until the kernel says otherwise, whatever the export makes of the writes that it
    /// has gathered. `None` where it does not keep the time by itself, or not after this change.
    pub fn show(&self, time: Option<Time>) {
        *self.shown.lock() = time;
    }

    /// Remembers the first failure: from here on every fsync and close of the draft returns it, and it is never
    /// published.
    pub fn taint(&self, step: &'static str, errno: Errno) {
        if self.spoil(step, errno) {
            tracing::warn!(node = self.node, step, %errno, "draft tainted");
        }
    }

    /// As [`Draft::taint`], for what is logged otherwise. False if it had failed before.
    pub fn spoil(&self, step: &'static str, errno: Errno) -> bool {
        let mut taint = self.taint.lock();
        let is_first = taint.is_none();
        taint.get_or_insert((step, errno));
        is_first
    }

    /// The first failure, if there was one.
    pub fn tainted(&self) -> Option<(&'static str, Errno)> {
        *self.taint.lock()
    }

    /// A commit came to this.
    pub fn note_commit(&self, recorded: Result<()>) {
        *self.committed.lock() = recorded;
    }

    /// What a close is told that may come behind the commit: as [`Draft::check`], or what that commit came to.
    pub fn outcome(&self) -> Result<()> {
        self.check().and_then(|()| *self.committed.lock())
    }

    /// What a close or an fsync is told: the first failure, if there was one, or that another writer's end forbids
    /// publication.
    pub fn check(&self) -> Result<()> {
        match self.tainted() {
            Some((_, errno)) => Err(errno),
            None if self.is_pending() && self.is_refused() => Err(Errno::IO),
            None => Ok(()),
        }
    }

    /// As [`Draft::check`], for a close that is held: the end of the daemon sees that, and waits for the release, or has given
    /// the draft up before, and this says so.
    pub fn check_held(&self) -> Result<()> {
        let _body = self.body.read_recursive();
        self.check()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use super::*;
    use crate::commit::{Staged, Target};
    use crate::draft::NewDraft;
    use crate::inode::NodeTable;
    use crate::journal::{CommitKind, Owner};
    use crate::rules::Rules;

    /// A draft of a new name, without an export.
    pub fn open_draft() -> Arc<Draft> {
        let folder = tempfile::tempdir().unwrap();
        let nodes = NodeTable::new(File::open(folder.path()).unwrap().into(), 8).unwrap();
        let draft = Draft::new(NewDraft {
            node: 2,
            target: Target { parent: nodes.root().clone(), name: "f".into() },
            base: None,
            decision: Rules::default().decide(b"f").clone(),
            creds: None,
            owner: Owner::default(),
        });
        draft.body.write().phase = Phase::Open(Work {
            id: 1,
            staged: Staged { file: Content::new(tempfile::tempfile().unwrap()), name: "1".to_owned(), ino: 1 },
            promised: AtomicBool::new(false),
            promising: AtomicBool::new(false),
            kind: CommitKind::New,
            written: AtomicU64::new(0),
            changed: AtomicBool::new(true),
            copied: None,
        });
        draft
    }

    #[test]
    fn a_digest_does_not_outlast_a_change_that_does_not_stream_through() {
        let draft = open_draft();
        draft.write(b"content", 0).unwrap().unwrap();
        let digest = |file: &File| draft.stream.lock().digest(file);
        assert!(digest(&draft.content().unwrap()).is_some());
        // Who seals comes as soon as the change is over.
        let within = draft.alter("fallocate", |file| Ok(digest(file)));
        assert_eq!(within, Ok(Ok(None)));
    }
}
