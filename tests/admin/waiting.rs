//! Waiting for a commit, following events, the markers of complete files.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::mount::{show, signal};
use crate::common::{Mount, Setup, eventually};

/// `commitfs ARGS --state-dir STATE`, running.
fn start(m: &Mount, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_commitfs"));
    command.args(args).arg("--state-dir").arg(m.state()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn ended(mut child: Child, code: i32) -> String {
    eventually("the command ends", || child.try_wait().unwrap().is_some());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{}", show(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn newest(m: &Mount) -> String {
    m.recorded();
    m.history().iter().map(|row| row.id).max().unwrap().to_string()
}

#[test]
fn wait_returns_when_the_commit_is_visible() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    let fd = w.open("d/new [x].txt", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    let on_mount = m.mnt().join("d/new [x].txt");
    let waiting = [
        start(&m, &["wait", "d/new [x].txt", "--timeout", "60"]),
        start(&m, &["wait", on_mount.to_str().unwrap(), "--json"]),
    ];
    // Both are subscribed and see nothing: the file is not closed.
    eventually("they wait", || m.http().get("/v1/status").json()["subscribers"] == 2);
    let mut waiting = waiting.map(|mut child| {
        assert_eq!(child.try_wait().unwrap(), None);
        Some(child)
    });
    w.write(fd, "whole").unwrap();
    w.close(fd).unwrap();
    ended(waiting[0].take().unwrap(), 0);
    let said: Value = serde_json::from_str(&ended(waiting[1].take().unwrap(), 0)).unwrap();
    assert_eq!((&said["path"], &said["size"]), (&"d/new [x].txt".into(), &9.into()));
    assert!(m.cli(&["wait", "d/new [x].txt"]).status.success(), "what is there is not waited for");
}

#[test]
fn wait_gives_up_with_124() {
    let m = Mount::new();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    let out = m.cli(&["wait", "f", "--timeout", "300ms"]);
    assert_eq!(out.status.code(), Some(124), "{}", show(&out));
    w.close(fd).unwrap();
    assert_eq!(m.cli(&["wait", "f", "--size", "5", "--timeout", "1"]).status.code(), Some(124));
    assert_eq!(m.cli(&["wait", "f", "--newer-than", &newest(&m), "--timeout", "0"]).status.code(), Some(124));
}

#[test]
fn wait_for_a_newer_version_or_a_size() {
    let m = Mount::new();
    let w = m.agent("W");
    w.put("f", "first").unwrap();
    w.put("other", "x").unwrap();
    let id = newest(&m);
    let newer = start(&m, &["wait", "f", "--newer-than", &id]);
    let sized = start(&m, &["wait", "f", "--size", "3"]);
    eventually("they wait", || m.http().get("/v1/status").json()["subscribers"] == 2);
    w.put("f", "second").unwrap();
    ended(newer, 0);
    w.put("f", "3rd").unwrap();
    ended(sized, 0);
    let renamed = start(&m, &["wait", "renamed"]);
    w.rename("f", "renamed").unwrap();
    ended(renamed, 0);
    assert_eq!(m.cli(&["wait", "renamed", "--newer-than", "0", "--timeout", "0"]).status.code(), Some(124));
}

#[test]
fn wait_outlives_the_daemon() {
    let mut m = Mount::new();
    let waiting = start(&m, &["wait", "f", "--timeout", "120"]);
    eventually("it waits", || m.http().get("/v1/status").json()["subscribers"] == 1);
    m.kill9();
    m.remount();
    m.agent("W").put("f", "x").unwrap();
    ended(waiting, 0);
}

#[test]
fn events_are_followed_across_a_restart_and_commands_run_for_them() {
    let mut m = Mount::new();
    m.agent("W").put("before", "x").unwrap();
    m.recorded();
    let list = m.home().join("seen");
    let command = format!(
        "printf '%s %s %s\\n' \"$COMMITFS_KIND\" \"$COMMITFS_PATH\" \"$(cat \"$COMMITFS_FILE\")\" >> {}",
        list.display()
    );
    let seen = || std::fs::read_to_string(&list).unwrap_or_default();
    let args = ["events", "--follow", "--after", "0", "--kind", "committed", "--path", "[bdf]*"];
    let running = start(&m, &[&args[..], &["--exec", &command]].concat());
    let mut json = start(&m, &[&args[..], &["--json"]].concat());
    let mut lines = BufReader::new(json.stdout.take().unwrap()).lines();
    let mut next = move || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let first = next();
    assert_eq!((&first["path"], &first["kind"]), (&"before".into(), &"committed".into()));
    eventually("the command ran", || seen() == "committed before x\n");
    m.agent("W").put("during", "y").unwrap();
    assert_eq!(next()["path"], "during");
    eventually("the command ran", || seen().ends_with("committed during y\n"));
    m.umount();
    m.remount();
    m.agent("W").put("x-not-wanted", "y").unwrap();
    m.agent("W").put("finally", "z").unwrap();
    assert_eq!(next()["path"], "finally");
    let all = "committed before x\ncommitted during y\ncommitted finally z\n";
    eventually("the command ran for each, once", || seen() == all);
    for child in [running, json] {
        signal(child.id(), Signal::TERM);
        drop(child.wait_with_output().unwrap());
    }
    let past = m.cli_ok(&["events", "--after", "0", "--kind", "committed", "--json"]);
    assert!(past.lines().count() >= 4 && past.contains("\"during\""), "{past}");
    let recent = m.cli_ok(&["events"]);
    assert!(recent.lines().count() <= 20 && recent.contains("finally"), "{recent}");
    for args in [&["events", "--kind", "nothing"][..], &["events", "--follow", "--kind", "committed,nothing"]] {
        let out = m.cli(args);
        assert_eq!(out.status.code(), Some(2), "{}", show(&out));
        assert!(String::from_utf8_lossy(&out.stderr).contains("mismatch"), "it names those there are: {}", show(&out));
    }
}

const MARKED: &str = "[[rule]]\nglob = '*.csv'\ndone_marker = true\n";

/// The marker on the export says what the file beside it holds, or is not there.
fn marker(m: &Mount, name: &str) -> Option<()> {
    let text = m.raw_content(&format!("{name}.done"))?;
    let said: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    let content = m.raw_content(name).expect("a marker has its file");
    assert_eq!(said["size"], content.len(), "{said}");
    assert_eq!(said["digest"], format!("xxh3:{:032x}", xxhash_rust::xxh3::xxh3_128(&content)), "{said}");
    Some(())
}

#[test]
fn a_marker_tells_of_a_complete_file() {
    let m = Setup::default().config(MARKED).mount();
    let (w, r) = m.pair();
    w.put("a.csv", "1,2,3\n").unwrap();
    eventually("it is there with the commit", || marker(&m, "a.csv").is_some());
    assert_eq!(r.cat("a.csv.done").unwrap(), m.raw_content("a.csv.done").unwrap());
    // Written out of order: the digest is taken by reading.
    let fd = w.open("a.csv", "rw").unwrap();
    w.pwrite(fd, 2, "9").unwrap();
    assert!(marker(&m, "a.csv").is_some(), "the old version keeps its marker while it is rewritten");
    w.close(fd).unwrap();
    eventually("the new version", || m.raw_content("a.csv").unwrap() == b"1,9,3\n");
    eventually("and its marker", || marker(&m, "a.csv").is_some());
    assert_eq!(r.cat("a.csv.done").unwrap(), m.raw_content("a.csv.done").unwrap());
    w.put("b.txt", "x").unwrap();
    assert!(m.raw_content("b.txt.done").is_none() && m.raw_content("a.csv.done.done").is_none());
    // A name that loses its version loses its marker.
    w.rename("a.csv", "c.csv").unwrap();
    assert!(m.raw_content("a.csv.done").is_none());
    w.put("d.csv", "x").unwrap();
    eventually("a marker", || marker(&m, "d.csv").is_some());
    w.unlink("d.csv").unwrap();
    assert!(m.raw_content("d.csv.done").is_none());
    // Nothing is published, nothing is marked, the old marker stays.
    w.put("e.csv", "old").unwrap();
    eventually("a marker", || marker(&m, "e.csv").is_some());
    let k = m.agent("K");
    let fd = k.open("e.csv", "w|trunc").unwrap();
    k.write(fd, "new").unwrap();
    k.kill(Signal::KILL);
    let id = m.quarantined("e.csv").id;
    assert!(marker(&m, "e.csv").is_some());
    m.cli_ok(&["quarantine", "publish", &id.to_string()]);
    assert_eq!(m.raw_content("e.csv").unwrap(), b"new");
    assert!(marker(&m, "e.csv").is_some());
}

#[test]
fn a_marker_is_never_beside_another_version_whenever_the_daemon_dies() {
    for point in [
        "commit_after_fsync",
        "marker_before_remove",
        "marker_after_remove",
        "commit_before_rename",
        "commit_after_rename",
        "commit_after_dirsync",
        "marker_before_write",
        "marker_after_stage",
        "commit_after_record",
    ] {
        let mut m = Setup::default().config(MARKED).mount();
        m.agent("W").put("a.csv", "the old version").unwrap();
        eventually("a marker", || marker(&m, "a.csv").is_some());
        m.umount();
        m.set_env("COMMITFS_FAILPOINT", &format!("{point}:1"));
        m.remount();
        let w = m.agent("W");
        drop(w.put("a.csv", "a new one"));
        eventually(point, || m.daemon_is_dead());
        let _right_or_absent = marker(&m, "a.csv");
        drop(w);
        m.daemon_ended();
        m.set_env("COMMITFS_FAILPOINT", "");
        m.remount();
        eventually("it is marked after recovery", || marker(&m, "a.csv").is_some());
        m.settled();
        let stage = std::fs::read_dir(m.raw(".commitfs/stage")).unwrap().flatten();
        let left: Vec<_> =
            stage.flat_map(|i| std::fs::read_dir(i.path()).unwrap().flatten()).map(|f| f.file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("marker")), "{point}: {left:?}");
        m.agent("W").put("a.csv", "and on it goes").unwrap();
        let goes_on = || m.raw_content("a.csv").is_some_and(|text| text == b"and on it goes");
        eventually(point, || goes_on() && marker(&m, "a.csv").is_some());
    }
}
