//! How a draft ends, and what is left of one that was published.

use std::sync::Arc;

use rustix::fs::OFlags;

use crate::commit::{Failed, Reason, Sealed, Staged};
use crate::inode::{Content, NodeTable};
use crate::journal::DraftId;
use crate::sys::handle::Handle;
use crate::sys::{Errno, Result};

/// How the writing of a draft ends.
#[derive(Debug)]
#[must_use]
pub enum Ending {
    /// It is to be published.
    Commit(Sealed),
    /// It must not be published: to quarantine.
    Refused {
        /// The draft.
        id: DraftId,
        /// Its content.
        staged: Staged,
        /// Why.
        reason: Reason,
    },
    /// As refused for a failure of the export, and its close has returned: it stays as it is.
    Postponed {
        /// Its content.
        staged: Staged,
        /// The draft.
        id: DraftId,
        /// The failure.
        failed: Failed,
    },
    /// It is still the copy of the version below: nothing to publish.
    Untouched {
        /// The draft.
        id: DraftId,
        /// Its content.
        staged: Staged,
    },
    /// Its family unlinked it: the content goes with the last descriptor.
    Unnamed {
        /// The draft.
        id: DraftId,
        /// Its content.
        staged: Staged,
    },
}

/// How the content of a published or ended draft is reached. The kernel may remember its node for as long as it likes.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Somebody has it open, or the export has no file handles.
    Open(Arc<Content>),
    /// Nobody has: it costs no descriptor.
    Closed(Handle, Arc<NodeTable>),
}

impl Kept {
    pub(super) fn file(&self) -> Result<Arc<Content>> {
        match self {
            Kept::Open(file) => Ok(file.clone()),
            Kept::Closed(handle, nodes) => match nodes.open_handle(handle, OFlags::RDONLY) {
                // Good for its attributes.
                Err(Errno::ACCESS) => nodes.open_handle(handle, OFlags::PATH),
                other => other,
            },
        }
    }
}
