//! Folders that another host removes, and the names that an NFS client makes of removed open files.

use crate::common::mount::peer_base;
use crate::common::{Mount, eventually};
use crate::lab::Lab;

#[test]
fn a_folder_that_another_host_removed_is_an_error_and_no_more() {
    let lab = Lab::enter();
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    w.put("d/f", "content").unwrap();
    let fd = w.open("d/new", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    let held = r.open("d/f", "r").unwrap();
    w.call(&["chdir", "d"]).unwrap();
    m.settled_but(1);
    std::fs::remove_dir_all(lab.on_server(m.export()).join("d")).unwrap();
    let gone = |errno: crate::common::Errno| assert!(errno == "ENOENT" || errno == "ESTALE", "{errno:?}");
    // One without proof has returned when the commit fails.
    w.close(fd).unwrap_or_else(gone);
    gone(w.put("other", "content").unwrap_err());
    gone(w.mkdir("below").unwrap_err());
    gone(w.rename("f", "g").unwrap_err());
    eventually("it is gone", || r.stat("d").is_err());
    gone(r.cat("d/f").unwrap_err());
    assert!(!r.lists(".", "d"));
    // Closing what is gone still works.
    r.close(held).unwrap();
    m.quarantined("d/new");
    // Whoever makes it anew has another folder.
    r.mkdir("d").unwrap();
    r.put("d/f", "another").unwrap();
    assert_eq!(r.cat("d/f").unwrap(), b"another");
    let out = m.json(&["quarantine", "ls"]);
    let id = out[0]["id"].to_string();
    m.cli_ok(&["quarantine", "publish", &id]);
    eventually("what could not be published then can be now", || r.cat("d/new").is_ok_and(|data| data == b"half"));
    crate::common::checker::check(&m);
}

#[test]
fn names_of_removed_open_files_are_neither_listed_nor_counted_nor_committed() {
    let _lab = Lab::enter();
    // Nothing is kept: the client itself must keep what is open.
    let m = Mount::setup().options("retain=0s").mount();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    for name in ["a", "b"] {
        w.put(&format!("d/{name}"), "content").unwrap();
    }
    m.settled();
    let events = m.history().len();
    // A program on this client that does not use the mount.
    let held = std::fs::File::open(m.raw("d/a")).unwrap();
    std::fs::remove_file(m.raw("d/a")).unwrap();
    let there = |folder: &std::path::Path| {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".nfs")).collect::<Vec<_>>()
    };
    let kept = there(&m.raw("d"));
    assert_eq!(kept.len(), 1, "the client keeps what is open");
    eventually("the listing is the folder's", || r.list("d").unwrap() == [b"b"]);
    assert_eq!(r.stat(&format!("d/{}", kept[0])).unwrap_err(), "ENOENT");
    assert_eq!(r.cat(&format!("d/{}", kept[0])).unwrap_err(), "ENOENT");
    assert_eq!(w.put(&format!("d/{}", kept[0]), "x").unwrap_err(), "EPERM");
    m.cli_ok(&["refresh", "."]);
    eventually("nor is it counted", || m.json(&["du", "d"])["rfiles"] == 1);
    assert_eq!(m.json(&["du", "d"])["rbytes"], 7);
    // Of a host that has commitfs too.
    let b = Mount::setup().export_of(&m).mount();
    assert!(peer_base().is_some());
    assert_eq!(b.agent("B").list("d").unwrap(), [b"b"]);
    assert_eq!(m.history().len(), events, "{:?}", m.history());
    drop(held);
    eventually("it goes with its last user", || there(&m.raw("d")).is_empty());
    // And those that the daemon itself makes: a reader has a version open that is replaced.
    let open = r.open("d/b", "r").unwrap();
    for round in 0..3 {
        w.put("d/b", &format!("round {round}")).unwrap();
    }
    assert_eq!(r.pread(open, 0, 10).unwrap(), b"content");
    assert_eq!(r.list("d").unwrap(), [b"b"]);
    r.close(open).unwrap();
    crate::common::checker::check(&m);
}

/// A version that is removed from the trash folder while somebody reads it.
#[test]
fn names_of_removed_open_files_are_no_orphans() {
    let _lab = Lab::enter();
    let m = Mount::setup().options("retain=1s").mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let open = r.open("f", "r").unwrap();
    w.put("f", "new").unwrap();
    let trash = || {
        let folders = std::fs::read_dir(m.raw(".commitfs/trash")).unwrap().flatten();
        let names = folders.flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten());
        names.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    eventually("the client keeps what the reaper has removed", || trash().iter().all(|name| name.starts_with(".nfs")));
    assert_eq!(trash().len(), 1, "{:?}", trash());
    m.settled();
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    assert_eq!(r.pread(open, 0, 10).unwrap(), b"old");
    r.close(open).unwrap();
    eventually("it goes with its last user", || trash().is_empty());
}
