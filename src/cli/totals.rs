//! `du` and `refresh`: what folders hold, from the journal.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use comfy_table::Cell;
use serde_json::{Value, json};

use super::daemon::daemon;
use super::outbox::said;
use super::rows::{self, right, size, utc};
use super::{CliError, Place, print, print_json, target};
use crate::admin::control::add_path;
use crate::admin::json::{counting_json, folder_json, no_folder, seconds};
use crate::journal::folders::FolderRow;
use crate::journal::read::Reader;

pub(super) fn du(place: Place<'_>, asked: Option<&Path>, depth: usize, sort: bool, json: bool) -> Result<(), CliError> {
    let (state_dir, inside) = find(place, asked)?;
    let reader = Reader::open(&state_dir)?;
    let fresh = reader.freshness()?;
    let top = reader.folder(&inside)?.ok_or_else(|| CliError::Failure(no_folder(&rows::path(&inside), &fresh)))?;
    let as_of = fresh.oldest.unwrap_or_else(SystemTime::now);
    let mut found = Vec::new();
    gather(&reader, top, depth, sort, &mut found)?;
    if json {
        let mut rows: Vec<Value> = found.iter().map(|row| Value::Object(folder_json(row))).collect();
        let folders = rows.split_off(1);
        let mut object = rows.remove(0);
        object["as_of"] = json!(seconds(as_of));
        object["counting"] = counting_json(&fresh);
        object["list"] = folders.into();
        return print_json(&object);
    }
    let mut table = rows::plain_table(&["SIZE", "FILES", "FOLDERS", "NEWEST", "PATH"]);
    for row in &found {
        let newest = row.newest.map_or_else(String::new, |newest| utc(newest).chars().take(19).collect());
        let name = if row.path.is_empty() { ".".to_owned() } else { rows::text(&row.path) };
        table.add_row(vec![
            right(size(row.rbytes)),
            right(row.rfiles),
            right(row.rfolders),
            Cell::new(newest),
            Cell::new(name),
        ]);
    }
    let mut text = rows::lines(&mut table);
    text.push_str(&format!("as of {}", utc(as_of)));
    if fresh.uncounted > 0 {
        text.push_str(&format!(", and {} of {} folders are not counted yet", fresh.uncounted, fresh.folders));
    }
    print(&format!("{text}\n"))
}

/// Without a path, the root of the mount that is meant.
fn find(place: Place<'_>, asked: Option<&Path>) -> Result<(PathBuf, Vec<u8>), CliError> {
    match asked {
        Some(path) => target::find_below(place, path),
        None => Ok((target::find(place)?, Vec::new())),
    }
}

/// A folder and those below it, down to `depth` levels, each before what is in it.
fn gather(
    reader: &Reader,
    row: FolderRow,
    depth: usize,
    sort: bool,
    found: &mut Vec<FolderRow>,
) -> Result<(), CliError> {
    let mut waiting = vec![(row, depth)];
    while let Some((row, depth)) = waiting.pop() {
        if depth > 0 {
            let mut below = reader.folders_in(&row)?;
            // Taken from the end.
            if sort {
                below.sort_by_key(|row| row.rbytes);
            } else {
                below.sort_by(|one, other| other.path.cmp(&one.path));
            }
            waiting.extend(below.into_iter().map(|row| (row, depth - 1)));
        }
        found.push(row);
    }
    Ok(())
}

pub(super) fn refresh(place: Place<'_>, asked: Option<&Path>, json: bool) -> Result<(), CliError> {
    let (state_dir, inside) = find(place, asked)?;
    let mut request = json!({ "verb": "refresh" });
    add_path(&mut request, &inside);
    let answer = daemon(&state_dir, "refresh")?.ask(&request)?;
    let (bytes, files) = (&answer["drift_bytes"], &answer["drift_files"]);
    let text = match (bytes.as_u64(), files.as_u64()) {
        (Some(0), Some(0)) => "counted again: nothing had changed from outside\n".to_owned(),
        (bytes, files) => {
            let (bytes, files) = (bytes.unwrap_or(0), files.unwrap_or(0));
            format!("counted again: {} and {files} files had changed from outside\n", size(bytes))
        }
    };
    said(json, &json!({ "drift_bytes": bytes, "drift_files": files }), &text)
}
