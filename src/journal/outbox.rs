//! The outbox: inodes that were taken out of the name space and wait for their removal.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::apply::{changed, event, next_event};
use super::error::JournalError;
use super::folders::Change;
use super::read::Reader;
use super::rows::{unknown_word, unsigned};
use super::schema;

/// Number of an outbox row; never given out twice.
pub type OutboxId = i64;

/// Why an inode was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutboxKind {
    /// Its name was unlinked.
    Unlink,
    /// A new version, or a rename, took its name.
    Replace,
    /// A whole folder was removed.
    Tree,
}

impl OutboxKind {
    /// The word stored in the journal and shown to people.
    pub fn as_str(self) -> &'static str {
        match self {
            OutboxKind::Unlink => "unlink",
            OutboxKind::Replace => "replace",
            OutboxKind::Tree => "tree",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "unlink" => OutboxKind::Unlink,
            "replace" => OutboxKind::Replace,
            "tree" => OutboxKind::Tree,
            _ => return None,
        })
    }
}

/// The persisted state of an outbox row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutboxState {
    /// Waits for its time, or for its next attempt.
    Pending,
    /// All attempts failed: only an admin makes another one.
    Dead,
    /// An admin gave it up: the inode stays until somebody removes it by hand.
    Dropped,
}

impl OutboxState {
    /// The word stored in the journal and shown to people.
    pub fn as_str(self) -> &'static str {
        match self {
            OutboxState::Pending => "pending",
            OutboxState::Dead => "dead",
            OutboxState::Dropped => "dropped",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "pending" => OutboxState::Pending,
            "dead" => OutboxState::Dead,
            "dropped" => OutboxState::Dropped,
            _ => return None,
        })
    }
}

/// An inode that now lies in the trash folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetAside {
    /// From [`super::Journal::next_outbox_id`].
    pub id: OutboxId,
    /// Why.
    pub kind: OutboxKind,
    /// Where it was, relative to the export's root; empty when unknown.
    pub path: Vec<u8>,
    /// Its name in this instance's trash folder.
    pub staged: String,
    /// Its inode number.
    pub ino: u64,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes, those of everything below for a tree.
    pub bytes: u64,
    /// Files, 1 unless it is a tree.
    pub files: u64,
    /// When it may be removed.
    pub due: SystemTime,
    /// What its unlinking changed in its folder, if totals are kept. A replacement's change is that of the commit.
    #[serde(skip)]
    pub change: Option<Change>,
}

/// An attempt to remove an inode that failed.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The row.
    pub id: OutboxId,
    /// What the system said.
    pub error: String,
    /// When to try again.
    pub next: SystemTime,
    /// It was the last attempt.
    pub dead: bool,
}

/// An outbox row as the journal remembers it.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// What was reported.
    pub aside: SetAside,
    /// Its state.
    pub state: OutboxState,
    /// The removal of a tree has begun: it is not whole any more.
    pub begun: bool,
    /// Files of a tree removed so far.
    pub reaped: u64,
    /// When it was taken out.
    pub deleted_at: SystemTime,
    /// Failed attempts.
    pub attempts: u32,
    /// Not to be tried before.
    pub next_attempt: SystemTime,
    /// The last failure.
    pub last_error: Option<String>,
}

/// Numbers for `status`.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutboxCounts {
    /// Rows that wait.
    pub pending: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that only an admin can move.
    pub dead: u64,
}

/// The first number that was never given out.
pub(super) fn first_free(conn: &Connection) -> rusqlite::Result<OutboxId> {
    let used: Option<i64> =
        conn.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'", [], |row| row.get(0)).optional()?;
    Ok(used.unwrap_or(0) + 1)
}

/// Rows that seem to come from the future were written before the clock jumped back: they wait from now on, or a file
/// would be kept for as long as the clock had been wrong.
pub(super) fn heed_clock(conn: &Connection, now: i64) -> rusqlite::Result<()> {
    let changed = conn.execute(
        "UPDATE outbox SET deleted_at = ?1, due_at = due_at - (deleted_at - ?1),
                           next_attempt = min(next_attempt, due_at) - (deleted_at - ?1)
         WHERE deleted_at > ?1",
        [now],
    )?;
    if changed > 0 {
        tracing::warn!(rows = changed, "the clock was set back since: what waits for removal waits from now on");
    }
    Ok(())
}

