//! The one thread that writes: many queued entries become one transaction.
//!
//! Nothing that was queued is dropped while the disk refuses: the backlog stays in memory, in order, and is tried again.
//! An entry that contradicts the journal (an unknown draft, an illegal change of state) is left out by itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, TransactionBehavior};

use super::apply::{apply, apply_alone, is_environment};
use super::feed::Feed;
use super::intake::{Intake, Message, Queued};
use super::named::{draft_of, name};
use super::record::{DraftId, Entry};
use super::redo::{self, Redo};
use super::{JournalError, rows, schema};
use crate::metrics;
use crate::sys::clock;

/// Entries per transaction: enough to share one commit, few enough that nobody waits long behind a batch.
const BATCH: usize = 256;
/// Between attempts while the disk refuses and nothing new comes.
const RETRY: Duration = Duration::from_millis(500);
/// Between attempts however much comes.
const RETRY_AT_MOST_EVERY: Duration = Duration::from_millis(25);
/// So long after a transaction the next one gathers, unless somebody waits for it.
const LINGER: Duration = Duration::from_millis(20);
/// Attempts for what is left when the journal is closed while the disk refuses.
const LAST_ATTEMPTS: u32 = 3;
/// Refusals remembered for those who wait for them.
const REFUSALS: usize = 1024;

/// How far the writer is. One lock, held for a few instructions and never across I/O.
#[derive(Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Every ticket up to this one is in a finished transaction, or refused.
    done: u64,
    /// Every ticket up to this one was queued when the last attempt failed.
    failed: u64,
    /// Why the last attempt failed; `None` while the journal is healthy.
    failure: Option<JournalError>,
    refused: BTreeMap<u64, JournalError>,
    closed: bool,
}

impl Progress {
    pub(super) fn health(&self) -> Result<(), JournalError> {
        match &self.state.lock().failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    pub(super) fn is_done(&self, ticket: u64) -> bool {
        self.state.lock().done >= ticket
    }

    /// Until the ticket is written, refused, or part of a failed attempt.
    pub(super) fn wait(&self, ticket: u64) -> Result<(), JournalError> {
        let mut state = self.state.lock();
        loop {
            if state.done >= ticket {
                return state.refused.get(&ticket).cloned().map_or(Ok(()), Err);
            }
            if state.closed {
                return Err(state.failure.clone().unwrap_or(JournalError::Closed));
            }
            if let Some(failure) = state.failure.as_ref().filter(|_| state.failed >= ticket) {
                return Err(failure.clone());
            }
            self.changed.wait(&mut state);
        }
    }
}

/// The database's file. SQLite would go on writing to one that was removed, and all of it would be lost.
pub(super) struct Place {
    state_dir: PathBuf,
    file: (u64, u64),
}

impl Place {
    pub(super) fn of(state_dir: &Path) -> Result<Place, JournalError> {
        Ok(Place { state_dir: state_dir.to_owned(), file: Place::look(state_dir)? })
    }

    fn look(state_dir: &Path) -> Result<(u64, u64), JournalError> {
        let path = state_dir.join(super::FILE);
        let found = path.metadata().map_err(|error| JournalError::io("looking at", path, &error))?;
        Ok((found.dev(), found.ino()))
    }

