//! How much of the past is kept: the newest events, and the drafts that they tell of.
//!
//! Events go from the oldest on, so that those kept have no gap. With them go drafts that have come to their end, and
//! their commits; a draft that is pending or in quarantine stays, however old it is.

use rusqlite::Connection;

use super::rows;
use super::{DraftId, folders, outbox};

/// Deletes at most `limit` events beyond the newest `keep`, and at most as many drafts that these were the last to tell
/// of; with `totals` none whose change of a folder's totals is not folded yet.
pub(super) fn prune(conn: &Connection, keep: i64, limit: i64, totals: bool) -> rusqlite::Result<()> {
    let oldest: Option<i64> = conn.prepare_cached("SELECT min(id) FROM events")?.query_row([], |row| row.get(0))?;
    let Some(oldest) = oldest else { return Ok(()) };
    // The newest row stays whatever is asked: the next id is taken from it.
    let mut last = (oldest - 1).saturating_add(limit).min(rows::newest_event(conn)?.saturating_sub(keep.max(1)));
    if totals {
        let unfolded: Option<i64> = conn
            .prepare_cached("SELECT min(id) FROM events WHERE id > ?1 AND id <= ?2 AND bytes IS NOT NULL")?
            .query_row([folders::folded(conn)?, last], |row| row.get(0))?;
        last = unfolded.map_or(last, |first| last.min(first - 1));
    }
    conn.prepare_cached("DELETE FROM events WHERE id <= ?1")?.execute([last])?;
    // The first condition is that of the index, the second says what is final.
    let ended: Vec<DraftId> = conn
        .prepare_cached(
            "SELECT id FROM drafts
             WHERE state IN ('committed', 'quarantined', 'discarded') AND state IN ('committed', 'discarded') AND event <= ?1
             ORDER BY event LIMIT ?2",
        )?
        .query_map([last, limit], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if ended.is_empty() {
        return Ok(());
    }
    let ids = outbox::list(&ended);
    conn.prepare_cached("DELETE FROM commits WHERE id IN (SELECT value FROM json_each(?1))")?.execute([&ids])?;
    conn.prepare_cached("DELETE FROM drafts WHERE id IN (SELECT value FROM json_each(?1))")?.execute([&ids])?;
    Ok(())
}

/// Commits there ever were: those that are kept, and those that were pruned.
pub(super) fn commits_ever(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT coalesce((SELECT commits FROM events ORDER BY id DESC LIMIT 1), 0)")?
        .query_row([], |row| rows::unsigned(row, 0))
}
