//! Was this close the last one? FLUSH comes with every close of every duplicate; only a proof lets a commit happen in
//! `close` itself.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Draft, Writer};
use crate::failpoint;
use crate::inode::Key;
use crate::sys::process::{self, Process, Tables};
use crate::sys::procfs::{self, Holds, MountId};

/// What is known of the other references to a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// There is none: this was the last close.
    LastClose,
    /// None is left in any table. But others had one, and may be in the middle of their own close, with writes that the
    /// kernel has not passed on yet.
    LastNumber,
    /// There is one.
    StillOpen,
    /// It cannot be told; the kernel will say at release.
    Unknown,
}

impl Proof {
    fn is_last(self) -> bool {
        matches!(self, Proof::LastClose | Proof::LastNumber)
    }

    /// The word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Proof::LastClose | Proof::LastNumber => "last_close",
            Proof::StillOpen => "still_open",
            Proof::Unknown => "unknown",
        }
    }
}

/// More forks per second than a machine can do: for as long as it would take to give out all pids at this rate, a last
/// pid that is unchanged or a little higher cannot be a counter that went round once.
const FORKS_PER_SECOND: u32 = 16_384;

/// Pids given out since the open, up to which each is looked at directly instead of by listing all processes.
const FEW: u32 = 512;

/// How often those are looked at that were forked while others were.
const ROUNDS: usize = 16;

/// Who closes a descriptor. The table of its process does not have the closed number any more.
#[derive(Clone, Copy, Debug)]
pub struct Closer {
    /// The process.
    pub process: Process,
    /// Which of its threads.
    pub tid: u32,
    /// It executes a new program: the table that it had before may have been shared by somebody.
    pub executes: bool,
}

/// Judges the close of descriptor `fh` by `closer`; `None` if that cannot be seen.
///
/// Only the closing process, the opener, and processes forked after the open can have a duplicate, except for
/// descriptors in flight over a socket, registered with io_uring, or taken out of a process by another one: a write through
/// one of those meets a published draft and is copied elsewhere.
pub fn last_close(
    draft: &Draft,
    mount: Option<MountId>,
    fh: u64,
    closer: Option<&Closer>,
    is_shared: impl Fn(Key, bool) -> bool,
) -> Proof {
    for _ in 0..ROUNDS {
        let closes = draft.closes();
        let proof = judge(draft, mount, fh, closer, &is_shared);
        // A close that has come meanwhile may be that of a number which was moved to one looked at before. One that comes
        // later is of a number that the second look would have found.
        if !proof.is_last() || draft.closes() == closes {
            return proof;
        }
    }
    Proof::Unknown
}

