//! One file as far as locks go: all descriptors of one path, whether of a version or of a draft, and the same locks
//! again on the export, so that they hold against other hosts and against programs that use the export itself.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::held::{Held, Lock, Sort};
use crate::inode::Key;
use crate::sys::lock::{self, Span};
use crate::sys::{Errno, Result};

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Attempt {
    Granted,
    /// Not to be had now.
    Blocked(Blocked),
}

/// What is in the way of a lock.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    /// These owners; nobody on this mount if there are none.
    pub(super) owners: Vec<u64>,
    /// One of their descriptors was closed just now: until then, the release that frees the lock may be on its way.
    pub(super) soon: Option<Instant>,
}

/// How long a close may be ahead of the release behind it.
const RELEASE_FOLLOWS: Duration = Duration::from_millis(200);

/// The locks of one file. `state` spans calls to the export: only who locks this very file meets it.
#[derive(Debug, Default)]
pub(super) struct Domain {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Held,
    /// An open file description of the export for each owner; closed, its locks are gone.
    forwards: HashMap<(Sort, u64), Forward>,
    /// Descriptors of which a duplicate was closed, maybe the last one.
    closing: HashMap<u64, Instant>,
    /// It was logged that the export's file cannot be opened: whoever locks it anew for each access says it once.
    told: bool,
}

#[derive(Debug)]
enum Forward {
    To(File),
    /// The export's file system has no locks, or lets nobody open the file for them: they hold on this mount only.
    Nowhere,
}

impl Domain {
    /// Takes a lock if nobody is in the way. `open` gives the file on the export. The second value is true if a lock
    /// that the owner had was changed.
    pub(super) fn attempt(&self, lock: &Lock, open: impl FnOnce() -> Result<File>) -> Result<(Attempt, bool)> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut changed = false;
        if lock.sort == Sort::Whole && state.held.whole_of(lock.owner).is_some_and(|mode| mode != lock.mode) {
            // As flock(2) has it, a conversion gives the old lock back first. The file goes with it: a release goes by what is held, and
            // would not find that of an owner who holds nothing.
            changed = state.held.cut(Sort::Whole, lock.owner, Span::WHOLE);
            state.forwards.remove(&(lock.sort, lock.owner));
        }
        let others = state.held.in_the_way(lock);
        if !others.is_empty() {
            let now = Instant::now();
            state.closing.retain(|_, until| *until > now);
            let closing = others.iter().filter(|other| other.sort != Sort::Process).map(|other| other.fh);
            let soon = closing.filter_map(|fh| state.closing.get(&fh)).max().copied();
            let owners = others.iter().map(|other| other.owner).collect();
            return Ok((Attempt::Blocked(Blocked { owners, soon }), changed));
        }
        let forward = match state.forwards.entry((lock.sort, lock.owner)) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => free.insert(match open() {
                Ok(file) => Forward::To(file),
                Err(errno) if is_trouble(errno) => return Err(errno),
                Err(errno) => {
                    if !std::mem::replace(&mut state.told, true) {
                        tracing::warn!(%errno, pid = lock.pid, "a file cannot be locked on the export: other hosts see no lock");
                    }
                    Forward::Nowhere
                }
            }),
        };
        let taken = match forward {
            Forward::To(file) if lock.sort == Sort::Whole => lock::set_whole(file, Some(lock.mode)),
            Forward::To(file) => lock::set_record(file, lock.span, Some(lock.mode)),
            Forward::Nowhere => Ok(()),
        };
        match taken {
            Ok(()) => {}
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::BADF) => {
                tracing::debug!("the export takes no such lock");
                *forward = Forward::Nowhere;
            }
            Err(errno) => {
                if !state.held.has(lock.sort, lock.owner) {
                    state.forwards.remove(&(lock.sort, lock.owner));
                }
                return if errno == Errno::AGAIN {
                    Ok((Attempt::Blocked(Blocked::default()), changed))
                } else {
                    Err(errno)
                };
            }
        }
        changed |= state.held.set(*lock);
        Ok((Attempt::Granted, changed))
    }

    /// Gives the owner's locks on these bytes back. True if there were any.
    pub(super) fn unlock(&self, sort: Sort, owner: u64, span: Span) -> Result<bool> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let cut = state.held.cut(sort, owner, span);
        if !state.held.has(sort, owner) {
            state.forwards.remove(&(sort, owner));
        } else if let Some(Forward::To(file)) = state.forwards.get(&(sort, owner)) {
            lock::set_record(file, span, None)?;
        }
        Ok(cut)
    }

    /// A duplicate of a descriptor is closed: its release may follow.
    pub(super) fn expect_release(&self, fh: u64) {
        self.state.lock().closing.insert(fh, Instant::now() + RELEASE_FOLLOWS);
    }

    /// Gives back all that was taken through a descriptor. True if there was anything.
    pub(super) fn close(&self, fh: u64) -> bool {
        let mut state = self.state.lock();
        state.closing.remove(&fh);
        let owners = state.held.through(fh);
        for &(sort, owner) in &owners {
            state.held.cut(sort, owner, Span::WHOLE);
            state.forwards.remove(&(sort, owner));
        }
        !owners.is_empty()
    }

    /// A lock that is in the way of this one, on this mount or on the export. The latter has no process.
    pub(super) fn test(&self, of: &Lock, open: impl FnOnce() -> Result<File>) -> Result<Option<Lock>> {
        let state = self.state.lock();
        if let Some(there) = state.held.in_the_way(of).first() {
            return Ok(Some(*there));
        }
        let found = match state.forwards.get(&(of.sort, of.owner)) {
            Some(Forward::To(file)) => lock::test_record(file, of.span, of.mode),
            Some(Forward::Nowhere) => Ok(None),
            None => open().and_then(|file| lock::test_record(file, of.span, of.mode)),
        };
        match found {
            Ok(None) => Ok(None),
            // The export's lock may be the mount's own, of another owner that holds more bytes than are asked about:
            // then it would have been found above. So it is a stranger's.
            Ok(Some((span, mode))) => Ok(Some(Lock { span, mode, pid: 0, ..*of })),
            Err(errno) if is_trouble(errno) => Err(errno),
            Err(errno) => {
                tracing::debug!(%errno, "cannot ask the export for locks");
                Ok(None)
            }
        }
    }
}

