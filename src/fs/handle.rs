//! Open descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dashmap::DashMap;

use super::dir::OpenFolder;
use crate::draft::Draft;
use crate::inode::{Content, Node};
use crate::sys::{Errno, Result};

/// What a descriptor of the mount stands for.
pub(super) enum Handle {
    /// A version, read-only.
    Version { file: Arc<Content>, node: Arc<Node>, executes: bool },
    /// A draft, as a writer or as a reading member of the family.
    /// `counted`: as an open for passthrough.
    Draft { draft: Arc<Draft>, writes: bool, counted: AtomicBool },
    /// A file written in place.
    Direct { file: Arc<Content>, node: Arc<Node>, writes: bool },
    /// A folder.
    Folder(OpenFolder),
}

/// The number of none.
pub(super) const NO_DESCRIPTOR: u64 = 0;

/// All open descriptors.
#[derive(Default)]
pub(super) struct Handles {
    open: DashMap<u64, Arc<Handle>>,
    last: AtomicU64,
}

impl Handles {
    /// A number for a descriptor that is about to be opened.
    pub(super) fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn insert(&self, fh: u64, handle: Handle) {
        self.open.insert(fh, Arc::new(handle));
    }

    pub(super) fn get(&self, fh: u64) -> Result<Arc<Handle>> {
        self.open.get(&fh).map(|handle| handle.clone()).ok_or(Errno::BADF)
    }

    pub(super) fn remove(&self, fh: u64) -> Result<Arc<Handle>> {
        self.open.remove(&fh).map(|(_, handle)| handle).ok_or(Errno::BADF)
    }
}
