//! Closing: FLUSH with every close of every duplicate, RELEASE after the last reference; in between the proof that lets
//! the commit happen before `close` returns.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handle::Handle;
use super::{Done, Fs};
use crate::commit::{Failed, Reason, Target};
use crate::draft::{self, Caller, Closer, Draft, Ending, Kept, Phase, Proof};
use crate::rules::CommitAt;
use crate::sys::Result;
use crate::sys::procfs::{self, Space};
use crate::sys::{at, mount, process};
use crate::{failpoint, metrics};

impl Fs {
    /// One duplicate of a descriptor is being closed. Answers after the commit if this was provably the last one.
    pub fn flush(self: &Arc<Self>, caller: Caller, fh: u64, lock_owner: u64, done: impl Done<()>) {
        let handle = match self.handles.get(fh) {
            Ok(handle) => handle,
            Err(errno) => return done(Err(errno)),
        };
        let draft = match &*handle {
            Handle::Draft { draft, writes: true, .. } => draft,
            // An NFS client's close: what was written is with the server, for whoever opens it next on another host.
            Handle::Direct { file, writes: true, .. } if self.options.nfs => {
                let (fs, file) = (self.clone(), file.clone());
                return self.slow.run(move || {
                    let written = at::fsync(&*file);
                    fs.unlock_process(fh, lock_owner);
                    done(written);
                });
            }
            _ => {
                self.unlock_process(fh, lock_owner);
                return done(Ok(()));
            }
        };
        // Before anybody else can look: each close is judged by what it finds, and by those that come meanwhile.
        draft.count_close();
        if draft.decision.commit == CommitAt::Release {
            let closed = self.close_without_waiting(caller, fh, draft);
            self.unlock_process(fh, lock_owner);
            return done(closed);
        }
        let (fs, draft) = (self.clone(), draft.clone());
        self.commits.run(move || {
            let unlocker = fs.clone();
            fs.close_writer(caller, fh, &draft, move |closed| {
                // Whoever waits for the lock finds the version that was written under it.
                unlocker.unlock_process(fh, lock_owner);
                done(closed);
            });
        });
    }

    /// The rules have the draft committed at release: nothing is proven, made durable or promised. Who looks at the name
    /// after this close is held back until the release behind it.
    fn close_without_waiting(&self, caller: Caller, fh: u64, draft: &Draft) -> Result<()> {
        if let Some(closer) = note_close(draft, fh, caller) {
            let is_shared = |inode, own| self.is_shared(draft, inode, own);
            draft::note_own(draft, self.mount.get().copied(), fh, &closer, is_shared);
        }
        draft.await_commit();
        draft.hold(fh);
        metrics::close_proof("not_asked");
        draft.check_held()
    }

    fn close_writer(self: &Arc<Self>, caller: Caller, fh: u64, draft: &Arc<Draft>, done: impl Done<()>) {
        let closer = note_close(draft, fh, caller);
        let is_shared = |inode, own| self.is_shared(draft, inode, own);
        let proof = draft::last_close(draft, self.mount.get().copied(), fh, closer.as_ref(), is_shared);
        metrics::close_proof(proof.word());
        match proof {
            Proof::LastClose => self.end_last(fh, draft, done),
            Proof::LastNumber if draft.is_copied_for_a_write() => {
                let (fs, draft) = (self.clone(), draft.clone());
                self.gathers.run_apart(move || {
                    fs.gather(draft.node);
                    let by = fs.clone();
                    fs.commits.run(move || by.end_last(fh, &draft, done));
                });
            }
            Proof::LastNumber => {
                self.gather(draft.node);
                self.end_last(fh, draft, done);
            }
            Proof::StillOpen => done(draft.check()),
            Proof::Unknown => {
                draft.await_commit();
                draft.hold(fh);
                // An execve closes what it does not pass on, and nobody is told of that: there is no close that could be promised anything,
                // and what is executed may have the draft by another number.
                let executes = closer.is_some_and(|closer| closer.executes);
                let promised =
                    draft.check().and_then(|()| if executes { Ok(()) } else { draft.promise(&self.committer) });
                if draft.is_sealing() {
                    return self.after_others(draft, done);
                }
                let promised = promised.and_then(|()| draft.outcome());
                // The kernel may remember a version of that name, and who comes after this close shall wait.
                match draft.target().filter(|_| draft.is_again() || draft.was_given_back()) {
                    Some(target) => self.announce(target, true, move || done(promised)),
                    None => done(promised),
                }
            }
        }
    }

    /// The last close of a draft: its commit, if something was written.
    fn end_last(self: &Arc<Self>, fh: u64, draft: &Arc<Draft>, done: impl Done<()>) {
        match draft.seal_after(fh) {
            Some(ending) => self.end(draft, ending, Answer::WhenTold, done),
            None => {
                // Another close may have sealed it, which has not returned.
                draft.await_commit();
                self.drafts.give_back(draft, fh);
                self.after_others(draft, done);
            }
        }
    }

