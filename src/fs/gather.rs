//! What the kernel has gathered and not passed on yet: it is written, and the daemon does not know of it.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use fuser::INodeNo;

use super::Fs;
use crate::draft::Draft;
use crate::inode::Key;
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
        let drafts: Vec<Arc<Draft>> =
            names.iter().flat_map(|&(parent, name)| self.perhaps_written(parent, name)).collect();
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

    /// The drafts at a name and in a folder of that name that have neither content, as far as is known, nor a version any more, and
    /// are open for writing. Where there is a version, it has the name for everybody.
    fn perhaps_written(&self, parent: u64, name: &OsStr) -> Vec<Arc<Draft>> {
        if !self.options.gathers || !self.drafts.any() {
            return Vec::new();
        }
        let Ok(folder) = self.folder(parent) else { return Vec::new() };
        let Ok(dir) = self.nodes().fd(&folder) else { return Vec::new() };
        let is_unknown = |dir: std::os::fd::BorrowedFd<'_>, name: &OsStr, draft: &Draft| {
            draft.is_unwritten() && draft.is_written(None) && matches!(stat::stat_at(dir, name), Err(Errno::NOENT))
        };
        let mut found: Vec<_> = self.drafts.at(folder.key, name).into_iter().collect();
        found.retain(|draft| is_unknown(dir.as_fd(), name, draft));
        if let Ok(below) = stat::stat_at(&dir, name)
            && below.kind == Kind::Dir
            && self.drafts.any_in_folder(Key::of(&below))
            && let Ok(inside) = at::open_path(&dir, name)
        {
            let drafts = self.drafts.in_folder(Key::of(&below)).into_iter();
            found
                .extend(drafts.filter(|(name, draft)| is_unknown(inside.as_fd(), name, draft)).map(|(_, draft)| draft));
        }
        found
    }
}
