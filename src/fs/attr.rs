//! Attributes: reading and changing them on versions (at once) and on drafts (with the content).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuser::INodeNo;
use rustix::fs::OFlags;

use super::changes::{Changes, SetTime, apply};
use super::close::Answer;
use super::handle::{Handle, NO_DESCRIPTOR};
use super::{Attr, Done, Fs};
use crate::draft::{Caller, Draft, Keep, Wants};
use crate::inode::{Content, Key, Node, NodeFd};
use crate::sys::at;
use crate::sys::procfs;
use crate::sys::stat;
use crate::sys::{Errno, Kind, Result, Stat};

/// The kernel may keep a draft's attributes for long: every change of them goes through it.
const DRAFT_TTL: Duration = Duration::from_secs(3600);

impl Fs {
    /// Attributes of a node, through an open descriptor if there is one.
    pub fn getattr(self: &Arc<Self>, caller: Caller, node: u64, fh: Option<u64>, done: impl Done<Attr>) {
        if let Some(errno) = self.refused_write(caller, node) {
            return done(Err(errno));
        }
        let attr = self.attributes(node, fh);
        let news = |Attr { stat, .. }: &Attr| {
            let node = self.nodes().get(node).ok()?;
            // The kernel asks by a descriptor in the middle of other calls, with the file's lock, which a time would wait for.
            let (grown, moved) = (node.has_grown(stat), fh.is_none() && self.has_news(&node, stat));
            // Of one that has got another name, whoever has it open still writes in place.
            let in_place = self.is_in_place(&node);
            let (grown, moved) =
                (grown && in_place, moved && (in_place || node.written_in_place.load(Ordering::Acquire)));
            (grown || moved).then_some((node, grown.then_some(stat.size), moved))
        };
        let Some((node, grown, moved)) = attr.as_ref().ok().and_then(news) else { return done(attr) };
        let fs = self.clone();
        self.slow.run_apart(move || {
            if let Some(size) = grown {
                match fs.nodes().open(&node, OFlags::RDONLY) {
                    Ok(file) => fs.tell_growth(&node, &file, size),
                    Err(errno) => tracing::debug!(%errno, "a file that has grown cannot be read"),
                }
            }
            if moved {
                fs.tell_time(&node);
            }
            done(attr);
        });
    }

    /// Why a write is refused in the middle of which the kernel asks for attributes: it gathers what is written, as much as that may
    /// be, also for a draft whose content is lost already.
    fn refused_write(&self, caller: Caller, node: u64) -> Option<Errno> {
        let (_, errno) = self.drafts.get(node).filter(|_| self.options.gathers)?.tainted()?;
        procfs::is_writing(caller.tid).then_some(errno)
    }

    /// The attributes, as the export has them.
    pub(super) fn attributes(&self, node: u64, fh: Option<u64>) -> Result<Attr> {
        if let Some(fh) = fh
            && let Ok(handle) = self.handles.get(fh)
        {
            return match &*handle {
                Handle::Version { file, node, .. } | Handle::Direct { file, node, .. } => {
                    let _using = file.using();
                    self.version_attr(node, node.without_hidden(stat::fstat(&**file)?))
                }
                Handle::Draft { draft, writes, .. } => draft_attr(draft, *writes),
                Handle::Folder(folder) => self.node_attr(folder.node()),
            };
        }
        match self.drafts.get(node) {
            Some(draft) => draft_attr(&draft, false),
            None => self.node_attr(&*self.nodes().get(node)?),
        }
    }

    fn version_attr(&self, node: &Node, stat: Stat) -> Result<Attr> {
        let ttl = if self.has_news(node, &stat) { Duration::ZERO } else { self.options.ttl };
        Ok(Attr { stat: with_lasting_number(node, stat), ttl })
    }

    fn node_attr(&self, node: &Node) -> Result<Attr> {
        node.telling();
        match self.nodes().fd(node).and_then(stat::fstat) {
            // Replaced since the kernel looked, and gone. ESTALE would use up the one repetition of an open, which needs it
            // to get at a draft; and a version's attributes are those of its content for ever.
            Err(Errno::STALE) if node.kind == Kind::File && !self.is_in_place(node) => Ok(remains(node)),
            // The kernel itself is the pipe, whose descriptors go on working.
            Err(Errno::STALE) if node.kind.is_special() => Ok(remains(node)),
            stat => {
                let stat = stat?;
                node.note_rights(&stat);
                self.version_attr(node, node.without_hidden(stat))
            }
        }
    }