    /// Answers a close that does not commit: with what comes of the commit that another one has begun, once that is over.
    fn after_others(self: &Arc<Self>, draft: &Arc<Draft>, done: impl Done<()>) {
        if !draft.is_sealing() {
            return done(draft.outcome());
        }
        let closed = draft.clone();
        self.after_commit(draft.clone(), move || done(closed.outcome()));
    }

    /// The last reference to a descriptor is gone. Commits now if no close did.
    pub fn release(self: &Arc<Self>, fh: u64) -> Result<()> {
        self.end_descriptor(fh, true)
    }

    /// The same for one that its process never got, which tells nothing of that.
    pub(super) fn take_back(self: &Arc<Self>, fh: u64) -> Result<()> {
        self.end_descriptor(fh, false)
    }

    fn end_descriptor(self: &Arc<Self>, fh: u64, was_given: bool) -> Result<()> {
        self.unlock_handle(fh);
        match &*self.handles.remove(fh)? {
            Handle::Version { node, executes, .. } => {
                self.backings.close(node.id);
                if *executes {
                    node.executed.fetch_sub(1, Ordering::AcqRel);
                }
            }
            Handle::Direct { file, node, writes } => {
                self.backings.close(node.id);
                if *writes {
                    self.release_in_place(file, node);
                }
            }
            Handle::Draft { draft, writes, counted } => {
                if counted.load(Ordering::Acquire) {
                    self.backings.close(draft.node);
                }
                let (fs, draft, writes) = (self.clone(), draft.clone(), *writes);
                if writes {
                    failpoint!("release_begins");
                    draft.note_ends_of_mappings();
                }
                if writes && was_given && !draft.note_release(fh, false) {
                    // No close of it has returned, so nobody can expect a version yet.
                    self.commits.run(move || {
                        draft.note_release(fh, true);
                        fs.release_draft(fh, &draft, writes);
                    });
                } else {
                    self.release_draft(fh, &draft, writes);
                }
            }
            Handle::Folder(_) => {}
        }
        Ok(())
    }

    fn release_draft(self: &Arc<Self>, fh: u64, draft: &Arc<Draft>, writes: bool) {
        let last = writes && draft.remove_writer(fh);
        // Sealed here and not with the commit: a look-up that comes after the answer must find a commit to wait for.
        if last {
            draft.await_commit();
        }
        let ending = if last { draft.seal_after(fh) } else { None };
        draft.end_hold(fh);
        self.poke();
        match ending {
            Some(ending) => {
                let (fs, draft) = (self.clone(), draft.clone());
                self.commits.run(move || {
                    let (after, closed) = (fs.clone(), draft.clone());
                    fs.end(&draft, ending, Answer::WhenTold, move |ended| {
                        // Its error has nobody to go to; the journal has it. That a writer was killed is no error.
                        if let Err(errno) = ended
                            && !closed.is_refused()
                        {
                            tracing::error!(node = closed.node, %errno, "commit after the last release failed");
                        }
                        after.leave_draft(&closed);
                    });
                });
            }
            None => {
                if last {
                    self.drafts.give_back(draft, fh);
                }
                self.leave_draft(draft);
            }
        }
    }

    /// One descriptor of a draft is gone.
    fn leave_draft(self: &Arc<Self>, draft: &Arc<Draft>) {
        draft.closed();
        if draft.let_go(&self.committer.nodes)
            && !self.committer.stopping.load(Ordering::Acquire)
            && let Some(target) = draft.target()
        {
            // The kernel keeps what it has looked up, though it will look again: told to, it forgets the node. Nothing else has changed.
            let fs = self.clone();
            self.notices.run(move || fs.notify(&target, true, false));
        }
        self.drafts.drop_if_unreferenced(draft);
    }

