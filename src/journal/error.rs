//! What can go wrong with the journal, and what it is called towards the kernel.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;
use rustix::io::Errno;

/// What to do with a journal that SQLite cannot read.
const DAMAGED: &str = "; the journal is damaged: unmount, put a backup in its place or move journal.sqlite* away, and mount \
                       again (published files are not touched, what was being written goes to quarantine)";

/// Cloneable, because one failed batch is news for everybody who waits for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder is on a file system that SQLite's shared memory and locks do not work on.
    #[error(
        "state folder {}: is on {file_system}, the journal needs a local disk; choose another with --state-dir",
        dir.display()
    )]
    NotLocal {
        /// The folder.
        dir: PathBuf,
        /// `NFS`, `FUSE`, …
        file_system: &'static str,
    },
    /// A later commitfs has written this journal.
    #[error(
        "state folder {}: its journal has schema {found}, this commitfs knows up to {known}; \
         use the newer commitfs, or another folder with --state-dir",
        dir.display()
    )]
    NewerSchema {
        /// The folder.
        dir: PathBuf,
        /// What the file says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// An earlier commitfs has written this journal and only a writer may bring it up to date.
    #[error(
        "state folder {}: its journal has schema {found}, this commitfs reads {known}; mount once to bring it up to date",
        dir.display()
    )]
    OlderSchema {
        /// The folder.
        dir: PathBuf,
        /// What the file says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// Another daemon writes there.
    #[error(
        "state folder {}: another commitfs is using it; unmount that one first, or choose another with --state-dir",
        dir.display()
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The database is not where it was.
    #[error(
        "state folder {}: its journal was removed or replaced while it was in use; \
         nothing can be recorded until commitfs is unmounted and mounted again",
        dir.display()
    )]
    Removed {
        /// The folder.
        dir: PathBuf,
    },
    /// There is no journal to read.
    #[error("state folder {}: has no journal; it was removed, or nothing was ever mounted with it", dir.display())]
    Absent {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder itself failed.
    #[error("{doing} {}: {message}", path.display())]
    Io {
        /// `creating state folder`, …
        doing: &'static str,
        /// Of what.
        path: PathBuf,
        /// The system's words.
        message: String,
        /// The system's number.
        errno: i32,
    },
    /// SQLite failed; what was to be written stays queued.
    #[error("journal: {doing}: {message}")]
    Sqlite {
        /// `writing`, `reading`, …
        doing: &'static str,
        /// SQLite's words.
        message: String,
        /// ENOSPC for a full disk, EROFS, EACCES, ENOMEM, EIO otherwise.
        errno: i32,
    },
    /// The entry contradicts what the journal knows and was left out.
    #[error("journal: entry {entry} was refused: {message}")]
    Refused {
        /// The entry's event and draft.
        entry: String,
        /// Why.
        message: String,
    },
    /// The journal was closed before the entry was written.
    #[error("journal: closed")]
    Closed,
}

impl JournalError {
    /// The error for a system call that waited for the journal.
    pub fn errno(&self) -> i32 {
        match self {
            JournalError::NotLocal { .. }
            | JournalError::NewerSchema { .. }
            | JournalError::OlderSchema { .. }
            | JournalError::Removed { .. }
            | JournalError::Refused { .. }
            | JournalError::Closed => Errno::IO.raw_os_error(),
            JournalError::InUse { .. } => Errno::BUSY.raw_os_error(),
            JournalError::Absent { .. } => Errno::NOENT.raw_os_error(),
            JournalError::Io { errno, .. } | JournalError::Sqlite { errno, .. } => *errno,
        }
    }

    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>, error: &io::Error) -> Self {
        JournalError::Io {
            doing,
            path: path.into(),
            message: error.to_string(),
            errno: error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
        }
    }

    pub(super) fn sqlite(doing: &'static str, error: &rusqlite::Error) -> Self {
        let errno = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Errno::NOSPC,
            Some(ErrorCode::ReadOnly) => Errno::ROFS,
            Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => Errno::ACCESS,
            Some(ErrorCode::OutOfMemory) => Errno::NOMEM,
            _ => Errno::IO,
        };
        let damaged = matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
        let remedy = if damaged { DAMAGED } else { "" };
        JournalError::Sqlite { doing, message: format!("{error}{remedy}"), errno: errno.raw_os_error() }
    }
}
