//! Keeps the journal's past within its bounds, a page at a time, so that nobody waits long behind it.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::journal::{Entry, Journal, JournalError};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);
/// Events deleted in one transaction, and drafts: a few milliseconds.
const PAGE: i64 = 256;
/// Of the journal's time at most one part in so many goes into pruning.
const SHARE: u32 = 4;

/// The thread that looks. Dropping it ends it.
pub(super) struct History {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl History {
    /// Keeps the newest `keep` events.
    pub(super) fn start(journal: Journal, keep: i64) -> std::io::Result<History> {
        let (stop, stopped) = bounded(0);
        let thread =
            std::thread::Builder::new().name("history".to_owned()).spawn(move || run(&journal, keep, &stopped))?;
        Ok(History { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that keeps the history has panicked");
        }
    }
}

fn run(journal: &Journal, keep: i64, stopped: &Receiver<()>) {
    loop {
        let pause = match prune(journal, keep) {
            Ok(None) => PERIOD,
            Ok(Some(took)) => took * (SHARE - 1),
            Err(error) => {
                tracing::debug!(%error, "pruning waits for the journal");
                PERIOD
            }
        };
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Deletes a page and says how long that took; `None` when there is nothing to delete.
fn prune(journal: &Journal, keep: i64) -> Result<Option<Duration>, JournalError> {
    let (oldest, newest) = journal.glance(|reader| reader.event_range())?;
    if newest - oldest < keep {
        return Ok(None);
    }
    let began = Instant::now();
    journal.wait(journal.submit(Entry::Prune { keep, limit: PAGE }))?;
    Ok(Some(began.elapsed()))
}
