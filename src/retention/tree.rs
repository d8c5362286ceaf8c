//! Removing a tree of any depth and width with one open folder at a time.
//!
//! Folders found below the first level are moved up to it, so there is never more than one level to go down, and every
//! state in between is again such a tree: an interrupted removal just goes on.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::at::{self, RenameFlags};
use crate::sys::{Errno, Kind, Result, stat};

/// Removes `name` in `dir` with all that is below. `step` is called after each name, with whether it is removed and not
/// just moved up, and says whether to go on; `CANCELED` if not.
pub(super) fn remove(dir: impl AsFd, name: &OsStr, mut step: impl FnMut(bool) -> bool) -> Result<()> {
    let top = match at::open_dir(dir.as_fd(), name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        // Somebody put something else there.
        Err(Errno::NOTDIR | Errno::LOOP) => return at::unlink(dir, name),
        Err(other) => return Err(other),
    };
    let mut moved = 0;
    loop {
        // A listing that is changed while it is read may leave names out: until none is found.
        let mut found = false;
        for entry in at::entries(at::open_dir(&top, OsStr::new("."))?)? {
            let entry = entry?;
            found = true;
            if kind_of(&top, &entry)? == Some(Kind::Dir) {
                remove_below(&top, &entry.name, &mut moved, &mut step)?;
            } else {
                gone(at::unlink(&top, &entry.name))?;
            }
            if !step(true) {
                return Err(Errno::CANCELED);
            }
        }
        if !found {
            return gone(at::rmdir(dir, name));
        }
    }
}

/// Empties and removes a folder in `top`; the folders in it come to lie in `top`.
fn remove_below(top: &OwnedFd, name: &OsStr, moved: &mut u64, step: &mut impl FnMut(bool) -> bool) -> Result<()> {
    match at::rmdir(top, name) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        other => return gone(other),
    }
    let folder = match at::open_dir(top, name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    loop {
        let mut found = false;
        for entry in at::entries(at::open_dir(&folder, OsStr::new("."))?)? {
            let entry = entry?;
            found = true;
            let is_folder = kind_of(&folder, &entry)? == Some(Kind::Dir);
            if is_folder {
                move_up(&folder, &entry.name, top, moved)?;
            } else {
                gone(at::unlink(&folder, &entry.name))?;
            }
            if !step(!is_folder) {
                return Err(Errno::CANCELED);
            }
        }
        if !found {
            return gone(at::rmdir(top, name));
        }
    }
}

/// Under a name that is free, or that an empty folder has, which the rename removes.
fn move_up(from: &OwnedFd, name: &OsStr, top: &OwnedFd, moved: &mut u64) -> Result<()> {
    loop {
        let up = OsString::from(format!(".up{moved:x}"));
        *moved += 1;
        match at::rename(from, name, top, &up, RenameFlags::empty()) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            other => return gone(other),
        }
    }
}

fn kind_of(dir: &OwnedFd, entry: &at::DirEntry) -> Result<Option<Kind>> {
    if entry.kind.is_some() {
        return Ok(entry.kind);
    }
    match stat::stat_at(dir, &*entry.name) {
        Ok(stat) => Ok(Some(stat.kind)),
        Err(Errno::NOENT) => Ok(None),
        Err(other) => Err(other),
    }
}

fn gone(result: Result<()>) -> Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn any_tree_goes_and_an_interrupted_removal_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let trash = at::open_dir(rustix::fs::CWD, dir.path().as_os_str()).unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 300).collect();
        fs::create_dir_all(dir.path().join("t").join(&deep)).unwrap();
        for n in 0..500 {
            fs::write(dir.path().join(format!("t/f{n}")), "x").unwrap();
            fs::create_dir_all(dir.path().join(format!("t/d/d/w{n}/.up{n:x}"))).unwrap();
        }
        fs::write(dir.path().join("t/.up0"), "in the way").unwrap();
        fs::write(dir.path().join("t").join(&deep).join("leaf"), "x").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("t/link")).unwrap();
        let (mut rounds, mut gone) = (0, 0);
        loop {
            let mut steps = 0;
            rounds += 1;
            match remove(&trash, OsStr::new("t"), |removed| {
                steps += 1;
                gone += u64::from(removed);
                steps < 700
            }) {
                Ok(()) => break,
                Err(errno) => assert_eq!(errno, Errno::CANCELED),
            }
        }
        assert!(rounds > 2 && !dir.path().join("t").exists());
        // Each name at most once, however often it was moved: 502 files, a link, 300 folders of the chain and two for each
        // w. An empty one whose name another was moved to goes unseen.
        let all = 502 + 1 + 300 + 1000;
        assert!(gone <= all && gone > all - 500, "{gone} of {all}");
        remove(&trash, OsStr::new("t"), |_| true).unwrap();
    }
}
