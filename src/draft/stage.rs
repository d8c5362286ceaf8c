//! How a draft gets content of its own: an empty staged file for a new name, a copy of the version below otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::{Base, Blocked, Body, Draft, Phase, Work, digest, family};
use crate::commit::{Committer, Reason, Staged, Target};
use crate::failpoint;
use crate::journal::{Begun, CommitKind, Entry, Owner};
use crate::rules::Decision;
use crate::sys::cred::Creds;
use crate::sys::stat::Time;
use crate::sys::{Errno, Result, at, clock, mount, stat};

/// A file system's times are as exact as this.
const COARSE: Duration = Duration::from_secs(2);

/// How often another host may replace a version while a draft is begun over it.
const REPLACED: u32 = 4;

/// How much of the version below a draft starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything: append, patch, map.
    All,
    /// The first bytes: truncate.
    Bytes(u64),
    /// Nothing: the open truncated.
    Nothing,
}

/// What a draft is begun with.
#[derive(Debug)]
pub struct NewDraft {
    /// Its node id.
    pub node: u64,
    /// Where it will appear.
    pub target: Target,
    /// The version below, if the name exists.
    pub base: Option<Base>,
    /// What the rules say of its path.
    pub decision: Decision,
    /// As whom it is created; `None` for the daemon itself.
    pub creds: Option<Creds>,
    /// Who begins it.
    pub owner: Owner,
}

impl Draft {
    /// A draft without content of its own.
    pub fn new(new: NewDraft) -> Arc<Self> {
        Arc::new(Draft {
            began_over: Mutex::new(new.base.iter().map(|base| base.like.ino).collect()),
            node: new.node,
            decision: new.decision,
            creds: new.creds,
            owner: new.owner,
            filling: Mutex::default(),
            body: RwLock::new(Body {
                phase: Phase::Clean,
                target: Some(new.target),
                base: new.base,
                unlinked: Vec::new(),
            }),
            writers: Mutex::new(family::Writers::default()),
            stream: Mutex::new(digest::Stream::default()),
            taint: Mutex::new(None),
            shown: Mutex::new(None),
            nlookup: AtomicU64::new(0),
            handles: AtomicUsize::new(0),
            closed_last: AtomicU64::new(0),
            expected: AtomicUsize::new(0),
            given_back: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            closes: AtomicU64::new(0),
            only_appends: AtomicBool::new(true),
            only_resizes: AtomicBool::new(true),
            shadows: AtomicBool::new(false),
            bulk: AtomicBool::new(false),
            again: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            told_size: AtomicU64::new(0),
            lags: AtomicBool::new(false),
            noting: Mutex::default(),
            reopening: Mutex::default(),
            committed: Mutex::new(Ok(())),
        })
    }

    /// Creates the staged file of a new name. `listed` is called with the draft locked, so that whoever finds it from
    /// then on waits until the file is there (or the attempt failed).
    pub fn create(
        self: &Arc<Self>,
        by: &Committer,
        mode: u32,
        masked_mode: u32,
        listed: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut body = self.body.write();
        listed()?;
        let target = body.target.clone().ok_or(Errno::NOENT)?;
        body.phase = match self.begin_new(by, &target, mode, masked_mode) {
            Ok(work) => Phase::Open(work),
            Err(errno) => {
                body.phase = Phase::Ended(None);
                return Err(errno);
            }
        };
        Ok(())
    }

    /// The staged file of a name that has no version.
    fn begin_new(&self, by: &Committer, target: &Target, mode: u32, masked_mode: u32) -> Result<Work> {
        let work = self.begin(by, target.path(), CommitKind::New, |name| {
            by.staging.create_draft(name, masked_mode, self.creds.as_ref())
        })?;
        let folder = by.nodes.fd(&target.parent);
        let inherit = |dir| by.staging.inherit(&work.staged, dir, mode, masked_mode, self.creds.as_ref());
        match folder.and_then(inherit) {
            Ok(()) => Ok(work),
            Err(errno) => {
                by.discard(work.id, &work.staged, "could not be begun");
                Err(errno)
            }
        }
    }

