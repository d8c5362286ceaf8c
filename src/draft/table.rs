//! All drafts of a mount, by node id and by name.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::Draft;
use super::switch::Switches;
use crate::failpoint;
use crate::inode::{Key, Node};

/// The drafts of a mount.
#[derive(Debug, Default)]
pub struct Drafts {
    by_node: DashMap<u64, Arc<Draft>>,
    /// Those that somebody has open or of which something may come. The kernel remembers the others too, for as long as it
    /// likes: they can be as many as were ever published.
    in_use: DashMap<u64, Arc<Draft>>,
    by_name: DashMap<Key, HashMap<OsString, Arc<Draft>>>,
    /// Opens that are being switched from a version to a draft.
    pub switches: Switches,
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
        if !self.any() {
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

    /// Lists a draft under the name where it will appear, unless it is there already. False if another draft is.
    pub fn claim(&self, draft: &Arc<Draft>) -> bool {
        self.claim_if(draft, || true)
    }

    /// As [`Drafts::claim`]. One that did not have the name has to prove itself, when it has it: false as well if
    /// `is_current` says so.
    pub fn claim_if(&self, draft: &Arc<Draft>, is_current: impl FnOnce() -> bool) -> bool {
        loop {
            let Some(target) = draft.target() else { return true };
            if let Err(there) = self.list(target.parent.key, &target.name, draft) {
                return Arc::ptr_eq(&there, draft);
            }
            // A rename may have taken it off this name before it was listed there.
            if draft.target().is_some_and(|now| now.is(&target)) {
                let is_current = is_current();
                if !is_current {
                    self.unlist(target.parent.key, &target.name, draft);
                }
                return is_current;
            }
            self.unlist(target.parent.key, &target.name, draft);
        }
    }

    /// The descriptor `closed` was the last of those who wrote: if nothing was written, the name shows versions again,
    /// to everybody. Who joins or writes meanwhile is either seen here or claims the name after.
    pub fn give_back(&self, draft: &Draft, closed: u64) {
        draft.while_unwritten(|target| {
            failpoint!("give_back_begins");
            self.unlist_if(target.parent.key, &target.name, draft, || {
                let unused = !draft.has_writers_but(closed) && !draft.is_expected();
                if unused {
                    draft.given_back.store(true, Ordering::Release);
                }
                unused
            });
        });
    }

    /// Takes a draft off its name unless somebody writes it or is about to open it.
    pub fn unlist_unused(&self, parent: Key, name: &OsStr, draft: &Draft) {
        self.unlist_if(parent, name, draft, || !draft.has_writers() && !draft.is_expected());
    }

    /// Takes a draft that was published off its name, unless somebody has opened it since it was sealed, or is about to.
    pub fn unlist_published(&self, parent: Key, name: &OsStr, draft: &Draft) {
        self.unlist_if(parent, name, draft, || !draft.has_writers_since_seal() && !draft.is_expected());
    }

    /// Takes a draft off its name, if the name is still its.
    pub fn unlist(&self, parent: Key, name: &OsStr, draft: &Draft) {
        self.unlist_if(parent, name, draft, || true);
    }

    fn unlist_if(&self, parent: Key, name: &OsStr, draft: &Draft, condition: impl FnOnce() -> bool) {
        let Some(mut names) = self.by_name.get_mut(&parent) else { return };
        if names.get(name).is_some_and(|there| std::ptr::eq(&**there, draft)) && condition() {
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
        if !self.any() {
            return Vec::new();
        }
        let Some(names) = self.by_name.get(&parent) else { return Vec::new() };
        names.iter().map(|(name, draft)| (name.clone(), draft.clone())).collect()
    }

    /// True if a draft would appear anywhere.
    pub fn any(&self) -> bool {
        self.names.load(Ordering::Acquire) > 0
    }

    /// True if a draft would appear in a folder.
    pub fn any_in_folder(&self, parent: Key) -> bool {
        self.any() && self.by_name.get(&parent).is_some_and(|names| !names.is_empty())
    }

    /// The drafts in use whose target lies in `folder` or below it.
    pub fn below(&self, folder: &Node) -> Vec<Arc<Draft>> {
        let mut below = self.in_use();
        below.retain(|draft| draft.target().is_some_and(|target| target.parent.is_below(folder)));
        below
    }

    /// The drafts that somebody has open, or of which something may come.
    pub fn in_use(&self) -> Vec<Arc<Draft>> {
        self.in_use.iter().map(|entry| entry.value().clone()).collect()
    }

    /// Counts one more open descriptor of a draft, of a reader or a writer. Nothing is written to a draft that has none.
    pub fn opened(&self, draft: &Arc<Draft>) {
        draft.opened();
        self.in_use.insert(draft.node, draft.clone());
    }

    /// All drafts that the kernel or a descriptor still refers to.
    pub fn all(&self) -> Vec<Arc<Draft>> {
        self.by_node.iter().map(|entry| entry.value().clone()).collect()
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
        if draft.nlookup.fetch_sub(count, Ordering::AcqRel) > count {
            // The kernel forgets all that it knows: another answer is on its way.
            draft.lag();
        }
        self.drop_if_unreferenced(&draft);
        true
    }

    /// Lets go of a draft that nothing refers to any more. One that was never changed gives its name back.
    pub fn drop_if_unreferenced(&self, draft: &Arc<Draft>) {
        if draft.is_open() || draft.is_pending() {
            return;
        }
        self.in_use.remove_if(&draft.node, |_, draft| !draft.is_open());
        // Somebody may have opened it, written and closed it meanwhile.
        if draft.is_pending() {
            self.in_use.insert(draft.node, draft.clone());
            return;
        }
        if !draft.is_unreferenced() {
            return;
        }
        draft.while_unwritten(|target| {
            self.unlist_if(target.parent.key, &target.name, draft, || draft.is_unreferenced());
        });
        self.by_node.remove_if(&draft.node, |_, draft| draft.is_unreferenced());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::change::tests::open_draft;
    use crate::draft::{Kept, Phase};

    #[test]
    fn a_published_draft_that_nobody_has_open_is_not_in_use() {
        let (drafts, draft) = (Drafts::default(), open_draft());
        let (in_use, known) = (|| drafts.in_use().len(), || drafts.all().len());
        drafts.opened(&draft);
        drafts.looked_up(&draft);
        drafts.drop_if_unreferenced(&draft);
        assert_eq!((in_use(), known()), (1, 1), "open");
        // Released while another close commits it.
        let content = draft.content().unwrap();
        assert!(draft.seal().is_some());
        draft.closed();
        drafts.drop_if_unreferenced(&draft);
        assert_eq!((in_use(), known()), (1, 1), "being committed");
        draft.finish(Phase::Published(Kept::Open(content)), || ());
        drafts.drop_if_unreferenced(&draft);
        assert_eq!((in_use(), known()), (0, 1), "published, and remembered by the kernel");
        drafts.opened(&draft);
        assert_eq!((in_use(), known()), (1, 1), "open again");
        draft.closed();
        assert!(drafts.forget(draft.node, 1));
        assert_eq!((in_use(), known()), (0, 0), "forgotten");
    }
}
