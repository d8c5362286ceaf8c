//! A process that ends the connection once the daemon is gone.
//!
//! A thread that tells the kernel of a name waits for the folder's lock; who has that may wait for the daemon. If the
//! daemon is killed then, neither can go on: the thread keeps the device open, so the kernel does not see that nobody
//! answers any more. The guard has the connection's `abort` file, gets a signal when the daemon's first thread ends, and
//! writes to it: every request fails, and the mount answers `ENOTCONN` until the next daemon.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

use crate::sys::mount;

/// Not the daemon's: whoever kills that by its name must not hit the guard too.
const NAME: &CStr = c"cfs-guard";
/// The hidden command of the guard's process.
pub(crate) const COMMAND: &str = "guard";

/// Starts the guard of the connection at `mountpoint` and waits until it stands. To be called by the thread that lives as
/// long as the daemon, with the connection served.
pub(super) fn start(mountpoint: &Path) -> io::Result<()> {
    let abort = mount::abort_file(mountpoint)?;
    let mut guard = Command::new("/proc/self/exe")
        .arg0(OsStr::from_bytes(NAME.to_bytes()))
        .arg(COMMAND)
        .arg(std::process::id().to_string())
        .current_dir("/")
        .stdin(File::from(abort))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut standing = [0];
    guard.stdout.take().map_or(Ok(()), |mut pipe| pipe.read_exact(&mut standing))
}

/// The guard's process: standard input is the `abort` file of the connection that process `daemon` serves.
pub(crate) fn stand(daemon: u32) -> io::Result<()> {
    // What ends a whole group or service is for the daemon to answer.
    let mut signals = signal_hook::iterator::Signals::new([SIGUSR1, SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
    rustix::process::set_parent_process_death_signal(Some(Signal::USR1))?;
    rustix::thread::set_name(NAME)?;
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if u32::try_from(parent) == Ok(daemon) {
        io::stdout().write_all(b".")?;
        io::stdout().flush()?;
        rustix::stdio::dup2_stdout(File::open("/dev/null")?)?;
        signals.forever().find(|&signal| signal == SIGUSR1);
    }
    rustix::io::write(rustix::stdio::stdin(), b"1")?;
    Ok(())
}
