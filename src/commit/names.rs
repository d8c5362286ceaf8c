//! Every change of names on the export: what it takes away is set aside, what it changes is counted.
//!
//! The names are claimed, the file system is changed, and one transaction then has the event, the outbox row and the
//! deltas. It is not waited for; `docs/JOURNAL.md` says what a crash in between leaves.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use smallvec::SmallVec;

use super::Committer;
use crate::failpoint;
use crate::folders::{Claim, Holds};
use crate::inode::{Key, Node};
use crate::journal::{Change, Delta, Entry, OutboxKind, SetAside};
use crate::sys::at::{self, RenameFlags};
use crate::sys::cred::Creds;
use crate::sys::{Errno, Kind, Result, Stat, clock, stat};

/// What a rename has moved.
#[derive(Clone, Copy, Debug)]
pub struct Renamed {
    /// The inode that was under the old name.
    pub moved: Stat,
    /// The one that was under the new name.
    pub replaced: Option<Stat>,
}

pub(crate) type Name<'a> = (&'a Arc<Node>, &'a OsStr);

impl Committer {
    /// Claims names for a change, not more than two. `ENOENT` in a folder that was removed whole, or is about to be: who
    /// removes it has marked it, and waits only for claims from before.
    pub(crate) fn claim(&self, names: &[Name<'_>]) -> Result<Claim> {
        let keys: SmallVec<[_; 2]> = names.iter().map(|(folder, name)| (folder.key, *name)).collect();
        let claim = self.totals.claim(&keys);
        if names.iter().any(|(folder, _)| self.nodes.is_gone(folder)) {
            self.leave(claim, names);
            return Err(Errno::NOENT);
        }
        Ok(claim)
    }

    /// Removes a name that is not a folder. The inode is kept for a while where the rules say so.
    pub fn unlink(&self, creds: Option<&Creds>, folder: &Arc<Node>, name: &OsStr) -> Result<()> {
        let dir = self.nodes.fd(folder)?;
        let claim = self.claim(&[(folder, name)])?;
        let old = match stat::stat_at(&dir, name) {
            Ok(old) => old,
            Err(errno) => {
                self.leave(claim, &[(folder, name)]);
                return Err(errno);
            }
        };
        let before = self.totals.weigh(&old);
        let aside = self.aside(OutboxKind::Unlink, &old, &folder.path_of(name)).filter(|aside| {
            self.journal.leaving(aside);
            let trash = OsStr::new(&aside.staged);
            let keep = || at::rename(&dir, name, self.staging.trash(), trash, RenameFlags::empty());
            // Whatever the reason, without the right to remove it the next call fails too. Unless only the answer was
            // lost.
            self.staging.acting(creds, keep).is_ok() || is_there(self.staging.trash(), trash, old.ino)
        });
        if aside.is_some() {
            failpoint!("unlink_after_move");
            self.nodes.retire(Key::of(&old));
        } else if let Err(errno) = self.staging.acting(creds, || at::unlink(&dir, name)) {
            claim.end(&[(before, before)], |changes| self.submit(vec![], &[(folder, changes[0])]));
            return Err(errno);
        }
        claim.end(&[(before, Holds::Nothing)], |changes| {
            let (path, change) = (folder.path_of(name), self.totals.change(changes[0], false));
            self.journal.submit(match aside {
                Some(aside) => Entry::SetAside(SetAside { path, change, ..aside }),
                None => Entry::Unlinked { path, change },
            });
        });
        Ok(())
    }

    /// Removes an empty folder.
    pub fn rmdir(&self, creds: Option<&Creds>, folder: &Arc<Node>, name: &OsStr) -> Result<()> {
        let dir = self.nodes.fd(folder)?;
        let claim = self.claim(&[(folder, name)])?;
        let removed = self.staging.acting(creds, || at::rmdir(&dir, name));
        let held = if removed.is_ok() { Holds::Folder } else { self.held(&dir, name) };
        let after = if removed.is_ok() { Holds::Nothing } else { held };
        claim.end_moving(&[(held, after)], |changes| {
            let path = folder.path_of(name);
            let gone = removed.is_ok().then(|| self.totals.entry(Delta::Gone(path.clone()))).flatten();
            self.submit(gone.into_iter().collect(), &[(folder, changes[0])]);
            if removed.is_ok() { vec![path] } else { Vec::new() }
        });
        removed
    }

    /// Makes a name that was not there by `call`.
    pub fn make<T>(
        &self,
        folder: &Arc<Node>,
        name: &OsStr,
        call: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        use std::os::fd::AsFd;
        let dir = self.nodes.fd(folder)?;
        let claim = self.claim(&[(folder, name)])?;
        let made = call(dir.as_fd());
        let after = self.held(&dir, name);
        let before = if made.is_ok() { Holds::Nothing } else { after };
        claim.end(&[(before, after)], |changes| {
            let new = made.is_ok() && after == Holds::Folder;
            let folder_made = new.then(|| self.totals.entry(Delta::Made(folder.path_of(name)))).flatten();
            self.submit(folder_made.into_iter().collect(), &[(folder, changes[0])]);
        });
        made
    }

    /// Changes a name by `call`, which may leave it as it is; nothing of it is kept. Also in a folder that is about to be
    /// removed: that waits for who calls this with a claim in it.
    pub(super) fn change<T>(
        &self,
        folder: &Node,
        name: &OsStr,
        call: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        use std::os::fd::AsFd;
        let dir = self.nodes.fd(folder)?;
        let claim = self.totals.claim(&[(folder.key, name)]);
        let before = self.held(&dir, name);
        let changed = call(dir.as_fd());
        let after = if changed.is_ok() { self.held(&dir, name) } else { before };
        claim.end(&[(before, after)], |changes| self.submit(vec![], &[(folder, changes[0])]));
        changed
    }

    /// Renames versions and folders. `check` sees both sides first and may refuse.
    pub fn rename(
        &self,
        creds: Option<&Creds>,
        from: Name<'_>,
        to: Name<'_>,
        flags: RenameFlags,
        check: impl FnOnce(&Stat, Option<&Stat>) -> Result<()>,
    ) -> Result<Renamed> {
        let (old_dir, new_dir) = (self.nodes.fd(from.0)?, self.nodes.fd(to.0)?);
        let claim = self.claim(&[from, to])?;
        let moved = match stat::stat_at(&old_dir, from.1) {
            Ok(moved) => moved,
            Err(errno) => {
                self.leave(claim, &[from, to]);
                return Err(errno);
            }
        };
        let replaced = match stat::stat_at(&new_dir, to.1) {
            Ok(there) => Some(there),
            Err(errno) => {
                if errno != Errno::NOENT {
                    let path = crate::inode::display_path(&to.0.path_of(to.1));
                    tracing::warn!(path, %errno, "what a rename replaces cannot be looked at, and is not kept");
                }
                None
            }
        };
        let (mine, theirs) = (self.totals.weigh(&moved), replaced.map_or(Holds::Nothing, |s| self.totals.weigh(&s)));
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        // Two names of one inode: nothing happens.
        let same = replaced.is_some_and(|there| Key::of(&there) == Key::of(&moved));
        let renamed = check(&moved, replaced.as_ref()).and_then(|()| {
            let old = replaced.filter(|_| flags.is_empty() && !same && moved.kind != Kind::Dir);
            let _quiet = old.and_then(|_| self.nodes.quiet(to.0));
            let aside = old.and_then(|old| self.link_aside(creds, &new_dir, to.1, &old, &to.0.path_of(to.1)));
            let rename = || at::rename(&old_dir, from.1, &new_dir, to.1, flags);
            if let Err(errno) = self.staging.acting(creds, || until_free(&new_dir, rename)) {
                // Only the answer may have been lost.
                let happened =
                    !exchange && !same && is_there(&new_dir, to.1, moved.ino) && !is_there(&old_dir, from.1, moved.ino);
                if !happened {
                    self.put_back(aside.as_ref(), &new_dir, to.1);
                    self.unlink_aside(aside.as_ref());
                    return Err(errno);
                }
                tracing::warn!(%errno, "rename reported an error but had happened");
            }
            failpoint!("replace_after_rename");
            Ok(aside)
        });
        let unchanged = [(mine, mine), (theirs, theirs)];
        let outcome = match (&renamed, exchange) {
            (Err(_), _) => unchanged,
            (Ok(_), _) if same => unchanged,
            (Ok(_), true) => [(mine, theirs), (theirs, mine)],
            (Ok(_), false) => [(mine, Holds::Nothing), (theirs, mine)],
        };
        let changed = renamed.is_ok() && !same;
        claim.end_moving(&outcome, |changes| {
            let (old_path, new_path) = (from.0.path_of(from.1), to.0.path_of(to.1));
            let mut entries = Vec::new();
            if let Ok(Some(aside)) = &renamed {
                entries.push(Entry::SetAside(aside.clone()));
            }
            if changed {
                let moves = moves(mine, if exchange { theirs } else { Holds::Nothing }, &old_path, &new_path);
                entries.extend(moves.into_iter().filter_map(|delta| self.totals.entry(delta)));
            }
            self.submit(entries, &[(from.0, changes[0]), (to.0, changes[1])]);
            if !changed {
                return Vec::new();
            }
            // Whoever writes down a change below from now on does so under the new path.
            self.nodes.moved(&moved, to.0, to.1);
            if let Some(there) = replaced.filter(|_| exchange) {
                self.nodes.moved(&there, from.0, from.1);
            }
            let folders = mine == Holds::Folder || (exchange && theirs == Holds::Folder);
            if folders { vec![old_path, new_path] } else { Vec::new() }
        });
        if let Ok(Some(_)) = &renamed
            && let Some(old) = replaced
        {
            self.nodes.retire(Key::of(&old));
        }
        renamed.map(|_| Renamed { moved, replaced })
    }

    /// The outbox row for an inode that is about to lose its only name; `None` if it is not to be kept.
    fn aside(&self, kind: OutboxKind, old: &Stat, path: &[u8]) -> Option<SetAside> {
        if old.kind != Kind::File || old.nlink != 1 {
            return None;
        }
        let retain = self.rules.decide(path).retain;
        if retain.is_zero() {
            return None;
        }
        let id = self.journal.next_outbox_id();
        Some(SetAside {
            id,
            kind,
            path: path.to_vec(),
            staged: self.staging.name_of(id),
            ino: old.ino,
            uid: old.uid,
            gid: old.gid,
            bytes: old.size,
            files: 1,
            due: clock::now() + retain,
            change: None,
        })
    }

    /// Gives the version that is about to be replaced a second name. Without (no room, no right, no links on that file
    /// system) it goes as it would have gone without retention.
    pub(super) fn link_aside(
        &self,
        creds: Option<&Creds>,
        dir: impl std::os::fd::AsFd,
        name: &OsStr,
        old: &Stat,
        path: &[u8],
    ) -> Option<SetAside> {
        let aside = self.aside(OutboxKind::Replace, old, path)?;
        self.journal.leaving(&aside);
        let trash = OsStr::new(&aside.staged);
        let linked = match self.staging.acting_for(creds, || at::link_at(dir, name, self.staging.trash(), trash)) {
            Err(_) if is_there(self.staging.trash(), trash, old.ino) => Ok(()),
            other => other,
        };
        match linked {
            Ok(()) => {
                failpoint!("replace_after_link");
                let reopen = || at::open_file(self.staging.trash(), trash, OFlags::RDONLY, 0).map(OwnedFd::from);
                self.nodes.lead_away(Key::of(old), || self.staging.acting_for(creds, reopen));
                Some(aside)
            }
            Err(errno) => {
                tracing::debug!(path = crate::inode::display_path(path), %errno, "the old version cannot be kept");
                None
            }
        }
    }

    pub(super) fn unlink_aside(&self, aside: Option<&SetAside>) {
        let Some(aside) = aside else { return };
        if let Err(errno) = at::unlink(self.staging.trash(), OsStr::new(&aside.staged)) {
            // A further name of a living version: the next sweep removes it.
            tracing::warn!(%errno, staged = aside.staged, "cannot take a name in the trash folder back");
        }
    }

    /// Ends a claim on names that stay as they are. A count may have left them out: then they add themselves.
    pub(crate) fn leave(&self, claim: Claim, names: &[Name<'_>]) {
        let holds =
            |(folder, name): &Name<'_>| self.nodes.fd(folder).map_or(Holds::Nothing, |dir| self.held(dir, name));
        let mut outcome: Vec<(Holds, Holds)> = names.iter().map(holds).map(|held| (held, held)).collect();
        // One name given twice is claimed once.
        outcome.truncate(claim.len());
        claim.end(&outcome, |changes| {
            let changes: Vec<_> = names.iter().map(|(folder, _)| &***folder).zip(changes.iter().copied()).collect();
            self.submit(Vec::new(), &changes);
        });
    }

    pub(super) fn held(&self, dir: impl std::os::fd::AsFd, name: &OsStr) -> Holds {
        stat::stat_at(dir, name).map_or(Holds::Nothing, |there| self.totals.weigh(&there))
    }

    /// To be called while a claim ends: what a folder has lost or gained counts under the path that it has then, and nowhere
    /// if it was removed whole.
    pub(super) fn submit(&self, mut entries: Vec<Entry>, changes: &[(&Node, Change)]) {
        for (folder, Change { bytes, files }) in changes.iter().filter(|(folder, _)| !self.nodes.is_gone(folder)) {
            let count = Delta::Count { folder: folder.path(), bytes: *bytes, files: *files, newest: None };
            entries.extend(self.totals.entry(count));
        }
        if !entries.is_empty() {
            self.journal.submit(together(entries));
        }
    }
}

/// A rename that meets the client of NFS moving the same name out of the way, for another host has replaced it meanwhile,
/// fails with `ETXTBSY`: nothing has happened, and after a fresh look at the folder it is done again.
pub(super) fn until_free(dir: impl std::os::fd::AsFd, rename: impl Fn() -> Result<()>) -> Result<()> {
    for pause in [1, 5, 25, 125] {
        match rename() {
            Err(Errno::TXTBSY) => {}
            other => return other,
        }
        std::thread::sleep(Duration::from_millis(pause));
        stat::revalidate(dir.as_fd())?;
    }
    rename()
}

/// Whether a name holds an inode: what a change of names did whose answer was lost.
pub(crate) fn is_there(dir: impl std::os::fd::AsFd, name: &OsStr, ino: u64) -> bool {
    // An NFS client may remember what was there before. A server that is away now does not answer the next call either.
    if let Err(errno) = stat::revalidate(&dir) {
        tracing::debug!(%errno, "a folder is looked at as it is remembered");
    }
    stat::stat_at(dir, name).is_ok_and(|there| there.ino == ino)
}

pub(super) fn together(mut entries: Vec<Entry>) -> Entry {
    if entries.len() == 1 { entries.remove(0) } else { Entry::Together(entries) }
}

/// What becomes of folders when two names hold something else.
fn moves(moved: Holds, back: Holds, old: &[u8], new: &[u8]) -> Vec<Delta> {
    let step = |from: &[u8], to: &[u8]| Delta::Moved { from: from.to_vec(), to: to.to_vec() };
    match (moved, back) {
        (Holds::Folder, Holds::Folder) => {
            // No folder is called that.
            let aside = [new, b"\0"].concat();
            vec![step(new, &aside), step(old, new), step(&aside, old)]
        }
        (Holds::Folder, _) => vec![step(old, new)],
        (_, Holds::Folder) => vec![step(new, old)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_that_meets_a_busy_name_is_done_again_and_given_up_in_the_end() {
        let dir = std::fs::File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
        let tried = std::cell::Cell::new(0);
        let outcome = |free_after| {
            tried.set(0);
            until_free(&dir, || {
                tried.set(tried.get() + 1);
                if tried.get() > free_after { Ok(()) } else { Err(Errno::TXTBSY) }
            })
        };
        assert_eq!((outcome(2), tried.get()), (Ok(()), 3));
        assert_eq!((outcome(100), tried.get()), (Err(Errno::TXTBSY), 5));
    }
}
