//! Was this close the last one? FLUSH comes with every close of every duplicate; only a proof lets a commit happen in
//! `close` itself.

use std::time::Duration;

use super::{Draft, Writer};
use crate::sys::process::Process;
use crate::sys::procfs::{self, Holds, MountId};

/// What is known of the other references to a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// There is none: this was the last close.
    LastClose,
    /// There is one.
    StillOpen,
    /// It cannot be told; the kernel will say at release.
    Unknown,
}

impl Proof {
    /// The word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Proof::LastClose => "last_close",
            Proof::StillOpen => "still_open",
            Proof::Unknown => "unknown",
        }
    }
}

/// More forks per second than a machine can do: for as long as it would take to give out all pids at this rate, a last
/// pid that is unchanged or a little higher cannot be a counter that went round once.
const FORKS_PER_SECOND: u32 = 16_384;

/// Pids given out since the open, up to which each is looked at directly instead of by listing all processes.
const FEW: u32 = 64;

/// Judges the close of descriptor `fh` by `closer`, whose own table no longer has the closed number.
///
/// Only the closing process, the opener, and processes forked after the open can have a duplicate, except for
/// descriptors in flight over a socket or registered with io_uring: a write through one of those meets a published
/// draft and is copied elsewhere, so a proof that was wrong costs a second version, never wholeness.
pub fn last_close(draft: &Draft, mount: Option<MountId>, fh: u64, closer: Option<&Process>) -> Proof {
    let unknown = |reason: &str| {
        tracing::debug!(node = draft.node, reason, "no proof of last close");
        Proof::Unknown
    };
    let Some((writer, alone)) = draft.writer(fh) else { return unknown("the descriptor is gone") };
    if !alone {
        return Proof::StillOpen;
    }
    let Some(closer) = closer else { return unknown("whoever closes cannot be seen") };
    let inos = draft.inos();
    let holds = |pid| procfs::holds(pid, mount, &inos, !writer.write_only);
    match holds(closer.tgid) {
        Holds::Yes => return Proof::StillOpen,
        Holds::Perhaps | Holds::Unknown => return unknown("the closing process may hold it"),
        Holds::No => {}
    }
    if closer.tgid != writer.tgid {
        if writer.tgid == 0 {
            return unknown("its opener was never seen");
        }
        match holds(writer.tgid) {
            Holds::Yes => return Proof::StillOpen,
            Holds::Perhaps | Holds::Unknown => return unknown("its opener may hold it"),
            Holds::No => {}
        }
        if procfs::start_ticks(closer.tgid).is_none_or(|start| start + 1 < writer.opened) {
            return unknown("it was passed to the closing process");
        }
    }
    let Some(candidates) = forked_since(&writer) else { return unknown("processes cannot be listed") };
    let own = std::process::id();
    let mut doubtful = false;
    for pid in candidates {
        if pid == own || pid == closer.tgid || pid == writer.tgid {
            continue;
        }
        match holds(pid) {
            Holds::Yes => return Proof::StillOpen,
            Holds::Perhaps | Holds::Unknown => doubtful = true,
            Holds::No => {}
        }
    }
    if doubtful { unknown("a process that was forked since may hold it") } else { Proof::LastClose }
}

/// Processes that may have been forked after the open. A pid of a thread is fine: it has its process's tables.
fn forked_since(writer: &Writer) -> Option<Vec<u32>> {
    let (then, now) = (writer.last_pid?, procfs::last_pid()?);
    if writer.at.elapsed() < Duration::from_secs((procfs::pid_max() / FORKS_PER_SECOND).into()) {
        if now == then {
            return Some(Vec::new());
        }
        if now > then && now - then <= FEW {
            return Some((then + 1..=now).collect());
        }
    }
    // Ticks are coarse: one that started in the same tick as the open counts as later.
    procfs::started_since(procfs::processes()?, writer.opened.saturating_sub(1))
}