    fn check(&self) -> Result<(), JournalError> {
        match Place::look(&self.state_dir) {
            Ok(file) if file == self.file => Ok(()),
            Err(JournalError::Io { errno, .. }) if errno != rustix::io::Errno::NOENT.raw_os_error() => Ok(()),
            _ => Err(JournalError::Removed { dir: self.state_dir.clone() }),
        }
    }
}

pub(super) struct Writer {
    conn: Connection,
    intake: Arc<Intake>,
    redo: Arc<Mutex<Redo>>,
    progress: Arc<Progress>,
    feed: Arc<Feed>,
    /// In order of tickets.
    backlog: VecDeque<Queued>,
    /// Highest ticket taken.
    taken: u64,
    disconnected: bool,
    /// While the disk refuses: where in the backlog a draft's newest size stands, as long as nothing else of that draft
    /// is behind it. It is replaced in place, so that a waiting backlog grows with drafts and not with time.
    grown: HashMap<DraftId, usize>,
    failing: bool,
    /// [`LINGER`].
    linger: Duration,
    /// `PRAGMA synchronous` in force.
    durable: Option<bool>,
    last_write: Option<Instant>,
    /// Where the database is, and which file that was.
    place: Place,
    /// Held as long as this thread writes: one daemon per state folder.
    _lock: File,
}

impl Drop for Writer {
    /// Also on a panic: nobody may wait for a thread that is gone.
    fn drop(&mut self) {
        self.progress.state.lock().closed = true;
        self.progress.changed.notify_all();
    }
}

impl Writer {
    pub(super) fn new(
        conn: Connection,
        intake: Arc<Intake>,
        redo: Arc<Mutex<Redo>>,
        progress: Arc<Progress>,
        feed: Arc<Feed>,
        place: Place,
        lock: File,
    ) -> Self {
        Writer {
            conn,
            intake,
            redo,
            progress,
            feed,
            backlog: VecDeque::new(),
            taken: 0,
            disconnected: false,
            grown: HashMap::new(),
            failing: false,
            linger: crate::failpoint::pause("COMMITFS_LINGER_MS", LINGER),
            durable: None,
            last_write: None,
            place,
            _lock: lock,
        }
    }

    /// Ends when the queue is closed and the backlog written or given up.
    pub(super) fn run(mut self) {
        let mut attempts_left = LAST_ATTEMPTS;
        loop {
            self.gather();
            if self.backlog.is_empty() {
                self.report(Ok(()), Vec::new());
                if self.disconnected {
                    break;
                }
                continue;
            }
            let mut refused = Vec::new();
            let outcome = self
                .place
                .check()
                .and_then(|()| self.write_batch(&mut refused).map_err(|error| JournalError::sqlite("writing", &error)));
            let failed = outcome.is_err();
            if !failed {
                self.spread_the_news();
            }
            self.report(outcome, refused);
            if failed && self.disconnected {
                attempts_left -= 1;
                if attempts_left == 0 {
                    tracing::error!(entries = self.backlog.len(), "journal closed with entries it could not write");
                    break;
                }
            }
        }
        self.checkpoint();
    }

    /// Fills the backlog. Blocks only while there is nothing to write, or nothing that can be written yet.
    fn gather(&mut self) {
        if self.failing {
            return self.gather_while_failing();
        }
        let (messages, open) = if self.backlog.is_empty() && !self.disconnected {
            self.intake.take(self.last_write.map(|at| at + self.linger), BATCH)
        } else {
            self.intake.take_now()
        };
        self.accept(messages, open);
    }

    /// Waits for the next attempt and takes everything that comes meanwhile, so that its tickets are known to have failed.
    fn gather_while_failing(&mut self) {
        let begun = Instant::now();
        let mut deadline = begun + RETRY;
        loop {
            let (messages, open) = self.intake.take_before(deadline);
            let came = !messages.is_empty();
            self.accept(messages, open);
            if came {
                deadline = deadline.min(begun + RETRY_AT_MOST_EVERY);
            } else if open {
                return;
            }
            if !open {
                // A closed queue answers at once; the pause between attempts is still wanted.
                return std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
            }
        }
    }

    fn accept(&mut self, messages: VecDeque<Message>, open: bool) {
        self.disconnected = !open;
        for message in messages {
            match message {
                Message::Entry(queued) => self.take_entry(queued),
                #[cfg(test)]
                Message::Run(run) => run(&self.conn),
            }
        }
    }

    fn take_entry(&mut self, queued: Queued) {
        self.taken = queued.ticket;
        if self.failing {
            if let Entry::Grown { id, bytes: newer } = &queued.entry {
                let at = *self.grown.entry(*id).or_insert(self.backlog.len());
                if let Some(Queued { entry: Entry::Grown { bytes, .. }, .. }) = self.backlog.get_mut(at) {
                    *bytes = *newer;
                    return;
                }
            } else if let Some(id) = draft_of(&queued.entry) {
                self.grown.remove(&id);
            }
        }
        self.backlog.push_back(queued);
    }

