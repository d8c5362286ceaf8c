//! Databases that no name tells of.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use crate::sys::{at, direct};

/// What the first page of every SQLite database begins with, that of an empty one excepted, which has no page.
const HEADER: &[u8; 16] = b"SQLite format 3\0";

/// The smallest page.
const PAGE: u64 = 512;

/// True if a file of this size can be a database: others need not be read.
pub fn has_pages(size: u64) -> bool {
    size > 0 && size.is_multiple_of(PAGE)
}

/// True if a file that can be read begins as a database does.
pub fn is_database(file: impl AsFd) -> bool {
    let mut begin = [0; HEADER.len()];
    // One that cannot be read now will say so to whoever reads it.
    at::read_at(file, &mut begin, 0) == Ok(begin.len()) && begin == *HEADER
}

/// True if the file under this path below `root` can be read and begins as a database does.
pub fn is_database_at(root: impl AsFd, path: &[u8]) -> bool {
    let opened = direct::open(root, Path::new(OsStr::from_bytes(path)));
    // Through the cache, which takes what is read direct in whole blocks only.
    opened.and_then(|file| at::reopen(file, OFlags::RDONLY)).is_ok_and(is_database)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_database_is_known_by_its_first_bytes() {
        for (content, expected) in
            [(&b"SQLite format 3\0 and more"[..], true), (b"SQLite format 3", false), (b"SQLite format 4\0", false)]
        {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            assert_eq!(is_database(&file), expected, "{}", content.escape_ascii());
        }
        assert!(has_pages(512) && has_pages(3 * 4096) && !has_pages(0) && !has_pages(4095));
    }
}
