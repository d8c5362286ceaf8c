//! What the daemon does beside its requests, each on a thread of its own until it is told to stop.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// A thread. Dropping it tells it to stop, and waits until it has.
pub(super) struct Chore {
    name: &'static str,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// When a chore is to stop: nothing is ever sent, the channel ends.
pub(super) type Stopped = Receiver<()>;

impl Chore {
    /// `work` returns soon after it is told to stop.
    pub(super) fn start(name: &'static str, work: impl FnOnce(&Stopped) + Send + 'static) -> std::io::Result<Chore> {
        let (stop, stopped) = bounded(0);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&stopped))?;
        Ok(Chore { name, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Chore {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(thread = self.name, "a thread of the daemon's has panicked");
        }
    }
}

/// Waits. False when told to stop.
pub(super) fn pause(stopped: &Stopped, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}
