//! Listing folders. A listing is a snapshot taken when it is read from the start, in the order of its names' hashes, which
//! are its offsets: whoever goes on from one in another snapshot, as the kernel does when it drops what it has kept of
//! one, finds each name that was there all the time once.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fuser::INodeNo;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use xxhash_rust::xxh3::xxh3_64;

use super::handle::Handle;
use super::lookup::Seen;
use super::wait::Until;
use super::{Entry, Fs};
use crate::draft::Caller;
use crate::inode::{Answering, Node};
use crate::sys::stat::Time;
use crate::sys::{Errno, Kind, Result, Stat, at, stat};

/// An open folder.
pub(super) struct OpenFolder {
    node: Arc<Node>,
    listing: Mutex<Option<Arc<[Listed]>>>,
    /// The kernel keeps what is listed through this descriptor and shows it to everybody who may keep it.
    shared: bool,
    /// Nobody else may see the listing: a draft is in it.
    private: AtomicBool,
}

/// What the kernel may do with the listings of an open folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listings {
    /// Ask for each.
    NotKept,
    /// Keep the next one; what it has is old.
    Fresh,
    /// Keep the next one, or go on using what it has.
    Kept,
}

impl OpenFolder {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub kind: Kind,
    /// Name.
    pub name: Box<OsStr>,
    /// Offset behind it, greater than that of every entry before it.
    pub offset: u64,
}

/// The offsets of `.` and `..`.
const DOTS: [u64; 2] = [1, 2];

impl Listed {
    fn new(ino: u64, kind: Kind, name: Box<OsStr>) -> Self {
        // Offsets are positive for the kernel, and two may be counted up where hashes agree.
        let offset = DOTS[1] + 1 + (xxh3_64(name.as_bytes()) >> 2);
        Listed { ino, kind, name, offset }
    }

    fn dot(ino: u64, which: usize) -> Self {
        Listed { ino, kind: Kind::Dir, name: OsString::from(&".."[..=which]).into(), offset: DOTS[which] }
    }

    fn is_dot(&self) -> bool {
        self.offset <= DOTS[1]
    }
}

/// What follows an offset.
fn behind(listing: &[Listed], offset: u64) -> &[Listed] {
    &listing[listing.partition_point(|listed| listed.offset <= offset)..]
}

impl Fs {
    /// Opens a folder; returns the descriptor's number, and what the kernel may do with its listings.
    pub fn open_folder(&self, node: u64) -> Result<(u64, Listings)> {
        let node = self.folder(node)?;
        // With a draft in the folder the answer depends on who asks; on NFS and in company, on what others do.
        let alone = !self.options.nfs && !self.changes_unseen();
        let shared = alone && !self.drafts.any_in_folder(node.key);
        let mut listings = if shared { Listings::Fresh } else { Listings::NotKept };
        let mut listing = None;
        if shared && let Some(recent) = self.recent.of(&node, &stat::fstat(self.nodes().fd(&node)?)?, self.options.ttl)
        {
            listings = Listings::Kept;
            listing = Some(recent);
        }
        let fh = self.handles.number();
        self.handles.insert(
            fh,
            Handle::Folder(OpenFolder { node, listing: Mutex::new(listing), shared, private: AtomicBool::new(false) }),
        );
        Ok((fh, listings))
    }

    /// Closes a folder.
    pub fn close_folder(&self, fh: u64) -> Result<()> {
        self.handles.remove(fh).map(drop)
    }

    /// Runs `then` once a listing that begins now shows what closes before it have promised: after the commits in the
    /// folder that are on their way, each waited for once.
    pub fn before_listing(
        self: &Arc<Self>,
        caller: Caller,
        fh: u64,
        offset: u64,
        then: impl FnOnce() + Send + 'static,
    ) {
        let waits = match self.handles.get(fh).as_deref() {
            Ok(Handle::Folder(folder)) if offset == 0 => {
                let mut waits = self.commits_in(caller, &folder.node);
                if self.recovery.concerns_folder(|| folder.node.path()) {
                    waits.push(Until::Recovered);
                }
                waits
            }
            _ => Vec::new(),
        };
        self.after_all(waits, then);
    }

