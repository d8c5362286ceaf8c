//! Tries drafts again whose close had returned when the export failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, never, select};

use super::chore::{Chore, Stopped};
use crate::commit::{Postponed, Tried};
use crate::failpoint;
use crate::fs::Fs;

/// From a failure to the first attempt; twice as long to each further one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// One that waits.
struct Waiting {
    postponed: Postponed,
    due: Instant,
    pause: Duration,
}

/// Tries until it is stopped; what is left then waits for the next mount.
pub(super) fn start(fs: Arc<Fs>) -> std::io::Result<Chore> {
    Chore::start("postponed", move |stopped| run(&fs, stopped))
}

fn run(fs: &Fs, stopped: &Stopped) {
    let first = failpoint::pause("COMMITFS_RETRY_MS", FIRST);
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let next = waiting.iter().map(|it| it.due).min();
        let alarm = next.map_or_else(never, |due| after(due.saturating_duration_since(Instant::now())));
        select! {
            recv(stopped) -> _ => return,
            recv(fs.committer().postponed.queue()) -> news => {
                waiting.extend(news.ok().map(|postponed| Waiting { postponed, due: Instant::now() + first, pause: first }));
            }
            recv(alarm) -> _ => {
                let now = Instant::now();
                waiting.retain_mut(|it| it.due > now || !try_again(fs, it));
            }
        }
    }
}

/// True when it is done with.
fn try_again(fs: &Fs, it: &mut Waiting) -> bool {
    // Who writes there has begun over what the name holds, and would replace this one without having seen it. What is written there
    // goes first: then this one is overtaken, and kept in quarantine.
    if fs.committer().target_of(&it.postponed).is_some_and(|target| fs.is_being_written(&target)) {
        it.due = Instant::now() + it.pause;
        return false;
    }
    match fs.committer().try_again(&it.postponed) {
        Tried::Published(target) => fs.announce_published(&[target]),
        Tried::Settled => {}
        Tried::Later(errno) => {
            tracing::debug!(draft = it.postponed.id, %errno, "still not published");
            it.pause = (it.pause * 2).min(LONGEST);
            it.due = Instant::now() + it.pause;
            return false;
        }
    }
    true
}
