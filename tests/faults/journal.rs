//! The journal's disk fails, its file is damaged, gone, or of a later version, and the clock is wrong.

use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::common::mount::show;
use crate::common::{Mount, checker, eventually};
use crate::faultfs::FaultFs;
use crate::faultfs::disk::Realm;
use crate::faultfs::plan::Op;

/// While the journal cannot be written: what was promised stays, nothing new is promised in vain, reading goes on.
fn refused_by(errno: Errno, names: &[&str]) {
    let fs = FaultFs::new();
    let m = fs.setup_whole().mount();
    let (w, r) = m.pair();
    w.put("before", "before").unwrap();
    m.settled();
    let open = w.open("open", "w|creat").unwrap();
    w.write(open, "begun before").unwrap();
    fs.refuse(Realm::State, Op::writes, errno);
    let mut kept = Vec::new();
    let mut refused = None;
    for n in 0..1000 {
        let name = format!("f{n}");
        match w.put(&name, &name) {
            Ok(()) => kept.push(name),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.expect("writes are refused once nothing can be recorded");
    assert!(names.contains(&refused.0.as_str()), "{refused:?}");
    assert_eq!(r.cat("before").unwrap(), b"before");
    assert!(r.lists(".", "before"));
    r.sees_nothing("open");
    for name in &kept {
        assert_eq!(r.cat(name).unwrap(), name.as_bytes(), "its close had succeeded");
    }
    assert!(m.log().contains("journal cannot write"), "{}", m.log());
    fs.allow();
    eventually("writes are taken again", || w.put("after", "after").is_ok());
    // Its row may have come too late for it; then close says so, and it is not published.
    match w.close(open) {
        Ok(()) => assert_eq!(r.cat("open").unwrap(), b"begun before"),
        Err(error) => {
            assert!(names.contains(&error.0.as_str()), "{error:?}");
            r.sees_nothing("open");
        }
    }
    checker::check(&m);
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    refused_by(Errno::NOSPC, &["ENOSPC"]);
}

#[test]
fn a_disk_that_fails_refuses_writes_until_it_works() {
    refused_by(Errno::IO, &["EIO"]);
}

#[test]
fn a_disk_that_became_read_only_refuses_writes_until_it_is_writable() {
    refused_by(Errno::ROFS, &["EROFS", "EIO"]);
}

/// A mount that has published, and has a draft, and was killed.
fn killed() -> Mount {
    let mut m = Mount::new();
    let w = m.agent("W");
    for n in 0..200 {
        w.put(&format!("f{n}"), "published").unwrap();
    }
    let fd = w.open("draft", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    w.fsync(fd).unwrap();
    m.recorded();
    eventually("one is pending", || m.pending().len() == 1);
    m.recorded();
    m.kill9();
    m
}

fn refuses_to_mount(m: &Mount, why: &[&str]) {
    let args = m.mount_args();
    let args: Vec<&std::ffi::OsStr> = args.iter().map(|arg| arg.as_os_str()).collect();
    let out = m.cli_plain(&args);
    let said = show(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    for word in why {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

fn remove_journal(m: &Mount) {
    for ending in ["", "-wal", "-shm"] {
        let file = m.state().join(format!("journal.sqlite{ending}"));
        if let Err(error) = std::fs::remove_file(&file) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}: {error}", file.display());
        }
    }
}

/// With a new journal everything works; what was published is there, the draft is in quarantine.
fn begins_anew(m: &mut Mount) {
    m.remount();
    let r = m.agent("R");
    assert_eq!(r.cat("f0").unwrap(), b"published");
    eventually("the draft is adopted", || m.quarantine().len() == 1);
    let file = m.home().join("saved");
    m.cli_ok(&["quarantine", "save", &m.quarantine()[0].id.to_string(), file.to_str().unwrap()]);
    assert_eq!(std::fs::read(file).unwrap(), b"half");
    m.agent("W").put("f0", "again").unwrap();
    assert_eq!(r.cat("f0").unwrap(), b"again");
    checker::check(m);
}

#[test]
fn a_file_that_is_no_database_is_refused_with_a_remedy() {
    let mut m = killed();
    remove_journal(&m);
    std::fs::write(m.state().join("journal.sqlite"), vec![b'x'; 8192]).unwrap();
    refuses_to_mount(&m, &["journal", "damaged", "move journal.sqlite* away"]);
    remove_journal(&m);
    begins_anew(&mut m);
}

#[test]
fn a_damaged_page_is_found_and_says_what_to_do() {
    let mut m = killed();
    // Everything into the database itself, then every page but the first is spoiled.
    let file = m.state().join("journal.sqlite");
    let db = rusqlite::Connection::open(&file).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    let raw = std::fs::File::options().write(true).open(&file).unwrap();
    for page in 1..raw.metadata().unwrap().len() / 4096 {
        raw.write_all_at(&[0x5a; 512], page * 4096).unwrap();
    }
    refuses_to_mount(&m, &["journal", "malformed", "move journal.sqlite* away"]);
    assert_eq!(m.raw_content("f0").unwrap(), b"published");
    remove_journal(&m);
    begins_anew(&mut m);
}

#[test]
fn a_journal_that_was_deleted_while_down_begins_anew() {
    let mut m = killed();
    remove_journal(&m);
    begins_anew(&mut m);
}

#[test]
fn a_journal_that_was_deleted_while_in_use_refuses_writes() {
    let mut m = Mount::new();
    let (w, r) = m.pair();
    w.put("before", "before").unwrap();
    m.settled();
    remove_journal(&m);
    let mut promised = Vec::new();
    eventually("writes are refused", || {
        let name = format!("f{}", promised.len());
        match w.put(&name, &name) {
            Ok(()) => {
                promised.push(name);
                false
            }
            Err(error) => error == "EIO",
        }
    });
    assert!(m.log().contains("its journal was removed or replaced"), "{}", m.log());
    assert_eq!(r.cat("before").unwrap(), b"before");
    for name in &promised {
        assert_eq!(r.cat(name).unwrap(), name.as_bytes(), "its close had succeeded");
    }
    drop((w, r));
    m.kill9();
    m.remount();
    let w = m.agent("W");
    w.put("after", "after").unwrap();
    assert_eq!(m.raw_content("before").unwrap(), b"before");
    for name in &promised {
        assert_eq!(m.raw_content(name).unwrap(), name.as_bytes());
    }
    checker::check(&m);
}

#[test]
fn a_journal_of_a_later_version_is_refused() {
    let mut m = killed();
    let file = m.state().join("journal.sqlite");
    let db = rusqlite::Connection::open(&file).unwrap();
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    db.pragma_update(None, "user_version", 999).unwrap();
    drop(db);
    refuses_to_mount(&m, &["schema 999", "use the newer commitfs"]);
    let db = rusqlite::Connection::open(&file).unwrap();
    db.pragma_update(None, "user_version", version).unwrap();
    drop(db);
    m.remount();
    m.quarantined("draft");
    checker::check(&m);
}

#[test]
fn a_clock_that_jumps_back_changes_no_order_and_keeps_nothing_longer() {
    let mut m = Mount::setup().config("retain = \"2s\"\n").unmounted();
    // Ten years ahead.
    m.set_env("COMMITFS_CLOCK", "315360000");
    m.remount();
    let w = m.agent("W");
    w.put("f", "first").unwrap();
    w.put("f", "second").unwrap();
    w.put("gone", "gone").unwrap();
    w.unlink("gone").unwrap();
    m.settled();
    let rows = m.json(&["trash", "ls"]).as_array().unwrap().len();
    drop(w);
    m.kill9();
    m.set_env("COMMITFS_CLOCK", "");
    m.remount();
    let w = m.agent("W");
    let newest = |m: &Mount| m.history().iter().map(|row| row.id).max().unwrap();
    let before = newest(&m);
    w.put("f", "third").unwrap();
    m.settled();
    let log: Vec<String> = m.history().into_iter().map(|row| row.path).collect();
    assert_eq!(log.last().map(String::as_str), Some("f"), "the newest comes last: {log:?}");
    assert!(newest(&m) > before);
    assert!(m.log().contains("the clock was set back") || rows == 0, "{}", m.log());
    eventually("what was unlinked goes when its time is over", || {
        m.json(&["trash", "ls"]).as_array().unwrap().is_empty()
    });
    let out = m.cli_ok(&["wait", m.mnt().join("f").to_str().unwrap(), "--newer-than", &before.to_string()]);
    assert!(!out.contains("timeout"), "{out}");
    checker::check(&m);
}
