//! The file system: one file per family of operations.
//!
//! Operations take a [`Caller`](crate::draft::Caller) and node ids and answer through a closure, because some answers come later from another
//! thread: a commit, a copy, a look-up that waits for a commit in flight. The adapter in [`crate::fuse`] only decodes and
//! replies.
//!
//! Threads: the session threads run everything that touches the export briefly; `commit` threads run fsync and rename;
//! `notice` threads tell the kernel, which may wait for a folder that a request has locked, and that request for a
//! commit: so commits never queue behind notices. `copy` threads copy, or make room, which takes as long as it takes; `slow`
//! threads run whatever else waits for a disk or was parked, and queue behind no copy; `gather` threads wait for writes that
//! the kernel has gathered, which may wait for copies. No lock is held across a reply, but for a folder's `answers`.

mod ahead;
mod attr;
mod caller;
mod carry;
mod changes;
mod claim;
mod close;
mod create;
mod dir;
mod gather;
mod handle;
mod in_place;
mod io;
mod link;
mod lock;
mod lookup;
mod open;
mod passthrough;
mod pool;
mod remove;
mod rename;
mod statfs;
mod stop;
mod times;
mod wait;
mod whole;
mod xattr;

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use crate::commit::{Committer, RESERVED, Target};
use crate::draft::{Digester, Drafts};
use crate::inode::{Node, NodeTable, ROOT_ID};
use crate::retention::Reaper;
use crate::rules::Rules;
use crate::sys::procfs::MountId;
use crate::sys::{Errno, Kind, Result, Stat, mount};

pub use changes::{Changes, SetTime, Written};
pub use create::Created;
pub use dir::{Listed, Listings};
pub use lock::{Found, LockRequest};
pub use lookup::Entry;
pub use open::{OpenMode, Opened};
pub use wait::Recovery;
pub use xattr::STATE_DIR;

use caller::{Groups, Starts};
use dir::Recent;
use handle::Handles;
use lock::Locks;
use passthrough::Backings;
use pool::Pool;
use times::Tellers;
use wait::Parking;

/// How the mount behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the kernel may keep names and attributes of versions.
    pub ttl: Duration,
    /// The export is an NFS mount.
    pub nfs: bool,
    /// What names begin with that the export gives to files which were removed while open: the mount does not show them.
    pub set_aside: Option<&'static str>,
    /// A miss and an open ask the server for the folder first.
    pub revalidate: bool,
    /// The daemon runs as root and acts as its callers.
    pub act_as_caller: bool,
    /// The kernel checks permissions before it asks.
    pub kernel_checks: bool,
    /// Times of drafts are the kernel's own, which gathers writes, and the export can be told cheaply.
    pub keeps_times: bool,
    /// The kernel gathers writes, and keeps sizes by itself.
    pub gathers: bool,
    /// Versions are read by the kernel itself where it can.
    pub passthrough: bool,
    /// Where the state is, for the command line.
    pub state_dir: std::path::PathBuf,
    /// Where the file system is mounted.
    pub mountpoint: std::path::PathBuf,
    /// Threads for commits.
    pub commit_workers: usize,
    /// Descriptors from this number on are for the daemon's own work.
    pub files: u64,
}

/// A mounted export.
pub struct Fs {
    committer: Arc<Committer>,
    reaper: Arc<Reaper>,
    drafts: Drafts,
    handles: Handles,
    backings: Backings,
    recent: Recent,
    locks: Locks,
    groups: Groups,
    starts: Starts,
    options: Options,
    digester: Digester,
    commits: Pool,
    notices: Pool,
    slow: Pool,
    copies: Pool,
    gathers: Pool,
    parking: Parking,
    recovery: Recovery,
    kernel: OnceLock<Notifier>,
    mount: OnceLock<MountId>,
    tellers: Tellers,
    commits_done: AtomicU64,
    company: Arc<AtomicBool>,
}

impl Fs {
    /// A file system over what the committer works on.
    pub fn new(committer: Arc<Committer>, reaper: Arc<Reaper>, options: Options) -> std::io::Result<Arc<Self>> {
        let fs = Arc::new(Fs {
            digester: Digester::start(committer.journal.clone())?,
            commits: Pool::start("commit", options.commit_workers)?,
            notices: Pool::start("notice", NOTICE_WORKERS)?,
            slow: Pool::start("slow", SLOW_WORKERS)?,
            copies: Pool::start("copy", COPY_WORKERS)?,
            gathers: Pool::start("gather", GATHER_WORKERS)?,
            backings: Backings::new(options.passthrough),
            committer,
            reaper,
            drafts: Drafts::default(),
            handles: Handles::default(),
            recent: Recent::default(),
            locks: Locks::default(),
            groups: Groups::default(),
            starts: Starts::default(),
            options,
            parking: Parking::default(),
            recovery: Recovery::default(),
            kernel: OnceLock::new(),
            mount: OnceLock::new(),
            tellers: Tellers::default(),
            commits_done: AtomicU64::new(0),
            company: Arc::default(),
        });
        wait::start(&fs)?;
        lock::start(&fs)?;
        stop::start_progress(&fs)?;
        Ok(fs)
    }

