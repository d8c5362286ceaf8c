//! Decisions about drafts in quarantine: each is made once, whoever asks for it, and however many at the same time.

use std::collections::HashSet;

use parking_lot::{Condvar, Mutex};

use crate::journal::DraftId;

/// The drafts that somebody decides about at the moment.
#[derive(Debug, Default)]
pub struct Decisions {
    under_way: Mutex<HashSet<DraftId>>,
    ended: Condvar,
}

/// Nobody else decides about this draft. Its row is to be read with this held: what it said before may be over.
#[derive(Debug)]
#[must_use]
pub struct Deciding<'a> {
    of: &'a Decisions,
    id: DraftId,
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.of.under_way.lock().remove(&self.id);
        self.of.ended.notify_all();
    }
}

impl Decisions {
    /// Waits for whoever decides about this draft now.
    pub(super) fn begin(&self, id: DraftId) -> Deciding<'_> {
        let mut under_way = self.under_way.lock();
        while !under_way.insert(id) {
            self.ended.wait(&mut under_way);
        }
        Deciding { of: self, id }
    }

    /// `None` while somebody else decides about this draft, and writes down what becomes of it.
    pub fn try_begin(&self, id: DraftId) -> Option<Deciding<'_>> {
        self.under_way.lock().insert(id).then(|| Deciding { of: self, id })
    }
}
