//! Opens that are sent round: answered `ESTALE`, which the kernel repeats once, from the same thread, with a fresh
//! look-up. A second `ESTALE` would reach the application, so the look-up prepares whatever the repeated open needs.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dashmap::DashMap;

use super::Draft;
use crate::inode::Content;
use crate::sys::procfs;

/// An open on its way round.
#[derive(Clone, Debug)]
struct Switch {
    /// The node that was opened.
    node: u64,
    /// The last name that it was known by.
    name: OsString,
    /// When it was sent round, and when it was last heard of.
    began: Instant,
    since: Instant,
    /// What the look-up shall find.
    wants: Wants,
    /// What the look-up found.
    found: Found,
    /// Where it looked. The kernel may look there twice; whatever it asks for after that is not a part of the open.
    at: Option<(u64, OsString)>,
    /// The draft that it will open.
    expected: Option<Arc<Expected>>,
    /// The system call that is repeated, where the kernel tells: a thread that is in another one has given the open up.
    call: Option<Box<str>>,
}

/// A draft that an open or a first write is about to reach. It keeps its name until then, or somebody else would begin another
/// one from the version below, and one of the two would overwrite what the other wrote.
#[derive(Debug)]
pub struct Expected(Arc<Draft>);

impl Expected {
    /// The draft is about to be reached.
    pub fn of(draft: &Arc<Draft>) -> Self {
        draft.expected.fetch_add(1, Ordering::AcqRel);
        Expected(draft.clone())
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.0.expected.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What an open that is sent round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Reading: a fresh look at the version.
    Version,
    /// Writing: a draft.
    Draft,
    /// Writing without what there is: a draft that need not be able to read the version below.
    EmptyDraft,
}

impl Wants {
    /// What an open that writes, or else reads, wants.
    pub fn to(writes: bool, truncates: bool) -> Self {
        match (writes, truncates) {
            (false, _) => Wants::Version,
            (true, false) => Wants::Draft,
            (true, true) => Wants::EmptyDraft,
        }
    }

    /// True if the look-up shall find a draft.
    pub fn writes(self) -> bool {
        self != Wants::Version
    }
}

/// What the look-up of a repeated open has found.
#[derive(Clone, Debug)]
enum Found {
    /// It did not come yet.
    Nothing,
    /// It came, and there was no such name: the open has failed, or goes on as a creation.
    NoName,
    /// A node of whatever kind that can be opened as it is.
    Node,
    /// A version under a name whose files are written in place.
    InPlace(u64),
    /// A version, held open so that the open succeeds even if the version is replaced in between; for a writer, that below
    /// its draft, because the kernel looks twice and drops what it found first.
    Version(u64, Arc<Content>),
}

/// The kernel comes back within microseconds, unless the thread died or the kernel itself refuses the open. After this
/// time a look-up only belongs to the open if it asks for the same name: the export may have kept it waiting.
const LIFE: Duration = Duration::from_secs(5);

/// For so long a look-up of the same name is a part of the open, which has just asked the server for the folder.
const FRESH: Duration = Duration::from_millis(100);

/// After this time the open is forgotten.
const LONG_LIFE: Duration = Duration::from_secs(600);

/// The opens of all threads.
#[derive(Debug, Default)]
pub struct Switches(DashMap<u32, Switch>);

impl Switches {
    /// Sends the open of `tid` on `node`, last known as `name`, round. False if the thread was sent round for the same
    /// node before and did not look the name up: its open has no name. False as well for threads without a number, whose
    /// look-ups cannot be told from one another's.
    pub fn begin(&self, tid: u32, node: u64, name: &OsStr, wants: Wants) -> bool {
        if tid == 0 {
            return false;
        }
        let before = self.get(tid, |switch| switch.node == node);
        if before.is_some_and(|switch| switch.node == node && matches!(switch.found, Found::Nothing)) {
            self.0.remove(&tid);
            return false;
        }
        if self.0.len() > 1000 {
            self.0.retain(|_, switch| switch.since.elapsed() < LIFE);
        }
        let now = Instant::now();
        let (name, found, call) = (name.to_owned(), Found::Nothing, procfs::call(tid));
        self.0.insert(tid, Switch { node, name, began: now, since: now, wants, found, at: None, expected: None, call });
        true
    }

    /// A request of the thread came that may belong to a repeated open: forgets an open that it has given up, because a
    /// look-up failed, or a signal came, or the kernel wanted an answer from its own memory; or that another thread with its
    /// number has. The kernel repeats an open within the same system call.
    pub fn arrive(&self, tid: u32) {
        if self.0.is_empty() {
            return;
        }
        let call = self.0.get(&tid).and_then(|switch| switch.call.clone());
        // Where the thread is kept from going to sleep it cannot be told, and the name and the time decide.
        if let Some(before) = call
            && procfs::call(tid).is_some_and(|now| now != before)
        {
            self.end(tid);
        }
    }

