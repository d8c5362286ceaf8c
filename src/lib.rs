//! commitfs: a file system that makes `close()` mean closed.
//!
//! Writers write into hidden drafts; a draft becomes a version under its final name by one atomic rename, after the
//! last close and an fsync. `docs/SEMANTICS.md` says what a mount promises, `docs/ARCHITECTURE.md` how the rooms below
//! fit together. Imports point downward only.

pub mod admin;
pub mod cli;
pub mod commit;
pub mod config;
pub mod daemon;
pub mod draft;
pub mod failpoint;
pub mod folders;
pub mod fs;
pub mod fuse;
pub mod inode;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod retention;
pub mod rules;
pub mod sys;
