//! Creating: files as drafts, everything else at once.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::OFlags;

use super::handle::Handle;
use super::lookup::Seen;
use super::wait::{Until, deserted_limit};
use super::{Done, Entry, Fs, OpenMode, Opened};
use crate::commit::Target;
use crate::draft::{Caller, Draft, Ending, NewDraft, Phase, Wants, Writer};
use crate::failpoint;
use crate::inode::{Content, Node};
use crate::sys::{Errno, Kind, Result, acl, at, process, stat};

/// A created and opened file.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its name's node.
    pub entry: Entry,
    /// Its descriptor.
    pub opened: Opened,
}

/// What is asked for.
#[derive(Clone, Debug)]
struct Creation {
    caller: Caller,
    parent: u64,
    name: OsString,
    mode: Mode,
    flags: OFlags,
    /// The kernel was sent round for it already, and found no such name: told `ESTALE` once more, it would tell its caller.
    again: bool,
}

/// Mode bits of a creation.
#[derive(Clone, Copy, Debug)]
struct Mode {
    asked: u32,
    masked: u32,
}

impl Fs {
    /// Creates and opens a file.
    #[allow(clippy::too_many_arguments)]
    pub fn create(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: OFlags,
        done: impl Done<Created>,
    ) {
        let mode = Mode { asked: mode & 0o7777, masked: mode & 0o7777 & !umask };
        self.drafts.switches.arrive(caller.tid);
        let again = self.drafts.switches.is_in_vain(caller.tid);
        self.create_patiently(Creation { caller, parent, name: name.to_owned(), mode, flags, again }, done);
    }

    fn create_patiently(self: &Arc<Self>, new: Creation, done: impl Done<Created>) {
        let folder = match self.refuse_hidden(new.parent, &new.name).and_then(|()| self.folder(new.parent)) {
            Ok(folder) => folder,
            Err(errno) => return done(Err(errno)),
        };
        if let Some(draft) = self.drafts.at(folder.key, &new.name) {
            if draft.is_sealing() {
                let fs = self.clone();
                return self.after_commit(draft, move || fs.create_patiently(new, done));
            }
            if draft.deserted_until(deserted_limit()).is_some() {
                return self.create_later(Until::Left(draft), new, done);
            }
            return self.join(new, &folder, draft, done);
        }
        self.drafts.switches.end(new.caller.tid);
        let (attempt, at, fs) = (new.clone(), folder.clone(), self.clone());
        self.with_room(
            move |fs| fs.create_now(&attempt, &at),
            move |created| match created {
                Err(Errno::STALE) if new.again => fs.open_existing(new, &folder, done),
                created => done(created),
            },
        );
    }

    fn create_later(self: &Arc<Self>, until: Until, new: Creation, done: impl Done<Created>) {
        let fs = self.clone();
        self.park(until, move |held| if held { fs.create_patiently(new, done) } else { done(Err(Errno::AGAIN)) });
    }

    /// A name that somebody is writing already.
    fn join(self: &Arc<Self>, new: Creation, folder: &Arc<Node>, draft: Arc<Draft>, done: impl Done<Created>) {
        if new.flags.contains(OFlags::EXCL) {
            return done(Err(Errno::EXIST));
        }
        if let Err(errno) = self.refuse_unseen(new.caller) {
            return done(Err(errno));
        }
        // The kernel has pages and a size of its own for the draft, which only an open resets: it shall look again, and
        // open. One that comes back here without having looked joins as it is.
        let round = self.send_round(new.caller, &draft, Wants::Draft);
        if round && new.again {
            return self.open_existing(new, folder, done);
        }
        if round {
            return done(Err(Errno::STALE));
        }
        let fs = self.clone();
        let joined = draft.clone();
        self.open_draft(new.caller, draft, new.flags, move |opened| {
            let created = opened.and_then(|opened| match fs.draft_entry(&joined) {
                Ok(entry) => Ok(Created { entry, opened }),
                Err(errno) => {
                    // As where an open fails that has emptied it.
                    if new.flags.contains(OFlags::TRUNC) && joined.is_pending() {
                        joined.taint("open", errno);
                    }
                    fs.take_back(opened.fh).and(Err(errno))
                }
            });
            done(created);
        });
    }

