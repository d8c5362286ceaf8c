//! The daemon and its numbers, its rules, its log.

use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Query, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::folders::inside;
use super::{Shared, words};
use crate::admin::guard::{ONLY_LOOKS, Rights};
use crate::admin::json::{seconds, status_json};
use crate::admin::problem::{Answer, Problem};

/// `GET /v1/status`.
pub(super) async fn status(State(shared): State<Shared>, Extension(rights): Extension<Rights>) -> Answer<Json<Value>> {
    let (counts, meta) = shared.store.read(|reader| Ok((reader.counts()?, reader.meta()?))).await?;
    let mut object = status_json(&counts, &meta);
    object.insert("daemon".to_owned(), "up".into());
    object.insert("now".to_owned(), seconds(SystemTime::now()).into());
    object.insert("subscribers".to_owned(), shared.hub.count().into());
    if let Value::Object(said) = shared.said() {
        object.extend(said);
    }
    object.insert("only_looks".to_owned(), (rights == Rights::Look).into());
    if rights == Rights::Look {
        object.insert("changes_refused".to_owned(), ONLY_LOOKS.into());
    }
    Ok(Json(Value::Object(object)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfPath {
    path: String,
}

/// `GET /v1/rules?path=`.
pub(super) async fn rules(
    State(shared): State<Shared>,
    asked: Result<Query<OfPath>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Query(OfPath { path }) = asked?;
    let inside = inside(path.as_bytes())?;
    // Whether a file is a database is seen in the file.
    let rule = shared.act(move |verbs| Ok(verbs.rule(&inside))).await?;
    Ok(Json(json!({ "path": path, "rule": rule })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Level {
    level: String,
}

/// `POST /v1/log-level`.
pub(super) async fn log_level(
    State(shared): State<Shared>,
    asked: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Answer<Json<Value>> {
    let Level { level } = words(asked?.0)?;
    let level = shared.verbs.log_level(&level).map_err(Problem::bad_request)?;
    Ok(Json(json!({ "level": level })))
}
