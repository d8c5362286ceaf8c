//! The marker of a complete file: `NAME.done` beside it, with size and digest, for those who look at the bare export and
//! cannot tell a file that is there from one that is complete elsewhere too.
//!
//! It is removed, durably, before the next version appears, and written after that, before the commit is recorded: a
//! version without its marker is found by recovery, a marker without its version is never seen. Removed is to say moved to the
//! staging folder, until that version is there or has been refused.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::restore::move_back;
use super::{Committer, Target};
use crate::failpoint;
use crate::inode::{Node, display_path};
use crate::journal::DraftId;
use crate::rules::Mode;
use crate::sys::at::{self, RenameFlags};
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

/// A version whose marker was taken away for something that is about to happen to its name. The marker goes with this.
#[derive(Debug)]
pub struct Unmarked<'c> {
    by: &'c Committer,
    target: Target,
    /// The version that the marker tells of.
    ino: Option<u64>,
    staged: String,
    writer: Option<Creds>,
}

impl Unmarked<'_> {
    /// It was refused: the version that is still there has its marker again.
    pub fn put_back(self) {
        let Target { parent, name } = &self.target;
        let put = |by: &Committer| {
            let claim = by.claim(&[(parent, name)])?;
            let there = by.nodes.fd(parent).and_then(|dir| stat::stat_at(dir, name));
            let put = match there {
                Ok(there) if Some(there.ino) == self.ino => {
                    let marker = marker_of(name);
                    let back = |dir: BorrowedFd<'_>| {
                        let staged = OsStr::new(&self.staged);
                        by.staging.acting_for(self.writer.as_ref(), || {
                            move_back(by.staging.dir(), staged, dir, &marker, false)
                        })
                    };
                    by.change(parent, &marker, back)
                }
                // Another version has the name since, with a marker of its own.
                _ => Ok(()),
            };
            by.leave(claim, &[(parent, name)]);
            put.and_then(|()| by.sync_folder(parent))
        };
        if let Err(errno) = put(self.by) {
            tracing::error!(path = display_path(&self.target.path()), %errno, "the marker of a version is lost");
        }
    }
}

impl Drop for Unmarked<'_> {
    fn drop(&mut self) {
        if let Err(errno) = self.by.staging.remove(&self.staged) {
            tracing::warn!(stage = self.staged, %errno, "a marker that is none any more cannot be removed");
        }
    }
}

impl Committer {
    /// Whether the rules want a marker beside a file. A marker has none of its own.
    pub fn wants_marker(&self, path: &[u8]) -> bool {
        let decision = self.rules.decide(path);
        decision.done_marker && decision.mode == Mode::Atomic && !path.ends_with(MARKER.as_bytes())
    }

    /// Takes a version's marker away, durably, before something happens to its name. `None` if there was none.
    pub fn remove_marker(
        &self,
        folder: &Arc<Node>,
        name: &OsStr,
        writer: Option<&Creds>,
    ) -> Result<Option<Unmarked<'_>>> {
        failpoint!("marker_before_remove");
        let marker = marker_of(name);
        let staged = format!("{STAGED}{}", self.journal.next_draft_id());
        let ino = stat::stat_at(self.nodes.fd(folder)?, name).ok().map(|there| there.ino);
        let take = |dir: BorrowedFd<'_>| match self.nodes.is_gone(folder) {
            // The version keeps it, should its folder be restored.
            true => Err(Errno::NOENT),
            false => self.staging.acting_for(writer, || {
                at::rename(dir, &marker, self.staging.dir(), OsStr::new(&staged), RenameFlags::empty())
            }),
        };
        match self.change(folder, &marker, take) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(None),
            Err(other) => return Err(other),
        }
        let target = Target { parent: folder.clone(), name: name.to_owned() };
        let unmarked = Unmarked { by: self, target, ino, staged, writer: writer.cloned() };
        if let Err(errno) = self.sync_folder(folder) {
            unmarked.put_back();
            return Err(errno);
        }
        failpoint!("marker_after_remove");
        Ok(Some(unmarked))
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

    /// As [`Self::complete_marker`], while others may change the name: of inode `ino`.
    pub fn complete_marker_claimed(&self, id: DraftId, path: &[u8], ino: u64) {
        let claimed = self.folder_of(path).and_then(|target| {
            let claim = self.claim(&[(&target.parent, &target.name)])?;
            self.complete_marker(id, path, |there| there.ino == ino);
            self.leave(claim, &[(&target.parent, &target.name)]);
            Ok(())
        });
        if let Err(errno) = claimed {
            tracing::error!(draft = id, path = display_path(path), %errno, "a version may have no marker");
        }
    }

    /// Writes the marker of the version under a path, if it has none and `is_marked` says so of it.
    pub(super) fn complete_marker(&self, id: DraftId, path: &[u8], is_marked: impl FnOnce(&Stat) -> bool) {
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
