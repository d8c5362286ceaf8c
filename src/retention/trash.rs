//! What an admin does with rows of the outbox: restore, purge, retry, drop.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::Arc;

use super::Reaper;
use crate::commit::{Target, VerbError, is_there};
use crate::failpoint;
use crate::folders::Holds;
use crate::inode::{Key, Node, display_path};
use crate::journal::{Delta, Entry, JournalError, OutboxId, OutboxKind, OutboxRow, OutboxState, SetAside};
use crate::sys::at::{self, RenameFlags};
use crate::sys::{Errno, Kind, Result, Stat, clock, stat};

impl Reaper {
    /// Puts a file or a tree back: under its old path, or under `to`. Folders above that are missing are made. A name
    /// that is taken stays as it is, unless `replace` says otherwise (and never a folder). `check` is asked whether the path may be
    /// used for that, by a tree or not; `about_to` is told the name that may have changed then, also where that fails.
    pub fn restore(
        &self,
        id: OutboxId,
        to: Option<&[u8]>,
        replace: bool,
        check: impl FnOnce(&[u8], bool) -> Result<()>,
        about_to: impl FnOnce(&Target),
    ) -> std::result::Result<Target, VerbError> {
        self.whole_row(id)?;
        let Some(_busy) = self.work_on(id) else {
            return Err(VerbError::new(Errno::BUSY, format!("row {id} is being removed right now")));
        };
        let row = self.whole_row(id)?;
        let path = to.unwrap_or(&row.aside.path);
        if path.is_empty() {
            return Err(VerbError::new(Errno::NOENT, format!("row {id} has no known path: say where with --to PATH")));
        }
        let shown = display_path(path);
        let failed = |errno: Errno| VerbError::new(errno, format!("restoring {shown}: {errno}"));
        let tree = row.aside.kind == OutboxKind::Tree;
        check(path, tree).map_err(failed)?;
        let target = self.by.folder_for(path).map_err(failed)?;
        about_to(&target);
        let unsynced = self.by.restore(OsStr::new(&row.aside.staged), tree, &target, replace).map_err(failed)?;
        let written = self.by.journal.submit(Entry::Restored { id, path: path.to_vec() });
        self.by.journal.wait(written)?;
        match unsynced {
            Some(errno) => Err(VerbError::new(errno, format!("{shown}: restored, but not durable yet: {errno}"))),
            None => Ok(target),
        }
    }

    /// Rows that wait for the end of their retention are removed now; `None`: all of them. One that nobody removes any
    /// more is refused.
    pub fn purge(&self, ids: Option<Vec<OutboxId>>) -> std::result::Result<(), VerbError> {
        let rows = self.rows(ids.as_deref().unwrap_or_default())?;
        if let Some(row) = rows.iter().find(|row| row.state != OutboxState::Pending) {
            let (id, state) = (row.aside.id, row.state.as_str());
            let message = format!("row {id} is {state}: commitfs outbox retry {id} tries its removal again");
            return Err(VerbError::invalid(message));
        }
        self.by.journal.wait(self.by.journal.submit(Entry::Purged { ids }))?;
        self.poke();
        Ok(())
    }

    /// Rows whose removal has failed get all their attempts again, now. One that is merely kept is refused.
    pub fn retry(&self, ids: Vec<OutboxId>) -> std::result::Result<(), VerbError> {
        let rows = self.rows(&ids)?;
        if let Some(row) = rows.iter().find(|row| row.state == OutboxState::Pending && row.attempts == 0) {
            let id = row.aside.id;
            let message = format!("row {id} has not failed: commitfs trash purge {id} removes it before its time");
            return Err(VerbError::invalid(message));
        }
        self.by.journal.wait(self.by.journal.submit(Entry::Retry { ids }))?;
        self.poke();
        Ok(())
    }

    /// Gives a dead row up: nobody tries to remove its inode any more.
    pub fn drop_row(&self, id: OutboxId) -> std::result::Result<(), VerbError> {
        let refused = || {
            let message = format!("row {id} is not dead: only what was given up can be dropped");
            Err(VerbError::invalid(message))
        };
        // The journal would take it for a fault of ours and log it as one.
        if self.row(id)?.state != OutboxState::Dead {
            return refused();
        }
        match self.by.journal.wait(self.by.journal.submit(Entry::Dropped { id })) {
            // Decided about meanwhile.
            Err(JournalError::Refused { .. }) => refused(),
            other => other.map_err(VerbError::from),
        }
    }

