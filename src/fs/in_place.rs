//! Files that are written in place: which they are, and what the kernel believes of them.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::INodeNo;
use rustix::fs::OFlags;

use super::Fs;
use super::changes::Written;
use super::handle::Handle;
use super::open::{OpenMode, Opened};
use crate::draft::{Caller, Wants};
use crate::inode::{Content, Key, Node};
use crate::rules::{self, Mode};
use crate::sys::{Errno, Result, at, direct, stat};

impl Fs {
    /// True if files under this path are written in place.
    pub(super) fn is_direct(&self, path: &[u8]) -> bool {
        self.committer.rules.decide(path).mode == Mode::Direct
    }

    /// The same of a node, whose content may have been found to be a database.
    pub(super) fn is_in_place(&self, node: &Node) -> bool {
        self.committer.rules.decide_for(&node.path(), || node.is_database.load(Ordering::Acquire)).mode == Mode::Direct
    }

    /// True if what is under this path is a database and therefore written in place. Read is what may be one by its size.
    pub(super) fn finds_database(&self, path: &[u8], node: &Node, size: u64, file: &File) -> bool {
        let found = || {
            let found = rules::has_pages(size) && rules::is_database(file);
            node.is_database.fetch_or(found, Ordering::AcqRel);
            found
        };
        self.committer.rules.decide_for(path, found).mode == Mode::Direct
    }

    /// True if `caller`, who comes with a node, writes it in place. The name tells, and where the file has several, or is no
    /// longer under the one that was seen last, only a look-up knows which one it is: `ESTALE` makes the kernel look again.
    /// One that comes back without a look-up has no name: then it must be the only one (`ETXTBSY`).
    pub(super) fn writes_in_place(&self, caller: Caller, node: &Node, wants: Wants) -> Result<bool> {
        if self.drafts.switches.is_in_place(caller.tid, node.id) {
            return Ok(true);
        }
        let link = node.link();
        // A database that is replaced whole is a new version.
        let patched = || wants != Wants::EmptyDraft && node.is_database.load(Ordering::Acquire);
        let decides = |path: &[u8]| self.committer.rules.decide_for(path, patched).mode == Mode::Direct;
        if !link.parent.is_some_and(|parent| decides(&parent.path_of(&link.name))) {
            return Ok(false);
        }
        let only = self.under_its_name(node).ok().filter(|there| Key::of(there) == node.key && there.nlink == 1);
        if only.is_some_and(|there| node.is_as(&there)) {
            return Ok(true);
        }
        if self.drafts.switches.begin(caller.tid, node.id, &link.name, wants) {
            return Err(Errno::STALE);
        }
        if only.is_some() { Ok(true) } else { Err(Errno::TXTBSY) }
    }

    pub(super) fn open_in_place(&self, caller: Caller, node: Arc<Node>, flags: OFlags, writes: bool) -> Result<Opened> {
        let access = if flags & OFlags::ACCMODE == OFlags::RDONLY { OFlags::RDONLY } else { OFlags::RDWR };
        let open = |flags| self.open_for(caller, &node, flags);
        // Not for appending, though its caller does: through any descriptor come pages that others have mapped, and its own
        // writes, too, have their place once it does so no longer.
        let opened = match open(access | (flags & OFlags::SYNC)) {
            // But a file that may only be appended to (`chattr +a`) opens for nothing else.
            Err(Errno::PERM) if flags.contains(OFlags::APPEND) => {
                open(access | OFlags::APPEND | (flags & OFlags::SYNC))
            }
            other => other,
        };
        let file = Content::new(opened?);
        self.leave_some(&*file)?;
        self.see_other_hosts(&file)?;
        if writes {
            self.nodes().begin_in_place(&node, stat::fstat(&*file)?.size);
        }
        if flags.contains(OFlags::TRUNC) {
            let writable = if access == OFlags::RDWR {
                file.clone()
            } else {
                Content::new(self.open_for(caller, &node, OFlags::RDWR)?)
            };
            at::truncate(&*writable, 0)?;
            self.strip_set_ids(caller, &*writable)?;
            node.note(&stat::fstat(&*writable)?);
        }
        Ok(self.opened_in_place(file, node, writes))
    }

