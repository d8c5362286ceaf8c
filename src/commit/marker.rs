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

/// Bytes of a marker, at most.
const LONGEST: usize = 256;

/// A version whose marker was removed for something that is about to happen to its name.
#[derive(Debug)]
pub struct Unmarked<'c> {
    by: &'c Committer,
    target: Target,
    /// The version that the marker told of.
    ino: Option<u64>,
    /// The marker: what was in it, and whose it was.
    text: Vec<u8>,
    like: Stat,
    writer: Option<Creds>,
}

impl Unmarked<'_> {
    /// It was refused: the version that is still there has its marker again.
    pub fn put_back(self) {
        let (by, Target { parent, name }) = (self.by, &self.target);
        // As long as this is claimed, nobody commits there, and a commit claims it until its marker is there.
        let claim = by.totals.claim(&[(parent.key, name)]);
        let put = || {
            let dir = by.nodes.fd(parent)?;
            let is_free = matches!(stat::stat_at(&dir, marker_of(name)), Err(Errno::NOENT));
            if !is_free || stat::stat_at(&dir, name).ok().map(|there| there.ino) != self.ino {
                // Another version has the name since, with a marker of its own or none.
                return Ok(());
            }
            let id = by.journal.next_draft_id();
            by.place_marker(id, &self.target, &self.text, self.like.perm, Some(&self.like), self.writer.as_ref())
        };
        let put = put();
        by.leave(claim, &[(parent, name)]);
        if let Err(errno) = put {
            tracing::error!(path = display_path(&self.target.path()), %errno, "the marker of a version is lost");
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
        let (mut ino, mut there) = (None, None);
        let remove = |dir: BorrowedFd<'_>| match self.nodes.is_gone(folder) {
            // The version keeps it, should its folder be restored.
            true => Err(Errno::NOENT),
            false => {
                there = read_marker(dir, &marker).ok();
                self.staging.acting_for(writer, || at::unlink(dir, &marker))?;
                ino = stat::stat_at(dir, name).ok().map(|there| there.ino);
                Ok(())
            }
        };
        match self.change(folder, &marker, remove) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(None),
            Err(other) => return Err(other),
        }
        let target = Target { parent: folder.clone(), name: name.to_owned() };
        let writer = writer.cloned();
        let unmarked = there.map(|(like, text)| Unmarked { by: self, target, ino, text, like, writer });
        if let Err(errno) = self.sync_folder(folder) {
            unmarked.into_iter().for_each(Unmarked::put_back);
            return Err(errno);
        }
        failpoint!("marker_after_remove");
        Ok(unmarked)
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
        self.place_marker(id, target, text.as_bytes(), found.perm & 0o666, None, writer)
    }

    /// Stores a marker by way of the staging folder, as the writer, or with the owner of the one that it was.
    fn place_marker(
        &self,
        id: DraftId,
        target: &Target,
        text: &[u8],
        perm: u32,
        like: Option<&Stat>,
        writer: Option<&Creds>,
    ) -> Result<()> {
        let name = format!("{STAGED}{id}");
        self.staging.remove(&name)?;
        let staged = self.staging.create(&name, perm, writer)?;
        let place = || {
            at::write_at(&staged.file, text, 0)?;
            if let Some(like) = like.filter(|like| {
                stat::fstat(&*staged.file).is_ok_and(|made| made.uid != like.uid || made.gid != like.gid)
            }) && let Err(errno) = at::chown(&staged.file, Some(like.uid), Some(like.gid))
            {
                tracing::debug!(%errno, "a marker has another owner than before");
            }
            at::fsync(&staged.file)?;
            failpoint!("marker_after_stage");
            let marker = marker_of(&target.name);
            self.change(&target.parent, &marker, |dir| {
                self.staging.acting_for(writer, || self.rename_staged(&staged, dir, &marker))
            })
        };
        let placed = place();
        if placed.is_err() {
            self.staging.remove(&name)?;
        }
        placed?;
        self.sync_folder(&target.parent)
    }

    /// Writes the marker of inode `ino`, if a path has that and no marker, while others may change the name.
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

/// What a marker holds, and its attributes; fails for what is none.
fn read_marker(dir: BorrowedFd<'_>, marker: &OsStr) -> Result<(Stat, Vec<u8>)> {
    let file = at::open_file(dir, marker, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    let like = stat::fstat(&file)?;
    let mut text = vec![0; LONGEST + 1];
    let length = at::read_at(&file, &mut text, 0)?;
    if like.kind != Kind::File || length > LONGEST {
        return Err(Errno::INVAL);
    }
    text.truncate(length);
    Ok((like, text))
}
