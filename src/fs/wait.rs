//! Operations that wait: for a commit in flight, for the release behind a close without proof, for recovery.
//!
//! Nobody blocks a thread meanwhile: the operation is parked with a deadline and runs again when its condition holds.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Fs;
use crate::draft::{Draft, RELEASE_LIMIT};
use crate::failpoint;

/// How long a look-up waits for a commit in flight before it answers with what there is. A write waits on.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);

/// The same. (A test wants to be sure of it.)
fn commit_limit() -> Duration {
    failpoint::pause("COMMITFS_PARKED_MS", COMMIT_LIMIT)
}

/// How long who wants to write waits for the releases of writers that have ended. (A test wants to be sure of it.)
pub(super) fn deserted_limit() -> Duration {
    failpoint::pause("COMMITFS_DESERTED_MS", RELEASE_LIMIT)
}

/// What a parked operation waits for.
pub(super) enum Until {
    /// No commit of this draft is in flight.
    Settled(Arc<Draft>),
    /// The draft's hold is over, and the commit that it may have turned into.
    Released(Arc<Draft>),
    /// Those who had the draft open, and have ended, have left it.
    Left(Arc<Draft>),
    /// Recovery is done.
    Recovered,
}

struct Parked {
    until: Until,
    deadline: Instant,
    /// Goes on waiting at the deadline, which is only told.
    insists: bool,
    /// Runs with `true` if the condition holds, `false` at the deadline.
    run: Box<dyn FnOnce(bool) + Send>,
}

#[derive(Default)]
pub(super) struct Parking {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    parked: Vec<Parked>,
    /// The thread has taken the list out and looks at what each waits for.
    looking: bool,
    poked: bool,
    stopped: bool,
}

/// Names that recovery may still publish.
#[derive(Debug, Default)]
pub struct Recovery {
    active: AtomicBool,
    paths: Mutex<HashSet<Vec<u8>>>,
}

impl Recovery {
    /// Recovery begins: look-ups of these paths wait.
    pub fn begin(&self, paths: impl IntoIterator<Item = Vec<u8>>) {
        self.paths.lock().extend(paths);
        self.active.store(true, Ordering::Release);
    }

    fn end(&self) {
        self.active.store(false, Ordering::Release);
        self.paths.lock().clear();
    }

    /// True while this path may still change. `path` is called only during recovery.
    pub(super) fn concerns(&self, path: impl FnOnce() -> Vec<u8>) -> bool {
        self.active.load(Ordering::Acquire) && self.paths.lock().contains(&path())
    }

    /// True while names in this folder may still appear. `path` is called only during recovery.
    pub(super) fn concerns_folder(&self, path: impl FnOnce() -> Vec<u8>) -> bool {
        let folder_of = |path: &[u8]| path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash);
        self.active.load(Ordering::Acquire) && {
            let folder = path();
            self.paths.lock().iter().any(|path| path[..folder_of(path)] == folder[..])
        }
    }
}

impl Fs {
    /// The names that recovery holds back.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Recovery is done; whoever waited goes on.
    pub fn recovered(&self) {
        self.recovery.end();
        self.poke();
    }

    /// Runs `run` on a slow thread when the condition holds (with `true`) or at its limit (with `false`).
    pub(super) fn park(&self, until: Until, run: impl FnOnce(bool) + Send + 'static) {
        self.park_for(until, false, Box::new(run));
    }

    /// Runs `run` on a slow thread when no commit of `draft` is in flight, however long that takes: for what cannot be done
    /// before, and of which nobody could say later that it was not.
    pub(super) fn after_commit(&self, draft: Arc<Draft>, run: impl FnOnce() + Send + 'static) {
        self.park_for(Until::Settled(draft), true, Box::new(move |_| run()));
    }

    fn park_for(&self, until: Until, insists: bool, run: Box<dyn FnOnce(bool) + Send>) {
        let deadline = Instant::now() + commit_limit();
        let mut state = self.parking.state.lock();
        state.parked.push(Parked { until, deadline, insists, run });
        state.poked = true;
        self.parking.changed.notify_one();
    }

    /// Something that an operation may be parked for has happened.
    pub(super) fn poke(&self) {
        let mut state = self.parking.state.lock();
        if state.looking || !state.parked.is_empty() {
            state.poked = true;
            self.parking.changed.notify_one();
        }
    }

    /// Runs what is still parked and ends the thread.
    pub(super) fn stop_parking(&self) {
        self.parking.state.lock().stopped = true;
        self.parking.changed.notify_one();
    }

    /// When to look again at the latest, should nothing happen before; `None` if the condition holds now.
    fn pending_until(&self, parked: &Parked) -> Option<Instant> {
        match &parked.until {
            Until::Settled(draft) => draft.is_sealing().then_some(parked.deadline),
            Until::Released(draft) if draft.is_sealing() => Some(parked.deadline),
            Until::Released(draft) => draft.held_until(),
            Until::Left(draft) => draft.deserted_until(deserted_limit()),
            Until::Recovered => self.recovery.active.load(Ordering::Acquire).then_some(parked.deadline),
        }
    }
}

/// Starts the thread that lets parked operations go on.
pub(super) fn start(fs: &Arc<Fs>) -> std::io::Result<()> {
    let fs = fs.clone();
    std::thread::Builder::new().name("parking".to_owned()).spawn(move || run(&fs))?;
    Ok(())
}

fn run(fs: &Fs) {
    let mut state = fs.parking.state.lock();
    loop {
        state.poked = false;
        state.looking = true;
        let parked = std::mem::take(&mut state.parked);
        let stopped = state.stopped;
        // Asking a draft may wait for its writer; nobody else's parking waits along.
        drop(state);
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut kept = Vec::new();
        for mut parked in parked {
            let pending = fs.pending_until(&parked);
            match pending {
                Some(_) if !stopped && parked.insists && parked.deadline <= now => {
                    tracing::warn!("a call waits on for the commit before it");
                    parked.deadline = now + commit_limit();
                    next = Some(next.map_or(parked.deadline, |next| next.min(parked.deadline)));
                    kept.push(parked);
                }
                Some(until) if !stopped && parked.deadline > now => {
                    next = Some(next.map_or(until, |next| next.min(until)));
                    kept.push(parked);
                }
                _ => fs.slow.run(move || (parked.run)(pending.is_none())),
            }
        }
        state = fs.parking.state.lock();
        state.looking = false;
        state.parked.append(&mut kept);
        if stopped {
            return;
        }
        if !state.poked && !state.stopped {
            match next {
                Some(next) => drop(fs.parking.changed.wait_until(&mut state, next)),
                None => fs.parking.changed.wait(&mut state),
            }
        }
    }
}
