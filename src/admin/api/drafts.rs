//! Drafts and commits, a page at a time, and what can be decided about those in quarantine.

use std::io::Read as _;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::paging::{Asked, Question, page_json};
use super::{NoWords, Shared};
use crate::admin::guard::Rights;
use crate::admin::json::{draft_json, log_json, story_json};
use crate::admin::problem::{Answer, Problem};
use crate::journal::DraftId;

/// Bytes of content read in one piece.
const PIECE: usize = 256 * 1024;

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
    _: NoWords,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    shared.act(move |verbs| verbs.publish(id)).await?;
    Ok(Json(json!({ "id": id, "published": true })))
}

/// `POST /v1/quarantine/{id}/discard`.
pub(super) async fn discard(
    State(shared): State<Shared>,
    id: Result<Path<DraftId>, PathRejection>,
    _: NoWords,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    shared.act(move |verbs| verbs.discard(id)).await?;
    Ok(Json(json!({ "id": id, "discarded": true })))
}

/// `GET /v1/quarantine/{id}/content`: for those only who may do everything, as it may be nobody else's to read.
pub(super) async fn content(
    State(shared): State<Shared>,
    Extension(rights): Extension<Rights>,
    id: Result<Path<DraftId>, PathRejection>,
) -> Answer<Response> {
    rights.to_change()?;
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
    let pieces = futures_util::stream::unfold((shared, file), |(shared, mut file)| async move {
        let read = shared.in_turn(move || {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece);
            (file, read.map(|n| (piece, n)))
        });
        let failed = |problem: Problem| std::io::Error::other(format!("{problem:?}"));
        match read.await.map_err(failed) {
            Ok((_, Ok((_, 0)))) => None,
            Ok((file, Ok((mut piece, n)))) => {
                piece.truncate(n);
                Some((Ok(Bytes::from(piece)), (shared, file)))
            }
            Ok((file, Err(error))) => Some((Err(error), (shared, file))),
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
