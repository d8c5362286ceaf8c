//! Where drafts will appear, as their rows say it.

use rusqlite::{Connection, params};

use super::apply::{event, next_event};
use super::held::Held;
use super::overtaken::is_overtaken;
use super::record::{Along, DraftId};

/// A draft's new name. What happens to that from here on comes after its promise; what has become of the old one it takes
/// along with its folder.
pub(super) fn retarget(
    conn: &Connection,
    id: DraftId,
    path: &[u8],
    below: Option<&Held>,
    from: Option<&[u8]>,
    now: i64,
) -> rusqlite::Result<bool> {
    if below.is_none() {
        take_along(conn, id)?;
    }
    let changed = move_to(conn, id, path, from, None, now)?;
    if changed && let Some(below) = below {
        named(conn, id, below)?;
    }
    Ok(changed)
}

/// Drafts that go along with their folder. One that has ended meanwhile stays where it is.
pub(super) fn go_along(conn: &Connection, drafts: &[Along], now: i64) -> rusqlite::Result<()> {
    for Along { id, path, from, folder } in drafts {
        take_along(conn, *id)?;
        move_to(conn, *id, path, Some(from), Some(*folder), now)?;
    }
    Ok(())
}

/// The rename that drafts' rows tell of was not made. What happened at the old path since then still counts.
pub(super) fn stay(conn: &Connection, ids: &[DraftId], now: i64) -> rusqlite::Result<()> {
    for id in ids {
        let path: Option<Vec<u8>> = conn
            .prepare_cached(
                "UPDATE drafts SET path = moved_from, moved_from = NULL, moved_with = NULL
                 WHERE id = ?1 AND moved_from IS NOT NULL AND state IN ('open', 'sealed', 'quarantined')
                 RETURNING path",
            )?
            .query_map([id], |row| row.get(0))?
            .next()
            .transpose()?;
        if let Some(path) = path {
            event(conn, next_event(conn)?, now, "retargeted", Some(*id), &path, None)?;
        }
    }
    Ok(())
}

/// What a draft's name holds as it gets that name. If its close was promised, this is its place among others that were
/// promised for the name.
pub(super) fn named(conn: &Connection, id: DraftId, below: &Held) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE drafts SET below = ?2, named = CASE state WHEN 'sealed' THEN event END WHERE id = ?1")?
        .execute(params![id, below.to_text()])?;
    Ok(())
}

fn move_to(
    conn: &Connection,
    id: DraftId,
    path: &[u8],
    from: Option<&[u8]>,
    folder: Option<u64>,
    now: i64,
) -> rusqlite::Result<bool> {
    let told_by = next_event(conn)?;
    let changed = conn
        .prepare_cached(
            "UPDATE drafts SET path = ?2, moved_from = ?3, moved_with = ?4,
                    event = CASE state WHEN 'sealed' THEN ?5 ELSE event END
             WHERE id = ?1 AND state IN ('open', 'sealed', 'quarantined')",
        )?
        .execute(params![id, path, from, folder.map(u64::cast_signed), told_by])?;
    if changed > 0 {
        event(conn, told_by, now, "retargeted", Some(id), path, None)?;
    }
    Ok(changed > 0)
}

/// What has become of a promised draft's name since then goes along with it.
fn take_along(conn: &Connection, id: DraftId) -> rusqlite::Result<()> {
    let is_sealed = conn.prepare_cached("SELECT 1 FROM drafts WHERE id = ?1 AND state = 'sealed'")?.exists([id])?;
    if is_sealed && is_overtaken(conn, id)? {
        let mut update = conn.prepare_cached("UPDATE drafts SET below = ?2 WHERE id = ?1")?;
        update.execute(params![id, Held::Changed.to_text()])?;
    }
    Ok(())
}
