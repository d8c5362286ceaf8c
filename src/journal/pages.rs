//! The journal a page at a time: each page is one short read transaction of bounded work, whatever it is searched for.

use globset::GlobMatcher;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use super::JournalError;
use super::folders::{self, FolderRow};
use super::outbox::{self, OutboxId, OutboxRow, OutboxState};
use super::read::{CommitRow, EventRow, LogRow, Reader, as_path};
use super::record::{DraftId, DraftRow};
use super::rows::{self, DRAFT};

/// Rows looked at for one page. A search that finds little returns a short page, and where to go on.
const LOOKED_AT: usize = 20_000;

/// Which paths are wanted; both must hold.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// A glob as in a rule.
    pub glob: Option<GlobMatcher>,
    /// A part of the path.
    pub contains: Option<Vec<u8>>,
}

impl Wanted {
    /// Whether a path is one of them.
    pub fn matches(&self, path: &[u8]) -> bool {
        let part = |text: &Vec<u8>| text.is_empty() || path.windows(text.len()).any(|window| window == &text[..]);
        self.contains.as_ref().is_none_or(part) && self.glob.as_ref().is_none_or(|glob| glob.is_match(as_path(path)))
    }

    /// Whether an event has one of them, and is of one of these kinds, or of any if there are none.
    pub fn takes(&self, event: &EventRow, kinds: &[String]) -> bool {
        (kinds.is_empty() || kinds.contains(&event.kind)) && self.matches(event.path.as_deref().unwrap_or_default())
    }
}

/// Which rows of the outbox are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those in one state.
    In(OutboxState),
    /// What can still be restored.
    Restorable,
}

/// Some rows, and where to go on; `None` at the end.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// In the order of the question.
    pub rows: Vec<T>,
    /// What to give as the position of the next page.
    pub next: Option<i64>,
}

/// Some events in order, and what is kept.
#[derive(Clone, Debug)]
pub struct Events {
    /// False: the position is none of this journal, or older than what is kept; the rows begin with the oldest.
    pub known: bool,
    /// Oldest event kept.
    pub oldest: i64,
    /// Without a gap.
    pub rows: Vec<EventRow>,
}

/// In which order folders come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By name.
    Name,
    /// The largest first.
    Size,
}

/// The last folder of a page: what the next one begins after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderMark {
    /// Its bytes with all below it; means nothing where the order is by name.
    pub rbytes: u64,
    /// Its name.
    pub name: Vec<u8>,
}

impl Reader {
    /// Drafts open or sealed after draft `after`, oldest first.
    pub fn pending_page(&self, after: DraftId, limit: usize, wanted: &Wanted) -> Result<Page<DraftRow>, JournalError> {
        self.drafts_page("state IN ('open', 'sealed')", after, limit, wanted)
    }

    /// Drafts in quarantine after draft `after`, oldest first.
    pub fn quarantined_page(
        &self,
        after: DraftId,
        limit: usize,
        wanted: &Wanted,
    ) -> Result<Page<DraftRow>, JournalError> {
        self.drafts_page("state = 'quarantined'", after, limit, wanted)
    }

    fn drafts_page(
        &self,
        which: &str,
        after: DraftId,
        limit: usize,
        wanted: &Wanted,
    ) -> Result<Page<DraftRow>, JournalError> {
        let sql = format!("{DRAFT} WHERE {which} AND id > ?1 ORDER BY id");
        let select =
            Select { sql: &sql, row: rows::draft, path: |draft| &draft.path, position: |_, draft| Ok(draft.id) };
        self.read(|conn| select.page(conn, after, limit, wanted))
    }

    /// Commits that were told of before event `before`, newest first.
    pub fn commits_page(&self, before: i64, limit: usize, wanted: &Wanted) -> Result<Page<LogRow>, JournalError> {
        // The first condition is that of the index, the second what is wanted.
        let sql = format!(
            "{DRAFT} WHERE state IN ('committed', 'quarantined', 'discarded') AND state = 'committed' AND event < ?1
             ORDER BY event DESC"
        );
        let select = Select {
            sql: &sql,
            row: rows::draft,
            path: |draft| &draft.path,
            position: |conn, draft| Ok(event_of(conn, draft.id)?.unwrap_or(0)),
        };
        self.read(|conn| {
            let page = select.page(conn, before, limit, wanted)?;
            let with_commit = |draft: DraftRow| Ok(LogRow { commit: rows::commit_of(conn, draft.id)?, draft });
            let rows = page.rows.into_iter().map(with_commit).collect::<rusqlite::Result<_>>()?;
            Ok(Page { rows, next: page.next })
        })
    }

    /// Rows of the outbox after row `after`, oldest first.
    pub fn outbox_rows(
        &self,
        after: OutboxId,
        limit: usize,
        wanted: &Wanted,
        which: Which,
    ) -> Result<Page<OutboxRow>, JournalError> {
        let condition = match which {
            Which::All => "",
            Which::In(OutboxState::Pending) => "state = 'pending' AND",
            Which::In(OutboxState::Dead) => "state = 'dead' AND",
            Which::In(OutboxState::Dropped) => "state = 'dropped' AND",
            Which::Restorable => "state = 'pending' AND begun = 0 AND",
        };
        let sql = format!("{} WHERE {condition} id > ?1 ORDER BY id", outbox::ROW);
        let select =
            Select { sql: &sql, row: outbox::row, path: |row| &row.aside.path, position: |_, row| Ok(row.aside.id) };
        self.read(|conn| select.page(conn, after, limit, wanted))
    }

