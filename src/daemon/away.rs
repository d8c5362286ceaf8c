//! An export that does not answer. A hard NFS mount whose server is away lets nobody go on, and no call that was begun
//! can be taken back. What ends in bounded time all the same is the mount: whoever waits gets an error, and what was not
//! committed is resolved at the next mount, as after a crash.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Daemon;
use crate::sys::{Errno, stat};

/// How long the export may take to answer a single question before it counts as away.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// How long the end goes on before the export is asked whether it is there, each time.
const PAUSE: Duration = Duration::from_secs(5);

/// Looks after the end of the daemon until it is dropped.
pub(super) struct Watch {
    _ended: Sender<()>,
}

impl Watch {
    /// Begins with the end of the mount.
    pub(super) fn start(daemon: Arc<Daemon>) -> std::io::Result<Watch> {
        let (ended, end) = bounded(0);
        let supervise = move || {
            while end.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                if !daemon.export_answers() {
                    daemon.give_up();
                }
            }
        };
        std::thread::Builder::new().name("end".to_owned()).spawn(supervise)?;
        Ok(Watch { _ended: ended })
    }
}

impl Daemon {
    /// Asks the server for the export's root, past all caches. An error is an answer.
    pub(super) fn export_answers(&self) -> bool {
        let nodes = self.fs.committer().nodes.clone();
        within(PATIENCE, move || {
            let asked = nodes.fd(nodes.root()).and_then(stat::revalidate);
            asked.unwrap_or_else(|errno| tracing::debug!(%errno, "the export's root"));
        })
        .is_some()
    }

    /// Runs `call`, which may wait for the export, and comes back without its result once that is away.
    pub(super) fn unless_away<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let done = begin(call);
        loop {
            match done.recv_timeout(PATIENCE) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Timeout) if self.export_answers() => {}
                Err(_) => return None,
            }
        }
    }

    /// Takes the mount away from whoever uses it, and ends the process.
    fn give_up(self: &Arc<Self>) -> ! {
        tracing::error!(
            source = %self.config.source.display(),
            "the export does not answer: ending without it; what was not committed is resolved at the next mount"
        );
        let daemon = self.clone();
        let taken = within(PAUSE, move || daemon.take_away());
        // EINVAL: it is not mounted any more.
        if !matches!(taken, Some(Ok(()) | Err(Errno::INVAL))) {
            tracing::error!(?taken, "cannot take the mount away");
        }
        let journal = self.fs.committer().journal.clone();
        if let Some(Err(error)) = within(PAUSE, move || journal.flush()) {
            tracing::error!(%error, "the journal cannot take what happened last");
        }
        std::process::exit(1);
    }
}

/// Runs `call` on a thread of its own, which is left behind if it takes longer.
fn within<T: Send + 'static>(limit: Duration, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    begin(call).recv_timeout(limit).ok()
}

fn begin<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, result) = bounded(1);
    // Nobody may listen any more.
    let run = move || drop(done.send(call()));
    if let Err(error) = std::thread::Builder::new().name("patience".to_owned()).spawn(run) {
        tracing::error!(%error, "no thread");
    }
    result
}