pub(super) fn set_aside(conn: &Connection, new: &SetAside, now: i64) -> rusqlite::Result<()> {
    let due = schema::micros(new.due);
    conn.prepare_cached(
        "INSERT INTO outbox (id, kind, state, path, staged, ino, uid, gid, bytes, files, deleted_at, due_at, next_attempt)
         VALUES (?1, ?2, 'pending', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11)",
    )?
    .execute(params![
        new.id,
        new.kind.as_str(),
        new.path,
        new.staged,
        new.ino.cast_signed(),
        new.uid,
        new.gid,
        schema::size(new.bytes),
        schema::size(new.files),
        now,
        due,
    ])?;
    // A replacement's event is that of the commit.
    let word = match new.kind {
        OutboxKind::Unlink => "unlinked",
        OutboxKind::Tree => "removed",
        OutboxKind::Replace => return Ok(()),
    };
    let told_by = next_event(conn)?;
    event(conn, told_by, now, word, None, &new.path, None)?;
    changed(conn, told_by, new.change)
}

pub(super) fn reaped(conn: &Connection, ids: &[OutboxId]) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))")?.execute([list(ids)])?;
    Ok(())
}

pub(super) fn failed(conn: &Connection, attempt: &Attempt, now: i64) -> rusqlite::Result<bool> {
    let state = if attempt.dead { "dead" } else { "pending" };
    let changed = conn
        .prepare_cached(
            "UPDATE outbox SET attempts = attempts + 1, last_error = ?2, next_attempt = ?3, state = ?4
             WHERE id = ?1 AND state = 'pending'",
        )?
        .execute(params![attempt.id, attempt.error, schema::micros(attempt.next), state])?;
    if changed > 0 && attempt.dead {
        let path: Vec<u8> = conn.query_row("SELECT path FROM outbox WHERE id = ?1", [attempt.id], |row| row.get(0))?;
        event(conn, next_event(conn)?, now, "dead", None, &path, Some(&attempt.error))?;
    }
    Ok(changed > 0)
}

pub(super) fn begun(conn: &Connection, id: OutboxId, files: u64) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE outbox SET begun = 1, reaped = reaped + ?2 WHERE id = ?1")?
        .execute(params![id, schema::size(files)])?;
    Ok(())
}

/// Dead and dropped rows get all their attempts again, those between two attempts the next one at once. What has not
/// failed is kept for its time.
pub(super) fn retry(conn: &Connection, ids: &[OutboxId], now: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE outbox SET state = 'pending', attempts = 0, next_attempt = ?2
         WHERE id IN (SELECT value FROM json_each(?1)) AND (state <> 'pending' OR attempts > 0)",
    )?
    .execute(params![list(ids), now])?;
    Ok(())
}

/// What waits for the end of its retention waits no longer; failed attempts keep their pause.
pub(super) fn purged(conn: &Connection, ids: Option<&[OutboxId]>, now: i64) -> rusqlite::Result<()> {
    let all = "UPDATE outbox SET next_attempt = ?1, due_at = min(due_at, ?1)
               WHERE state = 'pending' AND attempts = 0 AND next_attempt > ?1";
    match ids {
        None => conn.prepare_cached(all)?.execute([now])?,
        Some(ids) => conn
            .prepare_cached(&format!("{all} AND id IN (SELECT value FROM json_each(?2))"))?
            .execute(params![now, list(ids)])?,
    };
    Ok(())
}

pub(super) fn dropped(conn: &Connection, id: OutboxId) -> rusqlite::Result<bool> {
    let changed =
        conn.prepare_cached("UPDATE outbox SET state = 'dropped' WHERE id = ?1 AND state = 'dead'")?.execute([id])?;
    Ok(changed > 0)
}

pub(super) fn restored(conn: &Connection, id: OutboxId, path: &[u8], now: i64) -> rusqlite::Result<bool> {
    let changed = conn.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])?;
    if changed > 0 {
        event(conn, next_event(conn)?, now, "restored", None, path, None)?;
    }
    Ok(changed > 0)
}

pub(super) fn list(ids: &[OutboxId]) -> String {
    let words: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("[{}]", words.join(","))
}

pub(super) const ROW: &str =
    "SELECT id, kind, state, path, staged, ino, uid, gid, bytes, files, due_at, begun, reaped, deleted_at,
                          attempts, next_attempt, last_error
                   FROM outbox ";

pub(super) fn row(row: &Row<'_>) -> rusqlite::Result<OutboxRow> {
    let (kind, state): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(OutboxRow {
        aside: SetAside {
            id: row.get(0)?,
            kind: OutboxKind::parse(&kind).ok_or_else(|| unknown_word(1, &kind))?,
            path: row.get(3)?,
            staged: row.get(4)?,
            ino: row.get::<_, i64>(5)?.cast_unsigned(),
            uid: row.get(6)?,
            gid: row.get(7)?,
            bytes: unsigned(row, 8)?,
            files: unsigned(row, 9)?,
            due: schema::time(row.get(10)?),
            change: None,
        },
        state: OutboxState::parse(&state).ok_or_else(|| unknown_word(2, &state))?,
        begun: row.get(11)?,
        reaped: unsigned(row, 12)?,
        deleted_at: schema::time(row.get(13)?),
        attempts: row.get(14)?,
        next_attempt: schema::time(row.get(15)?),
        last_error: row.get(16)?,
    })
}

