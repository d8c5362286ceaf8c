//! The node table: what the kernel remembers of the export, and how to reach each inode again.
//!
//! A node stands for one *version* of a regular file, or for a folder, symlink or special file. Its id is the export's
//! inode number where that is free, so that `st_ino` is stable; while the kernel still knows an older node under that
//! number, a new one gets an id from [`FIRST_SYNTHETIC`] on. The table holds exactly the nodes with look-ups that the
//! kernel has not forgotten, plus the folders above them.
//!
//! Lock order: `by_key` shard, then `by_id` shard, then a node's own locks. None is held across I/O on the export.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::{Condvar, Mutex, RwLock};
use rustix::fs::OFlags;
use smallvec::SmallVec;

use crate::sys::handle::Handle;
use crate::sys::stat::{self, Time};
use crate::sys::{Errno, Kind, Result, Stat, at, memory};

/// Id of the mount's root, fixed by the protocol.
pub const ROOT_ID: u64 = 1;

/// Ids from here on are given out by the table: drafts, and versions whose inode number is taken.
pub const FIRST_SYNTHETIC: u64 = 1 << 62;

/// Identity of an inode on the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

impl Key {
    /// The key of an inode with these attributes.
    pub fn of(stat: &Stat) -> Self {
        Key { dev: stat.dev, ino: stat.ino }
    }
}

/// How a node's inode is reached again without walking a path.
#[derive(Debug)]
enum Anchor {
    /// A held `O_PATH` descriptor.
    Fd(OwnedFd),
    /// A file handle: costs no descriptor, and on NFS keeps no name busy.
    Handle(Handle),
    /// Through the parent and the name, checked against the key: where neither of the others can be had.
    Name,
}

/// Where a node was last seen.
#[derive(Clone, Debug)]
pub struct Link {
    /// The folder; `None` for the root.
    pub parent: Option<Arc<Node>>,
    /// The name in it.
    pub name: OsString,
}

/// What, besides the key, tells one version of a regular file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ident {
    size: u64,
    mtime: Time,
}

impl Ident {
    fn of(stat: &Stat) -> Self {
        Ident { size: stat.size, mtime: stat.mtime }
    }
}

/// A folder's names are being answered to the kernel.
pub type Answering = parking_lot::ArcRwLockReadGuard<parking_lot::RawRwLock, ()>;

/// State that only folders have.
#[derive(Debug, Default)]
pub struct Folder {
    /// Held for reading from looking up a name in this folder to the end of the reply that lets the kernel cache it;
    /// taken for writing, for an instant, by whoever changed a name and is about to invalidate the kernel's entry. So
    /// an answer computed before the change cannot arrive after the invalidation.
    pub answers: Arc<RwLock<()>>,
    /// The kernel may remember the folder's times and size. Set before they are read for an answer; cleared where the
    /// kernel forgets them by itself, as it does with every name created through it.
    told: AtomicBool,
    sync: Mutex<SyncRounds>,
    synced: Condvar,
}

/// Rounds of fsync on one folder; a caller is served by any round that began after it asked.
#[derive(Debug, Default)]
struct SyncRounds {
    begun: u64,
    ended: u64,
    failed: Option<(u64, Errno)>,
}

impl Folder {
    /// The kernel has just forgotten the folder's times and size, or is about to be told to. True if it may have known
    /// them.
    pub fn forget_attributes(&self) -> bool {
        self.told.swap(false, Ordering::AcqRel)
    }

    /// Makes the folder's names durable; callers that come while a round is running share the next one.
    pub fn sync(&self, dir: impl AsFd) -> Result<()> {
        let mut rounds = self.sync.lock();
        let wanted = rounds.begun + 1;
        while rounds.ended < wanted {
            if rounds.begun > rounds.ended {
                self.synced.wait(&mut rounds);
                continue;
            }
            rounds.begun += 1;
            let round = rounds.begun;
            let result = parking_lot::MutexGuard::unlocked(&mut rounds, || at::fsync_dir(dir.as_fd()));
            rounds.ended = round;
            if let Err(errno) = result {
                rounds.failed = Some((round, errno));
            }
            self.synced.notify_all();
        }
        match rounds.failed {
            Some((round, errno)) if round >= wanted => Err(errno),
            _ => Ok(()),
        }
    }
}

