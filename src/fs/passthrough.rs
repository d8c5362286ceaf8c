//! Kernel passthrough: reads of a version (and reads and writes of a file written in place) that never reach the daemon.
//!
//! All passthrough opens of a node must use one backing id, and a node cannot be open cached and passthrough at once;
//! so the first open decides for as long as the node is open at all.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use fuser::BackingId;
use rustix::fs::OFlags;

use super::handle::Handle;
use super::{Fs, OpenMode};
use crate::draft::{Caller, Draft};
use crate::rules::CommitAt;
use crate::sys::{Errno, Result};

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

impl Fs {
    /// Registers an opened file for passthrough; `None`: it goes through the daemon. Counted until the descriptor is
    /// released.
    pub fn backing(
        &self,
        fh: u64,
        node: u64,
        register: impl FnOnce() -> std::io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if let Ok(handle) = self.handles.get(fh)
            && let Handle::Draft { counted, .. } = &*handle
        {
            counted.store(true, Ordering::Release);
        }
        self.backings.open(node, register)
    }

    /// True if the kernel may write to the draft by itself: its commit comes at release, and what the daemon writes to as
    /// itself is what the writer may write to.
    pub(super) fn is_bulk(&self, draft: &Draft) -> bool {
        draft.decision.commit == CommitAt::Release
            && self.backings.are_enabled()
            && !self.committer.staging.is_squashed()
    }

    /// As [`Fs::draft_mode`], as far as that is known before the content is touched: an open that is refused has emptied nothing.
    /// `None`: it depends on the content that the open makes.
    pub(super) fn draft_mode_ahead(&self, fh: u64, draft: &Draft, flags: OFlags) -> Result<Option<OpenMode>> {
        if !self.is_bulk(draft) {
            return Ok(Some(OpenMode::Draft));
        }
        let begins_again = flags.contains(OFlags::TRUNC) && draft.would_begin_again();
        if flags & OFlags::ACCMODE == OFlags::RDWR || begins_again {
            return self.through_daemon(fh, draft).map(Some);
        }
        Ok(None)
    }

    /// How the kernel is to treat a descriptor of a draft. Never passed through is one that could be mapped for writing:
    /// the kernel maps the staged file itself, and says nothing when that mapping ends.
    pub(super) fn draft_mode(&self, caller: Caller, fh: u64, draft: &Draft, flags: OFlags) -> Result<OpenMode> {
        if !self.is_bulk(draft) {
            return Ok(OpenMode::Draft);
        }
        let access = flags & OFlags::ACCMODE;
        let file = if access == OFlags::RDWR { None } else { draft.pass_through() };
        let Some(file) = file else { return self.through_daemon(fh, draft) };
        if access == OFlags::WRONLY {
            // What is not seen to be written cannot lose them when it is.
            self.strip_set_ids(caller, &*file)?;
        }
        Ok(OpenMode::Bulk(file, draft.node))
    }

    /// `ETXTBSY` while others are passed through: the kernel has a node passed through for all or for none.
    fn through_daemon(&self, fh: u64, draft: &Draft) -> Result<OpenMode> {
        let others = self.backing(fh, draft.node, || Err(std::io::ErrorKind::Unsupported.into()));
        if others.is_none() { Ok(OpenMode::Draft) } else { Err(Errno::TXTBSY) }
    }
}
