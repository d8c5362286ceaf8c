//! The export's space and limits, and permissions where the kernel does not check them itself.

use std::os::fd::AsFd;

use rustix::fs::{Access, OFlags};

use super::Fs;
use crate::draft::Caller;
use crate::sys::Result;
use crate::sys::at::{self, StatVfs};

impl Fs {
    /// Space, inodes and limits of the export's file system.
    pub fn statfs(&self) -> Result<StatVfs> {
        at::statvfs(self.nodes().fd(self.nodes().root())?)
    }

    /// Whether the caller may read, write or execute: asked only without the kernel's own checks.
    pub fn access(&self, caller: Caller, node: u64, mask: Access) -> Result<()> {
        if self.drafts.get(node).is_some() {
            return Ok(());
        }
        let node = self.nodes().get(node)?;
        self.may(caller, mask, self.nodes().fd(&node)?)
    }

    /// Whether the caller may open a file like this, by its mode and access lists.
    pub(super) fn may_open(&self, caller: Caller, node: u64, flags: OFlags) -> Result<()> {
        let mut mask = match flags & OFlags::ACCMODE {
            OFlags::WRONLY => Access::WRITE_OK,
            OFlags::RDWR => Access::READ_OK | Access::WRITE_OK,
            _ => Access::READ_OK,
        };
        if flags.contains(OFlags::TRUNC) {
            mask |= Access::WRITE_OK;
        }
        match self.drafts.get(node) {
            Some(draft) => self.may(caller, mask, &*draft.content()?),
            None => self.may(caller, mask, self.nodes().fd(&*self.nodes().get(node)?)?),
        }
    }

    fn may(&self, caller: Caller, mask: Access, fd: impl AsFd) -> Result<()> {
        self.committer.staging.acting(self.creds(caller).as_ref(), || at::access(fd.as_fd(), mask))
    }
}
