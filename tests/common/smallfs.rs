//! A small file system in an image, for full disks and for such as shut down; unmounted again by its guard.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{UnmountFlags, unmount};

use super::mount::{show, state_base};
use super::wait::{eventually, poll};

/// A mounted image; declare it before the mount that uses it, so that it goes last.
pub struct SmallFs {
    home: PathBuf,
    root: PathBuf,
}

static IMAGES: AtomicU32 = AtomicU32::new(0);

impl SmallFs {
    /// Makes and mounts one of that many MiB: ext4 without a journal.
    #[track_caller]
    pub fn new(mebibytes: u64) -> SmallFs {
        Self::made_by(&["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal"], mebibytes)
    }

    /// As `mkfs` makes it.
    #[track_caller]
    pub fn made_by(mkfs: &[&str], mebibytes: u64) -> SmallFs {
        let n = IMAGES.fetch_add(1, Ordering::Relaxed);
        let home = state_base().join(format!("m{}-small{n}", std::process::id()));
        let root = home.join("root");
        std::fs::create_dir_all(&root).unwrap();
        let image = home.join("image");
        File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        let made = SmallFs { home, root };
        made.mount();
        made
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.home.join("image")).arg(&self.root));
    }

    /// Stops it as a power cut would: from now on every call fails, and what its log has not on the disk is gone.
    pub fn shut_down(&self) {
        // Of XFS, which others have taken over: without a flush of the log.
        const GOING_DOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
        let no_log_flush = 2_u32;
        let root = File::open(&self.root).unwrap();
        // SAFETY: the call reads one u32, which outlives it.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), GOING_DOWN, &raw const no_log_flush) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// Mounts it anew, as after a power cut.
    #[track_caller]
    pub fn mount_again(&self) {
        eventually("nobody uses it any more", || unmount(&self.root, UnmountFlags::empty()).is_ok());
        self.mount();
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Bytes that can still be written.
    pub fn free(&self) -> u64 {
        let s = rustix::fs::statfs(&self.root).unwrap();
        s.f_bavail * s.f_bsize as u64
    }

    /// Fills it up with one file, to the last block.
    #[track_caller]
    pub fn fill_up(&self) -> PathBuf {
        use std::io::Write;
        let path = self.root.join("ballast");
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        for size in [65536, 4096, 512] {
            while file.write_all(&vec![b'.'; size]).and_then(|()| file.sync_data()).is_ok() {}
        }
        path
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?} (needs root and loop devices): {}", show(&out));
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        let limit = std::time::Duration::from_secs(10);
        if poll(limit, || unmount(&self.root, UnmountFlags::empty()).ok()).is_none() {
            let _ = unmount(&self.root, UnmountFlags::DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
