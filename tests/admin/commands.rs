//! What commands make of the paths, files and numbers that they are given, and what they refuse.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::common::mount::{is_mounted, show, signal};
use crate::common::{Mount, Setup, checker, eventually};

/// `commitfs ARGS --state-dir STATE`, run in a folder.
fn run_in(folder: &Path, m: &Mount, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_commitfs"));
    command.args(args).arg("--state-dir").arg(m.state()).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// `commitfs ARGS`, run in a folder, where this mount is the only one that is to be seen.
fn run_alone(folder: &Path, m: &Mount, args: &[&str]) -> Output {
    const ALONE: &str = "sed -n 's/ - fuse.commitfs .*//p' /proc/self/mountinfo | cut -d ' ' -f 5 | while read -r point; do \
                         [ \"$point\" = \"$0\" ] || umount -l \"$(printf %b \"$point\")\"; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", ALONE]).arg(m.mnt()).arg(env!("CARGO_BIN_EXE_commitfs")).args(args);
    command.current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// It must end with this status, and say all of these words.
#[track_caller]
fn refused(out: &Output, code: i32, words: &[&str]) {
    assert_eq!(out.status.code(), Some(code), "{}", show(out));
    for word in words {
        assert!(String::from_utf8_lossy(&out.stderr).contains(word), "no {word:?} in: {}", show(out));
    }
}

#[test]
fn quarantine_save_writes_to_what_is_no_regular_file() {
    let m = Mount::new();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "half of it").unwrap();
    w.kill(Signal::KILL);
    let id = m.quarantined("f").id.to_string();
    let save = |to: &Path| m.cli(&["quarantine", "save", &id, to.to_str().unwrap()]);

    let fifo = m.home().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    // Open for both, so that neither side waits for the other.
    let both = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let out = save(&fifo);
    assert!(out.status.success(), "{}", show(&out));
    let mut there = [0; 10];
    rustix::fs::fcntl_setfl(&both, rustix::fs::OFlags::NONBLOCK).unwrap();
    std::io::Read::read_exact(&mut &both, &mut there).expect("it was written to");
    assert_eq!(&there, b"half of it");

    let full = m.home().join("full");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let out = save(&full);
    refused(&out, 1, &[&format!("commitfs: {}: No space left", full.display())]);
    let gone = Command::new("sh")
        .args(["-c", "exec 3>&1; { sleep 0.3; \"$@\" 2>&3; echo $? >&3; } | :", "sh", env!("CARGO_BIN_EXE_commitfs")])
        .args(["quarantine", "save", &id, "-", "--state-dir"])
        .arg(m.state())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&gone.stdout), "0\n", "nobody listens, and nobody need be told");

    let stdout = m.home().join("stdout");
    std::os::unix::fs::symlink("/proc/self/fd/1", &stdout).unwrap();
    let out = save(&stdout);
    assert_eq!((out.status.code(), &*out.stdout), (Some(0), &b"half of it"[..]), "{}", show(&out));

    let (link, file) = (m.home().join("link"), m.home().join("file"));
    std::fs::write(&file, "longer than what replaces it").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(save(&link).status.success());
    assert_eq!(std::fs::read(&file).unwrap(), b"half of it");
    for link in [&full, &stdout, &link] {
        assert!(link.is_symlink(), "{} was replaced", link.display());
    }
}

#[test]
fn du_and_refresh_without_a_path_mean_the_whole_mount() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("d/f", "12345").unwrap();
    checker::totals(&m);
    let shown = m.json(&["du"]);
    assert_eq!((&shown["path"], &shown["rfiles"]), (&json!(""), &json!(1)), "{shown}");
    std::fs::write(m.raw("d/g"), "123").unwrap();
    assert_eq!(m.json(&["refresh"])["drift_files"], 1);
}

#[test]
fn refresh_of_what_is_no_folder_fails() {
    let m = Setup::default().admin().mount();
    let w = m.agent("W");
    w.put("file", "x").unwrap();
    w.symlink("d", "link").unwrap();
    w.mkdir("d").unwrap();
    checker::totals(&m);
    let server = m.tcp();
    let headers = [("content-type", "application/json")];
    let ask = |path: &str| {
        let body = json!({ "path": path }).to_string();
        server.ask("POST", "/v1/folders/refresh", &headers, &body).status
    };
    for path in ["nothing", "d/nothing/below", "file", "file/below", "link", ".commitfs", ".commitfs/trash"] {
        refused(&m.cli(&["refresh", path]), 1, &["is no folder of this mount"]);
        assert_eq!(ask(path), 404, "{path}");
    }
    // Made from outside, and removed from outside: refreshing is how that is found.
    std::fs::create_dir_all(m.raw("new/below")).unwrap();
    std::fs::remove_dir(m.raw("d")).unwrap();
    for path in ["d", "new/below"] {
        m.cli_ok(&["refresh", path]);
    }
    assert_eq!(ask("new"), 202);
    checker::totals(&m);
}

