//! The lease: a file in `.commitfs/hosts` that says who uses the export from where, and that it lives. Beside it goes the
//! comparison of staging and journal, each time its period is over, on a thread of its own: it may take longer than a lease.

use std::ffi::OsStr;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::belongs;
use super::chore::{Chore, Stopped, pause};
use crate::commit::{Committer, is_there};
use crate::config::Config;
use crate::fs::Fs;
use crate::retention;
use crate::sys::{Errno, at, mount, stat};

/// Signs of life per lease.
const BEATS: u32 = 5;
/// Between two looks whether a sweep is due.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);

/// A lease that is kept alive until it is withdrawn.
pub(super) struct Lease {
    committer: Arc<Committer>,
    beats: Chore,
    sweeps: Chore,
}

/// What the file says.
#[derive(Clone)]
struct Card {
    committer: Arc<Committer>,
    text: String,
}

/// What has the lease's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// This daemon's lease.
    Own,
    /// That of this instance's last daemon: there was no room for another one, and it is kept alive.
    Former,
    /// Nothing yet. Others adopt only those whose lease they have found.
    Nothing,
}

impl Card {
    /// Writes it, or leaves that to [`live`] where the export has no room: what frees some must be able to begin.
    fn write_if_there_is_room(&self, lease: Duration) -> std::io::Result<Held> {
        match self.write() {
            Ok(()) => Ok(Held::Own),
            Err(error) if is_no_space(&error) => {
                tracing::warn!(%error, "the export has no room for the lease: it is written as soon as there is some");
                Ok(if self.committer.staging.beat(lease).err() == Some(Errno::NOENT) {
                    Held::Nothing
                } else {
                    Held::Former
                })
            }
            Err(other) => Err(other),
        }
    }

    /// Another attempt, of which only the end is told.
    fn write_late(&self, held: Held) -> Held {
        match self.write() {
            Ok(()) => {
                tracing::info!("the lease is written");
                return Held::Own;
            }
            Err(error) if is_no_space(&error) => tracing::debug!(%error, "still no room for the lease"),
            Err(error) => tracing::error!(%error, "cannot write the lease"),
        }
        held
    }

    fn write(&self) -> std::io::Result<()> {
        let staging = &self.committer.staging;
        let (name, temporary) = (staging.lease(), format!("{}.new", staging.instance()));
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::TRUNC | rustix::fs::OFlags::WRONLY;
        let hosts = staging.hosts();
        let mut file = at::open_file(hosts, OsStr::new(&temporary), flags, 0o600)?;
        if let Err(error) = file.write_all(self.text.as_bytes()).and_then(|()| file.sync_all()) {
            if let Err(errno) = at::unlink(hosts, OsStr::new(&temporary)) {
                tracing::debug!(%errno, "cannot remove a lease that is not whole");
            }
            return Err(error);
        }
        let (temporary, name) = (OsStr::new(&temporary), OsStr::new(&name));
        match at::rename(hosts, temporary, hosts, name, at::RenameFlags::empty()) {
            // An NFS server whose answer was lost was asked twice: it had happened.
            Err(Errno::NOENT) if is_there(hosts, name, stat::fstat(&file)?.ino) => Ok(()),
            other => Ok(other?),
        }
    }
}

fn is_no_space(error: &std::io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(mount::is_no_space)
}

impl Lease {
    /// Writes the lease and keeps it alive.
    pub(super) fn announce(fs: &Arc<Fs>, config: &Config) -> std::io::Result<Self> {
        let committer = fs.committer();
        let text = serde_json::to_string(&retention::LeaseFile {
            instance: committer.staging.instance().to_owned(),
            host: belongs::host(),
            state_dir: config.state_dir.to_string_lossy().into_owned(),
            mountpoint: config.mountpoint.to_string_lossy().into_owned(),
            pid: std::process::id(),
            lease_ms: u64::try_from(config.reaper.lease.as_millis()).unwrap_or(u64::MAX),
        })?;
        let card = Card { committer: committer.clone(), text };
        let held = card.write_if_there_is_room(config.reaper.lease)?;
        let (fs, lease, period) = (fs.clone(), config.reaper.lease, config.sweep);
        let look = (lease / BEATS).min(period).max(SHORTEST_LOOK);
        let beats = Chore::start("lease", move |stopped| live(&card, held, lease, stopped))?;
        let sweeps = Chore::start("sweep", move |stopped| sweep(&fs, look, period, stopped))?;
        Ok(Lease { committer: committer.clone(), beats, sweeps })
    }

    /// This instance goes, and will come back.
    pub(super) fn withdraw(self) {
        // It lives until the last sweep has ended.
        drop(self.sweeps);
        drop(self.beats);
        let staging = &self.committer.staging;
        if let Err(errno) = staging.rests() {
            tracing::warn!(%errno, "cannot say that this instance only rests");
        }
        match at::unlink(staging.hosts(), OsStr::new(&staging.lease())) {
            // There was never room for it.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => tracing::warn!(%errno, "cannot withdraw the lease"),
        }
    }
}

/// Gives the signs of life, and does nothing else that could take long: others take whoever is silent for dead.
fn live(card: &Card, mut held: Held, lease: Duration, stopped: &Stopped) {
    let staging = &card.committer.staging;
    // The adopter may still be about to take the folders of one that is just back.
    let mut adopted = staging.was_adopted().unwrap_or(true);
    while pause(stopped, lease / BEATS) {
        match staging.beat(lease) {
            Ok(_) => {}
            Err(Errno::NOENT) if held == Held::Nothing => {}
            Err(Errno::NOENT) => {
                tracing::error!(
                    "another instance has taken this one for dead and adopts what it was writing: who writes that gets EIO"
                );
                (adopted, held) = (true, Held::Nothing);
            }
            Err(errno) => tracing::warn!(%errno, "cannot keep the lease alive"),
        }
        if held != Held::Own {
            held = card.write_late(held);
        }
        // Of one that was taken for dead, the mark that it is back must stay young instead.
        if held == Held::Nothing
            && let Err(errno) = staging.is_back()
            && errno != Errno::NOENT
        {
            tracing::warn!(%errno, "cannot say that this instance is back");
        }
        // The adopter takes the folders after the lease, at any time: fresh ones too, if it was held up in between.
        if adopted && let Err(errno) = staging.find_again() {
            tracing::error!(%errno, "cannot make the staging and trash folders anew: nothing can be written until then");
        }
    }
}

/// Compares staging and journal when the period is over, and when the folders were made anew.
fn sweep(fs: &Arc<Fs>, look: Duration, period: Duration, stopped: &Stopped) {
    let staging = &fs.committer().staging;
    let (mut swept, mut found) = (Instant::now(), staging.found());
    while pause(stopped, look) {
        let lost = staging.found() != found;
        if lost {
            found = staging.found();
            fs.give_up_adopted();
        }
        if lost || swept.elapsed() >= period {
            match fs.reaper().sweep(true) {
                Ok(found) if found.is_clean() => {}
                Ok(found) => tracing::warn!(?found, "staging and journal did not agree"),
                Err(error) => tracing::error!(%error, "cannot compare staging and journal"),
            }
            swept = Instant::now();
        }
    }
}
