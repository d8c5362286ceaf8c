//! Removing names. The family of a draft removes the draft's name and the version's; anybody else only the version's.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::wait::Until;
use super::{Done, Fs};
use crate::draft::Caller;
use crate::inode::{Key, Node};
use crate::sys::{Errno, Result, stat};

impl Fs {
    /// Removes a name that is not a folder.
    pub fn unlink(self: &Arc<Self>, caller: Caller, parent: u64, name: &OsStr, done: impl Done<()>) {
        self.unlink_patiently(caller, parent, name.to_owned(), done);
    }

    fn unlink_patiently(self: &Arc<Self>, caller: Caller, parent: u64, name: OsString, done: impl Done<()>) {
        let folder = match self.refuse_hidden(parent, &name).and_then(|()| self.folder(parent)) {
            Ok(folder) => folder,
            Err(errno) => return done(Err(errno)),
        };
        let Some(draft) = self.drafts.at(folder.key, &name) else {
            return done(self.unlink_version(caller, &folder, &name));
        };
        if !draft.is_sealing() && !self.is_family(&draft, caller) {
            return done(self.unlink_version(caller, &folder, &name));
        }
        // False while a commit is in flight: after it, the name is a version's.
        if !draft.unname() {
            let fs = self.clone();
            return self.park(Until::Settled(draft), move |settled| {
                if settled { fs.unlink_patiently(caller, parent, name, done) } else { done(Err(Errno::AGAIN)) }
            });
        }
        self.drafts.unlist(folder.key, &name, &draft);
        done(match self.unlink_version(caller, &folder, &name) {
            Err(Errno::NOENT) => {
                self.locks.removed(folder.key, &name);
                Ok(())
            }
            other => other,
        });
    }

    fn unlink_version(&self, caller: Caller, folder: &Arc<Node>, name: &OsStr) -> Result<()> {
        self.drop_marker(caller, folder, name)?;
        self.committer.unlink(self.creds(caller).as_ref(), folder, name)?;
        self.locks.removed(folder.key, name);
        Ok(())
    }

    /// A name that is about to lose its version, or to get another one by a rename, loses its marker first.
    pub(super) fn drop_marker(&self, caller: Caller, folder: &Node, name: &OsStr) -> Result<()> {
        if !self.wants_marker(&folder.path_of(name)) {
            return Ok(());
        }
        self.committer.remove_marker(folder, name, self.creds(caller).as_ref())
    }

    /// Removes an empty folder. One that a draft would appear in is not empty.
    pub fn rmdir(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<()> {
        if self.is_hidden(parent, name) {
            return Err(Errno::NOENT);
        }
        let folder = self.folder(parent)?;
        let dir = self.nodes().fd(&folder)?;
        self.refuse_occupied(Key::of(&stat::stat_at(&dir, name)?))?;
        self.committer.rmdir(self.creds(caller).as_ref(), &folder, name)
    }

    /// `ENOTEMPTY` if a draft would appear in the folder.
    pub(super) fn refuse_occupied(&self, folder: Key) -> Result<()> {
        if self.drafts.in_folder(folder).iter().any(|(_, draft)| draft.is_pending()) {
            return Err(Errno::NOTEMPTY);
        }
        Ok(())
    }
}
