//! What others are told of commits; the long stories are in the admin suite.

use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::common::{Immutable, Mount, Setup, eventually};

#[test]
fn s54_a_marker_tells_of_the_version_beside_it() {
    let m = Setup::default().config("[[rule]]\nglob = 'out/*'\ndone_marker = true\n").mount();
    let (w, r) = m.pair();
    w.mkdir("out").unwrap();
    for content in ["first", "the second version"] {
        w.put("out/f", content).unwrap();
        let marker = || serde_json::from_slice::<Value>(&m.raw_content("out/f.done")?).ok();
        eventually("it is marked", || marker().is_some_and(|marker| marker["size"] == content.len()));
        let digest = format!("xxh3:{:032x}", xxhash_rust::xxh3::xxh3_128(content.as_bytes()));
        assert_eq!(marker().unwrap()["digest"], digest.as_str());
        assert_eq!(r.cat("out/f.done").unwrap(), m.raw_content("out/f.done").unwrap());
    }
    let fd = w.open("out/f", "w|trunc").unwrap();
    w.write(fd, "not yet").unwrap();
    assert!(m.raw_content("out/f.done").is_some(), "the old version is still the version");
    w.close(fd).unwrap();
    w.unlink("out/f").unwrap();
    assert!(m.raw_content("out/f.done").is_none());
    w.put("unmarked", "x").unwrap();
    m.recorded();
    assert!(m.raw_content("unmarked.done").is_none());
}

#[test]
fn s55_wait_sees_commits_and_not_drafts() {
    let m = Mount::new();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "12345").unwrap();
    assert_eq!(m.cli(&["wait", "f", "--timeout", "0"]).status.code(), Some(124));
    w.close(fd).unwrap();
    assert_eq!(m.cli(&["wait", "f", "--timeout", "60"]).status.code(), Some(0));
    assert_eq!(m.cli(&["wait", "f", "--size", "5", "--timeout", "60"]).status.code(), Some(0));
    assert_eq!(m.cli(&["wait", "f", "--size", "4", "--timeout", "0"]).status.code(), Some(124));
    m.recorded();
    let id = m.history().iter().find(|row| row.path == "f").unwrap().id;
    let newer = ["wait", "f", "--newer-than", &id.to_string(), "--timeout"];
    assert_eq!(m.cli(&[&newer[..], &["0"]].concat()).status.code(), Some(124));
    w.put("f", "again").unwrap();
    assert_eq!(m.cli(&[&newer[..], &["60"]].concat()).status.code(), Some(0));
}

#[test]
fn s56_events_resume_where_they_were_left() {
    let mut m = Mount::new();
    m.agent("W").put("a", "x").unwrap();
    let first = m.http().events("after=0", &[]).event().id.unwrap();
    m.umount();
    m.remount();
    m.agent("W").put("b", "x").unwrap();
    let mut stream = m.http().events("", &[("last-event-id", &first.to_string())]);
    let mut last = first;
    loop {
        let event = stream.event();
        assert_eq!(event.id, Some(last + 1));
        last += 1;
        if event.event == "committed" && event.data["path"] == "b" {
            break;
        }
    }
}

#[test]
fn s57_a_version_that_is_not_what_was_published_is_found() {
    let m = Mount::new();
    m.agent("W").put("f", "content").unwrap();
    m.recorded();
    assert_eq!(m.cli(&["verify"]).status.code(), Some(0));
    std::fs::OpenOptions::new().write(true).open(m.raw("f")).unwrap().write_all_at(b"C", 0).unwrap();
    assert_eq!(m.cli(&["verify", "--path", "f"]).status.code(), Some(1));
    assert!(m.cli_ok(&["events", "--kind", "mismatch"]).contains("mismatch  f"));
}

/// A mount where everything has a marker, and a file that has one.
fn marked() -> (Mount, crate::common::Agent) {
    let m = Setup::default().config("[[rule]]\nglob = '**'\ndone_marker = true\n").mount();
    let w = m.agent("W");
    w.put("f", "content").unwrap();
    eventually("it is marked", || m.raw_content("f.done").is_some());
    (m, w)
}

#[test]
fn s54_what_is_refused_leaves_the_marker() {
    let (m, w) = marked();
    w.put("g", "other").unwrap();
    eventually("it is marked", || m.raw_content("g.done").is_some());
    let markers = || (m.raw_content("f.done"), m.raw_content("g.done"));
    let before = markers();
    {
        let _stuck = Immutable::new(m.raw("f"));
        w.unlink("f").unwrap_err();
        assert_eq!(markers(), before, "unlinked");
        w.rename("f", "h").unwrap_err();
        w.rename("g", "f").unwrap_err();
        assert_eq!(markers(), before, "renamed");
    }
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "new").unwrap();
    {
        let _stuck = Immutable::new(m.raw("f"));
        w.close(fd).unwrap_err();
        assert_eq!(markers(), before, "stored again");
        m.settled();
        let id = m.quarantined("f").id.to_string();
        assert!(!m.cli(&["quarantine", "publish", &id]).status.success());
        assert_eq!(markers(), before, "published by an admin");
    }
    w.put("f", "new").unwrap();
    eventually("the next version has its own", || {
        m.raw_content("f.done").is_some_and(|marker| Some(marker) != before.0)
    });
}

#[test]
fn s54_what_is_no_version_has_no_marker() {
    let (m, w) = marked();
    w.put("g", "other").unwrap();
    eventually("it is marked", || m.raw_content("g.done").is_some());
    w.symlink("elsewhere", "link").unwrap();
    w.rename("link", "f").unwrap();
    assert_eq!(m.raw_content("f.done"), None);
    if w.rename_with("f", "g", "exchange").is_ok() {
        assert_eq!((m.raw_content("f.done"), m.raw_content("g.done")), (None, None));
    }
}

#[test]
fn s54_recovery_marks_nothing_that_was_not_committed_under_its_name() {
    let mut m = Setup::default().config("[[rule]]\nglob = '*.csv'\ndone_marker = true\n").mount();
    let w = m.agent("W");
    w.put("plain", "renamed").unwrap();
    w.rename("plain", "r.csv").unwrap();
    w.put("f.csv", "committed").unwrap();
    eventually("it is marked", || m.raw_content("f.csv.done").is_some());
    let open = ["r.csv", "f.csv"].map(|name| {
        let fd = w.open(name, "w|append").unwrap();
        w.write(fd, "more").unwrap();
        w.fsync(fd).unwrap();
        fd
    });
    assert_eq!(open.len(), 2);
    m.recorded();
    m.kill9();
    drop(w);
    m.remount();
    m.recovered();
    assert_eq!(m.raw_content("r.csv.done"), None);
    assert!(m.raw_content("f.csv.done").is_some());
}
