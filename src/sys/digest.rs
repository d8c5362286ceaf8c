//! The digest of a file's content.

use std::os::fd::AsFd;

use xxhash_rust::xxh3::Xxh3;

use super::{Result, at};

/// How a digest is written: `xxh3:` and 32 hex digits.
pub fn word(hasher: &Xxh3) -> String {
    format!("xxh3:{:032x}", hasher.digest128())
}

/// Reads a file from its beginning to its end.
pub fn of(file: impl AsFd) -> Result<String> {
    of_held(file, || ())
}

/// As [`of`]: what `hold` returns is kept during each call that reads.
pub fn of_held<T>(file: impl AsFd, hold: impl Fn() -> T) -> Result<String> {
    let mut hasher = Xxh3::new();
    let mut buf = vec![0; 1 << 18];
    let mut offset = 0;
    loop {
        let held = hold();
        let read = at::read_at(file.as_fd(), &mut buf, offset)?;
        drop(held);
        match read {
            0 => return Ok(word(&hasher)),
            n => {
                hasher.update(&buf[..n]);
                offset += n as u64;
            }
        }
    }
}
