//! One subscriber's stream: first the journal, a page at a time, then the ring of newest events.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Hub, Listed, Pulse};
use crate::admin::json::event_json;
use crate::journal::feed::{Following, Reach};
use crate::journal::read::EventRow;

/// Between two signs of life; proxies give up after 60 s.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events read from the journal, or sent, in one piece.
const PAGE: usize = 500;
/// What clients wait before they connect again, in milliseconds.
const RETRY: u32 = 2000;

enum Phase {
    /// Nothing was said yet.
    Greeting { resumes: bool },
    /// Reading the journal; `known` once it was seen to have the position.
    Replaying { known: bool },
    /// Living from the ring.
    Live,
    /// Everything was said.
    Over,
}

/// One subscriber's stream; each item is one write.
pub(super) struct Stream {
    hub: Arc<Hub>,
    stopped: watch::Receiver<bool>,
    _listed: Listed,
    _following: Following,
    pulse: Arc<Pulse>,
    phase: Phase,
    said: Instant,
}

impl Stream {
    /// Begins with the position that `pulse` says; `resumes` if the subscriber has named it.
    pub(super) fn new(hub: Arc<Hub>, listed: Listed, following: Following, pulse: Arc<Pulse>, resumes: bool) -> Stream {
        Stream {
            stopped: hub.stopped.subscribe(),
            _listed: listed,
            _following: following,
            hub,
            pulse,
            phase: Phase::Greeting { resumes },
            said: Instant::now(),
        }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<String> {
        let mut text = String::new();
        while text.is_empty() {
            *self.pulse.taken.lock() = Instant::now();
            match self.phase {
                Phase::Greeting { resumes } => {
                    text = format!("retry: {RETRY}\n\n");
                    if !resumes {
                        // No data: only the position to resume from, should nothing happen before the connection breaks.
                        text = format!("retry: {RETRY}\nid: {}\n\n", self.position());
                    }
                    self.phase = Phase::Replaying { known: !resumes };
                }
                Phase::Replaying { known } => self.replay(&mut text, known).await,
                Phase::Live => self.live(&mut text).await,
                Phase::Over => return None,
            }
            if text.is_empty() && self.said.elapsed() >= HEARTBEAT {
                text.push_str(": heartbeat\n\n");
            }
        }
        self.said = Instant::now();
        Some(text)
    }

    fn position(&self) -> i64 {
        self.pulse.position.load(Ordering::Relaxed)
    }

    fn advance(&self, to: i64) {
        self.pulse.position.store(to, Ordering::Relaxed);
    }

    /// One page of the journal, or over to the ring.
    async fn replay(&mut self, text: &mut String, known: bool) {
        let position = self.position();
        let reached = self.hub.feed.after(position, 0, &mut Vec::new()) == Reach::Covered;
        // A position ahead of the ring is that of another journal, unless this one has it and just has not told yet.
        if reached && (known || position <= self.hub.feed.newest()) {
            self.pulse.live.store(true, Ordering::Relaxed);
            self.phase = Phase::Live;
            return;
        }
        match self.hub.store.read(move |reader| reader.events_page(position, PAGE)).await {
            Ok(page) => {
                if !page.known {
                    let reason = "no such event is kept: read the state again, events go on with the oldest";
                    resync(text, page.oldest, reason);
                    self.advance(page.oldest - 1);
                }
                self.phase = Phase::Replaying { known: true };
                for event in &page.rows {
                    self.say(text, event);
                }
            }
            Err(_) => {
                // Told in the log; the client resumes where it was.
                text.push_str(": the journal cannot be read now\n\n");
                self.phase = Phase::Over;
            }
        }
    }

    fn say(&self, text: &mut String, event: &EventRow) {
        if self.pulse.chosen.takes(event) {
            let data = serde_json::Value::Object(event_json(event));
            // Writing to a string cannot fail.
            write!(text, "id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind).unwrap_or_default();
        }
        self.advance(event.id);
    }

    async fn live(&mut self, text: &mut String) {
        // Asked first: what came before the stop is in the ring then.
        let stopped = *self.stopped.borrow();
        let position = self.position();
        let mut events = Vec::new();
        if self.hub.feed.after(position, PAGE, &mut events) == Reach::TooOld {
            resync(text, position + 1, "read too slowly: resume from the last event you have");
            self.phase = Phase::Over;
            return;
        }
        if !events.is_empty() {
            for event in &events {
                self.say(text, event);
            }
            return;
        }
        if stopped {
            self.phase = Phase::Over;
            return;
        }
        tokio::select! {
            () = self.pulse.wake.notified() => {}
            _ = self.stopped.wait_for(|stop| *stop) => {}
            () = tokio::time::sleep_until(self.said + HEARTBEAT) => {}
        }
    }
}

fn resync(text: &mut String, oldest: i64, reason: &str) {
    let data = json!({ "oldest": oldest, "reason": reason });
    // As above. Without an id: it is no event of the journal.
    write!(text, "event: resync\ndata: {data}\n\n").unwrap_or_default();
}
