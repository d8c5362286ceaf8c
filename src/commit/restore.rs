//! Putting back what was taken out of the name space: in one step, whether its name is free or has another version by now.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::names::until_free;
use super::{Committer, Target, Unmarked, is_there};
use crate::failpoint;
use crate::folders::Holds;
use crate::inode::{Key, display_path};
use crate::journal::{Entry, SetAside};
use crate::sys::at::{self, RenameFlags};
use crate::sys::{Errno, Kind, Result, Stat, stat};

impl Committer {
    /// Moves `staged`, a file or a `tree`, from the trash folder to its target. A name that is taken stays as it is, unless
    /// `replace` says otherwise (and never a folder): its version is then kept as any that is replaced. Returns why the name
    /// is there and not durable yet, if that is so.
    pub fn restore(&self, staged: &OsStr, tree: bool, target: &Target, replace: bool) -> Result<Option<Errno>> {
        let (trash, parent, name) = (self.staging.trash(), &target.parent, target.name.as_os_str());
        let stat = stat::stat_at(trash, staged)?;
        let replace = replace && !tree;
        let dir = self.revalidated(parent)?;
        let is_file = stat::stat_at(&dir, name).is_ok_and(|there| there.kind == Kind::File);
        let is_marked = replace && is_file && self.wants_marker(&target.path());
        let unmarked = if is_marked { self.remove_marker(parent, name, None)? } else { None };
        let claim = match self.claim(&[(parent, name)]) {
            Ok(claim) => claim,
            Err(errno) => {
                unmarked.into_iter().for_each(Unmarked::put_back);
                return Err(errno);
            }
        };
        let there = stat::stat_at(&dir, name).ok();
        let moved = match &there {
            Some(there) if replace => self.restore_over(staged, &stat, &dir, target, there),
            _ => {
                failpoint!("restore_before_move");
                move_back(trash, staged, &dir, name, tree).map(|()| None)
            }
        };
        failpoint!("restore_after_move");
        let before = there.map_or(Holds::Nothing, |there| self.totals.weigh(&there));
        let after = if moved.is_ok() { self.totals.weigh(&stat) } else { before };
        let done = moved.is_ok();
        claim.end_moving(&[(before, after)], |changes| {
            let (folder, path) = (parent.path(), target.path());
            let mut entries: Vec<Entry> = Vec::new();
            if let Ok(Some(aside)) = &moved {
                entries.push(Entry::SetAside(aside.clone()));
            }
            if done && tree && self.totals.is_on() {
                // Its folders are not known any more: they are counted.
                entries.push(Entry::Found { folder, names: vec![name.as_bytes().to_vec()] });
                tracing::debug!(path = display_path(&path), "a restored tree is counted in the background");
            }
            self.submit(entries, &[(parent, changes[0])]);
            if done {
                self.nodes.moved(&stat, parent, name);
                // What is written in place in it from now on counts, like all that the count above finds.
                self.nodes.reinstate(Key::of(&stat));
            }
            if done && tree { vec![path] } else { Vec::new() }
        });
        if let (Err(_), Some(unmarked)) = (&moved, unmarked) {
            unmarked.put_back();
        }
        if moved?.is_some()
            && let Some(there) = there
        {
            self.nodes.retire(Key::of(&there));
        }
        Ok(self.sync_folder(parent).err())
    }

    /// As a commit replaces a version: it has a second name by then, so that the first one is never absent.
    fn restore_over(
        &self,
        staged: &OsStr,
        stat: &Stat,
        dir: impl AsFd,
        target: &Target,
        there: &Stat,
    ) -> Result<Option<SetAside>> {
        let (trash, name) = (self.staging.trash(), target.name.as_os_str());
        if there.kind == Kind::Dir {
            return Err(Errno::ISDIR);
        }
        // A second name of the same file: the rename would do nothing.
        if Key::of(there) == Key::of(stat) {
            return Err(Errno::EXIST);
        }
        let _quiet = self.nodes.quiet(&target.parent);
        let aside = self.link_aside(None, &dir, name, there, &target.path());
        failpoint!("restore_before_move");
        let rename = || at::rename(trash, staged, dir.as_fd(), name, RenameFlags::empty());
        match until_free(&dir, rename) {
            // Only the answer was lost.
            Err(_) if is_there(dir.as_fd(), name, stat.ino) && !is_there(trash, staged, stat.ino) => Ok(aside),
            Err(errno) => {
                self.put_back(aside.as_ref(), &dir, name);
                self.unlink_aside(aside.as_ref());
                Err(errno)
            }
            Ok(()) => Ok(aside),
        }
    }
}

/// Never over a name that is there, also where the file system cannot promise that by itself.
fn move_back(trash: impl AsFd, staged: &OsStr, dir: impl AsFd, name: &OsStr, tree: bool) -> Result<()> {
    let ino = stat::stat_at(trash.as_fd(), staged)?.ino;
    match at::rename(trash.as_fd(), staged, dir.as_fd(), name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        // Only the answer was lost.
        Err(_) if is_there(dir.as_fd(), name, ino) && !is_there(trash.as_fd(), staged, ino) => return Ok(()),
        other => return other,
    }
    if !tree {
        at::link_at(trash.as_fd(), staged, dir, name)?;
        return at::unlink(trash, staged);
    }
    match stat::stat_at(dir.as_fd(), name) {
        Ok(_) => Err(Errno::EXIST),
        // A rename over an empty folder that appears right now would replace it; over anything else it fails.
        Err(Errno::NOENT) => at::rename(trash, staged, dir, name, RenameFlags::empty()),
        Err(other) => Err(other),
    }
}
