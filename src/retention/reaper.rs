//! The reaper removes inodes whose time has come, in segments; each row succeeds or fails by itself.
//!
//! Lock order: `room`, then `busy`, then `state`. `room` alone is held across I/O: those who wait for space wait for one
//! purge together.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::tree;
use crate::commit::Committer;
use crate::failpoint;
use crate::journal::{Attempt, Entry, JournalError, OutboxId, OutboxKind, OutboxRow};
use crate::sys::cred::Creds;
use crate::sys::{Errno, Result, at, clock};

/// How the reaper works.
#[derive(Clone, Copy, Debug)]
pub struct ReaperOptions {
    /// Rows per segment.
    pub segment: usize,
    /// Inodes removed per second, at most.
    pub rate: u32,
    /// Failed attempts after which only an admin makes another one.
    pub max_attempts: u32,
    /// Pause after the first failed attempt; it doubles with each further one.
    pub backoff: Duration,
    /// Percent of the file system that stay free: below, nothing waits for the end of its retention.
    pub watermark: u8,
    /// How long what was found without a row is kept.
    pub retain: Duration,
    /// This instance is dead for the others when they have not heard of it for this long; each says so of itself.
    pub lease: Duration,
}

/// The longest pause between two attempts.
const BACKOFF_LIMIT: Duration = Duration::from_secs(3600);
/// Between looks at what is due.
const PERIOD: Duration = Duration::from_millis(500);
/// Files of a tree between two reports of progress.
const REPORT: u64 = 1000;

/// Removes what the outbox tells of.
#[derive(Debug)]
pub struct Reaper {
    pub(super) by: Arc<Committer>,
    pub(super) options: ReaperOptions,
    /// Rows that somebody works on.
    pub(super) busy: Mutex<HashSet<OutboxId>>,
    /// One of them is free again.
    pub(super) released: Condvar,
    pub(super) room: Mutex<()>,
    /// Held by a sweep: two would adopt the same file twice.
    pub(super) sweeping: Mutex<()>,
    pub(super) purges: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    dice: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    poked: bool,
    /// Somebody waits for room: nothing is removed at a pace.
    hurried: bool,
}

/// One row is worked on by its owner only.
pub(super) struct Busy<'a> {
    reaper: &'a Reaper,
    id: OutboxId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.reaper.busy.lock().remove(&self.id);
        self.reaper.released.notify_all();
    }
}

/// What became of a segment.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub gone: Vec<OutboxId>,
    /// Somebody else works on these.
    pub busy: Vec<OutboxId>,
    failed: Vec<Attempt>,
    pub bytes: u64,
}

impl Reaper {
    /// A reaper that does nothing before [`Reaper::start`].
    pub fn new(by: Arc<Committer>, options: ReaperOptions) -> Arc<Self> {
        let seed = clock::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        Arc::new(Reaper {
            by,
            options,
            busy: Mutex::default(),
            released: Condvar::new(),
            room: Mutex::default(),
            sweeping: Mutex::default(),
            purges: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
            thread: Mutex::new(None),
            dice: AtomicU64::new(seed | 1),
        })
    }

