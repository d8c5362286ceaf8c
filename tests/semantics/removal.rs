//! What is removed, and what folders hold. More in tests/retention and tests/folders.

use crate::common::mount::show;
use crate::common::{Mount, checker, eventually};

#[test]
fn s47_a_file_that_is_gone_is_no_failure_of_syncfs() {
    for options in ["retain=0", "rw"] {
        let m = Mount::setup().options(options).mount();
        let w = m.agent("W");
        for name in ["f", "g"] {
            w.put(name, "content").unwrap();
            // The kernel changes the time of a file that it unlinks, and writes that back afterwards.
            w.stat(name).unwrap();
            w.sh(&format!("rm {name}; sync -f ."));
        }
    }
}

#[test]
fn s47_a_file_written_in_place_that_is_gone_is_no_failure_of_syncfs() {
    let m = Mount::new();
    let w = m.agent("W");
    let here = w.open(".", "r|dir").unwrap();
    for round in 0..10 {
        let fd = w.open("a.log", "rw|creat").unwrap();
        w.write(fd, "one").unwrap();
        w.write(fd, "two").unwrap();
        w.close(fd).unwrap();
        w.unlink("a.log").unwrap();
        assert_eq!(w.call(&["syncfs", &here.to_string()]), Ok(()), "round {round}");
    }
}

#[test]
fn s58_what_is_unlinked_or_replaced_is_kept_for_a_while() {
    let m = Mount::setup().config("[[rule]]\nglob = 'never'\nretain = 0\n").mount();
    let (w, r) = m.pair();
    for name in ["f", "never"] {
        w.put(name, "old").unwrap();
        w.put(name, "new").unwrap();
        w.unlink(name).unwrap();
    }
    m.recorded();
    let kept = |m: &Mount| -> Vec<(i64, String)> {
        let rows = m.json(&["trash", "ls"]);
        let row = |row: &serde_json::Value| (row["id"].as_i64().unwrap(), row["path"].as_str().unwrap().to_owned());
        rows.as_array().unwrap().iter().map(row).filter(|(_, path)| path != ".barrier").collect()
    };
    let rows = kept(&m);
    assert!(rows.len() == 2 && rows.iter().all(|(_, path)| path == "f"), "{rows:?}");
    m.cli_ok(&["trash", "restore", &rows[0].0.to_string()]);
    assert_eq!(r.cat("f").unwrap(), b"old");
    let refused = m.cli(&["trash", "restore", &rows[1].0.to_string()]);
    assert!(!refused.status.success(), "{}", show(&refused));
    m.cli_ok(&["trash", "purge"]);
    eventually("the trash is empty", || kept(&m).is_empty());
    assert_eq!(r.cat("f").unwrap(), b"old");
    checker::check(&m);
}

#[test]
fn s59_a_folder_goes_whole_unless_somebody_writes_in_it() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("t").unwrap();
    w.put("t/f", "x").unwrap();
    let fd = w.open("t/new", "w|creat").unwrap();
    let busy = m.cli(&["rm", "-r", "t"]);
    assert!(!busy.status.success() && show(&busy).contains("t/new"), "{}", show(&busy));
    assert_eq!(r.cat("t/f").unwrap(), b"x");
    w.close(fd).unwrap();
    // Over a version, and with the kernel alone so far.
    let fd = w.open("t/f", "w|append").unwrap();
    w.write(fd, "y").unwrap();
    let busy = m.cli(&["rm", "-r", "t"]);
    assert!(!busy.status.success() && show(&busy).contains("t/f"), "{}", show(&busy));
    w.close(fd).unwrap();
    assert_eq!(r.cat("t/f").unwrap(), b"xy");
    m.cli_ok(&["rm", "-r", "t"]);
    r.sees_nothing("t");
    assert!(!m.raw("t").exists());
    checker::check(&m);
}

#[test]
fn s60_folders_tell_what_they_hold() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    w.mkdir("d/e").unwrap();
    w.put("d/e/f", "12345").unwrap();
    checker::totals(&m);
    assert_eq!(r.xattr("d", "user.commitfs.rbytes").unwrap(), b"5");
    assert_eq!(w.set_xattr("d", "user.commitfs.rbytes", "6").unwrap_err(), "EPERM");
    assert!(r.xattrs("d").unwrap().iter().all(|name| !name.starts_with(b"user.commitfs")), "never listed");
    std::fs::write(m.raw("d/outside"), "123").unwrap();
    let found = m.json(&["refresh", "d"]);
    assert_eq!((&found["drift_bytes"], &found["drift_files"]), (&3.into(), &1.into()));
    checker::totals(&m);
}
