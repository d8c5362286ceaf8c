//! Advisory locks: `fcntl` locks of processes and of descriptions, and `flock`.
//!
//! Readers and writers of one path exclude each other although they have different nodes; see [`domain`]. Nobody waits
//! on a thread: a lock that cannot be had is asked for again by the `locks` thread when another one was given back, and
//! every [`POLL`] because the locks of other hosts make no noise.
//!
//! The protocol library passes on neither the kernel's `INTERRUPT` nor the flag that tells `flock` from `fcntl`. So a
//! waiting thread is looked at in `/proc`: a signal that is pending for it ends the wait with `EINTR`, and the system
//! call that it is in says which lock it wants. Of a process in another pid namespace neither can be seen: its locks
//! count as `fcntl`'s, and nothing but the lock ends its wait.

mod domain;
mod held;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;

use super::handle::Handle;
use super::{Done, Fs};
use crate::draft::Caller;
use crate::inode::{Content, Key};
use crate::sys::cred::Creds;
use crate::sys::lock::{Mode, Span};
use crate::sys::procfs::{self, Interruption, LockCall};
use crate::sys::{Errno, Result, at, stat};

use domain::{Attempt, Blocked, Domain, Identity, Names};
use held::{Lock, Sort};

/// How often a lock that cannot be had is asked for again, and its caller looked at.
const POLL: Duration = Duration::from_millis(20);

/// Rounds for which a signal of the whole process is left to its other threads.
const PATIENCE: u32 = 5;

/// A lock as the kernel asks for it.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest {
    /// Through this descriptor.
    pub fh: u64,
    /// The kernel's number for the process or the description.
    pub owner: u64,
    /// These bytes.
    pub span: Span,
    /// `None` gives it back.
    pub mode: Option<Mode>,
    /// The process.
    pub pid: u32,
}

/// A lock that somebody else holds.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Its bytes.
    pub span: Span,
    /// What it lets others do.
    pub mode: Mode,
    /// Its process; 0 if that is not of this mount, -1 (as the kernel has it) for a description's.
    pub pid: u32,
}

/// All locks of a mount.
#[derive(Default)]
pub(super) struct Locks {
    by_handle: DashMap<u64, Arc<Domain>>,
    /// Entries of `by_handle`: most closes end here.
    handles: AtomicUsize,
    names: Mutex<Names>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiters: Vec<Waiter>,
    poked: bool,
    stopped: bool,
}

struct Waiter {
    tid: u32,
    lock: Lock,
    domain: Arc<Domain>,
    on: OnExport,
    /// Which owners were in its way when it was asked for last.
    blockers: Vec<u64>,
    /// Answered `EAGAIN` then.
    until: Option<Instant>,
    /// Rounds in a row that found a signal which another thread of the process might have taken.
    signalled: u32,
    done: Box<dyn FnOnce(Result<()>) + Send>,
}

impl Waiter {
    /// True if a signal ends the wait. One that nobody else took for some rounds is this thread's.
    fn is_interrupted(&mut self) -> bool {
        match procfs::interruption(self.tid) {
            Interruption::Yes => return true,
            Interruption::Perhaps => self.signalled += 1,
            Interruption::No => self.signalled = 0,
        }
        self.signalled > PATIENCE
    }
}

/// The file on the export that a lock is taken on too.
#[derive(Clone)]
struct OnExport {
    file: Arc<Content>,
    creds: Option<Creds>,
}

impl OnExport {
    /// A description of its own, for writing if that can be had: on NFS an exclusive lock needs it.
    fn open(&self) -> Result<File> {
        at::reopen(&*self.file, OFlags::RDWR).or_else(|_| at::reopen(&*self.file, OFlags::RDONLY))
    }
}

impl Fs {
    /// Takes a lock, or gives it back; with `wait` the answer comes when it can be had.
    pub fn set_lock(self: &Arc<Self>, caller: Caller, request: LockRequest, wait: bool, done: impl Done<()>) {
        let sort = sort_of(caller);
        let Some(mode) = request.mode else {
            return done(self.unlock(sort, request.fh, request.owner, request.span));
        };
        let LockRequest { fh, owner, span, pid, .. } = request;
        let lock = Lock { sort, owner, fh, span, mode, pid };
        let (domain, on) = match self.to_lock(caller, fh) {
            Ok(found) => found,
            Err(errno) => return done(Err(errno)),
        };
        let Blocked { owners: blockers, soon } = match self.locks.attempt(&domain, &lock, &on, self) {
            Ok(Attempt::Granted) => return done(Ok(())),
            Ok(Attempt::Blocked(Blocked { soon: None, .. })) if !wait => return done(Err(Errno::AGAIN)),
            Ok(Attempt::Blocked(blocked)) => blocked,
            Err(errno) => return done(Err(errno)),
        };
        let mut queue = self.locks.queue.lock();
        if queue.stopped {
            drop(queue);
            return done(Err(Errno::NOTCONN));
        }
        let until = soon.filter(|_| !wait);
        let done = Box::new(done);
        queue.waiters.push(Waiter { tid: caller.tid, lock, domain, on, blockers, until, signalled: 0, done });
        queue.poked = true;
        self.locks.changed.notify_one();
    }

