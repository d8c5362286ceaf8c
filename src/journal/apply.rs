//! What each entry writes: rows, changes of state, events.

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::fold::{self, Tree};
use super::record::{CommitKind, DraftId, DraftState, Entry, Owner};
use super::{folders, history, outbox, schema, target};

/// Takes the next block of draft ids, durably, and returns its first: higher than any id that was ever given out.
pub(super) fn reserve(conn: &mut Connection) -> rusqlite::Result<DraftId> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let used: DraftId = tx.query_row("SELECT coalesce(max(id), 0) FROM drafts", [], |row| row.get(0))?;
    let reserved: Option<String> =
        tx.query_row("SELECT value FROM meta WHERE key = ?1", [schema::RESERVED], |row| row.get(0)).optional()?;
    let reserved = reserved.and_then(|value| value.parse().ok()).unwrap_or(0);
    let next = used.max(reserved) + 1;
    let entry = Entry::Meta { key: schema::RESERVED, value: (next + super::RESERVE).to_string() };
    apply(&tx, &entry, 0)?;
    tx.commit()?;
    Ok(next)
}

/// False, and nothing is changed, when the entry speaks of a draft that is not there, or not in a state that allows it.
pub(super) fn apply(conn: &Connection, entry: &Entry, now: i64) -> rusqlite::Result<bool> {
    match entry {
        Entry::Begun(begun) => {
            let new = NewRow {
                id: begun.id,
                state: DraftState::Open,
                path: &begun.path,
                stage: &begun.stage,
                ino: begun.ino,
                kind: begun.kind,
                owner: &begun.owner,
                bytes: 0,
                reason: None,
            };
            insert(conn, &new, "begun", now)?;
            Ok(true)
        }
        Entry::Adopted { id, stage, ino, uid, bytes, reason } => {
            let owner = Owner { uid: *uid, ..Owner::default() };
            let new = NewRow {
                id: *id,
                state: DraftState::Quarantined,
                path: b"",
                stage,
                ino: *ino,
                kind: CommitKind::New,
                owner: &owner,
                bytes: *bytes,
                reason: Some(reason),
            };
            insert(conn, &new, "quarantined", now)?;
            Ok(true)
        }
        Entry::Retargeted { id, path, below, folder, from } => {
            target::retarget(conn, *id, path, below.as_ref().map(|held| (held, *folder)), from.as_deref(), now)
        }
        Entry::GoAlong(drafts) => target::go_along(conn, drafts, now).map(|()| true),
        Entry::Stay { ids } => target::stay(conn, ids, now).map(|()| true),
        // A size that comes late, for a draft that has ended, is not worth a word.
        Entry::Grown { id, bytes } => {
            conn.prepare_cached("UPDATE drafts SET bytes = ?2 WHERE id = ?1 AND state IN ('open', 'sealed')")?
                .execute(params![id, schema::size(*bytes)])?;
            Ok(true)
        }
        Entry::Sealed { id, bytes, path, folder, below } => {
            let change = Change { bytes: Some(*bytes), path: Some(path), ..Change::to(DraftState::Sealed) };
            let known = change.write(conn, *id, "sealed", now)?;
            target::named(conn, *id, below, Some(*folder)).map(|()| known)
        }
        Entry::Postponed { id, reason } => {
            // The event that sealed it stays that of its state: what came after is told apart by it.
            conn.prepare_cached("UPDATE drafts SET reason = ?2 WHERE id = ?1 AND state = 'sealed'")?
                .execute(params![id, reason])?;
            let Some(path) = path_in(conn, "drafts", *id)? else { return Ok(false) };
            event(conn, next_event(conn)?, now, "postponed", Some(*id), &path, Some(reason))?;
            Ok(true)
        }
        Entry::Unsealed { id } => Change::to(DraftState::Open).write(conn, *id, "reopened", now),
        Entry::Committed(commit) => {
            let change = Change {
                bytes: Some(commit.size),
                path: Some(&commit.path),
                folder: commit.change,
                ..Change::to(DraftState::Committed)
            };
            if !change.write(conn, commit.id, "committed", now)? {
                return Ok(false);
            }
            conn.prepare_cached(
                "INSERT INTO commits (id, path, ino, size, digest, mtime, uid, at, duration_us, kind)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                commit.id,
                commit.path,
                commit.ino.cast_signed(),
                schema::size(commit.size),
                commit.digest,
                schema::micros(commit.mtime),
                commit.uid,
                now,
                i64::try_from(commit.duration.as_micros()).unwrap_or(i64::MAX),
                commit.kind.as_str(),
            ])?;
            Ok(true)
        }
        // That of a commit which is not remembered any more is not worth a word.
        Entry::Digested { id, digest } => {
            conn.prepare_cached("UPDATE commits SET digest = ?2 WHERE id = ?1")?.execute(params![id, digest])?;
            Ok(true)
        }
        Entry::Quarantined { id, reason, bytes, kept } => {
            let to = Change::to(DraftState::Quarantined);
            let change = Change { bytes: Some(*bytes), reason: Some(reason), kept: Some(*kept), ..to };
            change.write(conn, *id, "quarantined", now)
        }
        Entry::Discarded { id, reason } => {
            let change = Change { reason: Some(reason), kept: Some(false), ..Change::to(DraftState::Discarded) };
            change.write(conn, *id, "discarded", now)
        }
        Entry::Mismatch { id, detail } => {
            let Some(path) = path_in(conn, "commits", *id)? else { return Ok(false) };
            event(conn, next_event(conn)?, now, "mismatch", Some(*id), &path, Some(detail))?;
            Ok(true)
        }
        Entry::ContentLost { ids } => {
            conn.prepare_cached(
                "UPDATE drafts SET kept = 0 WHERE state = 'quarantined' AND id IN (SELECT value FROM json_each(?1))",
            )?
            .execute([outbox::list(ids)])?;
            Ok(true)
        }
        Entry::Measured { sizes } => {
            let sql = "UPDATE drafts SET bytes = ?2 WHERE id = ?1 AND state = 'quarantined' AND kept";
            let mut update = conn.prepare_cached(sql)?;
            for (id, bytes) in sizes {
                update.execute(params![id, schema::size(*bytes)])?;
            }
            Ok(true)
        }
        Entry::Together(entries) => {
            for entry in entries {
                if !apply(conn, entry, now)? {
                    // Refused as a whole: no error of the environment, so that the writer takes savepoints.
                    return Err(rusqlite::Error::StatementChangedRows(0));
                }
            }
            Ok(true)
        }
        Entry::SetAside(new) => outbox::set_aside(conn, new, now).map(|()| true),
        Entry::Unlinked { path, change } => {
            let told_by = next_event(conn)?;
            event(conn, told_by, now, "unlinked", None, path, None)?;
            changed(conn, told_by, *change)?;
            Ok(true)
        }
        Entry::Reaped { ids } => outbox::reaped(conn, ids).map(|()| true),
        Entry::ReapFailed(attempt) => outbox::failed(conn, attempt, now),
        Entry::ReapBegun { id, files } => outbox::begun(conn, *id, *files).map(|()| true),
        Entry::Retry { ids } => outbox::retry(conn, ids, now).map(|()| true),
        Entry::Purged { ids } => outbox::purged(conn, ids.as_deref(), now).map(|()| true),
        Entry::Dropped { id } => outbox::dropped(conn, *id),
        Entry::Restored { id, path } => outbox::restored(conn, *id, path, now),
        Entry::Delta(delta) => folders::delta(conn, delta, now).map(|()| true),
        Entry::Counted(count) => folders::counted(conn, count, now).map(|()| true),
        Entry::Found { folder, names } => folders::found(conn, folder, names).map(|()| true),
        Entry::Recount { folder } => folders::recount(conn, folder).map(|()| true),
        Entry::Fold { limit } => {
            Tree::new(conn).fold(*limit)?;
            fold::prune(conn, i64::try_from(*limit).unwrap_or(i64::MAX))?;
            Ok(true)
        }
        Entry::Prune { keep, limit, totals } => history::prune(conn, *keep, *limit, *totals).map(|()| true),
        Entry::Meta { key, value } => {
            conn.prepare_cached(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute(params![key, value])?;
            Ok(true)
        }
    }
}