fn judge(
    draft: &Draft,
    mount: Option<MountId>,
    fh: u64,
    closer: Option<&Closer>,
    is_shared: impl Fn(Key, bool) -> bool,
) -> Proof {
    // First, so that of several at once the last to look finds that the others have closed.
    let own = closer.map(|closer| note_own(draft, mount, fh, closer, &is_shared));
    let Some((writer, others)) = draft.writer(fh) else {
        tracing::debug!(node = draft.node, "the descriptor is gone");
        return Proof::Unknown;
    };
    if others.iter().any(|other| !other.has_closed()) {
        return Proof::StillOpen;
    }
    // Only the first one is logged. None ends the search: whoever is found to hold it has the last word.
    let mut doubt: Option<&str> = None;
    // The release behind that one's close does not come: somebody has got its descriptor.
    if others.iter().any(|other| other.leaves_until().is_none()) {
        doubt = Some("a descriptor that was closed lives on");
    }
    if others.iter().any(|other| other.is_in_doubt()) {
        _ = doubt.get_or_insert("another process that has closed it may hold it");
    }
    let mut shared = false;
    match closer.zip(own).filter(|(closer, _)| !closer.executes) {
        None => _ = doubt.get_or_insert("whoever closes cannot be seen, or executes a new program"),
        Some((closer, mut own)) => {
            if own.others > 0 {
                // They have been closed since.
                own = note_own(draft, mount, fh, closer, &is_shared);
            }
            shared = own.shared;
            match own.holds {
                Holds::Yes => return Proof::StillOpen,
                Holds::Perhaps | Holds::Unknown => _ = doubt.get_or_insert("the closing process may hold it"),
                Holds::No if own.others > 0 => return Proof::StillOpen,
                Holds::No => {}
            }
        }
    }
    let executes = closer.is_some_and(|closer| closer.executes);
    let closer = closer.map(|closer| closer.process);
    let closed = &writer;
    let writers: Vec<&Writer> = std::iter::once(closed).chain(&others).collect();
    let mappable = writers.iter().any(|writer| !writer.write_only);
    // Of the others the kernel has said that they are closed, and will say that nothing refers to them.
    let mut proven = if others.is_empty() && !shared { Proof::LastClose } else { Proof::LastNumber };
    // By one of its threads, because of a process whose first thread has ended that one tells nothing.
    let mut holds = |tgid, tid| match process::tables(tgid, tid) {
        Tables::Apart => Holds::Unknown,
        _ => {
            proven = Proof::LastNumber;
            draft.held_by(tid, mount, &is_shared, 0, mappable, true).any()
        }
    };
    for writer in writers {
        if writer.tgid == 0 {
            _ = doubt.get_or_insert("its opener was never seen");
            continue;
        }
        if closer.is_none_or(|closer| closer.tgid != writer.tgid) {
            match holds(writer.tgid, writer.tgid) {
                Holds::Yes => return Proof::StillOpen,
                Holds::Perhaps | Holds::Unknown => _ = doubt.get_or_insert("its opener may hold it"),
                // It has not been heard of: its own close is on its way, or it is being killed. Who executes a new program shares no
                // table any more, and must not be asked.
                Holds::No if !writer.has_closed() => match closer {
                    None => _ = doubt.get_or_insert("its opener was not heard of"),
                    Some(closer) if !executes && process::share_table(writer.tgid, closer.tgid) => {}
                    Some(_) => return Proof::StillOpen,
                },
                Holds::No => {}
            }
            // What others have opened under the same name is none of what this process closes.
            let is_passed =
                |closer: Process| procfs::start_ticks(closer.tgid).is_none_or(|start| start + 1 < writer.opened);
            if std::ptr::eq(writer, closed) && closer.is_some_and(is_passed) {
                _ = doubt.get_or_insert("it was passed to the closing process");
            }
        }
        match heirs_hold(writer, closer.as_ref(), &mut holds) {
            Some(Holds::No) => {}
            Some(Holds::Yes) => return Proof::StillOpen,
            Some(Holds::Perhaps | Holds::Unknown) => {
                _ = doubt.get_or_insert("a process that was forked since may hold it");
            }
            None => _ = doubt.get_or_insert("processes cannot be listed"),
        }
    }
    let Some(reason) = doubt else { return proven };
    tracing::debug!(node = draft.node, reason, "no proof of last close");
    // Those who look at the name are not held back on account of every close of many: only where all others have closed just
    // now, so that nobody may have it open any more.
    let leave = others.iter().all(|other| other.leaves_until().is_some());
    if leave { Proof::Unknown } else { Proof::StillOpen }
}

/// What the process of a close has of the draft itself.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Whether it has anything, beside `others`.
    holds: Holds,
    /// Descriptors that it has opened besides and not closed.
    others: usize,
    /// Several threads have one table.
    shared: bool,
}

/// Looks, at the close of `fh` by `closer`, what that process still has, and notes it: what has been closed for
/// good is published, however the process ends before the release comes. Who has moved the descriptor to another number, as
/// a shell does, has not closed it.
pub fn note_own(
    draft: &Draft,
    mount: Option<MountId>,
    fh: u64,
    closer: &Closer,
    is_shared: impl Fn(Key, bool) -> bool,
) -> Own {
    let &Closer { process: Process { tgid, .. }, tid, .. } = closer;
    // What is noted is what was seen last.
    let _noting = draft.noting.lock();
    let tables = process::tables(tgid, tid);
    let Some((writer, open)) = draft.writer(fh).filter(|_| tables != Tables::Apart) else {
        draft.set_closed(fh, tgid, true);
        draft.set_let_go(tgid, false);
        return Own { holds: Holds::Unknown, others: 0, shared: false };
    };
    let others = open.iter().filter(|other| other.tgid == tgid && other.has_number()).count();
    let mappable = std::iter::once(&writer).chain(&open).any(|writer| !writer.write_only);
    let has = draft.held_by(tid, mount, is_shared, others, mappable, tables == Tables::Shared);
    match has.numbers {
        Holds::No => draft.set_closed(fh, tgid, false),
        Holds::Perhaps | Holds::Unknown => draft.set_closed(fh, tgid, true),
        Holds::Yes => draft.unset_closed(fh, tgid, others == 0),
    }
    draft.set_let_go(tgid, has.any() == Holds::No && others == 0);
    Own { holds: has.any(), others, shared: tables == Tables::Shared }
}

