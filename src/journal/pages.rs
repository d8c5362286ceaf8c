//! The journal a page at a time: each page is one short read transaction of bounded work, whatever it is searched for.

use globset::GlobMatcher;
use rusqlite::{Connection, OptionalExtension};

use super::JournalError;
use super::read::{self, CommitRow, DRAFT, EventRow, LogRow, Reader, as_path};
use super::record::{DraftId, DraftRow};

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
}

/// Some rows, and where to go on; `None` at the end.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// In the order of the question.
    pub rows: Vec<T>,
    /// What to give as the position of the next page.
    pub next: Option<i64>,
}

impl Reader {
    /// Drafts open or sealed after draft `after`, oldest first.
    pub fn pending_page(&self, after: DraftId, limit: usize, wanted: &Wanted) -> Result<Page<DraftRow>, JournalError> {
        let which = "WHERE state IN ('open', 'sealed') AND id > ?1 ORDER BY id";
        self.read(|conn| {
            drafts(conn, which, after, limit, wanted, |_, draft| Ok(draft)).map(|page| page.by(|row| row.id))
        })
    }

    /// Drafts in quarantine after draft `after`, oldest first.
    pub fn quarantined_page(
        &self,
        after: DraftId,
        limit: usize,
        wanted: &Wanted,
    ) -> Result<Page<DraftRow>, JournalError> {
        let which = "WHERE state = 'quarantined' AND id > ?1 ORDER BY id";
        self.read(|conn| {
            drafts(conn, which, after, limit, wanted, |_, draft| Ok(draft)).map(|page| page.by(|row| row.id))
        })
    }

    /// Commits that were told of before event `before`, newest first.
    pub fn commits_page(&self, before: i64, limit: usize, wanted: &Wanted) -> Result<Page<LogRow>, JournalError> {
        // The first condition is that of the index, the second what is wanted.
        let which = "WHERE state IN ('committed', 'quarantined', 'discarded') AND state = 'committed' AND event < ?1
                     ORDER BY event DESC";
        self.read(|conn| {
            let found = drafts(conn, which, before, limit, wanted, |conn, draft| {
                let event = event_of(conn, draft.id)?.unwrap_or(0);
                let commit = read::commit_of(conn, draft.id)?;
                Ok((event, LogRow { draft, commit }))
            })?;
            let page = found.by(|(event, _)| *event);
            Ok(Page { rows: page.rows.into_iter().map(|(_, row)| row).collect(), next: page.next })
        })
    }

    /// Up to `limit` events after `position`, in order.
    pub fn events_after(&self, position: i64, limit: usize) -> Result<Vec<EventRow>, JournalError> {
        self.read(|conn| read::events_after(conn, position, limit))
    }

    /// The oldest event kept and the newest one; `(1, 0)` when there is none.
    pub fn event_range(&self) -> Result<(i64, i64), JournalError> {
        self.read(|conn| {
            conn.query_row("SELECT coalesce(min(id), 1), coalesce(max(id), 0) FROM events", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
    }

    /// The newest commit of exactly this path, and the event that told of it.
    pub fn newest_commit_of(&self, path: &[u8]) -> Result<Option<(i64, CommitRow)>, JournalError> {
        self.read(|conn| {
            let newest = conn
                .prepare_cached(
                    "SELECT d.event, d.id FROM drafts d JOIN commits c USING (id) WHERE c.path = ?1
                     ORDER BY d.event DESC LIMIT 1",
                )?
                .query_row([path], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, DraftId>(1)?)))
                .optional()?;
            let Some((event, id)) = newest else { return Ok(None) };
            Ok(read::commit_of(conn, id)?.map(|commit| (event, commit)))
        })
    }

    /// The event that told of a draft's present state; `None` for an unknown draft.
    pub fn event_of(&self, id: DraftId) -> Result<Option<i64>, JournalError> {
        self.read(|conn| event_of(conn, id))
    }
}

struct Found<T> {
    rows: Vec<T>,
    /// More rows are there, or were not looked at.
    more: bool,
    /// Position of the last row looked at, where it was not wanted.
    stopped: Option<i64>,
}

impl<T> Found<T> {
    fn by(self, position: impl Fn(&T) -> i64) -> Page<T> {
        let last = self.stopped.or_else(|| self.rows.last().map(position));
        Page { next: last.filter(|_| self.more), rows: self.rows }
    }
}

/// Rows of `which` from `position` on, of which `make` makes what is wanted.
fn drafts<T>(
    conn: &Connection,
    which: &str,
    position: i64,
    limit: usize,
    wanted: &Wanted,
    mut make: impl FnMut(&Connection, DraftRow) -> rusqlite::Result<T>,
) -> rusqlite::Result<Found<T>> {
    let mut statement = conn.prepare_cached(&format!("{DRAFT} {which}"))?;
    let mut rows = statement.query([position])?;
    let mut found = Found { rows: Vec::new(), more: false, stopped: None };
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        if found.rows.len() == limit {
            found.more = true;
            break;
        }
        looked_at += 1;
        let draft = read::draft(row)?;
        let id = draft.id;
        if wanted.matches(&draft.path) {
            found.rows.push(make(conn, draft)?);
            found.stopped = None;
        } else if looked_at >= LOOKED_AT {
            found.more = true;
            found.stopped = if which.contains("event < ?1") { event_of(conn, id)? } else { Some(id) };
            break;
        }
    }
    Ok(found)
}

fn event_of(conn: &Connection, id: DraftId) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT event FROM drafts WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}
