//! Copying content between two files of the export, by the cheapest way that the file system has.

use std::os::fd::AsFd;

use super::{Errno, Result, at, stat};

/// Makes `to` (empty) hold the first `size` bytes of `from`: a clone if the file system shares extents, a copy inside
/// the file system or on the server next, through memory last. Holes stay holes. `ESTALE` if `from` does not have so many,
/// because somebody has cut it short: what is missing must not become zeros.
pub fn copy_content(from: impl AsFd, to: impl AsFd, size: u64) -> Result<()> {
    if size == 0 {
        return Ok(());
    }
    match rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd()) {
        Ok(()) => {
            expect_size(to.as_fd(), size)?;
            return at::truncate(to, size);
        }
        Err(errno) if is_not_to_be_had(errno) => {}
        Err(other) => return Err(other),
    }
    at::truncate(to.as_fd(), size)?;
    let mut offset = 0;
    while offset < size {
        let start = match at::seek_hole_data(from.as_fd(), offset, false) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(other) => return Err(other),
        };
        let end = match at::seek_hole_data(from.as_fd(), start, true) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(Errno::NXIO) => break,
            Err(other) => return Err(other),
        };
        if start >= size {
            break;
        }
        if copy_range(from.as_fd(), start, to.as_fd(), start, end - start)? < end - start {
            return Err(Errno::STALE);
        }
        offset = end.max(start + 1);
    }
    // What looked like a hole may have been the end.
    expect_size(from, size)
}

fn expect_size(file: impl AsFd, least: u64) -> Result<()> {
    if stat::fstat(file)?.size < least { Err(Errno::STALE) } else { Ok(()) }
}

/// Copies `len` bytes, fewer only at the source's end; returns the bytes copied.
pub fn copy_range(from: impl AsFd, mut src: u64, to: impl AsFd, mut dst: u64, len: u64) -> Result<u64> {
    let mut left = len;
    while left > 0 {
        let chunk = usize::try_from(left.min(1 << 30)).unwrap_or(1 << 30);
        match rustix::fs::copy_file_range(from.as_fd(), Some(&mut src), to.as_fd(), Some(&mut dst), chunk) {
            Ok(0) => break,
            Ok(n) => left -= n as u64,
            Err(Errno::INTR) => {}
            Err(errno) if is_not_to_be_had(errno) => {
                return copy_through_memory(from, src, to, dst, left).map(|n| len - left + n);
            }
            Err(other) => return Err(other),
        }
    }
    Ok(len - left)
}

/// True if another way may do what this one does not. NFS sends a clone and a copy in the name of who asks for them, reads and
/// writes in the name of who has opened the file: a server that squashes root may refuse the former alone.
fn is_not_to_be_had(errno: Errno) -> bool {
    use Errno as E;
    matches!(errno, E::OPNOTSUPP | E::XDEV | E::INVAL | E::NOTTY | E::NOSYS | E::PERM | E::ACCESS)
}

fn copy_through_memory(from: impl AsFd, src: u64, to: impl AsFd, dst: u64, len: u64) -> Result<u64> {
    let mut buf = vec![0; usize::try_from(len.min(1 << 20)).unwrap_or(1 << 20)];
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).unwrap_or(usize::MAX).min(buf.len());
        match at::read_at(from.as_fd(), &mut buf[..want], src + done)? {
            0 => break,
            n => {
                at::write_at(to.as_fd(), &buf[..n], dst + done)?;
                done += n as u64;
            }
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_shorter_than_it_was_said_to_be_is_an_error() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        at::write_at(&from, b"content", 0).unwrap();
        assert_eq!(copy_content(&from, &to, 8), Err(Errno::STALE));
        at::truncate(&to, 0).unwrap();
        assert_eq!(copy_content(&from, &to, 7), Ok(()));
        // A hole at the end, and no end in it.
        at::truncate(&from, 1 << 20).unwrap();
        at::truncate(&to, 0).unwrap();
        assert_eq!(copy_content(&from, &to, (1 << 20) + 1), Err(Errno::STALE));
        at::truncate(&to, 0).unwrap();
        assert_eq!(copy_content(&from, &to, 1 << 20), Ok(()));
    }
}
