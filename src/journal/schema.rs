//! The journal's tables, and how an older file is brought up to date.
//!
//! Times are microseconds since the epoch and are never used for ordering: clocks jump back. Order is that of ids.
//! Paths are BLOBs because names are bytes. Inode numbers and sizes are unsigned 64 bit; inode numbers are stored
//! with the same bits as a signed integer, sizes are clamped to what a signed integer can hold.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, TransactionBehavior};

/// Schema `n` is what the first `n` entries produce; `PRAGMA user_version` says how many have run. Entries are only ever
/// appended: a released one is part of somebody's file.
const MIGRATIONS: &[&str] = &[FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH, SEVENTH, EIGHTH, NINTH, TENTH];

/// The newest schema this program knows.
pub(super) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Key in `meta`: every draft id up to this one may have been given out, also when no row tells of it.
pub(super) const RESERVED: &str = "draft_ids_reserved";

/// `drafts.event` is the event that told of the row's state: the order in which drafts ended.
///
/// The newest row of `events` must never be deleted: the next id is taken from it.
const FIRST: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE drafts (
    id         INTEGER PRIMARY KEY CHECK (id > 0),
    state      TEXT NOT NULL CHECK (state IN ('open', 'sealed', 'committed', 'quarantined', 'discarded')),
    path       BLOB NOT NULL,
    stage      TEXT NOT NULL CHECK (stage <> ''),
    ino        INTEGER NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('new', 'overwrite', 'append', 'truncate')),
    uid        INTEGER NOT NULL,
    gid        INTEGER NOT NULL,
    pid        INTEGER NOT NULL,
    command    TEXT NOT NULL,
    bytes      INTEGER NOT NULL CHECK (bytes >= 0),
    begun_at   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    event      INTEGER NOT NULL,
    reason     TEXT,
    kept       INTEGER NOT NULL CHECK (kept IN (0, 1)),
    CHECK (state NOT IN ('quarantined', 'discarded') OR reason IS NOT NULL)
) STRICT;

CREATE INDEX drafts_unfinished ON drafts (id) WHERE state IN ('open', 'sealed');
CREATE INDEX drafts_quarantined ON drafts (id) WHERE state = 'quarantined';
CREATE INDEX drafts_ended ON drafts (event) WHERE state IN ('committed', 'quarantined', 'discarded');

CREATE TRIGGER drafts_begin BEFORE INSERT ON drafts
WHEN NEW.state NOT IN ('open', 'quarantined')
BEGIN
    SELECT RAISE(ABORT, 'a draft begins open or quarantined');
END;

CREATE TRIGGER drafts_become BEFORE UPDATE OF state ON drafts
WHEN NOT (
       (OLD.state = 'open'        AND NEW.state IN ('sealed', 'committed', 'quarantined', 'discarded'))
    OR (OLD.state = 'sealed'      AND NEW.state IN ('open', 'committed', 'quarantined', 'discarded'))
    OR (OLD.state = 'quarantined' AND NEW.state IN ('committed', 'discarded')))
BEGIN
    SELECT RAISE(ABORT, 'illegal change of state');
END;

CREATE TABLE commits (
    id          INTEGER PRIMARY KEY REFERENCES drafts (id),
    path        BLOB NOT NULL,
    ino         INTEGER NOT NULL,
    size        INTEGER NOT NULL CHECK (size >= 0),
    digest      TEXT,
    mtime       INTEGER NOT NULL,
    uid         INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    duration_us INTEGER NOT NULL CHECK (duration_us >= 0),
    kind        TEXT NOT NULL CHECK (kind IN ('new', 'overwrite', 'append', 'truncate'))
) STRICT;

CREATE TABLE events (
    id       INTEGER PRIMARY KEY CHECK (id > 0),
    at       INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    draft_id INTEGER,
    path     BLOB,
    detail   TEXT
) STRICT;

CREATE INDEX events_of_draft ON events (draft_id);
";

/// What was taken out of the name space, and folder totals.
///
/// `outbox.id` is never used twice (AUTOINCREMENT): names in the trash folder hold it. `folders.parent` is 0 for the
/// root, -1 for a folder that is gone and whose rows are being deleted. `counted_at` is 0 before the first count, and
/// negative when another one is due. Numbers are signed: what was changed from outside may be taken away twice until the
/// next count.
const SECOND: &str = "
CREATE TABLE outbox (
    id           INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    kind         TEXT NOT NULL CHECK (kind IN ('unlink', 'replace', 'tree')),
    state        TEXT NOT NULL CHECK (state IN ('pending', 'dead', 'dropped')),
    path         BLOB NOT NULL,
    staged       TEXT NOT NULL CHECK (staged <> ''),
    ino          INTEGER NOT NULL,
    uid          INTEGER NOT NULL,
    gid          INTEGER NOT NULL,
    bytes        INTEGER NOT NULL CHECK (bytes >= 0),
    files        INTEGER NOT NULL CHECK (files >= 0),
    deleted_at   INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    begun        INTEGER NOT NULL DEFAULT 0 CHECK (begun IN (0, 1)),
    reaped       INTEGER NOT NULL DEFAULT 0,
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_attempt INTEGER NOT NULL,
    last_error   TEXT,
    CHECK (state = 'pending' OR last_error IS NOT NULL)
) STRICT;

