//! Rows of the database, decoded.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row};

use super::held::Held;
use super::read::{Brief, CommitRow, EventRow};
use super::record::{Commit, CommitKind, DraftId, DraftRow, DraftState, Owner};
use super::schema;

/// What [`draft`] decodes.
pub(super) const DRAFT: &str =
    "SELECT id, state, path, stage, ino, kind, uid, gid, pid, command, bytes, begun_at, changed_at, reason, kept, below,
     moved_from, stay IS NOT NULL, folder
                     FROM drafts ";

/// What [`event`] decodes. A commit's numbers go with the event that told of it.
pub(super) const EVENT: &str = "SELECT e.id, e.at, e.kind, e.draft_id, e.path, e.detail, c.size, c.duration_us, c.kind
                     FROM events e LEFT JOIN commits c ON e.kind = 'committed' AND c.id = e.draft_id ";

pub(super) fn commit_of(conn: &Connection, id: DraftId) -> rusqlite::Result<Option<CommitRow>> {
    conn.prepare_cached(
        "SELECT id, path, ino, size, digest, mtime, uid, at, duration_us, kind FROM commits WHERE id = ?1",
    )?
    .query_row([id], |row| {
        Ok(CommitRow {
            commit: Commit {
                id: row.get(0)?,
                path: row.get(1)?,
                ino: row.get::<_, i64>(2)?.cast_unsigned(),
                size: unsigned(row, 3)?,
                digest: row.get(4)?,
                mtime: schema::time(row.get(5)?),
                uid: row.get(6)?,
                duration: Duration::from_micros(unsigned(row, 8)?),
                kind: kind(row, 9)?,
                change: None,
            },
            at: schema::time(row.get(7)?),
        })
    })
    .optional()
}

pub(super) fn draft(row: &Row<'_>) -> rusqlite::Result<DraftRow> {
    let word: String = row.get(1)?;
    Ok(DraftRow {
        id: row.get(0)?,
        state: DraftState::parse(&word).ok_or_else(|| unknown_word(1, &word))?,
        path: row.get(2)?,
        stage: row.get(3)?,
        ino: row.get::<_, i64>(4)?.cast_unsigned(),
        kind: kind(row, 5)?,
        owner: Owner { uid: row.get(6)?, gid: row.get(7)?, pid: row.get(8)?, command: row.get(9)? },
        bytes: unsigned(row, 10)?,
        begun_at: schema::time(row.get(11)?),
        changed_at: schema::time(row.get(12)?),
        reason: row.get(13)?,
        kept: row.get(14)?,
        below: held(row, 15)?,
        moved_from: row.get(16)?,
        moved_alone: row.get(17)?,
        folder: row.get::<_, Option<i64>>(18)?.map(i64::cast_unsigned),
    })
}

fn held(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Held>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| Held::parse(&text).ok_or_else(|| unknown_word(column, &text))).transpose()
}

/// Id of the newest event; 0 when there is none.
pub(super) fn newest_event(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT coalesce(max(id), 0) FROM events")?.query_row([], |row| row.get(0))
}

/// Up to `limit` events after `position`, in order.
pub(super) fn events_after(conn: &Connection, position: i64, limit: usize) -> rusqlite::Result<Vec<EventRow>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(&format!("{EVENT} WHERE e.id > ?1 ORDER BY e.id LIMIT ?2"))?;
    statement.query_map([position, limit], event)?.collect()
}

pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    let commit = match row.get::<_, Option<i64>>(6)? {
        Some(_) => Some(Brief {
            size: unsigned(row, 6)?,
            duration: Duration::from_micros(unsigned(row, 7)?),
            kind: kind(row, 8)?,
        }),
        None => None,
    };
    Ok(EventRow {
        id: row.get(0)?,
        at: schema::time(row.get(1)?),
        kind: row.get(2)?,
        draft: row.get(3)?,
        path: row.get(4)?,
        detail: row.get(5)?,
        commit,
    })
}

/// Counts and sizes; the schema keeps them from being negative.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}

fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<CommitKind> {
    let word: String = row.get(column)?;
    CommitKind::parse(&word).ok_or_else(|| unknown_word(column, &word))
}

pub(super) fn unknown_word(column: usize, word: &str) -> rusqlite::Error {
    let message = format!("unknown word {word:?}");
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, message.into())
}
