//! Renaming. Versions and folders move on the export at once; a draft moves its target, for its own family.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::wait::Until;
use super::{Done, Fs};
use crate::commit::{Target, Unmarked};
use crate::draft::{Caller, Draft};
use crate::failpoint;
use crate::inode::{Key, Node};
use crate::journal::{Entry, Held};
use crate::sys::at::RenameFlags;
use crate::sys::{Errno, Kind, Result, Stat, stat};

/// One side of a rename.
#[derive(Clone)]
struct Side {
    folder: Arc<Node>,
    name: OsString,
    draft: Option<Arc<Draft>>,
}

impl Side {
    fn key(&self) -> (Key, &OsStr) {
        (self.folder.key, &self.name)
    }

    fn target(&self) -> Target {
        Target { parent: self.folder.clone(), name: self.name.clone() }
    }

    fn is(&self, other: &Side) -> bool {
        self.folder.id == other.folder.id && self.name == other.name
    }
}

/// What became of a rename.
enum Renamed {
    Done,
    /// Nothing: a commit of this draft is on its way, which is to be renamed, so that the version that comes of it has to go
    /// along, or to be replaced.
    Awaits(Arc<Draft>),
}

impl Fs {
    /// Renames `name` in `parent` to `new_name` in `new_parent`.
    #[allow(clippy::too_many_arguments)]
    pub fn rename(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        flags: RenameFlags,
        done: impl Done<()>,
    ) {
        let sides = self.side(parent, name).and_then(|from| Ok((from, self.side(new_parent, new_name)?)));
        let (from, to) = match sides {
            Ok(sides) => sides,
            Err(errno) => return done(Err(errno)),
        };
        let waits = |draft: &Arc<Draft>| self.must_wait(draft, caller);
        if let Some(draft) = [&from, &to].into_iter().find_map(|side| side.draft.clone().filter(waits)) {
            let fs = self.clone();
            let names = (from.name.clone(), to.name.clone());
            return self.after_commit(draft, move || {
                fs.rename(caller, parent, &names.0, new_parent, &names.1, flags, done);
            });
        }
        if flags.contains(RenameFlags::EXCHANGE)
            && let Some(draft) =
                [&from, &to].into_iter().find_map(|side| side.draft.clone().filter(|it| it.is_about_to_end()))
        {
            let fs = self.clone();
            let names = (from.name.clone(), to.name.clone());
            return self.park(Until::Released(draft), move |_| {
                fs.rename(caller, parent, &names.0, new_parent, &names.1, flags, done);
            });
        }
        let again = (from.name.clone(), to.name.clone());
        match self.rename_now(caller, from, to, flags) {
            Ok(Renamed::Awaits(draft)) => {
                let fs = self.clone();
                self.after_commit(draft, move || {
                    fs.rename(caller, parent, &again.0, new_parent, &again.1, flags, done);
                });
            }
            renamed => done(renamed.map(drop)),
        }
    }

    fn side(&self, parent: u64, name: &OsStr) -> Result<Side> {
        self.refuse_hidden(parent, name)?;
        let folder = self.folder(parent)?;
        let draft = self.drafts.at(folder.key, name);
        Ok(Side { folder, name: name.to_owned(), draft })
    }

