//! The journal's promises, one test each.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use globset::Glob;
use proptest::prelude::*;
use rusqlite::Connection;

use super::read::Reader;
use super::*;

mod history;
mod redone;
mod totals;
mod trouble;

/// An unlinked file in the trash folder, due at once.
fn aside(id: OutboxId) -> SetAside {
    SetAside {
        id,
        kind: OutboxKind::Unlink,
        path: b"d/f".to_vec(),
        staged: format!("{id}.0"),
        ino: 7,
        uid: 1,
        gid: 2,
        bytes: 10,
        files: 1,
        due: SystemTime::UNIX_EPOCH,
        change: None,
    }
}

fn begun(id: DraftId, path: &[u8]) -> Entry {
    Entry::Begun(Begun {
        id,
        path: path.to_vec(),
        stage: format!("{id}.0"),
        ino: u64::MAX - id.cast_unsigned(),
        kind: CommitKind::New,
        owner: Owner { uid: 1000, gid: 100, pid: 4711, command: "cp".to_owned() },
    })
}

fn committed(id: DraftId, path: &[u8]) -> Entry {
    Entry::Committed(Commit {
        id,
        path: path.to_vec(),
        ino: u64::MAX,
        size: 5,
        digest: None,
        mtime: SystemTime::UNIX_EPOCH - Duration::from_secs(1),
        uid: 1000,
        duration: Duration::from_millis(3),
        kind: CommitKind::New,
        change: None,
    })
}

fn quarantined(id: DraftId) -> Entry {
    Entry::Quarantined { id, reason: "killed by signal 9".to_owned(), bytes: 7, kept: true }
}

/// What a kill -9 leaves: the files as they are now, without the process that had them open.
fn crash(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let redo = redo::FILES.map(str::to_owned);
    for name in [FILE.to_owned(), format!("{FILE}-wal")].into_iter().chain(redo) {
        if from.join(&name).exists() {
            std::fs::copy(from.join(&name), to.path().join(&name)).unwrap();
        }
    }
    to
}

fn event_ids(dir: &Path) -> Vec<i64> {
    let conn = Connection::open(dir.join(FILE)).unwrap();
    let mut statement = conn.prepare("SELECT id FROM events ORDER BY id").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Runs on the writer's connection, between two batches.
fn on_writer(journal: &Journal, run: impl FnOnce(&Connection) + Send + 'static) {
    journal.0.intake.run(run);
}

/// Lets the file grow by no page: what a full disk does to SQLite.
fn fill_disk(journal: &Journal) {
    on_writer(journal, |conn| {
        let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    });
}

fn free_disk(journal: &Journal) {
    on_writer(journal, |conn| {
        conn.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
    });
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_draft_from_begin_to_commit() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let id = journal.next_draft_id();
    let path = b"d/\xff\xfename";
    journal.submit(begun(id, path));
    journal.submit(Entry::Grown { id, bytes: 3 });
    let row = journal.row(id).unwrap().unwrap();
    assert_eq!((row.state, row.bytes, row.path.as_slice()), (DraftState::Open, 3, path.as_slice()));
    assert_eq!(row.ino, u64::MAX - id.cast_unsigned());
    assert_eq!(journal.unfinished().unwrap().len(), 1);
    let staged = |names: &[String]| journal.read(|reader| reader.staged(names)).unwrap();
    let name = format!("{id}.0");
    assert_eq!(staged(&[name.clone(), format!("{id}.1"), "7.0".to_owned()]), HashSet::from([name.clone()]));

    journal
        .submit_durable(Entry::Sealed { id, bytes: 5, path: b"p".to_vec(), folder: 1, below: Held::Nothing })
        .unwrap();
    assert_eq!(journal.row(id).unwrap().unwrap().state, DraftState::Sealed);
    journal.wait(journal.submit(committed(id, path))).unwrap();
    journal.wait(journal.submit(Entry::Digested { id, digest: "xxh3:0".to_owned() })).unwrap();
    assert!(journal.unfinished().unwrap().is_empty());
    assert!(staged(&[name]).is_empty());

    let reader = Reader::open(dir.path()).unwrap();
    let story = reader.show(id).unwrap().unwrap();
    let commit = story.commit.unwrap().commit;
    assert_eq!((commit.path.as_slice(), commit.ino, commit.size), (path.as_slice(), u64::MAX, 5));
    assert_eq!(commit.mtime, SystemTime::UNIX_EPOCH - Duration::from_secs(1));
    assert_eq!(commit.digest.as_deref(), Some("xxh3:0"));
    let kinds: Vec<_> = story.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["begun", "sealed", "committed"]);
}

