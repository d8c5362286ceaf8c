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

#[track_caller]
fn chattr(flag: &str, path: &Path) {
    let out = Command::new("chattr").arg(flag).arg(path).output().unwrap();
    assert!(out.status.success(), "chattr {flag} {}: {}", path.display(), show(&out));
}
