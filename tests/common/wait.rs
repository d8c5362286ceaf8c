//! Waiting for a condition: the only place where a test lets time pass.

use std::time::{Duration, Instant};

/// Far longer than anything should take on a busy machine; only failures wait that long.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; fails the test with `what` when it does not within [`LIMIT`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let held = poll(LIMIT, || condition().then_some(()));
    assert!(held.is_some(), "did not happen within {LIMIT:?}: {what}");
}

/// Asks again and again, with short pauses, until there is an answer or the time is over.
pub fn poll<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
