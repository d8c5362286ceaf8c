//! The locks that are held on one file: who has which bytes, and who is in whose way.

use crate::sys::lock::{Mode, Span};

/// Kinds of lock. Record locks of both kinds exclude each other; locks of the whole file only meet their like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::fs) enum Sort {
    /// `fcntl`, owned by a process.
    Process,
    /// `fcntl`, owned by an open file description.
    Description,
    /// `flock`.
    Whole,
}

impl Sort {
    fn meets(self, other: Sort) -> bool {
        (self == Sort::Whole) == (other == Sort::Whole)
    }
}

/// One lock, held or asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fs) struct Lock {
    pub(in crate::fs) sort: Sort,
    /// The kernel's number for the process or the description.
    pub(in crate::fs) owner: u64,
    /// The descriptor through which it was taken.
    pub(in crate::fs) fh: u64,
    pub(in crate::fs) span: Span,
    pub(in crate::fs) mode: Mode,
    /// The process that took it.
    pub(in crate::fs) pid: u32,
}

impl Lock {
    fn is_of(&self, sort: Sort, owner: u64) -> bool {
        self.sort == sort && self.owner == owner
    }
}

/// All locks on one file. An owner's locks never overlap.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Lock>);

impl Held {
    /// The locks of others that keep this one from being had, lowest first.
    pub(super) fn in_the_way(&self, of: &Lock) -> Vec<Lock> {
        let exclusive = |lock: &Lock| lock.mode == Mode::Exclusive || of.mode == Mode::Exclusive;
        let mut found: Vec<Lock> = self
            .0
            .iter()
            .filter(|lock| {
                lock.sort.meets(of.sort)
                    && !lock.is_of(of.sort, of.owner)
                    && lock.span.overlaps(of.span)
                    && exclusive(lock)
            })
            .copied()
            .collect();
        found.sort_by_key(|lock| lock.span.start);
        found
    }

    /// Takes a lock, in place of what the owner has on these bytes. Adjacent locks of one mode become one. True if a
    /// lock of the owner was changed, so that others may have a chance.
    pub(super) fn set(&mut self, mut lock: Lock) -> bool {
        let changed = self.cut(lock.sort, lock.owner, lock.span);
        self.0.retain(|there| {
            let touches = there.span.end.checked_add(1) == Some(lock.span.start)
                || lock.span.end.checked_add(1) == Some(there.span.start);
            let joins = there.is_of(lock.sort, lock.owner) && there.mode == lock.mode && touches;
            if joins {
                lock.span.start = lock.span.start.min(there.span.start);
                lock.span.end = lock.span.end.max(there.span.end);
            }
            !joins
        });
        self.0.push(lock);
        changed
    }

    /// Takes the owner's locks off these bytes. True if there were any.
    pub(super) fn cut(&mut self, sort: Sort, owner: u64, span: Span) -> bool {
        let mut rest = Vec::new();
        let before = self.0.len();
        self.0.retain(|lock| {
            let hit = lock.is_of(sort, owner) && lock.span.overlaps(span);
            if hit && lock.span.start < span.start {
                rest.push(Lock { span: Span { end: span.start - 1, ..lock.span }, ..*lock });
            }
            if hit && lock.span.end > span.end {
                rest.push(Lock { span: Span { start: span.end + 1, ..lock.span }, ..*lock });
            }
            !hit
        });
        let cut = self.0.len() < before;
        self.0.append(&mut rest);
        cut
    }

    /// The owner's lock of the whole file.
    pub(super) fn whole_of(&self, owner: u64) -> Option<Mode> {
        self.0.iter().find(|lock| lock.is_of(Sort::Whole, owner)).map(|lock| lock.mode)
    }

    /// True if the owner has a lock.
    pub(super) fn has(&self, sort: Sort, owner: u64) -> bool {
        self.0.iter().any(|lock| lock.is_of(sort, owner))
    }

    /// The owners that took locks through a descriptor.
    pub(super) fn through(&self, fh: u64) -> Vec<(Sort, u64)> {
        self.0.iter().filter(|lock| lock.fh == fh).map(|lock| (lock.sort, lock.owner)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: u64, start: u64, end: u64, mode: Mode) -> Lock {
        Lock { sort: Sort::Process, owner, fh: owner, span: Span { start, end }, mode, pid: 1 }
    }

    fn spans(held: &Held) -> Vec<(u64, u64, u64, Mode)> {
        let mut spans: Vec<_> = held.0.iter().map(|l| (l.owner, l.span.start, l.span.end, l.mode)).collect();
        spans.sort_by_key(|s| (s.0, s.1));
        spans
    }

    #[test]
    fn a_lock_replaces_splits_and_joins_the_owners_own() {
        let mut held = Held::default();
        assert!(!held.set(lock(1, 0, 99, Mode::Shared)));
        assert!(held.set(lock(1, 40, 49, Mode::Exclusive)));
        let three = [(1, 0, 39, Mode::Shared), (1, 40, 49, Mode::Exclusive), (1, 50, 99, Mode::Shared)];
        assert_eq!(spans(&held), three);
        held.set(lock(1, 40, 49, Mode::Shared));
        assert_eq!(spans(&held), [(1, 0, 99, Mode::Shared)]);
        assert!(held.cut(Sort::Process, 1, Span { start: 10, end: 19 }));
        assert_eq!(spans(&held), [(1, 0, 9, Mode::Shared), (1, 20, 99, Mode::Shared)]);
        assert!(!held.cut(Sort::Process, 2, Span::WHOLE));
        assert!(held.cut(Sort::Process, 1, Span::WHOLE));
        assert!(!held.has(Sort::Process, 1));
    }

    #[test]
    fn only_others_exclusive_or_not_are_in_the_way() {
        let mut held = Held::default();
        held.set(lock(1, 0, 9, Mode::Shared));
        held.set(Lock { sort: Sort::Whole, ..lock(3, 0, Span::WHOLE.end, Mode::Exclusive) });
        assert!(held.in_the_way(&lock(2, 5, 6, Mode::Shared)).is_empty());
        assert_eq!(held.in_the_way(&lock(2, 9, 20, Mode::Exclusive)).len(), 1);
        assert!(held.in_the_way(&lock(2, 10, 20, Mode::Exclusive)).is_empty());
        assert!(held.in_the_way(&lock(1, 0, 20, Mode::Exclusive)).is_empty());
        assert_eq!(held.in_the_way(&Lock { sort: Sort::Whole, ..lock(4, 0, 1, Mode::Shared) }).len(), 1);
        let of_description = Lock { sort: Sort::Description, ..lock(1, 0, 0, Mode::Exclusive) };
        assert_eq!(held.in_the_way(&of_description).len(), 1, "record locks of both kinds exclude each other");
    }
}
