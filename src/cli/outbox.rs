//! `outbox` and `trash`: what was taken out of the name space, and what becomes of it.

use std::path::Path;

use comfy_table::Cell;
use serde_json::{Value, json};

use super::daemon::daemon;
use super::rows::{self, path, right, since, size, span};
use super::{CliError, Place, print, print_json, target};
use crate::admin::control::add_path;
use crate::admin::json::{outbox_json, path_json, path_of, until};
use crate::journal::pages::{Wanted, Which};
use crate::journal::read::Reader;
use crate::journal::{OutboxId, OutboxRow, OutboxState};

/// Rows read at once.
const PAGE: usize = 1000;

pub(super) fn list(place: Place<'_>, which: Which, limit: usize, json: bool) -> Result<(), CliError> {
    let reader = Reader::open(&target::find(place)?)?;
    let (mut found, mut next) = (Vec::new(), Some(0));
    while let Some(after) = next.filter(|_| found.len() < limit) {
        let page = reader.outbox_rows(after, PAGE.min(limit - found.len()), &Wanted::default(), which)?;
        found.extend(page.rows);
        next = page.next;
    }
    if json {
        return print_json(&found.iter().map(|row| Value::Object(outbox_json(row))).collect());
    }
    // Of none that are asked for it is not known yet whether there are any.
    let more = match limit {
        0 => !reader.outbox_rows(0, 1, &Wanted::default(), which)?.rows.is_empty(),
        _ => next.is_some(),
    };
    if found.is_empty() && !more {
        return print(if which == Which::All { "outbox is empty\n" } else { "trash is empty\n" });
    }
    if !found.is_empty() {
        print(&row_table(&found))?;
    }
    if more { print(&format!("… and more; -n shows more than {limit}\n")) } else { Ok(()) }
}

fn row_table(found: &[OutboxRow]) -> String {
    let with_reason = found.iter().any(|row| row.last_error.is_some());
    let mut head = vec!["ID", "STATE", "KIND", "SIZE", "FILES", "AGE", "DUE", "TRIES", "UID", "PATH"];
    if with_reason {
        head.push("REASON");
    }
    let mut table = rows::plain_table(&head);
    for row in found {
        let due = match row.state {
            OutboxState::Pending => span(until(row.next_attempt)),
            OutboxState::Dead | OutboxState::Dropped => "never".to_owned(),
        };
        let mut cells = vec![
            right(row.aside.id),
            Cell::new(row.state.as_str()),
            Cell::new(row.aside.kind.as_str()),
            right(size(row.aside.bytes)),
            right(row.aside.files),
            right(span(since(row.deleted_at))),
            right(due),
            right(row.attempts),
            right(row.aside.uid),
            Cell::new(path(&row.aside.path)),
        ];
        if with_reason {
            cells.push(Cell::new(rows::text(row.last_error.as_deref().unwrap_or_default().as_bytes())));
        }
        table.add_row(cells);
    }
    rows::lines(&mut table)
}

pub(super) fn retry(place: Place<'_>, ids: &[OutboxId], json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    let mut request = json!({ "verb": "outbox_retry" });
    if !ids.is_empty() {
        request["ids"] = json!(ids);
    }
    let answer = daemon(&state_dir, "outbox retry")?.ask(&request)?;
    let rows = answer["ids"].as_array().map_or(0, Vec::len);
    said(json, &json!({ "ids": answer["ids"], "retried": true }), &format!("{rows} rows are tried again\n"))
}

pub(super) fn drop_row(place: Place<'_>, id: OutboxId, json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    daemon(&state_dir, "outbox drop")?.ask(&json!({ "verb": "outbox_drop", "id": id }))?;
    said(
        json,
        &json!({ "id": id, "dropped": true }),
        &format!("row {id} dropped: its inode stays in the trash folder\n"),
    )
}

pub(super) fn restore(
    place: Place<'_>,
    id: OutboxId,
    to: Option<&Path>,
    replace: bool,
    json: bool,
) -> Result<(), CliError> {
    let (state_dir, to) = match to {
        Some(to) => {
            let (state_dir, inside) = target::find_name(place, to)?;
            (state_dir, Some(inside))
        }
        None => (target::find(place)?, None),
    };
    let mut request = json!({ "verb": "trash_restore", "id": id, "replace": replace });
    if let Some(to) = to {
        add_path(&mut request, &to);
    }
    let answer = daemon(&state_dir, "trash restore")?.ask(&request)?;
    let restored = path_of(&answer);
    let mut object = path_json(&restored);
    object.insert("id".to_owned(), id.into());
    said(json, &object.into(), &format!("row {id} restored as {}\n", path(&restored)))
}

pub(super) fn purge(place: Place<'_>, ids: &[OutboxId], json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    let mut request = json!({ "verb": "trash_purge" });
    if !ids.is_empty() {
        request["ids"] = json!(ids);
    }
    daemon(&state_dir, "trash purge")?.ask(&request)?;
    said(json, &json!({ "ids": ids, "purged": true }), "what was kept is being removed\n")
}

/// The answer of a verb, for scripts or for people.
pub(super) fn said(json: bool, value: &Value, text: &str) -> Result<(), CliError> {
    if json { print_json(value) } else { print(text) }
}
