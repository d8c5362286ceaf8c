//! A server that is away: whoever needs it waits, nobody else does, and the mount can still be ended.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::mount::{mounts, peer_base, signal};
use crate::common::{Agent, Mount, eventually, poll};
use crate::lab::Lab;

/// Waits for somebody whom an absent server keeps.
const PATIENCE: Duration = Duration::from_secs(300);

/// A writer with content that is not closed yet.
#[track_caller]
fn writer(m: &Mount, name: &str) -> (Agent, i32) {
    let w = m.agent(name);
    w.patience(PATIENCE);
    let fd = w.open(name, "w|creat").unwrap();
    w.write(fd, "content").unwrap();
    (w, fd)
}

fn close(w: &(Agent, i32)) {
    w.0.send(&["close", &w.1.to_string()]);
}

fn is_mounted(m: &Mount) -> bool {
    mounts().iter().any(|(point, kind)| point == m.mnt() && kind.starts_with("fuse"))
}

#[test]
fn while_it_is_away_for_a_minute_callers_wait_and_others_go_on() {
    let lab = Lab::enter();
    let m = Mount::new();
    let other = Mount::setup().backing(&peer_base().unwrap()).mount();
    let elsewhere = other.agent("E");
    let (w, k) = (writer(&m, "waits"), writer(&m, "killed"));
    let r = m.agent("R");
    r.put("read", "before").unwrap();
    m.settled_but(2);
    let away = lab.cut();
    close(&w);
    close(&k);
    r.patience(PATIENCE);
    r.send(&["cat", "never"]);
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(60) {
        rounds += 1;
        elsewhere.put("f", &format!("round {rounds}")).unwrap();
        assert_eq!(elsewhere.cat("f").unwrap(), format!("round {rounds}").as_bytes());
        // Of the mount that waits: what it is doing, by command and by HTTP, which both only need this host.
        let answer = m.http().get("/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(m.cli_ok(&["log", "-n", "5"]).contains("read"), "log");
        assert!(m.pending().len() >= 2, "what is on its way is listed");
    }
    assert!(rounds > 5, "{rounds} rounds");
    // Who is killed in a request that is on its way is gone when that is answered, not before: FUSE has it so.
    signal(k.0.pid(), Signal::KILL);
    assert!(!w.0.has_answered() && !r.has_answered(), "nobody is told anything before the server is back");
    drop(away);
    w.0.answer().unwrap();
    k.0.gone();
    assert_eq!(r.answer().unwrap_err(), "ENOENT");
    assert_eq!(r.cat("waits").unwrap(), b"content");
    m.settled();
    // Its close was on its way: done or not, but nothing in between.
    assert!(m.raw_content("killed").is_none_or(|data| data == b"content"));
    crate::common::checker::check(&m);
}

#[test]
fn sigterm_ends_the_mount_within_a_minute_of_its_absence() {
    let lab = Lab::enter();
    let mut m = Mount::new();
    let (w, idle) = (writer(&m, "closing"), writer(&m, "open"));
    let kept = m.agent("K");
    kept.put("kept", "kept").unwrap();
    m.settled_but(2);
    let away = lab.cut();
    close(&w);
    eventually("the commit is on its way", || is_waiting(w.0.pid()));
    signal(m.daemon_pid(), Signal::TERM);
    eventually("the mount is gone", || !is_mounted(&m));
    assert!(w.0.answer().is_err(), "close cannot promise anything");
    let ended = poll(Duration::from_secs(60), || m.daemon_is_dead().then_some(()));
    eprintln!("the daemon ended {} the server was back", if ended.is_some() { "before" } else { "after" });
    drop(away);
    let status = m.daemon_ended();
    assert!(!status.success(), "it could not end well: {status}");
    drop((w, idle, kept));
    m.remount();
    m.settled();
    let r = m.agent("R");
    assert_eq!(r.cat("kept").unwrap(), b"kept");
    m.quarantined("open");
    assert!(r.cat("closing").map_or_else(|errno| errno == "ENOENT", |data| data == b"content"));
    crate::common::checker::check(&m);
}

#[test]
fn umount_answers_within_a_minute_of_its_absence() {
    let lab = Lab::enter();
    let mut m = Mount::new();
    let w = writer(&m, "open");
    m.settled_but(1);
    let away = lab.cut();
    // Somebody uses it. By its state folder: nobody can look at the mount itself now.
    let refused = m.cli(&["umount"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("does not answer"), "{said}");
    assert!(is_mounted(&m));
    let forced = m.cli(&["umount", "--force"]);
    eprintln!("{}", crate::common::mount::show(&forced));
    assert!(!is_mounted(&m));
    drop(away);
    m.daemon_ended();
    drop(w);
    m.remount();
    m.quarantined("open");
    crate::common::checker::check(&m);
}

/// Whether a process sleeps in a request.
fn is_waiting(pid: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split_whitespace().next() == Some(&libc::SYS_close.to_string())
}