/// Whether a process forked since the open holds what `writer` opened; `None` if they cannot be listed. One of them may fork
/// another one and end before it is looked at: so until none has come while they were looked at.
fn heirs_hold(writer: &Writer, closer: Option<&Process>, mut holds: impl FnMut(u32, u32) -> Holds) -> Option<Holds> {
    let (mut forked, mut last) = forked_since(writer)?;
    if forked.is_empty() {
        return Some(Holds::No);
    }
    failpoint!("heirs_listed");
    let looked_at = [writer.tgid, closer.map_or(writer.tgid, |closer| closer.tgid)];
    let mut heirs = Heirs::of(writer, closer);
    let mut held = Holds::No;
    for _ in 0..ROUNDS {
        for pid in heirs.add(forked) {
            let Some(heir) = heirs.among(pid).filter(|heir| !looked_at.contains(heir)) else { continue };
            match holds(heir, heir) {
                Holds::Yes => return Some(Holds::Yes),
                doubt @ (Holds::Perhaps | Holds::Unknown) => held = doubt,
                Holds::No => {}
            }
        }
        let now = procfs::last_pid()?;
        if now == last {
            return Some(held);
        }
        (forked, last) =
            if now > last && now - last <= FEW { ((last + 1..=now).collect(), now) } else { forked_since(writer)? };
    }
    Some(Holds::Unknown)
}

/// Who of the processes forked since the open can have inherited the descriptor: who descends from the opener or the
/// closer. A process whose parent died has been given to one of the ancestors that both had, so children of an ancestor
/// of the opener are in doubt, and all others are not. Much cheaper than a look at their descriptors: other programs may
/// fork all the time.
struct Heirs {
    own: u32,
    forked: HashSet<u32>,
    /// The opener, the closer and all above them; `None` where that cannot be told: then everybody is in doubt.
    line: Option<Vec<u32>>,
    known: HashMap<u32, bool>,
}

impl Heirs {
    fn of(writer: &Writer, closer: Option<&Process>) -> Self {
        let mut heirs = Heirs { own: std::process::id(), forked: HashSet::new(), line: None, known: HashMap::new() };
        // Another one may have the opener's pid by now.
        if process::identity(writer.tgid) == writer.identity {
            let mut line: Vec<u32> = process::ancestry(writer.tgid).map(|process| process.tgid).collect();
            if let Some(closer) = closer.filter(|closer| closer.tgid != writer.tgid) {
                line.extend(process::ancestry(closer.tgid).map(|process| process.tgid));
            }
            heirs.line = Some(line).filter(|line| line.len() < process::GENERATIONS);
        }
        heirs
    }

    /// Those of `forked` that are new.
    fn add(&mut self, forked: Vec<u32>) -> Vec<u32> {
        forked.into_iter().filter(|&pid| self.forked.insert(pid)).collect()
    }

    /// The process of this thread, if it may be an heir.
    fn among(&mut self, tid: u32) -> Option<u32> {
        let process = process::of(tid)?;
        // A thread that began since then in a process that was there before.
        let forked = process.tgid == tid || self.forked.contains(&process.tgid);
        (forked && process.tgid != self.own && self.inherits(process, process::GENERATIONS)).then_some(process.tgid)
    }

    fn inherits(&mut self, process: Process, depth: usize) -> bool {
        let Some(line) = &self.line else { return true };
        if process.ppid == 0 || line.contains(&process.ppid) || depth == 0 {
            return true;
        }
        if !self.forked.contains(&process.ppid) {
            return false;
        }
        if let Some(&known) = self.known.get(&process.ppid) {
            return known;
        }
        // One that is gone has left its children to somebody else by now, perhaps to an ancestor of the opener.
        let inherits = process::of(process.ppid).is_none_or(|parent| self.inherits(parent, depth - 1));
        self.known.insert(process.ppid, inherits);
        inherits
    }
}

/// Processes that may have been forked after the open, and the pid given out last before that was found out. A pid of a thread
/// is fine: it has its process's tables.
fn forked_since(writer: &Writer) -> Option<(Vec<u32>, u32)> {
    let (then, now) = (writer.last_pid?, procfs::last_pid()?);
    if writer.at.elapsed() < Duration::from_secs((procfs::pid_max() / FORKS_PER_SECOND).into()) {
        if now == then {
            return Some((Vec::new(), now));
        }
        if now > then && now - then <= FEW {
            return Some(((then + 1..=now).collect(), now));
        }
    }
    // Ticks are coarse: one that started in the same tick as the open counts as later.
    let forked = procfs::started_since(procfs::processes()?, writer.opened.saturating_sub(1))?;
    Some((forked, now))
}