CREATE INDEX outbox_staged ON outbox (staged);
CREATE INDEX outbox_due ON outbox (next_attempt) WHERE state = 'pending';

CREATE TRIGGER outbox_become BEFORE UPDATE OF state ON outbox
WHEN NEW.state <> OLD.state AND NOT (
       (OLD.state = 'pending' AND NEW.state = 'dead')
    OR (OLD.state = 'dead'    AND NEW.state IN ('pending', 'dropped'))
    OR (OLD.state = 'dropped' AND NEW.state = 'pending'))
BEGIN
    SELECT RAISE(ABORT, 'illegal change of state');
END;

CREATE TABLE folders (
    id          INTEGER PRIMARY KEY,
    parent      INTEGER NOT NULL,
    name        BLOB NOT NULL,
    bytes       INTEGER NOT NULL DEFAULT 0,
    files       INTEGER NOT NULL DEFAULT 0,
    folders     INTEGER NOT NULL DEFAULT 0,
    rbytes      INTEGER NOT NULL DEFAULT 0,
    rfiles      INTEGER NOT NULL DEFAULT 0,
    rfolders    INTEGER NOT NULL DEFAULT 0,
    rnewest     INTEGER NOT NULL DEFAULT 0,
    counted_at  INTEGER NOT NULL,
    drift_bytes INTEGER NOT NULL DEFAULT 0,
    drift_files INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX folders_name ON folders (parent, name);
CREATE INDEX folders_counted ON folders (counted_at);
INSERT INTO folders (id, parent, name, counted_at) VALUES (1, 0, x'', 0);

CREATE TABLE deltas (
    id     INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL CHECK (kind IN ('count', 'made', 'gone', 'moved')),
    path   BLOB NOT NULL,
    target BLOB,
    bytes  INTEGER NOT NULL,
    files  INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    CHECK ((kind = 'moved') = (target IS NOT NULL))
) STRICT;
";

/// What a commit or an unlink changes in its folder stands in the row of its event, which is written anyway: a row of its
/// own would be one page more in each transaction. `deltas` has the rest; `deltas.after` is the event that was the newest
/// then, which gives both one order. `meta` says up to which event they are folded.
const THIRD: &str = "
ALTER TABLE events ADD COLUMN bytes INTEGER;
ALTER TABLE events ADD COLUMN files INTEGER;
ALTER TABLE deltas ADD COLUMN after INTEGER NOT NULL DEFAULT 0;
INSERT INTO meta (key, value) SELECT 'totals_folded', coalesce(max(id), 0) FROM events;
";

/// Dead letters are few among many rows that wait.
const FOURTH: &str = "
CREATE INDEX outbox_dead ON outbox (id) WHERE state = 'dead';
";

/// Adopted drafts are found by the names of their staged files; no other row is in this index.
const FIFTH: &str = "
CREATE INDEX drafts_adopted ON drafts (stage) WHERE state = 'quarantined' AND path = x'';
";

/// Each event says how many commits there ever were, itself included: whoever asks reads one row, and what is pruned later
/// changes nothing.
const SIXTH: &str = "
ALTER TABLE events ADD COLUMN commits INTEGER;
UPDATE events SET commits = (SELECT count(*) FROM commits)
    + coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'commits_pruned'), 0)
WHERE id = (SELECT max(id) FROM events);
DELETE FROM meta WHERE key = 'commits_pruned';
";

/// What a draft's name held when its close was promised ([`super::held`]); rows of before do not know.
const SEVENTH: &str = "
ALTER TABLE drafts ADD COLUMN below TEXT;
";

