//! The node table: what the kernel remembers of the export, and how to reach each inode again.
//!
//! A node stands for one *version* of a regular file, or for a folder, symlink or special file. Its id is the export's
//! inode number where that is free, so that `st_ino` is stable; while the kernel still knows an older node under that
//! number, a new one gets an id from [`FIRST_SYNTHETIC`] on. The table holds exactly the nodes with look-ups that the
//! kernel has not forgotten, plus the folders above them.
//!
//! Lock order: `by_key` shard, then `by_id` shard, then a node's own locks. None is held across I/O on the export.

mod folder;
mod readers;
mod table;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::sys::handle::Handle;
use crate::sys::stat::Time;
use crate::sys::{Errno, Kind, Result, Stat};

pub use folder::Folder;
pub use readers::{Content, Using};
pub use table::NodeTable;

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

/// Folders get their parents one at a time: two at once could each come to lie in the other. Taken before a node's own locks.
static MOVING: Mutex<()> = Mutex::new(());

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
    /// There was one, under whatever name.
    pub written_in_place: AtomicBool,
    /// Its content has been found to be a database.
    pub is_database: AtomicBool,
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
    /// It got that name by a rename.
    renamed: bool,
    ident: Ident,
    /// The modification time that the kernel has, where it takes none that an answer has.
    told: Time,
    rights: Rights,
}

/// Who may do what.
#[derive(Clone, Copy, Debug)]
struct Rights {
    perm: u32,
    uid: u32,
    gid: u32,
    is_fixed: bool,
}

impl Rights {
    fn of(stat: &Stat) -> Self {
        Rights { perm: stat.perm, uid: stat.uid, gid: stat.gid, is_fixed: stat.is_fixed() }
    }
}

impl Node {
    /// Where the node was last seen.
    pub fn link(&self) -> Link {
        let seen = self.seen.lock();
        Link { parent: seen.parent.clone(), name: OsStr::from_bytes(&seen.name).to_owned() }
    }

    /// Records that the node now has this name, and what it looked like there.
    pub fn set_link(&self, parent: &Arc<Node>, name: &OsStr, stat: &Stat) {
        let turn = (self.kind == Kind::Dir).then(|| MOVING.lock());
        if turn.is_some() && !self.is_in(parent) && parent.is_below(self) {
            // Folders above were moved on the export, and nobody has looked them up since: until then this one stays where
            // it was, too. Otherwise a walk up would never end.
            tracing::debug!(node = self.id, "seen in a folder that was last seen below it");
            return;
        }
        let mut seen = self.seen.lock();
        seen.rights = Rights::of(stat);
        let same_folder = seen.parent.as_ref().is_some_and(|p| Arc::ptr_eq(p, parent));
        let same = same_folder && seen.name[..] == *name.as_bytes();
        seen.renamed &= same;
        if let Some(folder) = &self.folder
            && !same
        {
            folder.moved();
        }
        if seen.name[..] != *name.as_bytes() {
            seen.name = SmallVec::from_slice(name.as_bytes());
        }
        if !same_folder {
            let old = seen.parent.replace(parent.clone());
            drop(seen);
            // The last reference to a folder may go with it, and takes locks of its own.
            drop(old);
        }
    }

    /// Where the node was last seen, if it got that name by a rename.
    pub fn renamed_to(&self) -> Option<Link> {
        let renamed = self.seen.lock().renamed;
        renamed.then(|| self.link())
    }

