//! The sweeper compares the trash and staging folders with the journal, in pages, both ways: an inode without a row, a
//! row without an inode.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, SystemTime};

use super::Reaper;
use crate::commit::STAGED_MARKER;
use crate::failpoint;
use crate::journal::{DraftState, Entry, JournalError, OutboxId, OutboxKind, SetAside};
use crate::sys::{Errno, Kind, Stat, at, clock, mount, stat};

/// Names and rows per page.
const PAGE: usize = 1000;
/// This daemon's own names that have come into the trash folder within this time may have their row on its way, or not
/// yet have lost their other name: an export that hangs makes each step take as long as it likes.
const SETTLED: Duration = Duration::from_secs(600);

/// What a sweep has found, and, unless it was a dry run, put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Inodes in the trash folder without a row: they get one.
    pub trash_without_row: u64,
    /// Names in the trash folder of inodes that have another name: removed.
    pub trash_still_named: u64,
    /// Outbox rows without an inode: removed.
    pub rows_without_trash: u64,
    /// Staged files without a row: to quarantine.
    pub staged_without_row: u64,
    /// Drafts in quarantine whose content is not there: noted; committed, if it is found under their name.
    pub drafts_without_content: u64,
    /// Staging and trash folders of dead instances: adopted.
    pub dead_instances: u64,
    /// Names in the staging and the trash folder that commitfs does not give: left alone, and nothing to put right.
    pub foreign: u64,
}

impl Swept {
    /// True if nothing was wrong.
    pub fn is_clean(&self) -> bool {
        Swept { foreign: 0, ..*self } == Swept::default()
    }

