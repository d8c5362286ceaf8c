//! What is written down ahead of the database.

use super::*;

/// Lets the writer do nothing until the sender is dropped.
fn hold(journal: &Journal) -> crossbeam_channel::Sender<()> {
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    on_writer(journal, move |_| assert!(wait.recv().is_err()));
    go
}

fn open_paths(journal: &Journal) -> Vec<(DraftId, Vec<u8>)> {
    journal.unfinished().unwrap().into_iter().map(|row| (row.id, row.path)).collect()
}

#[test]
fn a_crash_before_the_transaction_loses_no_draft_and_no_target() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let held = hold(&journal);
    let (a, b) = (journal.next_draft_id(), journal.next_draft_id());
    journal.submit(begun(a, b"a\xff"));
    journal.submit(begun(b, b"b"));
    journal.submit(Entry::Retargeted {
        id: a,
        path: b"d/a".to_vec(),
        below: Some(Held::Nothing),
        folder: None,
        from: None,
    });
    journal.secure().unwrap();
    let left = crash(dir.path());
    drop(held);
    let again = Journal::open(left.path()).unwrap();
    let row = again.row(a).unwrap().unwrap();
    assert_eq!((row.state, row.path.as_slice(), row.owner.pid), (DraftState::Open, b"d/a".as_slice(), 4711));
    assert_eq!(row.below, Some(Held::Nothing));
    assert_eq!(open_paths(&again).len(), 2);
    assert_eq!(event_ids(left.path()), [1, 2, 3]);
    // A second crash at once: everything is applied once.
    let twice = crash(left.path());
    let again = Journal::open(twice.path()).unwrap();
    assert_eq!(open_paths(&again).len(), 2);
    assert_eq!(event_ids(twice.path()), [1, 2, 3]);
}

#[test]
fn what_is_applied_stays_so_although_its_rows_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let old = journal.next_draft_id();
    journal.submit(begun(old, b"old"));
    journal.submit(committed(old, b"old"));
    let new = journal.next_draft_id();
    journal.submit(begun(new, b"new"));
    journal.wait(journal.submit(Entry::Prune { keep: 1, limit: 100, totals: false })).unwrap();
    assert!(journal.row(old).unwrap().is_none());
    let left = crash(dir.path());
    assert!(std::fs::metadata(left.path().join(redo::FILES[0])).unwrap().len() > 0, "its lines are still there");
    let again = Journal::open(left.path()).unwrap();
    assert_eq!(open_paths(&again), [(new, b"new".to_vec())]);
    assert!(again.row(old).unwrap().is_none());
}

#[test]
fn a_line_that_is_not_whole_is_left_out_alone() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let held = hold(&journal);
    let ids: Vec<_> = (0..3).map(|_| journal.next_draft_id()).collect();
    for &id in &ids {
        journal.submit(begun(id, format!("f{id}").as_bytes()));
    }
    let left = crash(dir.path());
    drop(held);
    let path = left.path().join(redo::FILES[0]);
    let mut text = std::fs::read(&path).unwrap();
    let second = text.iter().position(|&byte| byte == b'\n').unwrap() + 40;
    text[second] ^= 1;
    text.extend_from_slice(b"0123456789abcdef {\"number\":4");
    std::fs::write(&path, text).unwrap();
    let again = Journal::open(left.path()).unwrap();
    let known: Vec<_> = open_paths(&again).into_iter().map(|(id, _)| id).collect();
    assert_eq!(known, [ids[0], ids[2]]);
}

