//! Whether a state folder belongs to the export, where recovery would take what is not there for published or removed, and to
//! this host, where it would settle what another one is writing.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{OFlags, Timespec, UTIME_NOW};

use super::ServeError;
use crate::commit::{RESERVED, Staging};
use crate::journal::Journal;
use crate::retention::LeaseFile;
use crate::sys::{self, Errno, at, stat};

/// An export without the folder in which this state's drafts and removed files lie.
#[derive(Debug, thiserror::Error)]
#[error(
    "source {}: it is not the export that this state folder knows: there is no .commitfs/stage/{instance}, in which {drafts} \
     drafts and {removed} removed or replaced files should be. Is its file system mounted? Another export wants another \
     --state-dir. If they are lost for good, give them up: mkdir -p {}/.commitfs/stage/{instance}",
    path.display(), path.display()
)]
pub struct Stranger {
    path: PathBuf,
    instance: String,
    drafts: u64,
    removed: u64,
}

/// Refuses an export that lacks what the journal has rows of.
pub(super) fn check(path: &Path, root: impl AsFd, instance: &str, journal: &Journal) -> Result<(), ServeError> {
    match Staging::knows(root, instance) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(errno) => {
            return Err(ServeError::Export { path: path.to_owned(), step: "staging folder .commitfs", errno });
        }
    }
    let counts = journal.read(|reader| reader.counts())?;
    let (drafts, removed) = (counts.pending + counts.quarantined, counts.outbox.pending + counts.outbox.dead);
    if drafts + removed == 0 {
        return Ok(());
    }
    Err(Stranger { path: path.to_owned(), instance: instance.to_owned(), drafts, removed }.into())
}

/// A state folder whose instance lives on another host: of the two, one is a copy.
#[derive(Debug, thiserror::Error)]
#[error(
    "source {}: the state folder {} is in use on host {host}, whose last sign of life came {silent} s ago \
     (.commitfs/hosts/{instance}.json): a state folder belongs to one machine. If this one is a copy, as on a machine that was \
     cloned or begun from a snapshot, remove it: mounting makes a new one. If {host} is gone, or was the name of this \
     machine, mount again in {left} s, when its lease is over",
    path.display(), state_dir.display()
)]
pub struct Elsewhere {
    path: PathBuf,
    state_dir: PathBuf,
    instance: String,
    host: String,
    silent: u64,
    left: u64,
}

/// The name of this host, as its leases have it.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Refuses a state folder whose instance has another host's lease that is not over. Hosts of one name cannot be told apart.
pub(super) fn check_host(path: &Path, root: impl AsFd, instance: &str, state_dir: &Path) -> Result<(), ServeError> {
    let found = of_another_host(root, instance).map_err(|errno| ServeError::Export {
        path: path.to_owned(),
        step: "leases in .commitfs/hosts",
        errno,
    })?;
    let Some((lease, silent)) = found else { return Ok(()) };
    let left = Duration::from_millis(lease.lease_ms).saturating_sub(silent);
    if left.is_zero() {
        return Ok(());
    }
    Err(Elsewhere {
        path: path.to_owned(),
        state_dir: state_dir.to_owned(),
        instance: instance.to_owned(),
        host: lease.host,
        silent: silent.as_secs(),
        left: left.as_secs() + 1,
    }
    .into())
}

/// The instance's lease, if another host has written it, and for how long that was silent, by the server's clock.
fn of_another_host(root: impl AsFd, instance: &str) -> sys::Result<Option<(LeaseFile, Duration)>> {
    let none_if_missing = |errno| if errno == Errno::NOENT { Ok(None) } else { Err(errno) };
    let reserved = at::open_dir(root, OsStr::new(RESERVED));
    let hosts = match reserved.and_then(|reserved| at::open_dir(reserved, OsStr::new("hosts"))) {
        Ok(hosts) => hosts,
        Err(errno) => return none_if_missing(errno),
    };
    stat::revalidate(&hosts)?;
    let file = match at::open_file(&hosts, OsStr::new(&format!("{instance}.json")), OFlags::RDONLY, 0) {
        Ok(file) => file,
        Err(errno) => return none_if_missing(errno),
    };
    let said = stat::fstat(&file)?.mtime;
    let Some(lease) = LeaseFile::read(&file)?.filter(|lease| lease.host != host()) else { return Ok(None) };
    // The server's time, without a file: the one whose lease it is may live.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    at::set_times(&hosts, &at::Timestamps { last_access: now, last_modification: now })?;
    let now = stat::fstat(&hosts)?.mtime.to_system();
    Ok(Some((lease, now.duration_since(said.to_system()).unwrap_or(Duration::ZERO))))
}