    /// Has a descriptor of a file that is written in place begin with what other hosts have closed before. A client of NFS
    /// looks for that when it opens a file, but keeps its pages, and what it then writes beside, while anybody still has the
    /// file open for writing: the daemon's own descriptor lives until the release, which comes after the close.
    pub(super) fn see_other_hosts(&self, file: &Content) -> Result<()> {
        if !self.options.nfs {
            return Ok(());
        }
        stat::fstat_fresh(file)?;
        direct::drop_pages(file)
    }

    /// The descriptor of a file that is written in place.
    pub(super) fn opened_in_place(&self, file: Arc<Content>, node: Arc<Node>, writes: bool) -> Opened {
        let (fh, id) = (self.handles.number(), node.id);
        self.handles.insert(fh, Handle::Direct { file: file.clone(), node, writes });
        Opened { fh, mode: OpenMode::Direct(file, id) }
    }

    /// Tells the kernel that a file which is written in place has this size. Not from a session thread.
    pub(super) fn tell_growth(&self, node: &Node, file: &File, size: u64) {
        // Where it does not gather writes, it takes the size of an answer.
        if !self.options.gathers || self.tell_size(node.id, file, size) {
            node.note_size(size);
        }
    }

    /// Tells the kernel that a node is at least this large. Of a regular file it keeps the size itself, from its own writes, and
    /// does not take that of an answer; a byte of the file that is stored into its cache it does take. Not from a session
    /// thread: whoever reads the page may be waiting for one. False if it did not take it.
    pub(super) fn tell_size(&self, node: u64, file: &File, size: u64) -> bool {
        let (Some(kernel), Some(at)) = (self.kernel.get(), size.checked_sub(1)) else { return false };
        let mut byte = [0];
        // Nothing there: it has become shorter meanwhile.
        if at::read_at(file, &mut byte, at) != Ok(1) {
            return false;
        }
        let node = INodeNo(node);
        // The byte itself is not for keeping.
        kernel
            .store(node, at, &byte)
            .and_then(|()| kernel.inval_inode(node, 0, 0))
            .inspect_err(|error| tracing::debug!(%error, "the kernel did not take the news of a size"))
            .is_ok()
    }

    /// A descriptor through which a file was written in place is gone. What the kernel wrote to it by itself is no new
    /// version, and cannot be told from what others wrote: the kernel is told of the size before that is noted as known.
    pub(super) fn release_in_place(self: &Arc<Self>, file: &Arc<Content>, node: &Arc<Node>) {
        let stat = stat::fstat(&**file).inspect_err(|errno| tracing::warn!(%errno, "a file written in place"));
        // Truncated by somebody else, of which the kernel cannot be told: the next look-up shall give it a new node.
        let stat = stat.ok().filter(|stat| !node.has_shrunk(stat));
        let size = stat.filter(|stat| node.has_grown(stat)).map(|stat| stat.size);
        let (fs, file, node) = (self.clone(), file.clone(), node.clone());
        let end = move || {
            if let Some(size) = size {
                fs.tell_growth(&node, &file, size);
            }
            // Likewise if the kernel did not take it.
            if let Some(stat) = stat.filter(|stat| !node.has_grown(stat)) {
                node.note(&stat);
            }
            fs.committer.written_in_place(&node);
        };
        if size.is_some() { self.slow.run_apart(end) } else { end() }
    }
}

/// Writes to a file in place. What is appended goes to where its end is on the export: others, also on other hosts, may have
/// moved that, and nobody is to write over what another has appended.
pub(super) fn write_in_place(file: &File, data: &[u8], offset: u64, how: Written) -> Result<()> {
    match how {
        Written::Now { append: true, .. } => at::append(file, data),
        _ if at::only_appends(file)? => Err(Errno::PERM),
        _ => at::write_at(file, data, offset),
    }
}

/// Notes that what was written in place ends at `end`: the kernel knows that already.
pub(super) fn note_written(node: &Node, file: &File, end: u64) -> Result<()> {
    node.note_written(&stat::fstat(file)?, end);
    Ok(())
}