fn path_in(conn: &Connection, table: &str, id: DraftId) -> rusqlite::Result<Option<Vec<u8>>> {
    conn.prepare_cached(&format!("SELECT path FROM {table} WHERE id = ?1"))?
        .query_row([id], |row| row.get(0))
        .optional()
}

/// As [`apply`], leaving no trace of an entry that fails.
pub(super) fn apply_alone(conn: &Connection, entry: &Entry, now: i64) -> rusqlite::Result<bool> {
    conn.prepare_cached("SAVEPOINT entry")?.execute([])?;
    let outcome = apply(conn, entry, now);
    match &outcome {
        Ok(_) => {}
        // The whole transaction is rolled back.
        Err(error) if is_environment(error) => return outcome,
        Err(_) => drop(conn.prepare_cached("ROLLBACK TO entry")?.execute([])?),
    }
    conn.prepare_cached("RELEASE entry")?.execute([])?;
    outcome
}

/// Whether trying again later can help, as opposed to an entry that will never fit.
pub(super) fn is_environment(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            | ErrorCode::TooBig
            | ErrorCode::ParameterOutOfRange,
        )
        | None => false,
        Some(_) => true,
    }
}

struct NewRow<'a> {
    id: DraftId,
    state: DraftState,
    path: &'a [u8],
    stage: &'a str,
    ino: u64,
    kind: CommitKind,
    owner: &'a Owner,
    bytes: u64,
    reason: Option<&'a str>,
}

