//! Opening: a version for reading, a draft for writing, a file in place where the rules say so.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

use super::handle::Handle;
use super::{Done, Fs};
use crate::draft::{Caller, Draft, Wants, Writer};
use crate::inode::{Content, Node};
use crate::sys::{Errno, Kind, Result, Stat, at, process, stat};

/// The kernel's mark of an open by `execve`, from `linux/fs.h`.
const FMODE_EXEC: u32 = 0x20;

/// How the kernel treats an open file.
#[derive(Clone, Debug)]
pub enum OpenMode {
    /// Content never changes: pages of earlier opens stay valid. Passthrough if the kernel can.
    Version(Arc<Content>, u64),
    /// Through the page cache, with writes gathered.
    Draft,
    /// A draft whose writes the daemon need not see: passthrough if the kernel can.
    Bulk(Arc<Content>, u64),
    /// In place: passthrough if the kernel can, every request to the daemon otherwise.
    Direct(Arc<Content>, u64),
}

/// An opened file.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Number of the descriptor.
    pub fh: u64,
    /// How the kernel treats it.
    pub mode: OpenMode,
}

impl Fs {
    /// Opens the node for `caller`.
    pub fn open(self: &Arc<Self>, caller: Caller, node: u64, flags: OFlags, done: impl Done<Opened>) {
        self.drafts.switches.arrive(caller.tid);
        if let Some(draft) = self.drafts.get(node) {
            self.open_draft(caller, draft, flags, done);
        } else {
            done(self.open_node(caller, node, flags));
        }
    }

    fn open_node(&self, caller: Caller, id: u64, flags: OFlags) -> Result<Opened> {
        let node = self.nodes().get(id)?;
        if node.kind != Kind::File {
            return Err(Errno::INVAL);
        }
        let writes = flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        let wants = Wants::to(writes, flags.contains(OFlags::TRUNC));
        let direct = if writes { self.writes_in_place(caller, &node, wants)? } else { self.is_in_place(&node) };
        if flags & OFlags::ACCMODE == OFlags::RDONLY
            && flags.contains(OFlags::TRUNC)
            && node.executed.load(Ordering::Acquire) > 0
        {
            // The kernel refuses any other open for writing by itself.
            return Err(Errno::TXTBSY);
        }
        let round = |wants| self.drafts.switches.begin(caller.tid, id, &node.link().name, wants);
        if writes && !direct {
            self.refuse_unseen(caller)?;
            self.refuse_other_file_system(node.key)?;
            self.refuse_fixed(caller, &node)?;
            // The kernel repeats the open with a fresh look-up, which is answered with a draft's node. A thread that
            // comes again without a look-up opened through a descriptor: a version has no name to be replaced under.
            return Err(if round(wants) { Errno::STALE } else { Errno::TXTBSY });
        }
        let found = self.drafts.switches.readable_version(caller.tid, id);
        let is_current = || self.under_its_name(&node).is_ok_and(|there| node.is_as(&there));
        if !writes && found.is_none() && !is_current() && round(Wants::Version) {
            // Replaced or changed since the kernel looked: it shall look again. Without a name to look up, it comes
            // right back and gets what it has.
            return Err(Errno::STALE);
        }
        self.drafts.switches.end(caller.tid);
        if direct {
            return self.open_in_place(caller, node, flags, writes);
        }
        let file = match found {
            Some(file) => file,
            None => match self.open_version(caller, &node) {
                Ok(file) => file,
                // Replaced in this very moment.
                Err(Errno::STALE) => {
                    round(Wants::Version);
                    return Err(Errno::STALE);
                }
                Err(other) => return Err(other),
            },
        };
        if self.finds_database(&node.path(), &node, node.size(), &file) {
            self.see_other_hosts(&file)?;
            return Ok(self.opened_in_place(file, node, false));
        }
        let fh = self.handles.number();
        let executes = flags.bits() & FMODE_EXEC != 0;
        if executes {
            node.executed.fetch_add(1, Ordering::AcqRel);
        }
        self.handles.insert(fh, Handle::Version { file: file.clone(), node, executes });
        Ok(Opened { fh, mode: OpenMode::Version(file, id) })
    }

    /// Opens a version for a caller who reads it.
    pub(super) fn open_version(&self, caller: Caller, node: &Node) -> Result<Arc<Content>> {
        let _opening = self.nodes().using(node);
        let file = Content::new(self.open_for(caller, node, OFlags::RDONLY)?);
        self.leave_some(&*file)?;
        self.nodes().reads(node.key, &file);
        Ok(file)
    }

    /// A descriptor of a version that is not to be read: asks the server for nothing.
    pub(super) fn refer_to_version(&self, node: &Node) -> Result<Arc<Content>> {
        let file = Content::new(self.nodes().open(node, OFlags::PATH)?);
        self.nodes().refers(node.key, &file);
        Ok(file)
    }

