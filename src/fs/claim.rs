//! A draft that was without its name for a while takes it again: only over the version that it stands for, or what somebody
//! else has put there would be lost.

use std::sync::Arc;

use super::Fs;
use crate::commit::Target;
use crate::draft::Draft;
use crate::inode::Key;
use crate::sys::{Errno, Result, stat};

/// What the name of a draft has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    /// The version that the draft stands for, or the draft has no name.
    Own,
    /// Another one.
    Other,
    /// None.
    Nothing,
}

impl Fs {
    /// True if the draft has its name, or got it again.
    pub(super) fn takes_its_name(&self, draft: &Arc<Draft>, truncates: bool) -> Result<bool> {
        let mut looked = Ok(());
        let is_current = || {
            truncates
                || self.is_current(draft).unwrap_or_else(|errno| {
                    looked = Err(errno);
                    false
                })
        };
        let takes = !draft.wants_name() || self.drafts.claim_if(draft, is_current);
        looked.map(|()| takes)
    }

    /// The draft, of which nothing was changed yet, has its name for a write, or got it again. `ESTALE` if somebody else has
    /// the name, or has put another version there: theirs would be overwritten.
    pub(super) fn retake_name(&self, draft: &Arc<Draft>) -> Result<()> {
        let mut looked = Ok(());
        let free = || {
            let there = self.there(draft);
            looked = there.map(drop);
            matches!(there, Ok(There::Own | There::Nothing))
        };
        let takes = self.drafts.claim_if(draft, free);
        looked.and(if takes { Ok(()) } else { Err(Errno::STALE) })
    }

    /// Whether the name has the version that an unchanged draft stands for.
    fn is_current(&self, draft: &Draft) -> Result<bool> {
        self.there(draft).map(|there| there == There::Own)
    }

    /// What the name of an unchanged draft has: another draft may have been published there since it gave the name back.
    fn there(&self, draft: &Draft) -> Result<There> {
        let there =
            |target: Target| stat::stat_at(self.nodes().fd(&target.parent)?, &target.name).map(|there| Key::of(&there));
        let version = match draft.stands_for() {
            Ok(Some(version)) => version,
            Ok(None) => return Ok(There::Own),
            Err(Errno::STALE | Errno::NOENT) => return Ok(There::Other),
            Err(other) => return Err(other),
        };
        match draft.target().map(there) {
            None => Ok(There::Own),
            Some(Ok(found)) if found == version => Ok(There::Own),
            Some(Ok(_)) => Ok(There::Other),
            Some(Err(Errno::NOENT | Errno::STALE)) => Ok(There::Nothing),
            Some(Err(other)) => Err(other),
        }
    }
}
