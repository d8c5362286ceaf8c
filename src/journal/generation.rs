//! Whether the journal is the one that was used last.
//!
//! A copy that is put back says that its folder totals are complete: they were, and it does not know what came after it. So
//! each use has a number, in the journal and in a file beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::{JournalError, private};

/// Name of the file in the state folder.
const FILE: &str = "generation";
/// Key in `meta`.
pub(super) const KEY: &str = "generation";

/// True if nothing has used another journal in this folder since. Before the first use neither has a number.
pub(super) fn is_latest(state_dir: &Path, meta: &BTreeMap<String, String>) -> bool {
    beside(state_dir) == within(meta)
}

/// Begins a use: returns its number, which is in the file now and belongs into `meta`.
pub(super) fn begin(state_dir: &Path, meta: &BTreeMap<String, String>) -> Result<u64, JournalError> {
    let number = beside(state_dir).max(within(meta)).unwrap_or(0) + 1;
    let path = state_dir.join(FILE);
    let mut file = private(&path)?;
    // One that is cut short by a crash is no number of any journal.
    let written =
        file.set_len(0).and_then(|()| file.write_all(number.to_string().as_bytes())).and_then(|()| file.sync_all());
    written.map_err(|error| JournalError::io("writing", &path, &error))?;
    Ok(number)
}

fn beside(state_dir: &Path) -> Option<u64> {
    fs::read_to_string(state_dir.join(FILE)).ok()?.parse().ok()
}

fn within(meta: &BTreeMap<String, String>) -> Option<u64> {
    meta.get(KEY)?.parse().ok()
}
