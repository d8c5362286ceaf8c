//! What the kernel has gathered and not passed on yet: it is written, and the daemon does not know of it.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use fuser::INodeNo;

use super::Fs;
use crate::draft::Draft;
use crate::inode::{Key, Node};
use crate::sys::at::RenameFlags;
use crate::sys::{Errno, Kind, at, stat};

impl Fs {
    /// Makes the kernel send the writes to a draft that it has gathered, and waits for them. Only from a thread that no write
    /// waits for: a `gather` thread, or one for commits if they need no copy.
    pub(super) fn gather(&self, node: u64) {
        if let Some(kernel) = self.kernel.get()
            && let Err(error) = kernel.inval_inode(INodeNo(node), 0, 0)
        {
            tracing::debug!(%error, "the kernel does not send what it has gathered");
        }
    }

    /// Calls `then` when the daemon knows of every draft that would appear at one of these names, or in a folder of that name: at
    /// once, for the most part.
    pub fn with_drafts_known(self: &Arc<Self>, names: &[(u64, &OsStr)], then: impl FnOnce(&Arc<Fs>) + Send + 'static) {
        self.after_gathering(names.iter().flat_map(|&name| self.perhaps_written(name, false)).collect(), then);
    }

    /// The same for a rename. A draft that is renamed takes the name of one to which nothing was written, and two names change places
    /// if nobody writes them: versions or not.
    pub fn with_drafts_known_of(
        self: &Arc<Self>,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
        then: impl FnOnce(&Arc<Fs>) + Send + 'static,
    ) {
        let exchanges = flags.contains(RenameFlags::EXCHANGE);
        let is_draft = || self.folder(from.0).is_ok_and(|folder| self.drafts.at(folder.key, from.1).is_some());
        let mut drafts = self.perhaps_written(from, exchanges);
        drafts.extend(self.perhaps_written(to, exchanges || is_draft()));
        self.after_gathering(drafts, then);
    }

    /// Calls `then` when the daemon knows whether anything was written to a draft that has this node: at once, for the most part.
    pub(super) fn with_content_known(self: &Arc<Self>, node: u64, then: impl FnOnce(&Arc<Fs>) + Send + 'static) {
        let unknown = self.drafts.get(node).filter(|draft| self.options.gathers && is_unknown(draft));
        self.after_gathering(unknown.into_iter().collect(), then);
    }

    /// The kernel asks again for attributes before it goes by them, as it does before it takes what is written.
    pub(super) fn forget_attributes(&self, node: u64) {
        if let Some(kernel) = self.kernel.get()
            && let Err(error) = kernel.inval_inode(INodeNo(node), -1, 0)
        {
            tracing::debug!(%error, "the kernel keeps attributes that are none any more");
        }
    }

    fn after_gathering(self: &Arc<Self>, drafts: Vec<Arc<Draft>>, then: impl FnOnce(&Arc<Fs>) + Send + 'static) {
        if drafts.is_empty() {
            return then(self);
        }
        let fs = self.clone();
        self.gathers.run_apart(move || {
            for draft in drafts {
                fs.gather(draft.node);
            }
            then(&fs);
        });
    }

    /// The drafts at a name and in a folder of that name that have no content, as far as is known, and are open for writing. Without
    /// `over` only those that have no version any more: where there is one, it has the name for everybody.
    fn perhaps_written(&self, (parent, name): (u64, &OsStr), over: bool) -> Vec<Arc<Draft>> {
        if !self.options.gathers || !self.drafts.any() {
            return Vec::new();
        }
        let Ok(folder) = self.folder(parent) else { return Vec::new() };
        let Ok(dir) = self.nodes().fd(&folder) else { return Vec::new() };
        let has_none =
            |dir: std::os::fd::BorrowedFd<'_>, name: &OsStr| matches!(stat::stat_at(dir, name), Err(Errno::NOENT));
        let mut found: Vec<_> = self.drafts.at(folder.key, name).into_iter().collect();
        found.retain(|draft| is_unknown(draft) && (over || has_none(dir.as_fd(), name)));
        if let Ok(below) = stat::stat_at(&dir, name)
            && below.kind == Kind::Dir
            && self.drafts.any_in_folder(Key::of(&below))
            && let Ok(inside) = at::open_path(&dir, name)
        {
            let drafts = self.drafts.in_folder(Key::of(&below)).into_iter();
            let unknown = drafts.filter(|(name, draft)| is_unknown(draft) && has_none(inside.as_fd(), name));
            found.extend(unknown.map(|(_, draft)| draft));
        }
        found
    }

    /// Makes the kernel send what it has gathered for the drafts below a folder. Only from a thread that no write waits for.
    pub(super) fn gather_below(&self, folder: &Node) {
        if self.options.gathers {
            for draft in self.drafts.below(folder).into_iter().filter(is_unknown) {
                self.gather(draft.node);
            }
        }
    }
}

/// True if what there is of a draft may be with the kernel alone. Whoever has closed one descriptor of it may have a duplicate.
fn is_unknown(draft: &Arc<Draft>) -> bool {
    draft.is_unwritten() && draft.has_writers()
}
