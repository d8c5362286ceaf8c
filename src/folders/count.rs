//! Counting one folder: what is in it itself, beside whatever changes meanwhile.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::SystemTime;

use super::{Holds, Totals};
use crate::inode::Key;
use crate::journal::folders::join;
use crate::journal::{Counted, Delta, Entry, JournalError};
use crate::sys::{Errno, Kind, Result, at, stat};

/// Names of folders per journal entry.
const NAMES: usize = 2000;

/// A folder to count, with the one above if that is open.
pub(super) struct Waiting {
    pub path: Vec<u8>,
    pub above: Option<Arc<OwnedFd>>,
}

/// Why a folder was not counted.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountError {
    #[error(transparent)]
    Export(#[from] Errno),
    /// The path stood for another folder by the end.
    #[error("the folder was moved meanwhile")]
    Moved,
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What a look at a folder has found.
#[derive(Default)]
struct Look {
    names: HashMap<OsString, Holds>,
    bytes: u64,
    files: u64,
    newest: Option<SystemTime>,
}

impl Look {
    fn put(&mut self, name: OsString, holds: Holds) {
        self.take(&name);
        if let Holds::File(bytes) = holds {
            (self.bytes, self.files) = (self.bytes + bytes, self.files + 1);
        }
        if holds != Holds::Nothing {
            self.names.insert(name, holds);
        }
    }

    fn take(&mut self, name: &OsStr) {
        if let Some(Holds::File(bytes)) = self.names.remove(name) {
            (self.bytes, self.files) = (self.bytes - bytes, self.files - 1);
        }
    }
}

/// Ends a watch on every way out.
struct Watching<'a> {
    totals: &'a Totals,
    path: &'a [u8],
    folder: Option<Key>,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        if let Some(folder) = self.folder {
            self.totals.claims.abandon(folder);
        }
        self.totals.claims.look_away(self.path);
    }
}

impl Totals {
    /// Counts a folder; returns it open, with the paths of the folders in it.
    pub(super) fn count(&self, waiting: &Waiting) -> std::result::Result<(Arc<OwnedFd>, Vec<Vec<u8>>), CountError> {
        self.claims.look_at(&waiting.path);
        let mut watching = Watching { totals: self, path: &waiting.path, folder: None };
        let dir = match self.open(waiting) {
            Ok(dir) => Arc::new(dir),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                self.submit(Delta::Gone(waiting.path.clone()));
                return Err(errno.into());
            }
            Err(other) => return Err(other.into()),
        };
        let key = Key::of(&stat::fstat(&dir)?);
        if !self.claims.watch(key) {
            return Err(Errno::BUSY.into());
        }
        watching.folder = Some(key);
        let mut look = self.look(&waiting.path, &dir)?;
        let known: HashSet<Vec<u8>> =
            self.journal.read(|reader| reader.folder_names(&waiting.path))?.into_iter().collect();
        let mut below = Vec::new();
        watching.folder = None;
        let taken = self.claims.conclude(key, &waiting.path, |ended, in_flight| {
            for (name, holds) in ended {
                look.put(name.clone(), *holds);
            }
            for name in in_flight {
                look.take(name);
            }
            let is_folder = |name: &OsStr| look.names.get(name) == Some(&Holds::Folder);
            let gone = known.iter().filter(|name| {
                let name = OsStr::from_bytes(name);
                !is_folder(name) && !ended.contains_key(name) && !in_flight.iter().any(|there| there == name)
            });
            for name in gone {
                self.submit(Delta::Gone(join(&waiting.path, name)));
            }
            let (bytes, files, newest) = (look.bytes, look.files, look.newest);
            let (folder, exact) = (waiting.path.clone(), in_flight.is_empty());
            self.journal.submit(Entry::Counted(Counted { folder, bytes, files, newest, exact }));
            let folders = look.names.drain().filter(|(_, holds)| *holds == Holds::Folder);
            let names: Vec<Vec<u8>> = folders.map(|(name, _)| name.into_vec()).collect();
            let new: Vec<&Vec<u8>> = names
                .iter()
                .filter(|name| !known.contains(*name) && !ended.contains_key(OsStr::from_bytes(name)))
                .collect();
            for some in new.chunks(NAMES) {
                let names = some.iter().map(|name| (*name).clone()).collect();
                self.journal.submit(Entry::Found { folder: waiting.path.clone(), names });
            }
            below.extend(new.into_iter().map(|name| join(&waiting.path, name)));
        });
        if taken { Ok((dir, below)) } else { Err(CountError::Moved) }
    }

    /// Whether a path is that of a folder: on the export, or gone from there and still in the totals.
    pub fn is_folder(&self, path: &[u8]) -> std::result::Result<bool, JournalError> {
        if self.journal.read(|reader| reader.folder(path))?.is_some() {
            return Ok(true);
        }
        let first = path.split(|&byte| byte == b'/').next().unwrap_or_default();
        let found = self.open(&Waiting { path: path.to_vec(), above: None });
        // Any other error is met again, and told, when it is counted.
        let is_none = matches!(found, Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP));
        Ok(!is_none && !self.is_hidden(b"", OsStr::from_bytes(first)))
    }

    /// Opens a folder by the one above, or name by name from the root, and never through a symlink.
    fn open(&self, waiting: &Waiting) -> Result<OwnedFd> {
        let mut names = waiting.path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).map(OsStr::from_bytes);
        if let Some(above) = &waiting.above
            && let Some(name) = names.next_back()
        {
            return at::open_dir(above, name);
        }
        let mut dir = at::open_dir(self.nodes.fd(self.nodes.root())?, OsStr::new("."))?;
        for name in names {
            dir = at::open_dir(&dir, name)?;
        }
        Ok(dir)
    }

    fn look(&self, path: &[u8], dir: &OwnedFd) -> Result<Look> {
        let mut look = Look::default();
        for entry in at::entries(at::open_dir(dir, OsStr::new("."))?)? {
            let entry = entry?;
            if self.is_hidden(path, &entry.name) {
                continue;
            }
            let holds = match entry.kind {
                Some(Kind::Dir) => Holds::Folder,
                Some(Kind::File) | None => match stat::stat_at(dir, &*entry.name) {
                    Ok(stat) => {
                        if stat.kind == Kind::File {
                            look.newest = look.newest.max(Some(stat.mtime.to_system()));
                        }
                        self.weigh(&stat)
                    }
                    Err(Errno::NOENT) => continue,
                    Err(other) => return Err(other),
                },
                Some(_) => Holds::File(0),
            };
            look.put(OsString::from(&*entry.name), holds);
        }
        Ok(look)
    }
}
