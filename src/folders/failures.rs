//! Folders that could not be counted: tried again ever later, and nobody waits for them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::claims::is_within;
use crate::sys::Errno;

/// Pause after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(3600);
/// As many are remembered.
const LIMIT: usize = 10_000;

/// By path, in memory: the next daemon tries each of them at once.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<Vec<u8>, Failure>>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    errno: Errno,
    pause: Duration,
    due: Instant,
}

/// What became of a failure that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    First,
    Again,
    /// There are too many.
    No,
}

impl Failures {
    pub fn note(&self, path: &[u8], errno: Errno) -> Noted {
        let mut known = self.0.lock();
        let now = Instant::now();
        if let Some(failure) = known.get_mut(path) {
            let pause = (failure.pause * 2).min(LONGEST);
            *failure = Failure { errno, pause, due: now + pause };
            return Noted::Again;
        }
        if known.len() >= LIMIT {
            // Some may be of folders that are gone.
            known.retain(|_, failure| failure.due + LONGEST > now);
            if known.len() >= LIMIT {
                return Noted::No;
            }
        }
        known.insert(path.to_owned(), Failure { errno, pause: FIRST, due: now + FIRST });
        Noted::First
    }

    /// It was counted, or is gone.
    pub fn forget(&self, path: &[u8]) {
        self.0.lock().remove(path);
    }

    /// A folder and all below it are tried at once.
    pub fn forget_below(&self, folder: &[u8]) {
        self.0.lock().retain(|path, _| !is_within(path, folder));
    }

    /// Those that are not to be tried yet.
    pub fn waiting(&self) -> HashSet<Vec<u8>> {
        let now = Instant::now();
        let known = self.0.lock();
        known.iter().filter(|(_, failure)| failure.due > now).map(|(path, _)| path.clone()).collect()
    }

    /// How many there are in a folder and below, and the first of them.
    pub fn below(&self, folder: &[u8]) -> Option<(u64, Vec<u8>, Errno)> {
        let known = self.0.lock();
        let below = || known.iter().filter(|(path, _)| is_within(path, folder));
        let (path, failure) = below().min_by_key(|(path, _)| *path)?;
        Some((below().count() as u64, path.clone(), failure.errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_known_below_its_folders_until_it_is_forgotten() {
        let failures = Failures::default();
        assert_eq!(failures.note(b"a/b", Errno::IO), Noted::First);
        assert_eq!(failures.note(b"a/b", Errno::NOTCONN), Noted::Again);
        assert_eq!(failures.note(b"ab", Errno::IO), Noted::First);
        assert_eq!(failures.waiting().len(), 2);
        for (folder, count) in [(&b""[..], 2), (b"a", 1), (b"a/b", 1)] {
            assert_eq!(failures.below(folder), Some((count, b"a/b".to_vec(), Errno::NOTCONN)), "{folder:?}");
        }
        assert_eq!(failures.below(b"a/b/c"), None);
        failures.forget_below(b"a");
        assert_eq!(failures.below(b""), Some((1, b"ab".to_vec(), Errno::IO)));
        failures.forget(b"ab");
        assert_eq!(failures.below(b""), None);
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let failures = Failures::default();
        for n in 0..LIMIT {
            assert_eq!(failures.note(&n.to_ne_bytes(), Errno::IO), Noted::First);
        }
        assert_eq!(failures.note(b"one more", Errno::IO), Noted::No);
        assert_eq!(failures.note(&0_usize.to_ne_bytes(), Errno::IO), Noted::Again);
    }
}
