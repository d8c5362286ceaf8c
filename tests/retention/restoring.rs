//! Keeping and restoring.

use crate::common::mount::show;
use crate::common::{Mount, checker, eventually};
use crate::{eventually_empty, id, outbox, row_of, trash};

#[test]
fn an_unlinked_file_is_kept_and_comes_back_whole() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    w.put("d/f", "content").unwrap();
    let ino = r.stat("d/f").unwrap().ino;
    w.unlink("d/f").unwrap();
    r.sees_nothing("d/f");
    let row = row_of(&m, "d/f");
    assert_eq!((&row["kind"], &row["state"], &row["bytes"]), (&"unlink".into(), &"pending".into(), &7.into()));
    assert_eq!(trash(&m).len(), 1);
    w.rmdir("d").unwrap();
    // The folder above is made again.
    m.cli_ok(&["trash", "restore", &id(&row)]);
    assert_eq!(r.cat("d/f").unwrap(), b"content");
    let back = r.stat("d/f").unwrap();
    assert_eq!((back.ino, back.nlink), (ino, 1));
    assert_eq!(m.json(&["trash", "ls"]).as_array().unwrap().len(), 0);
    let again = m.cli(&["trash", "restore", &id(&row)]);
    assert!(!again.status.success() && show(&again).contains("no outbox row"), "{}", show(&again));
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn s58_a_database_that_no_name_tells_of_is_kept_and_others_are_not() {
    let m = Mount::setup().config("[[rule]]\nglob = 'kept.db'\nmode = 'direct'\nretain = '1h'\n").mount();
    let w = m.agent("W");
    let content = [&b"SQLite format 3\0"[..], &[0; 4080]].concat();
    for name in ["store", "named.db", "kept.db"] {
        w.put(name, content.as_slice()).unwrap();
        // In place, in what is there.
        let fd = w.open(name, "rw").unwrap();
        w.pwrite(fd, 2048, "patched").unwrap();
        w.close(fd).unwrap();
    }
    assert!(m.cli_ok(&["rules", m.mnt().join("store").to_str().unwrap()]).contains("direct"));
    for name in ["store", "named.db", "kept.db"] {
        w.unlink(name).unwrap();
    }
    let row = row_of(&m, "store");
    row_of(&m, "kept.db");
    assert_eq!(outbox(&m).len(), 2, "the rule of its name keeps nothing of named.db");
    m.cli_ok(&["trash", "restore", &id(&row)]);
    assert_eq!(&m.agent("R").cat("store").unwrap()[2048..2055], b"patched");
    checker::totals(&m);
}

