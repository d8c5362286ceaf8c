//! What is unlinked, replaced or removed: kept, restored, reaped, and never lost or left over.

#![allow(missing_docs)]

mod common;

#[path = "retention/crashes.rs"]
mod crashes;
#[path = "retention/pieces.rs"]
mod pieces;
#[path = "retention/reaping.rs"]
mod reaping;
#[path = "retention/restoring.rs"]
mod restoring;
#[path = "retention/sweeping.rs"]
mod sweeping;
#[path = "retention/trees.rs"]
mod trees;

use serde_json::Value;

use common::Mount;

/// Rows of `outbox ls`.
#[track_caller]
fn outbox(m: &Mount) -> Vec<Value> {
    m.json(&["outbox", "ls"]).as_array().unwrap().clone()
}

/// The row of a path, once it is written.
#[track_caller]
fn row_of(m: &Mount, path: &str) -> Value {
    let find = || outbox(m).into_iter().find(|row| row["path"] == path);
    common::poll(common::wait::LIMIT, find).unwrap_or_else(|| panic!("no outbox row of {path}: {:?}", outbox(m)))
}

/// Names in the trash folder of the raw export.
fn trash(m: &Mount) -> Vec<std::path::PathBuf> {
    let instances = std::fs::read_dir(m.raw(".commitfs/trash")).unwrap().flatten();
    instances
        .flat_map(|i| std::fs::read_dir(i.path()).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>())
        .collect()
}

/// The number of a row, as an argument.
fn id(row: &Value) -> String {
    row["id"].as_i64().unwrap().to_string()
}

#[track_caller]
fn eventually_empty(m: &Mount) {
    common::eventually("the outbox is empty", || outbox(m).is_empty());
    assert_eq!(trash(m), Vec::<std::path::PathBuf>::new());
}
