//! Keeps the journal's past within its bounds, a page at a time, so that nobody waits long behind it.

use std::time::{Duration, Instant};

use super::chore::{Chore, Stopped, pause};
use crate::journal::{Entry, Journal, JournalError};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);
/// Events deleted in one transaction, and drafts: a few milliseconds.
const PAGE: i64 = 256;
/// Of the journal's time at most one part in so many goes into pruning.
const SHARE: u32 = 4;

/// Keeps the newest `keep` events; `totals` says whether changes of folder totals stand in them.
pub(super) fn start(journal: Journal, keep: i64, totals: bool) -> std::io::Result<Chore> {
    let past = Past { journal, keep, totals, oldest: 0 };
    Chore::start("history", move |stopped| past.run(stopped))
}

struct Past {
    journal: Journal,
    keep: i64,
    totals: bool,
    /// Oldest event when it was pruned last.
    oldest: i64,
}

impl Past {
    fn run(mut self, stopped: &Stopped) {
        loop {
            let time = match self.prune() {
                Ok(None) => PERIOD,
                Ok(Some(took)) => took * (SHARE - 1),
                Err(error) => {
                    tracing::debug!(%error, "pruning waits for the journal");
                    PERIOD
                }
            };
            if !pause(stopped, time) {
                return;
            }
        }
    }

    /// Deletes a page and says how long that took; `None` when there is nothing to delete, or not yet.
    fn prune(&mut self) -> Result<Option<Duration>, JournalError> {
        let (oldest, newest) = self.journal.glance(|reader| reader.event_range())?;
        if newest - oldest < self.keep {
            return Ok(None);
        }
        let moved = std::mem::replace(&mut self.oldest, oldest) != oldest;
        let began = Instant::now();
        let entry = Entry::Prune { keep: self.keep, limit: PAGE, totals: self.totals };
        self.journal.wait(self.journal.submit(entry))?;
        Ok(moved.then(|| began.elapsed()))
    }
}
