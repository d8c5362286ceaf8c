//! A process that ends the connection once the daemon is gone.
//!
//! A thread that tells the kernel of a name waits for the folder's lock; who has that may wait for the daemon. If the
//! daemon is killed then, neither can go on: the thread keeps the device open, so the kernel does not see that nobody
//! answers any more. The guard has the connection's `abort` file, is told when the daemon's first thread ends, and writes
//! to it: every request fails, and the mount answers `ENOTCONN` until the next daemon.

use std::ffi::CStr;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::sys::companion::{self, Companion};
use crate::sys::{Errno, mount};

/// Not the daemon's: whoever kills that by its name must not hit the guard too.
const NAME: &CStr = c"cfs-guard";

/// The guard's process, which does not know yet what to guard. Without an order it ends with this value.
pub(super) struct Guard(UnixStream);

impl Guard {
    /// To be called by the thread that lives as long as the daemon, before there is another one.
    pub(super) fn start() -> io::Result<Guard> {
        let (ours, its) = UnixStream::pair()?;
        companion::start(NAME, its.into(), |guard| stand(guard).unwrap_or_default())?;
        Ok(Guard(ours))
    }

    /// Has it guard the connection at `mountpoint`, which is served, and waits until it does.
    pub(super) fn of(mut self, mountpoint: &Path) -> io::Result<()> {
        self.0.write_all(&mount::connection(mountpoint)?.to_ne_bytes())?;
        let mut failed = [0; 4];
        self.0.read_exact(&mut failed)?;
        match i32::from_ne_bytes(failed) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// In the guard's process. What goes wrong before it stands is for the daemon to log, and after that nobody is left.
fn stand(guard: &Companion) -> io::Result<()> {
    let mut connection = [0; 4];
    rustix::io::retry_on_intr(|| rustix::io::read(guard.stream(), &mut connection))
        .and_then(|read| if read == connection.len() { Ok(()) } else { Err(Errno::PIPE) })?;
    let opened = mount::abort_file(u32::from_ne_bytes(connection));
    let failed = opened.as_ref().err().map_or(0, |errno| errno.raw_os_error());
    rustix::io::write(guard.stream(), &failed.to_ne_bytes())?;
    let abort = opened?;
    guard.outlive()?;
    rustix::io::write(abort, b"1")?;
    Ok(())
}