    fn rename_now(self: &Arc<Self>, caller: Caller, from: Side, to: Side, flags: RenameFlags) -> Result<Renamed> {
        if from.is(&to) {
            return Ok(Renamed::Done);
        }
        // Where the kernel has looked up a draft, the client need not know what another host has published.
        for side in [&from, &to].into_iter().filter(|side| side.draft.is_some()) {
            self.committer.revalidated(&side.folder)?;
        }
        let pending_at = |side: &Side| side.draft.as_ref().is_some_and(|draft| draft.is_pending());
        if flags.contains(RenameFlags::EXCHANGE) {
            // Two names that change places, one of which somebody is about to replace: there is no right answer.
            let written_at =
                |side: &Side| side.draft.as_ref().is_some_and(|draft| draft.is_pending() || draft.is_written(None));
            if written_at(&from) || written_at(&to) {
                return Err(Errno::BUSY);
            }
            let moved = self.version_at(&from)?;
            self.rename_versions(caller, &moved, &from, &to, flags, false)?;
            self.locks.renamed(from.key(), to.key(), true);
            return Ok(Renamed::Done);
        }
        if flags.contains(RenameFlags::NOREPLACE) && pending_at(&to) {
            return Err(Errno::EXIST);
        }
        let own = from.draft.clone().filter(|draft| self.is_family(draft, caller));
        let replaced = to.draft.as_ref().filter(|draft| self.is_family(draft, caller));
        let renamed = match &own {
            None => self.rename_over(replaced, || {
                let moved = self.version_at(&from)?;
                self.rename_versions(caller, &moved, &from, &to, flags, false)
            })?,
            Some(draft) => {
                self.refuse_other_file_system(to.folder.key)?;
                // A folder above is renamed before it, or after its row has the new name.
                let _settled = self.committer.renaming_folders.read();
                let move_version = || {
                    let told = self.tell_own(draft, &from.target(), &to.target())?;
                    failpoint!("rename_after_tell");
                    self.move_version_of(caller, draft, &from, &to, flags).inspect_err(|_| told.undo(self))?;
                    failpoint!("rename_before_retarget");
                    Ok(())
                };
                // Where that cannot be told, recovery takes the name only if it is free.
                let held = || self.committer.held_by(&to.target()).unwrap_or(Held::Nothing);
                let call = || self.rename_over(replaced.filter(|there| !Arc::ptr_eq(there, draft)), move_version);
                match draft.rename_for(&self.committer, to.target(), call, held)? {
                    Some(renamed) => renamed,
                    None => return Ok(Renamed::Awaits(draft.clone())),
                }
            }
        };
        if let (false, Some(there)) = (renamed, replaced) {
            return Ok(Renamed::Awaits(there.clone()));
        }
        if let Some(draft) = own {
            self.drafts.unlist(from.folder.key, &from.name, &draft);
            if let Some(there) = &to.draft {
                self.drafts.unlist(to.folder.key, &to.name, there);
            }
            if self.drafts.list(to.folder.key, &to.name, &draft).is_err() {
                tracing::debug!(node = draft.node, "a draft began under the name that another was renamed to");
            }
            draft.shadow();
            if draft.is_over() {
                self.drafts.unlist(to.folder.key, &to.name, &draft);
            } else if !draft.is_pending() {
                // Published under its new name before it was listed there.
                self.drafts.unlist_unused(to.folder.key, &to.name, &draft);
            }
        }
        self.locks.renamed(from.key(), to.key(), false);
        if let Some(there) = &to.draft {
            if replaced.is_some() {
                self.drafts.unlist(to.folder.key, &to.name, there);
            } else {
                there.shadow();
                // The kernel moved its entry along, with what was left of the time it may be remembered: the draft's
                // family would not be asked about. The notice waits for the folder that this rename has locked.
                self.announce(to.target(), true, || {});
            }
        }
        Ok(Renamed::Done)
    }

    /// A rename over a name by `call`. As with any over a file, what the family had open under that name has none any more. False,
    /// and nothing done, while a commit of that is on its way.
    fn rename_over(&self, replaced: Option<&Arc<Draft>>, call: impl FnOnce() -> Result<()>) -> Result<bool> {
        let Some(there) = replaced else { return call().map(|()| true) };
        there.expect_unpromise(&self.committer)?;
        there.unname_for(&self.committer, call)
    }

    fn version_at(&self, side: &Side) -> Result<Stat> {
        stat::stat_at(self.nodes().fd(&side.folder)?, &side.name)
    }

