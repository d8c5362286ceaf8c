//! A disk with a cache before it. What was written is in the cache; what an fsync has brought to the disk survives
//! [`Disk::cut`].
//!
//! The model is the weakest that POSIX, and renames that are atomic, allow: fsync of a file makes its content and its
//! attributes durable and none of its names; fsync of a folder makes durable the changes of names that touch it, and of
//! earlier changes only those on which these build. A rename between two folders is one change of both.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::FileType;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

pub type Outcome<T> = Result<T, Errno>;

/// The root folder. It holds a folder for each realm.
pub const ROOT: u64 = 1;

const PAGE: usize = 4096;

/// What lies on the disk: faults are for one of them at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realm {
    Export,
    State,
}

/// What is left of a realm when the power comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Everything: only the programs are gone.
    Nothing,
    /// Names are as they were last, content is as of its last fsync: of a new file, nothing.
    Content,
    /// Names and content are as of the last fsync of each.
    All,
}

/// Bytes in pages that clones share.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pages: Vec<Arc<[u8; PAGE]>>,
    len: usize,
}

impl Content {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let end = offset.saturating_add(len).min(self.len);
        let mut data = Vec::with_capacity(end.saturating_sub(offset));
        let mut at = offset;
        while at < end {
            let upto = (PAGE - at % PAGE).min(end - at);
            data.extend_from_slice(&self.pages[at / PAGE][at % PAGE..][..upto]);
            at += upto;
        }
        data
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        if offset + data.len() > self.len {
            self.resize(offset + data.len());
        }
        let mut done = 0;
        while done < data.len() {
            let at = offset + done;
            let upto = (PAGE - at % PAGE).min(data.len() - done);
            let page = Arc::make_mut(&mut self.pages[at / PAGE]);
            page[at % PAGE..][..upto].copy_from_slice(&data[done..][..upto]);
            done += upto;
        }
    }

    pub fn resize(&mut self, len: usize) {
        if len < self.len && !len.is_multiple_of(PAGE) {
            Arc::make_mut(&mut self.pages[len / PAGE])[len % PAGE..].fill(0);
        }
        self.pages.resize_with(len.div_ceil(PAGE), || Arc::new([0; PAGE]));
        self.len = len;
    }
}

/// A file, folder or link without its names.
#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: FileType,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub content: Content,
    /// Of a symbolic link.
    pub target: OsString,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    /// `None` for the root.
    pub realm: Option<Realm>,
}

impl Inode {
    pub fn new(kind: FileType, perm: u32, uid: u32, gid: u32) -> Inode {
        let now = SystemTime::now();
        Inode {
            kind,
            perm: (perm & 0o7777) as u16,
            uid,
            gid,
            rdev: 0,
            content: Content::default(),
            target: OsString::new(),
            xattrs: BTreeMap::new(),
            atime: now,
            mtime: now,
            ctime: now,
            realm: None,
        }
    }
}

type Place = (u64, OsString);
type Names = BTreeMap<Place, u64>;
/// What places hold after one change of names, which happens as a whole.
type Change = Vec<(Place, Option<u64>)>;

/// Cache and disk. Clones share content.
#[derive(Clone, Debug)]
pub struct Disk {
    inodes: BTreeMap<u64, Arc<Inode>>,
    names: Names,
    /// Each inode as its last fsync, or its creation, left it.
    durable: BTreeMap<u64, Arc<Inode>>,
    durable_names: Names,
    /// Changes that are not durable yet, oldest first.
    pending: Vec<Change>,
    next: u64,
}

impl Disk {
    /// An empty disk with its two realms.
    pub fn new() -> Disk {
        let mut disk = Disk {
            inodes: BTreeMap::new(),
            names: Names::new(),
            durable: BTreeMap::new(),
            durable_names: Names::new(),
            pending: Vec::new(),
            next: ROOT + 1,
        };
        let root = Arc::new(Inode::new(FileType::Directory, 0o755, 0, 0));
        disk.inodes.insert(ROOT, root.clone());
        disk.durable.insert(ROOT, root);
        for (name, realm) in [("export", Realm::Export), ("state", Realm::State)] {
            let folder = Inode::new(FileType::Directory, 0o755, 0, 0);
            let ino = disk.create(ROOT, OsStr::new(name), folder).expect("an empty disk");
            Arc::make_mut(disk.inodes.get_mut(&ino).expect("just made")).realm = Some(realm);
            disk.sync(ino);
        }
        disk.sync(ROOT);
        disk
    }

