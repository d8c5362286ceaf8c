//! Mount points, file system types, descriptor limits.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
};
use rustix::process::{Resource, Rlimit};

use super::{Errno, Result};

/// `f_type` of NFS.
const NFS_SUPER_MAGIC: u64 = 0x6969;

/// True on an NFS mount.
pub fn is_nfs(fd: impl AsFd) -> Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 == NFS_SUPER_MAGIC)
}

/// True on XFS.
pub fn is_xfs(fd: impl AsFd) -> Result<bool> {
    const XFS_SUPER_MAGIC: u64 = 0x5846_5342;
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 == XFS_SUPER_MAGIC)
}

/// `f_type` of FUSE.
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
/// What the NFS client of Linux, and servers made with libfuse, call files that lose their name while they are open.
const SET_ASIDE: [&str; 2] = [".nfs", ".fuse_hidden"];

/// What such names begin with on the file system of `fd`, if it makes any. It also replaces a name through which somebody has
/// a file open in two steps, so that it is absent for a moment.
pub fn sets_aside(fd: impl AsFd) -> Result<Option<&'static str>> {
    Ok(match rustix::fs::fstatfs(fd)?.f_type as u64 {
        NFS_SUPER_MAGIC => Some(SET_ASIDE[0]),
        FUSE_SUPER_MAGIC => Some(SET_ASIDE[1]),
        _ => None,
    })
}

/// Whether a name is one that is made with this prefix: hexadecimal digits follow, and nothing else.
pub fn sets_aside_as(prefix: &str, name: &[u8]) -> bool {
    let digits = name.strip_prefix(prefix.as_bytes()).unwrap_or_default();
    !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit)
}

/// Whether something in the staging or the trash folder is such a file: it goes by itself.
pub fn is_set_aside(name: &str) -> bool {
    SET_ASIDE.iter().any(|prefix| name.starts_with(prefix))
}

/// Mounts a new FUSE connection as root and returns its device. `options` are the file system's own, after the
/// obligatory ones.
pub fn mount_fuse(source: &Path, mountpoint: &Path, flags: MountFlags, options: &str) -> Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    if !options.is_empty() {
        data.push(',');
        data.push_str(options);
    }
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(source, mountpoint, "fuse.commitfs", flags, data.as_c_str())?;
    Ok(device)
}

/// Takes a mount out of the name space at once; its users keep what they have open.
pub fn detach(mountpoint: &Path) -> Result<()> {
    rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)
}

/// Takes a mount out of the name space and ends its connection: whoever waits for an answer gets `ECONNABORTED`.
pub fn abort(mountpoint: &Path) -> Result<()> {
    rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::FORCE)
}

/// The number of the FUSE connection at `mountpoint`, without a request to it: its device's.
pub fn connection(mountpoint: &Path) -> Result<u32> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(CWD, mountpoint, flags, StatxFlags::empty())?.stx_dev_minor)
}

/// The file that ends a FUSE connection when something is written to it: in the control file system, a private mount of
/// it for root.
pub fn abort_file(connection: u32) -> Result<OwnedFd> {
    let file = format!("{connection}/abort");
    let open = |dir: OwnedFd| rustix::fs::openat(dir, &*file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let own = || {
        let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let everybodys = || rustix::fs::open("/sys/fs/fuse/connections", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    own().or_else(|_| everybodys()).and_then(open)
}

/// Unmounts if nobody uses it: `EBUSY` otherwise.
pub fn unmount(mountpoint: &Path) -> Result<()> {
    rustix::mount::unmount(mountpoint, UnmountFlags::empty())
}

/// Raises the limit of open descriptors as far as it goes and returns it. For root that is what the kernel allows, not
/// what the shell or the unit happened to give: each file that an application has open may take one here.
pub fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let allowed = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let most = limit.maximum.zip(allowed).map(|(hard, allowed): (u64, u64)| hard.max(allowed));
    for maximum in [most.or(limit.maximum), limit.maximum] {
        match rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => return maximum.unwrap_or(1 << 20),
            // Not root, or root without that right.
            Err(errno) => tracing::debug!(%errno, ?maximum, "cannot raise the limit of open descriptors"),
        }
    }
    tracing::warn!("cannot raise the limit of open descriptors");
    limit.current.unwrap_or(1024)
}

/// Lets files grow as far as the export allows: a limit on their size that the daemon was started with is not its callers'.
/// Where it cannot be raised, a write beyond it fails with `EFBIG` and no longer ends the daemon.
pub fn raise_size_limit() -> std::io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    let hard = rustix::process::getrlimit(Resource::Fsize).maximum;
    let raise = |maximum| rustix::process::setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum });
    if let Err(errno) = raise(None).or_else(|_| raise(hard)) {
        tracing::warn!(%errno, "cannot raise the limit of file sizes");
    } else if let Some(limit) = rustix::process::getrlimit(Resource::Fsize).current {
        tracing::warn!(limit, "files cannot grow beyond the limit of file sizes (ulimit -f)");
    }
    Ok(())
}

/// True when the error says that the file system failed as a whole, whatever was asked of it.
pub fn is_failure(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::IO | Errno::ROFS | Errno::NOTCONN | Errno::CONNABORTED | Errno::SHUTDOWN | Errno::TIMEDOUT | Errno::NXIO
    )
}

/// True when the error says that the file system has no more room for this user.
pub fn is_no_space(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_user_that_are_called_alike_are_his() {
        for (name, is_made) in [(".nfs000000000001", true), (".nfsABCdef09", true), (".nfsrc", false), (".nfs", false)]
        {
            assert_eq!(sets_aside_as(".nfs", name.as_bytes()), is_made, "{name}");
        }
    }
}
