//! Drafts that were not published: kept with their content, target, owner and reason, until an admin decides.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::OFlags;

use super::{Committer, Sealed, Staged, Target};
use crate::inode::{Content, Node, display_path};
use crate::journal::{DraftId, DraftRow, DraftState, Entry, JournalError, Owner};
use crate::metrics;
use crate::sys::procfs::Exit;
use crate::sys::{Errno, Kind, Result, Stat, at, mount, stat};
use crate::{failpoint, unless_skipped};

/// Why a draft was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its writer died of a signal, or left with a failure where the rule says that this counts.
    Exit(Exit),
    /// A call on the draft failed.
    Failed {
        /// `write`, `fsync`, `rename`…
        step: &'static str,
        /// The first error.
        errno: Errno,
    },
    /// The daemon stopped before the last close.
    Stopped,
    /// Its folder was removed whole.
    Removed,
    /// When it could be published, its name had a newer version, or had been taken away.
    Overtaken,
}

impl Reason {
    /// Why a draft whose close had returned cannot be published. `EEXIST` says that its name holds something else than it
    /// should.
    pub(super) fn of_promised(step: &'static str, errno: Errno) -> Self {
        if errno == Errno::EXIST { Reason::Overtaken } else { Reason::Failed { step, errno } }
    }

    /// What its writer is told.
    pub fn errno(&self) -> Errno {
        match self {
            Reason::Failed { errno, .. } => *errno,
            Reason::Removed => Errno::NOENT,
            Reason::Exit(_) | Reason::Stopped | Reason::Overtaken => Errno::IO,
        }
    }

    /// What went wrong, as a word.
    pub fn step(&self) -> &'static str {
        match self {
            Reason::Failed { step, .. } => step,
            Reason::Exit(_) => "exit",
            Reason::Stopped => "stop",
            Reason::Removed => "removal of its folder",
            Reason::Overtaken => "recovery",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Exit(Exit::Signal(signal)) => write!(f, "writer killed by signal {signal}"),
            Reason::Exit(Exit::Status(status)) => write!(f, "writer exited with status {status}"),
            Reason::Failed { step, errno } => write!(f, "{step} failed: {errno}"),
            Reason::Stopped => write!(f, "daemon stopped before the last close"),
            Reason::Removed => write!(f, "its folder was removed"),
            Reason::Overtaken => write!(f, "its name was changed after its close"),
        }
    }
}

/// An admin's request that could not be carried out.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct VerbError {
    /// What was wrong with what.
    pub message: String,
    /// The nearest errno.
    pub errno: i32,
}

impl VerbError {
    /// An error with these words.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        VerbError { message: message.into(), errno: errno.raw_os_error() }
    }

    /// A request that is wrong in itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        VerbError::new(Errno::INVAL, message)
    }
}

impl From<JournalError> for VerbError {
    fn from(error: JournalError) -> Self {
        VerbError { errno: error.errno(), message: error.to_string() }
    }
}

/// A folder found by its path, held in the node table while this value lives.
pub(super) struct Found<'a> {
    by: &'a Committer,
    looked_up: Vec<u64>,
    pub(super) folder: Arc<Node>,
}

impl Drop for Found<'_> {
    fn drop(&mut self) {
        for id in self.looked_up.drain(..).rev() {
            self.by.nodes.forget(id, 1);
        }
    }
}

impl Committer {
    /// Puts a draft into quarantine; on a full file system its space is given back and only the record stays.
    ///
    /// `path` and `owner` are for the log.
    pub fn quarantine(&self, id: DraftId, staged: &Staged, reason: Reason, path: &[u8], owner: &Owner) {
        failpoint!("quarantine_before_row");
        // A full disk of the journal is no reason to give up content on the export.
        let full = matches!(reason, Reason::Failed { step, errno } if step != "journal" && mount::is_no_space(errno));
        let bytes = stat::fstat(&staged.file).map(|s| s.size).unwrap_or(0);
        let (path, Owner { pid, uid, command, .. }) = (display_path(path), owner);
        tracing::warn!(draft = id, path, %reason, bytes, pid, uid, command, "quarantined");
        metrics::quarantine();
        let row = self.journal.submit(Entry::Quarantined {
            id,
            reason: reason.to_string(),
            bytes: if full { 0 } else { bytes },
            kept: !full,
        });
        failpoint!("quarantine_after_row");
        if full {
            self.remove_after(row, &staged.name, id);
        }
    }

