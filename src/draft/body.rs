//! What a draft has: content, the name where it will appear, the version below.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Base;
use super::ending::Kept;
use crate::commit::{Staged, Target};
use crate::inode::Content;
use crate::journal::{CommitKind, DraftId};
use crate::sys::stat::{self, Time};
use crate::sys::{Errno, Result};

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

/// A draft's content.
#[derive(Debug)]
pub enum Phase {
    /// Nothing was changed yet: reads come from the version below.
    Clean,
    /// The version below is being copied, or the published content: there is only that until then.
    Filling(Option<Kept>),
    /// Accepts writes.
    Open(Work),
    /// No writer is left; a commit is on its way.
    Sealing(DraftId, Arc<Content>),
    /// Published, or without a name there was nothing to publish. A write that still arrives gets a fresh staged file.
    Published(Kept),
    /// Quarantined or dropped: nothing more will come of it.
    Ended(Option<Kept>),
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
    /// True while that is being written, for which the phase stays as it is: who is blocked by it waits for the body.
    pub promising: AtomicBool,
    /// How the version will have come to be, if nothing else is seen.
    pub kind: CommitKind,
    /// Bytes written so far, overwritten ones included.
    pub written: AtomicU64,
    /// The content is not, or no more, that of the version below.
    pub changed: AtomicBool,
    /// Size and time of the copy before the kernel could write to it by itself, if they would tell whether it did.
    pub copied: Option<(u64, Time)>,
}

impl Phase {
    /// True while something may come of what was written, or is on its way to be.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Phase::Filling(_) | Phase::Open(_) | Phase::Sealing(..))
    }
}

impl Work {
    /// True if the content is the copy that it began with. `passed`: the kernel may have written to it by itself.
    pub(super) fn is_untouched(&self, passed: bool) -> bool {
        let there = || stat::fstat(&self.staged.file).map(|stat| (stat.size, stat.mtime));
        !self.changed.load(Ordering::Acquire) && (!passed || self.copied.is_some_and(|copied| there() == Ok(copied)))
    }
}

impl Body {
    /// Its name, for the journal: the last one if it has none any more.
    pub(super) fn path(&self) -> Vec<u8> {
        self.target.as_ref().map_or_else(|| self.unlinked.clone(), Target::path)
    }

    pub(super) fn content(&self) -> Result<Arc<Content>> {
        match &self.phase {
            Phase::Clean | Phase::Filling(None) => {
                self.base.as_ref().and_then(|base| base.file.clone()).ok_or(Errno::IO)
            }
            Phase::Open(work) => Ok(work.staged.file.clone()),
            Phase::Sealing(_, file) => Ok(file.clone()),
            Phase::Published(kept) | Phase::Filling(Some(kept)) | Phase::Ended(Some(kept)) => kept.file(),
            Phase::Ended(None) => Err(Errno::IO),
        }
    }
}
