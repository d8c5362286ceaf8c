//! Events as Server-Sent Events: `GET /v1/events?after=ID&path=GLOB&kind=KIND,…`.
//!
//! A subscriber first reads the journal, a page at a time, until the ring of newest events reaches back to it; from then
//! on it costs a timer and a place in a list, and is woken only by what it asked for. The stream's `id:` is the journal's event id, so that `Last-Event-ID`
//! resumes without a gap or a repeat, whichever daemon gave it.
//!
//! `resync` says that something is missing: events older than are kept (the stream goes on with the oldest), or a
//! subscriber that read too slowly (the stream ends; it may resume).

mod stream;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::api::Shared;
use super::http::Connection;
use super::problem::{Answer, Problem};
use super::store::Store;
use crate::journal::feed::{Feed, Reach};
use crate::journal::pages::Wanted;
use crate::journal::read::EventRow;
use crate::rules;

use stream::Stream;

/// News are passed on at most this often: with many subscribers each round costs something.
const ROUND: Duration = Duration::from_millis(20);
/// A subscriber that has not taken anything for this long, with more than the ring holds waiting, is cut off.
pub(super) const STUCK: Duration = Duration::from_secs(30);

/// Kinds of events that a subscriber may ask for; what else the journal knows passes when none is asked for.
const KINDS: &[&str] = &[
    "begun",
    "retargeted",
    "sealed",
    "reopened",
    "postponed",
    "committed",
    "quarantined",
    "discarded",
    "mismatch",
    "unlinked",
    "removed",
    "dead",
    "restored",
];

/// Says so if one of them is none.
pub fn check_kinds(kinds: &[String]) -> Result<(), String> {
    match kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        Some(unknown) => Err(format!("kind {unknown:?}: expected one of {}", KINDS.join(", "))),
        None => Ok(()),
    }
}

/// All subscribers.
pub(super) struct Hub {
    feed: Arc<Feed>,
    store: Store,
    stopped: watch::Sender<bool>,
    subscribers: Mutex<Subscribers>,
}

#[derive(Default)]
struct Subscribers {
    last: u64,
    live: HashMap<u64, Arc<Pulse>>,
}

/// What the hub knows of a subscriber.
struct Pulse {
    /// Last event that went out, or was not wanted: moved by its stream, and by the hub for one that waits.
    position: AtomicI64,
    chosen: Chosen,
    /// There is something for it.
    wake: Notify,
    /// It is past the journal and lives from the ring.
    live: AtomicBool,
    /// When it last took something.
    taken: Mutex<Instant>,
    cut: Option<Arc<Notify>>,
}

/// Takes a subscriber off the list however its stream ends.
struct Listed {
    hub: Arc<Hub>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.hub.subscribers.lock().live.remove(&self.number);
    }
}

impl Hub {
    /// Begins to pass news on. To be called on the runtime.
    pub(super) fn start(feed: Arc<Feed>, store: Store) -> Arc<Hub> {
        let (stopped, _) = watch::channel(false);
        let hub = Arc::new(Hub { feed, store, stopped, subscribers: Mutex::default() });
        let fresh = Arc::new(Notify::new());
        let wake = Arc::clone(&fresh);
        hub.feed.on_news(move || wake.notify_one());
        let pump = Arc::clone(&hub);
        tokio::spawn(async move {
            let mut stopped = pump.stopped.subscribe();
            let mut told = pump.feed.newest();
            loop {
                tokio::select! {
                    () = fresh.notified() => {}
                    _ = stopped.wait_for(|stop| *stop) => return,
                }
                told = pump.pass_on(told);
                tokio::time::sleep(ROUND).await;
            }
        });
        hub
    }

    /// Wakes those who want something of what came after `told`; the others are past it. Returns up to where they are.
    fn pass_on(&self, told: i64) -> i64 {
        let mut events = Vec::new();
        let covered = self.feed.after(told, usize::MAX, &mut events) == Reach::Covered;
        let newest = if covered { events.last().map_or(told, |event| event.id) } else { self.feed.newest() };
        for pulse in self.subscribers.lock().live.values().filter(|pulse| pulse.live.load(Ordering::Relaxed)) {
            let position = pulse.position.load(Ordering::Relaxed);
            // One that is behind has been woken before, and has not come to read yet.
            let behind = !covered || position < told;
            if behind || events.iter().any(|event| event.id > position && pulse.chosen.takes(event)) {
                pulse.wake.notify_one();
            } else {
                pulse.position.store(position.max(newest), Ordering::Relaxed);
            }
        }
        newest
    }

    /// Subscribers there are.
    pub(super) fn count(&self) -> usize {
        self.subscribers.lock().live.len()
    }

    /// Ends every stream, after what has happened so far.
    pub(super) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Cuts off subscribers that do not read, be it the past or what is new: their connection would be kept for ever. One
    /// that has `patience` for the next piece is let be.
    pub(super) fn cut_off_the_stuck(&self, patience: Duration) {
        for pulse in self.subscribers.lock().live.values() {
            let behind = self.feed.after(pulse.position.load(Ordering::Relaxed), 0, &mut Vec::new()) == Reach::TooOld;
            if behind && pulse.taken.lock().elapsed() > patience {
                tracing::warn!("a subscriber of events does not read: cut off");
                pulse.cut.iter().for_each(|cut| cut.notify_one());
            }
        }
    }

