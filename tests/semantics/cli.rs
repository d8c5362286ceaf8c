//! What the command line says, and what it refuses.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::common::mount::{is_mounted, mounts, show};
use crate::common::{Mount, Setup, SmallFs, eventually};

#[test]
fn s44_the_log_says_what_was_published() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("d/f", "twelve bytes").unwrap();
    w.append("d/f", "!").unwrap();
    w.truncate("d/f", 3).unwrap();
    w.put("d/f", "again").unwrap();
    m.settled();
    let rows: Vec<_> = m.history().into_iter().filter(|r| r.path == "d/f").collect();
    let mut sizes: Vec<_> = rows.iter().map(|r| (r.id, r.bytes)).collect();
    sizes.sort_unstable();
    assert_eq!(sizes.into_iter().map(|(_, b)| b).collect::<Vec<_>>(), [12, 13, 3, 5]);
    for row in &rows {
        assert_eq!((row.state.as_str(), row.pid, row.uid, row.command.as_str()), ("committed", w.pid(), 0, "agent"));
        let shown = m.json(&["show", &row.id.to_string()]);
        assert!(shown.to_string().contains("d/f"), "{shown}");
    }
    let limited = m.json(&["log", "-n", "2"]);
    assert_eq!(limited.as_array().map(Vec::len), Some(2));
    let globbed = m.json(&["log", "--path", "*.none"]);
    assert_eq!(globbed.as_array().map(Vec::len), Some(0));
    let globbed = m.json(&["log", "--path", "d/*"]);
    assert_eq!(globbed.as_array().map(Vec::len), Some(4));
}

#[test]
fn s44_the_digest_in_the_journal_is_that_of_the_content() {
    let m = Mount::new();
    let w = m.agent("W");
    let fd = w.open("f", "rw|creat").unwrap();
    w.fill(fd, 0, 100_000, 5).unwrap();
    w.pwrite(fd, 17, "patched after it had streamed through").unwrap();
    w.close(fd).unwrap();
    w.append("f", "appended").unwrap();
    w.put("g", "short").unwrap();
    for (path, count) in [("f", 2), ("g", 1)] {
        eventually("committed", || m.commits_of(path) == count);
        let content = m.raw_content(path).unwrap();
        let digest = format!("xxh3:{:032x}", xxhash_rust::xxh3::xxh3_128(&content));
        let newest = m.history().into_iter().filter(|r| r.path == path).max_by_key(|r| r.id).unwrap();
        eventually("the journal has its digest", || {
            m.json(&["show", &newest.id.to_string()]).to_string().contains(&digest)
        });
    }
}

#[test]
fn s51_pending_rows_tell_who_writes_what() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    let fd = w.open("d/f", "w|creat").unwrap();
    // No fsync: what the kernel has gathered and not passed on counts too.
    w.fill(fd, 0, 123_456, 1).unwrap();
    eventually("its size is reported", || m.pending().iter().any(|r| r.bytes == 123_456));
    let rows = m.pending();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.path.as_str(), row.state.as_str()), ("d/f", "open"));
    assert_eq!((row.pid, row.uid, row.command.as_str()), (w.pid(), 0, "agent"));
    assert!(row.age_seconds >= 0.0 && row.id > 0);
    w.rename("d/f", "d/g").unwrap();
    eventually("the row follows", || m.pending()[0].path == "d/g");
    w.close(fd).unwrap();
    m.settled();
    for verb in [&["pending"][..], &["log"], &["status"], &["quarantine", "ls"]] {
        for place in [m.mnt(), m.export()] {
            let mut args: Vec<&OsStr> = verb.iter().map(OsStr::new).collect();
            args.push(place.as_os_str());
            let mut found = m.cli_plain(&args);
            if !found.status.success() {
                args.insert(verb.len(), OsStr::new("--json"));
                found = m.cli_plain(&args);
            }
            assert!(found.status.success(), "{args:?}: {}", show(&found));
        }
    }
}