/// One inode that the kernel knows.
#[derive(Debug)]
pub struct Node {
    /// The node id of the protocol.
    pub id: u64,
    /// The inode on the export.
    pub key: Key,
    /// Its type.
    pub kind: Kind,
    /// Present for folders.
    pub folder: Option<Box<Folder>>,
    anchor: Anchor,
    seen: Mutex<Seen>,
    nlookup: AtomicU64,
    /// Open descriptors through which the file is written in place (`direct` mode).
    pub writers_in_place: AtomicU32,
    /// Processes that execute the file, as far as their descriptors are open.
    pub executed: AtomicU32,
    /// Its only name is one in the trash folder, or the folder was removed whole.
    gone: AtomicBool,
}

/// What was seen last of a node. There may be a million of them: most names fit in here.
#[derive(Debug)]
struct Seen {
    parent: Option<Arc<Node>>,
    name: SmallVec<[u8; 24]>,
    ident: Ident,
}

impl Node {
    /// Where the node was last seen.
    pub fn link(&self) -> Link {
        let seen = self.seen.lock();
        Link { parent: seen.parent.clone(), name: OsStr::from_bytes(&seen.name).to_owned() }
    }

    /// Records that the node now has this name.
    pub fn set_link(&self, parent: &Arc<Node>, name: &OsStr) {
        let mut seen = self.seen.lock();
        if seen.name[..] != *name.as_bytes() {
            seen.name = SmallVec::from_slice(name.as_bytes());
        }
        if !seen.parent.as_ref().is_some_and(|p| Arc::ptr_eq(p, parent)) {
            let old = seen.parent.replace(parent.clone());
            drop(seen);
            // The last reference to a folder may go with it, and takes locks of its own.
            drop(old);
        }
    }

    /// Path relative to the mount, without a leading slash, as last seen; empty for the root.
    pub fn path(&self) -> Vec<u8> {
        let link = self.link();
        match link.parent {
            Some(parent) => parent.path_of(&link.name),
            None => Vec::new(),
        }
    }

    /// Path of `name` in this folder.
    pub fn path_of(&self, name: &OsStr) -> Vec<u8> {
        let mut path = self.path();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        path
    }

    /// True for `folder` itself and everything below it, as last seen.
    pub fn is_below(&self, folder: &Node) -> bool {
        if self.id == folder.id {
            return true;
        }
        let mut above = self.link().parent;
        while let Some(node) = above {
            if node.id == folder.id {
                return true;
            }
            above = node.link().parent;
        }
        false
    }

    /// State of a folder; `ENOTDIR` for anything else.
    pub fn as_folder(&self) -> Result<&Folder> {
        self.folder.as_deref().ok_or(Errno::NOTDIR)
    }

    /// The node's attributes are about to be read for the kernel to remember.
    pub fn telling(&self) {
        if let Some(folder) = &self.folder {
            folder.told.store(true, Ordering::Release);
        }
    }

    /// Attributes as they would be without the name in the trash folder.
    pub fn without_trash(&self, mut stat: Stat) -> Stat {
        if self.gone.load(Ordering::Acquire) {
            stat.nlink = stat.nlink.saturating_sub(1);
        }
        stat
    }

    /// Records the attributes after a change made through this node: they are no new version.
    pub fn note(&self, stat: &Stat) {
        self.seen.lock().ident = Ident::of(stat);
    }

    /// True if these are the attributes of this node's inode, and of the same version of it.
    pub fn is_as(&self, stat: &Stat) -> bool {
        self.key == Key::of(stat)
            && self.kind == stat.kind
            && (stat.kind != Kind::File
                || self.writers_in_place.load(Ordering::Acquire) > 0
                || self.seen.lock().ident == Ident::of(stat))
    }

    fn is_same(&self, stat: &Stat, handle: Option<&Handle>) -> bool {
        if let (Anchor::Handle(mine), Some(other)) = (&self.anchor, handle)
            && mine != other
        {
            return false;
        }
        self.is_as(stat)
    }
}

/// A descriptor of a node's inode: a held one or one opened for the occasion.
#[derive(Debug)]
pub enum NodeFd<'a> {
    /// The table's own.
    Held(BorrowedFd<'a>),
    /// Closed with this value.
    Opened(OwnedFd),
}

impl AsFd for NodeFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            NodeFd::Held(fd) => fd.as_fd(),
            NodeFd::Opened(fd) => fd.as_fd(),
        }
    }
}

