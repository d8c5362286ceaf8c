//! What a daemon that died left behind, resolved from the journal and the file system together.
//!
//! One arm per state found; `docs/JOURNAL.md` has the same table. Runs in the background after the mount serves; the
//! names it may still publish are held back meanwhile.

use std::ffi::OsStr;
use std::time::Instant;

use super::{Committer, Reason, Sealed, Staged, Target, marker};
use crate::failpoint;
use crate::inode::{Content, Key, display_path};
use crate::journal::{Commit, DraftRow, DraftState, Entry, Held, JournalError};
use crate::sys::{Errno, Result, Stat, at, mount};

/// What happened since the daemon that left something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Another instance has taken this one for dead and has what lay in staging.
    pub adopted: bool,
    /// The machine was started anew: names that were not synced may be gone, and rows that were not.
    pub restarted: bool,
}

/// What recovery did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Renames that had happened and are now recorded.
    pub recorded: u64,
    /// Promised drafts that were published.
    pub rolled_forward: u64,
    /// Drafts that went to quarantine.
    pub quarantined: u64,
    /// Drafts of which nothing is left to tell what became of them.
    pub lost: u64,
}

/// True for an error that what was promised outlives: the export fails as a whole, or has no room for a name, which the
/// reaper, or whoever removes something, gives back.
pub(super) fn may_pass(errno: Errno) -> bool {
    mount::is_failure(errno) || mount::is_no_space(errno)
}

impl Committer {
    /// Drafts left over by an earlier daemon. To be read before the first new draft begins.
    pub fn left_over(&self) -> std::result::Result<Vec<DraftRow>, JournalError> {
        self.journal.unfinished()
    }

