//! Names that are being changed.
//!
//! Whoever changes a name claims it first: two changes of one name come one after the other, so what a name held before
//! and after each is known exactly. A count of a folder runs beside them without stopping any: what ends while it looks
//! is corrected, and what is still in flight at its end is left out of the count and then adds itself as a whole.
//!
//! Paths are those at the moment of writing down: who moves a folder gives its node the new place in the same instant
//! in which the move takes its place among the entries, and a count of a folder whose path stands for another one by its
//! end is not taken.
//!
//! A folder that is about to be removed whole is marked first, and whoever changes names in it is waited for; who has a claim
//! looks for the mark, and where it is ends the claim without a change. So nothing is written down under the path of a
//! folder that is not there any more.
//!
//! One lock, held for a few instructions and never across I/O; the journal's queue, the table of nodes and their places are
//! the only locks taken under it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::inode::Key;
use crate::journal::Change;

/// What a name stands for in the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holds {
    /// Nothing is there.
    #[default]
    Nothing,
    /// Anything but a folder, with the bytes it counts for.
    File(u64),
    /// A folder.
    Folder,
}

impl Holds {
    /// Bytes and files that it adds to its folder.
    fn weight(self) -> (i64, i64) {
        match self {
            Holds::Nothing | Holds::Folder => (0, 0),
            Holds::File(bytes) => (i64::try_from(bytes).unwrap_or(i64::MAX), 1),
        }
    }
}

/// All names that are being changed.
#[derive(Debug, Default)]
pub struct Claims {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// True when a count has left the name out.
    claimed: HashMap<(Key, OsString), bool>,
    /// Folders that are being counted, with what became of names meanwhile.
    watched: HashMap<Key, HashMap<OsString, Holds>>,
    /// Paths that are being looked at, and whether one stands for another folder by now.
    looks: Vec<(Vec<u8>, bool)>,
}

