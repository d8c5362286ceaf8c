//! Reading the journal: by the daemon for recovery, by the command line with the daemon up or down.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use globset::GlobMatcher;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::record::{Commit, CommitKind, DraftId, DraftRow};
use super::rows::{DRAFT, EVENT, commit_of, draft, event, newest_event, unsigned};
use super::{FILE, JournalError, history, is_in_use, outbox, schema};

/// A read-only connection. Each call is one short read transaction, so that the writer's log can always be reset.
pub struct Reader {
    conn: Connection,
}

/// A draft that has ended, with its commit where it was published.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// The draft.
    pub draft: DraftRow,
    /// What was published.
    pub commit: Option<CommitRow>,
}

/// A commit as the journal remembers it.
#[derive(Clone, Debug)]
pub struct CommitRow {
    /// What was reported.
    pub commit: Commit,
    /// When it was recorded.
    pub at: SystemTime,
}

/// One entry of the event log.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Gapless and ever increasing.
    pub id: i64,
    /// When it was recorded; not an order.
    pub at: SystemTime,
    /// Of a draft: `begun`, `retargeted`, `sealed`, `reopened`, `postponed`, `committed`, `quarantined`, `discarded`,
    /// `mismatch`. Of what was taken out of the name space: `unlinked`, `removed`, `dead`, `restored`.
    pub kind: String,
    /// The draft it tells of.
    pub draft: Option<DraftId>,
    /// The draft's target at that moment.
    pub path: Option<Vec<u8>>,
    /// The reason, where there is one.
    pub detail: Option<String>,
    /// What was published, for `committed`.
    pub commit: Option<Brief>,
}

impl EventRow {
    /// One for tests.
    #[cfg(test)]
    pub(crate) fn sample(id: i64) -> EventRow {
        let kind = "begun".to_owned();
        EventRow {
            id,
            at: SystemTime::UNIX_EPOCH,
            kind,
            draft: Some(1),
            path: Some(b"f".to_vec()),
            detail: None,
            commit: None,
        }
    }
}

/// The little of a commit that its event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// Bytes.
    pub size: u64,
    /// From the beginning of the seal to the durable rename.
    pub duration: Duration,
    /// How it came to be.
    pub kind: CommitKind,
}

/// Everything about one draft.
#[derive(Clone, Debug)]
pub struct Story {
    /// The draft.
    pub draft: DraftRow,
    /// What was published.
    pub commit: Option<CommitRow>,
    /// What happened to it, oldest first.
    pub events: Vec<EventRow>,
}

/// Numbers for `status`.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Drafts open or sealed.
    pub pending: u64,
    /// Their bytes, as last reported.
    pub pending_bytes: u64,
    /// When the oldest of them began.
    pub oldest_pending: Option<SystemTime>,
    /// Versions published, also those that are not remembered any more.
    pub committed: u64,
    /// Drafts in quarantine.
    pub quarantined: u64,
    /// Bytes kept there.
    pub quarantined_bytes: u64,
    /// Newest event; 0 when there is none.
    pub last_event: i64,
    /// What was taken out of the name space.
    pub outbox: outbox::OutboxCounts,
}

impl Reader {
    /// Opens `DIR/journal.sqlite` without writing to it. A journal that its daemon left in the middle of things is read
    /// together with its log; where this user may not create the log's index, and the log is needed, this fails.
    pub fn open(state_dir: &Path) -> Result<Reader, JournalError> {
        let file = state_dir.join(FILE);
        match std::fs::metadata(&file) {
            Ok(_) => {}
            // Opened by a daemon, it was there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_in_use(state_dir) => {
                return Err(JournalError::Removed { dir: state_dir.to_owned() });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(JournalError::Absent { dir: state_dir.to_owned() });
            }
            Err(error) => return Err(JournalError::io("opening", &file, &error)),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = match Connection::open_with_flags(&file, flags).and_then(probe) {
            Ok(conn) => conn,
            Err(error) if needs_index(&error) && log_is_empty(state_dir) => {
                // The log has nothing, so nobody is writing and the file alone is the whole truth.
                Connection::open_with_flags(immutable(&file), flags | OpenFlags::SQLITE_OPEN_URI)
                    .and_then(probe)
                    .map_err(|error| JournalError::sqlite("opening", &error))?
            }
            Err(error) if needs_index(&error) => {
                return Err(JournalError::Io {
                    doing: "reading",
                    path: file,
                    message: "its log was left unfinished and this user may not write to the folder: \
                              run this as the user that mounts, or mount once"
                        .to_owned(),
                    errno: JournalError::sqlite("opening", &error).errno(),
                });
            }
            Err(error) => return Err(JournalError::sqlite("opening", &error)),
        };
        let found = schema::version(&conn).map_err(|error| JournalError::sqlite("opening", &error))?;
        let (dir, known) = (state_dir.to_owned(), schema::NEWEST);
        match found {
            0 => Err(JournalError::Absent { dir }),
            _ if found > known => Err(JournalError::NewerSchema { dir, found, known }),
            _ if found < known => Err(JournalError::OlderSchema { dir, found, known }),
            _ => Ok(Reader { conn }),
        }
    }

