//! How a mount in the background tells the command that started it that it serves, or why not.
//!
//! The pipe is the daemon's standard output. `ready` and a newline mean that it serves; anything else is an error text.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// What the daemon says when it serves.
pub(crate) const READY: &str = "ready\n";
/// Where a daemon in the background logs, in its state folder.
pub(crate) const LOG: &str = "daemon.log";

/// To be used once, when the mount serves. Dropping it says nothing.
#[must_use = "the command that mounts waits for it"]
#[derive(Debug)]
pub struct ReadySignal(Option<File>);

/// The other thing the waiting command may be told.
#[derive(Debug)]
pub struct Failure(Option<File>);

impl ReadySignal {
    /// For a daemon in the foreground: nobody waits.
    pub fn nobody() -> (ReadySignal, Failure) {
        (ReadySignal(None), Failure(None))
    }

    /// For a daemon in the background: takes the pipe from standard output.
    pub fn from_stdout() -> io::Result<(ReadySignal, Failure)> {
        let pipe = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let failure = pipe.try_clone()?;
        Ok((ReadySignal(Some(pipe)), Failure(Some(failure))))
    }

    /// The mount serves.
    pub fn ready(self) {
        if let Some(mut pipe) = self.0
            && let Err(error) = pipe.write_all(READY.as_bytes())
        {
            tracing::warn!(%error, "the command that mounted has gone");
        }
    }
}

impl Failure {
    /// The mount does not serve, and this is why. After [`ReadySignal::ready`] nobody listens any more.
    pub fn tell(self, why: &str) {
        if let Some(mut pipe) = self.0
            && let Err(error) = writeln!(pipe, "{why}")
        {
            tracing::debug!(%error, "nobody waits for the mount any more");
        }
    }
}

/// Leaves the terminal: standard input and output are gone, logs go to the state folder, the process becomes a session of
/// its own and stands in `/`, so that it keeps no other file system busy.
pub(crate) fn detach(state_dir: &Path) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(state_dir.join(LOG))?;
    rustix::stdio::dup2_stderr(&log)?;
    match rustix::process::setsid() {
        // A group leader already: whoever started it has detached it.
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    std::env::set_current_dir("/")
}