    /// The kernel can be notified from now on, and knows the file system as `mount`.
    pub fn connect(&self, kernel: Notifier, mount: Option<MountId>) {
        // The first connection stays; there is only one session.
        drop(self.kernel.set(kernel));
        if let Some(mount) = mount {
            self.mount.get_or_init(|| mount);
        }
    }

    /// As which the kernel knows the file system, once it is mounted.
    pub fn mount(&self) -> Option<MountId> {
        self.mount.get().copied()
    }

    /// What the file system stands on.
    pub fn committer(&self) -> &Arc<Committer> {
        &self.committer
    }

    /// Who removes what was taken out of the name space.
    pub fn reaper(&self) -> &Arc<Reaper> {
        &self.reaper
    }

    /// True while others may publish in the export too. Set by whoever looks for them.
    pub fn company(&self) -> &Arc<AtomicBool> {
        &self.company
    }

    /// True if names change without the kernel being told: it is to ask each time.
    fn changes_unseen(&self) -> bool {
        self.options.revalidate || self.company.load(Ordering::Acquire)
    }

    /// The path rules.
    pub fn rules(&self) -> &Rules {
        &self.committer.rules
    }

    fn nodes(&self) -> &NodeTable {
        &self.committer.nodes
    }

    /// The node of a folder.
    fn folder(&self, id: u64) -> Result<Arc<Node>> {
        let node = self.nodes().get(id)?;
        if self.nodes().is_gone(&node) {
            return Err(Errno::NOENT);
        }
        if node.kind == Kind::Dir { Ok(node) } else { Err(Errno::NOTDIR) }
    }

    /// `EMFILE` for a file that somebody wants to have open when few descriptors are left: without one a close could not
    /// make its folder durable. The kernel gives out the lowest number that is free.
    fn leave_some(&self, file: impl AsFd) -> Result<()> {
        let number = u64::try_from(file.as_fd().as_raw_fd()).unwrap_or(0);
        if number < self.options.files { Ok(()) } else { Err(Errno::MFILE) }
    }

    /// Names that the mount does not show: the reserved folder, and what the export makes of removed open files.
    fn is_hidden(&self, parent: u64, name: &OsStr) -> bool {
        (parent == ROOT_ID && name == RESERVED)
            || self.options.set_aside.is_some_and(|prefix| mount::sets_aside_as(prefix, name.as_bytes()))
    }

    /// Refuses to create, move or remove a name that the mount does not show.
    fn refuse_hidden(&self, parent: u64, name: &OsStr) -> Result<()> {
        if self.is_hidden(parent, name) { Err(Errno::PERM) } else { Ok(()) }
    }

    /// Tells the kernel that a name has a new version and that its folder changed, if it may remember otherwise; then
    /// goes on with `then`.
    fn announce(self: &Arc<Self>, target: Target, replaced: bool, then: impl FnOnce() + Send + 'static) {
        let Ok(folder) = target.parent.as_folder() else { return then() };
        let changed = folder.forget_attributes();
        if !replaced && !changed {
            return then();
        }
        let fs = self.clone();
        self.notices.run(move || {
            fs.notify(&target, replaced, changed);
            then();
        });
    }

    /// Waits for the folder if a request has locked it.
    fn notify(&self, target: &Target, replaced: bool, changed: bool) {
        // Whoever looked the name up before has answered when this lock was free once.
        if let Ok(folder) = target.parent.as_folder() {
            drop(folder.answers.write());
        }
        let Some(kernel) = self.kernel.get() else { return };
        let parent = INodeNo(target.parent.id);
        if replaced && let Err(error) = kernel.inval_entry(parent, &target.name) {
            tracing::debug!(%error, "the kernel did not take the news of a name");
        }
        // From offset 0 on: not only the attributes, but the listing that it may have kept.
        if changed && let Err(error) = kernel.inval_inode(parent, 0, 0) {
            // ENOENT: the kernel does not know the folder any more.
            tracing::trace!(%error, "the kernel did not take the news of a folder");
        }
    }
}

/// Threads for notices to the kernel.
const NOTICE_WORKERS: usize = 4;

/// Threads for parked operations and what else is too slow for a session thread.
const SLOW_WORKERS: usize = 8;

/// Threads for copies.
const COPY_WORKERS: usize = 8;

/// Threads that wait for gathered writes. More of these could wait for no more copies at once.
const GATHER_WORKERS: usize = COPY_WORKERS;

/// Where an answer goes.
pub trait Done<T>: FnOnce(Result<T>) + Send + 'static {}

impl<T, F: FnOnce(Result<T>) + Send + 'static> Done<T> for F {}

/// Attributes as the kernel is told: the node's `st_ino` is the export's inode number.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// From the export.
    pub stat: Stat,
    /// How long the kernel may keep them.
    pub ttl: Duration,
}
