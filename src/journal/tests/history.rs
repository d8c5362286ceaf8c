//! What is kept of the past.

use super::*;

fn ids(dir: &Path, table: &str) -> Vec<i64> {
    let conn = Connection::open(dir.join(FILE)).unwrap();
    let mut statement = conn.prepare(&format!("SELECT id FROM {table} ORDER BY id")).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn the_newest_events_are_kept_and_what_has_no_end_stays() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    // Event 1: open. 2 and 3: in quarantine. 4 and 5: discarded. 6 and 7: sealed.
    let [open, kept, gone, sealed] = std::array::from_fn(|_| journal.next_draft_id());
    journal.submit(begun(open, b"open"));
    journal.submit(begun(kept, b"kept"));
    journal.submit(quarantined(kept));
    journal.submit(begun(gone, b"gone"));
    journal.submit(Entry::Discarded { id: gone, reason: "unlinked".to_owned() });
    journal.submit(begun(sealed, b"sealed"));
    journal.submit(Entry::Sealed { id: sealed, bytes: 1, path: b"p".to_vec(), folder: 1, below: Held::Nothing });
    let published: Vec<DraftId> = (0..10).map(|_| journal.next_draft_id()).collect();
    for &id in &published {
        journal.submit(begun(id, b"f"));
        journal.submit(committed(id, b"f"));
    }
    journal.flush().unwrap();
    assert_eq!(ids(dir.path(), "events").len(), 27);

    journal.submit(Entry::Prune { keep: 8, limit: 4, totals: true });
    journal.flush().unwrap();
    assert_eq!(ids(dir.path(), "events"), (5..=27).collect::<Vec<_>>(), "a page, from the oldest on");
    assert_eq!(ids(dir.path(), "drafts").len(), 14, "the event of its end is still there");
    for _ in 0..10 {
        journal.submit(Entry::Prune { keep: 8, limit: 4, totals: true });
    }
    journal.flush().unwrap();
    assert_eq!(ids(dir.path(), "events"), (20..=27).collect::<Vec<_>>());
    let last = &published[6..];
    assert_eq!(ids(dir.path(), "commits"), last);
    assert_eq!(ids(dir.path(), "drafts"), [&[open, kept, sealed], last].concat());
    assert_eq!(journal.read(|reader| reader.counts()).unwrap().committed, 10, "those that went are counted");
    let page = |position| {
        let page = journal.read(|reader| reader.events_page(position, 2)).unwrap();
        (page.known, page.oldest, page.rows.iter().map(|row| row.id).collect::<Vec<_>>())
    };
    assert_eq!(page(18), (false, 20, vec![20, 21]));
    assert_eq!(page(19), (true, 20, vec![20, 21]), "19 was the last one seen: nothing is missing");
    assert_eq!(page(27), (true, 20, vec![]));
    assert_eq!(page(28), (false, 20, vec![20, 21]), "of another journal");

    // What comes to its end later goes later.
    journal.submit(committed(kept, b"kept"));
    journal.submit(Entry::Digested { id: published[0], digest: "xxh3:0".to_owned() });
    journal.submit(Entry::Prune { keep: 8, limit: 100, totals: true });
    journal.flush().unwrap();
    assert!(ids(dir.path(), "commits").contains(&kept));
    // The next id is taken from the newest row, which therefore stays.
    journal.submit(Entry::Prune { keep: 0, limit: 1000, totals: true });
    journal.close();
    assert_eq!(ids(dir.path(), "events"), [28]);
    assert_eq!(ids(dir.path(), "drafts"), [open, kept, sealed]);
    let journal = Journal::open(dir.path()).unwrap();
    let next = journal.next_draft_id();
    assert!(next > published[9], "{next}");
    journal.submit(begun(next, b"g"));
    journal.flush().unwrap();
    assert_eq!(ids(dir.path(), "events"), [28, 29]);
}

#[test]
fn a_change_of_totals_is_folded_before_its_event_goes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let unlinked = |n: usize, change| Entry::Unlinked { path: format!("f{n}").into_bytes(), change };
    for n in 0..20 {
        journal.submit(unlinked(n, (n == 5).then_some(folders::Change { bytes: 7, files: 1 })));
    }
    let prune = |totals| journal.submit(Entry::Prune { keep: 2, limit: 100, totals });
    prune(true);
    journal.flush().unwrap();
    assert_eq!(ids(dir.path(), "events"), (6..=20).collect::<Vec<_>>(), "up to the one that is not folded");
    journal.submit(Entry::Fold { limit: usize::MAX });
    prune(true);
    journal.flush().unwrap();
    assert_eq!(ids(dir.path(), "events"), [19, 20]);
    assert_eq!(journal.read(|reader| reader.folder(b"")).unwrap().unwrap().bytes, 7);
    journal.submit(unlinked(20, Some(folders::Change { bytes: 7, files: 1 })));
    journal.submit(unlinked(21, None));
    journal.submit(unlinked(22, None));
    prune(false);
    journal.flush().unwrap();
    assert_eq!(ids(dir.path(), "events"), [22, 23], "nobody folds where no totals are kept");
}

#[test]
fn whoever_follows_has_the_events_before_a_flush_returns() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let _following = journal.feed().follow();
    for n in 1..=200 {
        journal.submit(begun(journal.next_draft_id(), b"x"));
        journal.flush().unwrap();
        assert_eq!(journal.feed().newest(), n);
    }
    journal.close();
}
