//! Whether a state folder belongs to the export: recovery would take what is not there for published or removed.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::ServeError;
use crate::commit::Staging;
use crate::journal::Journal;

/// An export without the folder in which this state's drafts and removed files lie.
#[derive(Debug, thiserror::Error)]
#[error(
    "source {}: it is not the export that this state folder knows: there is no .commitfs/stage/{instance}, in which {drafts} \
     drafts and {removed} removed or replaced files should be. Is its file system mounted? Another export wants another \
     --state-dir. If they are lost for good, give them up: mkdir -p {}/.commitfs/stage/{instance}",
    path.display(), path.display()
)]
pub struct Stranger {
    path: PathBuf,
    instance: String,
    drafts: u64,
    removed: u64,
}

/// Refuses an export that lacks what the journal has rows of.
pub(super) fn check(path: &Path, root: impl AsFd, instance: &str, journal: &Journal) -> Result<(), ServeError> {
    match Staging::knows(root, instance) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(errno) => {
            return Err(ServeError::Export { path: path.to_owned(), step: "staging folder .commitfs", errno });
        }
    }
    let counts = journal.read(|reader| reader.counts_now())?;
    let (drafts, removed) = (counts.pending + counts.quarantined, counts.outbox.pending + counts.outbox.dead);
    if drafts + removed == 0 {
        return Ok(());
    }
    Err(Stranger { path: path.to_owned(), instance: instance.to_owned(), drafts, removed }.into())
}