    /// Changes attributes.
    pub fn setattr(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        fh: Option<u64>,
        changes: Changes,
        done: impl Done<Attr>,
    ) {
        if !changes.has_rights() {
            return self.set(caller, node, fh, changes, done);
        }
        let carry = move |fs: &Fs, content: &Content| fs.carry_rights(caller, content, changes);
        self.set(caller, node, fh, changes, self.carried(node, carry, done));
    }

    fn set(self: &Arc<Self>, caller: Caller, node: u64, fh: Option<u64>, changes: Changes, done: impl Done<Attr>) {
        if changes.size.is_some() {
            self.drafts.switches.arrive(caller.tid);
        }
        let handle = fh.and_then(|fh| self.handles.get(fh).ok());
        let draft = match handle.as_deref() {
            Some(Handle::Draft { draft, .. }) => Some(draft.clone()),
            _ => self.drafts.get(node),
        };
        if let Some(draft) = draft {
            return match changes.size {
                Some(size) => self.resize_draft(caller, draft, fh, size, changes, done),
                // Of gathered writes that have not arrived yet: it comes once more after them.
                None if fh.is_some() && changes.is_mtime_alone() && !draft.is_pending() => {
                    done(draft_attr(&draft, true))
                }
                None => {
                    let fs = self.clone();
                    self.when_filled(Some(draft.clone()), move || {
                        done(fs.change_draft_alone(caller, &draft, fh.is_some(), changes));
                    });
                }
            };
        }
        if self.is_told(caller, node, changes) {
            return done(self.attributes(node, fh));
        }
        done(self.change_node(caller, node, handle.as_deref(), changes));
    }

    /// Changes attributes of a draft that are none of its content.
    fn change_draft_alone(&self, caller: Caller, draft: &Draft, by_descriptor: bool, changes: Changes) -> Result<Attr> {
        let changed = self.change_draft(caller, draft, changes);
        if let (Err(errno), true) = (changed, by_descriptor) {
            // Applications change no attributes by descriptor: these are the times of gathered writes, which the kernel
            // sends before a close, and without them no close.
            draft.taint("attributes", errno);
        }
        let was_clean = !draft.is_pending();
        let attr = changed.and_then(|()| draft_attr(draft, by_descriptor))?;
        if was_clean {
            self.announce_version(Key::of(&attr.stat));
        }
        Ok(attr)
    }

    /// `ftruncate` on a draft, or `truncate` by path, which is a version of its own: it is published before the answer.
    fn resize_draft(
        self: &Arc<Self>,
        caller: Caller,
        draft: Arc<Draft>,
        fh: Option<u64>,
        size: u64,
        changes: Changes,
        done: impl Done<Attr>,
    ) {
        // By path, and it has come to its end since the kernel looked.
        let named = fh.is_none();
        let over = named && draft.is_over();
        let is_round = self.drafts.switches.is_round(caller.tid);
        if over && !is_round && self.send_round(caller, &draft, Wants::Draft) {
            return done(Err(Errno::STALE));
        }
        self.drafts.switches.end(caller.tid);
        if !draft.has_writers()
            && let Err(errno) = self.refuse_unseen(caller)
        {
            return done(Err(errno));
        }
        let fs = self.clone();
        let resized = draft.clone();
        // Held like an open descriptor, so that the draft stays while it is worked on.
        self.drafts.opened(&draft);
        let call = move |file: &std::fs::File| at::truncate(file, size);
        self.alter(draft, Keep::Bytes(size), "truncate", call, move |altered| {
            // The name has another version since the kernel looked.
            if named && !is_round && altered == Err(Errno::STALE) {
                fs.send_round(caller, &resized, Wants::Draft);
            }
            let rest = Changes { size: None, ..changes };
            let changed = altered
                .and_then(|()| resized.content())
                .and_then(|file| fs.strip_set_ids(caller, &*file))
                .and_then(|()| fs.change_draft(caller, &resized, rest));
            let by_path = !resized.has_writers();
            let (settled, stay) = (fs.clone(), resized.clone());
            let finish = move |ended: Result<()>| {
                done(changed.and(ended).and_then(|()| draft_attr(&stay, !by_path)));
                stay.closed();
                // It may have come to nothing: whoever writes the name next begins anew, and is not told of it.
                settled.drafts.give_back(&stay, NO_DESCRIPTOR);
                settled.drafts.drop_if_unreferenced(&stay);
            };
            if !by_path {
                // By name, while somebody writes it: of what that one's close will say this caller would not hear.
                let said = if named { resized.check() } else { Ok(()) };
                return finish(said);
            }
            let by = fs.clone();
            fs.commits.run(move || match resized.seal() {
                Some(ending) => by.end(&resized, ending, Answer::AtOnce, finish),
                // Another close publishes it, or the end of the daemon has given it up.
                None => finish(resized.check()),
            });
        });
    }

