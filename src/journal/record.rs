//! What the journal keeps: drafts, their states, and the changes that the rest of the program reports.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::folders::{Change, Counted, Delta};
use super::held::Held;
use super::outbox::{Attempt, OutboxId, SetAside};

/// Identity of one pending write for its whole life: draft 17 becomes commit 17 or quarantine 17.
pub type DraftId = i64;

/// The persisted state of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DraftState {
    /// Accepts writes; after a crash it goes to quarantine unless it was already renamed.
    Open,
    /// Data is durable and a close was promised; after a crash it is rolled forward.
    Sealed,
    /// Published under its name.
    Committed,
    /// Kept in staging, never published; waits for an admin.
    Quarantined,
    /// Content is gone: dropped by its writer or by an admin.
    Discarded,
}

impl DraftState {
    /// The word stored in the journal and shown to people.
    pub fn as_str(self) -> &'static str {
        match self {
            DraftState::Open => "open",
            DraftState::Sealed => "sealed",
            DraftState::Committed => "committed",
            DraftState::Quarantined => "quarantined",
            DraftState::Discarded => "discarded",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "open" => DraftState::Open,
            "sealed" => DraftState::Sealed,
            "committed" => DraftState::Committed,
            "quarantined" => DraftState::Quarantined,
            "discarded" => DraftState::Discarded,
            _ => return None,
        })
    }

    /// The only transitions there are; the schema's trigger says the same.
    pub fn can_become(self, next: DraftState) -> bool {
        use DraftState::{Committed, Discarded, Open, Quarantined, Sealed};
        match self {
            Open => matches!(next, Sealed | Committed | Quarantined | Discarded),
            Sealed => matches!(next, Open | Committed | Quarantined | Discarded),
            Quarantined => matches!(next, Committed | Discarded),
            Committed | Discarded => false,
        }
    }
}

/// How a version came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitKind {
    /// The name did not exist.
    New,
    /// The old version was replaced or patched.
    Overwrite,
    /// Bytes were only added behind the old version's end.
    Append,
    /// Only the length changed.
    Truncate,
}

impl CommitKind {
    /// The word stored in the journal and shown to people.
    pub fn as_str(self) -> &'static str {
        match self {
            CommitKind::New => "new",
            CommitKind::Overwrite => "overwrite",
            CommitKind::Append => "append",
            CommitKind::Truncate => "truncate",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "new" => CommitKind::New,
            "overwrite" => CommitKind::Overwrite,
            "append" => CommitKind::Append,
            "truncate" => CommitKind::Truncate,
            _ => return None,
        })
    }
}

/// The process that began a draft.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id of the request.
    pub uid: u32,
    /// Group id of the request.
    pub gid: u32,
    /// Process (thread group) id in the daemon's pid namespace; 0 when it has none there.
    pub pid: u32,
    /// The process's name, as in `/proc/PID/comm`; empty when unknown.
    pub command: String,
}

/// A new draft.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Begun {
    /// Its id, from [`super::Journal::next_draft_id`].
    pub id: DraftId,
    /// Target, relative to the export's root, raw bytes, no leading slash.
    pub path: Vec<u8>,
    /// Name of the staged file in this instance's staging folder.
    pub stage: String,
    /// Inode number of the staged file: what recovery recognises a finished rename by.
    pub ino: u64,
    /// How the version will have come to be, as known at the beginning.
    pub kind: CommitKind,
    /// Who writes.
    pub owner: Owner,
}

/// A published version.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The draft it came from.
    pub id: DraftId,
    /// Where it was published, relative to the export's root.
    pub path: Vec<u8>,
    /// Inode number of the version.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// `xxh3:` and 32 hex digits (128 bit); `None` while it has not been taken yet.
    pub digest: Option<String>,
    /// Modification time of the version.
    pub mtime: SystemTime,
    /// Owner of the version.
    pub uid: u32,
    /// From the beginning of the seal to the durable rename.
    pub duration: Duration,
    /// How it came to be.
    pub kind: CommitKind,
    /// What it changed in its folder; `None` where that is not known, or no totals are kept.
    pub change: Option<Change>,
}

