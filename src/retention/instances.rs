//! Instances that died and did not come back: what they left is adopted by one that lives.
//!
//! Whoever renames the dead one's lease has it, and no other. Its folders are then renamed, so that it finds fresh ones
//! should it come back, and what is in them moves to the adopter, row by row: content that was never published to
//! quarantine, what was removed to the outbox. The renamed lease tells the dead one, if it comes back, that it was adopted.
//! Every step can be interrupted: whoever sweeps next takes the folders that a mark stands for; what is in them is moved by
//! the adopter's next sweep, or by whoever adopts the adopter.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::Reaper;
use super::sweeper::{SweepError, Swept};
use crate::commit::mark_of;
use crate::journal::Entry;
use crate::sys::at::{self, RenameFlags};
use crate::sys::{Errno, Kind, Result, mount, stat};

/// No lease is longer: two paths and three short words.
const LEASE_BYTES: usize = 16 << 10;

/// Entries per transaction.
const PAGE: usize = 1000;

/// What a lease says of its instance. For people, but for the host and the last field.
#[derive(Debug, Serialize, Deserialize)]
pub struct LeaseFile {
    /// Its name below `.commitfs`.
    pub instance: String,
    /// The host's name.
    pub host: String,
    /// Where its journal is, there.
    pub state_dir: String,
    /// Where it is mounted, there.
    pub mountpoint: String,
    /// The daemon's process, there.
    pub pid: u32,
    /// Milliseconds without a sign of life after which it is dead.
    pub lease_ms: u64,
}

impl LeaseFile {
    /// What an open lease says; `None` if it is not understood.
    pub fn read(file: &File) -> Result<Option<Self>> {
        let mut text = [0; LEASE_BYTES];
        let len = at::read_at(file, &mut text, 0)?;
        Ok(serde_json::from_slice(&text[..len]).ok())
    }
}

impl Reaper {
    pub(super) fn sweep_instances(&self, repair: bool, swept: &mut Swept) -> std::result::Result<(), SweepError> {
        let failed = |errno| SweepError::Export { what: "leases of instances", errno };
        let staging = &self.by.staging;
        // All times are the server's.
        let own = match staging.beat(self.options.lease) {
            Ok(beat) => beat,
            // Without a lease of one's own there is nothing to compare with.
            Err(Errno::NOENT | Errno::ROFS) => return Ok(()),
            Err(other) => return Err(failed(other)),
        };
        let is_dead = |name: &str| -> Result<bool> {
            let file = at::open_file(staging.hosts(), OsStr::new(name), OFlags::RDONLY, 0)?;
            // What has kept this instance from giving signs may have kept the other one: it has a lease from then on.
            let last = stat::fstat(&file)?.mtime.to_system().max(own.since);
            let silent = own.at.duration_since(last).unwrap_or(Duration::ZERO);
            let mut text = [0; LEASE_BYTES];
            let len = at::read_at(&file, &mut text, 0)?;
            Ok(silent > self.lease_of(name, &text[..len]))
        };
        self.sweep_marks(repair, swept, &is_dead).map_err(failed)?;
        for entry in at::list(staging.hosts()).map_err(failed)? {
            let name = entry.name.to_string_lossy().into_owned();
            let Some(instance) = name.strip_suffix(".json").filter(|instance| *instance != staging.instance()) else {
                continue;
            };
            match is_dead(&name) {
                Ok(true) => swept.dead_instances += 1,
                Ok(false) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {
                    tracing::warn!(name, "a folder among the leases of instances is left alone");
                    continue;
                }
                Err(other) => return Err(failed(other)),
            }
            if !repair {
                continue;
            }
            let mark = mark_of(instance);
            match rename(staging.hosts(), &name, &mark) {
                Ok(()) => {}
                // Somebody else was faster.
                Err(Errno::NOENT) => continue,
                Err(other) => return Err(failed(other)),
            }
            if !is_dead(&mark).map_err(failed)? {
                // It has come back in this moment.
                rename(staging.hosts(), &mark, &name).map_err(failed)?;
                continue;
            }
            tracing::warn!(instance, "an instance is dead: what it left is adopted");
            self.take_folders(instance).map_err(failed)?;
        }
        if repair { self.absorb() } else { Ok(()) }
    }

    /// Adoptions that went no further than the mark: their adopter ended, or could not take every folder. One that is back, or
    /// on its way back, has a lease, or a mark that is young ([`crate::commit::Staging::is_back`]).
    fn sweep_marks(&self, repair: bool, swept: &mut Swept, is_dead: &impl Fn(&str) -> Result<bool>) -> Result<()> {
        let hosts = self.by.staging.hosts();
        for entry in at::list(hosts)? {
            let mark = entry.name.to_string_lossy().into_owned();
            let Some(instance) = mark.strip_suffix(&mark_of("")).filter(|it| *it != self.by.staging.instance()) else {
                continue;
            };
            // Most have nothing left: the least is asked for them.
            if self.left_by(instance)?.is_empty() {
                continue;
            }
            match stat::stat_at(hosts, format!("{instance}.json")) {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(other) => return Err(other),
            }
            match is_dead(&mark) {
                Ok(true) => swept.dead_instances += 1,
                // Settled in this moment.
                Ok(false) | Err(Errno::NOENT) => continue,
                Err(other) => return Err(other),
            }
            if repair {
                tracing::warn!(instance, "an instance was taken for dead, and not adopted to the end: it is now");
                self.take_folders(instance)?;
            }
        }
        Ok(())
    }

