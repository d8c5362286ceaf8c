//! The end of the daemon: asked to, or killed. Every step of the protocol is in `tests/crash.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::bulk::RULE;
use crate::common::mount::signal;
use crate::common::wait::{LIMIT, poll};
use crate::common::{Agent, Mount, Setup, checker, eventually};

#[test]
fn s40_after_a_crash_promises_are_kept_and_the_rest_is_quarantined() {
    let mut m = Mount::new();
    let w = m.agent("W");
    w.put("kept", "kept").unwrap();
    w.put("over", "old").unwrap();
    let new = w.open("new", "w|creat").unwrap();
    w.write(new, "half").unwrap();
    let over = w.open("over", "w|trunc").unwrap();
    w.write(over, "half of it").unwrap();
    w.fsync(new).unwrap();
    w.fsync(over).unwrap();
    m.recorded();
    m.kill9();
    assert!(w.close(new).is_err(), "no promise by a dead daemon");
    assert_eq!(m.raw_content("over").unwrap(), b"old");
    drop(w);
    m.remount();
    let r = m.agent("R");
    assert_eq!(r.cat("kept").unwrap(), b"kept");
    assert_eq!(r.cat("over").unwrap(), b"old");
    r.sees_nothing("new");
    m.quarantined("new");
    let row = m.quarantined("over");
    let file = m.home().join("saved");
    m.cli_ok(&["quarantine", "save", &row.id.to_string(), file.to_str().unwrap()]);
    assert_eq!(std::fs::read(&file).unwrap(), b"half of it", "what had been synced is there");
    m.settled();
    checker::check(&m);
}

/// What a program does not take along, the kernel closes as it is executed. That is no close of who goes on writing.
#[test]
fn s40_what_its_writer_has_open_is_not_promised_by_a_program_that_he_starts() {
    for crashes in [true, false] {
        let mut m = Mount::new();
        let w = m.agent("W");
        w.put("over", "old").unwrap();
        for name in ["new", "over"] {
            let fd = w.open(name, "w|creat|trunc|cloexec").unwrap();
            w.write(fd, "half of it").unwrap();
        }
        w.sh("true");
        if crashes {
            m.kill9();
        } else {
            assert!(m.terminate(Signal::TERM).success(), "{}", m.log());
        }
        drop(w);
        m.remount();
        let r = m.agent("R");
        assert_eq!(r.cat("over").unwrap(), b"old", "crashes: {crashes}");
        r.sees_nothing("new");
        for name in ["new", "over"] {
            m.quarantined(name);
        }
        checker::check(&m);
    }
}

#[test]
fn s40_recovery_does_not_block_the_mount_and_runs_once() {
    let mut m = Mount::new();
    for round in 0..3 {
        let w = m.agent("W");
        for i in 0..50 {
            let fd = w.open(&format!("r{round}f{i}"), "w|creat").unwrap();
            w.write(fd, "half").unwrap();
            w.fsync(fd).unwrap();
        }
        m.recorded();
        m.kill9();
        drop(w);
        m.remount();
        let r = m.agent("R");
        r.put(&format!("after{round}"), "written at once").unwrap();
        r.sees_nothing(&format!("r{round}f49"));
        m.settled();
        assert_eq!(m.quarantine().len(), 50 * (round + 1));
        r.sees_nothing(&format!("r{round}f0"));
    }
    checker::check(&m);
}

#[test]
fn s41_a_forced_umount_ends_the_daemon_though_files_are_open() {
    let mut m = Mount::new();
    let w = m.agent("W");
    w.put("old", "old").unwrap();
    let fd = w.open("old", "w|trunc").unwrap();
    w.write(fd, "half").unwrap();
    let refused = m.cli(&["umount"]);
    let who = format!("being written: old (4 bytes) by agent, pid {}\n", w.pid());
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&who), "{refused:?}");
    m.cli_ok(&["umount", "--force"]);
    assert!(m.daemon_ended().success());
    assert!(w.close(fd).is_err());
    assert_eq!(m.raw_content("old").unwrap(), b"old");
    drop(w);
    m.remount();
    m.quarantined("old");
    checker::check(&m);
}

#[test]
fn s41_a_daemon_asked_to_end_commits_what_is_complete_and_quarantines_the_rest() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut m = Mount::new();
        let (w, r) = m.pair();
        w.put("old", "old").unwrap();
        let open = w.open("open", "w|creat").unwrap();
        w.write(open, "half").unwrap();
        let over = w.open("old", "w|trunc").unwrap();
        w.write(over, "half").unwrap();
        let complete = w.open("complete", "w|creat").unwrap();
        w.write(complete, "whole").unwrap();
        let twin = w.dup(complete).unwrap();
        w.close(complete).unwrap();
        w.close(twin).unwrap();
        let status = m.terminate(signal);
        assert!(status.success(), "{signal:?}: {status}\n{}", m.log());
        assert_eq!(m.raw_content("complete").unwrap(), b"whole");
        assert_eq!(m.raw_content("old").unwrap(), b"old");
        assert_eq!(m.raw_content("open"), None);
        assert!(m.pending().is_empty(), "the journal is readable without a daemon");
        let mut rows: Vec<_> = m.quarantine().into_iter().map(|row| row.path).collect();
        rows.sort();
        assert_eq!(rows, ["old", "open"]);
        drop((w, r));
        m.remount();
        assert_eq!(m.agent("R").cat("complete").unwrap(), b"whole");
        assert_eq!(m.quarantine().len(), 2);
        checker::check(&m);
    }
}

