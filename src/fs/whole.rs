//! Whole trees, as an admin removes and restores them. Nobody's request is answered here: the kernel is told.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use super::Fs;
use super::close::Answer;
use crate::commit::{Target, VerbError};
use crate::inode::{Node, ROOT_ID, display_path};
use crate::journal::OutboxId;
use crate::sys::{Errno, Kind};

/// Bytes of a name, at most.
const NAME_MAX: usize = 255;

/// How long an admin waits for the kernel.
const TELL_LIMIT: Duration = Duration::from_secs(10);

impl Fs {
    /// Removes a folder with all that is in it by one rename; the reaper does the rest. Refuses while drafts are
    /// written in it, naming them, unless `force` sends them to quarantine. `now` skips the retention.
    pub fn remove_tree(self: &Arc<Self>, path: &[u8], force: bool, now: bool) -> Result<OutboxId, VerbError> {
        let shown = display_path(path);
        let failed = |errno: Errno| VerbError::new(errno, format!("{shown}: {errno}"));
        if path.is_empty() {
            return Err(VerbError::new(Errno::BUSY, "the root of a mount cannot be removed"));
        }
        if self.is_reserved(path) {
            return Err(failed(Errno::NOENT));
        }
        let target = self.committer.folder_of(path).map_err(failed)?;
        let (node, _) = self.nodes().lookup(&target.parent, &target.name).map_err(failed)?;
        let removed = self.remove_folder(&node, &target, force, now, &shown);
        self.nodes().forget(node.id, 1);
        removed
    }

    fn remove_folder(
        self: &Arc<Self>,
        node: &Arc<Node>,
        target: &Target,
        force: bool,
        now: bool,
        shown: &str,
    ) -> Result<OutboxId, VerbError> {
        let failed = |errno: Errno| VerbError::new(errno, format!("{shown}: {errno}"));
        if node.kind != Kind::Dir {
            return Err(failed(Errno::NOTDIR));
        }
        self.gather_below(node);
        let pending: Vec<_> = self.drafts.below(node).into_iter().filter(|draft| draft.is_pending()).collect();
        if !force && !pending.is_empty() {
            let mut message = format!("{shown}: files are being written in it; --force sends them to quarantine");
            let mut paths: Vec<_> = pending.iter().filter_map(|draft| Some(draft.target()?.path())).collect();
            paths.sort();
            for path in paths {
                message.push_str(&format!("\n  being written: {}", display_path(&path)));
            }
            return Err(VerbError::new(Errno::BUSY, message));
        }
        let id = match self.reaper.take_out(&target.parent, &target.name, now) {
            Ok(id) => id,
            Err(errno) => {
                // It may be gone, and not durably so.
                self.tell(target.clone());
                return Err(failed(errno));
            }
        };
        // Those that began meanwhile find their folder gone when they end.
        for draft in pending {
            if let Some(ending) = draft.remove() {
                let node = draft.node;
                self.end(&draft, ending, Answer::WhenTold, move |ended| {
                    if let Err(errno) = ended {
                        tracing::debug!(node, %errno, "a draft ended with its folder");
                    }
                });
            }
        }
        self.tell(target.clone());
        Ok(id)
    }

    /// Puts a file or tree back; returns where it is now.
    pub fn restore(self: &Arc<Self>, id: OutboxId, to: Option<&[u8]>, replace: bool) -> Result<Vec<u8>, VerbError> {
        if let Some(to) = to
            && self.is_reserved(to)
        {
            return Err(VerbError::new(Errno::PERM, format!("{}: is reserved", display_path(to))));
        }
        let mut changed = None;
        let check = |path: &[u8], tree| self.refuse_written(path, tree);
        let restored = self.reaper.restore(id, to, replace, check, |target| changed = Some(target.clone()));
        // It may have changed although that failed.
        if let Some(target) = changed {
            if let Some(draft) = self.drafts.at(target.parent.key, &target.name) {
                draft.shadow();
            }
            if replace {
                self.tell(target.marker());
            }
            self.tell(target);
        }
        restored.map(|target| target.path())
    }

    /// Before a folder is made: fails if one would take a name that somebody writes, one above `path` that is missing or a `tree`
    /// there, and for a name that nothing can have.
    fn refuse_written(&self, path: &[u8], tree: bool) -> Result<(), Errno> {
        if path.split(|&byte| byte == b'/').any(|name| name.len() > NAME_MAX) {
            return Err(Errno::NAMETOOLONG);
        }
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| (at, Errno::NOTDIR));
        for (end, errno) in above.chain(tree.then_some((path.len(), Errno::EXIST))) {
            let target = match self.committer.folder_of(&path[..end]) {
                Ok(target) => target,
                // Nothing is below what is missing.
                Err(Errno::NOENT) => return Ok(()),
                Err(other) => return Err(other),
            };
            if self.drafts.at(target.parent.key, &target.name).is_some_and(|draft| draft.is_pending()) {
                return Err(errno);
            }
        }
        Ok(())
    }

    /// True for what the mount does not show, and everything below it.
    fn is_reserved(&self, path: &[u8]) -> bool {
        path.split(|&byte| byte == b'/').enumerate().any(|(depth, name)| {
            // No folder has the id 0.
            let folder = if depth == 0 { ROOT_ID } else { 0 };
            self.is_hidden(folder, OsStr::from_bytes(name))
        })
    }

    /// Returns when the kernel has forgotten what it knew of a name, or does not answer.
    fn tell(self: &Arc<Self>, target: Target) {
        let (told, wait) = crossbeam_channel::bounded(1);
        // Nobody listens any more after the limit.
        self.announce(target, true, move || told.send(()).unwrap_or_default());
        if wait.recv_timeout(TELL_LIMIT).is_err() {
            tracing::warn!("the kernel does not take the news of a name");
        }
    }
}
