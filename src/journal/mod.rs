//! The journal: a local SQLite database that remembers every draft, commit and change of state.
//!
//! It is the memory, not the truth: whether a version was published is decided by the rename on the export, and recovery
//! reads both. So [`Journal::submit`] never waits for a disk; only who has promised something waits.
//!
//! Lock order: `reader` or `glancer`, then `redo`, then the intake's, then the writer's progress. None is held across a call
//! to another room.

mod apply;
pub mod error;
pub mod feed;
mod fold;
pub mod folders;
mod generation;
pub mod held;
mod history;
mod intake;
mod named;
pub mod outbox;
mod overtaken;
pub mod pages;
pub mod read;
pub mod record;
mod redo;
mod rows;
mod schema;
mod state_dir;
mod target;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;

pub use error::JournalError;
pub use folders::{Change, Counted, Delta};
pub use held::Held;
pub use outbox::{Attempt, OutboxId, OutboxKind, OutboxRow, OutboxState, SetAside};
pub use record::{Along, Begun, Commit, CommitKind, DraftId, DraftRow, DraftState, Entry, Owner};
pub use state_dir::{check_local, is_in_use};

use crate::sys::clock;
use feed::Feed;
use intake::Intake;
use read::Reader;
use redo::Redo;
use state_dir::{lock, private};
use writer::{Place, Progress, Writer};

/// Name of the database in the state folder.
pub const FILE: &str = "journal.sqlite";

/// Draft ids are reserved this many at a time. Ids given out and lost in a crash are not given out again: a staged file
/// may carry one that no row tells of.
const RESERVE: i64 = 256;
/// The next reservation is queued when this many ids are left: more than one transaction can lag behind.
const RESERVE_AT: i64 = 128;

/// A handle on the journal; clones share one writer thread.
#[derive(Clone)]
pub struct Journal(Arc<Shared>);

/// Position of an entry in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

