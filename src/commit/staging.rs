//! The staging folder: `.commitfs/stage/INSTANCE` at the export's root, on the same file system as every target.
//!
//! Anybody may create in it and nobody but the daemon may list it (mode 1733), because staged files are created with
//! the writer's own credentials: on a root-squashed export the daemon could not give them away afterwards.

mod likeness;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::{OFlags, Timespec};

use crate::inode::{Content, Key};
use crate::journal::DraftId;
use crate::sys::cred::{Acting, Creds};
use crate::sys::stat::{self, Stat, Time};
use crate::sys::{Errno, Result, at, clock, mount};

/// Name of the reserved folder at the export's root.
pub const RESERVED: &str = ".commitfs";

/// A staged inode: hidden, writable, not yet anybody's version.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Open for reading and writing, also when the application opened for one of them only.
    pub file: Arc<Content>,
    /// Its name in the staging folder.
    pub name: String,
    /// Its inode number.
    pub ino: u64,
}

/// A sign of life, in the server's time.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    /// When it was given.
    pub at: SystemTime,
    /// Since when they have come without a gap. Who was silent until then may have been away as this instance was.
    pub since: SystemTime,
}

/// This instance's staging folder.
#[derive(Debug)]
pub struct Staging {
    instance: String,
    dir: OwnedFd,
    trash: OwnedFd,
    hosts: OwnedFd,
    /// Held while the two are looked for anew.
    finding: Mutex<()>,
    /// How often one of them was found to be another.
    found: AtomicU64,
    /// The last sign of life.
    beat: Mutex<Option<Beat>>,
    /// Owner and group of root's files where the server takes root's rights away: names must be changed as the writer.
    nobody: Option<(u32, u32)>,
    /// The daemon may act as others.
    privileged: bool,
    /// Microseconds since the epoch.
    started: u128,
    /// On NFS a file that nobody else may have made costs a request more than one that may be there: so staged names
    /// there are such that nobody can have guessed them.
    unguessable: Option<RandomState>,
    /// XFS: a file that grows has more space than it needs until a descriptor for writing is closed.
    allocates_ahead: bool,
    /// The NFS 4 access lists that new files have here, by mode, owner and group.
    lists: Mutex<HashMap<(u32, u32, u32), Vec<u8>>>,
}

/// How far ahead the mark of an instance at rest is dated.
const REST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What has failed when a draft's staged file is not where it was put, as a draft's reason has it.
pub const ADOPTED: &str = "lease (another instance has adopted the content)";

impl Staging {
    /// Whether the export knows `instance`: it has its staging folder, or another instance has adopted that.
    pub fn knows(root: impl AsFd, instance: &str) -> Result<bool> {
        let has = |folder: &str, name: &str| {
            let found = at::open_dir(root.as_fd(), OsStr::new(RESERVED))
                .and_then(|reserved| at::open_dir(reserved, OsStr::new(folder)))
                .and_then(|folder| stat::revalidate(&folder).and_then(|()| stat::stat_at(&folder, name)));
            match found {
                Ok(_) => Ok(true),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
                Err(errno) => Err(errno),
            }
        };
        // Marked first, and then taken.
        Ok(has("stage", instance)? || has("hosts", &mark_of(instance))?)
    }

    /// Opens or creates the staging folder of `instance` below the export's root.
    pub fn open(root: impl AsFd, instance: &str) -> Result<Self> {
        let reserved = folder(root.as_fd(), RESERVED, 0o711)?;
        let hosts = folder(&reserved, "hosts", 0o700)?;
        let [(stage, dir), (trashes, trash)] = folders(&reserved, instance)?;
        // What is promised in them must be found after a power cut.
        for made_in in [trashes.as_fd(), stage.as_fd(), reserved.as_fd(), root.as_fd()] {
            at::fsync_dir(made_in)?;
        }
        let unguessable = if mount::is_nfs(root.as_fd())? { Some(RandomState::new()) } else { None };
        let privileged = rustix::process::geteuid().is_root();
        let started = clock::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let mut staging = Staging {
            instance: instance.to_owned(),
            dir,
            trash,
            hosts,
            finding: Mutex::default(),
            found: AtomicU64::new(0),
            beat: Mutex::default(),
            nobody: None,
            privileged,
            started,
            unguessable,
            allocates_ahead: mount::is_xfs(root.as_fd())?,
            lists: Mutex::default(),
        };
        if privileged {
            let made = staging.made_by_root()?;
            staging.nobody = (made.uid != 0).then_some((made.uid, made.gid));
        }
        Ok(staging)
    }

    /// What root makes on the export: a file that goes again at once or, where there is no room for one, the folder that it
    /// has made here before.
    fn made_by_root(&self) -> Result<Stat> {
        self.remove("probe")?;
        match self.create("probe", 0o600, None) {
            Ok(probe) => {
                let made = stat::fstat(&probe.file)?;
                self.remove(&probe.name)?;
                Ok(made)
            }
            Err(errno) if mount::is_no_space(errno) => stat::fstat(&self.dir),
            Err(other) => Err(other),
        }
    }

