//! What the kernel offers: asked for real, by a mount that serves nothing and is gone at once.

use std::io;
use std::path::Path;
use std::sync::Arc;

use fuser::{Filesystem, InitFlags, KernelConfig, Request, Session, SessionACL};
use parking_lot::Mutex;
use rustix::mount::MountFlags;

use super::{ALWAYS, ON_WISH};
use crate::sys::mount;

/// What came out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Version of the protocol.
    pub protocol: (u32, u32),
    /// What a mount would use and this kernel does not have, in the kernel's words.
    pub missing: Vec<&'static str>,
}

impl Offer {
    /// A mount refuses to serve without it.
    pub fn lacks_the_obligatory(&self) -> bool {
        self.missing.contains(&"FUSE_ATOMIC_O_TRUNC")
    }

    fn of(protocol: (u32, u32), offered: InitFlags) -> Offer {
        let missing = ((ALWAYS | ON_WISH) & !offered).iter_names().map(|(name, _)| name).collect();
        Offer { protocol, missing }
    }
}

struct Asking(Arc<Mutex<Option<Offer>>>);

impl Filesystem for Asking {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let version = config.kernel_abi();
        *self.0.lock() = Some(Offer::of((version.0, version.1), config.capabilities()));
        Ok(())
    }
}

/// Mounts on an empty folder, hears what the kernel offers, and takes the mount away again.
pub fn offered(folder: &Path) -> io::Result<Offer> {
    let heard = Arc::new(Mutex::new(None));
    let asking = Asking(Arc::clone(&heard));
    let mut config = fuser::Config::default();
    config.acl = SessionACL::Owner;
    let session = if rustix::process::geteuid().is_root() {
        let device = mount::mount_fuse("commitfs-doctor".as_ref(), folder, MountFlags::NOSUID | MountFlags::NODEV, "")?;
        let session = Session::from_fd(asking, device, SessionACL::Owner, config);
        mount::detach(folder)?;
        session
    } else {
        Session::new(asking, folder, &config)
    };
    drop(session?);
    let offer = heard.lock().take();
    offer.ok_or_else(|| io::Error::other("the kernel has not said what it offers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_a_name() {
        assert_eq!(Offer::of((7, 45), InitFlags::all()).missing, [""; 0]);
        let old = Offer::of((7, 23), InitFlags::all() & !InitFlags::FUSE_ATOMIC_O_TRUNC & !InitFlags::FUSE_PASSTHROUGH);
        assert_eq!(old.missing, ["FUSE_ATOMIC_O_TRUNC", "FUSE_PASSTHROUGH"]);
        assert!(old.lacks_the_obligatory());
        assert!(!Offer::of((7, 31), InitFlags::all() & !InitFlags::FUSE_PASSTHROUGH).lacks_the_obligatory());
    }
}
