//! What is changed of a version while somebody writes over it: the draft that will replace it takes that over, or
//! a mode that keeps others out would go with the old content.

use std::ffi::OsStr;
use std::sync::Arc;

use super::{Changes, Done, Fs};
use crate::commit::Target;
use crate::draft::{Caller, Draft};
use crate::inode::{Content, Key};
use crate::sys::{Errno, Result, stat, xattr};

impl Fs {
    /// To be answered when a change of what a node stands for was made: makes it on the content that will replace a
    /// version, too, with `carry`.
    pub(super) fn carried<T: Send + 'static>(
        self: &Arc<Self>,
        node: u64,
        carry: impl FnOnce(&Fs, &Content) -> Result<()> + Send + 'static,
        done: impl Done<T>,
    ) -> impl Done<T> {
        let fs = self.clone();
        // A draft that has been published meanwhile is no longer under its name, and one that is begun meanwhile may have
        // seen the version as it was: so both before and after.
        let before = self.successor(node);
        let itself = self.drafts.get(node).filter(|draft| !draft.is_pending());
        move |changed| {
            // The same with the version that a draft stood for, of which a copy is begun meanwhile.
            let itself = itself.filter(|draft| draft.is_pending());
            let after = |_: &T| before.or_else(|| fs.successor(node)).or(itself);
            let Some(over) = changed.as_ref().ok().and_then(after) else { return done(changed) };
            let by = fs.clone();
            // It may be in the middle of copying what is below it.
            fs.copies.run(move || done(by.carry_to(&over, carry).and(changed)));
        }
    }

    /// Runs a change of a draft's attributes, or of what has no draft, when no copy is being made for it: until then it
    /// would change the version that is copied, whose attributes the copy has already.
    pub(super) fn when_filled(&self, draft: Option<Arc<Draft>>, change: impl FnOnce() + Send + 'static) {
        match draft {
            Some(draft) if draft.is_filling() => self.copies.run(move || {
                draft.wait_filled();
                change();
            }),
            _ => change(),
        }
    }

    fn carry_to(&self, draft: &Draft, carry: impl FnOnce(&Fs, &Content) -> Result<()>) -> Result<()> {
        if draft.is_over() {
            return Ok(());
        }
        draft.wait_filled();
        // One without content gets that of the version as it is by then.
        if !draft.is_clean() {
            match draft.content().and_then(|content| carry(self, &content)) {
                // Removed or replaced in its turn.
                Ok(()) | Err(Errno::STALE | Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.announce_attributes(draft.node);
        Ok(())
    }

    /// The draft that was begun over a node's version and has its name.
    fn successor(&self, node: u64) -> Option<Arc<Draft>> {
        let published = self.drafts.get(node);
        let target = match &published {
            Some(draft) => draft.target()?,
            None => {
                let link = self.nodes().get(node).ok()?.link();
                Target { parent: link.parent?, name: link.name }
            }
        };
        let over = self.drafts.at(target.parent.key, &target.name).filter(|over| over.node != node)?;
        let version = match published {
            Some(draft) => draft.stands_for().ok()?.map(|version| Key::of(&version)),
            None => Some(self.nodes().get(node).ok()?.key),
        };
        (version.is_some() && over.base_key() == version).then_some(over)
    }

    /// Owner, group and mode, as they were changed on the version. Nobody can vouch for content that he does not see, so
    /// a set-id bit is taken away and never given.
    pub(super) fn carry_rights(&self, caller: Caller, content: &Content, changes: Changes) -> Result<()> {
        let has = stat::fstat(content)?.perm & stat::SET_IDS;
        let perm = changes.perm.map(|perm| perm & (!stat::SET_IDS | has));
        self.change_as(caller, content, Changes { perm, uid: changes.uid, gid: changes.gid, ..Changes::default() })
    }

    /// An attribute that was set on the version (or removed, without a value).
    pub(super) fn carry_xattr(
        &self,
        caller: Caller,
        content: &Content,
        name: &OsStr,
        value: Option<&[u8]>,
    ) -> Result<()> {
        let creds = self.creds(caller);
        self.committer.staging.acting(creds.as_ref(), || match value {
            // As with set-id bits.
            Some(_) if name == xattr::CAPABILITY => Ok(()),
            Some(value) => xattr::set(content, name, value, 0),
            None => match xattr::remove(content, name) {
                Err(Errno::NODATA) => Ok(()),
                other => other,
            },
        })
    }
}
