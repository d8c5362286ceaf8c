//! What the journal is told of promised drafts before a rename on the export: a crash between the two, or a power cut that
//! keeps only one of them, must not leave recovery looking for a name that is no more.

use std::sync::Arc;

use super::Fs;
use crate::commit::Target;
use crate::draft::Draft;
use crate::inode::Key;
use crate::journal::{Along, DraftId, Entry, Held};
use crate::sys::at::RenameFlags;
use crate::sys::{Kind, Result, Stat, stat};

/// What the journal was told.
#[derive(Default)]
pub(super) struct Ahead {
    /// The draft that is renamed without a version below, with its name and what that holds: nothing is renamed on the export.
    alone: Option<(Arc<Draft>, Target, Held)>,
    /// Those whose rows say what they had before.
    moved: Vec<DraftId>,
}

impl Ahead {
    /// The rename was not made.
    pub(super) fn undo(&self, fs: &Fs) {
        let undo_alone = |(draft, from, held): &(Arc<Draft>, Target, Held)| {
            draft.tell_rename(&fs.committer, from, held.clone(), None)
        };
        let alone = self.alone.as_ref().map_or(Ok(()), undo_alone);
        let undo_moved = || fs.committer.write_durably(Entry::Stay { ids: self.moved.clone() });
        let moved = if self.moved.is_empty() { Ok(()) } else { undo_moved() };
        if let Err(errno) = alone.and(moved) {
            tracing::error!(%errno, "names that promised drafts did not get stay in the journal");
        }
    }
}

impl Fs {
    /// Before a draft is renamed by its family: what its name holds goes along; without that it gets what the new one holds.
    pub(super) fn tell_own(&self, draft: &Arc<Draft>, from: &Target, to: &Target) -> Result<Ahead> {
        let Some(id) = draft.row().filter(|_| draft.is_promised()) else { return Ok(Ahead::default()) };
        let held = self.committer.held_by(from)?;
        let (below, moved_from, told) = match held {
            Held::Inode(_) => (held, Some(from.path()), Ahead { alone: None, moved: vec![id] }),
            Held::Nothing | Held::Changed => {
                let alone = Some((draft.clone(), from.clone(), held));
                (self.committer.held_by(to)?, None, Ahead { alone, moved: Vec::new() })
            }
        };
        // What the journal could not write now, it may write later.
        draft.tell_rename(&self.committer, to, below, moved_from).inspect_err(|_| told.undo(self))?;
        Ok(told)
    }

    /// Before what has the attributes `moved` is renamed, or changes places: the drafts below it, if it is a folder, keep what
    /// their names hold.
    pub(super) fn tell_below(&self, moved: &Stat, from: &Target, to: &Target, flags: RenameFlags) -> Result<Ahead> {
        let (old, new) = (from.path(), to.path());
        let mut drafts = self.going_along(moved, &old, &new);
        if flags.contains(RenameFlags::EXCHANGE) {
            let there = stat::stat_at(self.nodes().fd(&to.parent)?, &to.name)?;
            drafts.extend(self.going_along(&there, &new, &old));
        }
        let told = Ahead { alone: None, moved: drafts.iter().map(|draft| draft.id).collect() };
        if !drafts.is_empty() {
            // All in one transaction.
            self.committer.write_durably(Entry::GoAlong(drafts)).inspect_err(|_| told.undo(self))?;
        }
        Ok(told)
    }

    fn going_along(&self, moved: &Stat, from: &[u8], to: &[u8]) -> Vec<Along> {
        let Some(folder) = self.nodes().of(Key::of(moved)).filter(|node| node.kind == Kind::Dir) else {
            return Vec::new();
        };
        let along = |draft: Arc<Draft>| {
            let (id, target) = (draft.may_appear()?, draft.target()?);
            let old = target.path();
            let path = [to, old.strip_prefix(from)?].concat();
            Some(Along { id, path, from: old, folder: target.parent.key.ino })
        };
        self.drafts.below(&folder).into_iter().filter_map(along).collect()
    }
}
