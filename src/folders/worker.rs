//! The totals of a mount, and the thread that folds deltas and counts folders in the background.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::claims::{Claim, Claims, Holds};
use super::count::{CountError, Waiting};
use super::failures::{Failures, Noted};
use crate::inode::{Key, Node, NodeTable, display_path};
use crate::journal::{Change, Delta, Entry, Journal, JournalError};
use crate::sys::{Errno, Kind, Stat, clock, mount};

/// Deltas per transaction: few enough that nobody waits long behind them.
const BATCH: usize = 4096;
/// From a change to its folding.
const FOLD_AFTER: Duration = Duration::from_millis(300);
/// Between looks for folders whose turn it is to be counted again.
const IDLE: Duration = Duration::from_secs(10);
/// Between two folders of the slow pass.
const PACE: Duration = Duration::from_millis(10);
/// Before what failed is tried again, if that is not noted.
const AGAIN: Duration = Duration::from_secs(1);
/// Folders taken from the journal at once.
const PAGE: usize = 64;
/// Folders remembered here while going down; the journal has them all.
const AHEAD: usize = 10_000;
/// Folders kept open while going down.
const OPEN: usize = 256;

/// How totals are kept.
#[derive(Clone, Copy, Debug)]
pub struct TotalsOptions {
    /// Keep them at all.
    pub on: bool,
    /// Every folder is counted again after this time.
    pub recount: Duration,
    /// What names begin with that the export gives to files which were removed while open: they do not count.
    pub set_aside: Option<&'static str>,
    /// Name at the root that is not counted.
    pub reserved: &'static str,
}

/// The totals of a mount.
#[derive(Debug)]
pub struct Totals {
    options: TotalsOptions,
    pub(super) claims: Arc<Claims>,
    pub(super) nodes: Arc<NodeTable>,
    pub(super) journal: Journal,
    /// Deltas submitted and not folded.
    waiting: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
    failures: Failures,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Why a refresh does not end with numbers.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// A folder cannot be counted.
    #[error(
        "{} cannot be counted: {errno}; the rest is, and this folder is tried again in the background",
        display_path(folder)
    )]
    Folder {
        /// The first of them.
        folder: Vec<u8>,
        /// Why.
        errno: Errno,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    poked: bool,
}

impl Totals {
    /// Totals that are written to `journal`; nothing runs before [`Totals::start`].
    pub fn new(options: TotalsOptions, nodes: Arc<NodeTable>, journal: Journal) -> Arc<Self> {
        Arc::new(Totals {
            options,
            claims: Arc::default(),
            nodes,
            journal,
            waiting: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
            failures: Failures::default(),
            thread: Mutex::new(None),
        })
    }

    /// Whether totals are kept.
    pub fn is_on(&self) -> bool {
        self.options.on
    }

    /// Claims names for a change.
    pub fn claim(&self, names: &[(Key, &OsStr)]) -> Claim {
        self.claims.claim(names)
    }

    /// Waits for whoever is changing a name in a folder that was marked as removed, or below it.
    pub fn wait_for_changes_in(&self, removed: &Node) {
        self.claims.wait_for(|folder| self.nodes.may_be_within(folder, removed));
    }

    /// What an inode counts for under its name.
    pub fn weigh(&self, stat: &Stat) -> Holds {
        match stat.kind {
            Kind::Dir => Holds::Folder,
            // What is written in place counts when its writers have closed.
            Kind::File => Holds::File(self.nodes.counted(Key::of(stat)).unwrap_or(stat.size)),
            _ => Holds::File(0),
        }
    }

    /// A delta as an entry for the transaction of what causes it; `None` while no totals are kept.
    pub fn entry(&self, delta: Delta) -> Option<Entry> {
        if !self.options.on || matches!(delta, Delta::Count { bytes: 0, files: 0, newest: None, .. }) {
            return None;
        }
        self.note();
        Some(Entry::Delta(delta))
    }

    /// What a commit or an unlink changed in its folder, for its own row; `None` if that is nothing or no totals are kept.
    pub fn change(&self, change: Change, is_commit: bool) -> Option<Change> {
        if !self.options.on || (!is_commit && change == Change::default()) {
            return None;
        }
        self.note();
        Some(change)
    }

