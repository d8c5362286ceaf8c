//! The routes. `openapi.json` describes them; a test holds the two together.

mod drafts;
mod folders;
mod outbox;
mod paging;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::control::Verbs;
use super::events::{self, Hub};
use super::guard::{self, Policy};
use super::store::{Store, blocking};
use super::{meters, page, problem};
use crate::commit::VerbError;
use crate::sys::Errno;
use serde_json::Value;
use tokio::sync::Semaphore;

use problem::Answer;

/// Largest body of a request: an object with a few words.
const BODY: usize = 64 * 1024;

/// What every handler can reach.
#[derive(Clone)]
pub(super) struct Shared {
    verbs: Arc<dyn Verbs>,
    pub(super) store: Store,
    pub(super) hub: Arc<Hub>,
    /// Verbs run one at a time: one that hangs on the export leaves a thread for those who look.
    turn: Arc<Semaphore>,
}

impl Shared {
    /// Runs what changes something, off the thread that serves everybody.
    async fn act<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&dyn Verbs) -> Result<T, VerbError> + Send + 'static,
    ) -> Answer<T> {
        // Never closed.
        let _turn = self.turn.acquire().await;
        let verbs = Arc::clone(&self.verbs);
        Ok(blocking(move || verb(&*verbs)).await??)
    }

    /// Runs a verb of the control socket.
    async fn ask(&self, verb: &'static str, request: Value) -> Answer<Value> {
        let unknown = move || Err(VerbError::new(Errno::NOSYS, format!("unknown verb {verb:?}")));
        self.act(move |verbs| verbs.other(verb, &request).unwrap_or_else(unknown)).await
    }

    /// What only the daemon knows.
    pub(super) fn said(&self) -> Value {
        self.verbs.status()
    }
}

/// Everything that is served.
pub(super) fn router(policy: Arc<Policy>, verbs: Arc<dyn Verbs>, store: Store, hub: Arc<Hub>) -> Router {
    let shared = Shared { verbs, store, hub, turn: Arc::new(Semaphore::new(1)) };
    Router::new()
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/status", get(status::status))
        .route("/v1/rules", get(status::rules))
        .route("/v1/log-level", post(status::log_level))
        .route("/v1/events", get(events::events))
        .route("/v1/pending", get(drafts::pending))
        .route("/v1/commits", get(drafts::commits))
        .route("/v1/drafts/{id}", get(drafts::show))
        .route("/v1/quarantine", get(drafts::quarantine))
        .route("/v1/quarantine/{id}/content", get(drafts::content))
        .route("/v1/quarantine/{id}/publish", post(drafts::publish))
        .route("/v1/quarantine/{id}/discard", post(drafts::discard))
        .route("/v1/outbox", get(outbox::outbox))
        .route("/v1/outbox/retry", post(outbox::retry_all))
        .route("/v1/outbox/{id}/retry", post(outbox::retry))
        .route("/v1/outbox/{id}/drop", post(outbox::drop_row))
        .route("/v1/trash", get(outbox::trash))
        .route("/v1/trash/purge", post(outbox::purge_all))
        .route("/v1/trash/{id}/purge", post(outbox::purge))
        .route("/v1/trash/{id}/restore", post(outbox::restore))
        .route("/v1/folders", get(folders::folders))
        .route("/v1/folders/refresh", post(folders::refresh))
        .route("/v1/folders/rm", post(folders::remove))
        .route("/", get(page::index))
        .route("/page.js", get(page::script))
        .route("/style.css", get(page::style))
        .route("/metrics", get(meters::metrics))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn_with_state(policy, guard::check))
        .with_state(shared)
}

async fn openapi() -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, json)], include_str!("openapi.json")).into_response()
}