    /// Drafts open or sealed, oldest first.
    pub fn pending(&self) -> Result<Vec<DraftRow>, JournalError> {
        self.drafts("WHERE state IN ('open', 'sealed') ORDER BY id")
    }

    /// The same, those that were promised in the order in which they got their names.
    pub fn unfinished(&self) -> Result<Vec<DraftRow>, JournalError> {
        self.drafts("WHERE state IN ('open', 'sealed') ORDER BY coalesce(named, event)")
    }

    /// Drafts in quarantine, oldest first.
    pub fn quarantined(&self) -> Result<Vec<DraftRow>, JournalError> {
        self.drafts("WHERE state = 'quarantined' ORDER BY id")
    }

    /// Whether an inode was published again since this commit, or its name taken away or given back: then it may be another
    /// one with the same number.
    pub fn is_reused(&self, commit: &Commit) -> Result<bool, JournalError> {
        self.read(|conn| {
            conn.prepare_cached(
                "WITH since (event) AS (SELECT event FROM drafts WHERE id = ?1)
                 SELECT EXISTS (SELECT 1 FROM since, commits c JOIN drafts d USING (id)
                                WHERE c.ino = ?2 AND d.event > since.event)
                     OR EXISTS (SELECT 1 FROM since, events e
                                WHERE e.id > since.event AND e.path = ?3 AND e.kind IN ('unlinked', 'restored'))
                     OR EXISTS (SELECT 1 FROM since, events e
                                WHERE e.id > since.event AND e.kind IN ('removed', 'restored')
                                  AND substr(?3, 1, length(e.path) + 1) = CAST(e.path || '/' AS BLOB))",
            )?
            .query_row(params![commit.id, commit.ino.cast_signed(), commit.path], |row| row.get(0))
        })
    }

    /// One draft's row.
    pub fn row(&self, id: DraftId) -> Result<Option<DraftRow>, JournalError> {
        self.read(|conn| conn.prepare_cached(&format!("{DRAFT} WHERE id = ?1"))?.query_row([id], draft).optional())
    }

