//! Starting the disk early, so that an fsync at the end finds little left to do.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

/// Asks for a file's dirty pages to be written, and waits for none of them. Advice: whether it was taken shows at the
/// next fsync, which reports every error.
pub fn start(fd: impl AsFd) {
    // SAFETY: the call takes a live descriptor and integers and touches no memory of this process.
    let rc = unsafe { libc::sync_file_range(fd.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if rc != 0 {
        tracing::trace!(error = %std::io::Error::last_os_error(), "no early writing");
    }
}
