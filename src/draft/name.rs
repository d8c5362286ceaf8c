//! The name under which a draft will appear: how it is taken away, and how it changes.

use parking_lot::{RwLockUpgradableReadGuard, RwLockWriteGuard};

use super::{Body, Draft, Phase};
use crate::commit::{Committer, Target};
use crate::journal::{Entry, Held};
use crate::sys::Result;
use crate::sys::stat::{self, Stat};

impl Draft {
    /// The version that a draft without changes stands for, as it is now: that below it, or the one that it was published as.
    pub fn stands_for(&self) -> Result<Option<Stat>> {
        let body = self.body.read_recursive();
        match &body.phase {
            Phase::Clean => Ok(body.base.as_ref().map(|base| base.stat().unwrap_or(base.like))),
            Phase::Published(kept) => stat::fstat(&*kept.file()?).map(Some),
            _ => Ok(None),
        }
    }

    /// Takes the draft's name away: nothing will be published, also after a crash of the daemon, whatever a close was
    /// promised. False if that comes too late: a commit is on its way, or has come since the draft `was_pending`.
    pub fn unname(&self, by: &Committer, was_pending: bool) -> Result<bool> {
        let mut body = self.body.write();
        if matches!(body.phase, Phase::Sealing(..)) || was_pending && !body.phase.is_pending() {
            return Ok(false);
        }
        body.take_name(by)?;
        Ok(true)
    }

    /// As [`Draft::unname`], after a rename over the name by `call`: no commit comes in between, which would put the draft over
    /// what was renamed there. False, and nothing done, while one is on its way.
    pub fn unname_for(&self, by: &Committer, call: impl FnOnce() -> Result<()>) -> Result<bool> {
        let body = self.body_alone();
        if matches!(body.phase, Phase::Sealing(..)) {
            return Ok(false);
        }
        call()?;
        RwLockUpgradableReadGuard::upgrade(body).take_name(by)?;
        Ok(true)
    }

    /// Gives the draft another name, after a rename of what lies below by `call`, if that says so: no commit comes in between,
    /// which would be one under the old name. `None`, and nothing done, while one is on its way.
    ///
    /// `held`: what the new name holds by then, if the draft may still become a version.
    pub fn rename_for(
        &self,
        by: &Committer,
        target: Target,
        call: impl FnOnce() -> Result<bool>,
        held: impl FnOnce() -> Held,
    ) -> Result<Option<bool>> {
        let body = self.body_alone();
        if matches!(body.phase, Phase::Sealing(..)) {
            return Ok(None);
        }
        if !call()? {
            return Ok(Some(false));
        }
        let below = body.phase.is_pending().then(held);
        let mut body = RwLockUpgradableReadGuard::upgrade(body);
        if let Phase::Open(work) = &body.phase {
            let (path, folder) = (target.path(), Some(target.parent.key.ino));
            by.journal.submit(Entry::Retargeted { id: work.id, path, below, folder, from: None });
        }
        body.target = Some(target);
        Ok(Some(true))
    }

    /// The body while nobody changes its phase, and no promise is being written either, which would tell of the name before.
    fn body_alone(&self) -> RwLockUpgradableReadGuard<'_, Body> {
        RwLockWriteGuard::downgrade_to_upgradable(self.body.write())
    }

    /// The version that it stands for was renamed, and it goes along. False if something was written to it meanwhile, or its
    /// name is another one by now.
    pub fn follow(&self, from: &Target, to: Target) -> bool {
        let mut body = self.body.write();
        let follows = matches!(body.phase, Phase::Clean | Phase::Published(_))
            && body.target.as_ref().is_some_and(|target| target.is(from));
        if follows {
            body.target = Some(to);
        }
        follows
    }
}