/// What waits, its bytes, and how many are dead letters.
pub(super) const COUNTS: &str =
    "SELECT count(*), coalesce(sum(bytes), 0), (SELECT count(*) FROM outbox WHERE state = 'dead')
     FROM outbox WHERE state = 'pending'";

/// Looking at the outbox.
impl Reader {
    /// One row.
    pub fn outbox_row(&self, id: OutboxId) -> Result<Option<OutboxRow>, JournalError> {
        self.read(|conn| conn.prepare_cached(&format!("{ROW} WHERE id = ?1"))?.query_row([id], row).optional())
    }

    /// At most `limit` rows behind `after`, by number.
    pub fn outbox_page(&self, after: OutboxId, limit: usize) -> Result<Vec<OutboxRow>, JournalError> {
        self.outbox("WHERE id > ?1 ORDER BY id LIMIT ?2", after, limit)
    }

    /// At most `limit` rows whose time has come, those first that have waited longest.
    pub fn outbox_due(&self, now: SystemTime, limit: usize) -> Result<Vec<OutboxRow>, JournalError> {
        let which = "WHERE state = 'pending' AND next_attempt <= ?1 ORDER BY next_attempt LIMIT ?2";
        self.outbox(which, schema::micros(now), limit)
    }

    /// At most `limit` rows that wait for the end of their retention and behind `after`, whatever their time: what to
    /// give up for space.
    pub fn outbox_waiting(&self, after: OutboxId, limit: usize) -> Result<Vec<OutboxRow>, JournalError> {
        self.outbox("WHERE state = 'pending' AND attempts = 0 AND id > ?1 ORDER BY id LIMIT ?2", after, limit)
    }

    /// When the next row's time comes.
    pub fn outbox_next(&self) -> Result<Option<SystemTime>, JournalError> {
        self.read(|conn| {
            let next: Option<i64> = conn
                .prepare_cached("SELECT min(next_attempt) FROM outbox WHERE state = 'pending'")?
                .query_row([], |row| row.get(0))?;
            Ok(next.map(schema::time))
        })
    }

    /// Those of these rows that there are.
    pub fn outbox_among(&self, ids: &[OutboxId]) -> Result<Vec<OutboxRow>, JournalError> {
        let which = "WHERE id IN (SELECT value FROM json_each(?1)) ORDER BY id";
        self.read(|conn| conn.prepare_cached(&format!("{ROW} {which}"))?.query_map([list(ids)], row)?.collect())
    }

    /// Which of these names in the trash folder have a row.
    pub fn outbox_staged(&self, names: &[String]) -> Result<std::collections::HashSet<String>, JournalError> {
        let words = super::read::json(names);
        self.read(|conn| {
            let mut statement =
                conn.prepare_cached("SELECT staged FROM outbox WHERE staged IN (SELECT value FROM json_each(?1))")?;
            statement.query_map([words], |row| row.get(0))?.collect()
        })
    }

    /// Where commits published these inodes last.
    pub fn published_paths(&self, inos: &[u64]) -> Result<std::collections::HashMap<u64, Vec<u8>>, JournalError> {
        let signed: Vec<i64> = inos.iter().map(|ino| ino.cast_signed()).collect();
        self.read(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT ino, path FROM commits WHERE ino IN (SELECT value FROM json_each(?1)) ORDER BY id",
            )?;
            let rows =
                statement.query_map([list(&signed)], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)))?;
            rows.collect()
        })
    }

    /// Rows that only an admin can move.
    pub fn dead_letters(&self) -> Result<Vec<OutboxId>, JournalError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT id FROM outbox WHERE state = 'dead' ORDER BY id")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// Numbers for `status`.
    pub fn outbox_counts(&self) -> Result<OutboxCounts, JournalError> {
        self.read(|conn| {
            conn.query_row(COUNTS, [], |row| {
                Ok(OutboxCounts { pending: unsigned(row, 0)?, bytes: unsigned(row, 1)?, dead: unsigned(row, 2)? })
            })
        })
    }

    fn outbox(&self, which: &str, key: i64, limit: usize) -> Result<Vec<OutboxRow>, JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(|conn| conn.prepare_cached(&format!("{ROW} {which}"))?.query_map([key, limit], row)?.collect())
    }
}