    /// A name that was there, gone when the kernel looked, and is there again: what the kernel would do is done here. The
    /// thread's open is on its way round.
    fn open_existing(self: &Arc<Self>, new: Creation, folder: &Arc<Node>, done: impl Done<Created>) {
        let Ok(state) = folder.as_folder() else { return done(Err(Errno::NOTDIR)) };
        let answering = state.answers.read();
        let entry = match self.see(new.caller, folder, &new.name, true) {
            Ok(Seen::Entry(entry)) => entry,
            Ok(Seen::Wait(until)) => {
                drop(answering);
                return self.create_later(until, new, done);
            }
            // Gone once more.
            Err(Errno::NOENT) => return done(Err(Errno::STALE)),
            Err(errno) => return done(Err(errno)),
        };
        drop(answering);
        let fs = self.clone();
        let done = move |opened: Result<Opened>| {
            done(opened.inspect_err(|_| fs.forget(entry.node, 1)).map(|opened| {
                // It may have been truncated.
                let stat = fs.attributes(entry.node, Some(opened.fh)).map_or(entry.stat, |attr| attr.stat);
                Created { entry: Entry { stat, ..entry }, opened }
            }));
        };
        // For a creation the kernel asks nobody whether the file may be opened. What is no file has to be followed.
        let allowed = if entry.stat.kind == Kind::File {
            self.may_open(new.caller, entry.node, new.flags)
        } else {
            Err(Errno::STALE)
        };
        match allowed {
            Ok(()) => self.open(new.caller, entry.node, new.flags, done),
            Err(errno) => done(Err(errno)),
        }
    }

    fn create_now(&self, new: &Creation, folder: &Arc<Node>) -> Result<Created> {
        let &Creation { caller, ref name, mode, flags, .. } = new;
        let reads_only = flags & OFlags::ACCMODE == OFlags::RDONLY && !flags.contains(OFlags::TRUNC);
        let decision = self.committer.rules.decide(&folder.path_of(name));
        let direct = decision.mode == crate::rules::Mode::Direct;
        match stat::stat_at(self.nodes().fd(folder)?, name) {
            Ok(_) if flags.contains(OFlags::EXCL) => return Err(Errno::EXIST),
            Ok(_) => return Err(self.look_again(caller, name, flags)),
            Err(Errno::NOENT) => {}
            Err(other) => return Err(other),
        }
        if direct || reads_only {
            let created = self.create_at_once(caller, folder, name, mode, flags, direct);
            if created.as_ref().is_err_and(|errno| *errno == Errno::EXIST) && !flags.contains(OFlags::EXCL) {
                // Another host was faster. The look-up that comes now must not be answered by what was asked before.
                self.committer.revalidated(folder)?;
                return Err(self.look_again(caller, name, flags));
            }
            return created;
        }
        self.refuse_unseen(caller)?;
        self.refuse_other_file_system(folder.key)?;
        let process = process::of(caller.tid);
        let draft = Draft::new(NewDraft {
            node: self.nodes().fresh_id(),
            target: Target { parent: folder.clone(), name: name.to_owned() },
            base: None,
            decision: decision.clone(),
            creds: self.creds(caller),
            owner: self.owner(caller, process.as_ref()),
        });
        // Known before its name is: who finds the draft may be the last to close it, and the daemon may be asked to end.
        let fh = self.handles.number();
        self.drafts.opened(&draft);
        draft.add_writer(fh, Writer::opening(process.as_ref(), flags), flags.contains(OFlags::APPEND));
        let list = || {
            self.drafts.list(folder.key, name, &draft).map_err(|_| {
                if flags.contains(OFlags::EXCL) { Errno::EXIST } else { self.look_again(caller, name, flags) }
            })
        };
        if let Err(errno) = draft.create(&self.committer, mode.asked, mode.masked, list) {
            self.drafts.unlist(folder.key, name, &draft);
            self.leave_unopened(fh, &draft);
            return Err(errno);
        }
        failpoint!("create_after_begin");
        let left = draft.content().and_then(|content| self.leave_some(&*content));
        let begun = left.and_then(|()| self.draft_entry(&draft)).and_then(|entry| {
            let counted = AtomicBool::new(false);
            self.handles.insert(fh, Handle::Draft { draft: draft.clone(), writes: true, counted });
            let mode = self.draft_mode(caller, fh, &draft, flags).inspect_err(|_| {
                drop(self.handles.remove(fh));
                self.forget(draft.node, 1);
            })?;
            draft.show(Some(entry.stat.mtime).filter(|_| self.options.keeps_times && matches!(mode, OpenMode::Draft)));
            Ok(Created { entry, opened: Opened { fh, mode } })
        });
        let created = match begun {
            Ok(created) => created,
            Err(errno) => {
                self.abandon(folder, name, &draft);
                self.leave_unopened(fh, &draft);
                return Err(errno);
            }
        };
        folder.as_folder()?.forget_attributes();
        Ok(created)
    }

    /// A draft that nobody got a descriptor of.
    fn abandon(&self, folder: &Node, name: &OsStr, draft: &Arc<Draft>) {
        if let Err(errno) = draft.unname(&self.committer, false) {
            tracing::error!(node = draft.node, %errno, "a draft that nobody got keeps its name");
        }
        self.drafts.unlist(folder.key, name, draft);
        if let Some(Ending::Unnamed { id, staged }) = draft.seal() {
            self.committer.discard(id, &staged, "could not be begun");
            draft.finish(Phase::Ended(None), || ());
            self.poke();
        }
    }

