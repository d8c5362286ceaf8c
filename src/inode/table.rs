//! The table itself: looking inodes up, and forgetting them.

mod reach;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use smallvec::SmallVec;

use super::readers::Users;
use super::{Anchor, FIRST_SYNTHETIC, Ident, Key, Node, ROOT_ID, Rights, Seen};
use crate::sys::handle::Handle;
use crate::sys::{Errno, Kind, Result, Stat, at, memory, mount, stat};

/// How often a name is looked up that is stale when its attributes are asked for, because it was just replaced. Told of
/// that, the kernel would repeat the whole call, once: an open would lack that repetition, a creation find its own name.
const LOOKS: u32 = 4;

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
    /// A further call on a name costs little: the export is not on a network.
    local: bool,
    nfs: bool,
    /// Who uses versions, where a name that is in use is replaced in two steps.
    users: Option<Arc<Users>>,
    /// The most nodes since memory was given back last.
    peak: AtomicUsize,
}

impl NodeTable {
    /// A table over the export's root folder; at most `fd_budget` descriptors are held for nodes.
    pub fn new(root: OwnedFd, fd_budget: i64) -> Result<Self> {
        let stat = stat::fstat(&root)?;
        let handles = Handle::of(&root).and_then(|h| h.open(&root, OFlags::PATH)).is_ok();
        let (nfs, set_aside) = (mount::is_nfs(&root)?, mount::sets_aside(&root)?);
        let root = Arc::new(Node {
            id: ROOT_ID,
            key: Key::of(&stat),
            kind: Kind::Dir,
            folder: Some(Box::default()),
            anchor: Anchor::Fd(root),
            seen: Mutex::new(Seen {
                parent: None,
                name: SmallVec::new(),
                renamed: false,
                ident: Ident::of(&stat),
                told: stat.mtime,
                rights: Rights::of(&stat),
            }),
            nlookup: AtomicU64::new(1),
            writers_in_place: AtomicU32::new(0),
            written_in_place: AtomicBool::new(false),
            is_database: AtomicBool::new(false),
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
            local: handles && !nfs,
            nfs,
            users: set_aside.map(|_| Arc::default()),
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

    /// Finds `name` in `parent` on the export and counts one look-up of the node. `EINVAL` for what is no name of an entry:
    /// it would lead out of the export, or make a folder its own parent.
    pub fn lookup(&self, parent: &Arc<Node>, name: &OsStr) -> Result<(Arc<Node>, Stat)> {
        at::check_name(name)?;
        let dir = self.fd(parent)?;
        if self.local
            && let Some(known) = self.lookup_known(parent, dir.as_fd(), name)?
        {
            return Ok(known);
        }
        let mut again = LOOKS;
        let (fd, stat) = loop {
            again -= 1;
            match at::open_path(&dir, name).and_then(|fd| stat::fstat(&fd).map(|stat| (fd, stat))) {
                Err(Errno::STALE) if again > 0 => stat::revalidate(&dir)?,
                found => break found?,
            }
        };
        Ok((self.remember(parent, name, fd, &stat), stat))
    }

    /// The look-up of an inode that has a node already, without opening it: two calls instead of four. `None` if what is
    /// there is not that inode for sure.
    fn lookup_known(&self, parent: &Arc<Node>, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<(Arc<Node>, Stat)>> {
        let stat = stat::stat_at(dir, name)?;
        let known = |node: &Arc<Node>| matches!(node.anchor, Anchor::Handle(_)) && node.is_as(&stat);
        let Some(node) = self.by_key.get(&Key::of(&stat)).filter(|node| known(node)).map(|node| node.clone()) else {
            return Ok(None);
        };
        // The name may have been replaced since: then this is the handle of another inode.
        let Ok(handle) = Handle::at(dir, name) else { return Ok(None) };
        let counted = self.by_key.get(&node.key).is_some_and(|current| {
            let same = Arc::ptr_eq(&current, &node) && node.is_same(&stat, Some(&handle));
            if same {
                // Under the lock of the shard: nobody forgets the node's last look-up meanwhile.
                node.nlookup.fetch_add(1, Ordering::Relaxed);
            }
            same
        });
        if !counted {
            return Ok(None);
        }
        node.set_link(parent, name, &stat);
        Ok(Some((node, stat)))
    }

    /// The node of an inode, if the kernel knows one.
    pub fn of(&self, key: Key) -> Option<Arc<Node>> {
        self.by_key.get(&key).map(|node| node.clone())
    }

    /// Records that an inode has got this name by a rename; returns its node if it has one.
    pub fn moved(&self, stat: &Stat, parent: &Arc<Node>, name: &OsStr) -> Option<Arc<Node>> {
        let node = self.of(Key::of(stat))?;
        node.set_link(parent, name, stat);
        node.seen.lock().renamed = true;
        Some(node)
    }

    /// A descriptor for writing in place is opened; `size` is the file's before anything was written through it.
    pub fn begin_in_place(&self, node: &Node, size: u64) {
        node.written_in_place.store(true, Ordering::Release);
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

    /// Files that are being written in place.
    pub fn in_place(&self) -> Vec<Key> {
        self.in_place.iter().map(|entry| *entry.key()).collect()
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
    pub fn is_gone(&self, folder: &Node) -> bool {
        if self.gone_folders.load(Ordering::Acquire) == 0 {
            return false;
        }
        let is_gone = |node: &Node| node.gone.load(Ordering::Acquire);
        let (mut found, mut above) = (is_gone(folder), folder.link().parent);
        while let Some(node) = above.filter(|_| !found) {
            found = is_gone(&node);
            above = node.link().parent;
        }
        found
    }

    /// True for a folder that may lie in another, or be it, as last seen: of one that the kernel has forgotten nobody knows.
    pub fn may_be_within(&self, folder: Key, above: &Node) -> bool {
        self.of(folder).is_none_or(|node| node.is_below(above))
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
            node.set_link(parent, name, stat);
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
                    renamed: false,
                    ident: Ident::of(stat),
                    told: stat.mtime,
                    rights: Rights::of(stat),
                }),
                nlookup: AtomicU64::new(1),
                writers_in_place: AtomicU32::new(0),
                written_in_place: AtomicBool::new(false),
                is_database: AtomicBool::new(false),
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
