//! The outbox and the folder totals, as far as the journal alone can show them.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use super::*;
use crate::journal::folders::FolderRow;

fn set_aside(journal: &Journal, due: SystemTime) -> OutboxId {
    let id = journal.next_outbox_id();
    journal.submit(Entry::SetAside(SetAside { due, ..aside(id) }));
    id
}

#[test]
fn a_row_waits_fails_dies_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let now = SystemTime::now();
    let (early, late) = (set_aside(&journal, UNIX_EPOCH), set_aside(&journal, now + Duration::from_secs(3600)));
    let due = |journal: &Journal| {
        let rows = journal.read(|reader| reader.outbox_due(now, 10)).unwrap();
        rows.iter().map(|row| row.aside.id).collect::<Vec<_>>()
    };
    assert_eq!(due(&journal), [early]);
    assert_eq!(journal.read(|reader| reader.outbox_next()).unwrap(), Some(UNIX_EPOCH));
    let failed = |dead| Entry::ReapFailed(Attempt { id: early, error: "no".to_owned(), next: UNIX_EPOCH, dead });
    journal.submit(failed(false));
    journal.submit(failed(true));
    // A dead row fails no more.
    let again = journal.submit(failed(true));
    assert!(matches!(journal.wait(again), Err(JournalError::Refused { .. })));
    assert!(due(&journal).is_empty());
    let row = journal.read(|reader| reader.outbox_row(early)).unwrap().unwrap();
    assert_eq!((row.state, row.attempts, row.last_error.as_deref()), (OutboxState::Dead, 2, Some("no")));
    journal.submit(Entry::Retry { ids: vec![early] });
    assert_eq!(journal.read(|reader| reader.outbox_row(early)).unwrap().unwrap().attempts, 0);
    let waiting = journal.submit(Entry::Dropped { id: late });
    assert!(journal.wait(waiting).is_err(), "only what is dead can be dropped");
    journal.submit(Entry::Purged { ids: None });
    let soon = journal.read(|reader| reader.outbox_due(SystemTime::now(), 10)).unwrap();
    assert_eq!(soon.len(), 2);
    journal.submit(Entry::Reaped { ids: vec![early, late] });
    journal.close();
    let journal = Journal::open(dir.path()).unwrap();
    assert!(journal.read(|reader| reader.outbox_page(0, 10)).unwrap().is_empty());
    assert!(journal.next_outbox_id() > late, "numbers are not used twice");
}

#[test]
fn together_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let count = Entry::Delta(Delta::Count { folder: Vec::new(), bytes: 5, files: 1, newest: None });
    let ticket = journal.submit(Entry::Together(vec![count.clone(), Entry::Unsealed { id: 99 }]));
    journal.submit(count);
    assert!(matches!(journal.wait(ticket), Err(JournalError::Refused { .. })));
    journal.submit(Entry::Fold { limit: 10 });
    let root = journal.read(|reader| reader.folder(b"")).unwrap().unwrap();
    assert_eq!((root.rbytes, root.rfiles), (5, 1));
}

/// What the totals must be, by the plainest means.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<Vec<u8>, (i64, i64)>);

impl Model {
    fn has(&self, path: &[u8]) -> bool {
        path.is_empty() || self.0.contains_key(path)
    }

    fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = (&'a Vec<u8>, &'a (i64, i64))> {
        self.0.iter().filter(move |(other, _)| is_below(other, path))
    }

    fn remove(&mut self, path: &[u8]) {
        self.0.retain(|other, _| !is_below(other, path) && other != path);
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) {
        let moved: Vec<_> = self
            .0
            .iter()
            .filter(|(other, _)| *other == from || is_below(other, from))
            .map(|(p, n)| (p.clone(), *n))
            .collect();
        self.remove(from);
        for (path, numbers) in moved {
            self.0.insert([to, &path[from.len()..]].concat(), numbers);
        }
    }
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() && !path.is_empty()
        || path.len() > above.len() && path.starts_with(above) && path[above.len()] == b'/'
}

fn check(journal: &Journal, model: &Model) -> Result<(), TestCaseError> {
    let root = (&Vec::new(), model.0.get(&Vec::new()).copied().unwrap_or_default());
    let all = model.0.iter().map(|(path, own)| (path, *own)).filter(|(path, _)| !path.is_empty());
    for (path, own) in all.chain([root]) {
        let row: Option<FolderRow> = journal.read(|reader| reader.folder(path)).unwrap();
        let row = row.ok_or_else(|| TestCaseError::fail(format!("{} is not known", path.escape_ascii())))?;
        let below: Vec<_> = model.below(path).collect();
        let bytes = own.0 + below.iter().map(|(_, numbers)| numbers.0).sum::<i64>();
        let files = own.1 + below.iter().map(|(_, numbers)| numbers.1).sum::<i64>();
        let direct = below.iter().filter(|(other, _)| !other[path.len() + 1..].contains(&b'/') || path.is_empty());
        let direct = if path.is_empty() {
            model.0.keys().filter(|p| !p.is_empty() && !p.contains(&b'/')).count()
        } else {
            direct.count()
        };
        prop_assert_eq!(
            (row.bytes, row.files, row.folders, row.rbytes, row.rfiles, row.rfolders),
            (own.0 as u64, own.1 as u64, direct as u64, bytes as u64, files as u64, below.len() as u64),
            "{}",
            path.escape_ascii()
        );
    }
    Ok(())
}

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..5)
        .prop_map(|names| names.join("/").into_bytes())
}