    /// Resolves the drafts in `rows`, then removes `markers`, which were not finished. Returns the targets that were
    /// published, so that the kernel can be told, and the staged names of what went to quarantine, to be made durable when
    /// no name waits any more. Staged files without a row are left to the sweeper.
    pub fn recover(
        &self,
        rows: Vec<DraftRow>,
        markers: &[String],
        before: Before,
    ) -> (Recovered, Vec<Target>, Vec<String>) {
        let mut done = Recovered::default();
        let (mut published, mut kept) = (Vec::new(), Vec::new());
        let mut resolve = |mut row: DraftRow| {
            failpoint!("recover_before_resolve");
            let found = self.find_path(&mut row);
            let (id, ino, path, promised) = (row.id, row.ino, row.path.clone(), row.state == DraftState::Sealed);
            let marked = self.wants_marker(&path);
            let (stage, quarantined) = (row.stage.clone(), done.quarantined);
            match self.resolve(row, found, marked, before, &mut done) {
                Ok(target) => published.extend(target),
                // The row keeps its state: it is tried again if it was promised, and by the next mount.
                Err(errno) => {
                    tracing::error!(draft = id, %errno, "cannot resolve this draft now");
                    if promised {
                        self.postpone_again(id);
                    }
                }
            }
            if done.quarantined > quarantined {
                kept.push(stage);
            }
            if marked {
                // Of a commit that was cut off: its version, or the one before, which was without its marker for a while.
                self.complete_marker(id, &path, |there| there.ino == ino || self.was_committed(&path, there));
            }
        };
        // What was published, and not written down, came after every promise that was: it must be known first.
        let is_staged = |row: &DraftRow| self.staging.stat(&row.stage).err() != Some(Errno::NOENT);
        let (staged, gone): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_staged);
        gone.into_iter().chain(staged).for_each(&mut resolve);
        for name in markers {
            if let Err(errno) = self.staging.remove(name) {
                tracing::error!(stage = name, %errno, "cannot remove a marker that was not finished");
            }
        }
        (done, published, kept)
    }

    /// The staged markers there are. To be read before the first new draft begins.
    pub fn staged_markers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in at::entries(at::open_dir(self.staging.dir(), OsStr::new("."))?)? {
            let name = entry?.name.to_string_lossy().into_owned();
            if name.starts_with(marker::STAGED) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// `found` is what [`Committer::find_path`] said.
    fn resolve(
        &self,
        row: DraftRow,
        found: std::result::Result<(), (&'static str, Errno)>,
        marked: bool,
        before: Before,
        done: &mut Recovered,
    ) -> Result<Option<Target>> {
        match self.staging.stat(&row.stage) {
            // A staged name goes away by a rename to its target, or by a removal that the journal knew of first. This
            // row says neither, so it was renamed; perhaps its name was replaced or removed since. Unless the power was
            // cut: then the name may have gone by itself, and the row that knew of a removal too. What was promised has
            // its name for certain.
            Err(Errno::NOENT) => {
                let there = self.published(&row.path, row.ino);
                if there.is_none() && before.adopted {
                    self.journal.submit(Entry::Quarantined {
                        id: row.id,
                        reason: "its content was adopted by another instance while this one was down".to_owned(),
                        bytes: 0,
                        kept: false,
                    });
                    done.quarantined += 1;
                    return Ok(None);
                }
                if there.is_none() && before.restarted && row.state == DraftState::Open {
                    let reason = "gone when the machine was started again: not published, or removed since".to_owned();
                    self.journal.submit(Entry::Discarded { id: row.id, reason });
                    done.lost += 1;
                    return Ok(None);
                }
                if there.is_none() {
                    tracing::warn!(draft = row.id, path = display_path(&row.path), "published, and gone again since");
                }
                self.record_published(&row, there);
                done.recorded += 1;
                Ok(None)
            }
            Err(other) => Err(other),
            Ok(_) if row.state == DraftState::Sealed => {
                match found.and_then(|()| self.roll_forward_by_path(&row, marked)) {
                    Ok(target) => {
                        done.rolled_forward += 1;
                        Ok(Some(target))
                    }
                    Err((_, errno)) if may_pass(errno) => Err(errno),
                    Err((step, errno)) => {
                        self.give_to_quarantine(&row, Reason::of_promised(step, errno))?;
                        done.quarantined += 1;
                        Ok(None)
                    }
                }
            }
            Ok(_) => {
                self.give_to_quarantine(&row, Reason::Stopped)?;
                done.quarantined += 1;
                Ok(None)
            }
        }
    }

    /// Whether something was done to the name since the close was promised.
    pub(super) fn is_overtaken(&self, row: &DraftRow) -> bool {
        let found = self.journal.read(|reader| reader.is_overtaken(row.id));
        found.unwrap_or_else(|error| {
            tracing::error!(draft = row.id, %error, "cannot tell whether its name has changed");
            true
        })
    }

    /// The inode of a draft in quarantine if its name holds it: its rename was made, and the export failed before anybody
    /// could see that. Not if something happened to the name since: then it may be another inode with the same number.
    pub fn renamed_after_all(&self, row: &DraftRow) -> Option<Stat> {
        let there = self.published(&row.path, row.ino).filter(|_| !self.is_overtaken(row))?;
        tracing::warn!(draft = row.id, path = display_path(&row.path), "in quarantine, and published after all");
        Some(there)
    }

    /// Size and time are the inode's own where it still has its name, else the last ones reported.
    pub fn record_published(&self, row: &DraftRow, there: Option<Stat>) {
        self.journal.submit(Entry::Committed(Commit {
            id: row.id,
            path: row.path.clone(),
            ino: row.ino,
            size: there.map_or(row.bytes, |there| there.size),
            digest: None,
            mtime: there.map_or(row.changed_at, |there| there.mtime.to_system()),
            uid: there.map_or(row.owner.uid, |there| there.uid),
            duration: std::time::Duration::ZERO,
            kind: row.kind,
            change: None,
        }));
    }

    fn roll_forward_by_path(&self, row: &DraftRow, marked: bool) -> std::result::Result<Target, (&'static str, Errno)> {
        // At the last moment: recovery may be slow, and who waits for its names does not wait for ever.
        let target = self.folder_of(&row.path).map_err(|errno| ("folder", errno))?;
        let below = self.below_promised(row, &target).map_err(|errno| ("name", errno))?;
        self.roll_forward(row, target, marked, below)
    }

    /// Which path a draft has: the one that leads to its folder. Where a rename was written down before it was made, there are two;
    /// if that was one of the draft itself, the one that leads to the version below it. Fails if the folder is somewhere else, and
    /// another one has its place perhaps, and if the export does.
    pub(super) fn find_path(&self, row: &mut DraftRow) -> std::result::Result<(), (&'static str, Errno)> {
        let is_known = row.moved_alone || row.folder.is_some() && self.numbers_last(row);
        if row.moved_from.is_none() && !is_known || self.is_at(row, &row.path)? {
            return Ok(());
        }
        let old = match &row.moved_from {
            Some(old) if self.is_at(row, old)? => old.clone(),
            _ if row.moved_alone || row.folder.is_none() => return Ok(()),
            _ => return Err(("folder", Errno::NOENT)),
        };
        // First: what events tell of a name is looked up by the row.
        self.journal.submit(Entry::Stay { ids: vec![row.id] });
        match self.journal.row(row.id) {
            Ok(Some(now)) => *row = now,
            found => {
                tracing::error!(draft = row.id, ?found, "cannot read its row again");
                (row.path, row.moved_from, row.below) = (old, None, Some(Held::Changed));
            }
        }
        Ok(())
    }

    /// False on an export that gives its inodes other numbers after each mount: by them nothing can be told.
    fn numbers_last(&self, row: &DraftRow) -> bool {
        self.staging.stat(&row.stage).is_ok_and(|staged| staged.ino == row.ino)
    }

    fn is_at(&self, row: &DraftRow, path: &[u8]) -> std::result::Result<bool, (&'static str, Errno)> {
        let found = self.folder_of(path).and_then(|target| match row.folder.filter(|_| !row.moved_alone) {
            Some(folder) => Ok(target.parent.key.ino == folder),
            None => {
                let (now, _) = self.look(&target)?;
                // It may be published there already.
                Ok(now.ino() == Some(row.ino) || row.below.as_ref().is_some_and(|below| below.is_still(&now)))
            }
        });
        match found {
            Err(errno) if mount::is_failure(errno) => Err(("folder", errno)),
            found => Ok(found.unwrap_or(false)),
        }
    }

    /// What a name holds, for the row of its draft.
    pub fn held_by(&self, target: &Target) -> Result<Held> {
        self.look(target).map(|(held, _)| held)
    }

    fn look(&self, target: &Target) -> Result<(Held, Option<Stat>)> {
        Held::look(self.revalidated(&target.parent)?, &target.name)
    }

    /// What is to be replaced by a draft whose close was promised, as `below` in [`Sealed`]. `EEXIST` if the name was changed
    /// since: nothing newer is overwritten.
    pub(super) fn below_promised(&self, row: &DraftRow, target: &Target) -> Result<Option<Option<Key>>> {
        if self.is_overtaken(row) {
            return Err(Errno::EXIST);
        }
        // An older commitfs promised it: no more is known.
        let Some(then) = &row.below else { return Ok(None) };
        let (now, there) = self.look(target)?;
        let follows = |there: Stat| self.journal.read(|reader| reader.follows(row.id, there.ino)).unwrap_or(false);
        if then.is_still(&now) || there.is_some_and(follows) {
            return Ok(Some(there.as_ref().map(Key::of)));
        }
        Err(Errno::EXIST)
    }

    /// Publishes what was promised. `below` as in [`Sealed`].
    pub(super) fn roll_forward(
        &self,
        row: &DraftRow,
        target: Target,
        marked: bool,
        below: Option<Option<Key>>,
    ) -> std::result::Result<Target, (&'static str, Errno)> {
        let file = self.staging.read(&row.stage).map_err(|errno| ("open", errno))?;
        let sealed = Sealed {
            id: row.id,
            staged: Staged { file: Content::new(file), name: row.stage.clone(), ino: row.ino },
            target,
            kind: row.kind,
            writer: None,
            digest: None,
            marked,
            promised: true,
            shown: None,
            below,
            began: Instant::now(),
        };
        let durable = sealed.make_durable().map_err(|failed| (failed.step, failed.errno))?;
        let published = durable.publish(self).map_err(|failed| (failed.step, failed.errno))?;
        if let Some(errno) = published.unsynced.filter(|&errno| mount::is_failure(errno)) {
            published.abandon(self);
            return Err(("fsync of the folder", errno));
        }
        failpoint!("recover_after_rename");
        let (target, recorded) = published.record(self);
        if let Err(errno) = recorded {
            tracing::error!(draft = row.id, %errno, "rolled forward, but the folder is not durable yet");
        }
        Ok(target)
    }

    pub(super) fn give_to_quarantine(&self, row: &DraftRow, reason: Reason) -> Result<()> {
        let file = Content::new(self.staging.read(&row.stage)?);
        let staged = Staged { file, name: row.stage.clone(), ino: row.ino };
        self.quarantine(row.id, &staged, reason, &row.path, &row.owner);
        Ok(())
    }
}
