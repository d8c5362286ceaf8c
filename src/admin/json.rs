//! Rows of the journal as JSON: the same words over HTTP and on the command line.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::control::{from_hex, to_hex};
use crate::journal::folders::{FolderRow, Freshness};
use crate::journal::read::{CommitRow, Counts, EventRow, LogRow, Story};
use crate::journal::{DraftRow, DraftState, OutboxRow};

/// `id, path, state, bytes, uid, pid, command, age_seconds`, and `reason`, `path_hex` where there is one. The age of a
/// pending draft is counted from its beginning, that of an ended one from its end.
pub fn draft_json(row: &DraftRow) -> Map<String, Value> {
    let mut object = path_json(&row.path);
    object.extend(fields(json!({
        "id": row.id,
        "state": row.state.as_str(),
        "bytes": row.bytes,
        "uid": row.owner.uid,
        "gid": row.owner.gid,
        "pid": row.owner.pid,
        "command": row.owner.command,
        "age_seconds": rounded(age(row)),
    })));
    if let Some(reason) = &row.reason {
        object.insert("reason".to_owned(), reason.clone().into());
    }
    if row.state == DraftState::Quarantined {
        object.insert("kept".to_owned(), row.kept.into());
    }
    object
}

/// The above, and for commits `kind, size, digest, mtime, duration_ms`.
pub fn log_json(row: &LogRow) -> Map<String, Value> {
    let mut object = draft_json(&row.draft);
    if let Some(commit) = &row.commit {
        object.extend(commit_json(commit));
    }
    object
}

/// What a commit adds to its draft. Times are seconds since the epoch.
fn commit_json(row: &CommitRow) -> Map<String, Value> {
    let commit = &row.commit;
    fields(json!({
        "kind": commit.kind.as_str(),
        "size": commit.size,
        "digest": commit.digest,
        "mtime": seconds(commit.mtime),
        "at": seconds(row.at),
        "duration_ms": commit.duration.as_secs_f64() * 1000.0,
    }))
}

/// What is in an object made by `json!`.
fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// `path`, readable, and `path_hex` where that is not the whole truth.
pub fn path_json(path: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("path".to_owned(), String::from_utf8_lossy(path).into());
    if std::str::from_utf8(path).is_err() {
        object.insert("path_hex".to_owned(), to_hex(path).into());
    }
    object
}

/// The bytes of a path that [`path_json`] wrote; empty where there is none.
pub fn path_of(object: &Value) -> Vec<u8> {
    let exact = object["path_hex"].as_str().and_then(from_hex);
    exact.unwrap_or_else(|| object["path"].as_str().unwrap_or_default().as_bytes().to_vec())
}

/// Seconds since the epoch, to the microsecond.
pub fn seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

