//! Reaching an inode again that the kernel remembers: by a descriptor, a handle, or its name.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::RwLockWriteGuard;
use rustix::fs::OFlags;

use super::NodeTable;
use crate::inode::readers::{Content, Name, Using};
use crate::inode::{Anchor, Key, Link, Node, NodeFd};
use crate::sys::handle::Handle;
use crate::sys::{Errno, Kind, Result, at, stat};

impl NodeTable {
    /// A descriptor of the node's inode, good for `*at` calls and attributes.
    pub fn fd<'a>(&self, node: &'a Node) -> Result<NodeFd<'a>> {
        match &node.anchor {
            Anchor::Fd(fd) => Ok(NodeFd::Held(fd.as_fd())),
            Anchor::Handle(handle) => {
                let using = self.referring(node);
                Ok(NodeFd::Opened(handle.open(self.mount_fd(), OFlags::PATH)?, using))
            }
            Anchor::Name => {
                let using = self.referring(node);
                Ok(NodeFd::Opened(self.fd_by_name(node)?, using))
            }
        }
    }

    /// True if the export's inodes can be reached again by handle, and none of that goes over a network.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// What reaches an inode without a descriptor, where the export has such a thing.
    pub fn handle_of(&self, fd: impl AsFd) -> Option<Handle> {
        if self.handles { Handle::of(fd).ok() } else { None }
    }

    /// Opens the version that a handle of this export's file system stands for.
    pub fn open_handle(&self, handle: &Handle, flags: OFlags) -> Result<Arc<Content>> {
        let file = Content::new(handle.open_file(self.mount_fd(), flags)?);
        if self.users.is_some() {
            self.reads(Key::of(&stat::fstat(&*file)?), &file);
        }
        Ok(file)
    }

    /// Opens the content of a regular file.
    pub fn open(&self, node: &Node, flags: OFlags) -> Result<File> {
        match &node.anchor {
            Anchor::Fd(fd) => at::reopen(fd, flags),
            Anchor::Handle(handle) => handle.open_file(self.mount_fd(), flags),
            Anchor::Name => at::reopen(self.fd_by_name(node)?, flags),
        }
    }

    /// A version is open through this file for as long as it lives.
    pub fn reads(&self, key: Key, content: &Arc<Content>) {
        if let Some(users) = &self.users {
            users.add(key, content, false);
        }
    }

    /// As [`NodeTable::reads`], for a descriptor that is good for attributes only.
    pub fn refers(&self, key: Key, content: &Arc<Content>) {
        if let Some(users) = &self.users {
            users.add(key, content, true);
        }
    }

    /// The export is an NFS mount.
    pub fn is_nfs(&self) -> bool {
        self.nfs
    }

    /// To be held during a call on a node's inode that asks the server.
    pub fn using(&self, node: &Node) -> Option<Using> {
        if node.kind == Kind::File { self.using_inode(node.key) } else { None }
    }

    /// The same by the inode of a file.
    pub fn using_inode(&self, key: Key) -> Option<Using> {
        self.users.as_ref().map(|users| users.enter(key))
    }

    fn referring(&self, node: &Node) -> Option<Using> {
        self.users.as_ref().filter(|_| node.kind == Kind::File).map(|users| users.refer(node.key))
    }

    /// Leads who reads a version to its name in the trash folder, which `aside` opens: its first name is about to be
    /// replaced.
    pub fn lead_away(&self, key: Key, aside: impl FnOnce() -> Result<OwnedFd>) {
        let Some(users) = &self.users else { return };
        match users.lead_away(key, aside) {
            Ok(Name::Free) => {}
            // The client is done with earlier answers when it has this one.
            Ok(Name::Left) => {
                if let Err(errno) = stat::revalidate(self.mount_fd()) {
                    tracing::debug!(%errno, "the export's root has no attributes");
                }
            }
            Ok(Name::Busy) => tracing::debug!(?key, "a call keeps a name busy: it will be absent for a moment"),
            Err(errno) => tracing::debug!(?key, %errno, "readers keep a name busy: it will be absent for a moment"),
        }
    }

    /// While the value lives nobody looks names up in the folder, where a look-up would keep a name busy that is
    /// about to be replaced.
    pub fn quiet<'a>(&self, folder: &'a Node) -> Option<RwLockWriteGuard<'a, ()>> {
        self.users.as_ref()?;
        Some(folder.folder.as_ref()?.answers.write())
    }

    pub(super) fn mount_fd(&self) -> BorrowedFd<'_> {
        match &self.root.anchor {
            Anchor::Fd(fd) => fd.as_fd(),
            Anchor::Handle(_) | Anchor::Name => unreachable!("the root holds its descriptor"),
        }
    }

    /// Down from the next folder above that is reached without its name, in a loop: that may be a long way.
    pub(super) fn fd_by_name(&self, node: &Node) -> Result<OwnedFd> {
        let Link { parent, name } = node.link();
        let mut way = vec![(node.key, name)];
        let mut above = parent.ok_or(Errno::STALE)?;
        while matches!(above.anchor, Anchor::Name) {
            let Link { parent, name } = above.link();
            way.push((above.key, name));
            above = parent.ok_or(Errno::STALE)?;
        }
        let mut reached = None;
        for (key, name) in way.into_iter().rev() {
            let fd = match &reached {
                None => at::open_path(self.fd(&above)?, &name)?,
                Some(folder) => at::open_path(folder, &name)?,
            };
            if Key::of(&stat::fstat(&fd)?) != key {
                return Err(Errno::STALE);
            }
            reached = Some(fd);
        }
        reached.ok_or(Errno::STALE)
    }
}
