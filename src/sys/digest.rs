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
    let mut seen = |_: usize| true;
    Ok(while_wanted(file, &mut seen)?.map_or_else(String::new, |(digest, _)| digest))
}

/// The same with the bytes read; `seen` is told of each piece and ends the reading by `false`: then there is no digest.
pub fn while_wanted(file: impl AsFd, seen: &mut dyn FnMut(usize) -> bool) -> Result<Option<(String, u64)>> {
    let mut hasher = Xxh3::new();
    let mut buf = vec![0; 1 << 18];
    let mut offset = 0;
    loop {
        match at::read_at(file.as_fd(), &mut buf, offset)? {
            0 => return Ok(Some((word(&hasher), offset))),
            n => {
                hasher.update(&buf[..n]);
                offset += n as u64;
                if !seen(n) {
                    return Ok(None);
                }
            }
        }
    }
}