    /// At most `limit` of the folders in a folder, and the mark after which the next page begins; `None` at the end. By
    /// size, a folder whose size changes between two pages may come twice, or not at all.
    pub fn folders_page(
        &self,
        above: &FolderRow,
        after: Option<&FolderMark>,
        limit: usize,
        order: Order,
    ) -> Result<(Vec<FolderRow>, Option<FolderMark>), JournalError> {
        // Nothing is larger, and no name is shorter.
        let first = FolderMark { rbytes: u64::MAX, name: Vec::new() };
        let mark = after.unwrap_or(&first);
        let which = match order {
            Order::Name => "name > ?3 ORDER BY name",
            // What was changed from outside may have been taken away twice: shown as nothing.
            Order::Size => {
                "(max(rbytes, 0) < ?2 OR max(rbytes, 0) = ?2 AND name > ?3) ORDER BY max(rbytes, 0) DESC, name"
            }
        };
        let sql = format!("{} WHERE parent = ?1 AND {which} LIMIT ?4", folders::FOLDER);
        let one_more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let bytes = i64::try_from(mark.rbytes).unwrap_or(i64::MAX);
        let mut rows: Vec<FolderRow> = self.read(|conn| {
            let mut statement = conn.prepare_cached(&sql)?;
            statement.query_map(params![above.id, bytes, mark.name, one_more], folders::folder)?.collect()
        })?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| FolderMark { rbytes: row.rbytes, name: row.path.clone() });
        for row in &mut rows {
            row.path = folders::join(&above.path, &row.path);
        }
        Ok((rows, next))
    }

    /// Up to `limit` events after `position`, seen together with what is kept at that moment.
    pub fn events_page(&self, position: i64, limit: usize) -> Result<Events, JournalError> {
        self.read(|conn| {
            // What is pruned between two statements would be a gap that nobody notices.
            let together = conn.unchecked_transaction()?;
            let (oldest, newest) = event_range(&together)?;
            let known = (oldest - 1..=newest).contains(&position);
            let rows = rows::events_after(&together, if known { position } else { oldest - 1 }, limit)?;
            Ok(Events { known, oldest, rows })
        })
    }

    /// The oldest event kept and the newest one; `(1, 0)` when there is none.
    pub fn event_range(&self) -> Result<(i64, i64), JournalError> {
        self.read(event_range)
    }

    /// The newest commit of exactly this path, and the event that told of it.
    pub fn newest_commit_of(&self, path: &[u8]) -> Result<Option<(i64, CommitRow)>, JournalError> {
        self.read(|conn| newest_commit(conn, NEWEST_COMMIT, [path]))
    }

    /// The same, if it was told of after event `after`: what was before is not looked at.
    pub fn newer_commit_of(&self, path: &[u8], after: i64) -> Result<Option<(i64, CommitRow)>, JournalError> {
        self.read(|conn| newest_commit(conn, NEWER_COMMIT, params![path, after]))
    }

    /// The event that told of a draft's present state; `None` for an unknown draft.
    pub fn event_of(&self, id: DraftId) -> Result<Option<i64>, JournalError> {
        self.read(|conn| event_of(conn, id))
    }
}

const NEWEST_COMMIT: &str =
    "SELECT d.event, d.id FROM drafts d JOIN commits c USING (id) WHERE c.path = ?1 ORDER BY d.event DESC LIMIT 1";

/// The condition on the state is that of the index.
pub(super) const NEWER_COMMIT: &str = "SELECT d.event, d.id FROM drafts d CROSS JOIN commits c USING (id)
     WHERE d.state IN ('committed', 'quarantined', 'discarded') AND d.event > ?2 AND c.path = ?1
     ORDER BY d.event DESC LIMIT 1";

fn newest_commit(conn: &Connection, sql: &str, of: impl Params) -> rusqlite::Result<Option<(i64, CommitRow)>> {
    let newest = conn
        .prepare_cached(sql)?
        .query_row(of, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, DraftId>(1)?)))
        .optional()?;
    let Some((event, id)) = newest else { return Ok(None) };
    Ok(rows::commit_of(conn, id)?.map(|commit| (event, commit)))
}

/// A statement whose rows come in the order of a position, which is its only parameter.
struct Select<'a, T> {
    sql: &'a str,
    row: fn(&Row<'_>) -> rusqlite::Result<T>,
    path: fn(&T) -> &[u8],
    position: fn(&Connection, &T) -> rusqlite::Result<i64>,
}

impl<T> Select<'_, T> {
    fn page(&self, conn: &Connection, after: i64, limit: usize, wanted: &Wanted) -> rusqlite::Result<Page<T>> {
        let mut statement = conn.prepare_cached(self.sql)?;
        let mut rows = statement.query([after])?;
        let mut found = Vec::new();
        let mut looked_at = 0;
        while let Some(row) = rows.next()? {
            if found.len() == limit {
                let last = found.last().map(|row| (self.position)(conn, row)).transpose()?;
                return Ok(Page { rows: found, next: last });
            }
            looked_at += 1;
            let row = (self.row)(row)?;
            if wanted.matches((self.path)(&row)) {
                found.push(row);
            } else if looked_at >= LOOKED_AT {
                let next = Some((self.position)(conn, &row)?);
                return Ok(Page { rows: found, next });
            }
        }
        Ok(Page { rows: found, next: None })
    }
}

fn event_range(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    let sql = "SELECT coalesce((SELECT min(id) FROM events), 1), coalesce((SELECT max(id) FROM events), 0)";
    conn.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn event_of(conn: &Connection, id: DraftId) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT event FROM drafts WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}
