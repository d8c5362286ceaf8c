//! The one consistency checker, for every suite: journal, staging and export must tell the same story.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use xxhash_rust::xxh3::xxh3_128;

use super::content::{self, Header};
use super::mount::{Mount, bare};
use super::wait::{LIMIT, poll};

/// What applications know of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promise {
    /// The newest generation whose close returned 0.
    pub closed: u64,
    /// The newest generation that anybody tried to write.
    pub tried: u64,
}

/// What the checker saw, so that a suite can insist on having exercised something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub commits: u64,
    pub quarantined: u64,
    pub files: u64,
}

/// Checks everything that holds at rest, with the daemon up and nobody writing.
#[track_caller]
pub fn check(m: &Mount) -> Seen {
    if bare() {
        return Seen::default();
    }
    m.settled();
    // A staged file is removed right after the row that tells of it, and what is due leaves the trash folder before its
    // row does: give it that moment. Others may be due by then.
    let (mut first, mut last) = (None, Vec::new());
    let agreed = poll(LIMIT, || {
        let (seen, wrong) = look(m);
        let first: &Vec<String> = first.get_or_insert_with(|| wrong.clone());
        last = wrong;
        last.retain(|complaint| !complaint.starts_with("outbox row") || first.contains(complaint));
        last.is_empty().then_some(seen)
    });
    agreed.unwrap_or_else(|| panic!("journal and file system disagree:\n  {}", last.join("\n  ")))
}

struct Row {
    id: i64,
    state: String,
    stage: String,
    ino: u64,
    bytes: u64,
    kept: bool,
}

struct Commit {
    id: i64,
    path: Vec<u8>,
    size: u64,
    digest: Option<String>,
    /// Recorded by recovery, which could not have seen a file that was renamed since.
    recovered: bool,
}

/// What does not agree at this moment.
pub fn disagreements(m: &Mount) -> Vec<String> {
    look(m).1
}