    /// Starts the thread.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let reaper = self.clone();
        let thread = std::thread::Builder::new().name("reaper".to_owned()).spawn(move || reaper.run())?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread after the inode it is at. What is left waits in the journal.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the reaper has panicked");
        }
    }

    /// Something is due earlier than before.
    pub fn poke(&self) {
        self.state.lock().poked = true;
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Whether somebody waits for room.
    pub(super) fn hurry(&self, hurried: bool) {
        self.state.lock().hurried = hurried;
        self.changed.notify_all();
    }

    /// Waits so that no more than `rate` names per second are removed, unless room is needed. True unless the reaper is
    /// to stop.
    fn keep_pace(&self, removed: u64, rate: u32, began: Instant) -> bool {
        let time = fair(removed, rate).saturating_sub(began.elapsed());
        let wait = !time.is_zero() && self.is_roomy();
        let mut state = self.state.lock();
        if wait && !state.stopped && !state.hurried {
            self.changed.wait_for(&mut state, time);
        }
        !state.stopped
    }

    fn run(&self) {
        loop {
            let more = match self.round() {
                Ok(more) => more,
                Err(error) => {
                    tracing::debug!(%error, "the reaper waits for the journal");
                    false
                }
            };
            let mut state = self.state.lock();
            if !more && !state.poked && !state.stopped {
                self.changed.wait_for(&mut state, PERIOD);
            }
            state.poked = false;
            if state.stopped {
                return;
            }
        }
    }

    /// One segment; true if there may be more.
    fn round(&self) -> std::result::Result<bool, JournalError> {
        let now = clock::now();
        if self.by.journal.glance(|reader| reader.outbox_next())?.is_none() {
            return Ok(false);
        }
        self.keep_watermark()?;
        let rows = self.by.journal.glance(|reader| reader.outbox_due(now, self.options.segment))?;
        if rows.is_empty() {
            return Ok(false);
        }
        self.reap(&rows, self.options.rate)?;
        Ok(rows.len() == self.options.segment)
    }

    /// Removes the inodes of a segment, at most `rate` per second, and writes down what became of each.
    pub(super) fn reap(&self, rows: &[OutboxRow], rate: u32) -> std::result::Result<Outcome, JournalError> {
        let began = Instant::now();
        let mut outcome = Outcome::default();
        let mut removed = 0;
        // Until it is written what became of them.
        let mut mine = Vec::new();
        for row in rows {
            if self.is_stopped() {
                break;
            }
            let Some(busy) = self.work_on(row.aside.id) else {
                outcome.busy.push(row.aside.id);
                continue;
            };
            mine.push(busy);
            match self.remove(row, rate, &mut removed) {
                Ok(()) => {
                    outcome.gone.push(row.aside.id);
                    outcome.bytes += row.aside.bytes;
                }
                // Stopped in the middle of a tree.
                Err(Errno::CANCELED) => break,
                Err(errno) => outcome.failed.push(self.failed(row, errno)),
            }
            failpoint!("reap_after_removal");
        }
        self.write_down(&outcome)?;
        drop(mine);
        failpoint!("reap_after_rows");
        self.keep_pace(removed, rate, began);
        Ok(outcome)
    }

    fn write_down(&self, outcome: &Outcome) -> std::result::Result<(), JournalError> {
        let mut entries = Vec::new();
        if !outcome.gone.is_empty() {
            entries.push(Entry::Reaped { ids: outcome.gone.clone() });
        }
        entries.extend(outcome.failed.iter().cloned().map(Entry::ReapFailed));
        // Each by itself: a row that was decided about meanwhile is refused and holds nobody up.
        let tickets: Vec<_> = entries.into_iter().map(|entry| self.by.journal.submit(entry)).collect();
        for ticket in tickets {
            match self.by.journal.wait(ticket) {
                Ok(()) | Err(JournalError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes a row for oneself; `None` while somebody else works on it.
    pub(super) fn work_on(&self, id: OutboxId) -> Option<Busy<'_>> {
        let free = self.busy.lock().insert(id);
        // Made only when it is: dropped, it would give up somebody else's row.
        free.then(|| Busy { reaper: self, id })
    }

    /// Removes what a row stands for. Already gone is as good.
    fn remove(&self, row: &OutboxRow, rate: u32, removed: &mut u64) -> Result<()> {
        let aside = &row.aside;
        let name = OsStr::new(&aside.staged);
        let trash = self.by.staging.trash();
        let done = match aside.kind {
            OutboxKind::Tree => return self.remove_tree(row, rate, removed),
            OutboxKind::Unlink | OutboxKind::Replace => match at::unlink(trash, name) {
                // Where the server takes root's rights away, the owner still has them.
                Err(Errno::ACCESS | Errno::PERM) if aside.uid != 0 => {
                    let owner = Creds { uid: aside.uid, gid: aside.gid, groups: Box::default() };
                    self.by.staging.acting(Some(&owner), || at::unlink(trash, name))
                }
                other => other,
            },
        };
        *removed += 1;
        match done {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    fn remove_tree(&self, row: &OutboxRow, rate: u32, removed: &mut u64) -> Result<()> {
        let id = row.aside.id;
        if !row.begun {
            // From here on it is not whole any more and cannot be restored, which the journal knows first, whatever
            // becomes of the machine.
            let begun = self.by.journal.submit_durable(Entry::ReapBegun { id, files: 0 });
            begun.map_err(|error| Errno::from_raw_os_error(error.errno()))?;
        }
        failpoint!("reap_after_begin");
        let (mut reported, mut files) = (0, 0);
        let began = Instant::now();
        let result = tree::remove(self.by.staging.trash(), OsStr::new(&row.aside.staged), |gone| {
            files += u64::from(gone);
            if files - reported >= REPORT {
                self.by.journal.submit(Entry::ReapBegun { id, files: files - reported });
                reported = files;
                return self.keep_pace(files, rate, began);
            }
            !self.is_stopped()
        });
        *removed += files;
        if files > reported {
            self.by.journal.submit(Entry::ReapBegun { id, files: files - reported });
        }
        result
    }

    fn failed(&self, row: &OutboxRow, errno: Errno) -> Attempt {
        let attempts = row.attempts + 1;
        // A file of a tree that somebody has open through this mount, on NFS: it goes when they close it.
        let dead = attempts >= self.options.max_attempts && errno != Errno::BUSY;
        let aside = &row.aside;
        if dead {
            tracing::error!(row = aside.id, path = crate::inode::display_path(&aside.path), %errno, "given up: commitfs outbox");
        }
        let pause = self.options.backoff.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(BACKOFF_LIMIT);
        // Half of it is chance, so that what failed together does not come back together.
        let pause = pause / 2 + pause.mul_f64(self.chance() / 2.0);
        Attempt { id: aside.id, error: errno.to_string(), next: clock::now() + pause, dead }
    }

    /// From 0 to 1.
    fn chance(&self) -> f64 {
        let mut dice = self.dice.load(Ordering::Relaxed);
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        self.dice.store(dice, Ordering::Relaxed);
        (dice >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How long so many removals take at least, at so many per second.
fn fair(removed: u64, rate: u32) -> Duration {
    Duration::from_secs(1) * u32::try_from(removed).unwrap_or(u32::MAX) / rate.max(1)
}