    fn whole_row(&self, id: OutboxId) -> std::result::Result<OutboxRow, VerbError> {
        let row = self.row(id)?;
        if row.begun {
            let message = format!("row {id}: its removal has begun, it is not whole any more");
            return Err(VerbError::new(Errno::NODATA, message));
        }
        Ok(row)
    }

    pub(super) fn row(&self, id: OutboxId) -> std::result::Result<OutboxRow, VerbError> {
        let row = self.by.journal.read(|reader| reader.outbox_row(id))?;
        row.ok_or_else(|| VerbError::new(Errno::NOENT, format!("no outbox row {id}")))
    }

    /// All of them, or an error that names one that there is not.
    fn rows(&self, ids: &[OutboxId]) -> std::result::Result<Vec<OutboxRow>, VerbError> {
        let rows = self.by.journal.read(|reader| reader.outbox_among(ids))?;
        let known: HashSet<OutboxId> = rows.iter().map(|row| row.aside.id).collect();
        match ids.iter().find(|id| !known.contains(id)) {
            Some(id) => Err(VerbError::new(Errno::NOENT, format!("no outbox row {id}"))),
            None => Ok(rows),
        }
    }
}

/// A folder that is being removed whole.
impl Reaper {
    /// Takes a folder out of the name space by one rename. It is marked first, with everything below it: no change of a name
    /// in it begins from there on, and those that had begun are waited for. So nothing is published into the trash.
    pub fn take_out(&self, parent: &Arc<Node>, name: &OsStr, now: bool) -> Result<OutboxId> {
        let by = &self.by;
        let dir = by.nodes.fd(parent)?;
        let claim = by.claim(&[(parent, name)])?;
        let is_folder = |old: &Stat| if old.kind == Kind::Dir { Ok(()) } else { Err(Errno::NOTDIR) };
        let old = match stat::stat_at(&dir, name).and_then(|old| is_folder(&old).map(|()| old)) {
            Ok(old) => old,
            Err(errno) => {
                by.leave(claim, &[(parent, name)]);
                return Err(errno);
            }
        };
        let path = parent.path_of(name);
        let known = by.journal.read(|reader| reader.folder(&path));
        let known = known
            .inspect_err(|error| tracing::warn!(%error, "what a folder holds that is removed is not known"))
            .ok()
            .flatten();
        let retain = if now { std::time::Duration::ZERO } else { by.rules.decide(&path).retain };
        let id = by.journal.next_outbox_id();
        let aside = SetAside {
            id,
            kind: OutboxKind::Tree,
            path,
            staged: by.staging.name_of(id),
            ino: old.ino,
            uid: old.uid,
            gid: old.gid,
            bytes: known.as_ref().map_or(0, |row| row.rbytes),
            files: known.as_ref().map_or(0, |row| row.rfiles + row.rfolders),
            due: clock::now() + retain,
            change: None,
        };
        by.nodes.retire(Key::of(&old));
        // Who had a name in it before the mark may publish under it, and writes that down under its path.
        if let Some(folder) = by.nodes.of(Key::of(&old)) {
            by.totals.wait_for_changes_in(&folder);
        }
        failpoint!("remove_before_move");
        by.journal.leaving(&aside);
        let trash = OsStr::new(&aside.staged);
        let moved = match at::rename(&dir, name, by.staging.trash(), trash, RenameFlags::empty()) {
            // Only the answer was lost.
            Err(_) if is_there(by.staging.trash(), trash, old.ino) => Ok(()),
            other => other,
        };
        failpoint!("remove_after_move");
        let after = if moved.is_ok() { Holds::Nothing } else { Holds::Folder };
        let mut row = None;
        claim.end_moving(&[(Holds::Folder, after)], |_| {
            if moved.is_err() {
                return Vec::new();
            }
            let path = parent.path_of(name);
            let gone = by.totals.entry(Delta::Gone(path.clone()));
            let aside = SetAside { path: path.clone(), ..aside };
            let entries = [Some(Entry::SetAside(aside)), gone].into_iter().flatten().collect();
            row = Some(by.journal.submit(Entry::Together(entries)));
            vec![path]
        });
        if moved.is_err() {
            by.nodes.reinstate(Key::of(&old));
            if by.totals.is_on() {
                // What was written in place meanwhile was taken for gone.
                by.journal.submit(Entry::Recount { folder: parent.path_of(name) });
            }
        }
        moved?;
        self.poke();
        by.sync_folder(parent)?;
        // Whoever is told the number finds its row.
        if let Some(Err(error)) = row.map(|row| by.journal.wait(row)) {
            tracing::error!(id, %error, "a folder is removed, and the row that says so is not written yet");
        }
        Ok(id)
    }
}