fn look(m: &Mount) -> (Seen, Vec<String>) {
    let mut wrong = Vec::new();
    let db = Connection::open_with_flags(m.state().join("journal.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let intact: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    if intact != "ok" {
        wrong.push(format!("the journal is damaged: {intact}"));
    }
    let gaps = one("SELECT coalesce(max(id) - min(id) + 1 - count(*), 0) FROM events");
    if gaps != 0 {
        wrong.push(format!("{gaps} events are missing"));
    }
    let unmatched = one(
        "SELECT count(*) FROM drafts d LEFT JOIN commits c USING (id) WHERE (d.state = 'committed') <> (c.id IS NOT NULL)",
    );
    if unmatched != 0 {
        wrong.push(format!("{unmatched} drafts whose state and commit do not agree"));
    }

    let mut statement = db.prepare("SELECT id, state, stage, ino, bytes, kept FROM drafts").unwrap();
    let rows = statement.query_map([], |r| {
        Ok(Row {
            id: r.get(0)?,
            state: r.get(1)?,
            stage: r.get(2)?,
            ino: r.get::<_, i64>(3)? as u64,
            bytes: r.get::<_, i64>(4)? as u64,
            kept: r.get::<_, i64>(5)? != 0,
        })
    });
    let rows: Vec<Row> = rows.unwrap().map(Result::unwrap).collect();
    let seen_quarantined = check_staging(m, &rows, &mut wrong);
    check_trash(m, &db, &mut wrong);

    // The newest commit of each inode: what the file with that inode must be.
    let sql = "SELECT c.id, c.path, c.size, c.digest, c.ino, c.duration_us FROM commits c JOIN drafts d USING (id) ORDER BY d.event";
    let mut statement = db.prepare(sql).unwrap();
    let commits = statement.query_map([], |r| {
        let commit = Commit {
            id: r.get(0)?,
            path: r.get(1)?,
            size: r.get::<_, i64>(2)? as u64,
            digest: r.get(3)?,
            recovered: r.get::<_, i64>(5)? == 0,
        };
        Ok((r.get::<_, i64>(4)? as u64, commit))
    });
    let commits: BTreeMap<u64, Commit> = commits.unwrap().map(Result::unwrap).collect();
    let mut files = 0;
    walk(&m.raw(""), Path::new(""), &mut |path, name| {
        let found = path.metadata().unwrap();
        let Some(commit) = commits.get(&found.ino()) else { return };
        files += 1;
        let shown = name.display();
        let data = std::fs::read(path).unwrap();
        let moved_since = commit.recovered && commit.path != name.as_os_str().as_bytes();
        if commit.size != data.len() as u64 && !moved_since {
            wrong.push(format!("{shown}: {} bytes, commit {} says {}", data.len(), commit.id, commit.size));
        }
        if let Some(digest) = &commit.digest
            && *digest != format!("xxh3:{:032x}", xxh3_128(&data))
        {
            wrong.push(format!("{shown}: not the content whose digest commit {} has", commit.id));
        }
    });
    let seen = Seen { commits: one("SELECT count(*) FROM commits") as u64, quarantined: seen_quarantined, files };
    (seen, wrong)
}

/// Files that no commit tells of, where all were written through the mount.
pub fn unrecorded(m: &Mount) -> Vec<String> {
    let db = Connection::open_with_flags(m.state().join("journal.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut statement = db.prepare("SELECT ino FROM commits").unwrap();
    let known: BTreeSet<u64> =
        statement.query_map([], |row| row.get::<_, i64>(0)).unwrap().map(|ino| ino.unwrap() as u64).collect();
    let mut wrong = Vec::new();
    walk(&m.raw(""), Path::new(""), &mut |path, name| {
        if !known.contains(&path.metadata().unwrap().ino()) {
            wrong.push(format!("{}: published, and the journal has no commit of it", name.display()));
        }
    });
    wrong
}

/// Staging holds what is quarantined and nothing else.
fn check_staging(m: &Mount, rows: &[Row], wrong: &mut Vec<String>) -> u64 {
    let mut staged = BTreeMap::new();
    let stage = m.raw(".commitfs/stage");
    for instance in std::fs::read_dir(stage).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(instance.path()).unwrap().flatten() {
            staged.insert(file.file_name().to_string_lossy().into_owned(), file.path());
        }
    }
    let mut quarantined = 0;
    for row in rows.iter().filter(|row| row.state == "quarantined") {
        quarantined += 1;
        match (staged.remove(&row.stage), row.kept) {
            (Some(path), true) => {
                let found = path.metadata().unwrap();
                let read = std::fs::read(&path).map(|data| data.len() as u64).ok();
                if (found.ino(), read) != (row.ino, Some(row.bytes)) {
                    let text =
                        format!("inode {} with {read:?} bytes, row: inode {}, {}", found.ino(), row.ino, row.bytes);
                    wrong.push(format!("quarantined draft {}: {text}", row.id));
                }
            }
            (None, true) => wrong.push(format!("quarantined draft {}: its content is gone", row.id)),
            (Some(_), false) => wrong.push(format!("draft {}: content of a full disk was kept after all", row.id)),
            (None, false) => {}
        }
    }
    for row in rows.iter().filter(|row| row.state != "quarantined") {
        if staged.contains_key(&row.stage) {
            wrong.push(format!("draft {} is {} and still staged", row.id, row.state));
        }
    }
    let known: BTreeSet<&str> = rows.iter().map(|row| row.stage.as_str()).collect();
    // What an NFS client makes of a file that is removed while open goes by itself.
    let own = |name: &&String| !known.contains(name.as_str()) && !name.starts_with(".nfs");
    for name in staged.keys().filter(own) {
        wrong.push(format!("staged file {name} has no row"));
    }
    quarantined
}

/// The trash folder holds what the outbox has rows for and nothing else. Rows whose inode the reaper has just removed go
/// a moment later.
fn check_trash(m: &Mount, db: &Connection, wrong: &mut Vec<String>) {
    let mut statement = db.prepare("SELECT staged, id FROM outbox").unwrap();
    let rows = statement.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?)));
    let mut rows: BTreeMap<String, i64> = rows.unwrap().map(Result::unwrap).collect();
    for instance in std::fs::read_dir(m.raw(".commitfs/trash")).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(instance.path()).unwrap().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let Ok(found) = std::fs::symlink_metadata(file.path()) else { continue };
            if name.starts_with(".nfs") {
                continue;
            }
            if rows.remove(&name).is_none() {
                wrong.push(format!("{name} is in the trash folder and has no row"));
            }
            if found.is_file() && found.nlink() > 1 {
                wrong.push(format!("{name} in the trash folder has {} names", found.nlink()));
            }
        }
    }
    for (name, id) in rows {
        wrong.push(format!("outbox row {id} has no inode {name}"));
    }
}