    /// Opens a file for a caller. Where root is nobody on the export, files that only their owner may read are opened
    /// as the caller: not by handle then, which takes more rights than a caller has.
    pub(super) fn open_for(&self, caller: Caller, node: &Node, flags: OFlags) -> Result<File> {
        match self.nodes().open(node, flags) {
            Err(Errno::ACCESS | Errno::PERM) if self.options.act_as_caller => {
                let path = self.nodes().fd(node)?;
                let creds = self.creds(caller);
                self.committer.staging.acting(creds.as_ref(), || at::reopen(&path, flags))
            }
            other => other,
        }
    }

    /// What there is now under the name with which the node was last seen.
    pub(super) fn under_its_name(&self, node: &Node) -> Result<Stat> {
        let link = node.link();
        let parent = link.parent.ok_or(Errno::NOENT)?;
        let _answering = parent.as_folder()?.answers.read();
        stat::stat_at(self.committer.revalidated(&parent)?, &link.name)
    }

    /// Opens a draft: its family for reading, anybody for writing, who thereby joins.
    pub(super) fn open_draft(
        self: &Arc<Self>,
        caller: Caller,
        draft: Arc<Draft>,
        flags: OFlags,
        done: impl Done<Opened>,
    ) {
        if draft.is_sealing() {
            let fs = self.clone();
            return self.after_commit(draft.clone(), move || fs.open_draft(caller, draft, flags, done));
        }
        if self.options.gathers && draft.is_at_rest() && !flags.contains(OFlags::TRUNC) {
            let fs = self.clone();
            // The kernel takes what it is told when it has what it reads of the node.
            return self.commits.run_apart(move || fs.reopen_draft(caller, draft, flags, done));
        }
        self.open_draft_now(caller, draft, flags, done);
    }

    /// Opens a draft that was published and that nobody writes, telling the kernel first how large it is.
    fn reopen_draft(self: &Arc<Self>, caller: Caller, draft: Arc<Draft>, flags: OFlags, done: impl Done<Opened>) {
        let reopened = draft.clone();
        let _one_at_a_time = reopened.reopening();
        if draft.is_at_rest() {
            let wants = Wants::to(flags & OFlags::ACCMODE != OFlags::RDONLY, false);
            if draft.may_seem_larger()
                && !self.drafts.switches.is_round(caller.tid)
                && self.send_round(caller, &draft, wants)
            {
                return done(Err(Errno::STALE));
            }
            if let (Ok(content), Ok(stat)) = (draft.content(), draft.stat()) {
                self.tell_size(draft.node, &content, stat.size);
            }
        }
        self.open_draft_now(caller, draft, flags, done);
    }

    fn open_draft_now(self: &Arc<Self>, caller: Caller, draft: Arc<Draft>, flags: OFlags, done: impl Done<Opened>) {
        let writes = flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        let truncates = flags.contains(OFlags::TRUNC);
        let refused = || self.refuse_unseen(caller).and_then(|()| draft.refuse_foreign(&self.committer));
        if writes && let Err(errno) = refused() {
            self.drafts.switches.end(caller.tid);
            return done(Err(errno));
        }
        if !truncates && let Err(errno) = draft.read_below(&self.committer) {
            self.drafts.switches.end(caller.tid);
            return done(Err(errno));
        }
        let writer = writes.then(|| Writer::opening(process::of(caller.tid).as_ref(), flags));
        let writes_only = flags & OFlags::ACCMODE == OFlags::WRONLY;
        let (wants, is_round) = (Wants::to(writes, truncates), self.drafts.switches.is_round(caller.tid));
        let look_again = || !is_round && self.send_round(caller, &draft, wants);
        // It has come to its end since the kernel looked: whoever begins now is not told of that.
        if writes && draft.is_over() && look_again() {
            return done(Err(Errno::STALE));
        }
        let handle = self.draft_handle(caller, &draft, flags, writer);
        // A draft that never changed, or was published, gave its name back; a new writer takes it again, and keeps it from
        // then on. If another draft has the name by now, or another version, the kernel shall look again. Where it has done
        // so already, the draft is written without the name, and whoever commits last wins: but not by who would overwrite
        // what somebody else has written to the other one.
        if let Ok(opened) = &handle
            && writes
            && !draft.is_over()
        {
            let refused = match self.takes_its_name(&draft, truncates) {
                Ok(true) => None,
                Ok(false) if look_again() => return self.give_up_open(opened.clone(), done, Errno::STALE),
                Ok(false) => Some(Errno::STALE).filter(|_| is_round && !truncates),
                Err(errno) => Some(errno),
            };
            if let Some(errno) = refused {
                self.drafts.switches.end(caller.tid);
                return self.give_up_open(opened.clone(), done, errno);
            }
        }
        let opened = match handle {
            Ok(opened) => opened,
            Err(errno) => return done(Err(errno)),
        };
        self.drafts.switches.end(caller.tid);
        let ahead = match self.draft_mode_ahead(opened.fh, &draft, flags) {
            Ok(ahead) => ahead,
            Err(errno) => return self.give_up_open(opened, done, errno),
        };
        let (fs, of) = (self.clone(), draft.clone());
        let done = move |opened: Result<Opened>| {
            let opened = match opened {
                Ok(opened) => opened,
                Err(errno) => return done(Err(errno)),
            };
            let mode = ahead.map_or_else(|| fs.draft_mode(caller, opened.fh, &of, flags), Ok);
            match mode {
                Ok(mode) => done(Ok(Opened { mode, ..opened })),
                Err(errno) => {
                    // As where emptying it fails.
                    if truncates && of.is_pending() {
                        of.taint("open", errno);
                    }
                    fs.give_up_open(opened, done, errno);
                }
            }
        };
        if truncates {
            return self.empty_opened(caller, draft, opened, done);
        }
        if writes_only && self.is_bulk(&draft) && draft.is_clean() {
            let fs = self.clone();
            return self.copies.run(move || match draft.copy_ahead(&fs.committer) {
                Ok(()) => done(Ok(opened)),
                Err(errno) => fs.give_up_open(opened, done, errno),
            });
        }
        done(Ok(opened));
    }