    /// Owner, mode and times of a draft. Before its first change they are those of the version below and change at
    /// once, as anybody else's `chmod` would.
    fn change_draft(&self, caller: Caller, draft: &Draft, changes: Changes) -> Result<()> {
        let staging = &self.committer.staging;
        let file = draft.content()?;
        if draft.is_pending() && !changes.is_empty_chown() {
            draft.touch();
            staging.acting_for(draft.creds.as_ref(), || apply(&*file, changes))?;
            if let Some(time) = changes.mtime {
                draft.show(time.exact().filter(|_| self.options.keeps_times));
            }
            return Ok(());
        }
        // The kernel keeps the times of the version's node by itself and would never hear of these: the next look-up
        // takes the file for another version and gives it a node of its own.
        self.change_as(caller, &*file, changes)?;
        if changes.perm.is_some() || changes.atime.is_some() {
            let now = stat::fstat(&*file)?;
            draft.note_attributes(changes.perm.map(|_| now.perm), changes.atime.map(|_| now.atime));
        }
        Ok(())
    }

    /// Changes attributes of a file on the export as its caller may.
    pub(super) fn change_as(&self, caller: Caller, file: impl std::os::fd::AsFd, changes: Changes) -> Result<()> {
        let now = |time: Option<SetTime>| time.filter(|_| changes.size.is_none()).map(|_| SetTime::Now);
        let creds = self.creds(caller);
        let by_writer = creds.is_some() && changes.by_writer();
        let asked = match by_writer {
            true => Changes { atime: now(changes.atime), mtime: now(changes.mtime), ..changes },
            false => changes,
        };
        let changed = self.committer.staging.acting(creds.as_ref(), || apply(file.as_fd(), asked));
        // Of an application that may not the kernel does not ask it; but it writes back what it keeps in the name of
        // whoever comes by, and takes a refusal for a failure of the file.
        let written_back = self.options.kernel_checks
            && changes.is_mtime_alone()
            && matches!(changed, Err(Errno::PERM | Errno::ACCESS));
        if !written_back {
            changed?;
        }
        if by_writer || written_back {
            let times = Changes { mtime: changes.mtime, ..Changes::default() };
            if let Err(errno) = apply(file.as_fd(), times) {
                // Where root is nobody: then the export's present is as good as the kernel's.
                tracing::debug!(%errno, "a time stays the export's");
            }
        }
        Ok(())
    }

    /// Tells the kernel that what it remembers of a version's owner and mode is old.
    fn announce_version(&self, key: Key) {
        if let Some(node) = self.nodes().of(key) {
            self.announce_attributes(node.id);
        }
    }

    /// Tells the kernel that what it remembers of a node's attributes is old. It takes no lock for that, so the request that
    /// holds the file's need not be answered first.
    pub(super) fn announce_attributes(&self, node: u64) {
        // A negative offset: the attributes alone.
        if let Some(kernel) = self.kernel.get()
            && let Err(error) = kernel.inval_inode(INodeNo(node), -1, 0)
        {
            tracing::trace!(%error, "the kernel did not take the news of a node");
        }
    }