    fn list(self: &Arc<Self>, pulse: &Arc<Pulse>) -> Listed {
        let mut subscribers = self.subscribers.lock();
        subscribers.last += 1;
        let number = subscribers.last;
        subscribers.live.insert(number, Arc::clone(pulse));
        Listed { hub: Arc::clone(self), number }
    }

    /// A stream of what is wanted after `after` (from now on without).
    fn subscribe(self: &Arc<Self>, after: Option<i64>, chosen: Chosen, cut: Option<Arc<Notify>>) -> Stream {
        let following = self.feed.follow();
        let position = after.unwrap_or_else(|| self.feed.newest());
        let pulse = Arc::new(Pulse {
            position: AtomicI64::new(position),
            chosen,
            wake: Notify::new(),
            live: AtomicBool::new(false),
            taken: Mutex::new(Instant::now()),
            cut,
        });
        Stream::new(Arc::clone(self), self.list(&pulse), following, pulse, after.is_some())
    }
}

/// What a subscriber asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Chosen {
    wanted: Wanted,
    kinds: Vec<String>,
}

impl Chosen {
    fn takes(&self, event: &EventRow) -> bool {
        self.wanted.takes(event, &self.kinds)
    }
}

/// What may be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    after: Option<i64>,
    path: Option<String>,
    kind: Option<String>,
}

impl Asked {
    fn chosen(&self) -> Answer<Chosen> {
        let glob = rules::matcher(self.path.as_deref())?;
        let kinds: Vec<String> = self.kind.iter().flat_map(|kinds| kinds.split(',')).map(str::to_owned).collect();
        check_kinds(&kinds).map_err(Problem::bad_request)?;
        Ok(Chosen { wanted: Wanted { glob, contains: None }, kinds })
    }
}

/// `GET /v1/events`.
pub(super) async fn events(
    State(shared): State<Shared>,
    connection: Option<Extension<Connection>>,
    headers: HeaderMap,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer<Response> {
    let Query(asked) = asked?;
    let resumed = match headers.get("last-event-id").map(HeaderValue::to_str) {
        None => None,
        Some(Ok("")) => None,
        Some(id) => match id.ok().and_then(|id| id.trim().parse::<i64>().ok()) {
            Some(id) => Some(id),
            None => return Err(Problem::bad_request("Last-Event-ID is not a number")),
        },
    };
    let after = resumed.or(asked.after);
    if after.is_some_and(|after| after < 0) {
        return Err(Problem::bad_request("after: is negative"));
    }
    let cut = connection.map(|Extension(connection)| connection.cut);
    let stream = shared.hub.subscribe(after, asked.chosen()?, cut);
    let pieces = futures_util::stream::unfold(stream, |mut stream| async move {
        let text = stream.next().await?;
        Some((Ok::<Bytes, Infallible>(Bytes::from(text)), stream))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_too_slowly_is_told_and_dropped() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let feed = Feed::with_capacity(0, 3);
            let hub = Hub::start(Arc::clone(&feed), Store::new(dir.path().to_owned()));
            let mut stream = hub.subscribe(None, Chosen::default(), None);
            assert_eq!(stream.next().await.unwrap(), "retry: 2000\nid: 0\n\n");
            feed.publish(vec![EventRow::sample(1)]);
            assert!(stream.next().await.unwrap().starts_with("id: 1\nevent: begun\ndata: {"));
            feed.publish((2..=5).map(EventRow::sample).collect());
            let last = stream.next().await.unwrap();
            assert!(last.starts_with("event: resync\n") && last.contains("\"oldest\":2"), "{last}");
            assert_eq!(stream.next().await, None);
            drop(stream);
            assert_eq!(hub.count(), 0);

            let mut late = hub.subscribe(Some(2), Chosen::default(), None);
            assert_eq!(late.next().await.unwrap(), "retry: 2000\n\n");
            hub.stop();
            let rest = late.next().await.unwrap();
            let ids: Vec<&str> = rest.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
            assert_eq!(ids, ["3", "4", "5"], "what has happened is told before the end");
            assert_eq!(late.next().await, None);
        });
    }

    #[test]
    fn who_does_not_read_is_cut_off() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let feed = Feed::with_capacity(0, 3);
            let hub = Hub::start(Arc::clone(&feed), Store::new(dir.path().to_owned()));
            let cut = Arc::new(Notify::new());
            let is_cut = || async { tokio::time::timeout(Duration::ZERO, cut.notified()).await.is_ok() };
            let mut live = hub.subscribe(None, Chosen::default(), Some(Arc::clone(&cut)));
            live.next().await.unwrap();
            feed.publish((1..=3).map(EventRow::sample).collect());
            live.next().await.unwrap();
            hub.cut_off_the_stuck(Duration::ZERO);
            assert!(!is_cut().await, "it has all there is");
            feed.publish((4..=7).map(EventRow::sample).collect());
            hub.cut_off_the_stuck(STUCK);
            assert!(!is_cut().await, "it may still come");
            hub.cut_off_the_stuck(Duration::ZERO);
            assert!(is_cut().await);
            drop(live);
            let mut past = hub.subscribe(Some(1), Chosen::default(), Some(Arc::clone(&cut)));
            past.next().await.unwrap();
            hub.cut_off_the_stuck(STUCK);
            assert!(!is_cut().await, "it has only begun");
            hub.cut_off_the_stuck(Duration::ZERO);
            assert!(is_cut().await, "the past is not kept for it either");
        });
    }
}