#[derive(Clone, Debug)]
enum Step {
    Count(Vec<u8>, i64),
    Make(Vec<u8>),
    Remove(Vec<u8>),
    Move(Vec<u8>, Vec<u8>),
    Fold(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any_path(), 1..100i64).prop_map(|(path, bytes)| Step::Count(path, bytes)),
        6 => any_path().prop_map(Step::Make),
        1 => any_path().prop_map(Step::Remove),
        2 => (any_path(), any_path()).prop_map(|(from, to)| Step::Move(from, to)),
        1 => (1..9usize).prop_map(Step::Fold),
    ]
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(b"", |at| &path[..at])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn folding_is_adding_up(steps in prop::collection::vec(any_step(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Count(path, bytes) => {
                    let folder = if model.has(&path) { path } else { Vec::new() };
                    let own = model.0.entry(folder.clone()).or_default();
                    *own = (own.0 + bytes, own.1 + 1);
                    // In the row of an event, or in one of its own: both have one order.
                    journal.submit(if bytes % 2 == 0 {
                        let path = if folder.is_empty() { b"f".to_vec() } else { [&folder[..], b"/f"].concat() };
                        Entry::Unlinked { path, change: Some(Change { bytes, files: 1 }) }
                    } else {
                        Entry::Delta(Delta::Count { folder, bytes, files: 1, newest: None })
                    });
                }
                Step::Make(path) if model.has(parent(&path)) && !model.has(&path) => {
                    model.0.insert(path.clone(), (0, 0));
                    journal.submit(Entry::Delta(Delta::Made(path)));
                }
                Step::Remove(path) if model.has(&path) => {
                    model.remove(&path);
                    journal.submit(Entry::Delta(Delta::Gone(path)));
                }
                Step::Move(from, to)
                    if model.has(&from) && model.has(parent(&to)) && from != to && !is_below(&to, &from)
                        && !is_below(&from, &to) =>
                {
                    model.remove(&to);
                    model.rename(&from, &to);
                    journal.submit(Entry::Delta(Delta::Moved { from, to }));
                }
                Step::Fold(limit) => drop(journal.submit(Entry::Fold { limit })),
                _ => {}
            }
        }
        let left = crash(dir.path());
        journal.submit(Entry::Fold { limit: 1000 });
        check(&journal, &model)?;
        // Rows of folders that are gone are deleted in the end.
        journal.submit(Entry::Fold { limit: 1000 });
        for _ in 0..5 {
            journal.submit(Entry::Fold { limit: 1000 });
        }
        let known = journal.read(|reader| reader.freshness()).unwrap();
        let expected = model.0.keys().filter(|path| !path.is_empty()).count() as u64 + 1;
        prop_assert_eq!((known.folders, known.unfolded), (expected, 0));
        drop(left);
    }
}

#[test]
fn a_commit_tells_what_it_changed_in_its_own_rows() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.submit(Entry::Delta(Delta::Made(b"d".to_vec())));
    let id = journal.next_draft_id();
    journal.submit(begun(id, b"d/f"));
    let Entry::Committed(commit) = committed(id, b"d/f") else { unreachable!() };
    journal.submit(Entry::Committed(Commit { change: Some(Change { bytes: 5, files: 1 }), ..commit }));
    journal.submit(Entry::Delta(Delta::Moved { from: b"d".to_vec(), to: b"e".to_vec() }));
    let fresh = journal.read(|reader| reader.freshness()).unwrap();
    assert_eq!(fresh.unfolded, 3);
    assert_eq!(journal.read(|reader| reader.totals_as_of()).unwrap(), fresh.oldest);
    // One at a time is as good.
    for _ in 0..3 {
        assert!(journal.read(|reader| reader.totals_as_of()).unwrap().is_some());
        journal.submit(Entry::Fold { limit: 1 });
    }
    assert_eq!(journal.read(|reader| reader.totals_as_of()).unwrap(), None);
    let row = journal.read(|reader| reader.folder(b"e")).unwrap().unwrap();
    assert_eq!((row.bytes, row.files, row.newest.is_some()), (5, 1, true));
    // Folded once is folded.
    journal.submit(Entry::Fold { limit: 10 });
    assert_eq!(journal.read(|reader| reader.folder(b"")).unwrap().unwrap().rbytes, 5);
}