/// `moved_from` is the path that the draft had before a rename that was written down first, until it is known that it was made;
/// `moved_with` the inode number of its folder, if it goes along with that. `named` is the event by which a promised draft got
/// its name, and is compared with those of drafts that are still to appear; rows of before go by their state. (Some files of
/// the seventh schema have a column `came_from`: it is left alone.)
const EIGHTH: &str = "
ALTER TABLE drafts ADD COLUMN moved_from BLOB;
ALTER TABLE drafts ADD COLUMN moved_with INTEGER;
ALTER TABLE drafts ADD COLUMN named INTEGER;
UPDATE drafts SET named = event WHERE state = 'sealed';
UPDATE drafts SET named = (
    SELECT max(s.id) FROM events s WHERE s.draft_id = drafts.id AND s.kind = 'sealed'
       AND NOT EXISTS (SELECT 1 FROM events r WHERE r.draft_id = s.draft_id AND r.kind = 'reopened' AND r.id > s.id))
WHERE state = 'committed' AND EXISTS (SELECT 1 FROM drafts WHERE state = 'sealed');
";

/// `folder` is the inode number of the folder where the draft will appear, as it was when the close was promised. `stay` is what the
/// row had before a rename of the draft that was written down first, as JSON: it has that again if the rename was not made.
const NINTH: &str = "
ALTER TABLE drafts RENAME COLUMN moved_with TO folder;
ALTER TABLE drafts ADD COLUMN stay TEXT;
";

/// Folders come out of their index in the order in which they are counted, and what waits for its removal is added up in its
/// index alone: both are asked for often, and the tables may be large.
const TENTH: &str = "
DROP INDEX folders_counted;
CREATE INDEX folders_counted ON folders (counted_at, id DESC);
DROP INDEX outbox_due;
CREATE INDEX outbox_due ON outbox (next_attempt, bytes) WHERE state = 'pending';
";

/// The schema a file has: 0 for a new one.
pub(super) fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Runs the migrations the file has not seen, all in one transaction. The caller has refused newer files.
pub(super) fn migrate(conn: &mut Connection) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let have = usize::try_from(version(&tx)?).unwrap_or(0);
    for sql in MIGRATIONS.iter().skip(have) {
        tx.execute_batch(sql)?;
    }
    tx.pragma_update(None, "user_version", NEWEST)?;
    tx.commit()
}

/// Settings of the one writing connection. The cache is small on purpose: the daemon's memory belongs to its users.
pub(super) fn prepare_writer(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.set_prepared_statement_cache_capacity(96);
    // Answers with the mode that is in force, which is not WAL where shared memory is impossible.
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!("journal_mode stays {mode}, WAL is needed")));
    }
    conn.execute_batch(
        "PRAGMA foreign_keys = ON;
         PRAGMA cache_size = -1024;
         PRAGMA temp_store = MEMORY;
         PRAGMA wal_autocheckpoint = 4000;
         PRAGMA journal_size_limit = 33554432;",
    )
}

/// Settings of a connection that only reads.
pub(super) fn prepare_reader(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::from_secs(2))?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -512; PRAGMA temp_store = MEMORY;")
}

