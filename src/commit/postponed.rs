//! Drafts whose close had returned when the export failed: tried again while the daemon lives, should the export work
//! again. What is left when it ends is for the next mount.
//!
//! Nothing newer is overwritten: a draft is published only over what its name held when that failed, and if no event tells
//! of another change since its close. Otherwise it goes to quarantine, as by recovery.

use std::ffi::OsStr;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::recover::may_pass;
use super::{Committer, Failed, Reason, Target};
use crate::inode::{Key, display_path};
use crate::journal::{DraftId, DraftRow, DraftState, Entry};
use crate::sys::{Errno, Result, Stat, stat};

/// A draft that waits for its export.
#[derive(Clone, Debug)]
pub struct Postponed {
    /// Which draft.
    pub id: DraftId,
    /// Where it goes; `None` for one that an earlier daemon has left: its row tells.
    target: Option<Target>,
    below: Below,
}

/// What a name held when its draft could not be published.
#[derive(Clone, Copy, Debug)]
enum Below {
    /// This inode, or nothing.
    Seen(Option<Key>),
    /// The export did not tell: what the draft was begun over.
    Assumed(Option<Key>),
    /// An earlier daemon knew: what its row says that the name held at the promise.
    Unknown,
}

/// How another attempt ended.
#[derive(Debug)]
pub enum Tried {
    /// Under its name: the kernel has to be told.
    Published(Target),
    /// Nothing is left to be done now.
    Settled,
    /// The export still fails.
    Later(Errno),
}

/// What waits, on its way to who tries again.
#[derive(Debug)]
pub struct Waiting {
    sender: Sender<Postponed>,
    receiver: Receiver<Postponed>,
}

impl Default for Waiting {
    fn default() -> Self {
        let (sender, receiver) = unbounded();
        Waiting { sender, receiver }
    }
}

impl Waiting {
    /// Where it comes out; for one reader.
    pub fn queue(&self) -> &Receiver<Postponed> {
        &self.receiver
    }

    fn push(&self, postponed: Postponed) {
        // Cannot fail: the other end lives in this value.
        drop(self.sender.send(postponed));
    }
}

impl Committer {
    /// Keeps a draft whose close had returned, and which the export failed to take, as it is: content and row `sealed` are
    /// durable, and it is tried again, at last by the next mount. It was begun over `base`.
    pub fn postpone(&self, id: DraftId, Failed { step, errno }: Failed, target: Option<&Target>, base: Option<Key>) {
        let path = target.map(Target::path).unwrap_or_default();
        let path = display_path(&path);
        tracing::error!(draft = id, path, step, %errno, "closed, and not published: it is tried again");
        self.journal.submit(Entry::Postponed { id, reason: format!("{step} failed: {errno}") });
        let Some(target) = target else { return };
        let there = self.nodes.fd(&target.parent).and_then(|dir| stat::stat_at(dir, &target.name));
        let below = match there {
            Ok(there) => Below::Seen(Some(Key::of(&there))),
            Err(Errno::NOENT) => Below::Seen(None),
            Err(_) => Below::Assumed(base),
        };
        self.postponed.push(Postponed { id, target: Some(target.clone()), below });
    }

    /// The same for one that recovery could not publish.
    pub(super) fn postpone_again(&self, id: DraftId) {
        self.postponed.push(Postponed { id, target: None, below: Below::Unknown });
    }

    /// Where it goes, as far as that can be told.
    pub fn target_of(&self, postponed: &Postponed) -> Option<Target> {
        postponed.target.clone().or_else(|| self.folder_of(&self.journal.row(postponed.id).ok()??.path).ok())
    }

