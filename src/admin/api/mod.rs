//! The routes. `openapi.json` describes them; a test holds the two together.

mod drafts;
mod folders;
mod outbox;
mod paging;
mod status;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt as _;

use super::control::{Verbs, from_hex};
use super::events::{self, Hub};
use super::guard::{self, Policy};
use super::store::{Store, blocking};
use super::{meters, page, problem};
use crate::commit::VerbError;
use crate::sys::Errno;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use problem::{Answer, Problem};

/// Largest body of a request: an object with a few words.
const BODY: usize = 64 * 1024;
/// Time for it to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What every handler can reach.
#[derive(Clone)]
pub(super) struct Shared {
    verbs: Arc<dyn Verbs>,
    pub(super) store: Store,
    pub(super) hub: Arc<Hub>,
    /// What may wait for the export runs one at a time: one that hangs leaves a thread for those who look.
    turn: Arc<Semaphore>,
}

impl Shared {
    /// Runs a verb, off the thread that serves everybody.
    async fn act<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&dyn Verbs) -> Result<T, VerbError> + Send + 'static,
    ) -> Answer<T> {
        let verbs = Arc::clone(&self.verbs);
        Ok(self.in_turn(move || verb(&*verbs)).await??)
    }

    /// Runs what may wait for the export, one at a time. The turn ends with the work, not with whoever asked for it and has
    /// gone away meanwhile.
    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
        // Never closed.
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        blocking(move || {
            let _turn = turn;
            work()
        })
        .await
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
        .layer(middleware::from_fn_with_state(BODY_TIME, arrived))
        .layer(middleware::from_fn_with_state(policy, guard::check))
        .with_state(shared)
}

/// What an object in a body says. Only an object: a list of the same values in the order of the fields would do, too.
fn words<T: DeserializeOwned>(object: Map<String, Value>) -> Answer<T> {
    serde_json::from_value(Value::Object(object))
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("body: {error}")))
}

/// As [`words`], where a request may come without a body.
fn words_if_any<T: DeserializeOwned>(said: Option<Json<Map<String, Value>>>) -> Answer<T> {
    words(said.map(|Json(said)| said).unwrap_or_default())
}

/// The exact bytes of a path, where `word` says them.
fn exact(word: &str, hex: Option<String>) -> Answer<Option<Vec<u8>>> {
    hex.map(|hex| from_hex(&hex).ok_or_else(|| Problem::bad_request(format!("{word}: is not hex")))).transpose()
}

/// A request that takes no words: without a body, or with an object that has none. A word that is not known may have been
/// meant to narrow down what is done.
struct NoWords;

impl<S: Send + Sync> FromRequest<S> for NoWords {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Answer<NoWords> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}

        let said = Option::<Json<Map<String, Value>>>::from_request(request, state).await?;
        let Nothing {} = words_if_any(said)?;
        Ok(NoWords)
    }
}

/// Passes a request on when all of it is there.
async fn arrived(State(patience): State<Duration>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout(patience, whole(body)).await {
        Ok(Ok(body)) => body,
        Ok(Err(problem)) => return problem.into_response(),
        Err(_) => {
            return Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time").into_response();
        }
    };
    // A body of no kind would be taken for none where one may be left out.
    if !body.is_empty() && !head.headers.contains_key(CONTENT_TYPE) {
        let detail = "a body without a kind is not read: say Content-Type: application/json";
        return Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).into_response();
    }
    next.run(Request::from_parts(head, body.into())).await
}

/// All of a body, if it is not too large and comes as its header has announced it.
async fn whole(body: Body) -> Answer<Vec<u8>> {
    let mut pieces = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Problem::bad_request(format!("body: {error}")))?;
        if whole.len() + piece.len() > BODY {
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {BODY} bytes")));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

async fn openapi() -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, json)], include_str!("openapi.json")).into_response()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::mpsc;

    use axum::body::Bytes;
    use tower::ServiceExt as _;

    use super::*;
    use crate::admin::control::tests::Stub;
    use crate::journal::feed::Feed;

    #[test]
    fn work_keeps_its_turn_when_nobody_waits_for_it_any_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let store = Store::new(dir.path().to_owned());
            let hub = Hub::start(Feed::with_capacity(0, 3), store.clone());
            let turn = Arc::new(Semaphore::new(1));
            let shared = Shared { verbs: Arc::new(Stub::default()), store, hub, turn };
            let (goes_on, hangs) = mpsc::channel::<()>();
            let (begun, begins) = tokio::sync::oneshot::channel();
            let one = shared.clone();
            let asked = tokio::spawn(async move {
                let hang = move |_: &dyn Verbs| {
                    begun.send(()).unwrap();
                    assert!(hangs.recv().is_ok());
                    Ok(())
                };
                one.act(hang).await.unwrap();
            });
            begins.await.unwrap();
            asked.abort();
            assert!(asked.await.unwrap_err().is_cancelled());
            assert_eq!(shared.turn.available_permits(), 0, "it hangs all the same");
            goes_on.send(()).unwrap();
            shared.act(|_| Ok(())).await.unwrap();
        });
    }

    #[test]
    fn a_body_that_does_not_come_is_not_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ask = |body: Body| {
            let app = Router::new()
                .route("/", post(|_: Bytes| async { "done" }))
                .layer(middleware::from_fn_with_state(Duration::ZERO, arrived));
            let request = Request::post("/").header(CONTENT_TYPE, "text/plain").body(body).unwrap();
            runtime.block_on(async { app.oneshot(request).await.unwrap().status().as_u16() })
        };
        assert_eq!(ask("all of it".into()), 200);
        assert_eq!(ask(vec![0; BODY + 1].into()), 413);
        assert_eq!(ask(Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>())), 408);
    }
}