    /// The name of this instance among all that use the export.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The file in [`Staging::hosts`] that says that this instance lives.
    pub fn lease(&self) -> String {
        format!("{}.json", self.instance)
    }

    /// Says, in the server's time, that this instance lives, whose lease is so long. `ENOENT` when another has taken it for
    /// dead. More than half a lease after the one before it is back from somewhere: from a server that was away, or stopped.
    pub fn beat(&self, lease: Duration) -> Result<Beat> {
        let at = self.touch(&self.lease())?.mtime.to_system();
        let mut last = self.beat.lock();
        // Of two at the same time either may come here first.
        let gap = |last: &Beat| at.duration_since(last.at).unwrap_or_else(|before| before.duration());
        let since = last.filter(|last| gap(last) <= lease / 2).map_or(at, |last| last.since);
        Ok(*last.insert(Beat { at, since }))
    }

    fn touch(&self, name: &str) -> Result<Stat> {
        let file = at::open_file(&self.hosts, OsStr::new(name), OFlags::WRONLY, 0)?;
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        at::set_times(&file, &at::Timestamps { last_access: now, last_modification: now })?;
        stat::fstat(&file)
    }

    /// Says, before there is a lease, that an instance that was taken for dead is back: folders that nobody has taken by now
    /// stay its own.
    pub fn is_back(&self) -> Result<()> {
        self.touch(&mark_of(&self.instance)).map(drop)
    }