#[test]
fn each_replaced_version_is_kept_and_a_reader_elsewhere_keeps_what_it_has() {
    let m = Mount::new();
    let other = Mount::setup().export_of(&m).mount();
    let (w, r) = (m.agent("W"), other.agent("R"));
    w.put("f", "first").unwrap();
    let fd = r.open("f", "r").unwrap();
    let ino = r.fstat(fd).unwrap().ino;
    w.put("f", "second").unwrap();
    w.put("g", "third").unwrap();
    w.rename("g", "f").unwrap();
    w.unlink("f").unwrap();
    eventually("three rows", || outbox(&m).len() == 3);
    let kinds: Vec<_> = outbox(&m).iter().map(|row| row["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["replace", "replace", "unlink"]);
    assert_eq!(r.read(fd, 100).unwrap(), b"first");
    // The inode itself is still there: no server would call its handle stale.
    use std::os::unix::fs::MetadataExt;
    let kept: Vec<_> = trash(&m).iter().map(|path| path.metadata().unwrap()).collect();
    assert!(kept.iter().any(|there| there.ino() == ino && (there.nlink() == 1 || is_on_nfs())));
    let row = &outbox(&m)[0];
    m.cli_ok(&["trash", "restore", &id(row), "--to", "old"]);
    assert_eq!(w.cat("old").unwrap(), b"first");
    checker::check(&m);
    checker::totals(&m);
}

/// Where the NFS laboratory has a second client, it has the export too, without commitfs.
#[test]
fn a_reader_on_another_client_keeps_the_version_it_has_open() {
    use std::os::unix::fs::FileExt;
    let m = Mount::new();
    let w = m.agent("W");
    let elsewhere = m.elsewhere();
    const SIZE: u64 = 3 << 20;
    w.mkdir("t").unwrap();
    let mut open = Vec::new();
    for (name, seed) in [("replaced", 1), ("unlinked", 2), ("renamed-over", 3), ("t/in-a-tree", 4)] {
        let fd = w.open(name, "w|creat").unwrap();
        w.fill(fd, 0, SIZE, seed).unwrap();
        w.close(fd).unwrap();
        let file = eventually_open(&elsewhere.join(name));
        // Only the beginning: what is read later comes from the server.
        let mut some = [0];
        file.read_exact_at(&mut some, 0).unwrap();
        open.push((name, seed, file));
    }
    w.put("replaced", "new").unwrap();
    w.unlink("unlinked").unwrap();
    w.put("other", "new").unwrap();
    w.rename("other", "renamed-over").unwrap();
    m.cli_ok(&["rm", "-r", "t"]);
    eventually("four rows", || outbox(&m).iter().filter(|row| row["path"] != ".barrier").count() == 4);
    for (name, seed, file) in &open {
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut there = vec![0; SIZE as usize];
        file.read_exact_at(&mut there, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(there == crate::common::filled(*seed, SIZE), "{name} changed");
        assert_eq!(file.metadata().unwrap_or_else(|error| panic!("{name}: {error}")).len(), SIZE);
    }
    drop(open);
    checker::check(&m);
}

/// An NFS client keeps a name of its own for a file that is open while its name goes.
fn is_on_nfs() -> bool {
    crate::common::mount::peer_base().is_some()
}

/// A client's attribute cache may lag behind.
fn eventually_open(path: &std::path::Path) -> std::fs::File {
    crate::common::poll(crate::common::wait::LIMIT, || std::fs::File::open(path).ok()).unwrap()
}

#[test]
fn nothing_is_restored_over_a_name_unless_told() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    w.put("f", "new").unwrap();
    let row = row_of(&m, "f");
    let refused = m.cli(&["trash", "restore", &id(&row)]);
    assert!(!refused.status.success(), "{}", show(&refused));
    assert_eq!(r.cat("f").unwrap(), b"new");
    m.cli_ok(&["trash", "restore", &id(&row), "--replace"]);
    eventually("the old version is back", || r.cat("f").unwrap() == b"old");
    let rows = outbox(&m);
    assert_eq!(rows.len(), 1, "what it replaced is kept in its turn: {rows:?}");
    assert_eq!(rows[0]["bytes"], 3);
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn purge_does_not_wait_and_retain_of_zero_keeps_nothing() {
    let m = Mount::setup().config("retain = '1h'\n[[rule]]\nglob = '*.tmp'\nretain = 0\n").mount();
    let w = m.agent("W");
    for name in ["a", "b", "c.tmp", "d.tmp", "e.log"] {
        w.put(name, "x").unwrap();
        w.put(name, "xx").unwrap();
        w.unlink(name).unwrap();
    }
    m.recorded();
    let mut kept: Vec<_> = outbox(&m).iter().map(|row| row["path"].as_str().unwrap().to_owned()).collect();
    kept.retain(|path| path != ".barrier");
    assert_eq!(kept, ["a", "a", "b", "b"]);
    let first = row_of(&m, "a");
    m.cli_ok(&["trash", "purge", &id(&first)]);
    eventually("one row is gone", || outbox(&m).iter().all(|row| row["id"] != first["id"]));
    assert!(outbox(&m).len() >= 3);
    m.cli_ok(&["trash", "purge"]);
    eventually_empty(&m);
    checker::check(&m);
}

#[test]
fn link_counts_are_those_of_names_that_can_be_seen() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("a", "x").unwrap();
    w.link("a", "b").unwrap();
    let fd = r.open("a", "r").unwrap();
    w.unlink("a").unwrap();
    assert_eq!(r.fstat(fd).unwrap().nlink, 1);
    assert_eq!(trash(&m).len(), 0, "the content lives on under its other name");
    w.unlink("b").unwrap();
    assert_eq!(trash(&m).len(), 1);
    r.close(fd).unwrap();
    w.put("c", "x").unwrap();
    let fd = r.open("c", "r").unwrap();
    w.put("c", "y").unwrap();
    let names = if is_on_nfs() { 1 } else { 0 };
    eventually("a version without a name has no link", || r.fstat(fd).unwrap().nlink <= names);
    assert_eq!(r.read(fd, 10).unwrap(), b"x");
    if !is_on_nfs() {
        // The NFS client gives an open file a further name of its own, and takes it away when it likes.
        checker::check(&m);
    }
}

#[test]
fn s58_a_restore_that_fails_leaves_the_current_version() {
    let m = Mount::setup().options("retain=1h").mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    w.put("f", "current").unwrap();
    let row = row_of(&m, "f");
    assert_eq!(r.cat("f").unwrap(), b"current");
    let stuck = crate::common::Immutable::new(trash(&m).remove(0));
    let failed = m.cli(&["trash", "restore", &id(&row), "--replace"]);
    assert!(!failed.status.success() && show(&failed).contains("restoring f"), "{}", show(&failed));
    assert_eq!(m.raw_content("f").as_deref(), Some(&b"current"[..]));
    assert_eq!(r.cat("f").unwrap(), b"current");
    drop(stuck);
    assert_eq!((trash(&m).len(), outbox(&m).len()), (1, 1), "nothing of it is left");
    checker::totals(&m);
    m.cli_ok(&["trash", "restore", &id(&row), "--replace"]);
    assert_eq!(r.cat("f").unwrap(), b"old");
    checker::check(&m);
    checker::totals(&m);
}

#[cfg(feature = "failpoints")]
#[test]
fn s58_a_name_is_there_all_the_time_while_another_version_is_restored_over_it() {
    let mut m = Mount::setup().options("retain=1h").unmounted();
    // The first one is that of the second write.
    m.hold_at("replace_after_link", 2);
    m.remount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    w.put("f", "current").unwrap();
    let row = row_of(&m, "f");
    std::thread::scope(|scope| {
        let restored = scope.spawn(|| m.cli_ok(&["trash", "restore", &id(&row), "--replace"]));
        let held = m.held();
        assert_eq!(m.raw_content("f").as_deref(), Some(&b"current"[..]));
        assert_eq!(r.cat("f").unwrap(), b"current");
        drop(held);
        restored.join().unwrap();
    });
    assert_eq!(r.cat("f").unwrap(), b"old");
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn s54_a_version_that_is_restored_has_no_marker_of_another_one() {
    let m = Mount::setup().config("retain = '1h'\n[[rule]]\nglob = '*.csv'\ndone_marker = true\n").mount();
    let (w, r) = m.pair();
    w.put("r.csv", "one").unwrap();
    w.put("r.csv", "two22222").unwrap();
    assert!(r.cat("r.csv.done").is_ok());
    let row = row_of(&m, "r.csv");
    // Not over a name that is there: nothing has changed.
    assert!(!m.cli(&["trash", "restore", &id(&row)]).status.success());
    assert!(r.cat("r.csv.done").is_ok());
    m.cli_ok(&["trash", "restore", &id(&row), "--replace"]);
    assert_eq!(r.cat("r.csv").unwrap(), b"one");
    assert!(m.raw_content("r.csv.done").is_none());
    r.sees_nothing("r.csv.done");
    checker::totals(&m);
    checker::check(&m);
}

#[test]
fn s05_no_folder_is_restored_to_a_name_that_is_being_written() {
    let m = Mount::setup().options("retain=1h").mount();
    let (w, r) = m.pair();
    for folder in ["d", "above"] {
        w.mkdir(folder).unwrap();
        w.put(&format!("{folder}/f"), "content").unwrap();
    }
    m.cli_ok(&["rm", "-r", m.mnt().join("d").to_str().unwrap()]);
    w.unlink("above/f").unwrap();
    w.rmdir("above").unwrap();
    let (tree, file) = (id(&row_of(&m, "d")), id(&row_of(&m, "above/f")));
    for (name, row) in [("d", tree), ("above", file)] {
        let fd = w.open(name, "w|creat").unwrap();
        w.write(fd, "a file").unwrap();
        let restored = m.cli(&["trash", "restore", &row]);
        assert!(!restored.status.success(), "{name}: {}", show(&restored));
        w.close(fd).unwrap();
        assert_eq!(r.cat(name).unwrap(), b"a file");
    }
    m.nothing_quarantined();
    checker::check(&m);
}

#[test]
fn a_restore_to_a_name_that_nothing_can_have_leaves_no_folders() {
    let m = Mount::setup().options("retain=1h").mount();
    let w = m.agent("W");
    w.put("f", "content").unwrap();
    w.unlink("f").unwrap();
    let to = format!("new/below/{}", "n".repeat(256));
    let failed = m.cli(&["trash", "restore", &id(&row_of(&m, "f")), "--to", &to]);
    assert!(!failed.status.success() && show(&failed).contains("too long"), "{}", show(&failed));
    assert!(!m.raw("new").exists());
}
