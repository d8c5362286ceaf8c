//! What was taken out of the name space: the outbox, and the trash, which is what can be restored of it.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::folders::inside;
use super::paging::{Asked, Question, page_json};
use super::{NoWords, Shared, exact, words_if_any};
use crate::admin::control::add_path;
use crate::admin::json::{outbox_json, path_json, path_of};
use crate::admin::problem::{Answer, Problem};
use crate::journal::pages::Which;
use crate::journal::{OutboxId, OutboxState};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AskedOfOutbox {
    state: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    path: Option<String>,
    contains: Option<String>,
}

async fn rows(shared: &Shared, asked: Asked, which: Which) -> Answer<Json<Value>> {
    let Question { position, limit, wanted } = asked.question(0)?;
    let page = shared.store.read(move |reader| reader.outbox_rows(position, limit, &wanted, which)).await?;
    Ok(page_json(&page, outbox_json))
}

/// `GET /v1/outbox`: oldest first.
pub(super) async fn outbox(
    State(shared): State<Shared>,
    asked: Result<Query<AskedOfOutbox>, QueryRejection>,
) -> Answer<Json<Value>> {
    let AskedOfOutbox { state, limit, cursor, path, contains } = asked?.0;
    let which = match state {
        None => Which::All,
        Some(word) => Which::In(
            OutboxState::parse(&word)
                .ok_or_else(|| Problem::bad_request("state: expected pending, dead or dropped"))?,
        ),
    };
    rows(&shared, Asked { limit, cursor, path, contains }, which).await
}

/// `GET /v1/trash`: oldest first.
pub(super) async fn trash(
    State(shared): State<Shared>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer<Json<Value>> {
    rows(&shared, asked?.0, Which::Restorable).await
}

/// `POST /v1/outbox/retry`: every dead row.
pub(super) async fn retry_all(State(shared): State<Shared>, _: NoWords) -> Answer<Json<Value>> {
    retry_these(&shared, json!({})).await
}

/// `POST /v1/outbox/{id}/retry`.
pub(super) async fn retry(
    State(shared): State<Shared>,
    id: Result<Path<OutboxId>, PathRejection>,
    _: NoWords,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    retry_these(&shared, json!({ "ids": [id] })).await
}

async fn retry_these(shared: &Shared, request: Value) -> Answer<Json<Value>> {
    let answer = shared.ask("outbox_retry", request).await?;
    Ok(Json(json!({ "ids": answer["ids"], "retried": true })))
}

/// `POST /v1/outbox/{id}/drop`.
pub(super) async fn drop_row(
    State(shared): State<Shared>,
    id: Result<Path<OutboxId>, PathRejection>,
    _: NoWords,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    shared.ask("outbox_drop", json!({ "id": id })).await?;
    Ok(Json(json!({ "id": id, "dropped": true })))
}

/// `POST /v1/trash/purge`: everything.
pub(super) async fn purge_all(State(shared): State<Shared>, _: NoWords) -> Answer<Json<Value>> {
    shared.ask("trash_purge", json!({})).await?;
    Ok(Json(json!({ "purged": true })))
}

/// `POST /v1/trash/{id}/purge`.
pub(super) async fn purge(
    State(shared): State<Shared>,
    id: Result<Path<OutboxId>, PathRejection>,
    _: NoWords,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    shared.ask("trash_purge", json!({ "ids": [id] })).await?;
    Ok(Json(json!({ "id": id, "purged": true })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Restore {
    to: Option<String>,
    to_hex: Option<String>,
    replace: bool,
}

/// `POST /v1/trash/{id}/restore`.
pub(super) async fn restore(
    State(shared): State<Shared>,
    id: Result<Path<OutboxId>, PathRejection>,
    wishes: Result<Option<Json<Map<String, Value>>>, JsonRejection>,
) -> Answer<Json<Value>> {
    let Path(id) = id?;
    let Restore { to, to_hex, replace } = words_if_any(wishes?)?;
    let mut request = json!({ "id": id, "replace": replace });
    if let Some(path) = exact("to_hex", to_hex)?.or(to.map(String::into_bytes)) {
        add_path(&mut request, &inside(&path)?);
    }
    let answer = shared.ask("trash_restore", request).await?;
    let mut restored = path_json(&path_of(&answer));
    restored.insert("id".to_owned(), id.into());
    Ok(Json(restored.into()))
}
