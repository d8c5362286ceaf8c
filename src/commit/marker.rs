//! The marker of a complete file: `NAME.done` beside it, with size and digest, for those who look at the bare export and
//! cannot tell a file that is there from one that is complete elsewhere too.
//!
//! It is removed, durably, before the next version appears, and written after that, before the commit is recorded: a
//! version without its marker is found by recovery, a marker without its version is never seen.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{Committer, Target};
use crate::failpoint;
use crate::inode::{Node, display_path};
use crate::journal::DraftId;
use crate::rules::Mode;
use crate::sys::at;
use crate::sys::cred::Creds;
use crate::sys::{Errno, Kind, Result, Stat, digest, stat};

/// What a marker's name ends in.
pub const MARKER: &str = ".done";
/// What staged markers' names begin with: recovery removes them.
pub const STAGED: &str = "marker.";

/// The name of a file's marker.
pub fn marker_of(name: &OsStr) -> OsString {
    let mut marker = name.to_owned();
    marker.push(MARKER);
    marker
}

impl Target {
    /// Where this version's marker appears.
    pub fn marker(&self) -> Target {
        Target { parent: self.parent.clone(), name: marker_of(&self.name) }
    }
}

impl Committer {
    /// Whether the rules want a marker beside a file. A marker has none of its own.
    pub fn wants_marker(&self, path: &[u8]) -> bool {
        let decision = self.rules.decide(path);
        decision.done_marker && decision.mode == Mode::Atomic && !path.ends_with(MARKER.as_bytes())
    }

    /// Takes a version's marker away, durably, before something happens to its name: where that fails, [`Self::put_marker_back`].
    /// False if there was none.
    pub fn remove_marker(&self, folder: &Node, name: &OsStr, writer: Option<&Creds>) -> Result<bool> {
        failpoint!("marker_before_remove");
        let marker = marker_of(name);
        let remove = |dir: BorrowedFd<'_>| match self.nodes.is_gone(folder) {
            // The version keeps it, should its folder be restored.
            true => Err(Errno::NOENT),
            false => self.staging.acting_for(writer, || at::unlink(dir, &marker)),
        };
        match self.change(folder, &marker, remove) {
            Ok(()) => {
                self.sync_folder(folder)?;
                failpoint!("marker_after_remove");
                Ok(true)
            }
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Writes the marker again that was removed for something which has failed: of what has the name, if that is a version.
    pub fn put_marker_back(&self, folder: &Arc<Node>, name: &OsStr) {
        let target = Target { parent: folder.clone(), name: name.to_owned() };
        self.complete_marker(self.journal.next_draft_id(), &target.path(), |_| true);
    }

    /// Writes the marker of the version under `target`, whose open file is `version`. `digest` saves a read.
    pub(super) fn write_marker(
        &self,
        id: DraftId,
        target: &Target,
        version: impl AsFd,
        digest: Option<&str>,
        writer: Option<&Creds>,
    ) -> Result<()> {
        failpoint!("marker_before_write");
        let found = stat::fstat(version.as_fd())?;
        let digest = match digest {
            Some(digest) => digest.to_owned(),
            None => digest::of(version)?,
        };
        let text = format!("{{\"size\":{},\"digest\":\"{digest}\"}}\n", found.size);
        let name = format!("{STAGED}{id}");
        self.staging.remove(&name)?;
        let staged = self.staging.create(&name, found.perm & 0o666, writer)?;
        let written =
            at::write_at(&staged.file, text.as_bytes(), 0).and_then(|()| at::fsync(&staged.file)).and_then(|()| {
                failpoint!("marker_after_stage");
                let marker = marker_of(&target.name);
                self.change(&target.parent, &marker, |dir| {
                    self.staging.acting_for(writer, || self.rename_staged(&staged, dir, &marker))
                })
            });
        if written.is_err() {
            self.staging.remove(&name)?;
        }
        written?;
        self.sync_folder(&target.parent)
    }

    /// Writes the marker of the version under a path, if it has none and `is_marked` says so of it.
    pub fn complete_marker(&self, id: DraftId, path: &[u8], is_marked: impl FnOnce(&Stat) -> bool) {
        let complete = || {
            let (found, name) = self.find_folder(path)?;
            let dir = self.nodes.fd(&found.folder)?;
            match stat::stat_at(&dir, marker_of(name)) {
                Err(Errno::NOENT) => {}
                Ok(_) | Err(Errno::NAMETOOLONG) => return Ok(()),
                Err(other) => return Err(other),
            }
            match stat::stat_at(&dir, name) {
                Ok(there) if there.kind == Kind::File && is_marked(&there) => {}
                Ok(_) | Err(Errno::NOENT) => return Ok(()),
                Err(other) => return Err(other),
            }
            let version = at::open_file(&dir, name, OFlags::RDONLY, 0)?;
            let target = Target { parent: found.folder.clone(), name: name.to_owned() };
            self.write_marker(id, &target, &version, None, None)
        };
        if let Err(errno) = complete() {
            tracing::error!(draft = id, path = display_path(path), %errno, "cannot write the marker of a complete file");
        }
    }

    /// True if what a name holds came there by a commit, for all that the journal remembers: other files have no marker.
    pub(super) fn was_committed(&self, path: &[u8], there: &Stat) -> bool {
        self.journal.read(|reader| reader.was_committed(path, there.ino)).unwrap_or_else(|error| {
            tracing::error!(path = display_path(path), %error, "cannot tell whether it was committed");
            false
        })
    }
}
