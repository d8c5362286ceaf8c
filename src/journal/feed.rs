//! The newest events, in memory, for those who follow along: nobody who merely waits holds a connection.
//!
//! The writer fills it after each transaction, in order, and only while somebody follows. A follower that the ring does not
//! reach back to reads pages from the journal until it does.
//!
//! Lock order: `ring` alone; the wake-up is called without it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::read::EventRow;

/// Events kept: minutes of a busy mount, a megabyte at most.
const KEPT: usize = 4096;

/// The newest events.
pub struct Feed {
    ring: Mutex<Ring>,
    followers: AtomicUsize,
    kept: usize,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct Ring {
    /// Id of the first event in `events`, or of the next one to come.
    first: i64,
    events: VecDeque<Arc<EventRow>>,
}

/// Counts its holder among those for whom the ring is filled.
pub struct Following(Arc<Feed>);

/// What the ring has for a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything after its position was handed over.
    Covered,
    /// Its position is older than the ring: read the journal.
    TooOld,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("newest", &self.newest()).finish_non_exhaustive()
    }
}

impl Feed {
    /// An empty ring of a journal whose newest event is `newest`.
    pub(super) fn new(newest: i64) -> Arc<Feed> {
        Feed::with_capacity(newest, KEPT)
    }

    /// A ring of another size.
    pub fn with_capacity(newest: i64, kept: usize) -> Arc<Feed> {
        Arc::new(Feed {
            ring: Mutex::new(Ring { first: newest + 1, events: VecDeque::new() }),
            followers: AtomicUsize::new(0),
            kept,
            wake: OnceLock::new(),
        })
    }

    /// Calls `wake` after each transaction that had events, on the writer's thread: it must be brief. Only the first one
    /// counts.
    pub fn on_news(&self, wake: impl Fn() + Send + Sync + 'static) {
        drop(self.wake.set(Box::new(wake)));
    }

    /// Fills the ring from the next transaction on, as long as the value lives. To be called before the journal is read:
    /// what the reading does not find is then in the ring.
    pub fn follow(self: &Arc<Self>) -> Following {
        self.followers.fetch_add(1, Ordering::SeqCst);
        Following(Arc::clone(self))
    }

    /// Id of the newest event.
    pub fn newest(&self) -> i64 {
        let ring = self.ring.lock();
        ring.first + ring.events.len() as i64 - 1
    }

    /// Appends up to `limit` events after `position`.
    pub fn after(&self, position: i64, limit: usize, into: &mut Vec<Arc<EventRow>>) -> Reach {
        let ring = self.ring.lock();
        // In this order it cannot overflow: `first` is 1 at least, and a position is whatever a subscriber says.
        let Ok(skip) = usize::try_from(position - ring.first + 1) else { return Reach::TooOld };
        into.extend(ring.events.iter().skip(skip).take(limit).cloned());
        Reach::Covered
    }

    pub(super) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::SeqCst) > 0
    }

    /// Takes the events of a finished transaction.
    pub fn publish(&self, events: Vec<EventRow>) {
        let mut ring = self.ring.lock();
        let Some(first) = events.first() else { return };
        if ring.events.is_empty() || first.id != ring.first + ring.events.len() as i64 {
            ring.events.clear();
            ring.first = first.id;
        }
        ring.events.extend(events.into_iter().map(Arc::new));
        let surplus = ring.events.len().saturating_sub(self.kept);
        ring.events.drain(..surplus);
        ring.first += surplus as i64;
        drop(ring);
        self.tell();
    }

    /// A transaction with events ended that nobody follows; the newest is `newest`.
    pub(super) fn skip_to(&self, newest: i64) {
        let mut ring = self.ring.lock();
        ring.events = VecDeque::new();
        ring.first = newest + 1;
        drop(ring);
        self.tell();
    }

    fn tell(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(feed: &Feed, after: i64) -> Option<Vec<i64>> {
        let mut found = Vec::new();
        (feed.after(after, 100, &mut found) == Reach::Covered).then(|| found.iter().map(|event| event.id).collect())
    }

    #[test]
    fn the_ring_knows_what_it_reaches() {
        let feed = Feed::with_capacity(10, 3);
        assert_eq!((feed.newest(), ids(&feed, 10), ids(&feed, 9)), (10, Some(vec![]), None));
        feed.publish(vec![EventRow::sample(11), EventRow::sample(12)]);
        assert_eq!(
            (ids(&feed, 10), ids(&feed, 11), ids(&feed, 12)),
            (Some(vec![11, 12]), Some(vec![12]), Some(vec![]))
        );
        feed.publish(vec![EventRow::sample(13), EventRow::sample(14)]);
        assert_eq!((ids(&feed, 10), ids(&feed, 11)), (None, Some(vec![12, 13, 14])));
        feed.skip_to(20);
        assert_eq!((feed.newest(), ids(&feed, 14), ids(&feed, 20)), (20, None, Some(vec![])));
        feed.publish(vec![EventRow::sample(21)]);
        assert_eq!((ids(&feed, 20), ids(&feed, 19)), (Some(vec![21]), None));
        assert_eq!((ids(&feed, i64::MAX), ids(&feed, 0)), (Some(vec![]), None), "whatever is asked");
    }
}
