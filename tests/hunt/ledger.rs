//! Counters that all processes of a hunt share: what was promised, and what was seen.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// At most.
pub const WRITERS: usize = 64;
/// Names that each writer rewrites in its several ways.
pub const NAMES: usize = 7;

/// One writer's promises.
#[repr(C)]
pub struct Promises {
    /// By name: the newest generation whose close returned 0.
    pub closed: [AtomicU64; NAMES],
    /// New names `n-0`, `n-1`…: this many exist for certain…
    pub created: AtomicU64,
    /// …from this one on; those below may have been unlinked.
    pub unlinking: AtomicU64,
}

/// All counters.
#[repr(C)]
pub struct Ledger {
    pub promises: [Promises; WRITERS],
    pub versions: AtomicU64,
    pub reads: AtomicU64,
    pub listings: AtomicU64,
    pub plain: AtomicU64,
    pub torn: AtomicU64,
    pub stale: AtomicU64,
    pub lost: AtomicU64,
}

/// The sums at the end.
pub struct Totals {
    pub versions: u64,
    pub reads: u64,
    pub listings: u64,
    pub plain: u64,
    pub torn: u64,
    pub stale: u64,
    pub lost: u64,
}

impl Ledger {
    /// A new one, all zero.
    pub fn create(path: &Path) -> std::io::Result<&'static Ledger> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        file.set_len(size_of::<Ledger>() as u64)?;
        Self::map(&file)
    }

    /// The one that the first process made.
    pub fn open(path: &Path) -> std::io::Result<&'static Ledger> {
        Self::map(&File::options().read(true).write(true).open(path)?)
    }

    fn map(file: &File) -> std::io::Result<&'static Ledger> {
        let (prot, len) = (libc::PROT_READ | libc::PROT_WRITE, size_of::<Ledger>());
        // SAFETY: a fresh shared mapping that is never unmapped, as long as the file; atomics are valid for any bytes.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), 0);
            if start == libc::MAP_FAILED {
                return Err(std::io::Error::last_os_error());
            }
            Ok(&*start.cast::<Ledger>())
        }
    }

    /// What has been counted.
    pub fn totals(&self) -> Totals {
        let n = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Totals {
            versions: n(&self.versions),
            reads: n(&self.reads),
            listings: n(&self.listings),
            plain: n(&self.plain),
            torn: n(&self.torn),
            stale: n(&self.stale),
            lost: n(&self.lost),
        }
    }
}

/// A read-only mapping of a file's first `len` bytes, copied out.
pub fn mapped(file: &File, len: usize) -> std::io::Result<Vec<u8>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: a fresh mapping that is unmapped before the function returns; the bytes are copied as they are. If the file
    // shrinks meanwhile the process gets SIGBUS, which is what a hunter is for.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let copy = std::slice::from_raw_parts(start.cast::<u8>(), len).to_vec();
        libc::munmap(start, len);
        Ok(copy)
    }
}