/// All nodes of a mount.
#[derive(Debug)]
pub struct NodeTable {
    root: Arc<Node>,
    by_id: DashMap<u64, Arc<Node>>,
    by_key: DashMap<Key, Arc<Node>>,
    next_synthetic: AtomicU64,
    /// Descriptors that may still be held.
    fd_budget: AtomicI64,
    /// Folders removed whole that the kernel still knows, or knew: while there are none, nobody has to look.
    gone_folders: AtomicUsize,
    /// Files that are written in place, with the size at which folder totals count them.
    in_place: DashMap<Key, u64>,
    handles: bool,
    /// The most nodes since memory was given back last.
    peak: AtomicUsize,
}

impl NodeTable {
    /// A table over the export's root folder; at most `fd_budget` descriptors are held for nodes.
    pub fn new(root: OwnedFd, fd_budget: i64) -> Result<Self> {
        let stat = stat::fstat(&root)?;
        let handles = Handle::of(&root).and_then(|h| h.open(&root, OFlags::PATH)).is_ok();
        let root = Arc::new(Node {
            id: ROOT_ID,
            key: Key::of(&stat),
            kind: Kind::Dir,
            folder: Some(Box::default()),
            anchor: Anchor::Fd(root),
            seen: Mutex::new(Seen { parent: None, name: SmallVec::new(), ident: Ident::of(&stat) }),
            nlookup: AtomicU64::new(1),
            writers_in_place: AtomicU32::new(0),
            executed: AtomicU32::new(0),
            gone: AtomicBool::new(false),
        });
        let table = NodeTable {
            root: root.clone(),
            by_id: DashMap::new(),
            by_key: DashMap::new(),
            next_synthetic: AtomicU64::new(FIRST_SYNTHETIC),
            fd_budget: AtomicI64::new(fd_budget),
            gone_folders: AtomicUsize::new(0),
            in_place: DashMap::new(),
            handles,
            peak: AtomicUsize::new(0),
        };
        table.by_key.insert(root.key, root.clone());
        table.by_id.insert(ROOT_ID, root);
        Ok(table)
    }

    /// The export's root.
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// Nodes that the kernel remembers.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Gives the memory of forgotten nodes back to the system, once most of many are gone.
    pub fn give_back(&self) {
        const MANY: usize = 50_000;
        let now = self.len();
        let peak = self.peak.fetch_max(now, Ordering::Relaxed).max(now);
        if peak < MANY || now > peak / 4 {
            return;
        }
        self.peak.store(now, Ordering::Relaxed);
        self.by_id.shrink_to_fit();
        self.by_key.shrink_to_fit();
        memory::give_back();
    }

    /// Never true: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// A node id that no inode number can collide with.
    pub fn fresh_id(&self) -> u64 {
        self.next_synthetic.fetch_add(1, Ordering::Relaxed)
    }

    /// The node with this id; `ESTALE` when the table does not know it.
    pub fn get(&self, id: u64) -> Result<Arc<Node>> {
        self.by_id.get(&id).map(|node| node.clone()).ok_or(Errno::STALE)
    }

