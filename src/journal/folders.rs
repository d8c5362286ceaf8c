//! Folder totals as the journal keeps them: what is reported, and what is read.
//!
//! A change is one row of `deltas`, or part of the event's row, written with what caused it; nothing above the folder is
//! touched. Folding (`fold.rs`) applies many deltas at once.

use std::collections::HashSet;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::JournalError;
use super::fold::{ROOT, Tree};
use super::read::Reader;
use super::rows::unsigned;
use super::schema;

/// Bytes and files by which a folder has changed through one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// More, or less.
    pub bytes: i64,
    /// More, or less.
    pub files: i64,
}

/// A change of what one folder holds.
#[derive(Clone, Debug)]
pub enum Delta {
    /// Files in the folder changed.
    Count {
        /// The folder, relative to the export's root.
        folder: Vec<u8>,
        /// Bytes more, or less.
        bytes: i64,
        /// Files more, or less.
        files: i64,
        /// A commit at this time.
        newest: Option<SystemTime>,
    },
    /// An empty folder was made.
    Made(Vec<u8>),
    /// A folder went away with all that was below it.
    Gone(Vec<u8>),
    /// A folder has another path now, with all that is below it.
    Moved {
        /// From here.
        from: Vec<u8>,
        /// To here.
        to: Vec<u8>,
    },
}

/// What a look at one folder itself has found.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The folder.
    pub folder: Vec<u8>,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// Files in it: everything but folders.
    pub files: u64,
    /// When the newest of them was modified.
    pub newest: Option<SystemTime>,
    /// Nobody was changing a name in it at the end: what differs was changed from outside. Names that are being changed
    /// are left out and add themselves.
    pub exact: bool,
}

/// Own and recursive numbers of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderRow {
    /// Relative to the export's root.
    pub path: Vec<u8>,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// Files in it.
    pub files: u64,
    /// Folders in it.
    pub folders: u64,
    /// Bytes in it and below.
    pub rbytes: u64,
    /// Files in it and below.
    pub rfiles: u64,
    /// Folders below.
    pub rfolders: u64,
    /// The newest commit in it and below.
    pub newest: Option<SystemTime>,
    /// When its own files were last counted; `None`: never.
    pub counted_at: Option<SystemTime>,
    pub(super) id: i64,
}

/// How fresh the totals are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Folders known.
    pub folders: u64,
    /// Folders that wait to be counted, for the first time or again.
    pub uncounted: u64,
    /// Changes not folded yet.
    pub unfolded: u64,
    /// When the oldest of these happened.
    pub oldest: Option<SystemTime>,
    /// Bytes that counting has found changed from outside, either way, in folders that are there.
    pub drift_bytes: u64,
    /// Files likewise.
    pub drift_files: u64,
}

/// Key in `meta`: folders counted before this time are to be counted again.
pub(super) const RECOUNT: &str = "totals_recount_before";
/// Key in `meta`: the changes that stand in events are folded up to this one.
pub(super) const FOLDED: &str = "totals_folded";
/// Key in `meta`: `1` while every change is in the journal, `0` while a crash may lose one.
pub(super) const CLEAN: &str = "totals_clean";

/// `below`: a folder (`?1`) and all below it.
const BELOW: &str = "WITH RECURSIVE below (id) AS
     (SELECT ?1 UNION ALL SELECT f.id FROM folders f JOIN below ON f.parent = below.id)";

pub(super) const UNCOUNTED: &str =
    "SELECT id FROM folders WHERE counted_at < ?1 AND parent >= 0 ORDER BY counted_at, id DESC LIMIT ?2";

pub(super) fn delta(conn: &Connection, delta: &Delta, now: i64) -> rusqlite::Result<()> {
    let (kind, path, target, bytes, files, newest) = match delta {
        Delta::Count { folder, bytes, files, newest } => ("count", folder, None, *bytes, *files, *newest),
        Delta::Made(path) => ("made", path, None, 0, 0, None),
        Delta::Gone(path) => ("gone", path, None, 0, 0, None),
        Delta::Moved { from, to } => ("moved", from, Some(to), 0, 0, None),
    };
    conn.prepare_cached(
        "INSERT INTO deltas (at, kind, path, target, bytes, files, newest, after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT coalesce(max(id), 0) FROM events))",
    )?
    .execute(params![now, kind, path, target, bytes, files, newest.map_or(0, schema::micros)])?;
    Ok(())
}