fn insert(conn: &Connection, new: &NewRow<'_>, kind: &str, now: i64) -> rusqlite::Result<()> {
    let told_by = next_event(conn)?;
    conn.prepare_cached(
        "INSERT INTO drafts (id, state, path, stage, ino, kind, uid, gid, pid, command, bytes, begun_at, changed_at,
                             event, reason, kept)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12, ?13, ?14, 1)",
    )?
    .execute(params![
        new.id,
        new.state.as_str(),
        new.path,
        new.stage,
        new.ino.cast_signed(),
        new.kind.as_str(),
        new.owner.uid,
        new.owner.gid,
        new.owner.pid,
        new.owner.command,
        schema::size(new.bytes),
        now,
        told_by,
        new.reason,
    ])?;
    event(conn, told_by, now, kind, Some(new.id), new.path, new.reason)
}

/// A change of state; what is `None` stays as it is, except the reason, which belongs to the state.
struct Change<'a> {
    state: DraftState,
    bytes: Option<u64>,
    path: Option<&'a [u8]>,
    reason: Option<&'a str>,
    kept: Option<bool>,
    folder: Option<folders::Change>,
}

impl Change<'_> {
    fn to(state: DraftState) -> Self {
        Change { state, bytes: None, path: None, reason: None, kept: None, folder: None }
    }

    /// False when there is no such draft; the trigger refuses what [`DraftState::can_become`] refuses.
    fn write(&self, conn: &Connection, id: DraftId, kind: &str, now: i64) -> rusqlite::Result<bool> {
        let told_by = next_event(conn)?;
        // RETURNING would build a temporary table for its one row each time.
        let changed = conn
            .prepare_cached(
                "UPDATE drafts
                 SET state = ?2, bytes = coalesce(?3, bytes), path = coalesce(?4, path), reason = ?5,
                     kept = coalesce(?6, kept), changed_at = ?7, event = ?8,
                     named = CASE ?2 WHEN 'open' THEN NULL ELSE named END
                 WHERE id = ?1",
            )?
            .execute(params![
                id,
                self.state.as_str(),
                self.bytes.map(schema::size),
                self.path,
                self.reason,
                self.kept,
                now,
                told_by
            ])?;
        conn.prepare_cached(
            "INSERT INTO events (id, at, kind, draft_id, path, detail, bytes, files, commits)
             SELECT ?1, ?2, ?3, id, path, ?5, ?6, ?7,
                    coalesce((SELECT commits FROM events WHERE id = ?1 - 1), 0) + (?3 = 'committed')
             FROM drafts WHERE id = ?4",
        )?
        .execute(params![
            told_by,
            now,
            kind,
            id,
            self.reason,
            self.folder.map(|change| change.bytes),
            self.folder.map(|change| change.files)
        ])?;
        Ok(changed > 0)
    }
}

/// Gapless, because the id is taken in the transaction that uses it and the newest row is never deleted.
pub(super) fn next_event(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT coalesce(max(id), 0) + 1 FROM events")?.query_row([], |row| row.get(0))
}

pub(super) fn event(
    conn: &Connection,
    id: i64,
    now: i64,
    kind: &str,
    draft: Option<DraftId>,
    path: &[u8],
    detail: Option<&str>,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO events (id, at, kind, draft_id, path, detail, commits)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, coalesce((SELECT commits FROM events WHERE id = ?1 - 1), 0) + (?3 = 'committed'))",
    )?
    .execute(params![id, now, kind, draft, path, detail])?;
    Ok(())
}

/// What an event, just written, changed in the folder of its path.
pub(super) fn changed(conn: &Connection, event: i64, change: Option<folders::Change>) -> rusqlite::Result<()> {
    let Some(change) = change else { return Ok(()) };
    conn.prepare_cached("UPDATE events SET bytes = ?2, files = ?3 WHERE id = ?1")?.execute(params![
        event,
        change.bytes,
        change.files
    ])?;
    Ok(())
}
