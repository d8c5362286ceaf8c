//! Acting as the caller: file-system ids and groups of the current thread, for the length of a guard.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::{Errno, Result};

/// Ids under which an operation on the export runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creds {
    /// User id for file access.
    pub uid: u32,
    /// Group id for file access.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Box<[u32]>,
}

impl Creds {
    /// True if the group is one of these.
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// While it lives, the current thread touches the file system as somebody else; dropped, as the daemon again.
#[must_use]
pub struct Acting {
    /// Only the thread that switched may switch back.
    not_send: PhantomData<*const ()>,
}

impl Acting {
    /// Switches the calling thread to `creds`: groups, then gid, then uid, because the uid takes the right to change
    /// the others away.
    pub fn begin(creds: &Creds) -> Result<Self> {
        let acting = Acting { not_send: PhantomData };
        set_groups(&creds.groups)?;
        set_fsid(libc::SYS_setfsgid, creds.gid)?;
        set_fsid(libc::SYS_setfsuid, creds.uid)?;
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let restored = set_fsid(libc::SYS_setfsuid, 0)
            .and_then(|()| set_fsid(libc::SYS_setfsgid, 0))
            .and_then(|()| set_groups(&[]));
        if let Err(errno) = restored {
            // A thread that cannot become itself again would act with a stranger's rights from here on.
            tracing::error!(%errno, "cannot restore the thread's credentials");
            std::process::abort();
        }
    }
}

/// Sets fsuid or fsgid of this thread. The call cannot report failure; asking again with an invalid id returns what is
/// in force.
fn set_fsid(call: libc::c_long, id: u32) -> Result<()> {
    // SAFETY: setfsuid and setfsgid take one integer and touch no memory; the raw call changes this thread only.
    let in_force = unsafe {
        libc::syscall(call, libc::c_long::from(id));
        libc::syscall(call, -1 as libc::c_long)
    };
    if in_force == libc::c_long::from(id) { Ok(()) } else { Err(Errno::PERM) }
}

fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length describe one live slice of gid_t; the raw call changes this thread only, unlike the
    // C library's, which would change every thread.
    let rc = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if rc == 0 { Ok(()) } else { Err(super::last_error()) }
}
