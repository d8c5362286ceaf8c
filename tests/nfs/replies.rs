//! Replies that are lost on the way, after the server has done what was asked.

use rustix::process::Signal;

use crate::common::mount::signal;
use crate::common::wait::LIMIT;
use crate::common::{Mount, eventually, poll};
use crate::lab::Lab;

/// Publishes `new` as the new name `f`, with the reply to the rename lost and the server restarted before it is asked
/// again. `meanwhile` is done on the server after the rename.
#[track_caller]
fn publish_without_a_reply(meanwhile: impl FnOnce(&std::path::Path)) -> Mount {
    let lab = Lab::enter();
    let mut m = Mount::new();
    m.umount();
    m.set_env("COMMITFS_FAILPOINT", "commit_after_look:1:stop");
    m.remount();
    let w = m.agent("W");
    w.patience(std::time::Duration::from_secs(300));
    let on_server = lab.on_server(m.export());
    let fd = w.open("f", "w|creat|trunc").unwrap();
    w.write(fd, "new").unwrap();
    w.send(&["close", &fd.to_string()]);
    let pid = m.daemon_pid();
    eventually("the daemon has stopped before the rename", || is_stopped(pid));
    let lost = lab.drop_replies();
    signal(pid, Signal::CONT);
    let published = || std::fs::read(on_server.join("f")).is_ok_and(|data| data == b"new");
    eventually("the server has renamed", published);
    meanwhile(&on_server);
    // What the server remembers of requests it has answered goes with it: the client's repeated one is new to it.
    lab.restart_server();
    eventually("the reply is given up", || !lab.is_still_sending());
    drop(lost);
    w.answer().unwrap_or_else(|errno| panic!("close said {errno:?} though the version is published:\n{}", m.log()));
    m.set_env("COMMITFS_FAILPOINT", "");
    eventually("it is recorded that it was published", || m.commits().get("f") == Some(&1));
    assert!(m.log().contains(HAD_HAPPENED), "the daemon had nothing to find out:\n{}", m.log());
    m.nothing_quarantined();
    m
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

const HAD_HAPPENED: &str = "answered with an error but had happened";

#[test]
fn a_rename_whose_reply_was_lost_is_recognised_by_its_inode() {
    let m = publish_without_a_reply(|_| ());
    assert_eq!(m.agent("R").cat("f").unwrap(), b"new");
    crate::common::checker::check(&m);
}

#[test]
fn a_lost_reply_and_another_host_that_was_faster() {
    let m = publish_without_a_reply(|folder| {
        std::fs::write(folder.join("aside"), "from another host").unwrap();
        std::fs::rename(folder.join("aside"), folder.join("f")).unwrap();
    });
    let r = m.agent("R");
    eventually("the last to commit wins", || r.cat("f").unwrap() == b"from another host");
}

#[test]
fn a_server_that_restarts_delays_commits_and_fails_none() {
    let lab = Lab::enter();
    let m = Mount::new();
    let hunt = std::process::Command::new(crate::common::agent::example("hunt"))
        .arg(m.mnt())
        .args(["--seconds", "15", "--at-least", "100", "--writers", "3", "--readers", "2"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Of a daemon that is slow to answer the command tells what the journal has.
    let commits = || poll(LIMIT, || m.json(&["status"])["commits_since_mount"].as_u64()).expect("the daemon answers");
    for _ in 0..2 {
        let before = commits();
        eventually("commits are made", || commits() > before + 10);
        lab.restart_server();
    }
    let before = commits();
    eventually("commits go on", || commits() > before + 10);
    let out = hunt.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    eprintln!("{said}");
    assert!(out.status.success(), "{said}");
    m.settled();
    m.nothing_quarantined();
    crate::common::checker::check(&m);
}
