//! A draft that was without its name for a while takes it again: only over the version that it stands for, or what somebody
//! else has put there would be lost.

use std::sync::Arc;
use std::time::Duration;

use super::Fs;
use crate::commit::Target;
use crate::draft::Draft;
use crate::inode::Key;
use crate::sys::{Errno, Result, Stat, stat};

/// How often the version that a draft stands for may be renamed while its name is taken again.
const RENAMED: u32 = 8;

/// How long a rename on the export may take to be known.
const NOTED: Duration = Duration::from_millis(1);

impl Fs {
    /// True while somebody has the file of this name open for writing, or what was written to it is on its way.
    pub fn is_being_written(&self, target: &Target) -> bool {
        let draft = self.drafts.at(target.parent.key, &target.name);
        draft.is_some_and(|draft| draft.is_pending() || draft.is_written(None))
    }

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

    /// The draft, to which nothing was written yet, or nothing since it was published, has its name for a write, or got it
    /// again: the one that its version has by now. `ESTALE` if that has none, or somebody else has the name, or has put another
    /// version there: theirs would be overwritten, or a name would come back that was removed.
    pub(super) fn retake_name(&self, draft: &Arc<Draft>) -> Result<()> {
        for _ in 0..RENAMED {
            let mut looked = Ok(());
            let is_current = || {
                // The kernel has not looked for the name on this account.
                let asked = draft.target().map_or(Ok(()), |it| self.committer.revalidated(&it.parent).map(drop));
                let is_current = match asked.and_then(|()| self.is_current(draft)) {
                    Err(Errno::NOENT | Errno::STALE) => Ok(false),
                    other => other,
                };
                is_current.unwrap_or_else(|errno| {
                    looked = Err(errno);
                    false
                })
            };
            let takes = self.drafts.claim_if(draft, is_current);
            looked?;
            if takes {
                return Ok(());
            }
            let Some(from) = draft.target() else { break };
            match self.renamed_to(draft).filter(|to| !to.is(&from)) {
                Some(to) if draft.follow(&from, to.clone()) => self.drafts.unlist(from.parent.key, &from.name, draft),
                Some(_) => break,
                // A rename may have been made in this very moment, and not be known yet.
                None => std::thread::sleep(NOTED),
            }
        }
        Err(Errno::STALE)
    }

    /// Whether the name has the version that an unchanged draft stands for: another draft may have been published there since it
    /// gave the name back.
    fn is_current(&self, draft: &Draft) -> Result<bool> {
        draft.target().map_or(Ok(true), |target| self.has_version_of(draft, &target))
    }

    fn has_version_of(&self, draft: &Draft, target: &Target) -> Result<bool> {
        let gone = |errno| matches!(errno, Errno::NOENT | Errno::STALE);
        let there = match self.nodes().fd(&target.parent).and_then(|dir| stat::stat_at(dir, &target.name)) {
            Err(errno) if gone(errno) => None,
            other => Some(other?),
        };
        // Looked at later, and so never known less freshly.
        match draft.stands_for() {
            Ok(None) => Ok(true),
            Ok(Some(version)) => Ok(there.is_some_and(|there| is_same(&there, &version))),
            Err(errno) if gone(errno) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// The name that the version of an unchanged draft was renamed to, while the kernel has known it. Not one of several names, or
    /// one that was made as such: what is written under one is not for the others.
    fn renamed_to(&self, draft: &Draft) -> Option<Target> {
        let version = draft.stands_for().ok()??;
        let link = self.nodes().of(Key::of(&version))?.renamed_to()?;
        let target = Target { parent: link.parent?, name: link.name };
        let dir = self.committer.revalidated(&target.parent).ok()?;
        let there = stat::stat_at(dir, &target.name).ok()?;
        (is_same(&there, &version) && there.nlink == 1).then_some(target)
    }
}

/// True for one and the same version.
fn is_same(one: &Stat, other: &Stat) -> bool {
    Key::of(one) == Key::of(other) && (one.size, one.mtime) == (other.size, other.mtime)
}