    /// Takes back what was counted for a descriptor that is not given out.
    fn leave_unopened(&self, fh: u64, draft: &Arc<Draft>) {
        draft.remove_writer(fh);
        draft.closed();
        self.drafts.drop_if_unreferenced(draft);
    }

    /// The name appeared since the kernel looked: it shall look again and open it. It does that once, so the look-up
    /// finds what the open needs.
    fn look_again(&self, caller: Caller, name: &OsStr, flags: OFlags) -> Errno {
        let writes = flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        let wants = Wants::to(writes, flags.contains(OFlags::TRUNC));
        self.drafts.switches.begin(caller.tid, 0, name, wants);
        Errno::STALE
    }

    /// A file that is there from the beginning: written in place, or opened for reading only.
    fn create_at_once(
        &self,
        caller: Caller,
        folder: &Arc<Node>,
        name: &OsStr,
        mode: Mode,
        flags: OFlags,
        direct: bool,
    ) -> Result<Created> {
        let dir = self.nodes().fd(folder)?;
        let mode = if acl::default_of(&dir)?.is_some() { mode.asked } else { mode.masked };
        let access = if direct { OFlags::RDWR | (flags & OFlags::SYNC) } else { OFlags::RDONLY };
        let creds = self.creds(caller);
        let file = Content::new(self.committer.make(folder, name, |dir| {
            let create = || at::open_file(dir, name, access | OFlags::CREATE | OFlags::EXCL, mode);
            self.committer.staging.acting(creds.as_ref(), create)
        })?);
        let (node, stat) = self.nodes().lookup(folder, name)?;
        let entry = Entry { entry_ttl: Duration::ZERO, ..self.version_entry(&node, stat, Duration::ZERO) };
        let opened = if direct {
            self.nodes().begin_in_place(&node, stat.size);
            self.opened_in_place(file, node, true)
        } else {
            let (fh, id) = (self.handles.number(), node.id);
            self.handles.insert(fh, Handle::Version { file: file.clone(), node, executes: false });
            Opened { fh, mode: OpenMode::Version(file, id) }
        };
        Ok(Created { entry, opened })
    }

    /// Creates a folder.
    pub fn mkdir(&self, caller: Caller, parent: u64, name: &OsStr, mode: u32, umask: u32) -> Result<Entry> {
        self.make(caller, parent, name, |dir| at::mkdir(dir, name, masked(dir, mode, umask)?))
    }

    /// Creates a special file, or an empty regular one, at once.
    pub fn mknod(&self, caller: Caller, parent: u64, name: &OsStr, mode: u32, umask: u32, rdev: u32) -> Result<Entry> {
        let kind = mode & !0o7777;
        self.make(caller, parent, name, |dir| at::mknod(dir, name, kind | masked(dir, mode, umask)?, rdev))
    }

    /// Creates a symbolic link.
    pub fn symlink(&self, caller: Caller, parent: u64, name: &OsStr, target: &OsStr) -> Result<Entry> {
        self.make(caller, parent, name, |dir| at::symlink(target, dir, name))
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        let node = self.nodes().get(node)?;
        if node.kind != Kind::Symlink {
            return Err(Errno::INVAL);
        }
        at::readlink(self.nodes().fd(&node)?)
    }

    /// Without room for a new name, or for its inode, what is kept for later makes way, and `call` is tried once more.
    pub fn with_room<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl Fn(&Arc<Fs>) -> Result<T> + Send + 'static,
        done: impl Done<T>,
    ) {
        let seen = self.reaper.purges();
        match call(self) {
            Err(Errno::NOSPC) => {
                let fs = self.clone();
                self.copies.run(move || {
                    done(if fs.reaper.make_room(seen) { call(&fs) } else { Err(Errno::NOSPC) });
                });
            }
            other => done(other),
        }
    }

    /// Makes a name by `call`, as the caller, and looks it up.
    pub(super) fn make(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        call: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<()>,
    ) -> Result<Entry> {
        self.refuse_hidden(parent, name)?;
        let folder = self.folder(parent)?;
        if self.drafts.at(folder.key, name).is_some_and(|draft| draft.is_pending()) {
            return Err(Errno::EXIST);
        }
        let creds = self.creds(caller);
        self.committer.make(&folder, name, |dir| self.committer.staging.acting(creds.as_ref(), || call(dir)))?;
        let (node, stat) = self.nodes().lookup(&folder, name)?;
        Ok(self.version_entry(&node, stat, self.options.ttl))
    }
}

/// The mode of a new name: the umask does not apply where the folder has a default access list.
fn masked(dir: std::os::fd::BorrowedFd<'_>, mode: u32, umask: u32) -> Result<u32> {
    let mode = mode & 0o7777;
    Ok(if acl::default_of(dir)?.is_some() { mode } else { mode & !umask })
}