#[test]
fn a_symlink_is_no_folder_and_stands_for_itself() {
    let m = Mount::setup().config("retain = '1h'\n").mount();
    let w = m.agent("W");
    w.mkdir("real").unwrap();
    w.put("real/f", "x").unwrap();
    w.symlink("real", "link").unwrap();
    let on_mount = m.mnt().join("link");
    for path in ["link", on_mount.to_str().unwrap(), &format!("{}/", on_mount.display())] {
        refused(&m.cli(&["rm", "-r", path]), 1, &["link: is no folder"]);
    }
    refused(&run_in(m.mnt(), &m, &["rm", "-r", "link"]), 1, &["link: is no folder"]);
    assert_eq!(w.cat("real/f").unwrap(), b"x");

    w.put("old", "old").unwrap();
    w.symlink("real/f", "name").unwrap();
    w.unlink("old").unwrap();
    let find = || m.json(&["trash", "ls"]).as_array().unwrap().iter().find(|row| row["path"] == "old").cloned();
    let row = crate::common::poll(crate::common::wait::LIMIT, find).unwrap();
    let name = m.mnt().join("name");
    m.cli_ok(&["trash", "restore", &row["id"].to_string(), "--replace", "--to", name.to_str().unwrap()]);
    eventually("it took the symlink's name", || w.cat("name").unwrap() == b"old");
    assert_eq!(w.cat("real/f").unwrap(), b"x", "what the symlink led to stays");
}

#[test]
fn what_the_working_folder_has_is_not_taken_for_something_on_the_mount() {
    let m = Mount::setup().config("retain = '1h'\n").mount();
    let w = m.agent("W");
    w.mkdir("data").unwrap();
    w.put("f", "x").unwrap();
    w.unlink("f").unwrap();
    let here = m.home().join("here");
    std::fs::create_dir_all(here.join("data")).unwrap();
    for path in ["data", "./data/"] {
        refused(&run_in(&here, &m, &["rm", "-r", path]), 2, &["here/data", "absolute path"]);
    }
    refused(&run_in(&here, &m, &["trash", "restore", "1", "--to", "data"]), 2, &["here/data", "absolute path"]);
    assert!(w.stat("data").unwrap().is_dir());
    // Looking does no harm.
    checker::totals(&m);
    assert!(run_in(&here, &m, &["du", "data"]).status.success());
    std::fs::remove_dir(here.join("data")).unwrap();
    let out = run_in(&here, &m, &["rm", "-r", "data"]);
    assert!(out.status.success(), "{}", show(&out));
    w.sees_nothing("data");
}

#[test]
fn a_path_on_no_mount_is_not_taken_for_one_on_the_only_mount() {
    let m = Mount::setup().config("retain = '1h'\n").mount();
    let w = m.agent("W");
    w.mkdir("data").unwrap();
    w.mkdir("data/old").unwrap();
    w.put("f", "x").unwrap();
    w.unlink("f").unwrap();
    let root = m.mnt().to_str().unwrap();
    // As after `umount data`, or before it was mounted.
    let here = m.home().join("here");
    std::fs::create_dir_all(here.join("data")).unwrap();
    for path in ["data/old", "./data/old", "data", "nowhere/old"] {
        let words = ["here/", "is on no mount", &format!("--at {root}")];
        refused(&run_alone(&here, &m, &["rm", "-r", "--now", path]), 2, &words);
        refused(&run_alone(&here, &m, &["trash", "restore", "1", "--to", path]), 2, &words);
    }
    assert!(w.stat("data/old").unwrap().is_dir());

    // What only looks takes what the working folder has nothing of.
    checker::totals(&m);
    for verb in [&["du"][..], &["refresh"], &["rules"], &["wait", "--timeout", "1"]] {
        for path in ["data/old", "./data/old", "data"] {
            refused(&run_alone(&here, &m, &[verb, &[path]].concat()), 2, &["here/data", "is on no mount", "--at"]);
        }
        let out = run_alone(m.home(), &m, &[verb, &["data/old"]].concat());
        assert!(out.status.success(), "{}", show(&out));
    }

    let out = run_alone(&here, &m, &["rm", "-r", "--at", root, "data/old"]);
    assert!(out.status.success(), "{}", show(&out));
    w.sees_nothing("data/old");
    let out = run_alone(m.mnt(), &m, &["rm", "-r", "data"]);
    assert!(out.status.success(), "{}", show(&out));
}