/// Trouble of the moment, and no word on whether the export has locks: whoever asked must not believe that it holds one.
fn is_trouble(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::STALE)
}

/// Which file a descriptor locks.
#[derive(Debug)]
pub(super) struct Identity {
    /// Its name, unless it has none any more.
    pub(super) name: Option<(Key, OsString)>,
    /// The version's inode, or the draft's where there is no version.
    pub(super) inode: Key,
}

/// Files with locks, by name and by inode: a version and the draft over it have the name in common, two hard links the
/// inode. A commit leaves the name with its locks; a rename takes them along.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: HashMap<(Key, OsString), Weak<Domain>>,
    by_inode: HashMap<Key, Weak<Domain>>,
    purge_at: usize,
}

impl Names {
    pub(super) fn find(&self, identity: &Identity) -> Option<Arc<Domain>> {
        let by_name = identity.name.as_ref().and_then(|name| self.by_name.get(name)?.upgrade());
        by_name.or_else(|| self.by_inode.get(&identity.inode)?.upgrade())
    }

    pub(super) fn find_or_add(&mut self, identity: Identity) -> Arc<Domain> {
        let domain = self.find(&identity).unwrap_or_default();
        if self.by_name.len() + self.by_inode.len() >= self.purge_at {
            self.by_name.retain(|_, domain| domain.strong_count() > 0);
            self.by_inode.retain(|_, domain| domain.strong_count() > 0);
            self.purge_at = 2 * (self.by_name.len() + self.by_inode.len()) + 64;
        }
        if let Some(name) = identity.name {
            self.by_name.insert(name, Arc::downgrade(&domain));
        }
        self.by_inode.insert(identity.inode, Arc::downgrade(&domain));
        domain
    }

    pub(super) fn removed(&mut self, folder: Key, name: &OsStr) {
        if !self.by_name.is_empty() {
            self.by_name.remove(&(folder, name.to_owned()));
        }
    }

    pub(super) fn renamed(&mut self, from: (Key, &OsStr), to: (Key, &OsStr), exchanged: bool) {
        if self.by_name.is_empty() {
            return;
        }
        let (from, to) = ((from.0, from.1.to_owned()), (to.0, to.1.to_owned()));
        let (moved, there) = (self.by_name.remove(&from), self.by_name.remove(&to));
        if let Some(moved) = moved {
            self.by_name.insert(to, moved);
        }
        if let Some(there) = there
            && exchanged
        {
            self.by_name.insert(from, there);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::lock::Mode;

    #[test]
    fn trouble_on_the_export_refuses_a_lock_and_leaves_nothing_of_it() {
        let domain = Domain::default();
        let lock = Lock { sort: Sort::Process, owner: 1, fh: 1, span: Span::WHOLE, mode: Mode::Exclusive, pid: 1 };
        let other = Lock { owner: 2, fh: 2, pid: 2, ..lock };
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::STALE] {
            assert_eq!(domain.attempt(&lock, || Err(errno)).unwrap_err(), errno);
            assert_eq!(domain.test(&other, || Err(errno)).unwrap_err(), errno);
        }
        assert!(domain.test(&other, || Err(Errno::ACCESS)).unwrap().is_none(), "nobody holds it");
        // Whom the export lets nobody lock for holds it here.
        assert!(matches!(domain.attempt(&lock, || Err(Errno::ACCESS)).unwrap(), (Attempt::Granted, false)));
        assert!(domain.test(&other, || Err(Errno::IO)).unwrap().is_some());
    }
}
