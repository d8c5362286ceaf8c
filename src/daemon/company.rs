//! Whether other instances use the export too: what they publish must not be hidden by what the kernel remembers.
//!
//! Only where the export is not NFS, whose server is asked each time. A file system tells at once of a lease that another
//! instance on this machine writes; one that others reach from machines of their own is looked at in time.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::fs::Fs;
use crate::sys::{self, at};

/// How long others may be there before they are seen where nobody tells of them.
const LOOK: Duration = Duration::from_secs(10);

/// The same where that could have been told, and the machine has no watches left.
const LOOK_CLOSER: Duration = Duration::from_secs(1);

/// Looks for others now, and goes on to for as long as the process lives.
pub(super) fn watch(fs: &Fs) -> std::io::Result<()> {
    let staging = &fs.committer().staging;
    let (hosts, own) = (staging.hosts().try_clone_to_owned()?, staging.lease());
    let company = Arc::clone(fs.company());
    let told = told_of(&hosts).inspect_err(|errno| tracing::warn!(%errno, "nobody tells of other instances")).ok();
    let look = move || match others(&hosts, &own) {
        Ok(there) => {
            if company.swap(there, Ordering::AcqRel) != there {
                tracing::info!(company = there, "instances that use the export besides this one");
            }
        }
        Err(errno) => tracing::warn!(%errno, "cannot look for other instances"),
    };
    look();
    std::thread::Builder::new().name("company".to_owned()).spawn(move || {
        loop {
            wait(told.as_ref());
            look();
        }
    })?;
    Ok(())
}

/// Becomes readable when a lease comes or goes.
fn told_of(hosts: impl AsFd) -> sys::Result<OwnedFd> {
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    inotify::add_watch(&events, format!("/proc/self/fd/{}", hosts.as_fd().as_raw_fd()), changes)?;
    Ok(events)
}

fn wait(told: Option<&OwnedFd>) {
    let Some(events) = told else { return std::thread::sleep(LOOK_CLOSER) };
    let limit = Timespec::try_from(LOOK).ok();
    // Whatever it says, a look follows.
    if poll(&mut [PollFd::new(events, PollFlags::IN)], limit.as_ref()).is_ok_and(|ready| ready > 0) {
        let mut names = [0; 4096];
        while rustix::io::read(events, &mut names).is_ok_and(|read| read > 0) {}
    }
}

fn others(hosts: impl AsFd, own: &str) -> sys::Result<bool> {
    let leases = at::list(hosts)?;
    Ok(leases.iter().any(|entry| entry.name.to_str().is_some_and(|name| name.ends_with(".json") && name != own)))
}
