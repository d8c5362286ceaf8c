//! Who writes a draft, who therefore sees it, and how its writers ended.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::writer::{Numbers, Writer, release_limit};
use super::{Draft, Phase};
use crate::inode::Key;
use crate::rules::{Decision, OnFailureExit, OnKill};
use crate::sys::process::{self, End, Identity, Process};
use crate::sys::procfs::{self, Exit, Has, Holds, MountId, OpenFile};
use crate::sys::stat;

/// A process that is killed is seen to be within this time, for the most part at once.
const DYING: Duration = Duration::from_millis(20);

/// The process behind a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Thread id in the daemon's pid namespace; 0 for somebody outside of it.
    pub tid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// All writers of a draft, past and present.
#[derive(Debug, Default)]
pub(super) struct Writers {
    open: HashMap<u64, Writer>,
    /// Every process that ever opened the draft for writing.
    openers: Vec<(u32, Option<Identity>)>,
    /// Ticks since boot when the first of them did.
    since: Option<u64>,
    /// One of them could have mapped the draft for writing.
    mappable: bool,
    /// The worst end of an opener so far.
    exit: Option<Exit>,
    /// When everybody who has it open was first seen to have ended.
    deserted: Option<Instant>,
    /// A close without proof was answered; outsiders wait until then for the releases that may be behind it, of these
    /// descriptors.
    held: HashMap<u64, Instant>,
}

impl Writers {
    /// Gives memory back that present writers would need.
    pub(super) fn shrink(&mut self) {
        self.open.shrink_to_fit();
        self.openers.shrink_to_fit();
        self.held.shrink_to_fit();
    }

    /// The exit that forbids publication, by the rules of the path.
    pub(super) fn failed_exit(&self, decision: &Decision) -> Option<Exit> {
        self.exit.filter(|exit| match exit {
            Exit::Signal(_) => decision.on_kill == OnKill::Quarantine,
            Exit::Status(0) => false,
            Exit::Status(_) => decision.on_failure_exit == OnFailureExit::Quarantine,
        })
    }
}

impl Draft {
    /// A process opened the draft for writing.
    pub fn add_writer(&self, fh: u64, writer: Writer, appends: bool) {
        let mut writers = self.writers.lock();
        if !appends {
            self.only_appends.store(false, Ordering::Relaxed);
        }
        writers.mappable |= !writer.write_only;
        if writer.tgid != 0 && !writers.openers.contains(&(writer.tgid, writer.identity)) {
            writers.openers.push((writer.tgid, writer.identity));
            writers.since.get_or_insert(writer.opened);
        }
        writers.deserted = None;
        writers.open.insert(fh, Writer { changes: self.changes.load(Ordering::Acquire), ..writer });
    }

    /// The last reference to a descriptor is gone. True if it was the last writer.
    pub fn remove_writer(&self, fh: u64) -> bool {
        let mut writers = self.writers.lock();
        writers.open.remove(&fh).is_some() && writers.open.is_empty()
    }

    /// The release of this descriptor is here; if it is the last of those that outsiders are held back for, they go on.
    pub fn end_hold(&self, fh: u64) {
        self.writers.lock().held.remove(&fh);
    }

    /// Until when to expect the releases of writers all of whom have ended; `None` if one is alive, or somebody else seems to
    /// have got their descriptors. Who joins before is taken for one who wrote together with those who were killed.
    pub fn deserted_until(&self, limit: Duration) -> Option<Instant> {
        let held: Option<Vec<_>> = self.writers.lock().open.values().map(|writer| writer.process.clone()).collect();
        let held = held.filter(|held| !held.is_empty())?;
        if !held.iter().all(|process| matches!(process.end(), End::Ended(_))) {
            return None;
        }
        let now = Instant::now();
        let until = *self.writers.lock().deserted.get_or_insert(now) + limit;
        Some(until).filter(|until| *until > now)
    }

    /// The writer behind a descriptor, and those behind all others.
    pub(super) fn writer(&self, fh: u64) -> Option<(Writer, Vec<Writer>)> {
        let writers = self.writers.lock();
        let others = || writers.open.iter().filter(|&(&other, _)| other != fh).map(|(_, writer)| writer.clone());
        writers.open.get(&fh).map(|writer| (writer.clone(), others().collect()))
    }

    /// True while somebody has the draft open for writing.
    pub fn has_writers(&self) -> bool {
        !self.writers.lock().open.is_empty()
    }

    /// True while somebody has it open for writing by another descriptor than this one.
    pub(super) fn has_writers_but(&self, fh: u64) -> bool {
        self.writers.lock().open.keys().any(|&open| open != fh)
    }

    /// True if somebody has it open for writing who has not closed, by another descriptor than `but`. Of those who have, nobody
    /// may have a duplicate: to be asked by who knows that.
    pub fn is_written(&self, but: Option<u64>) -> bool {
        self.writers.lock().open.iter().any(|(&open, writer)| Some(open) != but && !writer.has_closed())
    }

