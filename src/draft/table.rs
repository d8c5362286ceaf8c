//! All drafts of a mount: by node id, by name, and the opens that are being switched from a version to a draft.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use super::{Draft, Phase};
use crate::inode::{Key, Node};

/// An open that was answered `ESTALE`: the kernel repeats it from the same thread with a fresh look-up. If it was for
/// writing, the look-up is then answered with a draft's node instead of the version's.
#[derive(Clone, Copy, Debug)]
pub struct Switch {
    /// The version's node.
    pub version: u64,
    /// When; the thread may die in between.
    pub since: Instant,
    /// The retry has looked the name up.
    pub looked_up: bool,
    /// The open is for writing: the look-up shall find a draft. Otherwise just a fresh look at the version.
    pub writes: bool,
}

/// After this time a switch is forgotten.
const SWITCH_LIFE: Duration = Duration::from_secs(5);

/// The drafts of a mount.
#[derive(Debug, Default)]
pub struct Drafts {
    by_node: DashMap<u64, Arc<Draft>>,
    by_name: DashMap<Key, HashMap<OsString, Arc<Draft>>>,
    switches: DashMap<u32, Switch>,
    /// Names in `by_name`: most look-ups end here.
    names: AtomicUsize,
}

impl Drafts {
    /// The draft with this node id.
    pub fn get(&self, node: u64) -> Option<Arc<Draft>> {
        self.by_node.get(&node).map(|draft| draft.clone())
    }

    /// The draft that would appear under this name.
    pub fn at(&self, parent: Key, name: &OsStr) -> Option<Arc<Draft>> {
        if self.names.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.by_name.get(&parent)?.get(name).cloned()
    }

    /// Lists a draft under its name, or returns the one that is there already.
    pub fn list(&self, parent: Key, name: &OsStr, draft: &Arc<Draft>) -> Result<(), Arc<Draft>> {
        let mut names = self.by_name.entry(parent).or_default();
        match names.entry(name.to_owned()) {
            std::collections::hash_map::Entry::Occupied(there) => Err(there.get().clone()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(draft.clone());
                self.names.fetch_add(1, Ordering::AcqRel);
                drop(names);
                self.by_node.insert(draft.node, draft.clone());
                Ok(())
            }
        }
    }

    /// Takes a draft off its name, if the name is still its.
    pub fn unlist(&self, parent: Key, name: &OsStr, draft: &Draft) {
        let Some(mut names) = self.by_name.get_mut(&parent) else { return };
        if names.get(name).is_some_and(|there| std::ptr::eq(&**there, draft)) {
            names.remove(name);
            self.names.fetch_sub(1, Ordering::AcqRel);
        }
        let empty = names.is_empty();
        drop(names);
        if empty {
            self.by_name.remove_if(&parent, |_, names| names.is_empty());
        }
    }

    /// The drafts that would appear in a folder.
    pub fn in_folder(&self, parent: Key) -> Vec<(OsString, Arc<Draft>)> {
        if self.names.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let Some(names) = self.by_name.get(&parent) else { return Vec::new() };
        names.iter().map(|(name, draft)| (name.clone(), draft.clone())).collect()
    }

    /// The drafts whose target lies in `folder` or below it.
    pub fn below(&self, folder: &Node) -> Vec<Arc<Draft>> {
        let mut all = self.all();
        all.retain(|draft| draft.target().is_some_and(|target| target.parent.is_below(folder)));
        all
    }

    /// All drafts that the kernel or a descriptor still refers to.
    pub fn all(&self) -> Vec<Arc<Draft>> {
        self.by_node.iter().map(|entry| entry.value().clone()).collect()
    }

    /// Remembers that the open of `tid` on a version was answered `ESTALE`. False if the thread was sent round for the
    /// same version before and did not look the name up: its open has no name.
    pub fn begin_switch(&self, tid: u32, version: u64, writes: bool) -> bool {
        let again = self.switch(tid).is_some_and(|switch| switch.version == version && !switch.looked_up);
        if again {
            self.switches.remove(&tid);
            return false;
        }
        if self.switches.len() > 1000 {
            self.switches.retain(|_, switch| switch.since.elapsed() < SWITCH_LIFE);
        }
        self.switches.insert(tid, Switch { version, since: Instant::now(), looked_up: false, writes });
        true
    }

    /// True if the thread is in the middle of an open for writing: its look-up of a file shall find a draft.
    pub fn is_switching(&self, tid: u32) -> bool {
        self.switch(tid).is_some_and(|switch| switch.writes)
    }

    fn switch(&self, tid: u32) -> Option<Switch> {
        if self.switches.is_empty() {
            return None;
        }
        self.switches.get(&tid).map(|switch| *switch).filter(|switch| switch.since.elapsed() < SWITCH_LIFE)
    }

    /// The retry has looked the name up.
    pub fn switch_looked_up(&self, tid: u32) {
        if !self.switches.is_empty()
            && let Some(mut switch) = self.switches.get_mut(&tid)
        {
            switch.looked_up = true;
        }
    }

    /// The thread's open has reached the draft, or went elsewhere.
    pub fn end_switch(&self, tid: u32) {
        if !self.switches.is_empty() {
            self.switches.remove(&tid);
        }
    }

    /// Counts one look-up of the draft's node by the kernel.
    pub fn looked_up(&self, draft: &Arc<Draft>) {
        draft.nlookup.fetch_add(1, Ordering::AcqRel);
        // It may have been let go of since it was found.
        self.by_node.entry(draft.node).or_insert_with(|| draft.clone());
    }

    /// Takes `count` look-ups of a draft's node back. False if there is no such draft.
    pub fn forget(&self, node: u64, count: u64) -> bool {
        let Some(draft) = self.get(node) else { return false };
        draft.nlookup.fetch_sub(count, Ordering::AcqRel);
        self.drop_if_unreferenced(&draft);
        true
    }

    /// Lets go of a draft that nothing refers to any more. One that was never changed gives its name back.
    pub fn drop_if_unreferenced(&self, draft: &Arc<Draft>) {
        if !draft.is_unreferenced() || draft.is_pending() {
            return;
        }
        let body = draft.body.read();
        let unused = matches!(body.phase, Phase::Clean);
        let target = body.target.clone().filter(|_| unused);
        drop(body);
        if let Some(target) = target {
            self.unlist(target.parent.key, &target.name, draft);
        }
        self.by_node.remove_if(&draft.node, |_, draft| draft.is_unreferenced());
    }
}