    fn commits_in(&self, caller: Caller, folder: &Node) -> Vec<Until> {
        let mut waits = Vec::new();
        for (_, draft) in self.drafts.in_folder(folder.key) {
            let held = draft.held_until().is_some();
            if draft.is_awaited() || draft.is_sealing() && self.is_family(&draft, caller) {
                waits.push(Until::Settled(draft));
            } else if held && !self.is_family(&draft, caller) {
                waits.push(Until::Released(draft));
            }
        }
        waits
    }

    fn after_all(self: &Arc<Self>, mut waits: Vec<Until>, then: impl FnOnce() + Send + 'static) {
        match waits.pop() {
            None => then(),
            Some(until) => {
                let fs = self.clone();
                let then: Box<dyn FnOnce() + Send> = Box::new(then);
                self.park(until, move |_| fs.after_all(waits, then));
            }
        }
    }

    /// Offers the entries behind `offset` to `take`, until it has enough.
    pub fn list(&self, caller: Caller, fh: u64, offset: u64, take: impl FnMut(&Listed) -> bool) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let Handle::Folder(folder) = &*handle else { return Err(Errno::NOTDIR) };
        let listing = self.listing(caller, folder, offset)?;
        let rest = behind(&listing, offset);
        self.before_end(folder, rest);
        let _enough = rest.iter().any(take);
        Ok(())
    }

    /// As [`Fs::list`], with each entry's node, which counts as looked up if the entry was taken. The names may be
    /// remembered by the kernel: the guard must live until the answer is sent. It ends before a name that cannot be looked
    /// up, and the next one, which begins with that, fails: a name that is there is never left out.
    pub fn list_nodes(
        &self,
        caller: Caller,
        fh: u64,
        offset: u64,
        mut take: impl FnMut(&Listed, Entry) -> bool,
    ) -> Result<Answering> {
        let handle = self.handles.get(fh)?;
        let Handle::Folder(folder) = &*handle else { return Err(Errno::NOTDIR) };
        let listing = self.listing(caller, folder, offset)?;
        let rest = behind(&listing, offset);
        self.before_end(folder, rest);
        let answering = folder.node.as_folder()?.answers.read_arc();
        let mut is_empty = true;
        for listed in rest {
            let entry = match self.entry_for(caller, folder, listed) {
                Ok(Some(entry)) => entry,
                // Gone since the listing was taken.
                Ok(None) => continue,
                Err(errno) if is_empty => return Err(errno),
                Err(_) => break,
            };
            if take(listed, entry) {
                if !listed.is_dot() {
                    self.forget(entry.node, 1);
                }
                break;
            }
            is_empty = false;
        }
        Ok(answering)
    }

    fn entry_for(&self, caller: Caller, folder: &OpenFolder, listed: &Listed) -> Result<Option<Entry>> {
        if listed.is_dot() {
            // The kernel takes no look-up for these two and uses only number and type.
            let stat = stat::fstat(self.nodes().fd(&folder.node)?)?;
            let stat = stat::Stat { ino: listed.ino, ..stat };
            return Ok(Some(Entry { node: listed.ino, stat, entry_ttl: Duration::ZERO, attr_ttl: Duration::ZERO }));
        }
        match self.see(caller, &folder.node, &listed.name, false) {
            Ok(Seen::Entry(entry)) => Ok(Some(entry)),
            Ok(Seen::Wait(_)) | Err(Errno::NOENT) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn listing(&self, caller: Caller, folder: &OpenFolder, offset: u64) -> Result<Arc<[Listed]>> {
        let held = folder.listing.lock().clone();
        match held {
            Some(listing) if offset > 0 => Ok(listing),
            _ => {
                // From here on a change of the folder makes the kernel drop what it has kept.
                folder.node.telling();
                let before = stat::fstat(self.nodes().fd(&folder.node)?)?;
                let (listing, private) = self.take_listing(caller, &folder.node)?;
                let listing: Arc<[Listed]> = listing.into();
                *folder.listing.lock() = Some(listing.clone());
                folder.private.store(private, Ordering::Release);
                if folder.shared && !private {
                    self.recent.keep(&folder.node, &before, &listing);
                }
                Ok(listing)
            }
        }
    }

    /// The kernel keeps a listing once it has been told its end. A private one is taken away from it just before: what it
    /// has then is not whole, and it asks again.
    fn before_end(&self, folder: &OpenFolder, rest: &[Listed]) {
        if folder.shared
            && folder.private.load(Ordering::Acquire)
            && rest.is_empty()
            && let Some(kernel) = self.kernel.get()
            && let Err(error) = kernel.inval_inode(INodeNo(folder.node.id), 0, 0)
        {
            tracing::debug!(%error, "the kernel did not drop a listing");
        }
    }

    /// What is listed for `caller`, and whether a draft is among it.
    fn take_listing(&self, caller: Caller, node: &Arc<Node>) -> Result<(Vec<Listed>, bool)> {
        let dir = self.open_for(caller, node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let above = node.link().parent.map_or(node.key.ino, |parent| parent.key.ino);
        let mut listing = vec![Listed::dot(node.key.ino, 0), Listed::dot(above, 1)];
        for entry in at::list(&dir)? {
            if self.is_hidden(node.id, &entry.name) {
                continue;
            }
            let kind = match entry.kind {
                Some(kind) => kind,
                None => match stat::stat_at(&dir, &*entry.name) {
                    Ok(stat) => stat.kind,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno),
                },
            };
            listing.push(Listed::new(entry.ino, kind, entry.name));
        }
        let mut private = false;
        for (name, draft) in self.drafts.in_folder(node.key) {
            if !self.is_family(&draft, caller) {
                continue;
            }
            private = true;
            if let Ok(stat) = draft.stat() {
                listing.push(Listed::new(stat.ino, Kind::File, name.into()));
            }
        }
        // Of a version and its draft the version, which came first.
        listing.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
        listing.dedup_by(|draft, version| draft.name == version.name);
        let mut last = 0;
        for listed in &mut listing {
            listed.offset = listed.offset.max(last + 1);
            last = listed.offset;
        }
        Ok((listing, private))
    }
}

/// Listings that the kernel has, as they were taken: a descriptor that finds a part of one gone goes on with the same
/// offsets. Few, and only for as long as the kernel's names are good.
#[derive(Default)]
pub(super) struct Recent {
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    node: u64,
    taken: Instant,
    /// The folder's times just before.
    times: [Time; 2],
    listing: Arc<[Listed]>,
}

/// Listings kept at most, and names in one of them.
const MOST_LISTINGS: usize = 16;
const MOST_NAMES: usize = 20_000;

impl Recent {
    /// The listing of a folder that has these attributes, if it was taken less than `ttl` ago and they are unchanged.
    fn of(&self, node: &Node, stat: &Stat, ttl: Duration) -> Option<Arc<[Listed]>> {
        let mut kept = self.kept.lock();
        kept.retain(|listing| listing.taken.elapsed() < ttl);
        let of = kept.iter().find(|kept| kept.node == node.id && kept.times == [stat.mtime, stat.ctime])?;
        Some(of.listing.clone())
    }

    fn keep(&self, node: &Node, before: &Stat, listing: &Arc<[Listed]>) {
        let mut kept = self.kept.lock();
        kept.retain(|kept| kept.node != node.id);
        if listing.len() > MOST_NAMES {
            return;
        }
        kept.truncate(MOST_LISTINGS - 1);
        let times = [before.mtime, before.ctime];
        kept.push_front(Kept { node: node.id, taken: Instant::now(), times, listing: listing.clone() });
    }
}