    /// The same for one that ends in order before its adoption is settled: until it comes back nobody takes it for dead.
    pub fn rests(&self) -> Result<()> {
        match at::open_file(&self.hosts, OsStr::new(&mark_of(&self.instance)), OFlags::WRONLY, 0) {
            Ok(mark) => at::set_mtime(&mark, Time::from_system(clock::now() + REST)),
            Err(Errno::NOENT) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// True if another instance has adopted what this one had left, since it was last here.
    pub fn was_adopted(&self) -> Result<bool> {
        match stat::stat_at(&self.hosts, mark_of(&self.instance)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// What was adopted is settled.
    pub fn settle_adoption(&self) -> Result<()> {
        at::unlink(&self.hosts, OsStr::new(&mark_of(&self.instance)))
    }

    /// Looks for the two folders by their names, and makes them if they are not there: another instance that has taken this
    /// one for dead has renamed those it had. Whoever uses them meanwhile has the ones or the others.
    pub fn find_again(&self) -> Result<()> {
        let _one_at_a_time = self.finding.lock();
        let reserved = at::open_dir(&self.hosts, OsStr::new(".."))?;
        let found = folders(&reserved, &self.instance)?;
        for ((above, there), held) in found.into_iter().zip([&self.dir, &self.trash]) {
            // One that is gone may not even have attributes.
            if stat::fstat(held).map(|held| Key::of(&held)) == stat::fstat(&there).map(|there| Key::of(&there)) {
                continue;
            }
            at::fsync_dir(&above)?;
            at::exchange(held, &there)?;
            self.found.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// How often a folder was found to be another: what was put into it before is not in it.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Acquire)
    }

    /// False if the staged file is not under its name: renamed, or adopted. True if that cannot be told.
    pub fn has(&self, staged: &Staged) -> bool {
        match self.stat(&staged.name) {
            Ok(there) => there.ino == staged.ino,
            Err(errno) => errno != Errno::NOENT,
        }
    }

    /// The folder itself.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Gives back what the file system has allocated beyond the end of a staged file that stays open after its commit: what
    /// is appended to that version next could not lie behind it, and each append would be one more piece.
    pub fn trim(&self, staged: &Staged, stat: &Stat) {
        if self.allocates_ahead && stat.blocks * 512 > stat.size.next_multiple_of(4096) {
            // The close does it. Where it cannot be opened, the space stays until the last close.
            drop(at::reopen(&*staged.file, OFlags::WRONLY));
        }
    }

    /// Makes staged names durable.
    pub fn sync(&self) -> Result<()> {
        at::fsync_dir(&self.dir)
    }

    /// Where inodes lie that were taken out of the name space: `.commitfs/trash/INSTANCE`.
    pub fn trash(&self) -> BorrowedFd<'_> {
        self.trash.as_fd()
    }

    /// When this daemon began, as it stands in the names it gives.
    pub fn started(&self) -> u128 {
        self.started
    }

    /// Where the daemons that use this export say so.
    pub fn hosts(&self) -> BorrowedFd<'_> {
        self.hosts.as_fd()
    }

    /// The name of an outbox row's inode. It holds the start of this daemon, because the number alone could meet an inode
    /// whose row was lost with an earlier one.
    pub fn name_of(&self, id: DraftId) -> String {
        format!("{id}.{:x}", self.started)
    }

    /// The name of a draft's staged file, likewise.
    pub fn stage_name_of(&self, id: DraftId) -> String {
        match &self.unguessable {
            Some(secret) => format!("{id}.{:016x}.{:x}", secret.hash_one(id), self.started),
            None => self.name_of(id),
        }
    }

    /// Creates a staged file as `creds` (the daemon itself without), under a name that others may know.
    pub fn create(&self, name: &str, mode: u32, creds: Option<&Creds>) -> Result<Staged> {
        self.make(name, OFlags::EXCL, mode, creds).map(|(staged, _)| staged)
    }

    /// Creates a draft's staged file, likewise.
    pub fn create_draft(&self, name: &str, mode: u32, creds: Option<&Creds>) -> Result<Staged> {
        self.make(name, self.exclusive(), mode, creds).map(|(staged, _)| staged)
    }

    fn exclusive(&self) -> OFlags {
        if self.unguessable.is_some() { OFlags::empty() } else { OFlags::EXCL }
    }

    fn make(&self, name: &str, exclusive: OFlags, mode: u32, creds: Option<&Creds>) -> Result<(Staged, Stat)> {
        let flags = OFlags::CREATE | OFlags::RDWR | exclusive;
        let create = || self.acting(creds, || at::open_file(&self.dir, OsStr::new(name), flags, mode));
        let file = match create() {
            // Nobody else gives such names. It was made by a call that was repeated because its answer was lost.
            Err(Errno::EXIST) => {
                self.remove(name)?;
                create()?
            }
            // The folder is not there any more.
            Err(Errno::NOENT | Errno::STALE) => {
                self.find_again()?;
                create()?
            }
            other => other?,
        };
        match stat::fstat(&file) {
            // Not made just now, whoever has learned the name.
            Ok(made) if made.size > 0 || made.nlink > 1 => Err(Errno::EXIST),
            Ok(made) => Ok((Staged { file: Content::new(file), name: name.to_owned(), ino: made.ino }, made)),
            Err(errno) => {
                self.remove_failed(name);
                Err(errno)
            }
        }
    }

    fn remove_failed(&self, name: &str) {
        if let Err(left) = self.remove(name) {
            tracing::warn!(name, errno = %left, "a staged file is left to the next sweep");
        }
    }

    /// True where root is nobody on the export: only a writer's own descriptors may be written to.
    pub fn is_squashed(&self) -> bool {
        self.nobody.is_some()
    }

    /// Removes a staged file; one that is gone already is fine.
    pub fn remove(&self, name: &str) -> Result<()> {
        match at::unlink(&self.dir, OsStr::new(name)) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Opens a staged file for reading.
    pub fn read(&self, name: &str) -> Result<File> {
        at::open_file(&self.dir, OsStr::new(name), OFlags::RDONLY, 0)
    }

    /// Attributes of a staged file.
    pub fn stat(&self, name: &str) -> Result<Stat> {
        stat::stat_at(&self.dir, OsStr::new(name))
    }

    /// Runs `call` as somebody else, if the daemon can.
    pub fn acting<T>(&self, creds: Option<&Creds>, call: impl FnOnce() -> Result<T>) -> Result<T> {
        match creds {
            Some(creds) if self.privileged => {
                let _acting = Acting::begin(creds)?;
                call()
            }
            _ => call(),
        }
    }

    /// Runs a change of names that the writer's open has already been allowed: as the daemon where root is root, as
    /// the writer on a root-squashed export.
    pub fn acting_for<T>(&self, writer: Option<&Creds>, call: impl FnOnce() -> Result<T>) -> Result<T> {
        self.acting(writer.filter(|_| self.nobody.is_some()), call)
    }
}

/// The file in [`Staging::hosts`] that says that an instance was taken for dead.
pub fn mark_of(instance: &str) -> String {
    format!("{instance}.adopted")
}

/// `stage` and `trash`, each with the instance's folder in it. Names are moved to the latter by whoever unlinks them.
fn folders(reserved: &OwnedFd, instance: &str) -> Result<[(OwnedFd, OwnedFd); 2]> {
    let open = |name| {
        let above = folder(reserved, name, 0o711)?;
        stat::revalidate(&above)?;
        let own = folder(&above, instance, 0o1733)?;
        Ok((above, own))
    };
    Ok([open("stage")?, open("trash")?])
}

fn folder(parent: impl AsFd, name: &str, mode: u32) -> Result<OwnedFd> {
    let name = OsStr::new(name);
    match at::mkdir(parent.as_fd(), name, mode) {
        Ok(()) => {
            let dir = at::open_dir(parent, name)?;
            at::chmod(&dir, mode)?;
            Ok(dir)
        }
        Err(Errno::EXIST) => at::open_dir(parent, name),
        Err(other) => Err(other),
    }
}