#[test]
fn a_batch_is_one_update_per_folder() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let mut path = Vec::new();
    for _ in 0..1000 {
        path = if path.is_empty() { b"d".to_vec() } else { [&path[..], b"/d"].concat() };
        journal.submit(Entry::Delta(Delta::Made(path.clone())));
    }
    journal.wait(journal.submit(Entry::Fold { limit: 5000 })).unwrap();
    for _ in 0..10_000 {
        journal.submit(Entry::Delta(Delta::Count { folder: path.clone(), bytes: 3, files: 1, newest: None }));
    }
    let (tell, told) = crossbeam_channel::bounded(1);
    let changes = |conn: &Connection| conn.query_row("SELECT total_changes()", [], |row| row.get::<_, i64>(0)).unwrap();
    journal.wait(journal.submit(Entry::Meta { key: "x", value: String::new() })).unwrap();
    let before = tell.clone();
    on_writer(&journal, move |conn| before.send(changes(conn)).unwrap());
    let before = told.recv().unwrap();
    journal.wait(journal.submit(Entry::Fold { limit: 10_000 })).unwrap();
    on_writer(&journal, move |conn| tell.send(changes(conn)).unwrap());
    // 10,000 deltas deleted, and one update for each of 1,000 folders and the root.
    assert_eq!(told.recv().unwrap() - before, 10_000 + 1001);
    let root = journal.read(|reader| reader.folder(b"")).unwrap().unwrap();
    assert_eq!((root.rbytes, root.rfiles, root.rfolders), (30_000, 10_000, 1000));
}

#[test]
fn counting_sets_what_is_there_and_tells_the_drift() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let counted = |folder: &[u8], bytes, files| {
        Entry::Counted(Counted { folder: folder.to_vec(), bytes, files, newest: None, exact: true })
    };
    journal.submit(counted(b"", 10, 1));
    journal.submit(Entry::Found { folder: Vec::new(), names: vec![b"a".to_vec(), b"b".to_vec()] });
    journal.submit(counted(b"a", 5, 2));
    let waiting = |journal: &Journal| journal.read(|reader| reader.uncounted(UNIX_EPOCH, 10, &HashSet::new())).unwrap();
    assert_eq!(waiting(&journal), [b"b".to_vec()]);
    journal.submit(counted(b"b", 0, 0));
    journal.submit(Entry::Delta(Delta::Count { folder: b"a".to_vec(), bytes: 7, files: 1, newest: None }));
    journal.submit(counted(b"a", 20, 3));
    let fresh = journal.read(|reader| reader.freshness()).unwrap();
    assert_eq!((fresh.folders, fresh.uncounted, fresh.drift_bytes, fresh.drift_files), (3, 0, 8, 0));
    let root = journal.read(|reader| reader.folder(b"")).unwrap().unwrap();
    assert_eq!((root.rbytes, root.rfiles, root.rfolders, root.folders), (30, 4, 2, 2));
    // A change in a folder that nobody knows has the one above looked at again.
    journal.submit(Entry::Delta(Delta::Count { folder: b"a/new".to_vec(), bytes: 7, files: 1, newest: None }));
    journal.submit(Entry::Fold { limit: 10 });
    assert_eq!(waiting(&journal), [b"a".to_vec()]);
    journal.submit(Entry::Recount { folder: Vec::new() });
    assert_eq!(journal.read(|reader| reader.uncounted_below(b"", UNIX_EPOCH)).unwrap(), 3);
}

#[test]
fn folders_that_are_left_out_hold_up_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let names: Vec<_> = (0..100).map(|n: u8| format!("{n:02}").into_bytes()).collect();
    journal.submit(Entry::Found { folder: Vec::new(), names: names.clone() });
    // The latest found come first: all of the first page are left out.
    let except = names[10..].iter().cloned().collect();
    let mut found = journal.read(|reader| reader.uncounted(UNIX_EPOCH, 11, &except)).unwrap();
    found.sort();
    assert_eq!(found, [&[Vec::new()], &names[..10]].concat());
}

#[test]
fn a_copy_that_is_put_back_does_not_know_what_was_counted_since() {
    let dir = tempfile::tempdir().unwrap();
    let run = |kept: bool| {
        let journal = Journal::open(dir.path()).unwrap();
        let again = kept.then(|| journal.keep_totals().unwrap());
        match kept {
            true => journal.totals_are_complete(),
            false => journal.forgo_totals().unwrap(),
        }
        journal.close();
        again
    };
    let copy = dir.path().join("copy");
    let put_back = || std::fs::copy(&copy, dir.path().join(FILE)).unwrap();
    assert_eq!(run(true), Some(true));
    assert_eq!(run(true), Some(false));
    std::fs::copy(dir.path().join(FILE), &copy).unwrap();
    put_back();
    assert_eq!(run(true), Some(false), "nothing came between");
    put_back();
    assert_eq!(run(true), Some(true));
    std::fs::copy(dir.path().join(FILE), &copy).unwrap();
    run(false);
    put_back();
    assert_eq!(run(true), Some(true), "what came between was not told of");
    assert_eq!(run(true), Some(false));
}