/// Every regular file below a folder of the raw export, staging left out.
pub fn walk(folder: &Path, below: &Path, visit: &mut impl FnMut(&Path, &Path)) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let name = below.join(entry.file_name());
        if name == Path::new(".commitfs") {
            continue;
        }
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => walk(&entry.path(), &name, visit),
            kind if kind.is_file() => visit(&entry.path(), &name),
            _ => {}
        }
    }
}

/// Every file on the raw export verifies by itself, and is what applications were promised. Returns what is wrong.
pub fn broken_promises(m: &Mount, promises: &BTreeMap<String, Promise>) -> Vec<String> {
    broken_promises_below(m, "", promises)
}

/// As [`broken_promises`], for what is promised below one folder.
pub fn broken_promises_below(m: &Mount, folder: &str, promises: &BTreeMap<String, Promise>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut there: BTreeMap<String, Vec<Header>> = BTreeMap::new();
    walk(&m.raw(folder), Path::new(folder), &mut |path, name| {
        let shown = String::from_utf8_lossy(name.as_os_str().as_bytes()).into_owned();
        match content::verify(&std::fs::read(path).unwrap()) {
            // What is written aside and renamed has the content of its final name.
            Ok(headers) if headers[0].name == content::name_number(shown.trim_end_matches(".tmp")) => {
                there.insert(shown, headers);
            }
            Ok(_) => wrong.push(format!("{shown}: content of another name")),
            Err(error) => wrong.push(format!("{shown}: {error}")),
        }
    });
    for (name, promise) in promises {
        let found = there.get(name).map_or(0, |headers| content::newest(headers));
        if found < promise.closed {
            wrong.push(format!("{name}: generation {found}, but the close of {} had succeeded", promise.closed));
        }
        if found > promise.tried {
            wrong.push(format!("{name}: generation {found}, but only {} were ever written", promise.tried));
        }
    }
    for name in there.keys().filter(|name| !promises.contains_key(*name)) {
        wrong.push(format!("{name}: nobody wrote it"));
    }
    wrong
}

/// Bytes, files and folders of a folder and all below it.
type Sums = BTreeMap<String, (u64, u64, u64)>;

/// Waits until every folder is counted and every change folded, and compares all totals with a walk of the export.
#[track_caller]
pub fn totals(m: &Mount) {
    let mut last = String::new();
    let agreed = poll(LIMIT, || {
        let shown = m.json(&["du", ".", "-d", "100000"]);
        let counting = &shown["counting"];
        if counting["uncounted"] != 0 || counting["unfolded"] != 0 {
            last = format!("not done: {counting}");
            return None;
        }
        let mut told = Sums::new();
        for row in std::iter::once(&shown).chain(shown["list"].as_array().unwrap()) {
            let n = |key: &str| row[key].as_u64().unwrap();
            told.insert(row["path"].as_str().unwrap().to_owned(), (n("rbytes"), n("rfiles"), n("rsubdirs")));
        }
        let mut there = Sums::new();
        sum(&m.raw(""), String::new(), &mut there);
        let differ: Vec<_> = there
            .keys()
            .chain(told.keys())
            .filter(|path| there.get(*path) != told.get(*path))
            .map(|path| format!("{path:?}: du {:?}, walk {:?}", told.get(path), there.get(path)))
            .collect();
        last = differ.join("\n  ");
        differ.is_empty().then_some(())
    });
    assert!(agreed.is_some(), "totals and a walk differ (bytes, files, folders):\n  {last}\n{}", m.log());
}

fn sum(folder: &Path, name: String, sums: &mut Sums) -> (u64, u64, u64) {
    let mut mine = (0, 0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let text = String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned();
        let below = if name.is_empty() { text } else { format!("{name}/{text}") };
        if below == ".commitfs" {
            continue;
        }
        let Ok(found) = entry.metadata() else { continue };
        let more = match found.file_type() {
            kind if kind.is_dir() => {
                let (bytes, files, folders) = sum(&entry.path(), below, sums);
                (bytes, files, folders + 1)
            }
            kind if kind.is_file() => (found.len(), 1, 0),
            _ => (0, 1, 0),
        };
        mine = (mine.0 + more.0, mine.1 + more.1, mine.2 + more.2);
    }
    sums.insert(name, mine);
    mine
}
