//! What only folders have: when they were last made durable, and what the kernel knows of them.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::sys::{Errno, Result, at};

/// State that only folders have.
#[derive(Debug, Default)]
pub struct Folder {
    /// Held for reading from looking up a name in this folder to the end of the reply that lets the kernel cache it;
    /// taken for writing, for an instant, by whoever changed a name and is about to invalidate the kernel's entry. So
    /// an answer computed before the change cannot arrive after the invalidation. On NFS also held for writing during a
    /// rename over a name, which a look-up would keep busy.
    pub answers: Arc<RwLock<()>>,
    /// The kernel may remember the folder's times and size. Set before they are read for an answer; cleared where the
    /// kernel forgets them by itself, as it does with every name created through it.
    pub(super) told: AtomicBool,
    /// How often the folder, as far as this table knows, was moved; and how often it had been when its name was synced,
    /// counted from one.
    moves: AtomicU32,
    reachable: AtomicU32,
    sync: Mutex<SyncRounds>,
    synced: Condvar,
}

/// Rounds of fsync on one folder; a caller is served by any round that began after it asked.
#[derive(Debug, Default)]
struct SyncRounds {
    begun: u64,
    ended: u64,
    failed: Option<(u64, Errno)>,
}

impl Folder {
    /// The kernel has just forgotten the folder's times and size, or is about to be told to. True if it may have known
    /// them.
    pub fn forget_attributes(&self) -> bool {
        self.told.swap(false, Ordering::AcqRel)
    }

    /// True if the folder's own name is durable in the folder above.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Acquire) == self.moves() + 1
    }

    /// To be read before the folder above is synced.
    pub fn moves(&self) -> u32 {
        self.moves.load(Ordering::Acquire)
    }

    /// The folder above was synced since [`Folder::moves`] said so.
    pub fn reached(&self, moves: u32) {
        self.reachable.store(moves + 1, Ordering::Release);
    }

    /// The folder has another name.
    pub(super) fn moved(&self) {
        self.moves.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes the folder's names durable; callers that come while a round is running share the next one.
    pub fn sync(&self, dir: impl AsFd) -> Result<()> {
        let mut rounds = self.sync.lock();
        let wanted = rounds.begun + 1;
        while rounds.ended < wanted {
            if rounds.begun > rounds.ended {
                self.synced.wait(&mut rounds);
                continue;
            }
            rounds.begun += 1;
            let round = rounds.begun;
            let result = parking_lot::MutexGuard::unlocked(&mut rounds, || at::fsync_dir(dir.as_fd()));
            rounds.ended = round;
            if let Err(errno) = result {
                rounds.failed = Some((round, errno));
            }
            self.synced.notify_all();
        }
        match rounds.failed {
            Some((round, errno)) if round >= wanted => Err(errno),
            _ => Ok(()),
        }
    }
}