    /// The lock of somebody else that is in the way of this one.
    pub fn test_lock(&self, caller: Caller, request: LockRequest) -> Result<Option<Found>> {
        let LockRequest { fh, owner, span, pid, mode } = request;
        let lock = Lock { sort: sort_of(caller), owner, fh, span, mode: mode.ok_or(Errno::INVAL)?, pid };
        let (domain, on) = self.to_lock(caller, fh)?;
        let acting = self.creds(caller);
        let found = domain.test(&lock, || self.open_as(&on, acting.as_ref()))?;
        Ok(found.map(|there| {
            let pid = if there.sort == Sort::Description { u32::MAX } else { there.pid };
            Found { span: there.span, mode: there.mode, pid }
        }))
    }

    /// A process closes a descriptor: its record locks on the file are gone, whichever descriptor they were taken
    /// through.
    pub(super) fn unlock_process(&self, fh: u64, owner: u64) {
        if self.locks.handles.load(Ordering::Acquire) == 0 {
            return;
        }
        let locked = self.locks.by_handle.get(&fh).map(|domain| domain.clone());
        if let Some(domain) = locked {
            domain.expect_release(fh);
        }
        if let Err(errno) = self.unlock(Sort::Process, fh, owner, Span::WHOLE) {
            tracing::warn!(%errno, "cannot give a lock back on the export");
        }
    }

    /// The last reference to a descriptor is gone, and what was locked through it is free.
    pub(super) fn unlock_handle(&self, fh: u64) {
        if self.locks.handles.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some((_, domain)) = self.locks.by_handle.remove(&fh) {
            self.locks.handles.fetch_sub(1, Ordering::AcqRel);
            if domain.close(fh) {
                self.locks.poke();
            }
        }
    }

    fn unlock(&self, sort: Sort, fh: u64, owner: u64, span: Span) -> Result<()> {
        let known = self.locks.by_handle.get(&fh).map(|domain| domain.clone());
        let domain = match known {
            Some(domain) => Some(domain),
            None => {
                let identity = self.identity(&*self.handles.get(fh)?)?.0;
                self.locks.names.lock().find(&identity)
            }
        };
        if let Some(domain) = domain
            && domain.unlock(sort, owner, span)?
        {
            self.locks.poke();
        }
        Ok(())
    }

    /// The file that a descriptor locks, here and on the export.
    fn to_lock(&self, caller: Caller, fh: u64) -> Result<(Arc<Domain>, OnExport)> {
        let (identity, file) = self.identity(&*self.handles.get(fh)?)?;
        let on = OnExport { file, creds: self.creds(caller) };
        let domain = match self.locks.by_handle.entry(fh) {
            dashmap::mapref::entry::Entry::Occupied(there) => there.get().clone(),
            dashmap::mapref::entry::Entry::Vacant(free) => {
                let domain = self.locks.names.lock().find_or_add(identity);
                self.locks.handles.fetch_add(1, Ordering::AcqRel);
                free.insert(domain).clone()
            }
        };
        Ok((domain, on))
    }

    fn identity(&self, handle: &Handle) -> Result<(Identity, Arc<Content>)> {
        match handle {
            Handle::Version { file, node, .. } | Handle::Direct { file, node, .. } => {
                let link = node.link();
                let named = stat::fstat(&**file)?.nlink > 0;
                let name = link.parent.filter(|_| named).map(|parent| (parent.key, link.name));
                Ok((Identity { name, inode: node.key }, file.clone()))
            }
            Handle::Draft { draft, .. } => {
                let name = draft.target().map(|target| (target.parent.key, target.name));
                let file = draft.lockable()?;
                Ok((Identity { name, inode: Key::of(&stat::fstat(&*file)?) }, file))
            }
            Handle::Folder(_) => Err(Errno::BADF),
        }
    }

    /// Opens the file on the export to lock it: as the daemon, or as the caller where the server does not let it.
    fn open_as(&self, on: &OnExport, creds: Option<&Creds>) -> Result<File> {
        on.open().or_else(|_| self.committer.staging.acting(creds, || on.open()))
    }

