//! How a draft ends, and what is left of one that was published.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use super::{Draft, Phase, Work};
use crate::commit::{ADOPTED, Failed, Reason, Sealed, Staged};
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

/// What the end of the daemon means for a draft.
#[derive(Debug)]
#[must_use]
pub enum Stopped {
    /// It ends so.
    Ends(Ending),
    /// A close of it was answered, and the release behind that is on its way: after it the content may be complete.
    Leaves,
    /// There is nothing to end, or somebody else seals it.
    Not,
}

/// What becomes of the content of a draft that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    Sealed,
    Spared,
}

impl Draft {
    /// The daemon stops: a draft that still has writers ends here, one whose close was promised is sealed, and so is one that
    /// nobody writes any more. `patiently`: not one that may be left in a moment.
    pub fn stop(&self, patiently: bool) -> Stopped {
        let mut leaves = false;
        let ending = self.give_up(Reason::Stopped, |work| {
            if work.promised.load(Ordering::Acquire) || !self.has_writers() {
                return Fate::Sealed;
            }
            leaves = patiently && self.held_until().is_some();
            if leaves { Fate::Spared } else { Fate::Lost }
        });
        match ending {
            Some(ending) => Stopped::Ends(ending),
            None if leaves => Stopped::Leaves,
            None => Stopped::Not,
        }
    }

    /// Its folder is removed whole.
    pub fn remove(&self) -> Option<Ending> {
        self.give_up(Reason::Removed, |_| Fate::Lost)
    }

    /// Another instance may have adopted its content: then it ends here, and every close from here on says so.
    pub fn give_up_unless(&self, is_there: impl FnOnce(&Staged) -> bool) -> Option<Ending> {
        let _filled = self.filling.lock();
        let ending = self.seal_if(|body| {
            let lost = matches!(&body.phase, Phase::Open(work) if !is_there(&work.staged));
            if lost {
                self.taint(ADOPTED, Errno::IO);
            }
            lost
        })?;
        Some(match ending {
            // No export that works again brings the content back.
            Ending::Postponed { id, staged, failed: Failed { step, errno } } => {
                Ending::Refused { id, staged, reason: Reason::Failed { step, errno } }
            }
            other => other,
        })
    }

    /// Seals, unless it is spared, and where the content is lost publishes nothing: then every close from here on says so.
    fn give_up(&self, reason: Reason, judge: impl FnOnce(&Work) -> Fate) -> Option<Ending> {
        let _filled = self.filling.lock();
        let mut given_up = false;
        let ending = self.seal_if(|body| {
            let Phase::Open(work) = &body.phase else { return false };
            let fate = judge(work);
            given_up = fate == Fate::Lost && body.target.is_some() && self.tainted().is_none();
            if given_up {
                self.taint(reason.step(), reason.errno());
            }
            fate != Fate::Spared
        })?;
        Some(match ending {
            Ending::Refused { id, staged, .. } if given_up => Ending::Refused { id, staged, reason },
            other => other,
        })
    }
}