    fn leave_alone(&mut self, name: impl std::fmt::Debug) {
        tracing::warn!(?name, "somebody else has put this into the staging or the trash folder: it is left alone");
        self.foreign += 1;
    }
}

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The export.
    #[error("{what}: {errno}")]
    Export {
        /// What was looked at.
        what: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Reaper {
    /// Compares both sides, and puts right what is wrong if `repair` says so.
    pub fn sweep(&self, repair: bool) -> Result<Swept, SweepError> {
        let _alone = self.sweeping.lock();
        failpoint!("sweep_begins");
        let mut swept = Swept::default();
        // One that fails holds up no other.
        let outcomes = [
            self.sweep_trash(repair, &mut swept),
            self.sweep_rows(repair, &mut swept),
            self.sweep_staged(repair, &mut swept),
            self.sweep_drafts(repair, &mut swept),
            self.sweep_instances(repair, &mut swept),
        ];
        let mut errors = outcomes.into_iter().filter_map(Result::err);
        let Some(first) = errors.next() else { return Ok(swept) };
        // The first is told to whoever asked.
        errors.for_each(|error| tracing::warn!(%error, "another part of the sweep failed"));
        Err(first)
    }

    fn sweep_trash(&self, repair: bool, swept: &mut Swept) -> Result<(), SweepError> {
        let failed = |errno| SweepError::Export { what: "trash folder", errno };
        let folder = at::open_dir(self.by.staging.trash(), OsStr::new(".")).map_err(failed)?;
        // The server's time, where there is a lease to take it from.
        let now = self.by.staging.beat(self.options.lease).map_or_else(|_| clock::now(), |beat| beat.at);
        let mut page = Vec::with_capacity(PAGE);
        for entry in at::entries(folder).map_err(failed)? {
            match OsString::from(entry.map_err(failed)?.name).into_string() {
                Ok(name) if mount::is_set_aside(&name) => {}
                Ok(name) => page.push(name),
                Err(name) => swept.leave_alone(name),
            }
            if page.len() == PAGE {
                self.sweep_names(&page, now, repair, swept)?;
                page.clear();
            }
        }
        self.sweep_names(&page, now, repair, swept)
    }

    fn sweep_names(
        &self,
        names: &[String],
        now: SystemTime,
        repair: bool,
        swept: &mut Swept,
    ) -> Result<(), SweepError> {
        let own = format!(".{:x}", self.by.staging.started());
        let on_its_way = |name: &str, stat: &Stat| {
            name.ends_with(&own) && now.duration_since(stat.ctime.to_system()).unwrap_or_default() < SETTLED
        };
        let mut found: Vec<(String, Stat)> = Vec::new();
        for name in self.unknown(names)? {
            match stat::stat_at(self.by.staging.trash(), OsStr::new(&name)) {
                Ok(stat) if on_its_way(&name, &stat) => {}
                Ok(stat) if stat.kind != Kind::Dir && stat.nlink > 1 => {
                    swept.trash_still_named += 1;
                    if repair && let Err(errno) = at::unlink(self.by.staging.trash(), OsStr::new(&name)) {
                        tracing::warn!(name, %errno, "cannot remove a second name");
                    }
                }
                Ok(stat) if stat.kind == Kind::Dir && !is_given(&name) => swept.leave_alone(name),
                Ok(stat) => found.push((name, stat)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(SweepError::Export { what: "name in the trash folder", errno }),
            }
        }
        swept.trash_without_row += found.len() as u64;
        if !repair || found.is_empty() {
            return Ok(());
        }
        let inos: Vec<u64> = found.iter().map(|(_, stat)| stat.ino).collect();
        let paths = self.by.journal.read(|reader| reader.published_paths(&inos))?;
        let entries = found.into_iter().map(|(name, stat)| self.adopted(name, &stat, &paths)).collect();
        self.by.journal.wait(self.by.journal.submit(Entry::Together(entries)))?;
        Ok(())
    }

    /// A row for an inode that was taken out by a daemon that died before it could write one.
    pub(super) fn adopted(&self, staged: String, stat: &Stat, paths: &HashMap<u64, Vec<u8>>) -> Entry {
        let tree = stat.kind == Kind::Dir;
        let told = self.by.journal.was_leaving(&staged).filter(|told| told.ino == stat.ino);
        let kind = if tree { OutboxKind::Tree } else { OutboxKind::Unlink };
        let path = told.map(|told| &told.path).or_else(|| paths.get(&stat.ino));
        Entry::SetAside(SetAside {
            // Not the one in its name: that may be another row's by now.
            id: self.by.journal.next_outbox_id(),
            kind: told.map_or(kind, |told| told.kind),
            path: path.cloned().unwrap_or_default(),
            staged,
            ino: stat.ino,
            uid: stat.uid,
            gid: stat.gid,
            bytes: if tree { told.map_or(0, |told| told.bytes) } else { stat.size },
            files: told.map_or(1, |told| told.files),
            due: told.map_or_else(|| clock::now() + self.options.retain, |told| told.due),
            change: None,
        })
    }

    fn unknown(&self, names: &[String]) -> Result<Vec<String>, JournalError> {
        let known = self.by.journal.read(|reader| reader.outbox_staged(names))?;
        Ok(names.iter().filter(|name| !known.contains(*name)).cloned().collect())
    }

    fn sweep_rows(&self, repair: bool, swept: &mut Swept) -> Result<(), SweepError> {
        let mut after: OutboxId = 0;
        loop {
            let rows = self.by.journal.read(|reader| reader.outbox_page(after, PAGE))?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.aside.id;
            let (mut lost, mut mine) = (Vec::new(), Vec::new());
            for row in &rows {
                match stat::stat_at(self.by.staging.trash(), OsStr::new(&row.aside.staged)) {
                    // One that somebody restores or reaps right now has its end written by them.
                    Err(Errno::NOENT) => {
                        if let Some(busy) = self.work_on(row.aside.id) {
                            mine.push(busy);
                            lost.push(&row.aside);
                        }
                    }
                    Ok(_) => {}
                    Err(errno) => return Err(SweepError::Export { what: "inode of an outbox row", errno }),
                }
            }
            if lost.is_empty() {
                continue;
            }
            // Some may have been reaped between the look at the rows and that at the folder.
            let ended = self.unknown(&lost.iter().map(|aside| aside.staged.clone()).collect::<Vec<_>>())?;
            lost.retain(|aside| !ended.contains(&aside.staged));
            let gone: Vec<OutboxId> = lost.iter().map(|aside| aside.id).collect();
            swept.rows_without_trash += gone.len() as u64;
            if repair && !gone.is_empty() {
                self.by.journal.wait(self.by.journal.submit(Entry::Reaped { ids: gone }))?;
            }
        }
    }

    /// Staged files of earlier daemons of this instance; those of this one may have their row still to come.
    fn sweep_staged(&self, repair: bool, swept: &mut Swept) -> Result<(), SweepError> {
        let failed = |errno| SweepError::Export { what: "staging folder", errno };
        let own = format!(".{:x}", self.by.staging.started());
        let folder = at::open_dir(self.by.staging.dir(), OsStr::new(".")).map_err(failed)?;
        let mut page = Vec::with_capacity(PAGE);
        for entry in at::entries(folder).map_err(failed)? {
            // Markers on their way have no row, and what the export makes of open files goes by itself.
            let is_known =
                |name: &str| name.ends_with(&own) || name.starts_with(STAGED_MARKER) || mount::is_set_aside(name);
            match OsString::from(entry.map_err(failed)?.name).into_string() {
                Ok(name) if is_known(&name) => {}
                Ok(name) => page.push(name),
                Err(name) => swept.leave_alone(name),
            }
            if page.len() == PAGE {
                self.sweep_staged_names(&page, repair, swept)?;
                page.clear();
            }
        }
        self.sweep_staged_names(&page, repair, swept)
    }

    fn sweep_staged_names(&self, names: &[String], repair: bool, swept: &mut Swept) -> Result<(), SweepError> {
        let known = self.by.journal.read(|reader| reader.staged(names))?;
        let mut adopted = Vec::new();
        for name in names.iter().filter(|name| !known.contains(*name)) {
            match stat::stat_at(self.by.staging.dir(), OsStr::new(name)) {
                Ok(stat) if stat.kind != Kind::File => swept.leave_alone(name),
                Ok(stat) => {
                    adopted.push(self.adopted_draft(name.clone(), &stat, "staged file without a row".to_owned()))
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(SweepError::Export { what: "staged file", errno }),
            }
        }
        swept.staged_without_row += adopted.len() as u64;
        if repair && !adopted.is_empty() {
            self.by.journal.wait(self.by.journal.submit(Entry::Together(adopted)))?;
        }
        Ok(())
    }

    /// A row in quarantine for content that nobody knows of: it was never published.
    pub(super) fn adopted_draft(&self, stage: String, stat: &Stat, reason: String) -> Entry {
        let id = self.by.journal.next_draft_id();
        Entry::Adopted { id, stage, ino: stat.ino, uid: stat.uid, bytes: stat.size, reason }
    }

    fn sweep_drafts(&self, repair: bool, swept: &mut Swept) -> Result<(), SweepError> {
        let mut after = 0;
        loop {
            let rows = self.by.journal.read(|reader| reader.kept(after, PAGE))?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            let (mut lost, mut sizes, mut renamed, mut mine) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for row in &rows {
                match self.by.staging.stat(&row.stage) {
                    Err(Errno::NOENT) => {
                        // One that is decided about right now, or was since the page was read, has lost nothing.
                        let Some(deciding) = self.by.decisions.try_begin(row.id) else { continue };
                        let now = self.by.journal.row(row.id)?;
                        if !now.is_some_and(|now| now.state == DraftState::Quarantined && now.kept) {
                            continue;
                        }
                        mine.push(deciding);
                        match self.by.renamed_after_all(row) {
                            Some(there) => renamed.push((row, there)),
                            None => lost.push(row.id),
                        }
                    }
                    // The export could not be asked when the row was written, or the power was cut soon after.
                    Ok(found) if found.ino == row.ino && found.size != row.bytes => sizes.push((row.id, found.size)),
                    Ok(_) => {}
                    Err(errno) => return Err(SweepError::Export { what: "content in quarantine", errno }),
                }
            }
            swept.drafts_without_content += (lost.len() + renamed.len()) as u64;
            if repair {
                for (row, there) in renamed {
                    if self.by.wants_marker(&row.path) {
                        self.by.complete_marker_claimed(row.id, &row.path, there.ino);
                    }
                    self.by.record_published(row, Some(there));
                }
            }
            if repair && !sizes.is_empty() {
                self.by.journal.wait(self.by.journal.submit(Entry::Measured { sizes }))?;
            }
            if repair && !lost.is_empty() {
                self.by.journal.wait(self.by.journal.submit(Entry::ContentLost { ids: lost }))?;
            }
        }
    }
}

/// Whether a name in the trash folder is one that commitfs gives: `NUMBER.START`.
fn is_given(name: &str) -> bool {
    name.split_once('.')
        .is_some_and(|(number, start)| number.parse::<OutboxId>().is_ok() && u128::from_str_radix(start, 16).is_ok())
}