    /// How long an instance may be silent: as it says itself, or as this one where it does not.
    fn lease_of(&self, name: &str, text: &[u8]) -> Duration {
        match serde_json::from_slice::<LeaseFile>(text) {
            Ok(lease) => Duration::from_millis(lease.lease_ms),
            Err(error) => {
                tracing::debug!(name, %error, "a lease that cannot be read is taken to be as long as our own");
                self.options.lease
            }
        }
    }

    /// `stage` and `trash`, with the folders of all instances.
    fn folders(&self) -> Result<[OwnedFd; 2]> {
        let above = OsStr::new("..");
        Ok([at::open_dir(self.by.staging.dir(), above)?, at::open_dir(self.by.staging.trash(), above)?])
    }

    /// The folders of a dead instance, and those that it had adopted itself: where each is, its name, and whose it was.
    fn left_by(&self, dead: &str) -> Result<Vec<(OwnedFd, String, String)>> {
        let by_dead = by(dead);
        let mut found = Vec::new();
        for folder in self.folders()? {
            for entry in at::list(&folder)? {
                let name = entry.name.to_string_lossy().into_owned();
                let of = if name == dead { Some(dead) } else { name.strip_suffix(&by_dead) };
                if let Some(of) = of.map(str::to_owned) {
                    found.push((at::open_dir(&folder, OsStr::new("."))?, name, of));
                }
            }
        }
        Ok(found)
    }

    /// Renames what a dead instance has left.
    fn take_folders(&self, dead: &str) -> Result<()> {
        for (folder, name, of) in self.left_by(dead)? {
            match rename(&folder, &name, &format!("{of}{}", by(self.by.staging.instance()))) {
                // Somebody else was faster; or what was adopted of it before is not moved yet, and the next sweep goes on.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Moves what lies in adopted folders to this instance's own.
    fn absorb(&self) -> std::result::Result<(), SweepError> {
        let failed = |errno| SweepError::Export { what: "folder of a dead instance", errno };
        let mine = by(self.by.staging.instance());
        let [stage, trash] = self.folders().map_err(failed)?;
        for (folder, published) in [(&stage, false), (&trash, true)] {
            for entry in at::list(folder).map_err(failed)? {
                let name = entry.name.to_string_lossy().into_owned();
                let Some(dead) = name.strip_suffix(&mine) else { continue };
                let from = at::open_dir(folder, &entry.name).map_err(failed)?;
                while self.absorb_some(&from, dead, published)? > 0 {}
                match at::rmdir(folder, &entry.name) {
                    // What an NFS client keeps for open files goes by itself; a later sweep removes the folder.
                    Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
                    Err(errno) => return Err(failed(errno)),
                }
            }
        }
        Ok(())
    }

    /// One page; returns how many there were. What has moved is written down also where another one fails: it has a name now that
    /// no sweep looks at before the next mount.
    fn absorb_some(&self, from: &OwnedFd, dead: &str, published: bool) -> std::result::Result<usize, SweepError> {
        let mut entries = Vec::new();
        let absorbed = self.take_page(from, dead, published, &mut entries);
        if !entries.is_empty() {
            self.by.journal.wait(self.by.journal.submit(Entry::Together(entries)))?;
        }
        absorbed.map_err(|errno| SweepError::Export { what: "file of a dead instance", errno })
    }

    fn take_page(&self, from: &OwnedFd, dead: &str, published: bool, entries: &mut Vec<Entry>) -> Result<usize> {
        let (staging, journal) = (&self.by.staging, &self.by.journal);
        let mut seen = 0;
        for entry in at::entries(at::open_dir(from, OsStr::new("."))?)? {
            let entry = entry?;
            if mount::is_set_aside(&entry.name.to_string_lossy()) {
                continue;
            }
            let stat = stat::stat_at(from, &*entry.name)?;
            if !published && stat.kind != Kind::File {
                tracing::warn!(name = ?entry.name, dead, "what is no draft is left alone in a dead instance's staging folder");
                continue;
            }
            seen += 1;
            let id = if published { journal.next_outbox_id() } else { journal.next_draft_id() };
            let name = staging.name_of(id);
            let to = if published { staging.trash() } else { staging.dir() };
            at::rename(from, &entry.name, to, OsStr::new(&name), RenameFlags::empty())?;
            if !published {
                entries.push(self.adopted_draft(name, &stat, format!("left by instance {dead}, which is dead")));
            } else if stat.kind == Kind::Dir || stat.nlink == 1 {
                entries.push(self.adopted(name, &stat, &HashMap::new()));
            }
            // What is left is a further name of a file that lives: the sweep of the trash folder removes it.
            if seen == PAGE {
                break;
            }
        }
        Ok(seen)
    }
}

/// Behind the name of a folder that was adopted.
fn by(instance: &str) -> String {
    format!(".by-{instance}")
}

fn rename(folder: impl std::os::fd::AsFd, from: &str, to: &str) -> Result<()> {
    at::rename(folder.as_fd(), OsStr::new(from), folder.as_fd(), OsStr::new(to), RenameFlags::empty())
}
