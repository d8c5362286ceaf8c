//! Folding: many deltas become one change per folder, from the deepest up.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::apply::apply;
use super::folders::{self, Counted, join};
use super::record::Entry;
use super::schema;

/// Row of the export's root.
pub(super) const ROOT: i64 = 1;
/// In `parent`: the folder is gone and its row waits to be deleted.
const GONE: i64 = -1;
/// Paths remembered while folding.
const REMEMBERED: usize = 20_000;

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    bytes: i64,
    files: i64,
    folders: i64,
    newest: i64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.bytes += other.bytes;
        self.files += other.files;
        self.folders += other.folders;
        self.newest = self.newest.max(other.newest);
    }

    fn minus(self) -> Sum {
        Sum { bytes: -self.bytes, files: -self.files, folders: -self.folders, newest: 0 }
    }
}

/// The folders of the journal, with changes that are not written yet.
pub(super) struct Tree<'c> {
    conn: &'c Connection,
    ids: HashMap<Vec<u8>, i64>,
    /// Changes of folders' own numbers.
    own: HashMap<i64, Sum>,
}

/// One row of `deltas`, or what an event says of its folder.
struct Row {
    id: i64,
    kind: String,
    path: Vec<u8>,
    target: Option<Vec<u8>>,
    sum: Sum,
    at: i64,
    /// The newest event when it was written.
    after: i64,
}

impl Row {
    fn of_delta(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Row {
            id: row.get(0)?,
            kind: row.get(1)?,
            path: row.get(2)?,
            target: row.get(3)?,
            sum: Sum { bytes: row.get(4)?, files: row.get(5)?, folders: 0, newest: row.get(6)? },
            at: row.get(7)?,
            after: row.get(8)?,
        })
    }

    fn of_event(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let (id, path, at): (i64, Vec<u8>, i64) = (row.get(0)?, row.get(2)?, row.get(5)?);
        let newest = if row.get_ref(1)?.as_str()? == "committed" { at } else { 0 };
        Ok(Row {
            id,
            kind: "count".to_owned(),
            path: split(&path).0.to_vec(),
            target: None,
            sum: Sum { bytes: row.get(3)?, files: row.get(4)?, folders: 0, newest },
            at,
            after: id,
        })
    }
}

fn next(
    rows: &mut rusqlite::Rows<'_>,
    read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Row>,
) -> rusqlite::Result<Option<Row>> {
    rows.next()?.map(read).transpose()
}