    /// A descriptor of the node's inode, good for `*at` calls and attributes.
    pub fn fd<'a>(&self, node: &'a Node) -> Result<NodeFd<'a>> {
        match &node.anchor {
            Anchor::Fd(fd) => Ok(NodeFd::Held(fd.as_fd())),
            Anchor::Handle(handle) => handle.open(self.mount_fd(), OFlags::PATH).map(NodeFd::Opened),
            Anchor::Name => self.fd_by_name(node).map(NodeFd::Opened),
        }
    }

    /// Opens the content of a regular file.
    pub fn open(&self, node: &Node, flags: OFlags) -> Result<File> {
        match &node.anchor {
            Anchor::Fd(fd) => at::reopen(fd, flags),
            Anchor::Handle(handle) => handle.open_file(self.mount_fd(), flags),
            Anchor::Name => at::reopen(self.fd_by_name(node)?, flags),
        }
    }

    /// Finds `name` in `parent` on the export and counts one look-up of the node.
    pub fn lookup(&self, parent: &Arc<Node>, name: &OsStr) -> Result<(Arc<Node>, Stat)> {
        let fd = at::open_path(self.fd(parent)?, name)?;
        let stat = stat::fstat(&fd)?;
        Ok((self.remember(parent, name, fd, &stat), stat))
    }

    /// Records attributes after a change made through the mount on an inode that may have a node.
    pub fn note(&self, stat: &Stat) {
        if let Some(node) = self.by_key.get(&Key::of(stat)) {
            node.note(stat);
        }
    }

    /// Records that an inode now has this name; returns its node if it has one.
    pub fn moved(&self, stat: &Stat, parent: &Arc<Node>, name: &OsStr) -> Option<Arc<Node>> {
        let node = self.by_key.get(&Key::of(stat)).map(|node| node.clone())?;
        node.set_link(parent, name);
        Some(node)
    }

    /// A descriptor for writing in place is opened; `size` is the file's before anything was written through it.
    pub fn begin_in_place(&self, node: &Node, size: u64) {
        if node.writers_in_place.fetch_add(1, Ordering::AcqRel) == 0 {
            self.in_place.insert(node.key, size);
        }
    }

    /// Such a descriptor is gone, and the file has `size` bytes now; returns the size that counted before.
    pub fn end_in_place(&self, node: &Node, size: u64) -> u64 {
        let counted = self.in_place.insert(node.key, size).unwrap_or(size);
        if node.writers_in_place.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.in_place.remove(&node.key);
        }
        counted
    }

    /// The size at which folder totals count a file that is being written in place.
    pub fn counted(&self, key: Key) -> Option<u64> {
        if self.in_place.is_empty() { None } else { self.in_place.get(&key).map(|size| *size) }
    }

    /// An inode has lost its name to the trash folder: it has one link less than its attributes say.
    pub fn retire(&self, key: Key) {
        if let Some(node) = self.by_key.get(&key)
            && !node.gone.swap(true, Ordering::AcqRel)
            && node.kind == Kind::Dir
        {
            self.gone_folders.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// An inode is back from the trash folder.
    pub fn reinstate(&self, key: Key) {
        if let Some(node) = self.by_key.get(&key)
            && node.gone.swap(false, Ordering::AcqRel)
            && node.kind == Kind::Dir
        {
            self.gone_folders.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// True for a folder that was removed whole, and everything below it, as last seen.
    pub fn is_gone(&self, folder: &Arc<Node>) -> bool {
        if self.gone_folders.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut above = Some(folder.clone());
        while let Some(node) = above {
            if node.gone.load(Ordering::Acquire) {
                return true;
            }
            above = node.link().parent;
        }
        false
    }

    /// Takes `count` look-ups back; a node without any is gone.
    pub fn forget(&self, id: u64, count: u64) {
        let Ok(node) = self.get(id) else { return };
        if id == ROOT_ID {
            return;
        }
        let removed = match self.by_key.entry(node.key) {
            Entry::Occupied(current) => {
                let gone = drop_lookups(&node, count);
                if gone {
                    if Arc::ptr_eq(current.get(), &node) {
                        current.remove();
                    }
                    self.by_id.remove(&id)
                } else {
                    None
                }
            }
            Entry::Vacant(_) => drop_lookups(&node, count).then(|| self.by_id.remove(&id)).flatten(),
        };
        if removed.is_some() && matches!(node.anchor, Anchor::Fd(_)) {
            self.fd_budget.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn mount_fd(&self) -> BorrowedFd<'_> {
        match &self.root.anchor {
            Anchor::Fd(fd) => fd.as_fd(),
            Anchor::Handle(_) | Anchor::Name => unreachable!("the root holds its descriptor"),
        }
    }

    fn fd_by_name(&self, node: &Node) -> Result<OwnedFd> {
        let link = node.link();
        let parent = link.parent.ok_or(Errno::STALE)?;
        let fd = at::open_path(self.fd(&parent)?, &link.name)?;
        if Key::of(&stat::fstat(&fd)?) == node.key { Ok(fd) } else { Err(Errno::STALE) }
    }

    /// The node of an inode just opened under a name, with one look-up counted.
    fn remember(&self, parent: &Arc<Node>, name: &OsStr, fd: OwnedFd, stat: &Stat) -> Arc<Node> {
        let key = Key::of(stat);
        let handle = (self.handles && key.dev == self.root.key.dev).then(|| Handle::of(&fd).ok()).flatten();
        let node = match self.by_key.entry(key) {
            Entry::Occupied(mut current) => {
                if current.get().is_same(stat, handle.as_ref()) {
                    current.get().nlookup.fetch_add(1, Ordering::Relaxed);
                    current.get().clone()
                } else {
                    let node = self.new_node(parent, name, fd, handle, stat);
                    current.insert(node.clone());
                    node
                }
            }
            Entry::Vacant(vacant) => {
                let node = self.new_node(parent, name, fd, handle, stat);
                vacant.insert(node.clone());
                node
            }
        };
        if node.id != ROOT_ID {
            node.set_link(parent, name);
        }
        if node.writers_in_place.load(Ordering::Acquire) > 0 {
            node.note(stat);
        }
        node
    }

    fn new_node(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        fd: OwnedFd,
        handle: Option<Handle>,
        stat: &Stat,
    ) -> Arc<Node> {
        // Folders are used at every look-up below them and are few: they hold a descriptor while there are enough.
        let anchor = match handle {
            Some(handle) if stat.kind != Kind::Dir || !self.take_fd() => Anchor::Handle(handle),
            Some(_) => Anchor::Fd(fd),
            None if self.take_fd() => Anchor::Fd(fd),
            None => Anchor::Name,
        };
        let build = |id| {
            Arc::new(Node {
                id,
                key: Key::of(stat),
                kind: stat.kind,
                folder: (stat.kind == Kind::Dir).then(Box::default),
                anchor,
                seen: Mutex::new(Seen {
                    parent: Some(parent.clone()),
                    name: SmallVec::from_slice(name.as_bytes()),
                    ident: Ident::of(stat),
                }),
                nlookup: AtomicU64::new(1),
                writers_in_place: AtomicU32::new(0),
                executed: AtomicU32::new(0),
                gone: AtomicBool::new(false),
            })
        };
        if stat.ino > ROOT_ID
            && stat.ino < FIRST_SYNTHETIC
            && stat.dev == self.root.key.dev
            && let Entry::Vacant(free) = self.by_id.entry(stat.ino)
        {
            return free.insert(build(stat.ino)).clone();
        }
        let node = build(self.fresh_id());
        self.by_id.insert(node.id, node.clone());
        node
    }

    fn take_fd(&self) -> bool {
        let taken = self.fd_budget.fetch_sub(1, Ordering::Relaxed) > 0;
        if !taken {
            self.fd_budget.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

fn drop_lookups(node: &Node, count: u64) -> bool {
    let before = node.nlookup.fetch_sub(count, Ordering::AcqRel);
    debug_assert!(before >= count, "the kernel forgot more than it looked up");
    before <= count
}

/// The path as an `OsString`, for messages.
pub fn display_path(path: &[u8]) -> String {
    OsString::from_vec(path.to_vec()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn table(dir: &std::path::Path) -> NodeTable {
        NodeTable::new(at::open_dir(rustix::fs::CWD, dir.as_os_str()).unwrap(), 100).unwrap()
    }

    #[test]
    fn a_node_lives_as_long_as_its_lookups() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::write(dir.path().join("f"), "1").unwrap();
        let table = table(dir.path());
        let root = table.root().clone();
        let (a, stat) = table.lookup(&root, OsStr::new("f")).unwrap();
        let (b, _) = table.lookup(&root, OsStr::new("f")).unwrap();
        assert!(Arc::ptr_eq(&a, &b));
        assert_eq!(a.id, stat.ino);
        table.forget(a.id, 1);
        assert!(table.get(a.id).is_ok());
        table.forget(a.id, 1);
        assert_eq!(table.get(a.id).unwrap_err(), Errno::STALE);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_file_changed_from_outside_is_a_new_version_with_a_new_id() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::write(dir.path().join("f"), "1").unwrap();
        let table = table(dir.path());
        let root = table.root().clone();
        let (old, _) = table.lookup(&root, OsStr::new("f")).unwrap();
        fs::write(dir.path().join("f"), "longer").unwrap();
        let (new, stat) = table.lookup(&root, OsStr::new("f")).unwrap();
        assert_ne!(old.id, new.id);
        assert_eq!(new.key, Key::of(&stat));
        table.forget(old.id, 1);
        let (again, _) = table.lookup(&root, OsStr::new("f")).unwrap();
        assert_eq!(again.id, new.id, "forgetting the old version does not touch the new one");
    }

    #[test]
    fn rounds_of_sync_serve_everybody() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let table = table(dir.path());
        let root = table.root();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        root.as_folder().unwrap().sync(table.fd(root).unwrap()).unwrap();
                    }
                });
            }
        });
    }
}
