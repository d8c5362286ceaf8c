//! The export's space and limits, and permissions where the kernel does not check them itself.

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
    pub fn access(&self, caller: Caller, node: u64, mask: u32) -> Result<()> {
        if self.drafts.get(node).is_some() {
            return Ok(());
        }
        let node = self.nodes().get(node)?;
        let fd = self.nodes().fd(&node)?;
        self.committer.staging.acting(self.creds(caller).as_ref(), || at::access(&fd, mask))
    }
}
