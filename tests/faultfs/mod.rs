//! A file system below commitfs that fails one chosen call, makes one wait, or loses at a power cut what was not synced.
//!
//! It serves a [`Disk`] of its own in memory, because what a cut leaves has to be known exactly: nothing lies between it
//! and commitfs (no names or attributes are remembered by the kernel, every read and write arrives). Inode numbers, open
//! descriptors and file handles survive a cut as they do a remount. The journal may lie on it too.

pub mod disk;
mod ops;
pub mod plan;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fuser::{BackgroundSession, Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use rustix::fd::AsRawFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::common::mount::state_base;
use crate::common::{Setup, eventually};
use disk::{Cut, Disk, Realm};
use plan::{Call, Fault, Moment, Op, Plan, Refusal};

/// What the session's threads work on.
#[derive(Clone)]
struct Volume(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    disk: Disk,
    plan: Plan,
    /// Descriptors of an earlier one are of no use.
    epoch: u64,
    listings: std::collections::HashMap<u64, Vec<(u64, fuser::FileType, std::ffi::OsString)>>,
    next_listing: u64,
}

/// The mounted file system; dropping it unmounts. Declare it before the mount that uses it.
pub struct FaultFs {
    home: PathBuf,
    point: PathBuf,
    volume: Volume,
    session: Option<BackgroundSession>,
}

/// Threads that answer calls.
const THREADS: usize = 16;

static MOUNTED: AtomicU32 = AtomicU32::new(0);

impl FaultFs {
    #[track_caller]
    pub fn new() -> FaultFs {
        let n = MOUNTED.fetch_add(1, Ordering::Relaxed);
        let home = state_base().join(format!("m{}-fault{n}", std::process::id()));
        let point = home.join("root");
        std::fs::create_dir_all(&point).unwrap();
        let volume = Volume(Arc::new(Shared {
            state: Mutex::new(State {
                disk: Disk::new(),
                plan: Plan::default(),
                epoch: 1,
                listings: std::collections::HashMap::new(),
                next_listing: 1,
            }),
            changed: Condvar::new(),
        }));
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("faultfs", &point, "fuse.faultfs", flags, data.as_c_str()).unwrap();
        let mut config = fuser::Config::default();
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = Session::from_fd(volume.clone(), device, SessionACL::All, config).and_then(Session::spawn);
        FaultFs { home, point, volume, session: Some(session.unwrap()) }
    }

    /// A mount whose export lies here.
    pub fn setup(&self) -> Setup {
        Setup::default().backing(&self.point.join("export"))
    }

    /// A mount whose export and journal lie here.
    pub fn setup_whole(&self) -> Setup {
        self.setup().state(&self.state()).env("COMMITFS_STATE_ANYWHERE", "1")
    }

    /// The realm of journals.
    pub fn state(&self) -> PathBuf {
        self.point.join("state")
    }

    fn with<T>(&self, call: impl FnOnce(&mut State) -> T) -> T {
        let result = call(&mut self.volume.0.state.lock());
        self.volume.0.changed.notify_all();
        result
    }

    /// From now on the call that `fault` describes fails.
    pub fn arm(&self, fault: Fault) {
        self.with(|state| {
            state.plan.hit = None;
            state.plan.fault = Some(fault);
        });
    }

    /// As [`FaultFs::arm`], and whatever is asked after that call fails too, until [`FaultFs::allow`].
    pub fn arm_to_die(&self, fault: Fault) {
        self.arm(fault);
        self.with(|state| state.plan.dies = true);
    }

    /// Nothing fails any more; the call that did, if one did.
    pub fn disarm(&self) -> Option<Call> {
        self.with(|state| {
            state.plan.fault = None;
            state.plan.hit.take()
        })
    }

    /// Such calls fail until [`FaultFs::allow`].
    pub fn refuse(&self, realm: Realm, which: fn(Op) -> bool, errno: Errno) {
        self.with(|state| state.plan.refused = Some(Refusal { realm, which, errno }));
    }

    pub fn allow(&self) {
        self.with(|state| {
            state.plan.refused = None;
            state.plan.dies = false;
        });
    }

    /// The next such call waits until the value is dropped.
    pub fn hold(&self, realm: Realm, op: Op) -> Held<'_> {
        self.hold_many(realm, op, 1)
    }

    /// The next such calls wait, so many at once, until the value is dropped. Each takes one of [`THREADS`].
    pub fn hold_many(&self, realm: Realm, op: Op, calls: usize) -> Held<'_> {
        assert!(calls < THREADS);
        self.with(|state| state.plan.held = Some((realm, op, calls, "")));
        Held(self)
    }

    /// As [`FaultFs::hold`], of a call on a path that ends so.
    pub fn hold_on(&self, realm: Realm, op: Op, path: &'static str) -> Held<'_> {
        self.with(|state| state.plan.held = Some((realm, op, 1, path)));
        Held(self)
    }

    /// Runs `call` and returns the calls on the export that were made meanwhile.
    pub fn calls(&self, call: impl FnOnce()) -> Vec<Call> {
        self.with(|state| state.plan.calls = Some(Vec::new()));
        call();
        self.with(|state| state.plan.calls.take().unwrap_or_default())
    }

    /// Changes so far: what a moment's number is compared with.
    pub fn changes(&self) -> u64 {
        self.with(|state| state.plan.changes)
    }

    /// Keeps the state after every change from now on.
    pub fn record(&self) {
        self.with(|state| state.plan.moments = Some(Vec::new()));
    }

    /// The states kept.
    pub fn recorded(&self) -> Vec<Moment> {
        self.with(|state| state.plan.moments.take().unwrap_or_default())
    }

    /// Everything that was written reaches the disk.
    pub fn rest(&self) {
        self.with(|state| state.disk.sync_all());
    }

    /// What an inode would hold if the power were cut now; nothing if no name of it would be left.
    pub fn on_disk(&self, ino: u64) -> Option<Vec<u8>> {
        let left = self.with(|state| state.disk.cut(Cut::All, Cut::All));
        left.inode(ino).ok().map(|inode| inode.content.read(0, inode.content.len()))
    }

    /// Puts another disk in. With no daemon up.
    pub fn load(&self, disk: Disk) {
        self.with(|state| {
            state.disk = disk;
            state.plan = Plan { changes: state.plan.changes, ..Plan::default() };
            state.epoch += 1;
            state.listings.clear();
        });
    }

    /// The power is cut and comes back. With no daemon up.
    pub fn cut(&self, export: Cut, state: Cut) {
        let left = self.with(|now| now.disk.cut(export, state));
        self.load(left);
    }
}

/// Lets the waiting calls go.
pub struct Held<'a>(&'a FaultFs);

impl Held<'_> {
    /// Until a call waits.
    #[track_caller]
    pub fn caught(&self) {
        eventually("a call is held", || self.waiting() > 0);
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.0.with(|state| state.plan.waiting)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.plan.held = None);
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.with(|state| state.plan = Plan::default());
        if let Err(error) = rustix::mount::unmount(&self.point, UnmountFlags::DETACH) {
            eprintln!("unmounting {}: {error}", self.point.display());
        }
        // Its threads end when the last descriptor on it is closed; nobody waits for that.
        drop(self.session.take());
        if let Err(error) = std::fs::remove_dir_all(&self.home) {
            eprintln!("removing {}: {error}", self.home.display());
        }
    }
}
