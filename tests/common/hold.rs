//! A thread of the daemon that is held at a step of the protocol, while the others go on.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

use super::mount::Mount;
use super::wait::{LIMIT, poll};

impl Mount {
    /// For the next start of the daemon: whoever comes to the point for the `pass`-th time is held there.
    pub fn hold_at(&mut self, point: &str, pass: u64) {
        let fifo = self.home().join("hold");
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        self.set_env("COMMITFS_HOLD", fifo.to_str().unwrap());
        self.set_env("COMMITFS_FAILPOINT", &format!("{point}:{pass}:hold"));
    }

    /// Waits until somebody is held; it goes on when the value is dropped.
    #[track_caller]
    pub fn held(&self) -> File {
        let held = poll(LIMIT, || self.held_now());
        held.unwrap_or_else(|| panic!("nobody came to the point:\n{}", self.log()))
    }

    /// As [`Mount::held`], if somebody is held by now.
    pub fn held_now(&self) -> Option<File> {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
        // Nobody reads it yet: ENXIO.
        options.open(self.home().join("hold")).ok()
    }
}