/// Microseconds since the epoch; negative before it.
pub(super) fn micros(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

/// The other way; the epoch itself where the platform cannot say it.
pub(super) fn time(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// Sizes for the file: clamped, since nothing is that large.
pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::DraftState;

    const STATES: [DraftState; 5] =
        [DraftState::Open, DraftState::Sealed, DraftState::Committed, DraftState::Quarantined, DraftState::Discarded];

    #[test]
    fn trigger_and_can_become_say_the_same() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        for from in STATES {
            for to in STATES {
                // The trigger on INSERT is about beginnings only; here every state is needed as a start.
                conn.execute_batch("DROP TRIGGER IF EXISTS drafts_begin; DELETE FROM drafts;").unwrap();
                conn.execute(
                    "INSERT INTO drafts VALUES (1, ?1, x'61', 's', 1, 'new', 0, 0, 0, '', 0, 0, 0, 1, 'why', 1, NULL,
                             NULL, NULL, NULL, NULL)",
                    [from.as_str()],
                )
                .unwrap();
                let changed = conn.execute("UPDATE drafts SET state = ?1", [to.as_str()]);
                assert_eq!(changed.is_ok(), from.can_become(to), "{from:?} -> {to:?}: {changed:?}");
            }
        }
    }

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        migrate(&mut conn).unwrap();
        assert_eq!(version(&conn).unwrap(), NEWEST);
    }

    #[test]
    fn a_file_of_the_first_schema_is_brought_up_to_date() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(FIRST).unwrap();
        conn.pragma_update(None, "user_version", 1).unwrap();
        conn.execute(
            "INSERT INTO drafts VALUES (1, 'open', x'61', 's', 1, 'new', 0, 0, 0, '', 0, 0, 0, 1, NULL, 1)",
            [],
        )
        .unwrap();
        migrate(&mut conn).unwrap();
        assert_eq!(version(&conn).unwrap(), NEWEST);
        let drafts: i64 = conn.query_row("SELECT count(*) FROM drafts", [], |row| row.get(0)).unwrap();
        let folders: i64 = conn.query_row("SELECT count(*) FROM folders", [], |row| row.get(0)).unwrap();
        assert_eq!((drafts, folders), (1, 1));
    }

    #[test]
    fn commits_of_an_older_file_are_counted_once_and_for_all() {
        let mut conn = Connection::open_in_memory().unwrap();
        for older in &MIGRATIONS[..5] {
            conn.execute_batch(older).unwrap();
        }
        conn.pragma_update(None, "user_version", 5).unwrap();
        conn.execute_batch(
            "INSERT INTO meta (key, value) VALUES ('commits_pruned', '40');
             INSERT INTO drafts VALUES (1, 'open', x'61', 's', 1, 'new', 0, 0, 0, '', 0, 0, 0, 1, NULL, 1);
             INSERT INTO commits VALUES (1, x'61', 1, 0, NULL, 0, 0, 0, 0, 'new');
             INSERT INTO events (id, at, kind) VALUES (7, 0, 'begun'), (8, 0, 'committed');",
        )
        .unwrap();
        migrate(&mut conn).unwrap();
        let ever: i64 = conn.query_row("SELECT commits FROM events WHERE id = 8", [], |row| row.get(0)).unwrap();
        assert_eq!(ever, 41);
    }

    #[test]
    fn a_file_of_the_seventh_schema_is_brought_up_to_date_with_and_without_the_column_that_it_had_for_a_while() {
        for extra in ["", "ALTER TABLE drafts ADD COLUMN came_from BLOB;"] {
            let mut conn = Connection::open_in_memory().unwrap();
            for older in &MIGRATIONS[..7] {
                conn.execute_batch(older).unwrap();
            }
            conn.pragma_update(None, "user_version", 7).unwrap();
            conn.execute_batch(extra).unwrap();
            let states = ["sealed", "committed", "committed", "open"];
            conn.execute_batch("DROP TRIGGER drafts_begin").unwrap();
            for (id, state) in (1_i64..).zip(states) {
                conn.execute(
                    "INSERT INTO drafts (id, state, path, stage, ino, kind, uid, gid, pid, command, bytes, begun_at,
                                         changed_at, event, kept)
                     VALUES (?1, ?2, x'61', 's', 1, 'new', 0, 0, 0, '', 0, 0, 0, 10 * ?1 + 5, 1)",
                    (id, state),
                )
                .unwrap();
            }
            conn.execute_batch(
                "INSERT INTO events (id, at, kind, draft_id)
                 VALUES (11, 0, 'sealed', 1), (15, 0, 'retargeted', 1), (21, 0, 'sealed', 2), (25, 0, 'committed', 2),
                        (31, 0, 'sealed', 3), (32, 0, 'reopened', 3), (35, 0, 'committed', 3), (45, 0, 'begun', 4);",
            )
            .unwrap();
            migrate(&mut conn).unwrap();
            let mut named = conn.prepare("SELECT named FROM drafts ORDER BY id").unwrap();
            let named: Vec<Option<i64>> =
                named.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap();
            assert_eq!(named, [Some(15), Some(21), None, None], "{extra}");
        }
    }

    /// How SQLite answers a query.
    fn plan(sql: &str) -> String {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        let mut steps = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        for parameter in 1..=steps.parameter_count() {
            steps.raw_bind_parameter(parameter, 1).unwrap();
        }
        let mut rows = steps.raw_query();
        let mut plan = String::new();
        while let Some(row) = rows.next().unwrap() {
            plan += &format!("{}\n", row.get::<_, String>(3).unwrap());
        }
        plan
    }

    #[test]
    fn folders_to_count_come_out_of_their_index_in_order() {
        let plan = plan(crate::journal::folders::UNCOUNTED);
        assert!(plan.contains("USING INDEX folders_counted") && !plan.contains("TEMP B-TREE"), "{plan}");
    }

    #[test]
    fn what_waits_in_the_outbox_is_added_up_in_its_index() {
        let plan = plan(crate::journal::outbox::COUNTS);
        assert!(plan.contains("USING COVERING INDEX outbox_due"), "{plan}");
    }

    #[test]
    fn a_commit_after_an_event_is_looked_for_after_it_only() {
        let plan = plan(crate::journal::pages::NEWER_COMMIT);
        assert!(plan.contains("USING INDEX drafts_ended (event>?)"), "{plan}");
    }

    #[test]
    fn times_survive_the_round_trip() {
        for us in [0, 1, -1, 1_700_000_000_123_456, -62_000_000_000_000_000] {
            assert_eq!(micros(time(us)), us);
        }
    }
}