    pub fn inode(&self, ino: u64) -> Outcome<&Inode> {
        self.inodes.get(&ino).map(|inode| &**inode).ok_or(Errno::STALE)
    }

    /// For changing it; its time of change is now.
    pub fn inode_mut(&mut self, ino: u64) -> Outcome<&mut Inode> {
        let inode = Arc::make_mut(self.inodes.get_mut(&ino).ok_or(Errno::STALE)?);
        inode.ctime = SystemTime::now();
        Ok(inode)
    }

    pub fn realm(&self, ino: u64) -> Option<Realm> {
        self.inodes.get(&ino).and_then(|inode| inode.realm)
    }

    /// Names of the inode; a folder has one more in itself and one in each folder in it.
    pub fn links(&self, ino: u64) -> u32 {
        let names = self.names.values().filter(|named| **named == ino).count() as u32;
        match self.inodes.get(&ino) {
            Some(inode) if inode.kind == FileType::Directory => {
                let below = self.entries(ino).filter(|(_, _, kind)| *kind == FileType::Directory).count();
                names.min(1) + 1 + below as u32
            }
            _ => names,
        }
    }

    pub fn find(&self, dir: u64, name: &OsStr) -> Outcome<u64> {
        if self.inode(dir)?.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        self.names.get(&place(dir, name)).copied().ok_or(Errno::NOENT)
    }

    /// The folder's names with what they hold.
    pub fn entries(&self, dir: u64) -> impl Iterator<Item = (&OsStr, u64, FileType)> {
        let held = self.names.range((dir, OsString::new())..(dir + 1, OsString::new()));
        held.map(|((_, name), ino)| (name.as_os_str(), *ino, self.inodes[ino].kind))
    }

    /// The folder above a folder.
    pub fn above(&self, dir: u64) -> u64 {
        self.names.iter().find(|(_, ino)| **ino == dir).map_or(ROOT, |((above, _), _)| *above)
    }

