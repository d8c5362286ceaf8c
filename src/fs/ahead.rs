//! What the journal is told of promised drafts before a rename on the export: a crash between the two, or a power cut that
//! keeps only one of them, must not leave recovery looking for a name that is no more.

use std::sync::Arc;

use super::Fs;
use crate::commit::Target;
use crate::draft::Draft;
use crate::inode::{Key, display_path};
use crate::journal::Held;
use crate::sys::at::RenameFlags;
use crate::sys::{Kind, Result, Stat, stat};

/// Drafts whose new paths are in the journal, with what it had of them before.
#[derive(Default)]
pub(super) struct Ahead(Vec<(Arc<Draft>, Vec<u8>, Option<Held>)>);

impl Ahead {
    /// Of these the rename was not made.
    pub(super) fn undo(&self, fs: &Fs) {
        for (draft, path, below) in &self.0 {
            if let Err(errno) = draft.tell_rename(&fs.committer, path.clone(), below.clone(), None) {
                let path = display_path(path);
                tracing::error!(path, %errno, "a name that a promised draft did not get stays in the journal");
            }
        }
    }
}

impl Fs {
    /// Before a draft is renamed by its family: what its name holds goes along; without that it gets what the new one holds.
    pub(super) fn tell_own(&self, draft: &Arc<Draft>, from: &Target, to: &Target) -> Result<Ahead> {
        if !draft.is_promised() {
            return Ok(Ahead::default());
        }
        let held = self.committer.held_by(from)?;
        let (below, came_from) = match &held {
            Held::Inode(_) => (held.clone(), Some(from.path())),
            Held::Nothing | Held::Changed => (self.committer.held_by(to)?, None),
        };
        let told = Ahead(vec![(draft.clone(), from.path(), Some(held))]);
        // What the journal could not write now, it may write later.
        draft.tell_rename(&self.committer, to.path(), Some(below), came_from).inspect_err(|_| told.undo(self))?;
        Ok(told)
    }

    /// Before what has the attributes `moved` is renamed, or changes places: the drafts below it, if it is a folder, keep what
    /// their names hold.
    pub(super) fn tell_below(&self, moved: &Stat, from: &Target, to: &Target, flags: RenameFlags) -> Result<Ahead> {
        let mut told = Ahead::default();
        let all = self.tell_each(moved, &from.path(), &to.path(), &mut told).and_then(|()| {
            if !flags.contains(RenameFlags::EXCHANGE) {
                return Ok(());
            }
            let there = stat::stat_at(self.nodes().fd(&to.parent)?, &to.name)?;
            self.tell_each(&there, &to.path(), &from.path(), &mut told)
        });
        match all {
            Ok(()) => Ok(told),
            Err(errno) => {
                told.undo(self);
                Err(errno)
            }
        }
    }

    fn tell_each(&self, moved: &Stat, from: &[u8], to: &[u8], told: &mut Ahead) -> Result<()> {
        let Some(folder) = self.nodes().of(Key::of(moved)).filter(|node| node.kind == Kind::Dir) else { return Ok(()) };
        for draft in self.drafts.below(&folder).into_iter().filter(|draft| draft.is_promised()) {
            let Some(path) = draft.target().map(|target| target.path()) else { continue };
            let Some(inside) = path.strip_prefix(from) else { continue };
            told.0.push((draft.clone(), path.clone(), None));
            draft.tell_rename(&self.committer, [to, inside].concat(), None, Some(path))?;
        }
        Ok(())
    }
}
