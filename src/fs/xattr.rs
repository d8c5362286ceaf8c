//! Extended attributes, and the virtual ones through which the command line finds a mount's state.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Done, Fs};
use crate::draft::{Caller, Keep};
use crate::inode::{Content, ROOT_ID};
use crate::sys::stat::Time;
use crate::sys::xattr::{self, CAPABILITY};
use crate::sys::{Errno, Kind, Result, acl, at};

/// Prefix of the attributes that the mount itself provides: read-only, never listed, never stored.
const VIRTUAL: &[u8] = b"user.commitfs.";

/// On the root: the state folder.
pub const STATE_DIR: &str = "user.commitfs.state_dir";

/// Prefix of what only root is told of.
const TRUSTED: &[u8] = b"trusted.";

impl Fs {
    /// The value of an attribute.
    pub fn getxattr(&self, node: u64, name: &OsStr) -> Result<Vec<u8>> {
        if name.as_bytes().starts_with(VIRTUAL) {
            return match name.to_str() {
                Some(STATE_DIR) if node == ROOT_ID => Ok(self.options.state_dir.as_os_str().as_bytes().to_vec()),
                Some(name) => self.total(node, &name[VIRTUAL.len()..]),
                None => Err(Errno::NODATA),
            };
        }
        let value = match self.with_inode(node, |fd| xattr::get(fd, name)) {
            // The kernel asks for it in the middle of an open, which has one repetition, and needs that to get at a draft.
            Err(Errno::STALE) if name == acl::ACCESS => self.access_list_now(node),
            value => value,
        };
        match value {
            // The kernel asks for lists before it checks rights, and takes only this answer for "none here".
            Err(Errno::OPNOTSUPP) if name.as_bytes().starts_with(b"system.posix_acl_") => Err(Errno::NODATA),
            value => value,
        }
    }

    /// The access list of what a version that is gone was replaced by: what an open finds when it is sent round.
    fn access_list_now(&self, node: u64) -> Result<Vec<u8>> {
        let node = self.nodes().get(node)?;
        let link = node.link();
        let parent = link.parent.filter(|_| node.kind == Kind::File).ok_or(Errno::STALE)?;
        match at::open_path(self.nodes().fd(&parent)?, &link.name) {
            Err(Errno::NOENT) => Err(Errno::STALE),
            file => xattr::get(file?, OsStr::new(acl::ACCESS)),
        }
    }

    /// What a folder holds with all below it, as the journal knows it.
    fn total(&self, node: u64, which: &str) -> Result<Vec<u8>> {
        if !matches!(which, "rbytes" | "rfiles" | "rsubdirs" | "rctime" | "asof") || !self.committer.totals.is_on() {
            return Err(Errno::NODATA);
        }
        let folder = self.folder(node).map_err(|_| Errno::NODATA)?;
        let path = folder.path();
        let read = self.committer.journal.glance(|reader| Ok((reader.folder(&path)?, reader.totals_as_of()?)));
        let (row, as_of) = read.map_err(|error| Errno::from_raw_os_error(error.errno()))?;
        let row = row.ok_or(Errno::NODATA)?;
        let time = |time: SystemTime| {
            let Time { sec, nsec } = Time::from_system(time);
            format!("{sec}.{nsec:09}")
        };
        let text = match which {
            "rbytes" => row.rbytes.to_string(),
            "rfiles" => row.rfiles.to_string(),
            "rsubdirs" => row.rfolders.to_string(),
            "rctime" => time(row.newest.unwrap_or(SystemTime::UNIX_EPOCH)),
            _ => time(as_of.unwrap_or_else(SystemTime::now)),
        };
        Ok(text.into_bytes())
    }

    /// All names that the caller may know of, each ended by NUL.
    pub fn listxattr(&self, caller: Caller, node: u64) -> Result<Vec<u8>> {
        let names = match self.with_inode(node, |fd| xattr::list(fd)) {
            Err(Errno::OPNOTSUPP) => Vec::new(),
            other => other?,
        };
        if caller.uid == 0 {
            return Ok(names);
        }
        let shown = names.split_inclusive(|&byte| byte == 0).filter(|name| !name.starts_with(TRUSTED));
        Ok(shown.collect::<Vec<_>>().concat())
    }

    /// Sets an attribute, at once also on a draft.
    pub fn setxattr(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        name: &OsStr,
        value: &[u8],
        flags: u32,
        done: impl Done<()>,
    ) {
        if let Err(errno) = self.refuse_virtual(name) {
            return done(Err(errno));
        }
        let (name, value) = (name.to_owned(), value.to_owned());
        self.with_content_known(node, move |fs| {
            let creds = fs.creds(caller);
            fs.touch(node);
            let done = fs.carried_xattr(caller, node, &name, Some(&value), done);
            let by = fs.clone();
            fs.when_filled(fs.drafts.get(node), move || {
                let set = |fd: BorrowedFd<'_>| {
                    by.committer.staging.acting(creds.as_ref(), || xattr::set(fd, &name, &value, flags))
                };
                done(by.with_inode(node, set));
            });
        });
    }

    fn carried_xattr(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        name: &OsStr,
        value: Option<&[u8]>,
        done: impl Done<()>,
    ) -> impl Done<()> {
        let (name, value) = (name.to_owned(), value.map(<[u8]>::to_vec));
        let carry = move |fs: &Fs, content: &Content| fs.carry_xattr(caller, content, &name, value.as_deref());
        self.carried(node, carry, done)
    }

    /// Removes an attribute. What a program may do by its file the kernel takes away just before a write: where that
    /// write begins a draft, from the draft.
    pub fn removexattr(self: &Arc<Self>, caller: Caller, node: u64, name: &OsStr, done: impl Done<()>) {
        if let Err(errno) = self.refuse_virtual(name) {
            return done(Err(errno));
        }
        let creds = self.creds(caller);
        self.touch(node);
        match self.drafts.get(node) {
            Some(draft) if name == CAPABILITY && draft.has_writers() => {
                let fs = self.clone();
                let call = move |file: &std::fs::File| {
                    let remove = || xattr::remove(file, OsStr::new(CAPABILITY));
                    match fs.committer.staging.acting(creds.as_ref(), remove) {
                        // Filling the draft was a write, too.
                        Err(Errno::NODATA) => Ok(()),
                        other => other,
                    }
                };
                self.alter(draft, Keep::All, "attributes", call, done);
            }
            _ => {
                let name = name.to_owned();
                self.with_content_known(node, move |fs| {
                    let done = fs.carried_xattr(caller, node, &name, None, done);
                    let by = fs.clone();
                    fs.when_filled(fs.drafts.get(node), move || {
                        let remove = |fd: BorrowedFd<'_>| {
                            by.committer.staging.acting(creds.as_ref(), || xattr::remove(fd, &name))
                        };
                        done(by.with_inode(node, remove));
                    });
                });
            }
        }
    }

    fn touch(&self, node: u64) {
        if let Some(draft) = self.drafts.get(node) {
            draft.touch();
        }
    }

    fn refuse_virtual(&self, name: &OsStr) -> Result<()> {
        if name.as_bytes().starts_with(VIRTUAL) { Err(Errno::PERM) } else { Ok(()) }
    }

    fn with_inode<T>(&self, node: u64, call: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        match self.drafts.get(node) {
            Some(draft) => call(draft.content()?.as_fd()),
            None => {
                let node = self.nodes().get(node)?;
                call(self.nodes().fd(&node)?.as_fd())
            }
        }
    }
}
