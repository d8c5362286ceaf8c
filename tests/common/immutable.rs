//! A file that nobody can remove, not even root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::mount::show;

/// Takes the flag off again, whatever happens.
pub struct Immutable(PathBuf);

impl Immutable {
    #[track_caller]
    pub fn new(path: PathBuf) -> Immutable {
        chattr("+i", &path);
        Immutable(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        if self.0.symlink_metadata().is_ok() {
            chattr("-i", &self.0);
        }
    }
}

/// On the server's own file system, where the export is an NFS mount.
#[track_caller]
fn chattr(flag: &str, path: &Path) {
    let at_server = std::env::var_os("COMMITFS_TEST_SERVER").map(|server| {
        let real = path.parent().unwrap().canonicalize().unwrap().join(path.file_name().unwrap());
        Path::new(&server).join(real.strip_prefix(super::mount::backing_base()).unwrap())
    });
    let path = at_server.as_deref().unwrap_or(path);
    let out = Command::new("chattr").arg(flag).arg(path).output().unwrap();
    assert!(out.status.success(), "chattr {flag} {}: {}", path.display(), show(&out));
}