#[test]
fn s51_the_journal_is_readable_with_the_daemon_down() {
    let mut m = Mount::new();
    let w = m.agent("W");
    w.put("f", "x").unwrap();
    drop(w);
    m.umount();
    assert_eq!(m.commits_of("f"), 1);
    assert!(m.pending().is_empty() && m.quarantine().is_empty());
    m.cli_ok(&["status"]);
    m.cli_ok(&["log"]);
    m.cli_ok(&["pending"]);
}

/// `commitfs mount` with these arguments must end by itself, and leave nothing mounted.
fn refused(args: &[&OsStr], codes: &[i32], words: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_commitfs"))
        .args(args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let limit = std::time::Duration::from_secs(30);
    if crate::common::poll(limit, || child.try_wait().unwrap()).is_none() {
        crate::common::mount::signal(child.id(), Signal::TERM);
        child.wait().unwrap();
        panic!("{args:?} was not refused");
    }
    let out = child.wait_with_output().unwrap();
    let said = show(&out);
    assert!(out.status.code().is_some_and(|c| codes.contains(&c)), "{args:?}: {said}");
    let stderr = String::from_utf8_lossy(&out.stderr).to_lowercase();
    assert!(!stderr.contains("panicked"), "{said}");
    for word in words {
        assert!(stderr.contains(&word.to_lowercase()), "{args:?}: no {word:?} in: {said}");
    }
    out
}

#[test]
fn s52_what_cannot_be_mounted_is_refused() {
    let m = Setup::default().unmounted();
    let (export, mnt, state) = (m.export().as_os_str(), m.mnt().as_os_str(), m.state().as_os_str());
    let file = m.home().join("file");
    std::fs::write(&file, "x").unwrap();
    let absent = m.home().join("absent");
    let flag = OsStr::new;
    let base = [flag("mount"), flag("-f"), flag("--state-dir"), state];
    let with =
        |rest: &[&OsStr]| -> Vec<std::ffi::OsString> { base.iter().chain(rest).map(|s| (*s).to_owned()).collect() };
    let check = |rest: &[&OsStr], codes: &[i32], words: &[&str]| {
        let all = with(rest);
        let all: Vec<&OsStr> = all.iter().map(|s| s.as_os_str()).collect();
        refused(&all, codes, words);
    };
    check(&[absent.as_os_str(), mnt], &[1, 2], &["absent"]);
    check(&[file.as_os_str(), mnt], &[1, 2], &["file"]);
    check(&[export, absent.as_os_str()], &[1, 2], &["absent"]);
    check(&[export, file.as_os_str()], &[1, 2], &["file"]);
    check(&[export], &[2], &[]);
    check(&[flag("-o"), flag("no_such_option"), export, mnt], &[2], &["no_such_option"]);
    check(&[flag("--no-such-flag"), export, mnt], &[2], &["no-such-flag"]);
    let config = m.home().join("bad.toml");
    std::fs::write(&config, "no_such_key = 1\n").unwrap();
    check(&[flag("--config"), config.as_os_str(), export, mnt], &[1, 2], &["no_such_key"]);
    std::fs::write(&config, "on_kill = \"sometimes\"\n").unwrap();
    check(&[flag("--config"), config.as_os_str(), export, mnt], &[1, 2], &["sometimes"]);
    check(&[flag("-o"), flag("retain=36501d"), export, mnt], &[2], &["retain", "36500d"]);
    for key in ["retain", "lease", "[[rule]]\nglob = '*'\nretain"] {
        std::fs::write(&config, format!("{key} = {}\n", i64::MAX)).unwrap();
        check(
            &[flag("--config"), config.as_os_str(), export, mnt],
            &[2],
            &[key.rsplit("\n").next().unwrap(), "36500d"],
        );
    }
    check(&[flag("--config"), absent.as_os_str(), export, mnt], &[1, 2], &["absent"]);
}

#[test]
fn s52_a_second_mount_with_the_same_state_is_refused() {
    let m = Mount::new();
    let other = m.home().join("other");
    std::fs::create_dir(&other).unwrap();
    let args = [
        OsStr::new("mount"),
        OsStr::new("-f"),
        OsStr::new("--state-dir"),
        m.state().as_os_str(),
        m.export().as_os_str(),
        other.as_os_str(),
    ];
    refused(&args, &[1, 2], &[]);
    let w = m.agent("W");
    w.put("f", "the first mount works on").unwrap();
}

#[test]
fn s52_a_folder_of_a_mount_is_no_export() {
    let m = Mount::new();
    m.agent("W").mkdir("below").unwrap();
    let (other, state) = (m.home().join("other"), m.home().join("other-state"));
    std::fs::create_dir(&other).unwrap();
    for source in [m.mnt().join("below"), m.raw(".commitfs"), m.raw(".commitfs/stage")] {
        let mut args = ["mount", "-f", "--state-dir"].map(OsStr::new).to_vec();
        args.extend([state.as_os_str(), source.as_os_str(), other.as_os_str()]);
        refused(&args, &[1, 2], &[]);
    }
    assert!(!m.raw("below/.commitfs").exists());
}

#[test]
fn s52_a_mount_that_comes_to_nothing_is_taken_away_again() {
    let mut m = Mount::new();
    m.umount();
    let instance = std::fs::read_to_string(m.state().join("instance")).unwrap();
    // Its lease cannot be written, which is found out with the mount in place.
    let lease = m.raw(".commitfs/hosts").join(format!("{}.new", instance.trim()));
    std::fs::create_dir(&lease).unwrap();
    let args = ["mount", "-f", "--state-dir"].map(OsStr::new);
    let paths = [m.state(), m.export(), m.mnt()].map(Path::as_os_str);
    refused(&[args.as_slice(), &paths].concat(), &[1], &["lease"]);
    assert!(!is_mounted(m.mnt()), "it is still there");
    std::fs::remove_dir(&lease).unwrap();
    m.remount();
    m.agent("W").put("f", "content").unwrap();
}

#[test]
fn s52_a_journal_on_fuse_is_refused() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("state").unwrap();
    let other = Setup::default().unmounted();
    let state = m.mnt().join("state");
    let args = [
        OsStr::new("mount"),
        OsStr::new("-f"),
        OsStr::new("--state-dir"),
        state.as_os_str(),
        other.export().as_os_str(),
        other.mnt().as_os_str(),
    ];
    refused(&args, &[1, 2], &[]);
}