    fn change_node(&self, caller: Caller, id: u64, handle: Option<&Handle>, changes: Changes) -> Result<Attr> {
        let node = self.nodes().get(id)?;
        if let Some(size) = changes.size {
            match handle {
                Some(Handle::Direct { file, writes: true, .. }) => {
                    at::truncate(&**file, size)?;
                    self.strip_set_ids(caller, &**file)?;
                }
                Some(_) => return Err(Errno::BADF),
                None if node.kind == Kind::Dir => return Err(Errno::ISDIR),
                None if self.writes_in_place(caller, &node, Wants::to(true, size == 0))? => {
                    self.drafts.switches.end(caller.tid);
                    let file = self.nodes().open(&node, OFlags::RDWR)?;
                    self.committer.resize(&node, || at::truncate(&file, size))?;
                    self.strip_set_ids(caller, &file)?;
                }
                None => {
                    self.refuse_unseen(caller)?;
                    self.refuse_other_file_system(node.key)?;
                    self.refuse_fixed(caller, &node)?;
                    let round =
                        self.drafts.switches.begin(caller.tid, id, &node.link().name, Wants::to(true, size == 0));
                    // The kernel repeats the call with a fresh look-up, which is answered with a draft's node.
                    return Err(if round { Errno::STALE } else { Errno::TXTBSY });
                }
            }
        }
        let written_back = changes.is_mtime_alone() && node.kind == Kind::File;
        let fd = self.nodes().fd(&node);
        match fd.and_then(|fd| self.change_there(caller, &node, fd, changes, written_back)) {
            // The kernel writes back the times of a file whose last name was taken away, here or on the server. It would keep
            // an error for whoever calls syncfs next.
            Err(Errno::STALE | Errno::NOENT) if written_back => Ok(remains(&node)),
            // A pipe that is still open: nobody else can see it. That the caller may, the kernel has looked at.
            Err(Errno::STALE) if node.kind.is_special() && changes.has_rights() && self.options.kernel_checks => {
                let was = node.remains();
                let (perm, uid, gid) = (changes.perm, changes.uid, changes.gid);
                node.note_rights(&stat::Stat {
                    perm: perm.unwrap_or(was.perm),
                    uid: uid.unwrap_or(was.uid),
                    gid: gid.unwrap_or(was.gid),
                    ..was
                });
                Ok(remains(&node))
            }
            other => other,
        }
    }

    fn change_there(
        &self,
        caller: Caller,
        node: &Node,
        fd: NodeFd<'_>,
        changes: Changes,
        written_back: bool,
    ) -> Result<Attr> {
        node.telling();
        if let Some(time) = changes.mtime.and_then(SetTime::exact).filter(|_| written_back) {
            let stat = stat::fstat(&fd)?;
            // The kernel writes back what it has kept of an older version of the file, or of one that is written in place: with
            // a change of its names, or of an attribute.
            let is_old = self.options.gathers && node.was_told(time) && stat.mtime != time;
            if is_old || node.has_mtime(time) && !node.is_as(&stat) {
                return self.version_attr(node, stat);
            }
        }
        self.change_as(caller, &fd, changes)?;
        let stat = stat::fstat(&fd)?;
        if let Some(time) = changes.mtime {
            node.note_told(time.exact().unwrap_or(stat.mtime));
        }
        if node.kind == Kind::File {
            match (changes.size, changes.mtime) {
                (Some(_), _) => node.note(&stat),
                (None, Some(_)) => node.note_written(&stat, 0),
                (None, None) => {}
            }
        }
        node.note_rights(&stat);
        self.version_attr(node, node.without_hidden(stat))
    }
}

/// Attributes of what has lost its last name, and cannot be reached any more.
fn remains(node: &Node) -> Attr {
    Attr { stat: with_lasting_number(node, node.remains()), ttl: Duration::ZERO }
}

/// The kernel looks for who is bound to a socket by the inode number that it knew then, which is the node's.
fn with_lasting_number(node: &Node, stat: Stat) -> Stat {
    if node.kind == Kind::Socket { Stat { ino: node.id, ..stat } } else { stat }
}

/// For a writer by its descriptor, or for anybody by the draft's name.
fn draft_attr(draft: &Draft, writes: bool) -> Result<Attr> {
    // The kernel asks in the middle of a write, which fails without an answer, and of an open, whose descriptor it then
    // gives back without a close: nothing shall be published of either. As long as nothing was written there is
    // nothing to publish: a name's writers are not told of what failed for somebody who was refused.
    let stat = draft.stat().inspect_err(|&errno| {
        if writes || draft.is_pending() {
            draft.taint("attributes", errno);
        }
    })?;
    // Nor does it tell the daemon what it writes by itself. And before each write to what is lost already it shall ask.
    let ttl = if draft.is_passed_through() || draft.tainted().is_some() { Duration::ZERO } else { DRAFT_TTL };
    Ok(Attr { stat, ttl })
}