/// A draft that goes along with a folder.
#[derive(Clone, Debug)]
pub struct Along {
    /// Which draft.
    pub id: DraftId,
    /// The new target.
    pub path: Vec<u8>,
    /// The old one.
    pub from: Vec<u8>,
    /// The inode number of the folder it is in, under either.
    pub folder: u64,
}

/// One change, reported to the journal. Every change of state also becomes an event in the same transaction.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A draft began: state `open`. Event `begun`.
    Begun(Begun),
    /// The draft's target moved, by its own rename or by that of a folder above. Event `retargeted`.
    Retargeted {
        /// Which draft.
        id: DraftId,
        /// The new target.
        path: Vec<u8>,
        /// What the new name holds; `None` if it came along with its folder.
        below: Option<Held>,
        /// The inode number of another folder that this is in.
        folder: Option<u64>,
        /// The old one, where this is written before the rename on the export that moves what the name holds.
        from: Option<Vec<u8>>,
    },
    /// A folder is about to be renamed, or two to change places: where the drafts below will be. Event `retargeted` for each;
    /// what has ended is left out.
    GoAlong(Vec<Along>),
    /// The rename that their rows tell of was not made. Event `retargeted` for each.
    Stay {
        /// Which drafts.
        ids: Vec<DraftId>,
    },
    /// The draft's size, for `pending`. No event.
    Grown {
        /// Which draft.
        id: DraftId,
        /// Bytes now.
        bytes: u64,
    },
    /// `open` → `sealed`. Event `sealed`.
    Sealed {
        /// Which draft.
        id: DraftId,
        /// Bytes.
        bytes: u64,
        /// Its target.
        path: Vec<u8>,
        /// The inode number of the folder that this is in.
        folder: u64,
        /// What its name held, looked at before this is written.
        below: Held,
    },
    /// `sealed` → `open`: a writer was left after all. Event `reopened`.
    Unsealed {
        /// Which draft.
        id: DraftId,
    },
    /// Stays `sealed`: its close had returned, and the export failed before it was published. Event `postponed`.
    Postponed {
        /// Which draft.
        id: DraftId,
        /// What failed.
        reason: String,
    },
    /// `open`, `sealed` or `quarantined` → `committed`. Event `committed`.
    Committed(Commit),
    /// The digest of a commit, taken later. No event.
    Digested {
        /// Which commit.
        id: DraftId,
        /// `xxh3:` and 32 hex digits.
        digest: String,
    },
    /// → `quarantined`. Event `quarantined`.
    Quarantined {
        /// Which draft.
        id: DraftId,
        /// Why, in words for an admin: `killed by signal 9`, `fsync failed: EIO`.
        reason: String,
        /// Bytes kept; 0 when the space was given back.
        bytes: u64,
        /// False when the content was given back (full disk) and only the record stays.
        kept: bool,
    },
    /// A staged file without a row was found at recovery: a `quarantined` row is made for it. Event `quarantined`.
    Adopted {
        /// A fresh id.
        id: DraftId,
        /// Name of the staged file.
        stage: String,
        /// Its inode number.
        ino: u64,
        /// Its owner.
        uid: u32,
        /// Bytes.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// → `discarded`. Event `discarded`.
    Discarded {
        /// Which draft.
        id: DraftId,
        /// Why: `unlinked by its writer`, `discarded by admin`.
        reason: String,
    },
    /// A published version was read again and is not what was published. Event `mismatch`.
    Mismatch {
        /// Which commit.
        id: DraftId,
        /// What was found, in words for an admin.
        detail: String,
    },
    /// Drafts in quarantine whose content is not there any more: only the record stays. No event.
    ContentLost {
        /// Which drafts.
        ids: Vec<DraftId>,
    },
    /// The sizes that content in quarantine has, where they are not what its rows say. No event.
    Measured {
        /// Which drafts, and how many bytes each has.
        sizes: Vec<(DraftId, u64)>,
    },
    /// Several entries in one transaction, all or none.
    Together(Vec<Entry>),
    /// An inode was taken out of the name space. Event `unlinked` or `removed`; a replacement's is `committed`.
    SetAside(SetAside),
    /// A name was unlinked whose inode is not kept. Event `unlinked`.
    Unlinked {
        /// Which.
        path: Vec<u8>,
        /// What that changed in its folder, if totals are kept.
        change: Option<Change>,
    },
    /// These inodes are gone: their rows go too. No event.
    Reaped {
        /// Which rows.
        ids: Vec<OutboxId>,
    },
    /// An attempt to remove an inode failed. Event `dead` if it was the last.
    ReapFailed(Attempt),
    /// The removal of a tree has begun, or gone on: so many files of it more are gone. No event.
    ReapBegun {
        /// Which row.
        id: OutboxId,
        /// Files removed since the last report.
        files: u64,
    },
    /// Rows get all their attempts again. No event.
    Retry {
        /// Which rows.
        ids: Vec<OutboxId>,
    },
    /// Rows do not wait for the end of their retention. No event.
    Purged {
        /// Which rows; all without.
        ids: Option<Vec<OutboxId>>,
    },
    /// `dead` → `dropped`. No event.
    Dropped {
        /// Which row.
        id: OutboxId,
    },
    /// An inode is back in the name space. Event `restored`.
    Restored {
        /// Which row.
        id: OutboxId,
        /// Where it is now.
        path: Vec<u8>,
    },
    /// What a folder holds has changed. No event.
    Delta(Delta),
    /// A folder's own files were counted. No event.
    Counted(Counted),
    /// Folders were found that the journal may not know. No event.
    Found {
        /// Where.
        folder: Vec<u8>,
        /// Their names.
        names: Vec<Vec<u8>>,
    },
    /// A folder and all below is to be counted again. No event.
    Recount {
        /// Which.
        folder: Vec<u8>,
    },
    /// At most so many deltas are to be folded, and rows of folders that are gone deleted. No event.
    Fold {
        /// How many.
        limit: usize,
    },
    /// History is kept within its bounds: the oldest events go, and the ended drafts they told of. No event.
    Prune {
        /// Events to keep.
        keep: i64,
        /// Events, and drafts, to delete at most.
        limit: i64,
        /// Folder totals are kept: an event whose change of them is not folded yet stays.
        totals: bool,
    },
    /// A fact about this instance: `export`, `mountpoint`, `pid`, `rules`… No event.
    Meta {
        /// Which fact.
        key: &'static str,
        /// Its value.
        value: String,
    },
}