    /// Makes the content of a draft in quarantine, and its staged name, durable: what is kept must not go with the power
    /// hours later. Nobody waits for it, and a draft whose content cannot be synced is kept as it is.
    pub fn keep(&self, staged: &Staged) {
        let synced = unless_skipped!("quarantine", at::fsync(&staged.file)).and_then(|()| self.staging.sync());
        if let Err(errno) = synced {
            tracing::warn!(stage = staged.name, %errno, "content in quarantine may not be durable");
        }
    }

    /// As [`Committer::keep`], by the name in the staging folder.
    pub fn keep_all(&self, names: Vec<String>) {
        for name in names {
            match self.staging.read(&name) {
                Ok(file) => {
                    let file = Content::new(file);
                    self.keep(&Staged { file, name, ino: 0 });
                }
                // Decided upon meanwhile.
                Err(errno) => tracing::debug!(stage = name, %errno, "content in quarantine cannot be opened"),
            }
        }
    }

    /// Forgets a draft whose writer took its name away.
    pub fn discard(&self, id: DraftId, staged: &Staged, reason: &str) {
        failpoint!("discard_before_row");
        let row = self.journal.submit(Entry::Discarded { id, reason: reason.to_owned() });
        failpoint!("discard_after_row");
        self.remove_after(row, &staged.name, id);
    }

    /// Removes a staged file once the row that says so is written. Recovery takes a staged file that is gone for a
    /// published one, so the order matters; if the row cannot be written, the file stays for the next recovery.
    fn remove_after(&self, row: crate::journal::Ticket, stage: &str, id: DraftId) {
        let removed = match self.journal.wait(row) {
            Ok(()) => self.staging.remove(stage),
            Err(error) => Err(Errno::from_raw_os_error(error.errno())),
        };
        if let Err(errno) = removed {
            tracing::error!(draft = id, %errno, "cannot remove the staged file now");
        }
    }