/// A count is right at its place in the order of changes, so all before it are folded first.
pub(super) fn counted(conn: &Connection, count: &Counted, now: i64) -> rusqlite::Result<()> {
    let mut tree = Tree::new(conn);
    tree.fold(usize::MAX)?;
    tree.set_own(count, now)
}

pub(super) fn found(conn: &Connection, folder: &[u8], names: &[Vec<u8>]) -> rusqlite::Result<()> {
    let mut tree = Tree::new(conn);
    tree.fold(usize::MAX)?;
    tree.add_uncounted(folder, names)
}

/// Everything below is to be counted again; the time stays, negative, so that a difference is known for drift.
pub(super) fn recount(conn: &Connection, folder: &[u8]) -> rusqlite::Result<()> {
    let mut tree = Tree::new(conn);
    tree.fold(usize::MAX)?;
    let Some(id) = tree.find(folder)? else { return Ok(()) };
    conn.prepare_cached(&format!(
        "{BELOW} UPDATE folders SET counted_at = -counted_at WHERE id IN below AND counted_at > 0"
    ))?
    .execute([id])?;
    Ok(())
}

/// Looking at totals.
impl Reader {
    /// One folder; `None` if the journal does not know it (yet).
    pub fn folder(&self, path: &[u8]) -> Result<Option<FolderRow>, JournalError> {
        self.read(|conn| {
            let Some(id) = Tree::new(conn).find(path)? else { return Ok(None) };
            let mut row = conn.prepare_cached(&format!("{FOLDER} WHERE id = ?1"))?.query_row([id], folder)?;
            row.path = path.to_vec();
            Ok(Some(row))
        })
    }

    /// The folders in a folder.
    pub fn folders_in(&self, above: &FolderRow) -> Result<Vec<FolderRow>, JournalError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{FOLDER} WHERE parent = ?1"))?;
            let mut rows = statement.query_map([above.id], folder)?.collect::<rusqlite::Result<Vec<_>>>()?;
            for row in &mut rows {
                row.path = join(&above.path, &row.path);
            }
            Ok(rows)
        })
    }

    /// Names of the folders in a folder.
    pub fn folder_names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, JournalError> {
        self.read(|conn| {
            let Some(id) = Tree::new(conn).find(path)? else { return Ok(Vec::new()) };
            let mut statement = conn.prepare_cached("SELECT name FROM folders WHERE parent = ?1")?;
            statement.query_map([id], |row| row.get(0))?.collect()
        })
    }

    /// Paths of at most `limit` folders that were last counted before `before`, or not yet, without those in `except`;
    /// those first that were never counted, the latest found of them first, so that counting goes down before it goes on.
    pub fn uncounted(
        &self,
        before: SystemTime,
        limit: usize,
        except: &HashSet<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, JournalError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(UNCOUNTED)?;
            let most = i64::try_from(limit + except.len()).unwrap_or(i64::MAX);
            let ids = statement.query_map(params![schema::micros(before).max(1), most], |row| row.get(0))?;
            let paths = ids.map(|id| path_of(conn, id?));
            paths.filter(|path| !path.as_ref().is_ok_and(|path| except.contains(path))).take(limit).collect()
        })
    }

    /// How many folders in and below a folder wait to be counted.
    pub fn uncounted_below(&self, path: &[u8], before: SystemTime) -> Result<u64, JournalError> {
        self.read(|conn| {
            let Some(id) = Tree::new(conn).find(path)? else { return Ok(0) };
            conn.prepare_cached(&format!("{BELOW} SELECT count(*) FROM folders WHERE id IN below AND counted_at < ?2"))?
                .query_row(params![id, schema::micros(before).max(1)], |row| unsigned(row, 0))
        })
    }

    /// How fresh the totals are.
    pub fn freshness(&self) -> Result<Freshness, JournalError> {
        let before = self.recount_before()?;
        self.read(|conn| {
            let mut fresh = Freshness::default();
            conn.query_row(
                "SELECT count(*), coalesce(sum(drift_bytes), 0), coalesce(sum(drift_files), 0) FROM folders
                 WHERE parent >= 0",
                [],
                |row| {
                    fresh.folders = unsigned(row, 0)?;
                    fresh.drift_bytes = unsigned(row, 1)?;
                    fresh.drift_files = unsigned(row, 2)?;
                    Ok(())
                },
            )?;
            fresh.uncounted = conn.query_row(
                "SELECT count(*) FROM folders WHERE counted_at < ?1 AND parent >= 0",
                [schema::micros(before).max(1)],
                |row| unsigned(row, 0),
            )?;
            let unfolded =
                "SELECT count(*) FROM deltas UNION ALL SELECT count(*) FROM events WHERE id > ?1 AND bytes IS NOT NULL";
            let mut counts = conn.prepare_cached(unfolded)?;
            for count in counts.query_map([folded(conn)?], |row| unsigned(row, 0))? {
                fresh.unfolded += count?;
            }
            fresh.oldest = oldest(conn)?;
            Ok(fresh)
        })
    }

    /// Whether rows of folders that are gone wait to be deleted.
    pub fn has_gone_folders(&self) -> Result<bool, JournalError> {
        self.read(|conn| {
            conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM folders WHERE parent = -1)")?
                .query_row([], |row| row.get(0))
        })
    }

    /// When the oldest change happened that is not folded yet; `None`: the totals are up to date.
    pub fn totals_as_of(&self) -> Result<Option<SystemTime>, JournalError> {
        self.read(oldest)
    }

    /// Folders counted before this time are to be counted again.
    pub fn recount_before(&self) -> Result<SystemTime, JournalError> {
        self.read(|conn| Ok(schema::time(number(conn, RECOUNT)?)))
    }

    /// Drift that counting has found in a folder and below: bytes and files, either way.
    pub fn drift_below(&self, path: &[u8]) -> Result<(u64, u64), JournalError> {
        self.read(|conn| {
            let Some(id) = Tree::new(conn).find(path)? else { return Ok((0, 0)) };
            conn.prepare_cached(&format!(
                "{BELOW} SELECT coalesce(sum(drift_bytes), 0), coalesce(sum(drift_files), 0) FROM folders WHERE id IN below"
            ))?
            .query_row([id], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))
        })
    }
}

