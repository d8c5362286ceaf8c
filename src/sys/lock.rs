//! Advisory locks that belong to an open file description: taken, tested and given back without waiting.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::FlockOperation;

use super::{Errno, Result};

/// What a lock lets others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Others may share it.
    Shared,
    /// Nobody else may have one.
    Exclusive,
}

/// Bytes from the first to the last one, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

impl Span {
    /// The whole file, whatever its size.
    pub const WHOLE: Span = Span { start: 0, end: i64::MAX as u64 };

    /// True if the two have a byte in common.
    pub fn overlaps(self, other: Span) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn to_flock(self, kind: i32) -> libc::flock {
        // SAFETY: `flock` is a plain structure of integers, for which zero is a value.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = self.start.cast_signed();
        // Zero reaches to the end, wherever that is.
        lock.l_len = if self.end >= Span::WHOLE.end { 0 } else { (self.end - self.start + 1).cast_signed() };
        lock
    }
}

/// Sets or (`None`) removes a record lock of the description. `EAGAIN` if somebody else's is in the way.
pub fn set_record(file: impl AsFd, span: Span, mode: Option<Mode>) -> Result<()> {
    let lock = span.to_flock(match mode {
        Some(Mode::Shared) => libc::F_RDLCK,
        Some(Mode::Exclusive) => libc::F_WRLCK,
        None => libc::F_UNLCK,
    });
    // SAFETY: the structure lives across the call and the descriptor is open.
    let rc = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match rc {
        0 => Ok(()),
        _ => Err(match super::last_error() {
            Errno::ACCESS => Errno::AGAIN,
            other => other,
        }),
    }
}

/// The record lock that would be in the way of one of this mode; `None` if there is none.
pub fn test_record(file: impl AsFd, span: Span, mode: Mode) -> Result<Option<(Span, Mode)>> {
    let kind = if mode == Mode::Exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    let mut lock = span.to_flock(kind);
    // SAFETY: as above; the kernel writes into the structure.
    let rc = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if rc != 0 {
        return Err(super::last_error());
    }
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let start = lock.l_start.cast_unsigned();
    let end = if lock.l_len == 0 { Span::WHOLE.end } else { start + lock.l_len.cast_unsigned() - 1 };
    let mode = if i32::from(lock.l_type) == libc::F_WRLCK { Mode::Exclusive } else { Mode::Shared };
    Ok(Some((Span { start, end }, mode)))
}

/// Sets or (`None`) removes the description's lock of the whole file. `EAGAIN` if somebody else's is in the way.
pub fn set_whole(file: impl AsFd, mode: Option<Mode>) -> Result<()> {
    let operation = match mode {
        Some(Mode::Shared) => FlockOperation::NonBlockingLockShared,
        Some(Mode::Exclusive) => FlockOperation::NonBlockingLockExclusive,
        None => FlockOperation::NonBlockingUnlock,
    };
    rustix::fs::flock(file, operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptions_of_one_file_exclude_each_other() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (a, b) = (file.reopen().unwrap(), file.reopen().unwrap());
        let span = Span { start: 5, end: 9 };
        set_record(&a, span, Some(Mode::Exclusive)).unwrap();
        assert_eq!(set_record(&b, Span::WHOLE, Some(Mode::Shared)).unwrap_err(), Errno::AGAIN);
        assert_eq!(test_record(&b, Span::WHOLE, Mode::Shared).unwrap(), Some((span, Mode::Exclusive)));
        set_whole(&b, Some(Mode::Exclusive)).unwrap();
        assert_eq!(set_whole(&a, Some(Mode::Shared)).unwrap_err(), Errno::AGAIN);
        set_record(&a, Span::WHOLE, None).unwrap();
        set_record(&b, Span::WHOLE, Some(Mode::Exclusive)).unwrap();
        assert_eq!(test_record(&b, Span::WHOLE, Mode::Exclusive).unwrap(), None);
    }
}