    /// A close has come, of whichever descriptor.
    pub fn count_close(&self) {
        self.closes.fetch_add(1, Ordering::AcqRel);
    }

    /// Closes that have come so far.
    pub(super) fn closes(&self) -> u64 {
        self.closes.load(Ordering::Acquire)
    }

    /// A process closes a duplicate of this descriptor.
    pub fn note_close(&self, fh: u64, tgid: u32) {
        if let Some(writer) = self.writers.lock().open.get_mut(&fh) {
            writer.closed_last = writer.tgid == tgid;
            writer.last_close = Instant::now();
        }
    }

    /// A process closes this descriptor, and has no duplicate of it, or that is `doubtful`: its close has returned, all the same.
    /// Then it has none of what it has closed in part, either.
    pub(super) fn set_closed(&self, fh: u64, tgid: u32, doubtful: bool) {
        let mut writers = self.writers.lock();
        for (&other, writer) in writers.open.iter_mut().filter(|(_, writer)| writer.tgid == tgid) {
            if other == fh || writer.numbers == Numbers::Some {
                writer.numbers = Numbers::None { doubtful };
            }
        }
    }

    /// A process closes a number of this descriptor, and has numbers left by which it may be open. `all`: so may each of what it
    /// has closed, unless that is released.
    pub(super) fn unset_closed(&self, fh: u64, tgid: u32, all: bool) {
        let mut writers = self.writers.lock();
        for (&other, writer) in writers.open.iter_mut().filter(|(_, writer)| writer.tgid == tgid) {
            if other == fh || all && writer.has_closed() {
                writer.numbers = Numbers::Some;
            }
        }
    }

    /// Whether a process that closes has the draft neither open nor mapped any more, by whatever it opened.
    pub(super) fn set_let_go(&self, tgid: u32, let_go: bool) {
        for writer in self.writers.lock().open.values_mut().filter(|writer| writer.tgid == tgid) {
            writer.let_go = let_go;
        }
    }

    /// The release of this descriptor has come, and no close of its process that would have told of its end: of one that
    /// is killed the kernel may send none, and none comes with the end of a mapping. False if the process goes on, and a
    /// signal may be on its way to it: to be asked again.
    pub fn note_release(&self, fh: u64, again: bool) -> bool {
        let Some(process) = self.released_unexplained(fh).map(|writer| writer.process) else { return true };
        if again && let Some(process) = &process {
            process.wait(DYING);
        }
        let end = process.map(|process| process.end());
        // It may have closed for good meanwhile.
        let Some(writer) = self.released_unexplained(fh) else { return true };
        match end {
            Some(End::Ended(exit)) => self.note_exit(writer.tgid, exit),
            // Nobody who ends well leaves a descriptor unclosed.
            Some(End::Unknown) if !writer.has_closed() => {
                self.note_exit(writer.tgid, Exit::Signal(libc::SIGKILL as u8));
            }
            Some(End::Runs) => return writer.has_closed() || again,
            Some(End::Unknown) | None => {}
        }
        true
    }

    /// Whoever opened this descriptor, if no close explains its release: it may come of that one's end.
    fn released_unexplained(&self, fh: u64) -> Option<Writer> {
        // What was promised to a close is published whatever comes after.
        let open = match &self.body.read_recursive().phase {
            Phase::Open(work) => !work.promised.load(Ordering::Acquire),
            phase => matches!(phase, Phase::Filling(_)),
        };
        let (writer, _) = self.writer(fh).filter(|_| open)?;
        (!writer.has_closed() || writer.closed_last && writer.may_map()).then_some(writer)
    }

    /// Writers who have closed and had the draft mapped then, for all that is known, may have come to their end before the release
    /// that would ask for that, while somebody else has the descriptor. What was promised to a close is published whatever comes after.
    pub fn note_ends_of_mappings(&self) {
        let may_have_mapped = |writer: &&Writer| writer.has_closed() && writer.may_map();
        let found: Vec<Writer> = self.writers.lock().open.values().filter(may_have_mapped).cloned().collect();
        for writer in found.into_iter().filter(|_| !self.is_promised()) {
            if let Some(End::Ended(exit)) = writer.process.as_ref().map(|process| process.end()) {
                self.note_exit(writer.tgid, exit);
            }
        }
    }

    /// A process on its way out closes the draft. Only openers are judged, not helpers that inherited a descriptor, and
    /// not who joined and left the draft as it was. Which of several writers a change is by, the kernel does not tell: one
    /// that was made meanwhile is taken for theirs.
    pub fn note_exit(&self, tgid: u32, exit: Exit) {
        let mut writers = self.writers.lock();
        let changes = self.changes.load(Ordering::Acquire);
        let mut own = writers.open.values().filter(|writer| writer.tgid == tgid).peekable();
        let joined = writers.openers.len() > 1 && !self.is_passed_through();
        if joined && own.peek().is_some() && own.all(|writer| writer.changes == changes) {
            return;
        }
        if writers.openers.iter().any(|&(opener, _)| opener == tgid) {
            writers.exit = match (writers.exit, exit) {
                (Some(killed @ Exit::Signal(_)), _) => Some(killed),
                (Some(failed @ Exit::Status(1..)), Exit::Status(_)) => Some(failed),
                (_, latest) => Some(latest),
            };
        }
    }