#[test]
fn quarantine_keeps_its_reason_and_can_be_published() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let (kept, given_back, adopted) = (journal.next_draft_id(), journal.next_draft_id(), journal.next_draft_id());
    journal.submit(begun(kept, b"a"));
    journal.submit(quarantined(kept));
    journal.submit(begun(given_back, b"b"));
    journal.submit(Entry::Quarantined { id: given_back, reason: "full".to_owned(), bytes: 0, kept: false });
    journal.submit(Entry::Adopted {
        id: adopted,
        stage: "orphan".to_owned(),
        ino: 9,
        uid: 5,
        bytes: 11,
        reason: "staged file without a row".to_owned(),
    });
    let stages = HashSet::from([format!("{kept}.0"), "orphan".to_owned()]);
    let names = [format!("{kept}.0"), format!("{given_back}.0"), "orphan".to_owned(), "other".to_owned()];
    assert_eq!(journal.read(|reader| reader.staged(&names)).unwrap(), stages);
    let reader = Reader::open(dir.path()).unwrap();
    let ids: Vec<_> = reader.quarantined().unwrap().iter().map(|row| row.id).collect();
    assert_eq!(ids, [kept, given_back, adopted]);
    assert_eq!(reader.row(kept).unwrap().unwrap().reason.as_deref(), Some("killed by signal 9"));
    let counts = reader.counts().unwrap();
    assert_eq!((counts.quarantined, counts.quarantined_bytes), (3, 18));

    journal.submit(committed(kept, b"a"));
    journal.wait(journal.submit(Entry::Discarded { id: adopted, reason: "by admin".to_owned() })).unwrap();
    let log = reader.log(10, None).unwrap();
    let ended: Vec<_> = log.iter().map(|row| (row.draft.id, row.draft.state, row.commit.is_some())).collect();
    assert_eq!(
        ended,
        [
            (given_back, DraftState::Quarantined, false),
            (kept, DraftState::Committed, true),
            (adopted, DraftState::Discarded, false),
        ]
    );
    let glob = Glob::new("a").unwrap().compile_matcher();
    assert_eq!(reader.log(10, Some(&glob)).unwrap().len(), 1);
    assert_eq!(reader.log(1, None).unwrap()[0].draft.id, adopted);
}

#[test]
fn the_newest_commit_of_a_path_and_one_after_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let [first, other, kept, second] = std::array::from_fn(|_| journal.next_draft_id());
    // Events 1 to 8, the last of which tells of a draft that was in quarantine.
    journal.submit(begun(kept, b"f"));
    journal.submit(quarantined(kept));
    for (id, path) in [(first, b"f"), (other, b"g"), (second, b"f")] {
        journal.submit(begun(id, path));
        journal.submit(committed(id, path));
    }
    journal.flush().unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    let id = |found: Option<(i64, read::CommitRow)>| found.map(|(event, row)| (event, row.commit.id));
    let newer = |after| id(reader.newer_commit_of(b"f", after).unwrap());
    assert_eq!(id(reader.newest_commit_of(b"f").unwrap()), Some((8, second)));
    assert_eq!((newer(0), newer(7), newer(8)), (Some((8, second)), Some((8, second)), None));
    journal.submit(committed(kept, b"f"));
    journal.flush().unwrap();
    assert_eq!((newer(8), newer(9)), (Some((9, kept)), None));
    assert_eq!(id(reader.newer_commit_of(b"g", 6).unwrap()), None);
    assert_eq!(id(reader.newer_commit_of(b"g", 5).unwrap()), Some((6, other)));
}

#[test]
fn many_submitters_leave_gapless_events() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let journal = journal.clone();
            std::thread::spawn(move || {
                for _ in 0..200 {
                    let id = journal.next_draft_id();
                    journal.submit(begun(id, b"x"));
                    journal.submit(committed(id, b"x"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    journal.close();
    journal.close();
    assert_eq!(event_ids(dir.path()), (1..=3200).collect::<Vec<_>>());
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.counts().unwrap().committed, 1600);
    assert!(!dir.path().join(format!("{FILE}-wal")).exists() || log_len(dir.path()) == 0);
}

fn log_len(dir: &Path) -> u64 {
    std::fs::metadata(dir.join(format!("{FILE}-wal"))).unwrap().len()
}

#[test]
fn a_queue_becomes_few_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    // The writer is held while the queue fills, so that the batches do not depend on timing.
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    on_writer(&journal, move |_| wait.recv().unwrap());
    let before = log_len(dir.path());
    let tickets: Vec<_> = (0..200).map(|_| journal.submit(begun(journal.next_draft_id(), b"x"))).collect();
    go.send(()).unwrap();
    journal.wait(*tickets.last().unwrap()).unwrap();
    // Each transaction writes at least one 4 KiB page per table it touches; 200 of them would be 2.4 MB.
    assert!(log_len(dir.path()) - before < 400_000, "{}", log_len(dir.path()) - before);
}

#[test]
fn what_was_waited_for_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let id = journal.next_draft_id();
    journal.wait(journal.submit(begun(id, b"x"))).unwrap();
    let left = crash(dir.path());
    let again = Journal::open(left.path()).unwrap();
    assert_eq!(again.unfinished().unwrap()[0].id, id);
    assert!(again.next_draft_id() > id + 100, "ids given out before the crash are not used again");
}

#[test]
fn a_clean_close_loses_no_ids() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.next_draft_id(), 1);
    drop(journal);
    assert_eq!(Journal::open(dir.path()).unwrap().next_draft_id(), 2);
}

