//! Going away, or having been away, and the sizes of drafts that the journal is told meanwhile.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use super::Fs;
use super::close::Answer;
use super::wait::Until;
use crate::commit::{Target, VerbError};
use crate::draft::{Draft, Ending, Stopped};
use crate::failpoint;
use crate::journal::{DraftId, Entry, Owner};
use crate::sys::procfs;

/// How often the journal is told the sizes of growing drafts.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);

/// Writers looked at each time; with more drafts than that, the sizes of the others are those of their staged files.
const LOOKS_PER_PERIOD: usize = 64;

/// So long the end waits again and again for who has just closed a descriptor of a draft that has others.
const LEAVING_LIMIT: Duration = Duration::from_secs(10);

impl Fs {
    /// Waits for commits in flight and ends what is left: drafts that are complete are committed, others go to quarantine. The
    /// mount must be out of the name space; who has something open in it may still call.
    ///
    /// After the first step no draft gets content of its own: whoever began before that has listed his draft, and holds it until the
    /// content is there, so that one look at all of them finds everything that there is to end.
    pub fn stop(self: &Arc<Self>) {
        self.committer.stopping.store(true, Ordering::Release);
        failpoint!("stop_begins");
        let (over, all) = bounded::<()>(0);
        let patient = Instant::now() + LEAVING_LIMIT;
        for draft in self.drafts.all() {
            self.stop_draft(draft, patient, over.clone());
        }
        failpoint!("stop_after_look");
        drop(over);
        // Nothing is sent: this ends with the last of them.
        for () in all {}
        self.commits.finish();
        self.notices.finish();
        self.stop_parking();
        self.stop_locks();
        self.slow.finish();
        self.copies.finish();
        self.gathers.finish();
    }

    fn stop_draft(self: &Arc<Self>, draft: Arc<Draft>, patient: Instant, over: Sender<()>) {
        let fs = self.clone();
        match draft.stop(Instant::now() < patient) {
            Stopped::Ends(ending) => {
                let told = matches!(ending, Ending::Refused { .. });
                self.commits.run(move || {
                    let node = draft.node;
                    fs.end(&draft, ending, Answer::WhenTold, move |ended| {
                        if let Err(errno) = ended
                            && !told
                        {
                            tracing::error!(node, %errno, "commit at the end of the mount failed");
                        }
                        drop(over);
                    });
                });
            }
            Stopped::Leaves => {
                self.park(Until::Released(draft.clone()), move |_| fs.stop_draft(draft, patient, over));
            }
            Stopped::Not if draft.is_sealing() => {
                self.park(Until::Settled(draft.clone()), move |_| fs.stop_draft(draft, patient, over));
            }
            Stopped::Not => {}
        }
    }

    /// Ends the drafts whose content another instance has adopted: it may publish it, so nobody shall write to it any more.
    pub fn give_up_adopted(self: &Arc<Self>) {
        let staging = &self.committer.staging;
        for draft in self.drafts.all() {
            if let Some(ending) = draft.give_up_unless(|staged| staging.has(staged)) {
                let node = draft.node;
                self.end(&draft, ending, Answer::AtOnce, move |ended| {
                    if let Err(errno) = ended {
                        tracing::debug!(node, %errno, "a draft ended because its content was adopted");
                    }
                });
            }
        }
    }

    /// True while a commit is in flight, or a close without proof may have a release behind it.
    pub fn is_settling(&self) -> bool {
        self.drafts.in_use().iter().any(|draft| draft.held_until().is_some() || draft.is_sealing())
    }

    /// Drafts that somebody has open for writing: path, bytes, and who began it.
    pub fn busy(&self) -> Vec<(Vec<u8>, u64, Owner)> {
        let sizes: HashMap<DraftId, u64> = self.sizes().into_iter().collect();
        let of = |draft: &Arc<Draft>| {
            let (path, (id, staged)) = (draft.target()?.path(), draft.progress()?);
            Some((path, sizes.get(&id).copied().unwrap_or(staged), draft.owner.clone()))
        };
        let mut busy: Vec<_> = self.drafts.in_use().iter().filter_map(of).collect();
        busy.sort_by(|one, other| one.0.cmp(&other.0));
        busy
    }

    /// The sizes of all drafts that accept writes: that of the staged file, or what the kernel has gathered if that is
    /// more.
    fn sizes(&self) -> Vec<(DraftId, u64)> {
        let drafts = self.drafts.in_use();
        let mut sizes: Vec<_> = drafts.iter().filter_map(|draft| draft.progress()).collect();
        let Some(&mount) = self.mount.get() else { return sizes };
        let (ids, files): (Vec<_>, Vec<_>) = drafts
            .iter()
            .filter_map(|draft| Some((draft.progress()?.0, draft.open_file()?)))
            .take(LOOKS_PER_PERIOD)
            .unzip();
        for (id, cached) in ids.into_iter().zip(procfs::cached_sizes(mount, files)) {
            if let (Some(cached), Some((_, bytes))) = (cached, sizes.iter_mut().find(|(other, _)| *other == id)) {
                *bytes = cached.max(*bytes);
            }
        }
        sizes
    }

    /// Publishes a quarantined draft; the kernel is told of it.
    pub fn publish_quarantined(&self, id: DraftId) -> Result<(), VerbError> {
        let target = self.committer.publish_quarantined(id)?;
        self.announce_published(&[target]);
        Ok(())
    }

    /// The kernel is told of names that nobody's close published.
    pub fn announce_published(&self, targets: &[Target]) {
        for target in targets {
            self.notify(target, true, true);
            self.notify(&target.marker(), true, false);
        }
    }
}

/// Starts the thread that reports sizes; it ends with the file system.
pub(super) fn start_progress(fs: &Arc<Fs>) -> std::io::Result<()> {
    let fs = Arc::downgrade(fs);
    std::thread::Builder::new().name("progress".to_owned()).spawn(move || report(&fs))?;
    Ok(())
}

fn report(fs: &Weak<Fs>) {
    let mut told: HashMap<DraftId, u64> = HashMap::new();
    loop {
        std::thread::sleep(PROGRESS_PERIOD);
        let Some(fs) = fs.upgrade() else { return };
        if fs.committer.stopping.load(Ordering::Acquire) {
            return;
        }
        let mut sizes = HashMap::new();
        for (id, bytes) in fs.sizes() {
            if told.get(&id) != Some(&bytes) {
                fs.committer.journal.submit(Entry::Grown { id, bytes });
            }
            sizes.insert(id, bytes);
        }
        told = sizes;
        fs.drafts.switches.expire();
        fs.nodes().give_back();
    }
}
