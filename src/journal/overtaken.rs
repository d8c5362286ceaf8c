//! What was committed under a name, and what events tell of it since a close was promised for it.

use rusqlite::{Connection, OptionalExtension};

use super::JournalError;
use super::held::Held;
use super::read::Reader;
use super::record::DraftId;

/// Event `e` is the commit of a draft that was promised for its name before draft `d` was, or got it before: it is the older one,
/// whenever it was published.
const PROMISED_BEFORE: &str =
    "(d.state = 'sealed' AND EXISTS (SELECT 1 FROM drafts p WHERE p.id = e.draft_id AND p.named < d.named))";

/// As [`Reader::is_overtaken`].
pub(super) fn is_overtaken(conn: &Connection, id: DraftId) -> rusqlite::Result<bool> {
    let below: Option<Option<String>> =
        conn.prepare_cached("SELECT below FROM drafts WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()?;
    let held = below.flatten().and_then(|below| Held::parse(&below));
    if held == Some(Held::Changed) {
        return Ok(true);
    }
    // A commit that was found after a crash is written down late: what the name held is what it has published.
    let seen = held.and_then(|held| held.ino()).map(u64::cast_signed);
    conn.prepare_cached(&format!(
        "SELECT EXISTS (SELECT 1 FROM drafts d, events e
         WHERE d.id = ?1 AND e.id > d.event AND e.path = d.path AND e.draft_id IS NOT d.id
           AND e.kind IN ('committed', 'unlinked', 'removed', 'restored') AND NOT {PROMISED_BEFORE}
           AND NOT (d.state = 'sealed' AND e.kind = 'committed'
                    AND EXISTS (SELECT 1 FROM commits c WHERE c.id = e.draft_id AND c.ino = ?2)))"
    ))?
    .query_row((id, seen), |row| row.get(0))
}

impl Reader {
    /// Whether the name of a draft was given to another version, or taken away, since its close was promised, or since it got
    /// that name later. Versions that were promised before it do not count.
    pub fn is_overtaken(&self, id: DraftId) -> Result<bool, JournalError> {
        self.read(|conn| is_overtaken(conn, id))
    }

    /// Whether inode `ino` was committed under this path. Looks through all commits.
    pub fn was_committed(&self, path: &[u8], ino: u64) -> Result<bool, JournalError> {
        self.read(|conn| {
            conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM commits WHERE path = ?1 AND ino = ?2)")?
                .query_row((path, ino.cast_signed()), |row| row.get(0))
        })
    }

    /// Whether inode `ino` is, under the name of a draft, the version of one that was promised before it over the same: so
    /// this one follows.
    pub fn follows(&self, id: DraftId, ino: u64) -> Result<bool, JournalError> {
        self.read(|conn| {
            conn.prepare_cached(&format!(
                "SELECT EXISTS (SELECT 1 FROM drafts d
                 JOIN events e ON e.id > d.event AND e.kind = 'committed' AND e.path = d.path
                 JOIN commits c ON c.id = e.draft_id AND c.ino = ?2
                 JOIN drafts o ON o.id = c.id AND o.below = d.below
                 WHERE d.id = ?1 AND {PROMISED_BEFORE})"
            ))?
            .query_row((id, ino.cast_signed()), |row| row.get(0))
        })
    }
}
