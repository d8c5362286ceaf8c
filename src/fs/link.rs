//! Hard links: a further name for a version.

use std::ffi::OsStr;
use std::sync::Arc;

use super::wait::Until;
use super::{Done, Entry, Fs};
use crate::draft::Caller;
use crate::sys::{Result, at};

impl Fs {
    /// Gives the node's inode a further name. A draft that is still written has no whole content to show under one.
    pub fn link(self: &Arc<Self>, caller: Caller, node: u64, parent: u64, name: &OsStr, done: impl Done<Entry>) {
        let name = name.to_owned();
        self.with_content_known(node, move |fs| match fs.drafts.get(node) {
            Some(draft) if draft.is_about_to_end() => {
                let by = fs.clone();
                let link = move |fs: &Arc<Fs>| fs.link_now(caller, node, parent, &name);
                fs.park(Until::Released(draft), move |_| by.with_room(link, done));
            }
            _ => fs.with_room(move |fs| fs.link_now(caller, node, parent, &name), done),
        });
    }

    fn link_now(&self, caller: Caller, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        match self.drafts.get(node) {
            Some(draft) => {
                let file = draft.settled_content()?;
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
