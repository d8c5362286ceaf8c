//! Kernel passthrough: reads of a version (and reads and writes of a file written in place) that never reach the daemon.
//!
//! All passthrough opens of a node must use one backing id, and a node cannot be open cached and passthrough at once;
//! so the first open decides for as long as the node is open at all.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use fuser::BackingId;

pub(super) struct Backings {
    enabled: bool,
    by_node: DashMap<u64, Backing>,
}

struct Backing {
    /// `None`: the node's descriptors go through the daemon.
    id: Option<Arc<BackingId>>,
    open: usize,
}

impl Backings {
    pub(super) fn new(enabled: bool) -> Self {
        Backings { enabled, by_node: DashMap::new() }
    }

    pub(super) fn are_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts an open of the node. `register` makes a backing id; a failure means that this node goes through the
    /// daemon.
    pub(super) fn open(
        &self,
        node: u64,
        register: impl FnOnce() -> std::io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if !self.enabled {
            return None;
        }
        match self.by_node.entry(node) {
            Entry::Occupied(mut backing) => {
                backing.get_mut().open += 1;
                backing.get().id.clone()
            }
            Entry::Vacant(free) => {
                let id = match register() {
                    Ok(id) => Some(Arc::new(id)),
                    Err(error) => {
                        tracing::debug!(node, %error, "no passthrough");
                        None
                    }
                };
                free.insert(Backing { id: id.clone(), open: 1 });
                id
            }
        }
    }

    /// One open less; the last one takes the backing id back.
    pub(super) fn close(&self, node: u64) {
        if let Entry::Occupied(mut backing) = self.by_node.entry(node) {
            backing.get_mut().open -= 1;
            if backing.get().open == 0 {
                backing.remove();
            }
        }
    }
}