    /// Forgets the opens that were given up by threads which do not come back.
    pub fn expire(&self) {
        let old = |switch: &Switch| switch.since.elapsed() >= LIFE;
        let due: Vec<_> =
            self.0.iter().filter(|entry| old(entry)).map(|entry| (*entry.key(), entry.call.clone())).collect();
        for (tid, call) in due {
            let goes_on = call.is_some() && procfs::call(tid) == call;
            self.0.remove_if(&tid, |_, switch| {
                let given_up = if call.is_some() { !goes_on } else { switch.since.elapsed() >= LONG_LIFE };
                switch.call == call && old(switch) && given_up
            });
        }
    }

    /// Whether the thread that looks `name` up in folder `parent` is in the middle of an open that is repeated, and what
    /// for.
    pub fn looking_up(&self, tid: u32, parent: u64, name: &OsStr) -> Option<Wants> {
        self.arrive(tid);
        let switch = self.get(tid, |switch| switch.name == name)?;
        let is_recent = switch.since.elapsed() < FRESH;
        let belongs = match &switch.at {
            // The node may have been renamed, or have been opened by another of its names.
            None => switch.name == name || is_recent,
            Some((folder, found)) => {
                *folder == parent && found == name && (is_recent || !matches!(switch.found, Found::NoName))
            }
        };
        if !belongs && switch.at.is_some() {
            self.end(tid);
        }
        belongs.then_some(switch.wants)
    }

    /// True if what the thread has opened was last known by another name than this one, and nothing was looked up since.
    pub fn has_another_name(&self, tid: u32, name: &OsStr) -> bool {
        self.get(tid, |_| false).is_some_and(|switch| switch.at.is_none() && switch.name != name)
    }

    /// True if the thread's look-up of `name` belongs to an open that has looked the name up, freshly, before it was sent
    /// round: what was committed elsewhere since is not older than the open.
    pub fn is_fresh(&self, tid: u32, name: &OsStr) -> bool {
        self.get(tid, |_| false).is_some_and(|switch| {
            switch.name == name && switch.began.elapsed() < FRESH && !matches!(switch.found, Found::NoName)
        })
    }

    /// The repeated open of the thread will reach this draft.
    pub fn expect(&self, tid: u32, draft: &Arc<Draft>) {
        if let Some(mut switch) = self.0.get_mut(&tid) {
            switch.expected = Some(Arc::new(Expected::of(draft)));
        }
    }

    /// The repeated open has looked the name up, and found this version.
    pub fn looked_up(&self, tid: u32, at: (u64, &OsStr), version: Option<(u64, Arc<Content>)>) {
        self.find(tid, at, version.map_or(Found::Node, |(node, file)| Found::Version(node, file)));
    }

    /// The repeated open has looked the name up, and found that this node is written in place under it.
    pub fn looked_up_in_place(&self, tid: u32, at: (u64, &OsStr), node: u64) {
        self.find(tid, at, Found::InPlace(node));
    }

    /// A look-up of the thread has failed.
    pub fn looked_up_in_vain(&self, tid: u32, at: (u64, &OsStr)) {
        self.find(tid, at, Found::NoName);
    }

    /// What the thread has looked up is no file: the open's own name is still to come, also if a first try failed.
    pub fn goes_on(&self, tid: u32) {
        if let Some(mut switch) = self.0.get_mut(&tid) {
            (switch.found, switch.at, switch.since) = (Found::Nothing, None, Instant::now());
        }
    }

    fn find(&self, tid: u32, (folder, name): (u64, &OsStr), found: Found) {
        if !self.0.is_empty()
            && let Some(mut switch) = self.0.get_mut(&tid)
        {
            switch.found = found;
            switch.at = Some((folder, name.to_owned()));
            switch.since = Instant::now();
        }
    }

    /// True if the thread's repeated open has found that it writes `node` in place.
    pub fn is_in_place(&self, tid: u32, node: u64) -> bool {
        matches!(self.get(tid, |_| false), Some(Switch { found: Found::InPlace(found), .. }) if found == node)
    }

    /// True if the thread has come round, with a look-up that found something.
    pub fn is_round(&self, tid: u32) -> bool {
        self.get(tid, |_| false).is_some_and(|switch| !matches!(switch.found, Found::Nothing | Found::NoName))
    }

    /// True if the thread has come round, and the name was gone.
    pub fn is_in_vain(&self, tid: u32) -> bool {
        matches!(self.get(tid, |_| false), Some(Switch { found: Found::NoName, .. }))
    }

    /// The version that the thread's repeated open has found, if that is `node`.
    pub fn version(&self, tid: u32, node: u64) -> Option<Arc<Content>> {
        match self.get(tid, |_| false)?.found {
            Found::Version(found, file) if found == node => Some(file),
            _ => None,
        }
    }

    /// The same for an open that reads. What was found for a writer who needs nothing of it may not be readable.
    pub fn readable_version(&self, tid: u32, node: u64) -> Option<Arc<Content>> {
        let wants = self.get(tid, |_| false)?.wants;
        if wants == Wants::EmptyDraft { None } else { self.version(tid, node) }
    }

    /// The thread's open has reached its node, or went elsewhere.
    pub fn end(&self, tid: u32) {
        if !self.0.is_empty() {
            self.0.remove(&tid);
        }
    }