    /// Answers everybody who still waits, and ends the thread.
    pub(super) fn stop_locks(&self) {
        self.locks.queue.lock().stopped = true;
        self.locks.changed.notify_one();
    }
}

impl Locks {
    /// A name is gone: whoever makes it anew locks another file.
    pub(super) fn removed(&self, folder: Key, name: &std::ffi::OsStr) {
        if self.handles.load(Ordering::Acquire) > 0 {
            self.names.lock().removed(folder, name);
        }
    }

    /// A name moved, with its locks.
    pub(super) fn renamed(&self, from: (Key, &std::ffi::OsStr), to: (Key, &std::ffi::OsStr), exchanged: bool) {
        if self.handles.load(Ordering::Acquire) > 0 {
            self.names.lock().renamed(from, to, exchanged);
        }
    }

    fn attempt(&self, domain: &Domain, lock: &Lock, on: &OnExport, fs: &Fs) -> Result<Attempt> {
        let (attempt, changed) = domain.attempt(lock, || fs.open_as(on, on.creds.as_ref()))?;
        if changed {
            self.poke();
        }
        Ok(attempt)
    }

    /// A lock was given back or became weaker.
    fn poke(&self) {
        let mut queue = self.queue.lock();
        queue.poked = true;
        self.changed.notify_one();
    }
}

/// The youngest of those that wait for a process that waits, by however many others, for them: its `EDEADLK` lets the
/// others go on. All must have been asked for again since the youngest came, or a lock that was given back meanwhile
/// would still seem to be in the way.
fn in_a_circle(waiters: &[Waiter]) -> Option<usize> {
    let of_process = |waiter: &&Waiter| waiter.lock.sort == Sort::Process && waiter.until.is_none();
    waiters.iter().rposition(|waiter| {
        let (mut reached, mut ahead) = (Vec::new(), waiter.blockers.clone());
        while of_process(&waiter)
            && let Some(next) = ahead.pop()
        {
            if next == waiter.lock.owner {
                return true;
            }
            if !reached.contains(&next) {
                reached.push(next);
                let waiting = waiters.iter().filter(of_process).filter(|other| other.lock.owner == next);
                ahead.extend(waiting.flat_map(|other| &other.blockers));
            }
        }
        false
    })
}

/// Which lock the caller asks for, by the system call it is in.
fn sort_of(caller: Caller) -> Sort {
    match procfs::lock_call(caller.tid) {
        Some(LockCall::Flock) => Sort::Whole,
        Some(LockCall::Description) => Sort::Description,
        Some(LockCall::Other) | None => Sort::Process,
    }
}

/// Starts the thread that asks again for what could not be had; it ends with the file system.
pub(super) fn start(fs: &Arc<Fs>) -> std::io::Result<()> {
    let fs = fs.clone();
    std::thread::Builder::new().name("locks".to_owned()).spawn(move || run(&fs))?;
    Ok(())
}

fn run(fs: &Fs) {
    let locks = &fs.locks;
    let mut queue = locks.queue.lock();
    loop {
        queue.poked = false;
        let stopped = queue.stopped;
        let waiters = std::mem::take(&mut queue.waiters);
        // Asking the export takes time; nobody who only looks is held up.
        drop(queue);
        let mut kept = Vec::new();
        for mut waiter in waiters {
            let answer = match locks.attempt(&waiter.domain, &waiter.lock, &waiter.on, fs) {
                Ok(Attempt::Granted) => Ok(()),
                Ok(Attempt::Blocked(_)) if stopped => Err(Errno::NOTCONN),
                Ok(Attempt::Blocked(_)) if waiter.is_interrupted() => Err(Errno::INTR),
                Ok(Attempt::Blocked(_)) if waiter.until.is_some_and(|until| until <= Instant::now()) => {
                    Err(Errno::AGAIN)
                }
                Ok(Attempt::Blocked(Blocked { owners, .. })) => {
                    waiter.blockers = owners;
                    kept.push(waiter);
                    continue;
                }
                Err(errno) => Err(errno),
            };
            (waiter.done)(answer);
        }
        while let Some(last) = in_a_circle(&kept) {
            (kept.remove(last).done)(Err(Errno::DEADLK));
        }
        queue = locks.queue.lock();
        if stopped {
            return;
        }
        // First come, first served.
        kept.append(&mut queue.waiters);
        queue.waiters = kept;
        if !queue.poked && !queue.stopped {
            if queue.waiters.is_empty() {
                locks.changed.wait(&mut queue);
            } else {
                locks.changed.wait_for(&mut queue, POLL);
            }
        }
    }
}