/// A draft as the journal remembers it.
#[derive(Clone, Debug)]
pub struct DraftRow {
    /// Its id.
    pub id: DraftId,
    /// Its state.
    pub state: DraftState,
    /// Target, relative to the export's root; empty when unknown (adopted).
    pub path: Vec<u8>,
    /// Name of the staged file.
    pub stage: String,
    /// Inode number of the staged file.
    pub ino: u64,
    /// How the version came or will come to be.
    pub kind: CommitKind,
    /// Who writes.
    pub owner: Owner,
    /// Bytes as last reported.
    pub bytes: u64,
    /// When it began.
    pub begun_at: SystemTime,
    /// When its state last changed.
    pub changed_at: SystemTime,
    /// Why it is in quarantine or discarded, or not published yet.
    pub reason: Option<String>,
    /// False when the content was given back and only the record stays.
    pub kept: bool,
    /// What its name held when its close was promised; `None` if an older commitfs has promised it, or nobody.
    pub below: Option<Held>,
    /// The path it had before a rename of which it is not known whether it was made.
    pub moved_from: Option<Vec<u8>>,
    /// True if that is a rename of its own, and not of a folder above.
    pub moved_alone: bool,
    /// The inode number of the folder where it will appear; `None` if no close was promised, or by an older commitfs.
    pub folder: Option<u64>,
}
