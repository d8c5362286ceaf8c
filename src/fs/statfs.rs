//! The export's space and limits.

use super::Fs;
use crate::sys::at::{self, StatVfs};
use crate::sys::Result;

impl Fs {
    /// Space, inodes and limits of the export's file system.
    pub fn statfs(&self) -> Result<StatVfs> {
        at::statvfs(self.nodes().fd(self.nodes().root())?)
    }
}
