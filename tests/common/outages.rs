//! What suites share that take the mount away below a hunt: the moments, and the file that tells the hunt of them.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::Mount;

/// A number from the environment.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Choices that `COMMITFS_TEST_SEED` repeats.
pub struct Dice(u64);

impl Dice {
    pub fn from_env() -> Dice {
        Dice(from_env("COMMITFS_TEST_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `n`.
    pub fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// How often the mount went away or came back: odd while it is away.
pub struct Outages {
    file: PathBuf,
    number: Cell<u64>,
}

impl Outages {
    /// None so far.
    pub fn of(m: &Mount) -> Outages {
        let outages = Outages { file: m.home().join("outages"), number: Cell::new(0) };
        outages.tell();
        outages
    }

    /// For the hunt's `--outages`.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The mount is about to go away, or is back.
    pub fn next(&self) {
        self.number.set(self.number.get() + 1);
        self.tell();
    }

    fn tell(&self) {
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, self.number.get().to_string()).unwrap();
        std::fs::rename(fresh, &self.file).unwrap();
    }
}
