//! Drafts and commits, a page at a time, and what can be decided about those in quarantine.
//!
//! A cursor is the position after which the next page begins. To its reader it is an opaque word.

use std::io::Read as _;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shared;
use crate::admin::json::{draft_json, log_json, story_json};
use crate::admin::problem::{Answer, Problem};
use crate::admin::store::blocking;
use crate::journal::DraftId;
use crate::journal::pages::{Page, Wanted};
use crate::rules;

/// Rows of a page, if not said otherwise.
const PAGE: usize = 100;
/// Rows of a page at most.
const LARGEST: usize = 1000;
/// Bytes of content read in one piece.
const PIECE: usize = 256 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    limit: Option<usize>,
    cursor: Option<String>,
    path: Option<String>,
    contains: Option<String>,
}

struct Question {
    position: i64,
    limit: usize,
    wanted: Wanted,
}

impl Asked {
    /// `beginning` is the position of the first page.
    fn question(self, beginning: i64) -> Answer<Question> {
        let position = match &self.cursor {
            None => beginning,
            Some(cursor) => cursor
                .strip_prefix('c')
                .and_then(|digits| i64::from_str_radix(digits, 36).ok())
                .ok_or_else(|| Problem::bad_request("cursor: is none that this server has given"))?,
        };
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=LARGEST).contains(&limit) {
            return Err(Problem::bad_request(format!("limit: expected 1 to {LARGEST}")));
        }
        let glob = self.path.as_deref().map(rules::compile).transpose()?.map(|glob| glob.compile_matcher());
        let contains = self.contains.map(String::into_bytes);
        Ok(Question { position, limit, wanted: Wanted { glob, contains } })
    }
}

fn page_json<T>(page: &Page<T>, json: impl Fn(&T) -> Map<String, Value>) -> Json<Value> {
    let items: Vec<Value> = page.rows.iter().map(|row| Value::Object(json(row))).collect();
    Json(json!({ "items": items, "next": page.next.map(cursor) }))
}

fn cursor(position: i64) -> String {
    let mut digits = Vec::new();
    let mut rest = position.max(0);
    while rest > 0 || digits.is_empty() {
        let digit = u32::try_from(rest % 36).unwrap_or(0);
        digits.extend(char::from_digit(digit, 36));
        rest /= 36;
    }
    digits.push('c');
    digits.iter().rev().collect()
}

/// `GET /v1/pending`: oldest first.
pub(super) async fn pending(
    State(shared): State<Shared>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Question { position, limit, wanted } = asked?.0.question(0)?;
    let page = shared.store.read(move |reader| reader.pending_page(position, limit, &wanted)).await?;
    Ok(page_json(&page, draft_json))
}

/// `GET /v1/quarantine`: oldest first.
pub(super) async fn quarantine(
    State(shared): State<Shared>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Question { position, limit, wanted } = asked?.0.question(0)?;
    let page = shared.store.read(move |reader| reader.quarantined_page(position, limit, &wanted)).await?;
    Ok(page_json(&page, draft_json))
}

/// `GET /v1/commits`: newest first.
pub(super) async fn commits(
    State(shared): State<Shared>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Question { position, limit, wanted } = asked?.0.question(i64::MAX)?;
    let page = shared.store.read(move |reader| reader.commits_page(position, limit, &wanted)).await?;
    Ok(page_json(&page, log_json))
}

/// `GET /v1/drafts/{id}`: everything about one, whatever became of it.
pub(super) async fn show(
    State(shared): State<Shared>,
    id: Result<Path<DraftId>, PathRejection>,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    let story = shared.store.read(move |reader| reader.show(id)).await?;
    story.map(|story| Json(story_json(&story))).ok_or_else(|| Problem::not_found(format!("no draft {id}")))
}

/// `POST /v1/quarantine/{id}/publish`.
pub(super) async fn publish(
    State(shared): State<Shared>,
    id: Result<Path<DraftId>, PathRejection>,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    shared.act(move |verbs| verbs.publish(id)).await?;
    Ok(Json(json!({ "id": id, "published": true })))
}

/// `POST /v1/quarantine/{id}/discard`.
pub(super) async fn discard(
    State(shared): State<Shared>,
    id: Result<Path<DraftId>, PathRejection>,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    shared.act(move |verbs| verbs.discard(id)).await?;
    Ok(Json(json!({ "id": id, "discarded": true })))
}

/// `GET /v1/quarantine/{id}/content`.
pub(super) async fn content(
    State(shared): State<Shared>,
    id: Result<Path<DraftId>, PathRejection>,
) -> Answer<Response> {
    let Path(id) = id?;
    let opened = shared.act(move |verbs| {
        let file = verbs.open_quarantined(id)?;
        let bytes = file.metadata().map_err(|error| crate::commit::VerbError {
            message: format!("draft {id}: {error}"),
            errno: crate::sys::errno_of(&error).raw_os_error(),
        })?;
        Ok((file, bytes.len()))
    });
    let (file, bytes) = opened.await?;
    let pieces = futures_util::stream::unfold(file, |mut file| async move {
        let read = blocking(move || {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece);
            (file, read.map(|n| (piece, n)))
        });
        let failed = |problem: Problem| std::io::Error::other(format!("{problem:?}"));
        match read.await.map_err(failed) {
            Ok((_, Ok((_, 0)))) => None,
            Ok((file, Ok((mut piece, n)))) => {
                piece.truncate(n);
                Some((Ok(Bytes::from(piece)), file))
            }
            Ok((file, Err(error))) => Some((Err(error), file)),
            Err(_) => None,
        }
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_LENGTH, HeaderValue::from(bytes)),
        (CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_the_position_it_was_made_of() {
        for position in [0, 1, 35, 36, 123_456_789, i64::MAX] {
            let asked = Asked { cursor: Some(cursor(position)), ..Asked::default() };
            assert_eq!(asked.question(7).unwrap().position, position);
        }
        for wrong in ["", "c", "7", "cx!", "c99999999999999999999"] {
            let asked = Asked { cursor: Some(wrong.to_owned()), ..Asked::default() };
            assert!(asked.question(7).is_err(), "{wrong}");
        }
    }
}