    /// The version under a draft's old name goes along at once; a new name has none.
    fn move_version_of(&self, caller: Caller, draft: &Draft, from: &Side, to: &Side, flags: RenameFlags) -> Result<()> {
        let there = match self.version_at(from) {
            Ok(moved) => match self.rename_versions(caller, &moved, from, to, flags, true) {
                // Another host may have removed it meanwhile.
                Err(Errno::NOENT) => self.version_at(from),
                renamed => return renamed,
            },
            none => none,
        };
        match there {
            Err(Errno::NOENT) if draft.is_pending() => match self.version_at(to) {
                Ok(there) if there.kind == Kind::Dir => Err(Errno::ISDIR),
                Ok(_) if flags.contains(RenameFlags::NOREPLACE) => Err(Errno::EXIST),
                Ok(_) | Err(Errno::NOENT) => Ok(()),
                Err(other) => Err(other),
            },
            Ok(_) => Err(Errno::NOENT),
            Err(other) => Err(other),
        }
    }

    /// What is moved, and what loses its name to it, loses its marker.
    fn drop_markers(
        &self,
        caller: Caller,
        from: &Side,
        to: &Side,
        moved: &Stat,
        flags: RenameFlags,
    ) -> Result<Vec<Unmarked<'_>>> {
        let (is_file, exchanges) = (moved.kind == Kind::File, flags.contains(RenameFlags::EXCHANGE));
        let there = self.version_at(to).ok();
        let is_over_file =
            there.is_some_and(|there| there.kind == Kind::File) && (moved.kind != Kind::Dir || exchanges);
        let mut dropped = Vec::new();
        for (side, loses) in [(from, is_file), (to, is_file || is_over_file)] {
            match if loses { self.drop_marker(caller, &side.folder, &side.name) } else { Ok(None) } {
                Ok(unmarked) => dropped.extend(unmarked),
                Err(errno) => {
                    dropped.into_iter().for_each(Unmarked::put_back);
                    return Err(errno);
                }
            }
        }
        Ok(dropped)
    }

    /// Renames on the export what `moved` was seen to be; `alone` if that is for a draft, which shares `renaming_folders`.
    fn rename_versions(
        &self,
        caller: Caller,
        moved: &Stat,
        from: &Side,
        to: &Side,
        flags: RenameFlags,
        alone: bool,
    ) -> Result<()> {
        let check = |moved: &Stat, replaced: Option<&Stat>| {
            if moved.kind == Kind::Dir {
                if let Some(there) = replaced
                    && !flags.contains(RenameFlags::EXCHANGE)
                {
                    self.refuse_occupied(Key::of(there))?;
                } else if to.draft.as_ref().is_some_and(|draft| draft.is_pending()) {
                    return Err(Errno::NOTDIR);
                }
            }
            Ok(())
        };
        // Before the names are claimed: a marker may be one of them.
        let mut unmarked = self.drop_markers(caller, from, to, moved, flags)?;
        let (old, new) = ((&from.folder, from.name.as_os_str()), (&to.folder, to.name.as_os_str()));
        // Until the drafts below are told of it, no close below is promised: its row would have the old path.
        let moves_folders = moved.kind == Kind::Dir || flags.contains(RenameFlags::EXCHANGE);
        let _settled = (moves_folders && !alone).then(|| self.committer.renaming_folders.write());
        let told = self.tell_below(moved, &from.target(), &to.target(), flags);
        let renamed = told.and_then(|told| {
            failpoint!("rename_before_move");
            let creds = self.creds(caller);
            self.committer.rename(creds.as_ref(), old, new, flags, check).inspect_err(|_| told.undo(self))
        });
        let renamed = renamed.inspect_err(|_| unmarked.drain(..).for_each(Unmarked::put_back))?;
        failpoint!("rename_after_move");
        self.note_moved(&renamed.moved, to);
        if let Some(there) = renamed.replaced
            && flags.contains(RenameFlags::EXCHANGE)
        {
            self.note_moved(&there, from);
        }
        Ok(())
    }

    /// The inode has a new name; drafts below a folder have new paths.
    fn note_moved(&self, moved: &Stat, to: &Side) {
        let Some(node) = self.nodes().moved(moved, &to.folder, &to.name) else { return };
        if node.kind != Kind::Dir {
            return;
        }
        for draft in self.drafts.below(&node) {
            if let (Some(id), Some(target)) = (draft.row(), draft.target()) {
                self.committer.journal.submit(Entry::Retargeted {
                    id,
                    path: target.path(),
                    below: None,
                    folder: None,
                    from: None,
                });
            }
        }
    }
}
