//! Reaching the daemon of a state folder.

use std::io;
use std::path::Path;

use super::CliError;
use crate::admin::control::Client;

/// A connection to the daemon; `None` if there is none.
pub(super) fn connect(state_dir: &Path) -> Result<Option<Client>, CliError> {
    match Client::connect(state_dir) {
        Ok(client) => Ok(Some(client)),
        Err(error) if is_nobody(&error) => Ok(None),
        Err(error) => Err(CliError::Failure(format!("control socket in {}: {error}", state_dir.display()))),
    }
}

/// The daemon, for a verb that only it can do.
pub(super) fn daemon(state_dir: &Path, verb: &str) -> Result<Client, CliError> {
    connect(state_dir)?.ok_or_else(|| {
        let dir = state_dir.display();
        CliError::Failure(format!("{verb} needs the mount, and no daemon runs for state folder {dir}; mount first"))
    })
}

/// Whether an error of connecting says that there is no daemon.
pub(super) fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
