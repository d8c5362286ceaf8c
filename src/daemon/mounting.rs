//! Mounting, and taking away what comes to nothing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fuser::{MountOption, Session, SessionACL};
use rustix::mount::MountFlags;

use crate::config::Config;
use crate::fuse::Adapter;
use crate::sys::{self, Errno, mount};

const FUSE: &str = "/dev/fuse";

/// Mounts. As root by the kernel directly: the protocol library would unmount whatever lies at the mount point when the
/// session ends, which for a mount over itself may be the export. Anybody else goes through fusermount3.
pub(super) fn session(adapter: Adapter, config: &Config) -> std::io::Result<Session<Adapter>> {
    let acl = if config.allow_other { SessionACL::All } else { SessionACL::Owner };
    let mut session = fuser::Config::default();
    session.acl = acl;
    session.n_threads = Some(config.threads);
    session.clone_fd = true;
    if !rustix::process::geteuid().is_root() {
        session.mount_options = vec![
            MountOption::FSName(config.source.to_string_lossy().into_owned()),
            MountOption::Subtype("commitfs".to_owned()),
        ];
        session.mount_options.extend(config.default_permissions.then_some(MountOption::DefaultPermissions));
        session.mount_options.extend(config.read_only.then_some(MountOption::RO));
        let kernel = config.kernel_options.iter().map(|option| MountOption::CUSTOM(option.clone()));
        session.mount_options.extend(kernel);
        return Session::new(adapter, &config.mountpoint, &session);
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, config.read_only);
    for option in &config.kernel_options {
        let (flag, on) = match option.as_str() {
            "dev" => (MountFlags::NODEV, false),
            "nodev" => (MountFlags::NODEV, true),
            "suid" => (MountFlags::NOSUID, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "exec" => (MountFlags::NOEXEC, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "atime" => (MountFlags::NOATIME, false),
            "noatime" => (MountFlags::NOATIME, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "dirsync" => (MountFlags::DIRSYNC, true),
            other => return Err(std::io::Error::other(format!("option {other}: unknown to the kernel"))),
        };
        flags.set(flag, on);
    }
    let own = [(config.default_permissions, "default_permissions"), (config.allow_other, "allow_other")];
    let own: Vec<&str> = own.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let device = mount::mount_fuse(&config.source, &config.mountpoint, flags, &own.join(","))?;
    let unserved = Unserved::at(&config.mountpoint);
    Session::from_fd(adapter, device, acl, session).inspect(|_| unserved.serves())
}

/// What the system said, on one line: fusermount3 ends its words with a newline.
pub(super) fn said(error: &std::io::Error) -> String {
    error.to_string().trim_end().replace('\n', "; ")
}

/// What may help against it.
pub(super) fn remedy(error: &std::io::Error) -> &'static str {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(FUSE);
    match (error.kind(), opened.map_err(|error| error.kind())) {
        (ErrorKind::PermissionDenied, Err(ErrorKind::PermissionDenied)) => {
            "; this user may not open /dev/fuse, which everybody may on ordinary machines: chmod 666 /dev/fuse"
        }
        (ErrorKind::PermissionDenied, _) => {
            "; users other than root need fusermount3 (package fuse3), and user_allow_other in /etc/fuse.conf for allow_other"
        }
        (ErrorKind::NotFound, _) => {
            "; is /dev/fuse there (modprobe fuse), and fusermount3 for users other than root (package fuse3)?"
        }
        _ => "",
    }
}

/// A mount that may not come to serve: then it is taken away again.
pub(super) struct Unserved(PathBuf);

impl Unserved {
    pub(super) fn at(mountpoint: &Path) -> Self {
        Unserved(mountpoint.to_owned())
    }

    pub(super) fn serves(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Unserved {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        let taken_away = match mount::detach(&self.0) {
            Err(Errno::PERM) => unmount_as_user(&self.0, true),
            other => other,
        };
        if let Err(errno) = taken_away {
            tracing::error!(%errno, "cannot take the unusable mount away");
        }
    }
}

/// Unmounts by fusermount3, as users other than root must.
pub(super) fn unmount_as_user(mountpoint: &Path, detach: bool) -> sys::Result<()> {
    let mut command = std::process::Command::new("fusermount3");
    command.arg("-u").args(detach.then_some("-z")).arg("--").arg(mountpoint);
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            tracing::warn!(said = %String::from_utf8_lossy(&output.stderr).trim(), "fusermount3 failed");
            Err(Errno::BUSY)
        }
        Err(error) => Err(sys::errno_of(&error)),
    }
}
