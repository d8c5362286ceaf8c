//! What a commit must not outrun, written down before the database has it.
//!
//! Recovery recognises a finished rename by the first row of its draft. A transaction for each of them would cost more than
//! the rest of a commit, so entries that recovery begins from are appended to a file first, one line each, and the
//! database takes them with others a few milliseconds later. Opening the journal applies what it does not have yet. What is
//! about to be taken out of the name space is written down too, so that it keeps its path whenever the daemon dies.
//!
//! Lines are numbered without end; the number of the last one applied is written by the transaction that applies it. As
//! the database's own log, the file survives the end of this process, not necessarily that of the machine.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::apply::{apply_alone, is_environment};
use super::held::Held;
use super::named::name;
use super::record::{Begun, DraftId, Entry};
use super::{JournalError, SetAside, schema};

/// Names of the files in the state folder. They are written in turn: one is begun anew when all of its lines are applied.
pub(super) const FILES: [&str; 2] = ["journal.redo.0", "journal.redo.1"];
/// Key in `meta`: number of the last line applied.
const APPLIED: &str = "redo_applied";
/// Bytes after which the other file is written.
const LIMIT: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    number: u64,
    /// When it was written, in microseconds of the epoch.
    at: i64,
    what: What<'a>,
}

#[derive(Serialize, Deserialize)]
enum What<'a> {
    Begun(Cow<'a, Begun>),
    Retargeted {
        id: DraftId,
        path: Cow<'a, [u8]>,
        /// Lines of older versions of commitfs, which wrote down nothing of the kind at a promise either, have none.
        #[serde(default)]
        below: Option<Cow<'a, Held>>,
        #[serde(default)]
        folder: Option<u64>,
        #[serde(default)]
        from: Option<Cow<'a, [u8]>>,
    },
    /// About to be taken out. Not an entry: nobody knows yet whether it will be.
    Leaving(Cow<'a, SetAside>),
}

impl<'a> What<'a> {
    fn of(entry: &'a Entry) -> Option<What<'a>> {
        match entry {
            Entry::Begun(begun) => Some(What::Begun(Cow::Borrowed(begun))),
            Entry::Retargeted { id, path, below, folder, from } => Some(What::Retargeted {
                id: *id,
                path: Cow::Borrowed(path),
                below: below.as_ref().map(Cow::Borrowed),
                folder: *folder,
                from: from.as_deref().map(Cow::Borrowed),
            }),
            _ => None,
        }
    }

    fn into_entry(self) -> Option<Entry> {
        match self {
            What::Begun(begun) => Some(Entry::Begun(begun.into_owned())),
            What::Retargeted { id, path, below, folder, from } => Some(Entry::Retargeted {
                id,
                path: path.into_owned(),
                below: below.map(Cow::into_owned),
                folder,
                from: from.map(Cow::into_owned),
            }),
            What::Leaving(_) => None,
        }
    }
}

/// By their names in the trash folder.
pub(super) type Leaving = HashMap<String, SetAside>;

/// Whether recovery begins from an entry, so that it is written down ahead.
pub(super) fn keeps(entry: &Entry) -> bool {
    matches!(entry, Entry::Begun(_) | Entry::Retargeted { .. })
}

/// Whether an entry tells what became of a name that was about to be taken out.
pub(super) fn ends_leaving(entry: &Entry) -> bool {
    match entry {
        Entry::SetAside(_) | Entry::Unlinked { .. } => true,
        Entry::Together(entries) => entries.iter().any(ends_leaving),
        _ => false,
    }
}

/// The file being written. One thread at a time.
#[derive(Debug)]
pub(super) struct Redo {
    paths: [PathBuf; 2],
    pub(super) file: File,
    /// Which of the two it is.
    current: usize,
    /// Where the next line goes. What a failed write has left behind it is overwritten.
    len: u64,
    pub(super) limit: u64,
    last_number: u64,
    /// Number of the last line of the other file, while that has lines that are not applied.
    other: Option<u64>,
}

impl Redo {
    /// Applies what the database does not have yet, durably, and begins anew. Returns also what was being taken out of
    /// late, by the name it was given.
    pub fn open(dir: &Path, conn: &mut Connection) -> Result<(Redo, Leaving), JournalError> {
        let paths = FILES.map(|name| dir.join(name));
        let mut lines = Vec::new();
        for path in &paths {
            match fs::read(path) {
                Ok(text) => lines.extend(text.split(|&byte| byte == b'\n').filter_map(|line| parse(line, path))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(JournalError::io("reading", path, &error)),
            }
        }
        lines.sort_unstable_by_key(|line| line.number);
        let now = schema::micros(crate::sys::clock::now());
        let leaving = lines.iter().filter_map(|line| match &line.what {
            What::Leaving(aside) => Some((aside.staged.clone(), heeding_clock(aside, line.at, now))),
            _ => None,
        });
        let leaving = leaving.collect();
        let last_number = apply_lines(conn, lines).map_err(|error| JournalError::sqlite("opening", &error))?;
        let begin = |path| begin(path).map_err(|error| JournalError::io("beginning", path, &error));
        let [file, _] = [begin(&paths[0])?, begin(&paths[1])?];
        Ok((Redo { paths, file, current: 0, len: 0, limit: LIMIT, last_number, other: None }, leaving))
    }

    /// Writes down an entry that it keeps, and returns its number.
    pub fn append(&mut self, entry: &Entry) -> io::Result<u64> {
        self.write(What::of(entry).ok_or(io::ErrorKind::Unsupported)?)
    }

    /// Writes down what is about to be taken out.
    pub fn leaving(&mut self, aside: &SetAside) -> io::Result<()> {
        self.write(What::Leaving(Cow::Borrowed(aside))).map(drop)
    }

    fn write(&mut self, what: What<'_>) -> io::Result<u64> {
        if self.len >= self.limit && self.other.is_none() {
            self.file = begin(&self.paths[1 - self.current])?;
            self.current = 1 - self.current;
            self.len = 0;
            self.other = Some(self.last_number);
        }
        let number = self.last_number + 1;
        let line = Line { number, at: schema::micros(crate::sys::clock::now()), what };
        let mut text = vec![b' '; 17];
        serde_json::to_writer(&mut text, &line)?;
        let checksum = format!("{:016x}", xxh3_64(&text[17..]));
        text[..16].copy_from_slice(checksum.as_bytes());
        text.push(b'\n');
        self.file.write_all_at(&text, self.len)?;
        self.len += text.len() as u64;
        self.last_number = number;
        Ok(number)
    }

    /// The number of the last line.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// The database has every line up to this one.
    pub fn applied(&mut self, number: u64) {
        self.other = self.other.filter(|&last| last > number);
    }
}

/// Says in a transaction that it applies every line up to this one.
pub(super) fn note_applied(conn: &Connection, number: u64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute((APPLIED, number.to_string()))?;
    Ok(())
}

/// Returns the number of the last line known.
fn apply_lines(conn: &mut Connection, lines: Vec<Line<'static>>) -> rusqlite::Result<u64> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied: Option<String> =
        tx.query_row("SELECT value FROM meta WHERE key = ?1", [APPLIED], |row| row.get(0)).optional()?;
    let applied = applied.and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut last = applied;
    for Line { number, at, what } in lines {
        if number <= last {
            continue;
        }
        last = number;
        let Some(entry) = what.into_entry() else { continue };
        let applied = match apply_alone(&tx, &entry, at) {
            Err(error) if is_environment(&error) => return Err(error),
            other => other.is_ok_and(|applied| applied),
        };
        if !applied {
            tracing::warn!(number, entry = name(&entry), "written down before a crash, and contradicts the journal");
        }
    }
    if last > applied {
        tracing::info!(lines = last - applied, "journal: entries of the last run, written down and not yet applied");
        note_applied(&tx, last)?;
    }
    tx.commit()?;
    Ok(last)
}

/// What was written down at `at` by a clock that was set back since is due from now on, as the rows are (`outbox::heed_clock`).
pub(super) fn heeding_clock(aside: &SetAside, at: i64, now: i64) -> SetAside {
    let ahead = Duration::from_micros(u64::try_from(at - now).unwrap_or(0));
    SetAside { due: aside.due - ahead, ..aside.clone() }
}

/// `None` for what is not a whole line: a crash of the machine may leave any of it out.
fn parse(line: &[u8], path: &Path) -> Option<Line<'static>> {
    let (checksum, json) = line.split_at_checked(16).and_then(|(sum, rest)| Some((sum, rest.strip_prefix(b" ")?)))?;
    let checksum = u64::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    if checksum != xxh3_64(json) {
        return None;
    }
    match serde_json::from_slice(json) {
        Ok(line) => Some(line),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a line of another version of commitfs is left out");
            None
        }
    }
}

/// Empty, and for its owner only.
fn begin(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)
}
