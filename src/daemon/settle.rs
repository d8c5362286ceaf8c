//! `settle`: each commit is read again some time after it, when caches have let go of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chore::{Chore, Stopped, pause};
use crate::commit::{Committer, Verdict};
use crate::inode::display_path;
use crate::journal::feed::Reach;
use crate::journal::{DraftId, Entry};
use crate::metrics;

/// How often news are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Commits that may wait for their time; more than that are not looked at again.
const WAITING: usize = 1 << 20;
/// Events taken at once.
const PAGE: usize = 4096;

/// Reads each commit again when it is `after` old.
pub(super) fn start(committer: Arc<Committer>, after: Duration) -> std::io::Result<Chore> {
    // From now on, not from when the thread has its turn.
    let following = committer.journal.feed().follow();
    let position = committer.journal.feed().newest();
    Chore::start("settle", move |stopped| {
        let _following = following;
        run(&committer, after, position, stopped);
    })
}

fn run(committer: &Committer, after: Duration, mut position: i64, stopped: &Stopped) {
    let feed = committer.journal.feed();
    let mut waiting: VecDeque<(Instant, DraftId)> = VecDeque::new();
    loop {
        let mut events = Vec::new();
        if feed.after(position, PAGE, &mut events) == Reach::TooOld {
            tracing::warn!("more commits than can be verified: some are left out");
            position = feed.newest();
        }
        for event in &events {
            position = event.id;
            if event.kind == "committed" && waiting.len() < WAITING {
                waiting.extend(event.draft.map(|id| (Instant::now() + after, id)));
            }
        }
        while waiting.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            if let Some((_, id)) = waiting.pop_front() {
                verify(committer, id);
            }
            if !pause(stopped, Duration::ZERO) {
                return;
            }
        }
        if events.len() < PAGE && !pause(stopped, PERIOD) {
            return;
        }
    }
}

fn verify(committer: &Committer, id: DraftId) {
    let commit = match committer.journal.commit(id) {
        Ok(Some(row)) => row.commit,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(draft = id, %error, "a commit cannot be verified now");
            return;
        }
    };
    let verdict = committer.verify(&commit);
    metrics::verified(verdict.word(), 1);
    let path = display_path(&commit.path);
    match verdict {
        Verdict::Same | Verdict::Gone => {}
        Verdict::Different(detail) => {
            tracing::error!(draft = id, path, detail, "a published version is not what was published");
            committer.journal.submit(Entry::Mismatch { id, detail });
        }
        Verdict::Unreadable(errno) => tracing::error!(draft = id, path, %errno, "a published version cannot be read"),
    }
}
