//! One descriptor through which a draft is written, and what is known of its duplicates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::sys::process::{Held, Identity, Process};
use crate::sys::procfs;

/// How long the release behind a close is expected.
pub const RELEASE_LIMIT: Duration = Duration::from_millis(500);

/// The same. (A test wants to be sure of it.)
pub(super) fn release_limit() -> Duration {
    crate::failpoint::pause("COMMITFS_RELEASED_MS", RELEASE_LIMIT)
}

/// How many of its numbers a process still has of what it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// All, for all that was seen: none was closed.
    All,
    /// One was closed, and the process has numbers of the draft left that may be duplicates of it.
    Some,
    /// None, as far as could be seen; `doubtful` where it could not.
    None { doubtful: bool },
}

/// One descriptor (and its duplicates) through which a draft is written.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Process that opened it; 0 when unknown.
    pub tgid: u32,
    /// What tells it from a later process with its pid.
    pub identity: Option<Identity>,
    /// Opened for writing only: it cannot be behind a writable mapping.
    pub write_only: bool,
    /// Ticks since boot at the open.
    pub opened: u64,
    /// When it was opened.
    pub at: Instant,
    /// The pid given out last before the open.
    pub last_pid: Option<u32>,
    /// Changes that the draft had seen when it joined.
    pub changes: u64,
    /// The process, to know of its end.
    pub(super) process: Option<Arc<Held>>,
    /// What it has left of it.
    pub(super) numbers: Numbers,
    /// When a number of it was closed last, by whomever.
    pub(super) last_close: Instant,
    /// The last close of a duplicate was by the process.
    pub(super) closed_last: bool,
    /// At its last close the process had no descriptor of the draft any more, and no mapping.
    pub(super) let_go: bool,
}

impl Writer {
    /// A writer that opens now.
    pub fn opening(process: Option<&Process>, flags: OFlags) -> Self {
        Writer {
            tgid: process.map_or(0, |process| process.tgid),
            identity: process.and_then(|process| process.identity),
            write_only: flags & OFlags::ACCMODE == OFlags::WRONLY,
            opened: procfs::now_ticks(),
            at: Instant::now(),
            last_pid: procfs::last_pid(),
            changes: 0,
            process: process.and_then(Held::of),
            numbers: Numbers::All,
            last_close: Instant::now(),
            closed_last: false,
            let_go: false,
        }
    }

    /// Its process has closed what it opened, and had no duplicate of it any more, as far as could be seen.
    pub(super) fn has_closed(&self) -> bool {
        matches!(self.numbers, Numbers::None { .. })
    }

    /// Its process is taken to have a number of it: none was seen to be closed.
    pub(super) fn has_number(&self) -> bool {
        self.numbers == Numbers::All
    }

    /// It may have had the draft mapped at its last close.
    pub(super) fn may_map(&self) -> bool {
        !self.write_only && !self.let_go
    }

    /// It has closed, and may have a duplicate of what it closed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.numbers == Numbers::None { doubtful: true }
    }

    /// It has closed, and a number of it was closed just now: until this moment the release may be on its way.
    pub(super) fn leaves_until(&self) -> Option<Instant> {
        let until = self.last_close + release_limit();
        Some(until).filter(|until| self.has_closed() && *until > Instant::now())
    }
}