#[test]
fn s52_umount_of_what_is_not_mounted_fails() {
    let m = Setup::default().unmounted();
    let out = m.cli_plain(&[OsStr::new("umount"), m.mnt().as_os_str()]);
    assert!(!out.status.success());
}

#[test]
fn s52_without_f_the_command_returns_once_the_mount_serves() {
    let small = SmallFs::new(16);
    let m = Setup::default().backing(small.path()).unmounted();
    let mut args = m.mount_args();
    args.retain(|a| a != "-f");
    let refs: Vec<&OsStr> = args.iter().map(|a| a.as_os_str()).collect();
    let out = m.cli_plain(&refs);
    let served = rustix::fs::statfs(m.mnt()).unwrap().f_type;
    let w = m.agent("W");
    let wrote = w.put("f", "x");
    let read = m.agent("R").cat("f");
    drop(w);
    let ended = m.cli_plain(&[OsStr::new("umount"), m.mnt().as_os_str()]);
    assert!(out.status.success(), "{}", show(&out));
    assert_eq!(served, 0x6573_5546);
    assert_eq!((wrote, read), (Ok(()), Ok(b"x".to_vec())));
    assert!(ended.status.success(), "{}", show(&ended));
    assert!(!mounts().iter().any(|(point, _)| point == m.mnt()));
    assert_eq!(m.raw_content("f").unwrap(), b"x");
}