    /// Carries an ending out, and answers. Runs on a commit thread; no lock is held.
    pub(super) fn end(self: &Arc<Self>, draft: &Arc<Draft>, ending: Ending, answer: Answer, done: impl Done<()>) {
        let target = draft.target();
        let settle = |phase| {
            let published = matches!(phase, Phase::Published(_));
            draft.finish(phase, || match &target {
                Some(target) if published => self.drafts.unlist_published(target.parent.key, &target.name, draft),
                Some(target) => self.drafts.unlist(target.parent.key, &target.name, draft),
                None => {}
            });
            self.poke();
            // Its last descriptor may have been released since another close has sealed it.
            self.drafts.drop_if_unreferenced(draft);
        };
        let mut settled = Settled(Some(settle));
        match ending {
            Ending::Commit(mut sealed) => {
                sealed.marked = self.committer.wants_marker(&sealed.target.path());
                let marked = sealed.marked;
                let (id, staged, digested) = (sealed.id, sealed.staged.clone(), sealed.digest.is_some());
                let promised = sealed.promised;
                let spared = |errno| promised && mount::is_failure(errno);
                let published = sealed.make_durable().and_then(|durable| durable.publish(&self.committer));
                let published = match published {
                    Ok(published) => published,
                    Err(Failed { step, errno }) => {
                        draft.taint(step, errno);
                        if spared(errno) {
                            self.committer.postpone(id, Failed { step, errno }, target.as_ref(), draft.base_key());
                            settled.now(Phase::Ended(Some(Kept::Open(staged.file))));
                            return done(Err(errno));
                        }
                        let reason = Reason::Failed { step, errno };
                        self.committer.quarantine(id, &staged, reason, &path_of(target.as_ref()), &draft.owner);
                        settled.now(Phase::Ended(Some(Kept::Open(staged.file.clone()))));
                        done(Err(errno));
                        return self.committer.keep(&staged);
                    }
                };
                let replaced = draft.replaces();
                let (target, recorded) = match published.unsynced {
                    // A later attempt, or recovery, finds out whether the rename has lasted.
                    Some(errno) if spared(errno) => {
                        let target = published.abandon(&self.committer);
                        let failed = Failed { step: "fsync of the folder", errno };
                        self.committer.postpone(id, failed, Some(&target), draft.base_key());
                        (target, Err(errno))
                    }
                    _ => published.record(&self.committer),
                };
                draft.note_commit(recorded);
                settled.now(Phase::Published(Kept::Open(staged.file.clone())));
                if replaced {
                    // Who still has it open, and who looks at the path, see one inode number, that of the new version.
                    self.announce_attributes(draft.node);
                }
                self.commits_done.fetch_add(1, Ordering::Relaxed);
                if !digested {
                    self.digester.take(id, target.path(), staged.file, &self.committer.nodes);
                }
                let done = match answer {
                    Answer::WhenTold => Some(done),
                    Answer::AtOnce => {
                        done(recorded);
                        None
                    }
                };
                let told = move || done.map_or((), |done| done(recorded));
                if !marked {
                    return self.announce(target, replaced, told);
                }
                let (fs, marker) = (self.clone(), target.marker());
                self.announce(target, replaced, move || fs.announce(marker, true, told));
            }
            Ending::Refused { id, staged, reason } => {
                self.committer.quarantine(id, &staged, reason, &path_of(target.as_ref()), &draft.owner);
                // For whoever closes after this one.
                draft.spoil(reason.step(), reason.errno());
                settled.now(Phase::Ended(Some(Kept::Open(staged.file.clone()))));
                done(Err(reason.errno()));
                self.committer.keep(&staged);
            }
            Ending::Postponed { id, staged, failed } => {
                self.committer.postpone(id, failed, target.as_ref(), draft.base_key());
                settled.now(Phase::Ended(Some(Kept::Open(staged.file))));
                done(Err(failed.errno));
            }
            Ending::Untouched { id, staged } => {
                self.committer.discard(id, &staged, "nothing was written");
                settled.now(Phase::Published(Kept::Open(staged.file)));
                done(Ok(()));
            }
            Ending::Unnamed { id, staged } => {
                self.committer.discard(id, &staged, "unlinked by its writer");
                settled.now(Phase::Published(Kept::Open(staged.file)));
                done(Ok(()));
            }
        }
    }

    /// Commits since the mount.
    pub fn commits_done(&self) -> u64 {
        self.commits_done.load(Ordering::Relaxed)
    }
}

/// When whoever asked for an ending is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// When the kernel knows of it too: nobody finds the version before any more.
    WhenTold,
    /// As soon as it is recorded. For a request during which the kernel holds the file's lock: whoever renames or removes the
    /// file waits for that one and holds the folder's, for which the notice waits.
    AtOnce,
}

/// Remembers who has closed, and how it ends, if this is its last act: before anybody can see that it has closed.
fn note_close(draft: &Draft, fh: u64, caller: Caller) -> Option<Closer> {
    draft.note_ends_of_mappings();
    let process = process::of(caller.tid)?;
    let space = procfs::space(caller.tid);
    draft.note_close(fh, process.tgid);
    if space == Some(Space::Gone)
        && let Some(exit) = procfs::exit_of(caller.tid)
    {
        draft.note_exit(process.tgid, exit);
    }
    Some(Closer { process, tid: caller.tid, executes: space == Some(Space::Fresh) })
}

fn path_of(target: Option<&Target>) -> Vec<u8> {
    target.map(Target::path).unwrap_or_default()
}

/// Ends a draft's sealing on every way out, a panic included: nobody may wait for it for ever.
struct Settled<F: FnOnce(Phase)>(Option<F>);

impl<F: FnOnce(Phase)> Settled<F> {
    fn now(&mut self, phase: Phase) {
        if let Some(settle) = self.0.take() {
            settle(phase);
        }
    }
}

impl<F: FnOnce(Phase)> Drop for Settled<F> {
    fn drop(&mut self) {
        self.now(Phase::Ended(None));
    }
}