    /// One transaction over the front of the backlog; the backlog is shortened only when it has succeeded. Savepoints
    /// cost a third of the time and are needed almost never, so they are taken only after an entry has failed half-way.
    fn write_batch(&mut self, refused: &mut Vec<(u64, JournalError)>) -> rusqlite::Result<()> {
        let batch = self.backlog.len().min(BATCH);
        let began = Instant::now();
        self.set_durable(self.backlog.iter().take(batch).any(|queued| queued.durable))?;
        let redone = self.backlog.iter().take(batch).filter_map(|queued| queued.redo).max();
        for savepoints in [false, true] {
            refused.clear();
            if self.write_all(batch, redone, savepoints, refused)? {
                break;
            }
        }
        self.backlog.drain(..batch);
        if let Some(number) = redone {
            self.redo.lock().applied(number);
        }
        metrics::journal_batch(batch, began.elapsed());
        self.last_write = Some(Instant::now());
        Ok(())
    }

    /// False when nothing was written, because an entry failed half-way and there were no savepoints.
    fn write_all(
        &mut self,
        batch: usize,
        redone: Option<u64>,
        savepoints: bool,
        refused: &mut Vec<(u64, JournalError)>,
    ) -> rusqlite::Result<bool> {
        let now = schema::micros(clock::now());
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for Queued { ticket, entry, .. } in self.backlog.iter().take(batch) {
            let outcome = if savepoints { apply_alone(&tx, entry, now) } else { apply(&tx, entry, now) };
            let message = match outcome {
                Ok(true) => continue,
                Ok(false) => "no draft in a state that allows it".to_owned(),
                Err(error) if is_environment(&error) => return Err(error),
                Err(_) if !savepoints => return Ok(false),
                Err(error) => error.to_string(),
            };
            refused.push((*ticket, JournalError::Refused { entry: name(entry), message }));
        }
        if let Some(number) = redone {
            redo::note_applied(&tx, number)?;
        }
        tx.commit()?;
        Ok(true)
    }

    /// Power loss may cost what was written with NORMAL, never the file's consistency.
    fn set_durable(&mut self, durable: bool) -> rusqlite::Result<()> {
        if self.durable != Some(durable) {
            self.durable = None;
            self.conn.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
            self.durable = Some(durable);
        }
        Ok(())
    }

    fn report(&mut self, outcome: Result<(), JournalError>, refused: Vec<(u64, JournalError)>) {
        let mut state = self.progress.state.lock();
        match outcome {
            Ok(()) => {
                state.done = match self.backlog.front() {
                    Some(next) => next.ticket - 1,
                    None => self.taken,
                };
                for (ticket, error) in refused {
                    tracing::error!(%error, "journal entry left out");
                    state.refused.insert(ticket, error);
                    if state.refused.len() > REFUSALS {
                        state.refused.pop_first();
                    }
                }
                if state.failure.take().is_some() {
                    tracing::info!(entries = self.backlog.len(), "journal writes again");
                }
                self.failing = false;
                self.grown.clear();
            }
            Err(error) => {
                if state.failure.is_none() {
                    tracing::error!(%error, entries = self.backlog.len(), "journal cannot write, new drafts are refused");
                }
                state.failed = self.taken;
                state.failure = Some(error);
                self.failing = true;
            }
        }
        drop(state);
        self.progress.changed.notify_all();
    }

    /// Hands the events of finished transactions to those who follow. Whoever waits for the transaction goes on after that:
    /// streams end when the journal was flushed, and the last event is theirs by then.
    fn spread_the_news(&self) {
        let known = self.feed.newest();
        let spread = if self.feed.is_followed() {
            rows::events_after(&self.conn, known, usize::MAX).map(|events| self.feed.publish(events))
        } else {
            rows::newest_event(&self.conn).map(|newest| {
                if newest > known {
                    self.feed.skip_to(newest);
                }
            })
        };
        if let Err(error) = spread {
            // They read it from the journal when the next news come.
            tracing::warn!(%error, "events written and not announced");
        }
    }

    /// Best effort: what stays in the write-ahead log is read from there at the next open.
    fn checkpoint(&self) {
        let mode = "PRAGMA wal_checkpoint(TRUNCATE)";
        if let Err(error) = self.conn.query_row(mode, [], |row| row.get::<_, i64>(0)) {
            tracing::warn!(%error, "journal closed without a checkpoint");
        }
    }
}