    fn is_in(&self, folder: &Arc<Node>) -> bool {
        self.seen.lock().parent.as_ref().is_some_and(|parent| Arc::ptr_eq(parent, folder))
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
        // A loop: folders may lie deeper in each other than a thread's stack is.
        let mut names = vec![name.to_owned()];
        let mut above = self.link();
        while let Some(parent) = above.parent {
            names.push(above.name);
            above = parent.link();
        }
        names.reverse();
        names.join(OsStr::new("/")).into_vec()
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

    /// Attributes as they would be without the name in the trash folder, and without that of the reserved folder where
    /// the file system counts folders.
    pub fn without_hidden(&self, mut stat: Stat) -> Stat {
        if self.id == ROOT_ID && stat.nlink > 2 {
            stat.nlink -= 1;
        }
        if self.gone.load(Ordering::Acquire) {
            stat.nlink = stat.nlink.saturating_sub(1);
        }
        stat
    }

    /// Records the attributes after a change made through this node: they are no new version.
    pub fn note(&self, stat: &Stat) {
        self.seen.lock().ident = Ident::of(stat);
    }

    /// Records a write in place that ended at `end`. The size stays what the kernel believes, which adds up its own writes
    /// and takes nobody's word for others': what somebody else has added is for [`Node::has_grown`] to find.
    pub fn note_written(&self, stat: &Stat, end: u64) {
        let mut seen = self.seen.lock();
        seen.ident = Ident { size: seen.ident.size.max(end), mtime: stat.mtime };
    }

    /// Records that the kernel believes in this size at least.
    pub fn note_size(&self, size: u64) {
        let mut seen = self.seen.lock();
        seen.ident.size = seen.ident.size.max(size);
    }

    /// True if the file is larger than the kernel may believe.
    pub fn has_grown(&self, stat: &Stat) -> bool {
        self.kind == Kind::File && stat.size > self.seen.lock().ident.size
    }

    /// True if the file is smaller than the kernel believes.
    pub fn has_shrunk(&self, stat: &Stat) -> bool {
        self.kind == Kind::File && stat.size < self.seen.lock().ident.size
    }

    /// Records that the kernel has this modification time, set by itself.
    pub fn note_told(&self, time: Time) {
        self.seen.lock().told = time;
    }

    /// True if the kernel has this modification time from the export.
    pub fn was_told(&self, time: Time) -> bool {
        self.seen.lock().told == time
    }

    /// True if the file's modification time is not the one that the kernel has, where it takes none that an answer has.
    pub fn has_moved_on(&self, stat: &Stat) -> bool {
        self.kind == Kind::File && stat.mtime != self.seen.lock().told
    }

    /// Records who may do what.
    pub fn note_rights(&self, stat: &Stat) {
        self.seen.lock().rights = Rights::of(stat);
    }

    /// True if no rename may replace it, as last seen.
    pub fn is_fixed(&self) -> bool {
        self.seen.lock().rights.is_fixed
    }

    /// What is known of an inode that cannot be reached any more.
    pub fn remains(&self) -> Stat {
        let Seen { ident: Ident { size, mtime }, rights: Rights { perm, uid, gid, .. }, .. } = *self.seen.lock();
        Stat {
            dev: self.key.dev,
            ino: self.key.ino,
            kind: self.kind,
            perm,
            nlink: 0,
            uid,
            gid,
            rdev: 0,
            size,
            blocks: size.div_ceil(512),
            blksize: 0,
            is_immutable: false,
            is_append_only: false,
            atime: mtime,
            mtime,
            ctime: mtime,
        }
    }

    /// Bytes, as last seen.
    pub fn size(&self) -> u64 {
        self.seen.lock().ident.size
    }

    /// True if this is the modification time that the node was told or seen with.
    pub fn has_mtime(&self, time: Time) -> bool {
        self.seen.lock().ident.mtime == time
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
        let other_inode = handle.is_some_and(|other| match &self.anchor {
            Anchor::Handle(mine) => mine != other,
            // A folder that another host removed may have left its inode number to the next one; NFS has no handle of
            // it any more.
            Anchor::Fd(fd) => Handle::of(fd).map_or(true, |mine| mine != *other),
            Anchor::Name => false,
        });
        !other_inode && self.is_as(stat)
    }
}

impl Drop for Node {
    /// One by one: with the last node of a chain the folders above it may go, more of them than a stack takes.
    fn drop(&mut self) {
        let mut above = self.seen.get_mut().parent.take();
        while let Some(mut node) = above.and_then(Arc::into_inner) {
            above = node.seen.get_mut().parent.take();
        }
    }
}

/// A descriptor of a node's inode: a held one or one opened for the occasion.
#[derive(Debug)]
pub enum NodeFd<'a> {
    /// The table's own.
    Held(BorrowedFd<'a>),
    /// Closed with this value.
    Opened(OwnedFd, Option<Using>),
}

impl AsFd for NodeFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            NodeFd::Held(fd) => fd.as_fd(),
            NodeFd::Opened(fd, _) => fd.as_fd(),
        }
    }
}

/// The path as an `OsString`, for messages.
pub fn display_path(path: &[u8]) -> String {
    OsString::from_vec(path.to_vec()).to_string_lossy().into_owned()
}