/// The mount is still served to those who have something open in it while the daemon ends.
#[test]
fn s41_a_close_that_the_end_overtakes_does_not_return_0() {
    for round in 0..4 {
        let mut m = Mount::new();
        let names = AtomicU64::new(0);
        let daemon = m.daemon_pid();
        let writers: Vec<_> = (0..4).map(|n| m.agent(&format!("W{n}"))).collect();
        let closed: Vec<String> = std::thread::scope(|scope| {
            let write = |w: Agent| {
                let mut closed = Vec::new();
                loop {
                    let name = format!("f{}", names.fetch_add(1, Ordering::Relaxed));
                    match w.put(&name, &name) {
                        Ok(()) => closed.push(name),
                        Err(_) => return closed,
                    }
                }
            };
            let threads: Vec<_> = writers.into_iter().map(|w| scope.spawn(move || write(w))).collect();
            eventually("writing goes on", || names.load(Ordering::Relaxed) > 40);
            signal(daemon, Signal::TERM);
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let status = m.daemon_ended();
        assert!(status.success(), "{status}\n{}", m.log());
        for name in closed {
            let found = m.raw_content(&name);
            assert_eq!(found.as_deref(), Some(name.as_bytes()), "round {round}: {name} was closed");
        }
    }
}

#[test]
fn s41_umount_waits_for_commits_in_flight() {
    let mut m = Mount::new();
    let w = m.agent("W");
    let mut fds = Vec::new();
    for i in 0..30 {
        let fd = w.open(&format!("f{i}"), "w|creat").unwrap();
        w.fill(fd, 0, 200_000, i).unwrap();
        fds.push((fd, w.dup(fd).unwrap()));
    }
    for (fd, twin) in fds {
        w.close(fd).unwrap();
        w.close(twin).unwrap();
    }
    drop(w);
    m.umount();
    for i in 0..30 {
        let found = m.raw_content(&format!("f{i}"));
        assert!(found.is_some_and(|d| d == crate::common::filled(i, 200_000)), "f{i}");
    }
    m.nothing_quarantined();
}

/// Its name is known before its writer has a descriptor.
#[test]
fn s41_a_file_that_is_created_while_the_daemon_ends_is_not_published() {
    let mut m = Setup::default().unmounted();
    m.hold_at("create_after_begin", 1);
    m.remount();
    let w = m.agent("W");
    w.send(&["open", "f", "w|creat"]);
    let held = m.held();
    signal(m.daemon_pid(), Signal::TERM);
    let ended = || m.raw("f").exists() || m.quarantine().iter().any(|row| row.path == "f");
    poll(LIMIT, || ended().then_some(())).expect("the end of the draft");
    assert_eq!(m.raw_content("f"), None);
    drop(held);
    // The daemon may be gone before it answers.
    drop(w.answer());
    let status = m.daemon_ended();
    assert!(status.success(), "{status}\n{}", m.log());
    assert_eq!(m.raw_content("f"), None);
    assert!(m.pending().is_empty());
    m.set_env("COMMITFS_FAILPOINT", "");
    m.remount();
    checker::check(&m);
}

/// Who has something open in the mount, or works there, can still call.
#[test]
fn s41_nothing_new_is_written_once_the_end_has_begun() {
    let mut m = Setup::default().config(RULE).unmounted();
    m.hold_at("stop_after_look", 1);
    m.remount();
    let w = m.agent("W");
    for name in ["old", "old.bin"] {
        std::fs::write(m.raw(name), "old").unwrap();
    }
    let unwritten = w.open("old", "rw").unwrap();
    signal(m.daemon_pid(), Signal::TERM);
    let held = m.held();
    for name in ["new", "new.bin"] {
        assert_eq!(w.open(name, "w|creat").unwrap_err(), "EIO", "{name}");
    }
    for name in ["old", "old.bin"] {
        assert_eq!(w.truncate(name, 1).unwrap_err(), "EIO", "{name}");
        for how in ["w", "w|trunc", "rw", "rw|trunc"] {
            let stored = w.open(name, how).and_then(|fd| {
                let written = w.write(fd, "new");
                w.close(fd).and(written)
            });
            assert_eq!(stored.unwrap_err(), "EIO", "{name}, {how}");
        }
    }
    // The kernel may have taken it.
    let written = w.pwrite(unwritten, 0, "new");
    assert_eq!(w.close(unwritten).and(written).unwrap_err(), "EIO");
    drop(held);
    let status = m.daemon_ended();
    assert!(status.success(), "{status}\n{}", m.log());
    for name in ["old", "old.bin"] {
        assert_eq!(m.raw_content(name).unwrap(), b"old");
    }
    assert!(m.pending().is_empty());
    drop(w);
    m.set_env("COMMITFS_FAILPOINT", "");
    m.remount();
    checker::check(&m);
}

/// Of a close that promises nothing the release behind it tells whether it was the last.
#[test]
fn s41_the_end_waits_for_the_release_behind_a_close() {
    let mut m = Setup::default().config(RULE).env("COMMITFS_RELEASED_MS", "20000").unmounted();
    m.hold_at("stop_begins", 1);
    m.remount();
    let w = m.agent("W");
    let fd = w.open("f.bin", "w|creat").unwrap();
    w.write(fd, "whole").unwrap();
    let twin = w.dup(fd).unwrap();
    signal(m.daemon_pid(), Signal::TERM);
    let held = m.held();
    w.close(fd).unwrap();
    drop(held);
    // It waits, or has ended the draft.
    poll(Duration::from_secs(1), || (!m.quarantine().is_empty()).then_some(()));
    w.close(twin).unwrap();
    let status = m.daemon_ended();
    assert!(status.success(), "{status}\n{}", m.log());
    assert_eq!(m.raw_content("f.bin").as_deref(), Some(&b"whole"[..]));
    assert!(m.pending().is_empty() && m.quarantine().is_empty());
}
