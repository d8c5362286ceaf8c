//! Whose request it is: credentials to act under, and who stands in the journal as the owner of a draft.

use std::collections::HashMap;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Fs;
use crate::draft::{Caller, Draft};
use crate::inode::Key;
use crate::journal::Owner;
use crate::sys::cred::Creds;
use crate::sys::process::{self, Identity, Process};
use crate::sys::{Errno, Result, procfs};

/// Supplementary groups of threads, which cost more to read than anything else about a caller.
///
/// Kept per thread and ids, and not for long: a thread that becomes another user is read again, one that only changes
/// its supplementary groups while it goes on using the mount keeps the ones it had for up to [`LIFE`].
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<HashMap<u32, Known>>);

#[derive(Debug)]
struct Known {
    thread: Identity,
    ids: (u32, u32),
    since: Instant,
    groups: Box<[u32]>,
}

/// How long groups are kept. Rights are checked by the kernel first, with the groups as they are; so a group that was
/// given up opens nothing, and one that was joined is missing on the export for so long.
const LIFE: Duration = Duration::from_secs(1);

/// Threads, or processes, remembered. Beyond, all are forgotten: those that are gone are not told from the others.
const THREADS: usize = 4096;

impl Groups {
    fn of(&self, caller: Caller) -> Box<[u32]> {
        let read = || procfs::task(caller.tid).map(|task| task.groups).unwrap_or_default();
        let ids = (caller.uid, caller.gid);
        let Some(thread) = process::of(caller.tid).and_then(|process| process.thread) else { return read() };
        if let Some(known) = self.0.lock().get(&caller.tid)
            && known.thread == thread
            && known.ids == ids
            && known.since.elapsed() < LIFE
        {
            return known.groups.clone();
        }
        let (since, groups) = (Instant::now(), read());
        let mut known = self.0.lock();
        if known.len() >= THREADS {
            known.clear();
        }
        known.insert(caller.tid, Known { thread, ids, since, groups: groups.clone() });
        groups
    }
}

/// When processes started, in ticks since boot: slow to read, and asked for at every look at a name with a draft.
#[derive(Debug, Default)]
pub(super) struct Starts(Mutex<HashMap<Identity, u64>>);

impl Starts {
    fn of(&self, process: &Process) -> Option<u64> {
        let read = || procfs::start_ticks(process.tgid);
        let Some(identity) = process.identity else { return read() };
        if let Some(&known) = self.0.lock().get(&identity) {
            return Some(known);
        }
        let start = read()?;
        let mut known = self.0.lock();
        if known.len() >= THREADS {
            known.clear();
        }
        known.insert(identity, start);
        Some(start)
    }
}

impl Fs {
    /// `EPERM` for a writer with no id in the daemon's pid name space. Nothing tells one such caller from the next, nor
    /// that one was killed: what it writes could be seen before it is complete.
    pub(super) fn refuse_unseen(&self, caller: Caller) -> Result<()> {
        static SAID: Once = Once::new();
        if caller.tid != 0 {
            return Ok(());
        }
        SAID.call_once(|| {
            tracing::error!(
                uid = caller.uid,
                "refused to let somebody write who is in no process of this daemon's pid name space: run the daemon in that \
                 of the host (--pid=host of a container), or the applications in the daemon's"
            );
        });
        Err(Errno::PERM)
    }

    /// True if the caller sees a draft under its name.
    pub(super) fn is_family(&self, draft: &Draft, caller: Caller) -> bool {
        let is_shared = |inode, own| self.is_shared(draft, inode, own);
        draft.is_family(caller, self.mount.get().copied(), |process| self.starts.of(process), is_shared)
    }

    /// True if the number of a version below a draft is that of something else that is open for writing: in place, or another draft
    /// that began over it. The draft's `own` number is, if it was given out again, that of one which has failed since.
    pub(super) fn is_shared(&self, draft: &Draft, inode: Key, own: bool) -> bool {
        let is_other = |other: &Arc<Draft>| {
            other.node != draft.node
                && other.is_open_as(inode.ino)
                && (!own || other.is_over() || other.tainted().is_some())
        };
        !own && self.nodes().counted(inode).is_some() || self.drafts.in_use().iter().any(is_other)
    }

    /// Credentials to act under; `None` for the daemon's own.
    pub(super) fn creds(&self, caller: Caller) -> Option<Creds> {
        if !self.options.act_as_caller || (caller.uid == 0 && caller.gid == 0) {
            return None;
        }
        Some(Creds { uid: caller.uid, gid: caller.gid, groups: self.groups.of(caller) })
    }

    /// The owner of a draft that a caller begins.
    pub(super) fn owner(&self, caller: Caller, process: Option<&Process>) -> Owner {
        Owner {
            uid: caller.uid,
            gid: caller.gid,
            pid: process.map_or(0, |process| process.tgid),
            command: process.map(|_| procfs::command(caller.tid)).unwrap_or_default(),
        }
    }
}