    /// The newest `n` drafts that have ended, in the order in which they ended; only those whose path matches.
    pub fn log(&self, n: usize, path: Option<&GlobMatcher>) -> Result<Vec<LogRow>, JournalError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!(
                "{DRAFT} WHERE state IN ('committed', 'quarantined', 'discarded') ORDER BY event DESC"
            ))?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while found.len() < n {
                let Some(row) = rows.next()? else { break };
                let draft = draft(row)?;
                if path.is_none_or(|glob| glob.is_match(as_path(&draft.path))) {
                    let commit = commit_of(conn, draft.id)?;
                    found.push(LogRow { draft, commit });
                }
            }
            found.reverse();
            Ok(found)
        })
    }

    /// One draft with all that happened to it.
    pub fn show(&self, id: DraftId) -> Result<Option<Story>, JournalError> {
        let Some(draft) = self.row(id)? else {
            return Ok(None);
        };
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{EVENT} WHERE e.draft_id = ?1 ORDER BY e.id"))?;
            let events = statement.query_map([id], event)?.collect::<rusqlite::Result<_>>()?;
            Ok(Some(Story { draft, commit: commit_of(conn, id)?, events }))
        })
    }

    /// What was published from a draft.
    pub fn commit(&self, id: DraftId) -> Result<Option<CommitRow>, JournalError> {
        self.read(|conn| commit_of(conn, id))
    }

    /// Facts about the instance: `export`, `mountpoint`, `instance`, `pid`, `rules`…
    pub fn meta(&self) -> Result<BTreeMap<String, String>, JournalError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT key, value FROM meta")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    /// Numbers for `status`.
    pub fn counts(&self) -> Result<Counts, JournalError> {
        self.read(|conn| {
            let mut counts = Counts::default();
            conn.query_row(
                "SELECT count(*), coalesce(sum(bytes), 0), min(begun_at) FROM drafts WHERE state IN ('open', 'sealed')",
                [],
                |row| {
                    counts.pending = unsigned(row, 0)?;
                    counts.pending_bytes = unsigned(row, 1)?;
                    counts.oldest_pending = row.get::<_, Option<i64>>(2)?.map(schema::time);
                    Ok(())
                },
            )?;
            conn.query_row(
                "SELECT count(*), coalesce(sum(CASE WHEN kept THEN bytes ELSE 0 END), 0) FROM drafts
                 WHERE state = 'quarantined'",
                [],
                |row| {
                    counts.quarantined = unsigned(row, 0)?;
                    counts.quarantined_bytes = unsigned(row, 1)?;
                    Ok(())
                },
            )?;
            counts.committed = history::commits_ever(conn)?;
            counts.last_event = newest_event(conn)?;
            Ok(counts)
        })
        .and_then(|counts| Ok(Counts { outbox: self.outbox_counts()?, ..counts }))
    }

    /// Which of these staged names belong to a draft that still keeps content.
    pub fn staged(&self, names: &[String]) -> Result<HashSet<String>, JournalError> {
        // A name begins with its draft's number; one that was adopted has a row with another number and without a path.
        let numbers = names.iter().filter_map(|name| name.split('.').next()?.parse::<DraftId>().ok());
        let (numbers, words) = (outbox::list(&numbers.collect::<Vec<_>>()), json(names));
        self.read(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT stage FROM drafts
                 WHERE id IN (SELECT value FROM json_each(?1)) AND (state IN ('open', 'sealed') OR state = 'quarantined' AND kept)
                 UNION SELECT stage FROM drafts INDEXED BY drafts_adopted
                 WHERE state = 'quarantined' AND path = x'' AND kept AND stage IN (SELECT value FROM json_each(?2))",
            )?;
            statement.query_map([numbers, words], |row| row.get(0))?.collect()
        })
    }

    /// At most `limit` drafts behind `after` whose content is kept in quarantine.
    pub fn kept(&self, after: DraftId, limit: usize) -> Result<Vec<DraftRow>, JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(|conn| {
            let sql = format!("{DRAFT} WHERE state = 'quarantined' AND kept AND id > ?1 ORDER BY id LIMIT ?2");
            conn.prepare_cached(&sql)?.query_map([after, limit], draft)?.collect()
        })
    }

    fn drafts(&self, which: &str) -> Result<Vec<DraftRow>, JournalError> {
        self.read(|conn| conn.prepare_cached(&format!("{DRAFT} {which}"))?.query_map([], draft)?.collect())
    }

    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, JournalError> {
        query(&self.conn).map_err(|error| JournalError::sqlite("reading", &error))
    }
}

/// Names as a list for SQL.
pub(super) fn json(names: &[String]) -> String {
    // Text can always be said in JSON.
    serde_json::to_string(names).unwrap_or_default()
}

/// Opening is lazy: only a query finds out whether the file can be read.
fn probe(conn: Connection) -> rusqlite::Result<Connection> {
    schema::prepare_reader(&conn)?;
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
    Ok(conn)
}

/// What SQLite says when it may not create the shared index of the log.
fn needs_index(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied))
}

fn log_is_empty(state_dir: &Path) -> bool {
    match std::fs::metadata(state_dir.join(format!("{FILE}-wal"))) {
        Ok(log) => log.len() == 0,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn immutable(file: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = String::from("file:");
    for &byte in file.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(uri, "%{byte:02x}").unwrap_or_default();
        }
    }
    uri + "?immutable=1"
}

pub(super) fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