    /// One more change waits to be folded.
    fn note(&self) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.poke();
        }
    }

    pub(super) fn submit(&self, delta: Delta) {
        if let Some(entry) = self.entry(delta) {
            self.journal.submit(entry);
        }
    }

    pub(super) fn is_hidden(&self, folder: &[u8], name: &OsStr) -> bool {
        (folder.is_empty() && name == self.options.reserved)
            || self.options.set_aside.is_some_and(|prefix| mount::sets_aside_as(prefix, name.as_bytes()))
    }

    /// Starts the worker. What an earlier daemon may have lost is counted again.
    pub fn start(self: &Arc<Self>) -> Result<(), JournalError> {
        if !self.options.on {
            // What changes from now on is missing when they are kept again.
            return self.journal.forgo_totals();
        }
        if self.journal.keep_totals()? {
            tracing::info!("folder totals are counted in the background");
        }
        let totals = self.clone();
        let thread = std::thread::Builder::new().name("totals".to_owned()).spawn(move || totals.run());
        match thread {
            Ok(thread) => *self.thread.lock() = Some(thread),
            Err(error) => tracing::error!(%error, "no thread for folder totals"),
        }
        Ok(())
    }

    /// Ends the worker and folds what is left. Nothing may change any more but what is written in place.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
        let Some(thread) = self.thread.lock().take() else { return };
        if thread.join().is_err() {
            tracing::error!("the thread for folder totals has panicked");
        }
        let doubted = self.doubt_what_is_written();
        self.journal.submit(Entry::Fold { limit: usize::MAX });
        if doubted {
            self.journal.totals_are_complete();
        }
    }

    /// Files that somebody goes on writing in place, as long as there is a daemon or through the kernel alone, would count
    /// when that ends: the next daemon counts their folders instead. False if one is not known.
    fn doubt_what_is_written(&self) -> bool {
        self.nodes.in_place().into_iter().all(|key| {
            let folder = self.nodes.of(key).and_then(|node| node.link().parent);
            if let Some(folder) = folder.as_ref().filter(|folder| !self.nodes.is_gone(folder)) {
                self.journal.submit(Entry::Recount { folder: folder.path() });
            }
            folder.is_some()
        })
    }

    /// Counts a folder and all below it again; returns the bytes and files that had changed from outside.
    /// Does not wait for folders that cannot be counted.
    pub fn refresh(&self, folder: &[u8]) -> Result<(u64, u64), RefreshError> {
        let drift = |totals: &Totals| totals.journal.read(|reader| reader.drift_below(folder));
        let before = drift(self)?;
        let known = self.begin_refresh(folder)?;
        loop {
            let since = self.journal.read(|reader| reader.recount_before())?;
            let left = self.journal.read(|reader| reader.uncounted_below(known, since))?;
            if left == 0 {
                break;
            }
            if let Some((failed, folder, errno)) = self.failures.below(known)
                && left <= failed
            {
                return Err(RefreshError::Folder { folder, errno });
            }
            let mut state = self.state.lock();
            if state.stopped {
                return Err(JournalError::Closed.into());
            }
            self.changed.wait_for(&mut state, Duration::from_millis(50));
        }
        let after = drift(self)?;
        Ok((after.0 - before.0.min(after.0), after.1 - before.1.min(after.1)))
    }

    /// Has a folder and all below it counted again in the background; returns the folder that is: the journal knows it
    /// as waiting to be counted until it was.
    pub fn begin_refresh<'a>(&self, folder: &'a [u8]) -> Result<&'a [u8], JournalError> {
        let mut known = folder;
        // A folder that the journal does not know is found by counting the one above.
        while !known.is_empty() && self.journal.read(|reader| reader.folder(known))?.is_none() {
            known = known.iter().rposition(|&byte| byte == b'/').map_or(b"", |at| &known[..at]);
        }
        self.journal.wait(self.journal.submit(Entry::Recount { folder: known.to_vec() }))?;
        self.failures.forget_below(known);
        self.poke();
        Ok(known)
    }

    fn poke(&self) {
        self.state.lock().poked = true;
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    fn run(&self) {
        // What an earlier daemon left.
        self.journal.submit(Entry::Fold { limit: usize::MAX });
        while !self.is_stopped() {
            self.fold();
            let more = match self.count_some() {
                Ok(more) => more,
                Err(error) => {
                    tracing::debug!(%error, "folder totals wait for the journal");
                    false
                }
            };
            if !more {
                self.rest();
            }
        }
    }

    /// Waits for a change, and a moment longer, so that changes share a batch.
    fn rest(&self) {
        let mut state = self.state.lock();
        if !state.poked && !state.stopped {
            self.changed.wait_for(&mut state, IDLE);
        }
        state.poked = false;
        if !state.stopped && self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.wait_for(&mut state, FOLD_AFTER);
        }
    }

    fn fold(&self) {
        let deltas = self.waiting.swap(0, Ordering::Relaxed);
        if deltas == 0 {
            return;
        }
        for _ in 0..=deltas / BATCH as u64 {
            let ticket = self.journal.submit(Entry::Fold { limit: BATCH });
            if let Err(error) = self.journal.wait(ticket) {
                tracing::debug!(%error, "folding waits for the journal");
                return;
            }
        }
        if let Err(error) = self.prune() {
            tracing::debug!(%error, "rows of folders that are gone wait for the journal");
        }
    }

    /// Deletes the rows of trees that are gone, each fold a page of them.
    fn prune(&self) -> Result<(), JournalError> {
        while !self.is_stopped() && self.journal.glance(|reader| reader.has_gone_folders())? {
            self.journal.wait(self.journal.submit(Entry::Fold { limit: BATCH }))?;
        }
        Ok(())
    }

    /// Counts folders whose turn it is; false when there are none.
    fn count_some(&self) -> Result<bool, JournalError> {
        let before = self.journal.read(|reader| reader.recount_before())?;
        let failed = self.failures.waiting();
        let page = self.journal.read(|reader| reader.uncounted(before, PAGE, &failed))?;
        if !page.is_empty() {
            self.count_down(page);
            self.changed.notify_all();
            return Ok(true);
        }
        let old = clock::now().checked_sub(self.options.recount).unwrap_or(SystemTime::UNIX_EPOCH);
        let page = self.journal.read(|reader| reader.uncounted(old, PAGE, &failed))?;
        for path in &page {
            if self.is_stopped() {
                break;
            }
            self.count_one(&Waiting { path: path.clone(), above: None });
            self.changed.wait_for(&mut self.state.lock(), PACE);
        }
        Ok(!page.is_empty())
    }

    /// Counts folders and what is found below them, going down first.
    fn count_down(&self, page: Vec<Vec<u8>>) {
        // Rows of folders that are gone would be counted in vain.
        self.journal.submit(Entry::Fold { limit: BATCH });
        let mut stack: Vec<Waiting> = page.into_iter().map(|path| Waiting { path, above: None }).collect();
        while let Some(waiting) = stack.pop() {
            if self.is_stopped() {
                return;
            }
            if self.waiting.load(Ordering::Relaxed) >= BATCH as u64 {
                self.fold();
            }
            let Some((dir, below)) = self.count_one(&waiting) else { continue };
            for path in below {
                if stack.len() >= AHEAD {
                    break;
                }
                let above = (stack.len() < OPEN).then(|| dir.clone());
                stack.push(Waiting { path, above });
            }
        }
    }

    fn count_one(&self, waiting: &Waiting) -> Option<(Arc<std::os::fd::OwnedFd>, Vec<Vec<u8>>)> {
        match self.count(waiting) {
            Ok(found) => {
                self.failures.forget(&waiting.path);
                Some(found)
            }
            // In the first case the one above tells; in the second it still waits to be counted.
            Err(CountError::Export(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) | CountError::Moved) => None,
            Err(CountError::Export(errno)) => {
                self.failed(&waiting.path, errno);
                None
            }
            Err(CountError::Journal(error)) => {
                tracing::debug!(%error, "counting waits for the journal");
                self.changed.wait_for(&mut self.state.lock(), AGAIN);
                None
            }
        }
    }

    /// Others are counted meanwhile.
    fn failed(&self, path: &[u8], error: Errno) {
        let noted = self.failures.note(path, error);
        if noted != Noted::Again {
            tracing::warn!(%error, path = display_path(path), "cannot count a folder, it is tried again later");
        }
        let pause = if noted == Noted::No { AGAIN } else { PACE };
        self.changed.wait_for(&mut self.state.lock(), pause);
    }
}
