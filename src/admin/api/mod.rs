//! The routes. `openapi.json` describes them; a test holds the two together.

mod drafts;
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

    /// What only the daemon knows.
    pub(super) fn said(&self) -> serde_json::Value {
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
