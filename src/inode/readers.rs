//! Descriptors of versions that are open, so that they can be led away from a name which is about to be replaced.
//!
//! The NFS client of Linux renames in two steps over a name through which it has something open: first it moves the old
//! file out of the way, so that for a moment no host finds the name. A version that somebody reads is therefore opened
//! again through its name in the trash folder before the rename, and each descriptor of it is exchanged for that one.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;

use super::Key;
use crate::sys::{Result, at};

/// The open versions of an export on NFS.
#[derive(Debug)]
pub struct Readers {
    open: DashMap<Key, Vec<Weak<File>>>,
    /// Those that were closed since are looked for when there are so many.
    sweep_at: AtomicUsize,
}

/// Entries below which nobody looks for closed ones.
const FEW: usize = 64;

impl Default for Readers {
    fn default() -> Self {
        Readers { open: DashMap::new(), sweep_at: AtomicUsize::new(FEW) }
    }
}

impl Readers {
    /// An inode is open through this file. It must not be locked, nor read but at given offsets: both belong to the
    /// description that is exchanged.
    pub fn add(&self, key: Key, file: &Arc<File>) {
        let mut files = self.open.entry(key).or_default();
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(file));
        drop(files);
        if self.open.len() >= self.sweep_at.load(Ordering::Relaxed) {
            self.open.retain(|_, files| {
                files.retain(|file| file.strong_count() > 0);
                !files.is_empty()
            });
            self.sweep_at.store((self.open.len() * 2).max(FEW), Ordering::Relaxed);
        }
    }

    /// Exchanges the descriptors of an inode for one that `reopen` opens, if there are any.
    pub fn lead_away(&self, key: Key, reopen: impl FnOnce() -> Result<OwnedFd>) -> Result<()> {
        let open = |files: dashmap::mapref::one::Ref<'_, Key, Vec<Weak<File>>>| {
            files.iter().filter_map(Weak::upgrade).collect::<Vec<_>>()
        };
        let files = self.open.get(&key).map(open).unwrap_or_default();
        if files.is_empty() {
            return Ok(());
        }
        let other = reopen()?;
        files.iter().try_for_each(|file| at::exchange(file, &other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::stat;
    use std::ffi::OsStr;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    fn path_of(file: &File) -> std::path::PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
    }

    #[test]
    fn a_file_that_is_led_away_is_the_same_file_by_its_other_name() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (name, aside) = (dir.path().join("name"), dir.path().join("aside"));
        std::fs::write(&name, "content").unwrap();
        let file = Arc::new(File::open(&name).unwrap());
        let key = Key::of(&stat::fstat(&*file).unwrap());
        let readers = Readers::default();
        readers.add(key, &file);
        std::fs::hard_link(&name, &aside).unwrap();
        let reopen =
            || at::open_file(&File::open(dir.path()).unwrap(), OsStr::new("aside"), rustix::fs::OFlags::RDONLY, 0);
        readers.lead_away(key, || reopen().map(OwnedFd::from)).unwrap();
        assert_eq!(path_of(&file), std::fs::canonicalize(aside).unwrap());
        let mut read = [0; 7];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"content");
    }

    #[test]
    fn what_nobody_has_open_is_not_opened_and_costs_no_memory() {
        let readers = Readers::default();
        for ino in 0..10_000 {
            readers.add(Key { dev: 1, ino }, &Arc::new(tempfile::tempfile().unwrap()));
        }
        assert!(readers.open.len() <= FEW, "{} entries", readers.open.len());
        readers.lead_away(Key { dev: 1, ino: 9_999 }, || unreachable!("nobody reads it")).unwrap();
    }
}
