//! What an entry is called, and of which draft it speaks.

use super::record::{DraftId, Entry};

/// The draft an entry speaks of.
pub(super) fn draft_of(entry: &Entry) -> Option<DraftId> {
    match entry {
        Entry::Begun(begun) => Some(begun.id),
        Entry::Committed(commit) => Some(commit.id),
        Entry::Retargeted { id, .. }
        | Entry::Grown { id, .. }
        | Entry::Sealed { id, .. }
        | Entry::Unsealed { id }
        | Entry::Postponed { id, .. }
        | Entry::Digested { id, .. }
        | Entry::Mismatch { id, .. }
        | Entry::Quarantined { id, .. }
        | Entry::Adopted { id, .. }
        | Entry::Discarded { id, .. } => Some(*id),
        Entry::Together(entries) => entries.iter().find_map(draft_of),
        Entry::GoAlong(_)
        | Entry::Stay { .. }
        | Entry::SetAside(_)
        | Entry::Unlinked { .. }
        | Entry::Reaped { .. }
        | Entry::ReapFailed(_)
        | Entry::ReapBegun { .. }
        | Entry::Retry { .. }
        | Entry::Purged { .. }
        | Entry::Dropped { .. }
        | Entry::Restored { .. }
        | Entry::Delta(_)
        | Entry::Counted(_)
        | Entry::Found { .. }
        | Entry::Recount { .. }
        | Entry::Fold { .. }
        | Entry::ContentLost { .. }
        | Entry::Measured { .. }
        | Entry::Prune { .. }
        | Entry::Meta { .. } => None,
    }
}

/// The entry in words, for the log.
pub(super) fn name(entry: &Entry) -> String {
    let of = |word: &str, id: i64| format!("{word} of outbox row {id}");
    let word = match entry {
        Entry::Together(entries) => {
            let mut words: Vec<String> = entries.iter().take(3).map(name).collect();
            if entries.len() > words.len() {
                words.push(format!("{} more", entries.len() - words.len()));
            }
            return words.join(", ");
        }
        Entry::GoAlong(drafts) => return format!("rename of the folder of {} drafts", drafts.len()),
        Entry::Stay { ids } => return format!("rename that was not made, of {} drafts", ids.len()),
        Entry::SetAside(new) => return of("beginning", new.id),
        Entry::ReapFailed(attempt) => return of("failed attempt", attempt.id),
        Entry::ReapBegun { id, .. } => return of("progress", *id),
        Entry::Dropped { id } => return of("drop", *id),
        Entry::Restored { id, .. } => return of("restore", *id),
        Entry::ContentLost { ids } => return format!("lost content of {} drafts", ids.len()),
        Entry::Measured { sizes } => return format!("sizes of {} drafts", sizes.len()),
        Entry::Unlinked { .. } => return "unlink".to_owned(),
        Entry::Reaped { ids } => return format!("end of {} outbox rows", ids.len()),
        Entry::Retry { ids } => return format!("retry of {} outbox rows", ids.len()),
        Entry::Purged { .. } => return "purge of the outbox".to_owned(),
        Entry::Delta(_) => return "delta of folder totals".to_owned(),
        Entry::Counted(_) | Entry::Found { .. } => return "count of a folder".to_owned(),
        Entry::Recount { .. } => return "recount of a folder".to_owned(),
        Entry::Fold { .. } => return "folding of totals".to_owned(),
        Entry::Prune { .. } => return "pruning of history".to_owned(),
        Entry::Begun(_) => "begun",
        Entry::Retargeted { .. } => "retargeted",
        Entry::Grown { .. } => "grown",
        Entry::Sealed { .. } => "sealed",
        Entry::Unsealed { .. } => "reopened",
        Entry::Postponed { .. } => "postponed",
        Entry::Committed(_) => "committed",
        Entry::Digested { .. } => "digested",
        Entry::Mismatch { .. } => "mismatch",
        Entry::Quarantined { .. } => "quarantined",
        Entry::Adopted { .. } => "adopted",
        Entry::Discarded { .. } => "discarded",
        Entry::Meta { key, .. } => return format!("meta {key}"),
    };
    format!("{word} of draft {}", draft_of(entry).unwrap_or(0))
}
