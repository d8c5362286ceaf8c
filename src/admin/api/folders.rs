//! What folders hold, from the journal; counting them again; removing one whole.

use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::paging::{folder_cursor, folder_mark, limit};
use super::{Shared, exact, words, words_if_any};
use crate::admin::control::{self, add_path};
use crate::admin::json::{counting_json, folder_json, no_folder, path_json, seconds};
use crate::admin::problem::{Answer, Problem};
use crate::inode::display_path;
use crate::journal::folders::{FolderRow, Freshness};
use crate::journal::pages::{FolderMark, Order};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    path: Option<String>,
    path_hex: Option<String>,
    sort: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Relative to the mount, whether it was said with slashes around it or not.
pub(super) fn inside(path: &[u8]) -> Answer<Vec<u8>> {
    control::inside(path).map_err(|error| Problem::bad_request(error.message))
}

/// The exact bytes win, the root is meant where nothing is said.
fn path_of(path: Option<String>, hex: Option<String>) -> Answer<Vec<u8>> {
    let path = exact("path_hex", hex)?.unwrap_or_else(|| path.unwrap_or_default().into_bytes());
    inside(&path)
}

/// A folder, and a page of those in it.
struct Found {
    /// Changes up to here are in the numbers.
    as_of: SystemTime,
    fresh: Freshness,
    /// Folders in it and below that wait to be counted.
    uncounted: u64,
    row: Option<FolderRow>,
    below: Vec<FolderRow>,
    next: Option<FolderMark>,
}

/// `GET /v1/folders?path=`: a folder and those in it, the largest first.
pub(super) async fn folders(
    State(shared): State<Shared>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Asked { path, path_hex, sort, limit: rows, cursor } = asked?.0;
    let order = match sort.as_deref() {
        None | Some("size") => Order::Size,
        Some("name") => Order::Name,
        Some(_) => return Err(Problem::bad_request("sort: expected size or name")),
    };
    let rows = limit(rows)?;
    let mark = cursor.map(|cursor| folder_mark(&cursor, order)).transpose()?;
    let path = path_of(path, path_hex)?;
    let shown = display_path(&path);
    let found = shared.store.read(move |reader| {
        let asked_at = SystemTime::now();
        let fresh = reader.freshness()?;
        let row = reader.folder(&path)?;
        let uncounted = match fresh.uncounted {
            0 => 0,
            _ => reader.uncounted_below(&path, reader.recount_before()?)?,
        };
        let (below, next) = match &row {
            Some(row) => reader.folders_page(row, mark.as_ref(), rows, order)?,
            None => (Vec::new(), None),
        };
        Ok(Found { as_of: fresh.oldest.unwrap_or(asked_at), fresh, uncounted, row, below, next })
    });
    let found = found.await?;
    let Some(row) = &found.row else { return Err(Problem::not_found(no_folder(&shown, &found.fresh))) };
    let mut object = Value::Object(folder_json(row));
    object["as_of"] = json!(seconds(found.as_of));
    object["uncounted"] = found.uncounted.into();
    object["counting"] = counting_json(&found.fresh);
    object["items"] = found.below.iter().map(|row| Value::Object(folder_json(row))).collect();
    object["next"] = found.next.map(|mark| folder_cursor(&mark, order)).into();
    Ok(Json(object))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Refresh {
    path: Option<String>,
    path_hex: Option<String>,
}

/// `POST /v1/folders/refresh`. Counting may take long and is not waited for: `uncounted` of the folder says how far it is.
pub(super) async fn refresh(
    State(shared): State<Shared>,
    wishes: Result<Option<Json<Map<String, Value>>>, JsonRejection>,
) -> Answer<(StatusCode, Json<Value>)> {
    let Refresh { path, path_hex } = words_if_any(wishes?)?;
    let path = path_of(path, path_hex)?;
    let mut request = json!({ "wait": false });
    add_path(&mut request, &path);
    shared.ask("refresh", request).await?;
    let mut refreshing = path_json(&path);
    refreshing.insert("refreshing".to_owned(), true.into());
    Ok((StatusCode::ACCEPTED, Json(refreshing.into())))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Remove {
    path: Option<String>,
    path_hex: Option<String>,
    force: bool,
    now: bool,
}

/// `POST /v1/folders/rm`.
pub(super) async fn remove(
    State(shared): State<Shared>,
    wishes: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Answer<Json<Value>> {
    let Remove { path, path_hex, force, now } = words(wishes?.0)?;
    if path.is_none() && path_hex.is_none() {
        return Err(Problem::bad_request("path: which folder?"));
    }
    let path = path_of(path, path_hex)?;
    let mut request = json!({ "force": force, "now": now });
    add_path(&mut request, &path);
    let answer = shared.ask("remove", request).await?;
    let mut removed = path_json(&path);
    removed.insert("id".to_owned(), answer["id"].clone());
    removed.insert("removed".to_owned(), true.into());
    Ok(Json(removed.into()))
}
