//! The version below a draft.

use std::sync::Arc;

use rustix::fs::{Access, OFlags};

use crate::commit::{Committer, Target};
use crate::inode::{Content, Key};
use crate::sys::cred::Creds;
use crate::sys::{Errno, Kind, Result, Stat, at, copy, stat};

/// How often a version may be cut short while it is copied.
const CUTS: u32 = 4;

/// The version below a draft.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its content, until a commit is on its way: an NFS client moves a file that it has open out of the way before it
    /// renames over it, and the name would be absent for that moment.
    pub file: Option<Arc<Content>>,
    /// `file` refers to the inode and cannot be read: who began the draft truncates.
    pub unread: bool,
    /// What it was like when the draft began.
    pub like: Stat,
}

impl Base {
    /// Its attributes. Nothing keeps one that is not read from going, should another host replace it.
    pub fn stat(&self) -> Result<Stat> {
        match stat::fstat(&**self.file.as_ref().ok_or(Errno::IO)?) {
            Err(Errno::STALE) if self.unread => Ok(self.like),
            stat => stat,
        }
    }

    /// The version under a name now, to be overwritten, if there is one. What the kernel has allowed was another file.
    pub(super) fn under(by: &Committer, target: &Target, creds: Option<&Creds>) -> Result<Option<Base>> {
        let dir = by.nodes.fd(&target.parent)?;
        stat::revalidate(&dir)?;
        let file = match at::open_path(&dir, &target.name) {
            Err(Errno::NOENT) => return Ok(None),
            file => file?,
        };
        let like = stat::fstat_fresh(&file)?;
        if like.kind != Kind::File {
            return Err(Errno::STALE);
        }
        by.staging.acting(creds, || at::access(&file, Access::WRITE_OK))?;
        let file = Content::new(file.into());
        by.nodes.refers(Key::of(&like), &file);
        Ok(Some(Base { file: Some(file), unread: true, like }))
    }

    /// The version, open for reading.
    pub(super) fn readable(&self, by: &Committer, creds: Option<&Creds>) -> Result<Arc<Content>> {
        let file = self.file.as_ref().ok_or(Errno::IO)?;
        if !self.unread {
            return Ok(file.clone());
        }
        let file = Content::new(by.staging.acting_for(creds, || at::reopen(&**file, OFlags::RDONLY))?);
        by.nodes.reads(Key::of(&self.like), &file);
        Ok(file)
    }

    /// Fills a staged file with the first bytes of the version, `kept` if it has so many. Who cuts it short meanwhile, in
    /// place or without commitfs, has come first: zeros where its end was would be nobody's content.
    pub(super) fn copy_into(&self, by: &Committer, creds: Option<&Creds>, staged: &Content, kept: u64) -> Result<()> {
        let below = self.readable(by, creds)?;
        let _using = below.using();
        // A copy on the server is made for who asks for it.
        by.staging.acting_for(creds, || {
            let mut copied = copy::copy_content(&*below, staged, kept);
            for _ in 0..CUTS {
                if copied != Err(Errno::STALE) {
                    break;
                }
                let left = kept.min(stat::fstat(&*below)?.size);
                at::truncate(staged, 0)?;
                copied = copy::copy_content(&*below, staged, left);
            }
            copied
        })
    }
}