    /// `EPERM` if the version below belongs to somebody whose file the draft cannot be: better no draft than one that
    /// would change the owner, or fail at its first write.
    pub fn refuse_foreign(&self, by: &Committer) -> Result<()> {
        let body = self.body.read_recursive();
        let (Phase::Clean, Some(base)) = (&body.phase, &body.base) else { return Ok(()) };
        let like = base.stat()?;
        if by.staging.can_resemble(self.creds.as_ref(), &like) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Makes sure that the version below can be read, for somebody who opens the draft and does not truncate it.
    pub fn read_below(&self, by: &Committer) -> Result<()> {
        let unread = |body: &Body| {
            matches!(body.phase, Phase::Clean | Phase::Filling(None))
                && body.base.as_ref().is_some_and(|base| base.unread)
        };
        if !unread(&self.body.read_recursive()) {
            return Ok(());
        }
        // Nothing is copied of such a one, so that is soon over.
        let _filled = self.filling.lock();
        let mut body = self.body.write();
        if unread(&body)
            && let Some(base) = &mut body.base
        {
            base.file = Some(base.readable(by, self.creds.as_ref())?);
            base.unread = false;
        }
        Ok(())
    }

    /// Makes the draft ready to be changed, as `blocked` said it was not. Not for [`Blocked::Sealing`]: wait for the
    /// commit's end first.
    pub fn unblock(&self, by: &Committer, blocked: Blocked, keep: Keep) -> Result<()> {
        match blocked {
            Blocked::Clean => self.copy_up(by, keep),
            Blocked::Promised => match &self.body.write().phase {
                Phase::Open(work) => work.take_promise_back(by),
                _ => Ok(()),
            },
            Blocked::Published => self.begin_again(by, keep),
            Blocked::Sealing => Err(Errno::AGAIN),
            Blocked::Ended => Err(self.tainted().map_or(Errno::IO, |(_, errno)| errno)),
        }
    }

    /// Copies the version below into a staged file of its own.
    fn copy_up(&self, by: &Committer, keep: Keep) -> Result<()> {
        let _filling = self.filling.lock();
        let Some((base, path, target)) = self.begin_filling() else { return Ok(()) };
        let filled = self.fork_current(by, base, &path, target, keep);
        self.filled(by, &path, Phase::Clean, filled)
    }

    /// What the draft is to be filled from, as `filling` is held; `None` if that was done already.
    fn begin_filling(&self) -> Option<(Option<Base>, Vec<u8>, Option<Target>)> {
        let mut body = self.body.write();
        // One that is being filled has lost whoever did it.
        if !matches!(body.phase, Phase::Clean | Phase::Filling(None)) {
            return None;
        }
        body.phase = Phase::Filling(None);
        Some((body.base.clone(), body.path(), body.target.clone()))
    }

    /// The copy is made, or was not: then the draft is as it was `before`.
    fn filled(&self, by: &Committer, told: &[u8], before: Phase, filled: Result<(Option<Base>, Work)>) -> Result<()> {
        let mut body = self.body.write();
        let (base, work) = match filled {
            Ok(filled) => filled,
            Err(errno) => {
                body.phase = before;
                drop(body);
                self.taint_by_copy(errno);
                return Err(errno);
            }
        };
        self.begins_over(base.as_ref());
        // It, or a folder above it, may have got another name meanwhile.
        let path = body.path();
        if path != told {
            by.journal.submit(Entry::Retargeted { id: work.id, path, below: None, folder: None, from: None });
        }
        (body.base, body.phase) = (base, Phase::Open(work));
        // No close of this content was answered yet.
        self.awaited.store(false, Ordering::Release);
        Ok(())
    }

    /// A copy of the version below, or of what another host has put in its place.
    fn fork_current(
        &self,
        by: &Committer,
        mut base: Option<Base>,
        path: &[u8],
        target: Option<Target>,
        keep: Keep,
    ) -> Result<(Option<Base>, Work)> {
        let mut work = self.fork(by, path.to_vec(), base.as_ref().ok_or(Errno::IO)?, keep);
        for _ in 0..REPLACED {
            // Another host has replaced or removed the version, of which nothing but the attributes is wanted: those of
            // what is there now.
            let wanted = |base: &&Base| base.unread && keep == Keep::Nothing && matches!(work, Err(Errno::STALE));
            let (Some(gone), Some(target)) = (base.as_ref().filter(wanted), &target) else { break };
            let mode = gone.like.perm;
            base = Base::under(by, target, self.creds.as_ref())?;
            work = match &base {
                Some(base) => self.fork(by, path.to_vec(), base, keep),
                None => self.begin_new(by, target, mode, mode),
            };
        }
        Ok((base, work?))
    }

    /// Copies the version below before anything is written, for a writer whose writes nobody but the kernel sees. The copy
    /// has the version's time, by which it is told at the end whether it was written to.
    pub fn copy_ahead(&self, by: &Committer) -> Result<()> {
        let _filling = self.filling.lock();
        let Some((base, path, _)) = self.begin_filling() else { return Ok(()) };
        let filled = base.ok_or(Errno::IO).and_then(|base| {
            let mut work = self.fork(by, path.clone(), &base, Keep::All)?;
            match self.date_copy(by, &base, &work.staged) {
                Ok(copied) => work.copied = copied,
                Err(errno) => {
                    by.discard(work.id, &work.staged, "could not be begun");
                    return Err(errno);
                }
            }
            Ok((Some(base), work))
        });
        self.filled(by, &path, Phase::Clean, filled)
    }

    /// Gives a copy the time of the version that it was made of: its size and time, by which a write to it is told.
    fn date_copy(&self, by: &Committer, base: &Base, staged: &Staged) -> Result<Option<(u64, Time)>> {
        let below = stat::fstat(&**base.file.as_ref().ok_or(Errno::IO)?)?;
        // A write in this moment could have the same time.
        let is_old = clock::now().duration_since(below.mtime.to_system()).is_ok_and(|age| age > COARSE);
        if !is_old {
            return Ok(None);
        }
        by.staging.acting_for(self.creds.as_ref(), || at::set_mtime(&*staged.file, below.mtime))?;
        let made = stat::fstat(&staged.file)?;
        Ok(Some((made.size, made.mtime)))
    }

    /// A write after the commit: the published version becomes the version below a fresh draft.
    fn begin_again(&self, by: &Committer, keep: Keep) -> Result<()> {
        let _filling = self.filling.lock();
        let (kept, path) = {
            let mut body = self.body.write();
            let (Phase::Published(kept) | Phase::Filling(Some(kept))) = &body.phase else { return Ok(()) };
            let kept = kept.clone();
            body.phase = Phase::Filling(Some(kept.clone()));
            (kept, body.path())
        };
        let filled = kept.file().and_then(|file| {
            let base = Base { like: stat::fstat(&*file)?, file: Some(file), unread: false };
            tracing::info!(node = self.node, "write after the last close: a fresh draft");
            self.only_resizes.store(true, Ordering::Relaxed);
            self.again.store(true, Ordering::Release);
            let work = self.fork(by, path.clone(), &base, keep)?;
            Ok((Some(base), work))
        });
        self.filled(by, &path, Phase::Published(kept), filled)
    }

    /// Its family has changed the mode or the access time of the version below: a set-id bit that it gave is meant for what is written
    /// then, and so is that time.
    pub fn note_attributes(&self, perm: Option<u32>, atime: Option<Time>) {
        let mut body = self.body.write();
        if matches!(body.phase, Phase::Clean)
            && let Some(base) = &mut body.base
        {
            base.like.perm = perm.unwrap_or(base.like.perm);
            base.like.atime = atime.unwrap_or(base.like.atime);
        }
    }

    fn begins_over(&self, base: Option<&Base>) {
        let mut began_over = self.began_over.lock();
        if let Some(ino) = base.map(|base| base.like.ino).filter(|ino| !began_over.contains(ino)) {
            began_over.push(ino);
        }
    }

    /// As with a write, whoever asked deals with a lack of room.
    fn taint_by_copy(&self, errno: Errno) {
        if !mount::is_no_space(errno) {
            self.taint("copy", errno);
        }
    }

    fn fork(&self, by: &Committer, path: Vec<u8>, base: &Base, keep: Keep) -> Result<Work> {
        let below = base.file.as_ref().ok_or(Errno::IO)?;
        let mut like = stat::fstat(&**below)?;
        // A set-id bit that came since was not meant for what may have been written meanwhile.
        like.perm &= !stat::SET_IDS | base.like.perm;
        let kept = match keep {
            Keep::All => like.size,
            Keep::Bytes(bytes) => bytes.min(like.size),
            Keep::Nothing => 0,
        };
        let kind = if keep == Keep::Nothing { CommitKind::Overwrite } else { CommitKind::Append };
        let mut work = self.begin(by, path, kind, |name| {
            let staged = by.staging.create_like(name, below, &like, self.creds.as_ref())?;
            if kept == 0 {
                return Ok(staged);
            }
            match base.copy_into(by, self.creds.as_ref(), &staged.file, kept) {
                Ok(()) => Ok(staged),
                Err(errno) => {
                    by.staging.remove(name)?;
                    Err(errno)
                }
            }
        })?;
        work.changed = AtomicBool::new(keep == Keep::Nothing || kept < like.size);
        // To write is not to read, though the kernel reads what it writes a part of. On NFS it would be a request, and the server keeps
        // these times as it likes.
        if !by.nodes.is_nfs() {
            let set_atime = || at::set_atime(&*work.staged.file, base.like.atime);
            if let Err(errno) = by.staging.acting_for(self.creds.as_ref(), set_atime) {
                tracing::debug!(node = self.node, %errno, "an access time is that of the copy");
            }
            at::leave_atime(&*work.staged.file);
        }
        let mut stream = self.stream.lock();
        stream.restart();
        if kept > 0 {
            stream.lose();
        }
        Ok(work)
    }

    /// The first row and the staged file of a draft. Fails before anything exists if the journal cannot take rows, or the
    /// daemon ends. To be called while `body` or `filling` is held.
    fn begin(
        &self,
        by: &Committer,
        path: Vec<u8>,
        kind: CommitKind,
        make: impl FnOnce(&str) -> Result<Staged>,
    ) -> Result<Work> {
        // Seen by whoever lists the draft, or copies for it, after the end has begun; what was under way before, the end waits for.
        if by.stopping.load(Ordering::Acquire) {
            return Err(Reason::Stopped.errno());
        }
        by.journal.health().map_err(|error| {
            tracing::warn!(%error, "no new draft while the journal is in trouble");
            Errno::from_raw_os_error(error.errno())
        })?;
        let id = by.journal.next_draft_id();
        let name = by.staging.stage_name_of(id);
        let staged = make(&name)?;
        failpoint!("begin_after_stage");
        by.journal.submit(Entry::Begun(Begun {
            id,
            path,
            stage: name,
            ino: staged.ino,
            kind,
            owner: self.owner.clone(),
        }));
        failpoint!("begin_after_row");
        Ok(Work {
            id,
            staged,
            promised: AtomicBool::new(false),
            promising: AtomicBool::new(false),
            kind,
            written: AtomicU64::new(0),
            changed: AtomicBool::new(true),
            copied: None,
        })
    }

    /// Empties the draft: an open that truncates a draft somebody else began. False while a commit is on its way, which
    /// may have begun since anybody looked: wait for its end.
    pub fn empty(&self, by: &Committer) -> Result<bool> {
        let mut is_fresh = false;
        loop {
            let emptied = self.change(|work| {
                // On NFS a request, for which a file just made has no need; for any other it is a change of its times.
                if !is_fresh || stat::fstat(&work.staged.file)?.size > 0 {
                    at::truncate(&work.staged.file, 0)?;
                }
                self.stream.lock().restart();
                Ok(())
            })?;
            match emptied {
                Ok(()) => {
                    self.only_resizes.store(false, Ordering::Relaxed);
                    return Ok(true);
                }
                Err(Blocked::Sealing) => return Ok(false),
                Err(blocked) => {
                    self.unblock(by, blocked, Keep::Nothing)?;
                    is_fresh = true;
                }
            }
        }
    }
}