fn rounded(age: Duration) -> f64 {
    (age.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Zero when the clock has jumped back.
pub fn since(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

/// Of a pending draft since its beginning, of one that has ended since its end.
pub fn age(row: &DraftRow) -> Duration {
    since(match row.state {
        DraftState::Open | DraftState::Sealed => row.begun_at,
        DraftState::Committed | DraftState::Quarantined | DraftState::Discarded => row.changed_at,
    })
}

/// `id, at, kind`, and where there is one `draft, path, detail`, `size, duration_ms, commit` for a commit.
pub fn event_json(row: &EventRow) -> Map<String, Value> {
    let mut object = fields(json!({ "id": row.id, "at": seconds(row.at), "kind": row.kind }));
    if let Some(draft) = row.draft {
        object.insert("draft".to_owned(), draft.into());
    }
    if let Some(path) = &row.path {
        object.extend(path_json(path));
    }
    if let Some(detail) = &row.detail {
        object.insert("detail".to_owned(), detail.clone().into());
    }
    if let Some(commit) = &row.commit {
        object.extend(fields(json!({
            "size": commit.size,
            "duration_ms": commit.duration.as_secs_f64() * 1000.0,
            "commit": commit.kind.as_str(),
        })));
    }
    object
}

/// Everything about a draft.
pub fn story_json(story: &Story) -> Value {
    let draft = &story.draft;
    let mut object = draft_json(draft);
    object.extend(fields(json!({
        "kind": draft.kind.as_str(),
        "stage": draft.stage,
        "ino": draft.ino,
        "begun_at": seconds(draft.begun_at),
        "changed_at": seconds(draft.changed_at),
    })));
    if let Some(commit) = &story.commit {
        object.extend(commit_json(commit));
    }
    let events = story.events.iter().map(|event| {
        let mut object = path_json(event.path.as_deref().unwrap_or_default());
        object.extend(fields(json!({
            "event": event.id,
            "at": seconds(event.at),
            "kind": event.kind,
            "detail": event.detail,
        })));
        Value::Object(object)
    });
    object.insert("events".to_owned(), events.collect());
    Value::Object(object)
}

/// What the journal says of a mount.
pub fn status_json(counts: &Counts, meta: &BTreeMap<String, String>) -> Map<String, Value> {
    fields(json!({
        "export": meta.get("export"),
        "mountpoint": meta.get("mountpoint"),
        "pending": counts.pending,
        "pending_bytes": counts.pending_bytes,
        "oldest_pending_seconds": counts.oldest_pending.map(|begun| since(begun).as_secs_f64()),
        "commits": counts.committed,
        "quarantined": counts.quarantined,
        "quarantined_bytes": counts.quarantined_bytes,
        "last_event": counts.last_event,
        "outbox": counts.outbox.pending,
        "outbox_bytes": counts.outbox.bytes,
        "outbox_dead": counts.outbox.dead,
    }))
}

/// `id, path, kind, state, bytes, files, reaped, uid, age_seconds, due_seconds, attempts`, and `reason` where there is one.
pub fn outbox_json(row: &OutboxRow) -> Map<String, Value> {
    let aside = &row.aside;
    let mut object = path_json(&aside.path);
    object.extend(fields(json!({
        "id": aside.id,
        "kind": aside.kind.as_str(),
        "state": row.state.as_str(),
        "bytes": aside.bytes,
        "files": aside.files,
        "reaped": row.reaped,
        "begun": row.begun,
        "uid": aside.uid,
        "gid": aside.gid,
        "stage": aside.staged,
        "age_seconds": since(row.deleted_at).as_secs_f64(),
        "due_seconds": until(row.next_attempt).as_secs_f64(),
        "attempts": row.attempts,
    })));
    if let Some(reason) = &row.last_error {
        object.insert("reason".to_owned(), reason.clone().into());
    }
    object
}

/// Zero when it is past.
pub fn until(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::now()).unwrap_or_default()
}

/// `path, bytes, files, folders` of the folder itself, `rbytes, rfiles, rsubdirs, rctime` with all below.
pub fn folder_json(row: &FolderRow) -> Map<String, Value> {
    let mut object = path_json(&row.path);
    object.extend(fields(json!({
        "bytes": row.bytes,
        "files": row.files,
        "folders": row.folders,
        "rbytes": row.rbytes,
        "rfiles": row.rfiles,
        "rsubdirs": row.rfolders,
        "rctime": row.newest.map(seconds),
        "counted_at": row.counted_at.map(seconds),
    })));
    object
}

/// How far counting and folding are.
pub fn counting_json(fresh: &Freshness) -> Value {
    json!({
        "folders": fresh.folders,
        "uncounted": fresh.uncounted,
        "unfolded": fresh.unfolded,
        "drift_bytes": fresh.drift_bytes,
        "drift_files": fresh.drift_files,
    })
}

/// Why a path has no totals.
pub fn no_folder(path: &str, fresh: &Freshness) -> String {
    match fresh.uncounted {
        0 => format!("{path}: is no folder of this mount"),
        waiting => format!("{path}: is not known yet, {waiting} folders wait to be counted"),
    }
}
