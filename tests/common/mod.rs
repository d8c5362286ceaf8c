//! What all suites share: a mount that always goes away again, simulated applications, waiting, rows, the checker.
//!
//! Environment: `COMMITFS_TEST_BACKING=DIR` puts the exports there (an NFS mount, say), `COMMITFS_TEST_STATE=DIR` the
//! state, the mount points and the logs (a local disk), `COMMITFS_TEST_KEEP=1` keeps both after a failure, and
//! `COMMITFS_TEST_BARE=1` runs the suite on the bare folder, without commitfs: the tests of what POSIX promises pass
//! there, those of what only commitfs promises must fail. `COMMITFS_TEST_FULL=1` makes numbers of files as large as
//! the promises are (see [`sized`]).

// Each integration test is a crate of its own and uses its own part of this.
#![allow(dead_code, unused_imports, missing_docs)]

pub mod agent;
mod calls;
pub mod checker;
pub mod content;
mod hold;
pub mod http;
mod immutable;
pub mod mount;
pub mod outages;
pub mod rows;
pub mod smallfs;
pub mod wait;
#[path = "../agent/wire.rs"]
pub mod wire;

pub use agent::{Agent, Attributes, Errno, Outcome};
pub use immutable::Immutable;
pub use mount::{Mount, Setup};
pub use rows::Row;
pub use smallfs::SmallFs;
pub use wait::{eventually, poll};
pub use wire::filled;

/// A number of files or rows: small enough for every day, or, with `COMMITFS_TEST_FULL`, that of the promise.
pub fn sized(small: usize, full: usize) -> usize {
    if std::env::var_os("COMMITFS_TEST_FULL").is_some() { full } else { small }
}
