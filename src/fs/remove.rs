//! Removing names. The family of a draft removes the draft's name and the version's; anybody else only the version's.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::{Done, Fs};
use crate::commit::Unmarked;
use crate::draft::{Caller, Draft};
use crate::inode::{Key, Node};
use crate::sys::{Errno, Result, stat};

impl Fs {
    /// Removes a name that is not a folder.
    pub fn unlink(self: &Arc<Self>, caller: Caller, parent: u64, name: &OsStr, done: impl Done<()>) {
        self.unlink_patiently(caller, parent, name.to_owned(), false, done);
    }

    /// A version was `removed` already, and another one came of the draft meanwhile.
    fn unlink_patiently(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: OsString,
        removed: bool,
        done: impl Done<()>,
    ) {
        let folder = match self.refuse_hidden(parent, &name).and_then(|()| self.folder(parent)) {
            Ok(folder) => folder,
            Err(errno) => return done(Err(errno)),
        };
        let remove = || match self.unlink_version(caller, &folder, &name) {
            Err(Errno::NOENT) if removed => Ok(()),
            other => other,
        };
        let Some(draft) = self.drafts.at(folder.key, &name) else { return done(remove()) };
        if self.must_wait(&draft, caller) {
            let fs = self.clone();
            return self.after_commit(draft, move || fs.unlink_patiently(caller, parent, name, removed, done));
        }
        if !self.is_family(&draft, caller) {
            return done(remove());
        }
        // The version first: should that fail, the draft still has its name.
        let was_pending = draft.is_pending();
        // The kernel has looked up the draft: what another host has published the client need not know.
        let asked = self.committer.revalidated(&folder).map(drop);
        let asked = asked.and_then(|()| draft.expect_unpromise(&self.committer));
        let unlinked = match asked.and_then(|()| self.unlink_version(caller, &folder, &name)) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        match unlinked.and_then(|()| draft.unname(&self.committer, was_pending)) {
            Ok(true) => {
                self.drafts.unlist(folder.key, &name, &draft);
                self.locks.removed(folder.key, &name);
                done(Ok(()));
            }
            // A close came in between.
            Ok(false) => {
                let fs = self.clone();
                self.after_commit(draft, move || fs.unlink_patiently(caller, parent, name, true, done));
            }
            Err(errno) => done(Err(errno)),
        }
    }

    /// True while a commit of the draft is on its way that this caller has to see the end of before the name changes:
    /// an outsider acts on the version that there is, unless a close was answered already.
    pub(super) fn must_wait(&self, draft: &Draft, caller: Caller) -> bool {
        draft.is_awaited() || draft.is_sealing() && self.is_family(draft, caller)
    }

    fn unlink_version(&self, caller: Caller, folder: &Arc<Node>, name: &OsStr) -> Result<()> {
        let unmarked = self.drop_marker(caller, folder, name)?;
        if let Err(errno) = self.committer.unlink(self.creds(caller).as_ref(), folder, name) {
            unmarked.into_iter().for_each(Unmarked::put_back);
            return Err(errno);
        }
        self.locks.removed(folder.key, name);
        Ok(())
    }

    /// A name that is about to lose its version, or to get another one by a rename, loses its marker first, if it has one.
    pub(super) fn drop_marker(&self, caller: Caller, folder: &Arc<Node>, name: &OsStr) -> Result<Option<Unmarked<'_>>> {
        if !self.committer.wants_marker(&folder.path_of(name)) {
            return Ok(None);
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
