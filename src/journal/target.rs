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
    below: Option<(&Held, Option<u64>)>,
    from: Option<&[u8]>,
    now: i64,
) -> rusqlite::Result<bool> {
    let Some((below, folder)) = below else {
        // One that has ended meanwhile stays where it is.
        take_along(conn, id)?;
        return move_to(conn, id, path, from, now).map(|_| true);
    };
    // Should the rename not be made, all is as it was.
    let stay = "UPDATE drafts SET stay = CASE WHEN ?2 THEN
                    json_object('below', below, 'named', named, 'event', event, 'folder', folder) END
                WHERE id = ?1";
    conn.prepare_cached(stay)?.execute(params![id, from.is_some()])?;
    let changed = move_to(conn, id, path, from, now)?;
    if changed {
        named(conn, id, below, folder)?;
    }
    Ok(changed)
}

/// Drafts that go along with their folder. One that has ended meanwhile stays where it is.
pub(super) fn go_along(conn: &Connection, drafts: &[Along], now: i64) -> rusqlite::Result<()> {
    for Along { id, path, from, folder } in drafts {
        take_along(conn, *id)?;
        if move_to(conn, *id, path, Some(from), now)? {
            let mut update = conn.prepare_cached("UPDATE drafts SET folder = ?2, stay = NULL WHERE id = ?1")?;
            update.execute(params![id, folder.cast_signed()])?;
        }
    }
    Ok(())
}

/// The rename that drafts' rows tell of was not made. What happened at the old path since then still counts.
pub(super) fn stay(conn: &Connection, ids: &[DraftId], now: i64) -> rusqlite::Result<()> {
    for id in ids {
        let path: Option<Vec<u8>> = conn
            .prepare_cached(
                "UPDATE drafts SET path = moved_from, moved_from = NULL, stay = NULL,
                        below = CASE WHEN stay IS NULL THEN below ELSE stay ->> 'below' END,
                        named = CASE WHEN stay IS NULL THEN named ELSE stay ->> 'named' END,
                        event = CASE WHEN stay IS NULL THEN event ELSE stay ->> 'event' END,
                        folder = CASE WHEN stay IS NULL THEN folder ELSE stay ->> 'folder' END
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

/// What a draft's name holds as it gets that name, in this folder. If its close was promised, this is its place among others
/// that were promised for the name.
pub(super) fn named(conn: &Connection, id: DraftId, below: &Held, folder: Option<u64>) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE drafts SET below = ?2, folder = ?3, named = CASE state WHEN 'sealed' THEN event END WHERE id = ?1",
    )?
    .execute(params![id, below.to_text(), folder.map(u64::cast_signed)])?;
    Ok(())
}

fn move_to(conn: &Connection, id: DraftId, path: &[u8], from: Option<&[u8]>, now: i64) -> rusqlite::Result<bool> {
    let told_by = next_event(conn)?;
    let changed = conn
        .prepare_cached(
            "UPDATE drafts SET path = ?2, moved_from = ?3, event = CASE state WHEN 'sealed' THEN ?4 ELSE event END
             WHERE id = ?1 AND state IN ('open', 'sealed', 'quarantined')",
        )?
        .execute(params![id, path, from, told_by])?;
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