impl<'c> Tree<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Tree { conn, ids: HashMap::new(), own: HashMap::new() }
    }

    /// Applies at most `limit` changes, in their order.
    pub(super) fn fold(&mut self, limit: usize) -> rusqlite::Result<()> {
        let conn = self.conn;
        let folded = folders::folded(conn)?;
        let newest: i64 =
            conn.prepare_cached("SELECT coalesce(max(id), 0) FROM events")?.query_row([], |row| row.get(0))?;
        let mut statement = conn
            .prepare_cached("SELECT id, kind, path, target, bytes, files, newest, at, after FROM deltas ORDER BY id")?;
        let mut deltas = statement.query([])?;
        let mut statement = conn.prepare_cached(
            "SELECT id, kind, path, bytes, files, at FROM events WHERE id > ?1 AND bytes IS NOT NULL ORDER BY id",
        )?;
        let mut events = statement.query([folded])?;
        let (mut delta, mut event) = (next(&mut deltas, Row::of_delta)?, next(&mut events, Row::of_event)?);
        let (mut last, mut position, mut taken) = (0, folded, 0);
        while taken < limit {
            // A delta comes after the event that was the newest when it was written.
            match (&delta, &event) {
                (Some(row), there) if there.as_ref().is_none_or(|there| there.id > row.after) => {
                    self.take(row)?;
                    last = row.id;
                    delta = next(&mut deltas, Row::of_delta)?;
                }
                (_, Some(row)) => {
                    self.take(row)?;
                    position = row.id;
                    event = next(&mut events, Row::of_event)?;
                }
                (_, None) => break,
            }
            taken += 1;
        }
        // What is behind the last one has changed nothing.
        if event.is_none() {
            position = newest;
        }
        drop((deltas, events));
        self.flush()?;
        if last > 0 {
            conn.prepare_cached("DELETE FROM deltas WHERE id <= ?1")?.execute([last])?;
        }
        if position > folded {
            let entry = Entry::Meta { key: folders::FOLDED, value: position.to_string() };
            apply(conn, &entry, 0)?;
        }
        Ok(())
    }

    fn take(&mut self, row: &Row) -> rusqlite::Result<()> {
        match (row.kind.as_str(), &row.target) {
            ("count", _) => match self.find(&row.path)? {
                Some(id) => self.own.entry(id).or_default().add(row.sum),
                None => self.doubt(&row.path)?,
            },
            // Empty at that time, which may lie before a crash that lost what was made in it.
            ("made", _) => self.insert(&row.path, row.at)?,
            ("gone", _) => {
                if let Some(id) = self.find(&row.path)? {
                    self.detach(id)?;
                }
            }
            ("moved", Some(to)) => self.relocate(&row.path, to)?,
            // The schema allows no other.
            _ => {}
        }
        Ok(())
    }

    /// The row of a folder, walked by name from the longest part of the path that is remembered.
    pub(super) fn find(&mut self, path: &[u8]) -> rusqlite::Result<Option<i64>> {
        Ok(self.walk(path)?.ok())
    }

    /// The row of a folder, or of the last one above it that is known.
    fn walk(&mut self, path: &[u8]) -> rusqlite::Result<Result<i64, i64>> {
        let mut known = path.len();
        let mut id = ROOT;
        while known > 0 {
            if let Some(&there) = self.ids.get(&path[..known]) {
                id = there;
                break;
            }
            known = path[..known].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        }
        let mut statement = self.conn.prepare_cached("SELECT id FROM folders WHERE parent = ?1 AND name = ?2")?;
        while known < path.len() {
            let begin = if known == 0 { 0 } else { known + 1 };
            let end = path[begin..].iter().position(|&byte| byte == b'/').map_or(path.len(), |at| begin + at);
            match statement.query_row(params![id, &path[begin..end]], |row| row.get(0)).optional()? {
                Some(child) => id = child,
                None => return Ok(Err(id)),
            }
            if self.ids.len() >= REMEMBERED {
                self.ids.clear();
            }
            self.ids.insert(path[..end].to_vec(), id);
            known = end;
        }
        Ok(Ok(id))
    }

    /// A change in a folder that the journal does not know: the nearest one above is looked at again.
    fn doubt(&mut self, path: &[u8]) -> rusqlite::Result<()> {
        if let Err(above) = self.walk(path)? {
            let sql = "UPDATE folders SET counted_at = -counted_at WHERE id = ?1 AND counted_at > 0";
            self.conn.prepare_cached(sql)?.execute([above])?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &[u8], counted_at: i64) -> rusqlite::Result<()> {
        let (above, name) = split(path);
        let Some(parent) = self.find(above)? else { return self.doubt(above) };
        if self.add_child(parent, name, counted_at)? {
            self.own.entry(parent).or_default().folders += 1;
        }
        Ok(())
    }

    fn add_child(&self, parent: i64, name: &[u8], counted_at: i64) -> rusqlite::Result<bool> {
        let added = self
            .conn
            .prepare_cached(
                "INSERT INTO folders (parent, name, counted_at) VALUES (?1, ?2, ?3) ON CONFLICT (parent, name) DO NOTHING",
            )?
            .execute(params![parent, name, counted_at])?;
        Ok(added > 0)
    }

    /// Takes a folder and all below it out of the totals; its rows are deleted in pages later.
    fn detach(&mut self, id: i64) -> rusqlite::Result<()> {
        self.flush()?;
        let (parent, _) = self.above(id)?;
        let all = self.recursive(id)?;
        self.apply(&self.chain(parent)?, all.minus())?;
        self.add_own_folders(parent, -1)?;
        self.conn
            .prepare_cached("UPDATE folders SET parent = ?2, name = CAST(id AS BLOB) WHERE id = ?1")?
            .execute(params![id, GONE])?;
        self.ids.clear();
        Ok(())
    }

    fn relocate(&mut self, from: &[u8], to: &[u8]) -> rusqlite::Result<()> {
        let (above, name) = split(to);
        let id = self.find(from)?;
        if let Some(there) = self.find(to)?
            && Some(there) != id
        {
            self.detach(there)?;
        }
        let Some(parent) = self.find(above)? else {
            if let Some(id) = id {
                self.detach(id)?;
            }
            return self.doubt(above);
        };
        let Some(id) = id else {
            // Not known before: it is counted under its new name.
            return self.insert(to, 0);
        };
        self.flush()?;
        let (old_parent, _) = self.above(id)?;
        if old_parent != parent {
            // Each side up to the common ancestor only.
            let (mut old, mut new) = (self.chain(old_parent)?, self.chain(parent)?);
            while old.last().is_some() && old.last() == new.last() {
                old.pop();
                new.pop();
            }
            let all = self.recursive(id)?;
            self.apply(&old, all.minus())?;
            self.apply(&new, all)?;
            self.add_own_folders(old_parent, -1)?;
            self.add_own_folders(parent, 1)?;
        }
        self.conn
            .prepare_cached("UPDATE folders SET parent = ?2, name = ?3 WHERE id = ?1")?
            .execute(params![id, parent, name])?;
        self.ids.clear();
        Ok(())
    }

    /// A folder's parent and newest commit.
    fn above(&self, id: i64) -> rusqlite::Result<(i64, i64)> {
        self.conn
            .prepare_cached("SELECT parent, rnewest FROM folders WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// A folder and those above it, up to the root.
    fn chain(&self, mut id: i64) -> rusqlite::Result<Vec<i64>> {
        let mut chain = Vec::new();
        while id > 0 {
            chain.push(id);
            id = self.above(id)?.0;
        }
        Ok(chain)
    }

    /// What a folder adds to those above it, itself included.
    fn recursive(&self, id: i64) -> rusqlite::Result<Sum> {
        self.conn
            .prepare_cached("SELECT rbytes, rfiles, rfolders + 1, rnewest FROM folders WHERE id = ?1")?
            .query_row([id], |row| {
                Ok(Sum { bytes: row.get(0)?, files: row.get(1)?, folders: row.get(2)?, newest: row.get(3)? })
            })
    }

    fn apply(&self, chain: &[i64], sum: Sum) -> rusqlite::Result<()> {
        for &id in chain {
            self.add(id, Sum::default(), sum)?;
        }
        Ok(())
    }

    fn add_own_folders(&self, id: i64, more: i64) -> rusqlite::Result<()> {
        let sql = "UPDATE folders SET folders = folders + ?2 WHERE id = ?1";
        self.conn.prepare_cached(sql)?.execute([id, more])?;
        Ok(())
    }

    fn add(&self, id: i64, own: Sum, below: Sum) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "UPDATE folders
                 SET bytes = bytes + ?2, files = files + ?3, folders = folders + ?4,
                     rbytes = rbytes + ?5, rfiles = rfiles + ?6, rfolders = rfolders + ?7, rnewest = max(rnewest, ?8)
                 WHERE id = ?1",
            )?
            .execute(params![
                id,
                own.bytes,
                own.files,
                own.folders,
                below.bytes,
                below.files,
                below.folders,
                below.newest
            ])?;
        Ok(())
    }

    /// Writes what is gathered: one update for each folder that changes, the deepest first.
    fn flush(&mut self) -> rusqlite::Result<()> {
        if self.own.is_empty() {
            return Ok(());
        }
        let own = std::mem::take(&mut self.own);
        let mut places: HashMap<i64, Place> = HashMap::new();
        for &id in own.keys() {
            self.place(id, &mut places)?;
        }
        let mut order: Vec<i64> = places.keys().copied().collect();
        order.sort_unstable_by_key(|id| std::cmp::Reverse(places[id].depth));
        let mut below: HashMap<i64, Sum> = HashMap::new();
        for id in order {
            let mine = own.get(&id).copied().unwrap_or_default();
            let mut sum = below.remove(&id).unwrap_or_default();
            sum.add(mine);
            let place = &places[&id];
            let same = (sum.bytes, sum.files, sum.folders) == (0, 0, 0) && sum.newest <= place.newest;
            if !same || (mine.bytes, mine.files, mine.folders) != (0, 0, 0) {
                self.add(id, mine, sum)?;
            }
            if place.parent > 0 && !same {
                below.entry(place.parent).or_default().add(sum);
            }
        }
        Ok(())
    }

    /// Finds out where a folder and those above it stand.
    fn place(&self, id: i64, places: &mut HashMap<i64, Place>) -> rusqlite::Result<()> {
        let mut chain = Vec::new();
        let mut at = id;
        while at > 0 && !places.contains_key(&at) {
            let (parent, newest) = self.above(at)?;
            chain.push((at, parent, newest));
            at = parent;
        }
        let above = places.get(&at).map_or(0, |place| place.depth);
        for (below, (id, parent, newest)) in chain.into_iter().rev().enumerate() {
            places.insert(id, Place { parent, newest, depth: above + 1 + below });
        }
        Ok(())
    }

    /// A folder's own files as a look at it has found them; what differs from before was changed from outside.
    pub(super) fn set_own(&mut self, count: &Counted, now: i64) -> rusqlite::Result<()> {
        let Some(id) = self.find(&count.folder)? else { return Ok(()) };
        let (bytes, files, counted_at): (i64, i64, i64) = self
            .conn
            .prepare_cached("SELECT bytes, files, counted_at FROM folders WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let sum = Sum {
            bytes: schema::size(count.bytes) - bytes,
            files: schema::size(count.files) - files,
            folders: 0,
            newest: count.newest.map_or(0, schema::micros),
        };
        // What was never counted, or lost changes in a crash, was not changed from outside.
        let known = count.exact && counted_at != 0 && counted_at.abs() >= folders::number(self.conn, folders::RECOUNT)?;
        let drift = if known { (sum.bytes.abs(), sum.files.abs()) } else { (0, 0) };
        self.own.insert(id, sum);
        self.flush()?;
        self.conn
            .prepare_cached(
                "UPDATE folders SET counted_at = ?2, drift_bytes = drift_bytes + ?3, drift_files = drift_files + ?4
                 WHERE id = ?1",
            )?
            .execute(params![id, now, drift.0, drift.1])?;
        Ok(())
    }

    /// Folders that a look has found and the journal did not know.
    pub(super) fn add_uncounted(&mut self, folder: &[u8], names: &[Vec<u8>]) -> rusqlite::Result<()> {
        for name in names {
            self.insert(&join(folder, name), 0)?;
        }
        self.flush()
    }
}

struct Place {
    parent: i64,
    newest: i64,
    depth: usize,
}

/// Folder and name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Deletes rows of folders that are gone, at most about `limit` of them.
pub(super) fn prune(conn: &Connection, limit: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE folders SET parent = -1, name = CAST(id AS BLOB)
         WHERE id IN (SELECT f.id FROM folders g JOIN folders f ON f.parent = g.id WHERE g.parent = -1 LIMIT ?1)",
    )?
    .execute([limit])?;
    conn.prepare_cached(
        "DELETE FROM folders
         WHERE id IN (SELECT g.id FROM folders g
                      WHERE g.parent = -1 AND NOT EXISTS (SELECT 1 FROM folders f WHERE f.parent = g.id) LIMIT ?1)",
    )?
    .execute([limit])?;
    Ok(())
}