    /// Publishes a quarantined draft under the path it was meant for.
    pub fn publish_quarantined(&self, id: DraftId) -> std::result::Result<Target, VerbError> {
        let began = Instant::now();
        let _deciding = self.decisions.begin(id);
        let row = self.quarantined(id)?;
        if row.path.is_empty() {
            return Err(VerbError::new(
                Errno::NOENT,
                format!("draft {id} has no known target: save its content instead"),
            ));
        }
        let marked = self.wants_marker(&row.path);
        let path = display_path(&row.path);
        let failed = |errno: Errno, step: &str| VerbError::new(errno, format!("{step} {path}: {errno}"));
        let (found, name) = self.find_folder(&row.path).map_err(|errno| failed(errno, "folder of"))?;
        let target = Target { parent: found.folder.clone(), name: name.to_owned() };
        let dir = self.nodes.fd(&target.parent).map_err(|errno| failed(errno, "folder of"))?;
        let there = match stat::stat_at(&dir, name) {
            Ok(there) => Some(there),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed(errno, "looking at")),
        };
        if let Some(there) = there.as_ref().filter(|there| there.kind != Kind::File) {
            let message = format!("{path}: is {}: a file does not take its place; move it away first", there.kind);
            return Err(VerbError::new(if there.kind == Kind::Dir { Errno::ISDIR } else { Errno::EXIST }, message));
        }
        let file = Content::new(self.staging.read(&row.stage).map_err(|errno| failed(errno, "content for"))?);
        let staged = Staged { file, name: row.stage, ino: row.ino };
        if there.is_some() {
            let resembled = self.staging.resemble_version(&staged, || at::open_file(&dir, name, OFlags::RDONLY, 0));
            resembled.map_err(|errno| failed(errno, "owner and attributes of"))?;
        }
        drop(dir);
        let sealed = Sealed {
            id,
            staged,
            target,
            kind: row.kind,
            writer: None,
            digest: None,
            marked,
            promised: false,
            shown: None,
            below: None,
            began,
        };
        let durable = sealed.make_durable().map_err(|f| failed(f.errno, f.step))?;
        let published = durable.publish(self).map_err(|f| failed(f.errno, f.step))?;
        let (target, recorded) = published.record(self);
        recorded.map_err(|errno| failed(errno, "published, but not yet durable:"))?;
        Ok(target)
    }

    /// Gives up a quarantined draft's content.
    pub fn discard_quarantined(&self, id: DraftId) -> std::result::Result<(), VerbError> {
        let _deciding = self.decisions.begin(id);
        let row = self.quarantined_or_given_back(id)?;
        let ticket = self.journal.submit(Entry::Discarded { id, reason: "discarded by admin".to_owned() });
        self.journal
            .wait(ticket)
            .map_err(|error| VerbError { errno: error.errno(), message: format!("journal: {error}") })?;
        self.staging.remove(&row.stage).map_err(|errno| VerbError::new(errno, format!("staged file: {errno}")))
    }

    /// Opens a quarantined draft's content for reading.
    pub fn open_quarantined(&self, id: DraftId) -> std::result::Result<File, VerbError> {
        let row = self.quarantined(id)?;
        self.staging.read(&row.stage).map_err(|errno| VerbError::new(errno, format!("staged file: {errno}")))
    }

    fn quarantined(&self, id: DraftId) -> std::result::Result<DraftRow, VerbError> {
        let row = self.quarantined_or_given_back(id)?;
        if !row.kept {
            let why = row.reason.as_deref().unwrap_or("nobody knows why");
            return Err(VerbError::new(Errno::NODATA, format!("draft {id} has no content any more ({why})")));
        }
        Ok(row)
    }

    fn quarantined_or_given_back(&self, id: DraftId) -> std::result::Result<DraftRow, VerbError> {
        let row = self
            .journal
            .row(id)
            .map_err(|error| VerbError { errno: error.errno(), message: format!("journal: {error}") })?
            .ok_or_else(|| VerbError::new(Errno::NOENT, format!("no draft {id}")))?;
        if row.state != DraftState::Quarantined {
            let state = row.state.as_str();
            return Err(VerbError::new(Errno::INVAL, format!("draft {id} is {state}, not quarantined")));
        }
        Ok(row)
    }

    /// The folder that a path names, walked one component at a time, never through a symlink and never up: `EINVAL` for
    /// what is no name.
    pub(super) fn find_folder<'p>(&self, path: &'p [u8]) -> Result<(Found<'_>, &'p OsStr)> {
        let mut components = path.split(|&b| b == b'/').map(OsStr::from_bytes);
        let name = components.next_back().filter(|name| !name.is_empty()).ok_or(Errno::NOENT)?;
        at::check_name(name)?;
        let mut found = Found { by: self, looked_up: Vec::new(), folder: self.nodes.root().clone() };
        for component in components {
            let (node, _) = self.nodes.lookup(&found.folder, component)?;
            found.looked_up.push(node.id);
            if node.kind != Kind::Dir {
                return Err(Errno::NOTDIR);
            }
            found.folder = node;
        }
        Ok((found, name))
    }

    /// Where a path lies.
    pub fn folder_of(&self, path: &[u8]) -> Result<Target> {
        let (found, name) = self.find_folder(path)?;
        Ok(Target { parent: found.folder.clone(), name: name.to_owned() })
    }

    /// Where a path lies, with the folders above it made if they are missing.
    pub fn folder_for(&self, path: &[u8]) -> Result<Target> {
        let mut made = Vec::new();
        loop {
            match self.find_folder(path) {
                Ok((found, name)) => return Ok(Target { parent: found.folder.clone(), name: name.to_owned() }),
                Err(Errno::NOENT) if !path.is_empty() => {}
                Err(other) => return Err(other),
            }
            // The first one that is missing; another one with each round.
            let missing = self.first_missing(path)?;
            if made.contains(&missing) {
                return Err(Errno::NOENT);
            }
            let (found, name) = self.find_folder(&missing)?;
            match self.make(&found.folder, name, |dir| at::mkdir(dir, name, 0o755)) {
                Ok(()) | Err(Errno::EXIST) => made.push(missing),
                Err(other) => return Err(other),
            }
        }
    }

    fn first_missing(&self, path: &[u8]) -> Result<Vec<u8>> {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let (found, name) = self.find_folder(&path[..at])?;
            if let Err(Errno::NOENT) = self.nodes.fd(&found.folder).and_then(|dir| stat::stat_at(dir, name)) {
                return Ok(path[..at].to_vec());
            }
        }
        Err(Errno::NOENT)
    }

    /// Attributes of the inode if it is what the name shows on the export.
    pub(super) fn published(&self, path: &[u8], ino: u64) -> Option<Stat> {
        let there = self
            .find_folder(path)
            .and_then(|(found, name)| self.nodes.fd(&found.folder).and_then(|dir| at::open_path(dir, name)));
        there.and_then(stat::fstat).ok().filter(|stat| stat.ino == ino)
    }
}
