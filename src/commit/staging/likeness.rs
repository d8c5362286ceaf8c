//! What a staged file looks like: the version that it will replace, or what its folder gives to new files.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;

use super::{Staged, Staging};
use crate::sys::cred::Creds;
use crate::sys::{Errno, Result, Stat, acl, at, stat, xattr};

/// Access lists remembered at most.
const LISTS: usize = 1000;

impl Staging {
    /// Creates a draft's staged file that looks like the version it will replace: owner, group, mode, attributes, access list.
    /// Fails with `EPERM` where the owner cannot be kept, so that a replacement never changes owner silently.
    pub fn create_like(&self, name: &str, base: &File, like: &Stat, creds: Option<&Creds>) -> Result<Staged> {
        // Until it has its owner, nobody else may open it.
        let mode = if self.owner_of_new(creds) == (like.uid, like.gid) { like.perm & 0o777 } else { 0o600 };
        let (staged, made) = self.make(name, self.exclusive(), mode, creds)?;
        match self.resemble(&staged, &made, base, like, creds, true) {
            Ok(()) => Ok(staged),
            Err(errno) => {
                self.remove_failed(name);
                Err(errno)
            }
        }
    }

    /// Whose a file will be that `creds` stages, as far as that can be told before.
    fn owner_of_new(&self, creds: Option<&Creds>) -> (u32, u32) {
        let (uid, gid) = match creds.filter(|_| self.privileged) {
            Some(creds) => (creds.uid, creds.gid),
            None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        };
        match self.nobody {
            Some(nobody) => (if uid == 0 { nobody.0 } else { uid }, if gid == 0 { nobody.1 } else { gid }),
            None => (uid, gid),
        }
    }

    /// What a new file gets from the folder it will appear in: group of a setgid folder, default access list. `EPERM` where
    /// the folder takes none.
    ///
    /// `masked` is `mode` less the umask, which does not apply where there is a default list.
    pub fn inherit(
        &self,
        staged: &Staged,
        folder: impl AsFd,
        mode: u32,
        masked: u32,
        creds: Option<&Creds>,
    ) -> Result<()> {
        let above = stat::fstat(folder.as_fd())?;
        if above.is_immutable {
            return Err(Errno::PERM);
        }
        if above.perm & 0o2000 != 0 && stat::fstat(&staged.file)?.gid != above.gid {
            // As the kernel has it: who is not of the group makes no program that runs as the group.
            let stranger = creds.is_some_and(|creds| creds.uid != 0 && !creds.is_in(above.gid));
            let perm = if stranger && masked & 0o010 != 0 { masked & !0o2000 } else { masked };
            self.acting_for(creds, || {
                at::chown(&staged.file, None, Some(above.gid))?;
                at::chmod(&staged.file, perm)
            })?;
        }
        if let Some(default) = acl::default_of(folder)? {
            self.acting_for(creds, || acl::inherit(&staged.file, &default, mode))?;
        }
        Ok(())
    }

    /// True if a file that `creds` stages can be made to look like this one as to owner and group: always for a daemon
    /// that is root on the export too.
    pub fn can_resemble(&self, creds: Option<&Creds>, like: &Stat) -> bool {
        let Some(nobody) = self.nobody else { return self.privileged || self.is_own(creds, like) };
        match creds {
            // Root's files belong to nobody, and to nobody's group where root's own would be meant.
            None => (like.uid, like.gid) == nobody,
            Some(creds) => {
                let uid = if creds.uid == 0 { nobody.0 } else { creds.uid };
                uid == like.uid && (creds.is_in(like.gid) || (creds.is_in(0) && like.gid == nobody.1))
            }
        }
    }

    fn is_own(&self, creds: Option<&Creds>, like: &Stat) -> bool {
        match creds {
            Some(creds) => creds.uid == like.uid && creds.is_in(like.gid),
            None => {
                let groups = rustix::process::getgroups().unwrap_or_default();
                rustix::process::geteuid().as_raw() == like.uid
                    && (rustix::process::getegid().as_raw() == like.gid
                        || groups.iter().any(|group| group.as_raw() == like.gid))
            }
        }
    }

    /// Makes a staged file that nobody writes any more look like the version that it is about to replace, as that is by now. Nobody
    /// vouches for its content as far as to run it with another's rights. (Not where root is nobody, who may change nothing of it.)
    pub fn resemble_version(&self, staged: &Staged, version: impl FnOnce() -> Result<File>) -> Result<()> {
        if self.nobody.is_some() {
            return Ok(());
        }
        let version = version()?;
        let (made, version_stat) = (stat::fstat(&*staged.file)?, stat::fstat(&version)?);
        let like = Stat { perm: version_stat.perm & !stat::SET_IDS, ..version_stat };
        let remove = |name: &str| match xattr::remove(&*staged.file, OsStr::new(name)) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            other => other,
        };
        remove(acl::ACCESS)?;
        self.resemble(staged, &made, &version, &like, None, false)?;
        remove(xattr::CAPABILITY)
    }

    /// `is_new`: it has what every file gets that is made here.
    fn resemble(
        &self,
        staged: &Staged,
        made: &Stat,
        base: &File,
        like: &Stat,
        creds: Option<&Creds>,
        is_new: bool,
    ) -> Result<()> {
        self.acting_for(creds, || {
            let (mut perm, mut untouched) = (made.perm, is_new);
            if (made.uid, made.gid) != (like.uid, like.gid) {
                at::chown(&staged.file, Some(like.uid), Some(like.gid))?;
                (perm, untouched) = (stat::fstat(&staged.file)?.perm, false);
            }
            if perm != like.perm {
                at::chmod(&staged.file, like.perm)?;
                untouched = false;
            }
            xattr::copy_all(base, &staged.file, |name, list| {
                name == acl::NFS4 && untouched && self.has_list(staged, made, list)
            })
        })
    }

    /// True if a new file has this NFS 4 access list already: the server makes one of the mode, and setting it again would
    /// be a request for each replacement.
    fn has_list(&self, staged: &Staged, made: &Stat, list: &[u8]) -> bool {
        let mut lists = self.lists.lock();
        let key = (made.perm, made.uid, made.gid);
        if let Some(known) = lists.get(&key) {
            return known == list;
        }
        // Not held while the server is asked.
        drop(lists);
        let Ok(own) = xattr::get(&staged.file, OsStr::new(acl::NFS4)) else { return false };
        let same = own == list;
        lists = self.lists.lock();
        if lists.len() >= LISTS {
            lists.clear();
        }
        lists.insert(key, own);
        same
    }
}