    /// Tries once more.
    pub fn try_again(&self, postponed: &Postponed) -> Tried {
        let mut row = match self.journal.row(postponed.id) {
            Ok(Some(row)) if row.state == DraftState::Sealed => row,
            Ok(_) => return Tried::Settled,
            Err(error) => return Tried::Later(Errno::from_raw_os_error(error.errno())),
        };
        let found = if postponed.target.is_none() { self.find_path(&mut row) } else { Ok(()) };
        let marked = self.wants_marker(&row.path);
        let tried = match self.staging.stat(&row.stage) {
            Ok(_) => self.publish_after_all(postponed, &row, found, marked),
            Err(Errno::NOENT) => self.record_after_all(postponed, &row, marked),
            Err(other) => Err(other),
        };
        tried.unwrap_or_else(Tried::Later)
    }

    /// `found` is what [`Committer::find_path`] said.
    fn publish_after_all(
        &self,
        postponed: &Postponed,
        row: &DraftRow,
        found: std::result::Result<(), (&'static str, Errno)>,
        marked: bool,
    ) -> Result<Tried> {
        let moved = postponed.target.as_ref().is_some_and(|target| target.path() != row.path);
        if moved || self.is_overtaken(row) {
            self.give_to_quarantine(row, Reason::Overtaken)?;
            return Ok(Tried::Settled);
        }
        let target = match &postponed.target {
            Some(target) => Ok(target.clone()),
            None => self.folder_of(&row.path).map_err(|errno| ("folder", errno)),
        };
        let published = found.and(target).and_then(|target| {
            let below = match postponed.below {
                Below::Seen(below) | Below::Assumed(below) => Some(below),
                Below::Unknown => self.below_promised(row, &target).map_err(|errno| ("name", errno))?,
            };
            self.roll_forward(row, target, marked, below)
        });
        match published {
            Ok(target) => {
                tracing::warn!(draft = row.id, path = display_path(&row.path), "published after all");
                Ok(Tried::Published(target))
            }
            Err((_, errno)) if may_pass(errno) => Err(errno),
            // For the next mount, which goes by what the name held at the promise.
            Err((_, Errno::EXIST)) if matches!(postponed.below, Below::Assumed(_)) => Ok(Tried::Settled),
            Err((step, errno)) => {
                self.give_to_quarantine(row, Reason::of_promised(step, errno))?;
                Ok(Tried::Settled)
            }
        }
    }

    /// It was renamed, and its folder could not be synced; or only the rename's answer was lost.
    fn record_after_all(&self, postponed: &Postponed, row: &DraftRow, marked: bool) -> Result<Tried> {
        if self.staging.was_adopted()? {
            return Ok(Tried::Settled);
        }
        let target = match &postponed.target {
            Some(target) => target.clone(),
            None => self.folder_of(&row.path)?,
        };
        let (parent, name): (_, &OsStr) = (&target.parent, &target.name);
        // Nobody else changes the name until this is written down.
        let claim = match self.claim(&[(parent, name)]) {
            Ok(claim) => claim,
            // Its folder was removed since.
            Err(_) => {
                self.record_published(row, None);
                return Ok(Tried::Settled);
            }
        };
        let ours = match self.made_durable(&target, row.ino) {
            Ok(ours) => ours,
            Err(errno) => {
                self.leave(claim, &[(parent, name)]);
                return Err(errno);
            }
        };
        let row = DraftRow { path: target.path(), ..row.clone() };
        if marked && ours.is_some() {
            self.complete_marker(row.id, &row.path, |there| there.ino == row.ino);
        }
        self.record_published(&row, ours);
        self.leave(claim, &[(parent, name)]);
        tracing::warn!(draft = row.id, path = display_path(&row.path), "durable after all");
        Ok(Tried::Published(target))
    }

    /// Makes a name durable; what it holds, if that is this inode.
    fn made_durable(&self, target: &Target, ino: u64) -> Result<Option<Stat>> {
        let there = stat::stat_at(self.nodes.fd(&target.parent)?, &target.name);
        let ours = match there {
            Ok(there) => Some(there).filter(|there| there.ino == ino),
            Err(Errno::NOENT) => None,
            Err(other) => return Err(other),
        };
        self.make_reachable(&target.parent)?;
        Ok(ours)
    }
}
