//! The commit: make the draft durable, rename it over its final name, make the rename durable, record it.
//!
//! Each step consumes the value of the step before, so that no order but the right one can be written down:
//! [`Sealed`] → [`Durable`] → [`Published`] → recorded. `docs/JOURNAL.md` has the crash table.

mod decisions;
mod in_place;
mod marker;
mod names;
mod place;
mod postponed;
mod quarantine;
mod recover;
mod restore;
mod staging;
mod verify;

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use parking_lot::RwLock;

use crate::folders::Totals;
use crate::inode::{Key, Node, NodeFd, NodeTable, display_path};
use crate::journal::{Commit, CommitKind, DraftId, Entry, Journal};
use crate::metrics::{self, Phase};
use crate::rules::Rules;
use crate::sys::at;
use crate::sys::cred::Creds;
use crate::sys::stat::{self, Time};
use crate::sys::{Errno, Result, Stat};
use crate::{failpoint, unless_skipped};

pub use decisions::Decisions;
pub use marker::{MARKER, STAGED as STAGED_MARKER, Unmarked, marker_of};
pub use names::Renamed;
pub(crate) use names::is_there;
pub use postponed::{Postponed, Tried, Waiting};
pub use quarantine::{Reason, VerbError};
pub use recover::{Before, Recovered};
pub use staging::{ADOPTED, RESERVED, Staged, Staging, mark_of};
pub use verify::{Verdict, compare};

/// What the commit works with.
#[derive(Debug)]
pub struct Committer {
    /// Nodes of the mount.
    pub nodes: Arc<NodeTable>,
    /// Where drafts lie until they are published.
    pub staging: Staging,
    /// Where all of it is written down.
    pub journal: Journal,
    /// What folders hold.
    pub totals: Arc<Totals>,
    /// What holds for each path: whether it is written in place, when it is published, how long an old version is kept.
    pub rules: Rules,
    /// Drafts to try again.
    pub postponed: Waiting,
    /// Drafts in quarantine that are being published or given up.
    pub decisions: Decisions,
    /// Other hosts change names, which the NFS client does not know by itself.
    pub revalidate: bool,
    /// Held while a folder is renamed, until the journal knows of it, and shared by who writes down where a draft will appear.
    pub renaming_folders: RwLock<()>,
    /// The daemon ends: no draft gets content of its own any more.
    pub stopping: AtomicBool,
}

/// Where a draft will appear.
#[derive(Clone, Debug)]
pub struct Target {
    /// The folder. A rename of the folder, or above it, moves the target along.
    pub parent: Arc<Node>,
    /// The name in it.
    pub name: OsString,
}

impl Target {
    /// Relative to the mount, as last seen.
    pub fn path(&self) -> Vec<u8> {
        self.parent.path_of(&self.name)
    }

    /// True for the same name in the same folder.
    pub fn is(&self, other: &Target) -> bool {
        self.parent.key == other.parent.key && self.name == other.name
    }
}

/// A draft to which no writer is left: its content is final.
#[derive(Debug)]
#[must_use]
pub struct Sealed {
    /// The draft.
    pub id: DraftId,
    /// Its content.
    pub staged: Staged,
    /// Where it goes.
    pub target: Target,
    /// How the version came to be.
    pub kind: CommitKind,
    /// As whom names are changed on a root-squashed export.
    pub writer: Option<Creds>,
    /// Taken while the data streamed through, if it came in order.
    pub digest: Option<String>,
    /// The rules want a marker beside it.
    pub marked: bool,
    /// Its close has returned.
    pub promised: bool,
    /// The modification time that its writers saw, if the kernel kept that by itself.
    pub shown: Option<Time>,
    /// What its name must hold, this inode or nothing, for it to be published: `EEXIST` otherwise. `None`: whatever.
    pub below: Option<Option<Key>>,
    /// When the sealing began.
    pub began: Instant,
}

/// A sealed draft whose data is on stable storage.
#[derive(Debug)]
#[must_use]
pub struct Durable {
    sealed: Sealed,
    /// As it will be published: after the rename nothing may fail any more that the record needs.
    stat: Stat,
}

/// A version under its final name.
#[derive(Debug)]
#[must_use]
pub struct Published {
    sealed: Sealed,
    stat: Stat,
    placed: place::Placed,
    /// The folder could not be synced: the name is there, but may not survive a crash of the machine.
    pub unsynced: Option<Errno>,
}

/// A commit that did not happen. The staged file is still there, the old version is untouched.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// The step: `fsync`, `stat`, `rename`, `journal`.
    pub step: &'static str,
    /// The error for the writer.
    pub errno: Errno,
}

impl Sealed {
    /// Makes the data durable.
    pub fn make_durable(self) -> std::result::Result<Durable, Failed> {
        failpoint!("commit_before_fsync");
        let began = Instant::now();
        if let Some(time) = self.shown
            && let Err(errno) = at::set_mtime(&*self.staged.file, time)
        {
            tracing::debug!(draft = self.id, %errno, "the modification time stays the export's");
        }
        if let Err(errno) = unless_skipped!("data", at::fsync(&self.staged.file)) {
            return Err(Failed { step: "fsync", errno });
        }
        metrics::phase(Phase::Fsync, began.elapsed());
        failpoint!("commit_after_fsync");
        match stat::fstat(&self.staged.file) {
            Ok(stat) => Ok(Durable { sealed: self, stat }),
            Err(errno) => Err(Failed { step: "stat", errno }),
        }
    }
}

