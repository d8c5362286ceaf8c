//! Going away, or having been away, and the sizes of drafts that the journal is told meanwhile.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Fs;
use super::close::Answer;
use crate::commit::{Target, VerbError};
use crate::draft::{Draft, Ending};
use crate::journal::{DraftId, Entry, Owner};
use crate::sys::procfs;

/// How often the journal is told the sizes of growing drafts.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);

/// Writers looked at each time; with more drafts than that, the sizes of the others are those of their staged files.
const LOOKS_PER_PERIOD: usize = 64;

impl Fs {
    /// Waits for commits in flight and ends what is left: promised drafts are committed, others go to quarantine. The
    /// mount must be out of the name space; who has something open in it may still call.
    pub fn stop(self: &Arc<Self>) {
        self.stopping.store(true, Ordering::Release);
        for draft in self.drafts.all() {
            if let Some(ending) = draft.stop() {
                let (fs, draft) = (self.clone(), draft.clone());
                let told = matches!(ending, Ending::Refused { .. });
                self.commits.run(move || {
                    let node = draft.node;
                    fs.end(&draft, ending, Answer::WhenTold, move |ended| {
                        if let Err(errno) = ended
                            && !told
                        {
                            tracing::error!(node, %errno, "commit at the end of the mount failed");
                        }
                    });
                });
            }
        }
        self.commits.finish();
        self.notices.finish();
        self.stop_parking();
        self.stop_locks();
        self.slow.finish();
        self.copies.finish();
        self.gathers.finish();
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
        self.drafts.all().iter().any(|draft| draft.held_until().is_some() || draft.is_sealing())
    }

    /// Drafts that somebody has open for writing: path, bytes, and who began it.
    pub fn busy(&self) -> Vec<(Vec<u8>, u64, Owner)> {
        let sizes: HashMap<DraftId, u64> = self.sizes().into_iter().collect();
        let of = |draft: &Arc<Draft>| {
            let (path, (id, staged)) = (draft.target()?.path(), draft.progress()?);
            Some((path, sizes.get(&id).copied().unwrap_or(staged), draft.owner.clone()))
        };
        let mut busy: Vec<_> = self.drafts.all().iter().filter_map(of).collect();
        busy.sort_by(|one, other| one.0.cmp(&other.0));
        busy
    }

    /// The sizes of all drafts that accept writes: that of the staged file, or what the kernel has gathered if that is
    /// more.
    fn sizes(&self) -> Vec<(DraftId, u64)> {
        let drafts = self.drafts.all();
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
        let target = self.committer.publish_quarantined(id, |path| self.wants_marker(path))?;
        self.notify(&target, true, true);
        self.notify(&target.marker(), true, false);
        Ok(())
    }

    /// The kernel is told of names that recovery published.
    pub fn announce_recovered(&self, targets: &[Target]) {
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
        if fs.stopping.load(Ordering::Acquire) {
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
