//! Placing a version: the rename of a staged file over its final name, and what tells whether it took place.

use std::ffi::OsStr;

use rustix::fs::OFlags;

use super::names::{together, until_free};
use super::{Committer, Sealed, Staged};
use crate::failpoint;
use crate::folders::{Claim, Holds};
use crate::inode::Key;
use crate::journal::{Commit, Entry, SetAside};
use crate::sys::at::{self, RenameFlags};
use crate::sys::{Errno, Result, project, stat};

/// A version under its final name, not yet written down: nobody else changes the name meanwhile.
#[derive(Debug)]
pub(super) struct Placed {
    claim: Claim,
    before: Holds,
    aside: Option<SetAside>,
}

impl Committer {
    /// Renames a sealed draft over its final name. The old version has a second name by then, so that the name is never
    /// without a version.
    pub(super) fn place(&self, sealed: &Sealed) -> Result<Placed> {
        let (parent, name) = (&sealed.target.parent, sealed.target.name.as_os_str());
        let dir = self.nodes.fd(parent)?;
        let claim = self.claim(&[(parent, name)])?;
        // What another host has committed since the draft was begun is to be kept, not what it has replaced.
        let old = match self.revalidated(parent).and_then(|dir| stat::stat_at(&dir, name)) {
            Ok(old) => Some(old),
            Err(Errno::NOENT) => None,
            Err(other) => {
                self.leave(claim, &[(parent, name)]);
                return Err(other);
            }
        };
        failpoint!("commit_after_look");
        if sealed.below.is_some_and(|below| old.as_ref().map(Key::of) != below) {
            self.leave(claim, &[(parent, name)]);
            return Err(Errno::EXIST);
        }
        let before = old.as_ref().map_or(Holds::Nothing, |old| self.totals.weigh(old));
        let quiet = old.and_then(|_| self.nodes.quiet(parent));
        let aside = old
            .filter(|old| old.ino != sealed.staged.ino)
            .and_then(|old| self.link_aside(sealed.writer.as_ref(), &dir, name, &old, &sealed.target.path()));
        let rename = || self.rename_staged(&sealed.staged, &dir, name);
        if let Err(errno) = self.staging.acting_for(sealed.writer.as_ref(), || until_free(&dir, rename)) {
            if !self.happened(sealed, &dir, errno) {
                self.put_back(aside.as_ref(), &dir, name);
                self.unlink_aside(aside.as_ref());
                claim.end(&[(before, before)], |changes| self.submit(vec![], &[(parent, changes[0])]));
                return Err(errno);
            }
            let path = crate::inode::display_path(&sealed.target.path());
            tracing::warn!(draft = sealed.id, path, %errno, "the rename was answered with an error but had happened");
        }
        drop(quiet);
        // From here on it is a version that may be replaced.
        self.nodes.reads(Key { dev: parent.key.dev, ino: sealed.staged.ino }, &sealed.staged.file);
        failpoint!("replace_after_rename");
        if let (Some(old), Some(_)) = (old, &aside) {
            self.nodes.retire(Key::of(&old));
        }
        Ok(Placed { claim, before, aside })
    }

    /// Renames a staged file to where it belongs. A folder whose files are of a project takes in no other ones: then the
    /// file joins first, and counts for the project from there on.
    pub(super) fn rename_staged(&self, staged: &Staged, dir: impl std::os::fd::AsFd, name: &OsStr) -> Result<()> {
        let rename =
            || at::rename(self.staging.dir(), OsStr::new(&staged.name), dir.as_fd(), name, RenameFlags::empty());
        match rename() {
            Err(Errno::XDEV) => {}
            other => return other,
        }
        let folder = at::reopen(dir.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        match project::join(&folder, &*staged.file) {
            Ok(()) => rename(),
            Err(full @ (Errno::DQUOT | Errno::NOSPC)) => Err(full),
            // It is for another reason that the folder does not take it.
            Err(_) => Err(Errno::XDEV),
        }
    }

    /// Whether the rename of a draft took place although its answer says otherwise: the server did it, the reply was lost
    /// on the way, and the repeated request found nothing to rename. The client's caches may know neither name as it is.
    fn happened(&self, sealed: &Sealed, dir: impl std::os::fd::AsFd, errno: Errno) -> bool {
        let fresh = |folder: std::os::fd::BorrowedFd<'_>, name: &OsStr| {
            stat::revalidate(folder).and_then(|()| stat::stat_at(folder, name)).map(|there| there.ino)
        };
        if fresh(dir.as_fd(), &sealed.target.name) == Ok(sealed.staged.ino) {
            return true;
        }
        // Where no answer is lost, the rename took place if it is said to have.
        if errno != Errno::NOENT || !self.nodes.is_nfs() {
            return false;
        }
        // A staged name goes by the rename, by a removal, which nobody asked for, or with an instance that is taken for
        // dead. So another host may have put its own version over this one already.
        fresh(self.staging.dir(), OsStr::new(&sealed.staged.name)) == Err(Errno::NOENT)
            && stat::revalidate(dir.as_fd()).is_ok()
            && self.staging.was_adopted() == Ok(false)
    }

    /// Gives a version that was not replaced after all its name back, should it have lost it: the NFS client of Linux moves
    /// a name that it has open out of the way before it renames over it.
    pub(super) fn put_back(&self, aside: Option<&SetAside>, dir: impl std::os::fd::AsFd, name: &OsStr) {
        let Some(aside) = aside else { return };
        let there = stat::revalidate(dir.as_fd()).and_then(|()| stat::stat_at(dir.as_fd(), name));
        if there.err() != Some(Errno::NOENT) {
            return;
        }
        match at::link_at(self.staging.trash(), OsStr::new(&aside.staged), dir, name) {
            Ok(()) => tracing::warn!(staged = aside.staged, "a version had lost its name and has it back"),
            Err(errno) => tracing::error!(staged = aside.staged, %errno, "a version has lost its name"),
        }
    }

    /// Writes a commit down, with what it replaced and what it changed. Not waited for.
    pub(super) fn write_down(&self, placed: Placed, target: &super::Target, commit: Commit) {
        placed.claim.end(&[(placed.before, Holds::File(commit.size))], |changes| {
            // The folder may have moved since it was looked at.
            let commit = Commit { path: target.path(), change: self.totals.change(changes[0], true), ..commit };
            let entries = [Some(Entry::Committed(commit)), placed.aside.map(Entry::SetAside)];
            self.journal.submit(together(entries.into_iter().flatten().collect()));
        });
    }

    /// The same without the commit.
    pub(super) fn write_down_names(&self, placed: Placed, target: &super::Target, size: u64) {
        placed.claim.end(&[(placed.before, Holds::File(size))], |changes| {
            let aside = placed.aside.map(Entry::SetAside);
            self.submit(aside.into_iter().collect(), &[(&target.parent, changes[0])]);
        });
    }
}
