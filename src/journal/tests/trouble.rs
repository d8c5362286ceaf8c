//! Full disks, foreign files, a second daemon.

use super::*;

#[test]
fn a_full_disk_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    fill_disk(&journal);
    let ids: Vec<_> = (0..600).map(|_| journal.next_draft_id()).collect();
    let long = vec![b'x'; 200];
    for &id in &ids {
        journal.submit(begun(id, &long));
    }
    until("unhealthy", || journal.health().is_err());
    assert_eq!(journal.health().unwrap_err().errno(), rustix::io::Errno::NOSPC.raw_os_error());
    let error = journal
        .submit_durable(Entry::Sealed { id: ids[0], bytes: 1, path: b"p".to_vec(), folder: 1, below: Held::Nothing })
        .unwrap_err();
    assert_eq!(error.errno(), rustix::io::Errno::NOSPC.raw_os_error());
    for bytes in 0..1000 {
        journal.submit(Entry::Grown { id: ids[1], bytes });
    }
    let waiting = journal.submit(Entry::Grown { id: ids[1], bytes: 1234 });
    assert!(journal.wait(waiting).is_err());
    assert!(journal.unfinished().is_err());
    // Readers of what is written go on.
    assert!(Reader::open(dir.path()).unwrap().pending().unwrap().len() < 600);

    free_disk(&journal);
    until("healthy", || journal.health().is_ok());
    journal.wait(waiting).unwrap();
    assert_eq!(journal.unfinished().unwrap().len(), 600);
    assert_eq!(journal.row(ids[0]).unwrap().unwrap().state, DraftState::Sealed);
    assert_eq!(journal.row(ids[1]).unwrap().unwrap().bytes, 1234);
    assert_eq!(event_ids(dir.path()), (1..=601).collect::<Vec<_>>());
}

#[test]
fn closing_on_a_full_disk_ends() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    fill_disk(&journal);
    let tickets: Vec<_> = (0..300).map(|_| journal.submit(begun(journal.next_draft_id(), &[b'x'; 200]))).collect();
    journal.close();
    assert!(journal.wait(*tickets.last().unwrap()).is_err());
    assert!(matches!(journal.wait(journal.submit(quarantined(1))), Err(JournalError::Sqlite { .. })));
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Journal::open(dir.path()).unwrap());
    Connection::open(dir.path().join(FILE)).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Journal::open(dir.path()).err().unwrap();
    assert!(matches!(error, JournalError::NewerSchema { found: 99, .. }), "{error}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()));
    assert!(matches!(Reader::open(dir.path()), Err(JournalError::NewerSchema { .. })));
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Journal::open(dir.path()).unwrap();
    assert!(matches!(Journal::open(dir.path()).err(), Some(JournalError::InUse { .. })));
    first.close();
    Journal::open(dir.path()).unwrap();
}

#[test]
fn rubbish_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), vec![b'x'; 8192]).unwrap();
    assert!(Journal::open(dir.path()).is_err());
    assert!(Reader::open(dir.path()).is_err());
    assert!(matches!(Reader::open(&dir.path().join("none")), Err(JournalError::Absent { .. })));
}

/// A real full disk: a tmpfs of 512 KiB. Mounting it needs privileges; `a_full_disk_loses_nothing` needs none.
#[test]
fn a_full_file_system_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let small = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
        .arg(dir.path())
        .stderr(std::process::Stdio::null())
        .status();
    if !small.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no right to mount a tmpfs");
        return;
    }
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            drop(std::process::Command::new("umount").arg("-l").arg(self.0).status());
        }
    }
    let _mounted = Mounted(dir.path());
    let journal = Journal::open(dir.path()).unwrap();
    let long = vec![b'x'; 300];
    let mut submitted = 0;
    until("full", || {
        for _ in 0..100 {
            journal.submit(begun(journal.next_draft_id(), &long));
            submitted += 1;
        }
        journal.health().is_err()
    });
    assert_eq!(journal.health().unwrap_err().errno(), rustix::io::Errno::NOSPC.raw_os_error());
    assert!(journal.submit_durable(begun(journal.next_draft_id(), &long)).is_err());
    submitted += 1;
    let remount = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(dir.path()).status();
    assert!(remount.unwrap().success());
    until("healthy", || journal.health().is_ok());
    assert_eq!(journal.unfinished().unwrap().len(), submitted);
    journal.close();
    assert_eq!(event_ids(dir.path()).len(), submitted);
}