    /// Empties a draft for an open that truncates. Its writer is known by then, so that nobody else's close publishes
    /// what is emptied.
    fn empty_opened(self: &Arc<Self>, caller: Caller, draft: Arc<Draft>, opened: Opened, done: impl Done<Opened>) {
        if draft.is_filling() {
            let fs = self.clone();
            return self.copies.run(move || {
                draft.wait_filled();
                fs.empty_opened(caller, draft, opened, done);
            });
        }
        // Creates a file and may remove one: off the session thread's short path only if it has much to do, which an
        // empty file has not.
        let emptied = match draft.empty(&self.committer) {
            // The last writer before has closed just now: this one's content comes after that.
            Ok(false) => {
                let fs = self.clone();
                return self.after_commit(draft.clone(), move || fs.empty_opened(caller, draft, opened, done));
            }
            Ok(true) => draft.content().and_then(|content| self.strip_set_ids(caller, &*content)),
            Err(errno) => Err(errno),
        };
        // After a commit the name was given back.
        if draft.wants_name() && !self.drafts.claim(&draft) {
            tracing::debug!(node = draft.node, "another draft has the name of one that is emptied");
        }
        match emptied {
            Ok(()) => done(Ok(opened)),
            Err(errno) => {
                // Content of its own is neither what it was nor what was asked for: the release must not publish it.
                if draft.is_pending() {
                    draft.taint("truncate", errno);
                }
                self.give_up_open(opened, done, errno);
            }
        }
    }

    /// An open that fails after its descriptor was made.
    fn give_up_open(self: &Arc<Self>, opened: Opened, done: impl Done<Opened>, errno: Errno) {
        if let Err(error) = self.take_back(opened.fh) {
            tracing::error!(%error, "a descriptor that was never given out");
        }
        done(Err(errno));
    }

    /// Sends an open of a draft round.
    pub(super) fn send_round(&self, caller: Caller, draft: &Draft, wants: Wants) -> bool {
        let name = draft.target().map(|target| target.name).unwrap_or_default();
        self.drafts.switches.begin(caller.tid, draft.node, &name, wants)
    }

    /// A descriptor of a draft, for a writer or without one for reading.
    pub(super) fn draft_handle(
        &self,
        caller: Caller,
        draft: &Arc<Draft>,
        flags: OFlags,
        writer: Option<Writer>,
    ) -> Result<Opened> {
        let writes = writer.is_some();
        let fh = self.handles.number();
        self.drafts.opened(draft);
        if let Err(errno) = draft.take_hold() {
            draft.closed();
            self.drafts.drop_if_unreferenced(draft);
            // Published, and replaced by another host since: the look-up finds that out.
            let gone = errno == Errno::STALE && !draft.is_pending() && !self.drafts.switches.is_round(caller.tid);
            let wants = Wants::to(writes, flags.contains(OFlags::TRUNC));
            if !(gone && self.send_round(caller, draft, wants)) {
                self.drafts.switches.end(caller.tid);
            }
            return Err(errno);
        }
        if let Some(writer) = writer {
            draft.add_writer(fh, writer, flags.contains(OFlags::APPEND));
        }
        let counted = AtomicBool::new(false);
        self.handles.insert(fh, Handle::Draft { draft: draft.clone(), writes, counted });
        Ok(Opened { fh, mode: OpenMode::Draft })
    }

    /// Takes the set-id bits off a file that an ordinary user has written to or truncated: the group's where the group
    /// may execute it, or the user is none of the group's.
    pub(super) fn strip_set_ids(&self, caller: Caller, file: impl std::os::fd::AsFd) -> Result<()> {
        if caller.uid == 0 {
            return Ok(());
        }
        let Stat { perm, gid, .. } = stat::fstat(file.as_fd())?;
        let mut stripped = perm & !0o4000;
        if perm & 0o2000 != 0 && (perm & 0o010 != 0 || !self.creds(caller).is_some_and(|creds| creds.is_in(gid))) {
            stripped &= !0o2000;
        }
        if stripped == perm { Ok(()) } else { at::chmod(file, stripped) }
    }
}
