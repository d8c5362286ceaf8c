//! Files that are written in place: their names stay, and what they count for changes.

use std::sync::Arc;

use super::Committer;
use crate::folders::Holds;
use crate::inode::{Key, Node};
use crate::sys::{Result, stat};

impl Committer {
    /// Changes the size of a file that is written in place, by `call`.
    pub fn resize<T>(&self, node: &Arc<Node>, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let link = node.link();
        let Some(parent) = link.parent else { return call() };
        let dir = self.nodes.fd(&parent)?;
        let claim = self.totals.claim(&[(parent.key, &link.name)]);
        let before = self.held(&dir, &link.name);
        let result = call();
        let after = self.held(&dir, &link.name);
        claim.end(&[(before, after)], |changes| self.submit(vec![], &[(&parent, changes[0])]));
        result
    }

    /// A descriptor through which a file was written in place is gone: its size counts if its name is still there.
    pub fn written_in_place(&self, node: &Arc<Node>) {
        let link = node.link();
        let Some(parent) = link.parent else {
            self.nodes.end_in_place(node, 0);
            return;
        };
        let claim = self.totals.claim(&[(parent.key, &link.name)]);
        let there = self.nodes.fd(&parent).and_then(|dir| stat::stat_at(dir, &link.name));
        match there {
            Ok(there) if Key::of(&there) == node.key => {
                let before = Holds::File(self.nodes.end_in_place(node, there.size));
                let outcome = [(before, Holds::File(there.size))];
                claim.end(&outcome, |changes| self.submit(vec![], &[(&parent, changes[0])]));
            }
            Ok(other) => {
                self.nodes.end_in_place(node, 0);
                let held = self.totals.weigh(&other);
                claim.end(&[(held, held)], |changes| self.submit(vec![], &[(&parent, changes[0])]));
            }
            Err(_) => {
                self.nodes.end_in_place(node, 0);
                claim.end(&[(Holds::Nothing, Holds::Nothing)], |_| ());
            }
        }
    }
}