/// The event up to which the changes that stand in events are folded.
pub(super) fn folded(conn: &Connection) -> rusqlite::Result<i64> {
    number(conn, FOLDED)
}

/// A number in `meta`; 0 where there is none.
pub(super) fn number(conn: &Connection, key: &str) -> rusqlite::Result<i64> {
    let text: Option<String> =
        conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// When the oldest change happened that is not folded. It is the first: ids are given in the order of changes.
fn oldest(conn: &Connection) -> rusqlite::Result<Option<SystemTime>> {
    let delta: Option<i64> =
        conn.prepare_cached("SELECT at FROM deltas ORDER BY id LIMIT 1")?.query_row([], |row| row.get(0)).optional()?;
    let event: Option<i64> = conn
        .prepare_cached("SELECT at FROM events WHERE id > ?1 AND bytes IS NOT NULL ORDER BY id LIMIT 1")?
        .query_row([folded(conn)?], |row| row.get(0))
        .optional()?;
    Ok(delta.into_iter().chain(event).min().map(schema::time))
}

pub(super) const FOLDER: &str =
    "SELECT id, name, bytes, files, folders, rbytes, rfiles, rfolders, rnewest, counted_at FROM folders ";

pub(super) fn folder(row: &Row<'_>) -> rusqlite::Result<FolderRow> {
    let time = |micros: i64| (micros != 0).then(|| schema::time(micros.abs()));
    // A change made from outside may have been taken away twice until the next count.
    let number = |column| unsigned(row, column);
    Ok(FolderRow {
        id: row.get(0)?,
        path: row.get(1)?,
        bytes: number(2)?,
        files: number(3)?,
        folders: number(4)?,
        rbytes: number(5)?,
        rfiles: number(6)?,
        rfolders: number(7)?,
        newest: time(row.get(8)?),
        counted_at: time(row.get(9)?),
    })
}

fn path_of(conn: &Connection, mut id: i64) -> rusqlite::Result<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    while id > ROOT {
        let (parent, name) = conn
            .prepare_cached("SELECT parent, name FROM folders WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        names.push(name);
        id = parent;
    }
    names.reverse();
    Ok(names.join(&b'/'))
}

/// The path of a name in a folder.
pub(crate) fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() { name.to_vec() } else { [above, b"/", name].concat() }
}