    fn get(&self, tid: u32, is_same: impl FnOnce(&Switch) -> bool) -> Option<Switch> {
        if self.0.is_empty() {
            return None;
        }
        let switch = self.0.get(&tid)?;
        let age = switch.since.elapsed();
        (age < LIFE || age < LONG_LIFE && is_same(&switch)).then(|| switch.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody's: the kernel tells of no call.
    const TID: u32 = u32::MAX >> 1;

    fn aged(age: Duration) -> Switches {
        let switches = Switches::default();
        assert!(switches.begin(TID, 1, OsStr::new("a"), Wants::Draft));
        switches.0.get_mut(&TID).unwrap().since -= age;
        switches
    }

    #[test]
    fn a_look_up_that_the_export_kept_waiting_still_belongs_to_its_open() {
        let switches = aged(LIFE * 2);
        let (a, b) = (OsStr::new("a"), OsStr::new("b"));
        assert_eq!(switches.looking_up(TID, 1, a), Some(Wants::Draft));
        assert_eq!(switches.looking_up(TID, 1, b), None, "another name, long after");
        assert_eq!(aged(Duration::ZERO).looking_up(TID, 1, b), Some(Wants::Draft), "renamed in between");
        assert_eq!(aged(LONG_LIFE).looking_up(TID, 1, a), None);
    }

    #[test]
    fn after_its_look_up_an_open_looks_there_once_more_and_nowhere_else() {
        let (a, b) = (OsStr::new("a"), OsStr::new("b"));
        let looked_up = |in_vain: bool| {
            let switches = aged(Duration::ZERO);
            match in_vain {
                true => switches.looked_up_in_vain(TID, (1, a)),
                false => switches.looked_up(TID, (1, a), None),
            }
            assert_eq!(switches.looking_up(TID, 1, a), Some(Wants::Draft));
            switches
        };
        for in_vain in [false, true] {
            for (folder, name) in [(1, b), (2, a)] {
                let switches = looked_up(in_vain);
                assert_eq!(switches.looking_up(TID, folder, name), None);
                assert_eq!(switches.looking_up(TID, 1, a), None, "the open is over");
            }
        }
    }

    #[test]
    fn a_look_up_is_fresh_by_its_open_only_at_once_and_for_the_same_name() {
        let switches = aged(Duration::ZERO);
        switches.looked_up(TID, (1, OsStr::new("a")), None);
        assert!(switches.is_fresh(TID, OsStr::new("a")));
        assert!(!switches.is_fresh(TID, OsStr::new("b")) && !switches.is_fresh(TID + 1, OsStr::new("a")));
        switches.0.get_mut(&TID).unwrap().began -= FRESH;
        switches.looked_up(TID, (1, OsStr::new("a")), None);
        assert!(!switches.is_fresh(TID, OsStr::new("a")), "an open that the kernel gave up, however often it looks");
    }

    #[test]
    fn a_folder_that_is_found_at_the_second_try_is_on_the_way() {
        let switches = aged(Duration::ZERO);
        let (a, folder) = (OsStr::new("a"), OsStr::new("folder"));
        switches.looked_up_in_vain(TID, (1, folder));
        assert_eq!(switches.looking_up(TID, 1, folder), Some(Wants::Draft));
        switches.goes_on(TID);
        assert_eq!(switches.looking_up(TID, 2, a), Some(Wants::Draft));
    }

    #[test]
    fn an_open_ends_with_a_look_up_in_vain() {
        let switches = aged(Duration::ZERO);
        switches.looked_up_in_vain(TID, (1, OsStr::new("a")));
        assert!(switches.is_in_vain(TID) && !switches.is_round(TID) && !switches.is_fresh(TID, OsStr::new("a")));
        assert!(switches.begin(TID, 1, OsStr::new("a"), Wants::Draft), "the next open of that node");
        assert!(!switches.is_in_vain(TID) && !switches.is_in_vain(TID + 1));
    }

    #[test]
    fn what_an_open_that_truncates_has_found_is_not_read() {
        for (wants, readable) in [(Wants::EmptyDraft, false), (Wants::Draft, true), (Wants::Version, true)] {
            let switches = Switches::default();
            assert!(switches.begin(TID, 1, OsStr::new("a"), wants));
            switches.looked_up(TID, (1, OsStr::new("a")), Some((2, Content::new(tempfile::tempfile().unwrap()))));
            assert!(switches.version(TID, 2).is_some() && switches.version(TID, 1).is_none());
            assert_eq!(switches.readable_version(TID, 2).is_some(), readable, "{wants:?}");
        }
    }

    #[test]
    fn an_open_that_comes_back_without_a_look_up_has_no_name() {
        for age in [Duration::ZERO, LIFE * 2] {
            assert!(!aged(age).begin(TID, 1, OsStr::new("a"), Wants::Draft));
        }
        let switches = aged(Duration::ZERO);
        switches.looked_up(TID, (1, OsStr::new("a")), None);
        assert!(switches.begin(TID, 1, OsStr::new("a"), Wants::Draft), "replaced once more");
    }
}