    /// True if the end of one of its writers forbids publication.
    pub fn is_refused(&self) -> bool {
        self.writers.lock().failed_exit(&self.decision).is_some()
    }

    /// Outsiders wait for a limited time for the release of this descriptor, and of those that were closed just before it: the
    /// kernel tells of them in any order.
    pub fn hold(&self, fh: u64) {
        let mut writers = self.writers.lock();
        let Writers { open, held, .. } = &mut *writers;
        held.extend(open.iter().filter_map(|(&other, writer)| Some((other, writer.leaves_until()?))));
        held.insert(fh, Instant::now() + release_limit());
    }

    /// When a hold ends, if one is on. To be asked before whether a commit is on its way: the release that ends a hold has
    /// sealed the draft by then, so that one of the two is always seen.
    pub fn held_until(&self) -> Option<Instant> {
        self.writers.lock().held.values().copied().max().filter(|until| *until > Instant::now())
    }

    /// True if the caller is a writer's process, one of its descendants, or holds the draft open on `mount` although one of
    /// its ancestors is gone. `started` tells when a process did; `is_shared` whether an inode's number is that of something that others
    /// write: in place, or as a draft that began over it.
    pub fn is_family(
        &self,
        caller: Caller,
        mount: Option<MountId>,
        started: impl FnOnce(&Process) -> Option<u64>,
        is_shared: impl FnOnce(Key, bool) -> bool,
    ) -> bool {
        let (openers, since, mappable) = {
            let writers = self.writers.lock();
            let Some(since) = writers.since else { return false };
            (writers.openers.clone(), since, writers.mappable)
        };
        let mut line = process::ancestry(caller.tid).peekable();
        let Some(own) = line.peek().copied() else { return false };
        if line.any(|process| openers.contains(&(process.tgid, process.identity))) {
            return true;
        }
        // A process between it and the opener may be gone, and no trace of that is left. But who was there before the first
        // open has inherited nothing, and most outsiders were.
        let orphaned = openers.iter().any(|&(tgid, identity)| process::identity(tgid) != identity);
        if !orphaned && started(&own).is_some_and(|start| start < since) {
            return false;
        }
        // An outsider may read the version below, whose number is the draft's too: only who writes by that number writes
        // the draft. Unless the version is written otherwise, under another name.
        let content = self.content_key();
        let began_over = self.began_over.lock().clone();
        let own_ino = content.map(|key| key.ino).filter(|ino| !began_over.contains(ino)).unwrap_or(self.node);
        match procfs::has_open(own.tgid, mount, &[self.node, own_ino], &began_over, mappable) {
            Some(ino) if ino != self.node => {
                content.is_none_or(|key| !is_shared(Key { ino, ..key }, !began_over.contains(&ino)))
            }
            found => found.is_some(),
        }
    }

    /// True if somebody may have the draft open by this number, because it began over a version that has it.
    pub fn is_open_as(&self, ino: u64) -> bool {
        self.is_open() && self.began_over.lock().contains(&ino)
    }

    /// The draft as one of its writers' processes has it open.
    pub fn open_file(&self) -> Option<OpenFile> {
        let pid = self.writers.lock().open.values().map(|writer| writer.tgid).find(|&tgid| tgid != 0)?;
        Some(OpenFile { pid, inos: self.inos() })
    }

    /// The inode numbers under which the kernel may show the draft in `/proc`: it keeps the one it was told last.
    fn inos(&self) -> Vec<u64> {
        let mut inos = vec![self.node];
        inos.extend(self.content_key().map(|key| key.ino));
        inos.extend_from_slice(&self.began_over.lock());
        inos
    }

    /// Whether a process has the draft open for writing, by more descriptors than `but`, or with `mappings` mapped. `is_shared`
    /// tells whether a number is that of something else, too. `again`: what is not found is looked for once more, because a
    /// thread may move a descriptor to a number that was looked at before.
    pub(super) fn held_by(
        &self,
        tid: u32,
        mount: Option<MountId>,
        is_shared: impl Fn(Key, bool) -> bool,
        but: usize,
        mappings: bool,
        again: bool,
    ) -> Has {
        let began_over = self.began_over.lock().clone();
        let content = self.content_key();
        let is_own = |ino| !began_over.contains(&ino);
        let is_shared = |ino| content.is_some_and(|key| is_shared(Key { ino, ..key }, is_own(ino)));
        let own = [self.node, content.map_or(self.node, |key| key.ino)];
        let look = || procfs::holds(tid, mount, own, &began_over, is_shared, but, mappings);
        let has = look();
        if again && has.any() == Holds::No { look() } else { has }
    }

    /// The inode that holds its content, the version below as long as nothing is written.
    fn content_key(&self) -> Option<Key> {
        self.content().and_then(|content| stat::fstat(&*content)).ok().as_ref().map(Key::of)
    }
}