struct Shared {
    state_dir: PathBuf,
    intake: Arc<Intake>,
    /// Held while an entry is written there and queued: the order is the same in both.
    redo: Arc<Mutex<Redo>>,
    /// What was being taken out when the last daemon ended.
    leaving: redo::Leaving,
    /// The newest entry that should be in the redo file and is not, by its ticket; 0 for none.
    unsecured: AtomicU64,
    progress: Arc<Progress>,
    feed: Arc<Feed>,
    next_draft: AtomicI64,
    reserved: AtomicI64,
    next_outbox: AtomicI64,
    /// Opened at the first read.
    reader: Mutex<Option<Reader>>,
    /// For those who do not wait for what is queued.
    glancer: Mutex<Option<Reader>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("state_dir", &self.0.state_dir).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens or creates `STATE_DIR/journal.sqlite` and starts its writer thread. Fails on a folder that is not on a local
    /// disk, that another daemon uses, or whose journal a later commitfs has written.
    pub fn open(state_dir: &Path) -> Result<Journal, JournalError> {
        check_local(state_dir)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(|error| JournalError::io("creating state folder", state_dir, &error))?;
        let lock = lock(state_dir)?;
        let Opened { conn, redo, leaving, next_draft, next_outbox } = open_writer(state_dir)?;
        let redo = Arc::new(Mutex::new(redo));
        let intake = Arc::new(Intake::default());
        let progress = Arc::new(Progress::default());
        let feed = Feed::new(rows::newest_event(&conn).map_err(|error| JournalError::sqlite("opening", &error))?);
        let place = Place::of(state_dir)?;
        let (redoing, progressing) = (Arc::clone(&redo), Arc::clone(&progress));
        let writer = Writer::new(conn, Arc::clone(&intake), redoing, progressing, Arc::clone(&feed), place, lock);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| JournalError::io("starting the journal's thread for", state_dir, &error))?;
        Ok(Journal(Arc::new(Shared {
            state_dir: state_dir.to_owned(),
            intake,
            redo,
            leaving,
            unsecured: AtomicU64::new(0),
            progress,
            feed,
            next_draft: AtomicI64::new(next_draft),
            reserved: AtomicI64::new(next_draft + RESERVE),
            next_outbox: AtomicI64::new(next_outbox),
            reader: Mutex::new(None),
            glancer: Mutex::new(None),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// A fresh id, higher than any that was ever given out with this state folder. Never blocks.
    pub fn next_draft_id(&self) -> DraftId {
        let id = self.0.next_draft.fetch_add(1, Ordering::Relaxed);
        let reserved = self.0.reserved.load(Ordering::Relaxed);
        if reserved - id < RESERVE_AT {
            let more = id + RESERVE;
            let mine = self.0.reserved.compare_exchange(reserved, more, Ordering::Relaxed, Ordering::Relaxed);
            if mine.is_ok() {
                self.0.push(Entry::Meta { key: schema::RESERVED, value: more.to_string() }, false);
            }
        }
        id
    }

    /// A fresh number for an outbox row. Numbers whose row was lost in a crash may be given out again: what is named after
    /// one also holds the start of the daemon.
    pub fn next_outbox_id(&self) -> OutboxId {
        self.0.next_outbox.fetch_add(1, Ordering::Relaxed)
    }

    /// Queues an entry. Entries are written in the order of their tickets; after [`Journal::close`] they are dropped and
    /// waiting for them fails.
    pub fn submit(&self, entry: Entry) -> Ticket {
        self.0.push(entry, false)
    }

    /// Returns when the entry is in a finished transaction: it survives the end of this process, not necessarily that of
    /// the machine. Fails when the journal cannot write (the entry stays queued), or has refused the entry.
    pub fn wait(&self, ticket: Ticket) -> Result<(), JournalError> {
        self.0.wait(ticket.0)
    }

    /// Returns when a recovery would know every draft that was begun, and where it goes: at once, unless that could not be
    /// written down when it was submitted. Fails when the journal cannot write.
    pub fn secure(&self) -> Result<(), JournalError> {
        match self.0.unsecured.load(Ordering::Acquire) {
            0 => Ok(()),
            ticket => done_with(self.wait(Ticket(ticket))),
        }
    }

    /// An inode is about to be taken out: should this process end before its row is written, the next one knows what it
    /// was. Best effort: an adopted inode without a path is restored with `--to`.
    pub fn leaving(&self, aside: &SetAside) {
        if let Err(error) = self.0.redo.lock().leaving(aside) {
            tracing::debug!(staged = aside.staged, %error, "could not be written down ahead");
        }
    }

    /// What was said of a name in the trash folder by [`Journal::leaving`], before this process began.
    pub fn was_leaving(&self, staged: &str) -> Option<&SetAside> {
        self.0.leaving.get(staged)
    }

    /// Queues an entry and returns when it would survive power loss too. Fails as [`Journal::wait`] does.
    pub fn submit_durable(&self, entry: Entry) -> Result<(), JournalError> {
        let ticket = self.0.push(entry, true);
        self.0.progress.wait(ticket.0)
    }

    /// Fails while the last attempt to write has failed: no new draft may begin then.
    pub fn health(&self) -> Result<(), JournalError> {
        self.0.progress.health()
    }

    /// The newest events, for those who follow along.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.0.feed
    }

    /// Returns when everything that was submitted before is written. Fails when the journal cannot write.
    pub fn flush(&self) -> Result<(), JournalError> {
        self.0.read(|_| Ok(()))
    }

    /// Drafts open or sealed, those that were promised in the order in which they got their names. Like the other reads, sees
    /// everything that was submitted before, waiting for it.
    pub fn unfinished(&self) -> Result<Vec<DraftRow>, JournalError> {
        self.0.read(Reader::unfinished)
    }

    /// One draft.
    pub fn row(&self, id: DraftId) -> Result<Option<DraftRow>, JournalError> {
        self.0.read(|reader| reader.row(id))
    }

    /// What was published from a draft; `None` if nothing was.
    pub fn commit(&self, id: DraftId) -> Result<Option<read::CommitRow>, JournalError> {
        self.0.read(|reader| reader.commit(id))
    }

    /// Reads by `query`, which sees everything that was submitted before, waiting for it.
    pub fn read<T>(&self, query: impl FnOnce(&Reader) -> Result<T, JournalError>) -> Result<T, JournalError> {
        self.0.read(query)
    }

    /// Reads by `query` what is written already, waiting for nothing.
    pub fn glance<T>(&self, query: impl FnOnce(&Reader) -> Result<T, JournalError>) -> Result<T, JournalError> {
        let mut glancer = self.0.glancer.lock();
        let opened = match glancer.take() {
            Some(opened) => opened,
            None => Reader::open(&self.0.state_dir)?,
        };
        query(glancer.insert(opened))
    }

    /// Says that folder totals are kept from now on. True if a change may be missing from those that are there: they
    /// are marked to be counted again.
    pub fn keep_totals(&self) -> Result<bool, JournalError> {
        let meta = self.read(|reader| reader.meta())?;
        let clean = meta.get(folders::CLEAN).is_some_and(|value| value == "1")
            && generation::is_latest(&self.0.state_dir, &meta);
        self.begin_generation(&meta)?;
        if !clean {
            let now = schema::micros(clock::now());
            self.submit(Entry::Meta { key: folders::RECOUNT, value: now.to_string() });
        }
        self.submit_durable(Entry::Meta { key: folders::CLEAN, value: "0".to_owned() })?;
        Ok(!clean)
    }

    /// Says that changes are not told of from now on.
    pub fn forgo_totals(&self) -> Result<(), JournalError> {
        self.begin_generation(&self.read(|reader| reader.meta())?)?;
        self.submit(Entry::Meta { key: folders::CLEAN, value: "0".to_owned() });
        Ok(())
    }

    fn begin_generation(&self, meta: &BTreeMap<String, String>) -> Result<(), JournalError> {
        let number = generation::begin(&self.0.state_dir, meta)?;
        self.submit(Entry::Meta { key: generation::KEY, value: number.to_string() });
        Ok(())
    }

    /// Says that nothing changes any more, and that all that did is in the journal.
    pub fn totals_are_complete(&self) {
        self.submit(Entry::Meta { key: folders::CLEAN, value: "1".to_owned() });
    }

    /// Writes what is queued, merges the log into the database, ends the thread. Idempotent. On a disk that refuses, gives
    /// up after a few attempts; recovery then finds those drafts unfinished.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Shared {
    fn push(&self, entry: Entry, durable: bool) -> Ticket {
        if !redo::keeps(&entry) {
            if !redo::ends_leaving(&entry) {
                return Ticket(self.intake.push(entry, None, durable));
            }
            // What was written down before was queued before. Said so that the files take turns although only names go.
            let redo = self.redo.lock();
            return Ticket(self.intake.push(entry, Some(redo.last_number()), durable));
        }
        let mut redo = self.redo.lock();
        let number = redo.append(&entry);
        let ticket = self.intake.push(entry, number.as_ref().ok().copied(), durable);
        if let Err(error) = number {
            tracing::warn!(%error, "an entry of the journal could not be written down ahead, its transaction is waited for");
            self.unsecured.store(ticket, Ordering::Release);
        }
        Ticket(ticket)
    }

    fn wait(&self, ticket: u64) -> Result<(), JournalError> {
        if !self.progress.is_done(ticket) {
            self.intake.hurry();
        }
        self.progress.wait(ticket)
    }

    fn read<T>(&self, query: impl FnOnce(&Reader) -> Result<T, JournalError>) -> Result<T, JournalError> {
        let mut reader = self.reader.lock();
        done_with(self.wait(self.intake.last_ticket()))?;
        let opened = match reader.take() {
            Some(opened) => opened,
            None => Reader::open(&self.state_dir)?,
        };
        query(reader.insert(opened))
    }

    fn close(&self) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        let next = self.next_draft.load(Ordering::Relaxed);
        self.push(Entry::Meta { key: schema::RESERVED, value: (next - 1).to_string() }, false);
        self.intake.close();
        // The checkpoint needs the database to itself.
        *self.reader.lock() = None;
        *self.glancer.lock() = None;
        if thread.join().is_err() {
            tracing::error!("the journal's thread has panicked");
        }
    }
}

/// For those who wait for somebody else's entry: one that was refused keeps nobody waiting.
fn done_with(waited: Result<(), JournalError>) -> Result<(), JournalError> {
    match waited {
        Err(JournalError::Refused { .. }) => Ok(()),
        other => other,
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writing connection, brought up to date, and the first free numbers of drafts ([`RESERVE`] from there are reserved)
/// and of outbox rows.
struct Opened {
    conn: Connection,
    redo: Redo,
    leaving: redo::Leaving,
    next_draft: DraftId,
    next_outbox: OutboxId,
}

fn open_writer(state_dir: &Path) -> Result<Opened, JournalError> {
    let failed = |error: &rusqlite::Error| JournalError::sqlite("opening", error);
    let file = state_dir.join(FILE);
    // SQLite gives its other files the mode of this one. Nobody else in this process has it open: closing a second
    // descriptor would take SQLite's locks away.
    drop(private(&file)?);
    let mut conn = Connection::open(&file).map_err(|error| failed(&error))?;
    let found = schema::version(&conn).map_err(|error| failed(&error))?;
    if found > schema::NEWEST {
        return Err(JournalError::NewerSchema { dir: state_dir.to_owned(), found, known: schema::NEWEST });
    }
    schema::prepare_writer(&conn).and_then(|()| schema::migrate(&mut conn)).map_err(|error| failed(&error))?;
    outbox::heed_clock(&conn, schema::micros(clock::now())).map_err(|error| failed(&error))?;
    let (redo, leaving) = Redo::open(state_dir, &mut conn)?;
    let next_draft = apply::reserve(&mut conn).map_err(|error| failed(&error))?;
    let next_outbox = outbox::first_free(&conn).map_err(|error| failed(&error))?;
    // A new file's name must survive power loss like its content.
    File::open(state_dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| JournalError::io("syncing state folder", state_dir, &error))?;
    Ok(Opened { conn, redo, leaving, next_draft, next_outbox })
}
