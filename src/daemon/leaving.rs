//! Taking the mount away, and saying who keeps it.

use std::time::{Duration, Instant};

use super::mounting::unmount_as_user;
use super::{Daemon, End};
use crate::commit::VerbError;
use crate::inode::display_path;
use crate::sys::procfs::MountId;
use crate::sys::{self, Errno, mount};

/// How long an unmount waits for commits in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

impl Daemon {
    /// Unmounts for somebody who asks for it, or says what keeps it.
    pub(super) fn leave(&self, force: bool) -> Result<(), VerbError> {
        let answers = self.settle_releases();
        let unmounted = if force && !answers { self.take_away() } else { self.unmount_now(force) };
        if force && unmounted.is_ok() {
            // The kernel says so only when nobody has anything open there any more. If the end has begun, nobody listens.
            drop(self.end.try_send(End::Unmounted));
        }
        unmounted.map_err(|errno| {
            let mountpoint = self.config.mountpoint.display();
            let mut message = format!("{mountpoint}: {errno}");
            if self.is_covered() {
                message
                    .push_str("\n  another mount lies over it; take that one away first: umount, without --state-dir");
            } else if !answers {
                message.push_str("\n  the export does not answer; --force takes the mount away without it");
            } else {
                message.push_str(&self.held_by(errno));
            }
            VerbError { message, errno: errno.raw_os_error() }
        })
    }

    /// Waits until every release that the kernel has queued so far was read, and for the commits they began. False if
    /// the export is away.
    pub(super) fn settle_releases(&self) -> bool {
        let (fs, mountpoint) = (self.fs.clone(), self.config.mountpoint.clone());
        let settled = self.unless_away(move || {
            // Requests are read in order: one of our own goes behind those that are there.
            if let Err(errno) = rustix::fs::statfs(&mountpoint) {
                tracing::debug!(%errno, "the mount does not answer");
            }
            let limit = Instant::now() + DRAIN_LIMIT;
            while fs.is_settling() && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        settled.is_some()
    }

    /// Whether what is mounted there now is another file system: a path would take that one away.
    fn is_covered(&self) -> bool {
        let top = MountId::of(&self.config.mountpoint);
        top.zip(self.fs.mount()).is_some_and(|(top, own)| top.dev != own.dev)
    }

    /// Takes the mount away from whoever waits for an export that does not answer.
    pub(super) fn take_away(&self) -> sys::Result<()> {
        if self.is_covered() {
            return Err(Errno::BUSY);
        }
        match mount::abort(&self.config.mountpoint) {
            Err(Errno::PERM) => unmount_as_user(&self.config.mountpoint, true),
            other => other,
        }
    }

    pub(super) fn unmount_now(&self, detach: bool) -> sys::Result<()> {
        let mountpoint = &self.config.mountpoint;
        if self.is_covered() {
            return Err(Errno::BUSY);
        }
        let unmounted = match mount::unmount(mountpoint) {
            Err(Errno::BUSY) if detach => mount::detach(mountpoint),
            other => other,
        };
        match unmounted {
            Err(Errno::PERM) => unmount_as_user(mountpoint, detach),
            other => other,
        }
    }

    /// Who keeps the mount from being taken away, as far as that is known here.
    fn held_by(&self, errno: Errno) -> String {
        let mut lines = String::new();
        for (path, bytes, writer) in self.fs.busy() {
            let (path, command, pid) = (display_path(&path), &writer.command, writer.pid);
            lines.push_str(&format!("\n  being written: {path} ({bytes} bytes) by {command}, pid {pid}"));
        }
        lines.push_str(match (errno, lines.is_empty()) {
            (Errno::BUSY, true) => {
                "\n  nothing is being written; what holds it is a working folder or a file that somebody has open there \
                 (fuser -vm tells whose), and --force takes it away all the same"
            }
            (Errno::BUSY, false) => "\n  --force takes it away all the same, and sends what is being written to quarantine",
            _ => "",
        });
        lines
    }
}
