//! Hard links: a further name for a version.

use std::ffi::OsStr;

use super::{Entry, Fs};
use crate::draft::Caller;
use crate::sys::{Errno, Result, at};

impl Fs {
    /// Gives the node's inode a further name. A draft that is still written has no whole content to show under one.
    pub fn link(&self, caller: Caller, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        match self.drafts.get(node) {
            Some(draft) if draft.is_pending() => Err(Errno::BUSY),
            Some(draft) => {
                let file = draft.content()?;
                self.make(caller, parent, name, |dir| at::link(&*file, dir, name))
            }
            None => {
                let node = self.nodes().get(node)?;
                let fd = self.nodes().fd(&node)?;
                self.make(caller, parent, name, |dir| at::link(&fd, dir, name))
            }
        }
    }
}