#[test]
fn paths_are_read_with_any_slashes_and_never_lead_out() {
    let m = Mount::setup().config("retain = '1h'\n").mount();
    let w = m.agent("W");
    w.mkdir("ts").unwrap();
    for name in ["a", "b", "c"] {
        w.mkdir(&format!("ts/{name}")).unwrap();
    }
    checker::totals(&m);
    for path in ["ts/", "ts//a", "./ts/./a/"] {
        m.cli_ok(&["du", path]);
    }
    for (path, gone) in [("ts/a/", "ts/a"), ("ts//b", "ts/b"), ("./ts/./c", "ts/c")] {
        m.cli_ok(&["rm", "-r", path]);
        w.sees_nothing(gone);
    }
    let absent = m.mnt().join("absent/../../x");
    for path in ["../x", "ts/../x", absent.to_str().unwrap()] {
        for verb in [&["rm", "-r", path][..], &["du", path], &["refresh", path], &["rules", path]] {
            refused(&m.cli(verb), 2, &["'..'"]);
        }
        refused(&m.cli(&["trash", "restore", "1", "--to", path]), 2, &["'..'"]);
    }
}

#[test]
fn a_mount_whose_state_folder_is_gone_can_be_taken_away() {
    for force in [false, true] {
        let mut m = Mount::new();
        m.expect_mess();
        std::fs::remove_dir_all(m.state()).unwrap();
        let mut args = vec![OsStr::new("umount"), m.mnt().as_os_str()];
        args.extend(force.then_some(OsStr::new("--force")));
        let out = m.cli_plain(&args);
        assert!(out.status.success(), "{}", show(&out));
        assert!(!is_mounted(m.mnt()));
        m.daemon_ended();
    }
}

#[test]
fn what_is_asked_of_a_dead_mount_is_not_done_to_another_mount_of_its_export() {
    let mut m = Mount::new();
    m.expect_mess();
    let other = Setup::default().export_of(&m).mount();
    let (w, v) = (m.agent("W"), other.agent("V"));
    w.put("mine", "here").unwrap();
    v.put("theirs", "there").unwrap();
    m.settled();
    other.settled();
    drop(w);
    signal(m.daemon_pid(), Signal::KILL);
    eventually("the daemon is gone", || m.daemon_is_dead());
    let log = m.cli_plain(&["log".as_ref(), m.mnt().as_os_str()]);
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    assert!(log.contains("mine") && !log.contains("theirs"), "{log}");
    let out = m.cli_plain(&["umount".as_ref(), m.mnt().as_os_str()]);
    assert!(out.status.success(), "{}", show(&out));
    assert!(!is_mounted(m.mnt()) && is_mounted(other.mnt()));
    assert_eq!(v.cat("theirs").unwrap(), b"there");
    m.daemon_ended();
}

#[test]
fn a_mount_that_is_in_use_says_by_what_it_may_be() {
    let m = Mount::new();
    let w = m.agent("W");
    let out = m.cli(&["umount"]);
    refused(&out, 1, &["nothing is being written", "working folder", "--force"]);
    drop(w);
}

#[test]
fn a_journal_that_is_gone_and_a_state_folder_that_is_none_are_called_so() {
    let mut m = Mount::new();
    m.expect_mess();
    std::fs::remove_file(m.state().join("journal.sqlite")).unwrap();
    refused(&m.cli(&["log"]), 1, &["was removed or replaced while it was in use", "mounted again"]);
    m.cli(&["umount", "--force"]);
    m.daemon_ended();
    let file = m.home().join("file");
    std::fs::write(&file, "x").unwrap();
    let at = |dir: &Path| m.cli_plain(&["log".as_ref(), "--state-dir".as_ref(), dir.as_os_str()]);
    refused(&at(&file), 2, &["file: is not a folder"]);
    refused(&at(&m.home().join("absent")), 1, &["absent: does not exist"]);
    refused(&at(m.home()), 1, &["has no journal"]);
}

#[test]
fn a_negative_event_number_is_wrong_usage() {
    let m = Mount::new();
    refused(&m.cli(&["events", "--after=-5"]), 2, &["-5"]);
    m.cli_ok(&["events", "--after=0"]);
}

#[test]
fn a_terminal_does_not_act_on_names_in_errors() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("n\n\u{1b}[31ml").unwrap();
    let fd = w.open("n\n\u{1b}[31ml/f", "w|creat").unwrap();
    let reversed = w.open("\u{202e}fdp\u{2028}\u{200b}", "w|creat").unwrap();
    let out = m.cli(&["rm", "-r", "n\n\u{1b}[31ml"]);
    refused(&out, 1, &["n\\n\\u{1b}[31ml: ", "\n  being written: n\\n\\u{1b}[31ml/f\n"]);
    eventually("both are listed", || m.pending().len() == 2);
    assert!(m.cli_ok(&["pending"]).contains("\\u{202e}fdp\\u{2028}\\u{200b}\n"));
    w.close(fd).unwrap();
    w.close(reversed).unwrap();
    let state = m.home().join("state\u{1b}[2J");
    std::fs::rename(m.state(), &state).unwrap();
    let status = m.cli_plain(&["status".as_ref(), "--state-dir".as_ref(), state.as_os_str()]);
    std::fs::rename(&state, m.state()).unwrap();
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(text.contains("state\\u{1b}[2J") && !text.contains('\u{1b}'), "{}", show(&status));
}