#[test]
fn ids_stay_behind_the_reservation() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let mut last = 0;
    for _ in 0..5000 {
        last = journal.next_draft_id();
    }
    journal.wait(journal.submit(begun(last, b"x"))).unwrap();
    let again = Journal::open(crash(dir.path()).path()).unwrap();
    assert!(again.next_draft_id() > last);
}

#[test]
fn a_bad_entry_is_left_out_alone() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let id = journal.next_draft_id();
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    on_writer(&journal, move |_| wait.recv().unwrap());
    journal.submit(begun(id, b"x"));
    let unknown =
        journal.submit(Entry::Sealed { id: 999, bytes: 1, path: b"p".to_vec(), folder: 1, below: Held::Nothing });
    let twice = journal.submit(begun(id, b"again"));
    journal.submit(committed(id, b"x"));
    let late = journal.submit(quarantined(id));
    let good = journal.submit(begun(journal.next_draft_id(), b"y"));
    go.send(()).unwrap();
    journal.wait(good).unwrap();
    for bad in [unknown, twice, late] {
        assert!(matches!(journal.wait(bad), Err(JournalError::Refused { .. })), "{bad:?}");
    }
    journal.health().unwrap();
    assert_eq!(journal.row(id).unwrap().unwrap().state, DraftState::Committed);
    assert_eq!(event_ids(dir.path()), [1, 2, 3]);
}

#[test]
fn a_folder_not_yet_made_is_judged_by_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    check_local(&dir.path().join("a/b/c")).unwrap();
}

#[test]
fn the_reader_works_with_the_daemon_killed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let id = journal.next_draft_id();
    journal.submit(Entry::Meta { key: "export", value: "/e".to_owned() });
    journal.wait(journal.submit(begun(id, b"x"))).unwrap();
    let left = crash(dir.path());
    let reader = Reader::open(left.path()).unwrap();
    assert_eq!(reader.pending().unwrap()[0].id, id);
    assert_eq!(reader.meta().unwrap()["export"], "/e");
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let id = 1..5i64;
    prop_oneof![
        id.clone().prop_map(|id| begun(id, b"p")),
        id.clone().prop_map(|id| Entry::Sealed { id, bytes: 1, path: b"p".to_vec(), folder: 1, below: Held::Nothing }),
        id.clone().prop_map(|id| Entry::Unsealed { id }),
        id.clone().prop_map(|id| Entry::Postponed { id, reason: "rename failed: EIO".to_owned() }),
        id.clone().prop_map(|id| committed(id, b"p")),
        id.clone().prop_map(quarantined),
        id.clone().prop_map(|id| Entry::Discarded { id, reason: "r".to_owned() }),
        id.clone().prop_map(|id| Entry::Retargeted {
            id,
            path: b"q".to_vec(),
            below: Some(Held::Nothing),
            folder: Some(1),
            from: None
        }),
        id.prop_map(|id| Entry::Grown { id, bytes: 2 }),
    ]
}

/// The state an entry asks for.
fn wanted(entry: &Entry) -> Option<(DraftId, DraftState)> {
    match entry {
        Entry::Sealed { id, .. } => Some((*id, DraftState::Sealed)),
        Entry::Unsealed { id } => Some((*id, DraftState::Open)),
        Entry::Committed(commit) => Some((commit.id, DraftState::Committed)),
        Entry::Quarantined { id, .. } => Some((*id, DraftState::Quarantined)),
        Entry::Discarded { id, .. } => Some((*id, DraftState::Discarded)),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sequence_leaves_states_that_can_become_allows(entries in prop::collection::vec(any_entry(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let mut model: std::collections::HashMap<DraftId, DraftState> = std::collections::HashMap::new();
        for entry in entries {
            if let Entry::Begun(begun) = &entry {
                model.entry(begun.id).or_insert(DraftState::Open);
            } else if let Some((id, next)) = wanted(&entry)
                && let Some(state) = model.get_mut(&id)
                && state.can_become(next)
            {
                *state = next;
            }
            journal.submit(entry);
        }
        for id in 1..5 {
            let state = journal.row(id).unwrap().map(|row| row.state);
            prop_assert_eq!(state, model.get(&id).copied());
        }
        let ids = event_ids(dir.path());
        prop_assert_eq!(&ids, &(1..=ids.len() as i64).collect::<Vec<_>>());
        journal.health().unwrap();
    }
}