impl Durable {
    /// Renames the staged file over the final name and makes the rename durable.
    pub fn publish(self, by: &Committer) -> std::result::Result<Published, Failed> {
        let Durable { sealed, stat } = self;
        let began = Instant::now();
        if let Err(error) = by.journal.secure() {
            // Without its first row nobody could tell after a crash what this file was.
            tracing::error!(draft = sealed.id, %error, "the journal has no row of this draft");
            return Err(Failed { step: "journal", errno: Errno::from_raw_os_error(error.errno()) });
        }
        metrics::phase(Phase::Journal, began.elapsed());
        let Target { parent, name } = &sealed.target;
        let removed = if sealed.marked { by.remove_marker(parent, name, sealed.writer.as_ref()) } else { Ok(None) };
        let mut unmarked = removed.map_err(|errno| Failed { step: "marker", errno })?;
        by.staging.trim(&sealed.staged, &stat);
        failpoint!("commit_before_rename");
        let began = Instant::now();
        let placed = by.place(&sealed).map_err(|errno| {
            if let Some(unmarked) = unmarked.take() {
                unmarked.put_back();
            }
            by.not_placed(&sealed, errno)
        })?;
        failpoint!("commit_after_rename");
        let renamed = Instant::now();
        metrics::phase(Phase::Rename, renamed - began);
        let unsynced = by.make_reachable(&sealed.target.parent).err();
        metrics::phase(Phase::FolderSync, renamed.elapsed());
        failpoint!("commit_after_dirsync");
        Ok(Published { sealed, stat, placed, unsynced })
    }
}

impl Published {
    /// Writes down what became of the names, but no commit: it is not known to last.
    pub fn abandon(self, by: &Committer) -> Target {
        by.write_down_names(self.placed, &self.sealed.target, self.stat.size);
        self.sealed.target
    }

    /// Writes the commit to the journal. Not waited for: the rename is the truth, and recovery recognises it by the
    /// inode number should this row be lost.
    pub fn record(self, by: &Committer) -> (Target, Result<()>) {
        let Sealed { id, staged, target, kind, digest, writer, marked, began, .. } = self.sealed;
        if marked && let Err(errno) = by.write_marker(id, &target, &*staged.file, digest.as_deref(), writer.as_ref()) {
            let path = display_path(&target.path());
            tracing::error!(draft = id, path, %errno, "published, and its marker could not be written");
        }
        let (stat, duration) = (self.stat, began.elapsed());
        metrics::commit(kind.as_str(), stat.size, duration);
        let commit = Commit {
            id,
            path: target.path(),
            ino: staged.ino,
            size: stat.size,
            digest,
            mtime: stat.mtime.to_system(),
            uid: stat.uid,
            duration,
            kind,
            change: None,
        };
        by.write_down(self.placed, &target, commit);
        failpoint!("commit_after_record");
        let result = match self.unsynced {
            None => Ok(()),
            Some(errno) => {
                let path = display_path(&target.path());
                tracing::error!(draft = id, path, %errno, "published, but the folder could not be made durable");
                Err(errno)
            }
        };
        (target, result)
    }
}

impl Committer {
    /// Has an entry in the journal, durably.
    pub fn write_durably(&self, entry: Entry) -> Result<()> {
        self.journal.submit_durable(entry).map_err(|error| Errno::from_raw_os_error(error.errno()))
    }

    /// A folder's descriptor, by which a look-up finds what there is: other hosts change names too, and the client does not know
    /// of that by itself.
    pub fn revalidated<'a>(&self, folder: &'a Node) -> Result<NodeFd<'a>> {
        let dir = self.nodes.fd(folder)?;
        if self.revalidate {
            stat::revalidate(&dir)?;
        }
        Ok(dir)
    }

    /// What it was that failed.
    fn not_placed(&self, sealed: &Sealed, errno: Errno) -> Failed {
        if errno != Errno::NOENT || self.staging.has(&sealed.staged) {
            return Failed { step: "rename", errno };
        }
        // Of a close that has returned nobody is told, and no export that works again brings the content back.
        Failed { step: ADOPTED, errno: if sealed.promised { errno } else { Errno::IO } }
    }

    /// Makes the names in a folder durable, sharing the work with others who ask at the same time.
    pub fn sync_folder(&self, folder: &Node) -> Result<()> {
        // A server has made a name durable before it answers; the client's fsync would send nothing, but opening the
        // folder for it would.
        if self.nodes.is_nfs() {
            return Ok(());
        }
        // An O_PATH descriptor cannot be synced.
        let dir = self.nodes.open(folder, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY)?;
        unless_skipped!("folder", folder.as_folder()?.sync(dir))
    }

    /// Makes the names in a folder durable, and the names by which it is reached: a folder that was just made, or
    /// moved, is not there after a power cut, and what was published in it with it. Once for each folder that the table
    /// knows, because nobody says which ones are new.
    pub fn make_reachable(&self, folder: &Arc<Node>) -> Result<()> {
        self.sync_folder(folder)?;
        let mut below = folder.clone();
        while !below.as_folder()?.is_reachable() {
            let moves = below.as_folder()?.moves();
            let Some(above) = below.link().parent else { return Ok(()) };
            self.sync_folder(&above)?;
            below.as_folder()?.reached(moves);
            below = above;
        }
        Ok(())
    }
}
