//! The one wall between the program and the kernel: every system call that touches the export, another process or the
//! thread's credentials is made here, with the flags that keep it safe (`O_CLOEXEC`, `O_NOFOLLOW`, single names relative
//! to a directory descriptor). The only `unsafe` of the crate lives below this module.

pub mod acl;
pub mod at;
pub mod clock;
pub mod companion;
pub mod copy;
pub mod cred;
pub mod digest;
pub mod direct;
mod errno;
pub mod handle;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod process;
pub mod procfs;
pub mod project;
pub mod stat;
pub mod writeback;
pub mod xattr;

pub use errno::errno_name;
pub use rustix::io::Errno;
pub use stat::{Kind, Stat};

/// Result of a call to the kernel; the raw errno is what the caller of the file system gets to see.
pub type Result<T> = std::result::Result<T, Errno>;

/// The errno of a standard-library error, `EIO` where it carries none.
pub fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The errno of the call before, where that was made by `libc`.
fn last_error() -> Errno {
    errno_of(&std::io::Error::last_os_error())
}