    /// For messages: one name of the inode, from the root.
    pub fn path(&self, ino: u64) -> String {
        let mut path = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let Some(((above, name), _)) = self.names.iter().find(|(_, named)| **named == at) else {
                path.push("(no name)".to_owned());
                break;
            };
            path.push(name.to_string_lossy().into_owned());
            at = *above;
        }
        path.reverse();
        path.join("/")
    }

    fn change(&mut self, change: Change) {
        let now = SystemTime::now();
        for ((dir, name), held) in &change {
            match held {
                Some(ino) => self.names.insert((*dir, name.clone()), *ino),
                None => self.names.remove(&(*dir, name.clone())),
            };
            if let Some(folder) = self.inodes.get_mut(dir) {
                let folder = Arc::make_mut(folder);
                (folder.mtime, folder.ctime) = (now, now);
            }
        }
        self.pending.push(change);
    }

    /// A new inode under a name that is free.
    pub fn create(&mut self, dir: u64, name: &OsStr, mut inode: Inode) -> Outcome<u64> {
        match self.find(dir, name) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(Errno::EXIST),
            Err(other) => return Err(other),
        }
        let above = self.inode(dir)?;
        inode.realm = above.realm;
        if above.perm & 0o2000 != 0 {
            inode.gid = above.gid;
        }
        let ino = self.next;
        self.next += 1;
        let inode = Arc::new(inode);
        self.inodes.insert(ino, inode.clone());
        self.durable.insert(ino, inode);
        self.change(vec![(place(dir, name), Some(ino))]);
        Ok(ino)
    }

    pub fn link(&mut self, ino: u64, dir: u64, name: &OsStr) -> Outcome<()> {
        match self.find(dir, name) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(Errno::EXIST),
            Err(other) => return Err(other),
        }
        self.inode_mut(ino)?;
        self.change(vec![(place(dir, name), Some(ino))]);
        Ok(())
    }

    /// Takes a name away; `folder` says what it must hold.
    pub fn unlink(&mut self, dir: u64, name: &OsStr, folder: bool) -> Outcome<()> {
        let ino = self.find(dir, name)?;
        match (self.inode(ino)?.kind == FileType::Directory, folder) {
            (true, false) => return Err(Errno::ISDIR),
            (false, true) => return Err(Errno::NOTDIR),
            (true, true) if self.entries(ino).next().is_some() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.inode_mut(ino)?;
        self.change(vec![(place(dir, name), None)]);
        Ok(())
    }

    pub fn rename(&mut self, from: u64, name: &OsStr, to: u64, new: &OsStr, flags: RenameFlags) -> Outcome<()> {
        let moved = self.find(from, name)?;
        let there = match self.find(to, new) {
            Ok(there) => Some(there),
            Err(Errno::NOENT) => None,
            Err(other) => return Err(other),
        };
        let (old, target) = (place(from, name), place(to, new));
        if flags.contains(RenameFlags::EXCHANGE) {
            let there = there.ok_or(Errno::NOENT)?;
            self.change(vec![(old, Some(there)), (target, Some(moved))]);
            return Ok(());
        }
        if flags.contains(RenameFlags::NOREPLACE) && there.is_some() {
            return Err(Errno::EXIST);
        }
        if let Some(there) = there {
            if there == moved {
                return Ok(());
            }
            match (self.inode(moved)?.kind == FileType::Directory, self.inode(there)?.kind == FileType::Directory) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if self.entries(there).next().is_some() => return Err(Errno::NOTEMPTY),
                _ => {}
            }
        }
        self.inode_mut(moved)?;
        self.change(vec![(old, None), (target, Some(moved))]);
        Ok(())
    }

    /// fsync: of a folder, with its names.
    pub fn sync(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get(&ino) {
            self.durable.insert(ino, inode.clone());
        }
        if self.inodes.get(&ino).is_none_or(|inode| inode.kind != FileType::Directory) {
            return;
        }
        // From the newest to the oldest: a change is wanted if it touches the folder, or a place that a later wanted one
        // touches.
        let mut wanted: BTreeSet<Place> = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (at, change) in self.pending.iter().enumerate().rev() {
            if change.iter().any(|(place, _)| place.0 == ino || wanted.contains(place)) {
                chosen[at] = true;
                wanted.extend(change.iter().map(|(place, _)| place.clone()));
            }
        }
        let mut chosen = chosen.into_iter();
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|_| chosen.next() == Some(true));
        self.pending = later;
        for (place, held) in now.into_iter().flatten() {
            match held {
                Some(ino) => self.durable_names.insert(place, ino),
                None => self.durable_names.remove(&place),
            };
        }
    }

    /// Everything becomes durable.
    pub fn sync_all(&mut self) {
        self.durable = self.inodes.clone();
        self.durable_names = self.names.clone();
        self.pending.clear();
    }

    /// What is there when the power comes back: cache and disk are one then.
    #[must_use]
    pub fn cut(&self, export: Cut, state: Cut) -> Disk {
        let mut left = Disk { pending: Vec::new(), ..Disk::new() };
        (left.inodes, left.names, left.next) = (BTreeMap::new(), Names::new(), self.next);
        left.inodes.insert(ROOT, self.inodes[&ROOT].clone());
        for (name, ino, _) in self.entries(ROOT) {
            left.names.insert(place(ROOT, name), ino);
            let how = if self.realm(ino) == Some(Realm::Export) { export } else { state };
            self.keep(ino, how, &mut left);
        }
        left.durable = left.inodes.clone();
        left.durable_names = left.names.clone();
        left
    }

    fn keep(&self, ino: u64, how: Cut, left: &mut Disk) {
        let inodes = if how == Cut::Nothing { &self.inodes } else { &self.durable };
        if left.inodes.insert(ino, inodes[&ino].clone()).is_some() {
            return;
        }
        let names = if how == Cut::All { &self.durable_names } else { &self.names };
        for (place, below) in names.range((ino, OsString::new())..(ino + 1, OsString::new())) {
            left.names.insert(place.clone(), *below);
            self.keep(*below, how, left);
        }
    }
}

fn place(dir: u64, name: &OsStr) -> Place {
    (dir, name.to_owned())
}