#[test]
fn the_two_files_are_written_in_turn_and_stay_small() {
    const LIMIT: u64 = 4096;
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.0.redo.lock().limit = LIMIT;
    let mut last = 0;
    for _ in 0..40 {
        for _ in 0..10 {
            last = journal.next_draft_id();
            journal.submit(begun(last, b"x"));
            journal.submit(committed(last, b"x"));
        }
        journal.flush().unwrap();
    }
    let len = |dir: &Path| redo::FILES.map(|name| std::fs::metadata(dir.join(name)).unwrap().len());
    assert!(len(dir.path()).iter().all(|&len| 0 < len && len < 2 * LIMIT), "{:?}", len(dir.path()));
    // While nothing is applied, nothing is overwritten, however long it takes.
    let held = hold(&journal);
    for _ in 0..100 {
        journal.submit(begun(journal.next_draft_id(), b"late"));
    }
    let left = crash(dir.path());
    drop(held);
    let again = Journal::open(left.path()).unwrap();
    assert_eq!(open_paths(&again).len(), 100);
    assert_eq!(again.row(last).unwrap().unwrap().state, DraftState::Committed);
}

#[test]
fn the_files_take_turns_when_names_only_go_away() {
    const LIMIT: u64 = 4096;
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.0.redo.lock().limit = LIMIT;
    let take_out = |n: i64| {
        let aside = aside(journal.next_outbox_id());
        journal.leaving(&aside);
        journal.submit(match n % 3 {
            0 => Entry::SetAside(aside.clone()),
            1 => Entry::Together(vec![Entry::SetAside(aside.clone())]),
            _ => Entry::Unlinked { path: aside.path, change: None },
        });
        aside.staged
    };
    for n in 0..400 {
        take_out(n);
        if n % 10 == 0 {
            journal.flush().unwrap();
        }
    }
    let len = |dir: &Path| redo::FILES.map(|name| std::fs::metadata(dir.join(name)).unwrap().len());
    assert!(len(dir.path()).iter().all(|&len| len < 3 * LIMIT), "{:?}", len(dir.path()));
    // While no row is written, nothing that tells of one is overwritten.
    journal.flush().unwrap();
    let held = hold(&journal);
    let names: Vec<_> = (0..100).map(take_out).collect();
    let left = crash(dir.path());
    drop(held);
    let again = Journal::open(left.path()).unwrap();
    assert!(names.iter().all(|staged| again.was_leaving(staged).is_some()));
}

#[test]
fn what_could_not_be_written_down_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.0.redo.lock().file = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let id = journal.next_draft_id();
    journal.submit(begun(id, b"x"));
    journal.secure().unwrap();
    let left = crash(dir.path());
    let again = Journal::open(left.path()).unwrap();
    assert_eq!(open_paths(&again), [(id, b"x".to_vec())]);
    // Neither here nor there.
    fill_disk(&journal);
    let mut ids = (0..).map(|_| journal.next_draft_id());
    until("the database is full", || {
        journal.submit(begun(ids.next().unwrap(), &[b'x'; 4000]));
        journal.secure().is_err()
    });
    free_disk(&journal);
    until("the database writes again", || journal.health().is_ok());
    journal.secure().unwrap();
}

#[test]
fn what_could_not_be_written_down_and_is_refused_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let id = journal.next_draft_id();
    journal.submit(begun(id, b"x"));
    journal.submit(committed(id, b"x"));
    journal.0.redo.lock().file = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let moved = |below| Entry::Retargeted { id, path: b"y".to_vec(), below, folder: None, from: None };
    let along = journal.submit(moved(None));
    assert!(journal.wait(along).is_ok(), "its folder may be renamed at any time");
    let late = journal.submit(moved(Some(Held::Nothing)));
    assert!(matches!(journal.wait(late), Err(JournalError::Refused { .. })));
    journal.secure().unwrap();
}

#[test]
fn what_a_clock_that_was_set_back_wrote_down_is_due_from_now_on() {
    let (written, now) = (9_000_000, 4_000_000);
    let aside = SetAside { due: schema::time(written + 2_000_000), ..aside(1) };
    assert_eq!(redo::heeding_clock(&aside, written, now).due, schema::time(now + 2_000_000));
    assert_eq!(redo::heeding_clock(&aside, now, written).due, aside.due, "a clock that goes on");
}