/// Whether `path` is `above`, or below it.
pub(super) fn is_within(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A claim on one name, or two. Ended by [`Claim::end`]; dropped without, it says that nothing has changed. A name that a
/// count has left out is then in no total: who gives up has to end it, too.
#[must_use]
#[derive(Debug)]
pub struct Claim {
    claims: Arc<Claims>,
    names: Vec<(Key, OsString)>,
}

impl Claims {
    /// Waits until nobody else changes any of these names.
    pub fn claim(self: &Arc<Self>, names: &[(Key, &OsStr)]) -> Claim {
        let mut wanted: Vec<(Key, OsString)> = Vec::with_capacity(names.len());
        for (folder, name) in names {
            if !wanted.iter().any(|(other, there)| other == folder && there == name) {
                wanted.push((*folder, (*name).to_owned()));
            }
        }
        let mut state = self.state.lock();
        // All at once or none, so that two who want the same two names cannot wait for each other.
        while wanted.iter().any(|name| state.claimed.contains_key(name)) {
            self.freed.wait(&mut state);
        }
        for name in &wanted {
            state.claimed.insert(name.clone(), false);
        }
        drop(state);
        Claim { claims: self.clone(), names: wanted }
    }

    /// Waits until nobody changes a name in a folder of which `is_meant` is true. Those who come later are not waited for:
    /// they must find the mark that the folder has by then.
    pub(crate) fn wait_for(&self, is_meant: impl Fn(Key) -> bool) {
        let mut state = self.state.lock();
        while state.claimed.keys().any(|(folder, _)| is_meant(*folder)) {
            self.freed.wait(&mut state);
        }
    }

    /// Begins to watch a path that is about to be opened: whether it goes on standing for the same folder.
    pub(super) fn look_at(&self, path: &[u8]) {
        self.state.lock().looks.push((path.to_vec(), false));
    }

    /// Ends what [`Claims::look_at`] began.
    pub(super) fn look_away(&self, path: &[u8]) {
        let mut state = self.state.lock();
        if let Some(at) = state.looks.iter().position(|(there, _)| there == path) {
            state.looks.swap_remove(at);
        }
    }

    /// Begins to watch a folder that is about to be looked at. False if somebody counts it already.
    pub(super) fn watch(&self, folder: Key) -> bool {
        let mut state = self.state.lock();
        if state.watched.contains_key(&folder) {
            return false;
        }
        state.watched.insert(folder, HashMap::new());
        true
    }

    /// Ends a watch. `conclude` gets what became of names meanwhile and the names that are still being changed, which
    /// it must leave out of its count; it submits the count before it returns. False, and it is not called, if `path`
    /// may stand for another folder by now.
    pub(super) fn conclude(
        &self,
        folder: Key,
        path: &[u8],
        conclude: impl FnOnce(&HashMap<OsString, Holds>, &[OsString]),
    ) -> bool {
        let mut state = self.state.lock();
        let ended = state.watched.remove(&folder).unwrap_or_default();
        if state.looks.iter().any(|(there, moved)| *moved && there == path) {
            return false;
        }
        let mut in_flight = Vec::new();
        for ((there, name), left_out) in &mut state.claimed {
            if *there == folder {
                *left_out = true;
                in_flight.push(name.clone());
            }
        }
        conclude(&ended, &in_flight);
        true
    }

    /// Ends a watch without a count.
    pub(super) fn abandon(&self, folder: Key) {
        self.state.lock().watched.remove(&folder);
    }
}

impl Claim {
    /// How many names it is on.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The names hold something else now, or the same: what they held before and hold after, in the order in which they
    /// were claimed. `submit` writes the changes down; it must not wait.
    pub fn end(self, outcome: &[(Holds, Holds)], submit: impl FnOnce(&[Change])) {
        self.end_moving(outcome, |changes| {
            submit(changes);
            Vec::new()
        });
    }

    /// As [`Claim::end`], where folders have moved, gone or come: `submit` returns the paths that stand for another
    /// folder now, or for none.
    pub fn end_moving(mut self, outcome: &[(Holds, Holds)], submit: impl FnOnce(&[Change]) -> Vec<Vec<u8>>) {
        let claims = self.claims.clone();
        let mut state = claims.state.lock();
        let mut changes = Vec::with_capacity(outcome.len());
        for ((folder, name), (before, after)) in self.names.drain(..).zip(outcome) {
            if let Some(ended) = state.watched.get_mut(&folder) {
                ended.insert(name.clone(), *after);
            }
            let left_out = state.claimed.remove(&(folder, name)).unwrap_or(false);
            let (old, new) = (if left_out { (0, 0) } else { before.weight() }, after.weight());
            changes.push(Change { bytes: new.0 - old.0, files: new.1 - old.1 });
        }
        for changed in submit(&changes) {
            for (_, moved) in state.looks.iter_mut().filter(|(path, _)| is_within(path, &changed)) {
                *moved = true;
            }
        }
        drop(state);
        claims.freed.notify_all();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let mut state = self.claims.state.lock();
        for name in self.names.drain(..) {
            state.claimed.remove(&name);
        }
        drop(state);
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    const FOLDER: Key = Key { dev: 1, ino: 2 };

    #[test]
    fn one_name_changes_once_at_a_time_and_two_names_do_not_deadlock() {
        let claims = Arc::new(Claims::default());
        let (size, total) = (Mutex::new([0u64; 3]), AtomicI64::new(0));
        std::thread::scope(|scope| {
            for worker in 0..8u64 {
                let (claims, size, total) = (&claims, &size, &total);
                scope.spawn(move || {
                    for round in 0..500 {
                        let pair = [(worker + round) as usize % 3, (worker * round) as usize % 3];
                        let names = pair.map(|n| OsString::from(n.to_string()));
                        let wanted: Vec<_> = names.iter().map(|name| (FOLDER, name.as_os_str())).collect();
                        let claim = claims.claim(&wanted);
                        let mut outcome = Vec::new();
                        for n in if pair[0] == pair[1] { &pair[..1] } else { &pair[..] } {
                            let old = size.lock()[*n];
                            std::thread::yield_now();
                            size.lock()[*n] = old + 1;
                            outcome.push((Holds::File(old), Holds::File(old + 1)));
                        }
                        claim.end(&outcome, |changes| {
                            total.fetch_add(changes.iter().map(|change| change.bytes).sum(), Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), size.into_inner().iter().sum::<u64>() as i64);
    }

    #[test]
    fn a_count_and_a_change_in_flight_add_up() {
        let claims = Arc::new(Claims::default());
        assert!(claims.watch(FOLDER) && !claims.watch(FOLDER));
        let ended = claims.claim(&[(FOLDER, OsStr::new("ended"))]);
        ended.end(&[(Holds::File(5), Holds::File(7))], |changes| assert_eq!(changes[0].bytes, 2));
        let open = claims.claim(&[(FOLDER, OsStr::new("open"))]);
        let counted = claims.conclude(FOLDER, b"d", |ended, in_flight| {
            assert_eq!(ended.get(OsStr::new("ended")), Some(&Holds::File(7)));
            assert_eq!(in_flight, ["open"]);
        });
        assert!(counted);
        open.end(&[(Holds::File(5), Holds::File(8))], |changes| {
            assert_eq!(changes, [Change { bytes: 8, files: 1 }], "the count left it out");
        });
        drop(claims.claim(&[(FOLDER, OsStr::new("open"))]));
    }

    #[test]
    fn a_count_of_a_path_that_stands_for_another_folder_is_not_taken() {
        let claims = Arc::new(Claims::default());
        let moves = |changed: &'static [u8]| {
            let claim = claims.claim(&[(FOLDER, OsStr::new("n"))]);
            claim.end_moving(&[(Holds::Folder, Holds::Nothing)], |_| vec![changed.to_vec()]);
        };
        for (changed, taken) in [(&b"a/b"[..], false), (b"a", false), (b"", false), (b"a/b/c", true), (b"a/bb", true)] {
            claims.look_at(b"a/b");
            assert!(claims.watch(FOLDER));
            moves(changed);
            assert_eq!(claims.conclude(FOLDER, b"a/b", |_, _| ()), taken, "{}", changed.escape_ascii());
            claims.look_away(b"a/b");
        }
        claims.look_at(b"a/b");
        assert!(claims.watch(FOLDER) && claims.conclude(FOLDER, b"a/b", |_, _| ()));
    }
}
