//! The digest of a file's content.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use xxhash_rust::xxh3::Xxh3;

use super::{Errno, Result, at, stat};

/// How a digest is written: `xxh3:` and 32 hex digits.
pub fn word(hasher: &Xxh3) -> String {
    format!("xxh3:{:032x}", hasher.digest128())
}

/// Reads a file from its beginning to its end.
pub fn of(file: impl AsFd) -> Result<String> {
    of_held(file, || ())
}

/// As [`of`]: what `hold` returns is kept during each call that asks for content. Holes are not read.
pub fn of_held<T>(file: impl AsFd, hold: impl Fn() -> T) -> Result<String> {
    let file = file.as_fd();
    at::leave_atime(file);
    let mut hasher = Xxh3::new();
    let mut buf = vec![0; 1 << 18];
    let mut offset = 0;
    // In a small file it is not worth the question.
    let mut data_end = if stat::fstat(file)?.size > SMALL { 0 } else { u64::MAX };
    loop {
        let held = hold();
        if offset == data_end {
            let data = next_data(file, offset)?;
            feed_zeros(&mut hasher, data.start - offset);
            (offset, data_end) = (data.start, data.end);
        }
        let room = usize::try_from(data_end - offset).unwrap_or(usize::MAX).min(buf.len());
        let read = at::read_at(file, &mut buf[..room], offset)?;
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

/// Bytes up to which a file is read without looking for holes.
const SMALL: u64 = 1 << 20;

/// Where the next bytes are that have to be read, from `offset` on, and at least one, whatever the file system says. Without
/// any they begin at the file's end.
fn next_data(file: BorrowedFd<'_>, offset: u64) -> Result<Range<u64>> {
    match at::seek_hole_data(file, offset, false) {
        Ok(start) => {
            let start = start.max(offset);
            Ok(start..at::seek_hole_data(file, start, true)?.max(start + 1))
        }
        Err(Errno::NXIO) => Ok(stat::fstat(file)?.size.max(offset)..u64::MAX),
        // Not every file system tells.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY) => Ok(offset..u64::MAX),
        Err(other) => Err(other),
    }
}

fn feed_zeros(hasher: &mut Xxh3, mut count: u64) {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while count > 0 {
        let some = count.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..some as usize]);
        count -= some;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_count_as_zeros() {
        for (len, pieces) in [
            (0, &[][..]),
            (5 << 20, &[]),
            (5 << 20, &[0]),
            (5 << 20, &[(5 << 20) - 3]),
            ((5 << 20) + 17, &[70_000, 3 << 20]),
            (2 << 20, &[0, 4096, 1 << 20]),
            (9000, &[8000]),
        ] {
            let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            at::truncate(&file, len).unwrap();
            for &offset in pieces {
                at::write_at(&file, b"abc", offset).unwrap();
            }
            let mut hasher = Xxh3::new();
            let mut whole = vec![0; usize::try_from(len).unwrap()];
            let mut read = 0;
            while read < whole.len() {
                read += at::read_at(&file, &mut whole[read..], read as u64).unwrap();
            }
            hasher.update(&whole);
            assert_eq!(of(&file).unwrap(), word(&hasher), "{len} bytes, written at {pieces:?}");
        }
    }
}
