//! Writers that end without closing: killed, crashed, or just gone.

use rustix::process::Signal;

use crate::common::{Agent, Mount, Setup, SmallFs, eventually};

/// A writer with a draft of a new name and one over an old version.
fn writing(m: &Mount) -> (Agent, Agent) {
    let (w, r) = m.pair();
    w.put("old", "old").unwrap();
    let new = w.open("new", "w|creat").unwrap();
    w.write(new, "half of new").unwrap();
    let over = w.open("old", "w|trunc").unwrap();
    w.write(over, "half of old").unwrap();
    (w, r)
}

fn assert_quarantined(m: &Mount, r: &Agent, why: &str) {
    for (path, bytes) in [("new", 11), ("old", 11)] {
        let row = m.quarantined(path);
        assert_eq!((row.bytes, row.state.as_str()), (bytes, "quarantined"), "{why}: {row:?}");
        assert!(row.reason.as_ref().is_some_and(|r| r.contains("signal")), "{why}: {row:?}");
    }
    r.sees_nothing("new");
    assert_eq!(r.shown("old").data, b"old", "{why}");
    assert_eq!(m.raw_content("old").unwrap(), b"old", "{why}");
    assert_eq!(m.raw_content("new"), None, "{why}");
    assert_eq!(m.commits_of("old"), 1, "{why}");
}

#[test]
fn s35_a_writer_killed_from_outside_publishes_nothing() {
    for signal in [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP] {
        let m = Mount::new();
        let (w, r) = writing(&m);
        w.kill(signal);
        assert_quarantined(&m, &r, &format!("{signal:?}"));
    }
}

#[test]
fn s35_who_joined_and_changed_nothing_is_not_missed() {
    for written_after in [false, true] {
        let m = Mount::new();
        let (w, v) = (m.agent("W"), m.agent("V"));
        w.put("f", "old").unwrap();
        let fd = w.open("f", "rw").unwrap();
        if !written_after {
            w.pwrite(fd, 0, "complete").unwrap();
            w.fsync(fd).unwrap();
        }
        v.open("f", "w").unwrap();
        v.kill(Signal::KILL);
        if written_after {
            w.pwrite(fd, 0, "complete").unwrap();
            w.fsync(fd).unwrap();
        }
        w.close(fd).unwrap();
        eventually("published", || m.raw_content("f").as_deref() == Some(b"complete"));
        m.nothing_quarantined();
    }
}

#[test]
fn s35_who_writes_along_with_one_that_is_killed_is_told_by_fsync_and_close() {
    let m = Mount::new();
    let (w, v) = (m.agent("W"), m.agent("V"));
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "of the one").unwrap();
    let joined = v.open("f", "w").unwrap();
    v.pwrite(joined, 100, "of the other").unwrap();
    v.kill(Signal::KILL);
    assert_eq!(w.fsync(fd).unwrap_err(), "EIO");
    assert_eq!(w.close(fd).unwrap_err(), "EIO");
    assert!(m.quarantined("f").reason.is_some_and(|reason| reason.contains("signal")));
    assert_eq!(m.raw_content("f").unwrap(), b"old");
}

#[test]
fn s35_a_writer_that_crashes_publishes_nothing() {
    for signal in [Signal::SEGV, Signal::ABORT, Signal::BUS, Signal::FPE] {
        let m = Mount::new();
        let (w, r) = writing(&m);
        w.die(signal);
        assert_quarantined(&m, &r, &format!("{signal:?}"));
    }
}

#[test]
fn s35_a_killed_writer_with_threads_publishes_nothing() {
    for from_outside in [true, false] {
        let m = Mount::new();
        let (w, r) = writing(&m);
        let threads: Vec<_> = (0..3).map(|_| w.thread("T")).collect();
        let third = threads[0].open("third", "w|creat").unwrap();
        threads[1].write(third, "written by a thread").unwrap();
        if from_outside {
            w.kill(Signal::KILL);
        } else {
            threads[2].die(Signal::SEGV);
        }
        assert_quarantined(&m, &r, "with threads");
        assert_eq!(m.quarantined("third").bytes, 19);
        r.sees_nothing("third");
    }
}

#[test]
fn s35_a_killed_writers_mapping_is_not_published() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "0123456789").unwrap();
    let fd = w.open("f", "rw").unwrap();
    let map = w.mmap(fd, 0, 10, "shared").unwrap();
    w.store(map, 0, "half").unwrap();
    w.kill(Signal::KILL);
    m.quarantined("f");
    assert_eq!(r.shown("f").data, b"0123456789");
}

/// The descriptor lives on in a child, whose close is the last.
#[test]
fn s35_what_a_killed_writer_had_mapped_is_not_published_by_the_close_of_a_child() {
    for setup in [Setup::default(), Setup::default().config("[[rule]]\nglob = \"**\"\ncommit = \"release\"\n")] {
        let m = setup.mount();
        let (w, r) = m.pair();
        w.put("f", "0123456789").unwrap();
        m.settled();
        let fd = w.open("f", "rw").unwrap();
        let child = w.fork("child");
        let map = w.mmap(fd, 0, 10, "shared").unwrap();
        w.store(map, 0, "half").unwrap();
        w.close(fd).unwrap();
        w.kill(Signal::KILL);
        assert_eq!(child.close(fd).unwrap_err(), "EIO");
        m.quarantined("f");
        assert_eq!(r.shown("f").data, b"0123456789");
    }
}

#[test]
fn s35_a_name_is_writable_again_after_its_writer_was_killed() {
    let m = Mount::new();
    let (w, r) = writing(&m);
    w.kill(Signal::KILL);
    m.quarantined("new");
    m.quarantined("old");
    r.put("new", "second try").unwrap();
    r.append("old", " and on").unwrap();
    let v = m.agent("V");
    assert_eq!(v.cat("new").unwrap(), b"second try");
    assert_eq!(v.cat("old").unwrap(), b"old and on");
    assert_eq!(m.quarantine().len(), 2, "what was quarantined stays there");
}

#[test]
fn s35_a_killed_writer_costs_the_daemon_no_descriptor() {
    let m = Mount::new();
    let staged = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", m.daemon_pid())).unwrap();
        let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.filter(|link| link.to_string_lossy().contains("/stage/")).filter(|link| !link.is_dir()).count()
    };
    for i in 0..20 {
        let w = m.agent(&format!("W{i}"));
        let fd = w.open(&format!("new{i}"), "w|creat").unwrap();
        w.write(fd, "half").unwrap();
        assert!(staged() > 0, "open while it is written");
        w.kill(Signal::KILL);
    }
    eventually("all are in quarantine", || m.quarantine().len() == 20);
    eventually("no content is held open", || staged() == 0);
}

/// The kernel sends no close of a process that is killed while it writes out times.
#[test]
fn s35_a_writer_killed_in_the_middle_of_a_copy_publishes_nothing() {
    const LEN: u64 = 32 << 20;
    let m = Mount::new();
    let (w, r) = m.pair();
    let src = w.open("src", "w|creat").unwrap();
    w.fill(src, 0, LEN, 1).unwrap();
    w.close(src).unwrap();
    w.put("f", "old").unwrap();
    for round in 0..20 {
        let v = m.agent("V");
        let (src, mut to) = (v.open("src", "r").unwrap(), v.open("f", "w|trunc").unwrap());
        if round % 2 == 1 {
            // As a shell does for whoever it runs.
            let moved = v.dup(to).unwrap();
            v.close(to).unwrap();
            to = moved;
        }
        v.send(&["copyrange", &src.to_string(), "0", &to.to_string(), "0", &LEN.to_string()]);
        v.kill(Signal::KILL);
        m.settled();
        assert_eq!(r.stat("f").unwrap().size, 3, "round {round}");
        assert_eq!(r.cat("f").unwrap(), b"old", "round {round}");
    }
}

/// Its own end need not be known yet when who has the descriptor from it closes.
#[test]
fn s35_nothing_is_published_by_who_closes_while_the_opener_is_being_killed() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    for round in 0..60 {
        let v = m.agent("V");
        let fd = v.open("f", "w|trunc").unwrap();
        v.write(fd, "part").unwrap();
        let helpers = ["H", "I", "J"].map(|name| v.fork(name));
        if round % 2 == 0 {
            for helper in &helpers {
                helper.send(&["close", &fd.to_string()]);
            }
            v.kill(Signal::KILL);
            for helper in &helpers {
                helper.exit(0);
            }
        } else {
            // All at once, as by ^C.
            for agent in helpers.iter().chain([&v]) {
                agent.signal(Signal::TERM);
            }
            for agent in helpers.iter().chain([&v]) {
                agent.gone();
            }
        }
        m.settled();
        assert_eq!(r.cat("f").unwrap(), b"old", "round {round}");
    }
}

#[test]
fn s35_a_writer_killed_while_it_opens_a_new_name_publishes_nothing() {
    let m = Mount::new();
    for round in 0..60 {
        let v = m.agent("V");
        v.send(&["open", "new", "w|creat|trunc"]);
        v.kill(Signal::KILL);
        m.settled();
        assert!(!m.raw("new").exists(), "round {round}");
    }
}

#[test]
fn s35_what_a_killed_writer_stores_after_its_close_is_not_published() {
    for (ends_well, after) in [(true, "half56789"), (false, "old content")] {
        let m = Mount::new();
        let (w, r) = m.pair();
        w.put("f", "old content").unwrap();
        let fd = w.open("f", "rw|trunc").unwrap();
        w.write(fd, "123456789").unwrap();
        let map = w.mmap(fd, 0, 9, "shared").unwrap();
        w.close(fd).unwrap();
        w.store(map, 0, "half").unwrap();
        if ends_well {
            w.exit(0);
        } else {
            w.kill(Signal::KILL);
        }
        m.settled();
        eventually("the end of the mapping", || r.cat("f").is_ok_and(|data| data == after.as_bytes()));
    }
}

#[test]
fn s35_what_was_closed_before_the_kill_is_published() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for i in 0..20 {
        w.put(&format!("f{i}"), "whole").unwrap();
    }
    w.kill(Signal::KILL);
    for i in 0..20 {
        assert_eq!(r.cat(&format!("f{i}")).unwrap(), b"whole");
    }
    m.nothing_quarantined();
}

#[test]
fn s36_a_helper_that_inherited_the_descriptor_and_is_killed_changes_nothing() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "before ").unwrap();
    for signal in [Signal::KILL, Signal::TERM] {
        let helper = w.fork("H");
        helper.kill(signal);
        r.sees_nothing("f");
    }
    w.write(fd, "after").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"before after");
    m.nothing_quarantined();
}

#[test]
fn s36_a_helper_killed_after_the_opener_closed_still_publishes() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "whole").unwrap();
    let helper = w.fork("H");
    w.close(fd).unwrap();
    r.sees_nothing("f");
    helper.kill(Signal::KILL);
    eventually("the opener had closed: published", || r.cat("f").is_ok_and(|d| d == b"whole"));
    m.nothing_quarantined();
}

#[test]
fn s37_an_exit_without_close_is_a_close() {
    for status in [0, 3] {
        let m = Mount::new();
        let (w, r) = writing(&m);
        w.exit(status);
        eventually("published", || r.cat("new").is_ok_and(|d| d == b"half of new"));
        eventually("published", || r.cat("old").is_ok_and(|d| d == b"half of old"));
        m.settled();
        m.nothing_quarantined();
    }
}

#[test]
fn s37_a_shell_that_fails_publishes_what_it_wrote() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let (status, _, _) = w.run("/bin/sh", "(echo partial; exit 7) > f").unwrap();
    assert_eq!(status, "7");
    assert_eq!(r.cat("f").unwrap(), b"partial\n");
    let (status, _, _) = w.run("/bin/sh", "exec 3>g; echo partial >&3; exit 9").unwrap();
    assert_eq!(status, "9");
    eventually("published", || r.cat("g").is_ok_and(|d| d == b"partial\n"));
}

#[test]
fn s38_on_kill_publish_publishes() {
    let m = Setup::default().config("on_kill = \"publish\"\n").mount();
    let (w, r) = writing(&m);
    w.kill(Signal::KILL);
    eventually("published", || r.cat("new").is_ok_and(|d| d == b"half of new"));
    eventually("published", || r.cat("old").is_ok_and(|d| d == b"half of old"));
    m.nothing_quarantined();
}

#[test]
fn s36_what_an_admin_publishes_has_owner_and_mode_of_what_it_replaces() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "in quarantine").unwrap();
    w.kill(Signal::KILL);
    m.settled();
    r.chmod("f", 0o4600).unwrap();
    r.chown("f", 1234, 2345).unwrap();
    r.chmod("f", 0o4600).unwrap();
    let has_xattrs = r.set_xattr("f", "user.a", "1").is_ok();
    m.cli_ok(&["quarantine", "publish", &m.quarantined("f").id.to_string()]);
    let now = r.stat("f").unwrap();
    assert_eq!((r.cat("f").unwrap(), now.perm(), now.uid, now.gid), (b"in quarantine".to_vec(), 0o600, 1234, 2345));
    if has_xattrs {
        assert_eq!(r.xattr("f", "user.a").unwrap(), b"1");
    }
}

#[test]
fn s38_on_failure_exit_quarantine_publishes_only_success() {
    let m = Setup::default().config("on_failure_exit = \"quarantine\"\n").mount();
    let (w, r) = writing(&m);
    w.exit(3);
    m.quarantined("new");
    m.quarantined("old");
    r.sees_nothing("new");
    assert_eq!(r.cat("old").unwrap(), b"old");
    let v = m.agent("V");
    let fd = v.open("fine", "w|creat").unwrap();
    v.write(fd, "fine").unwrap();
    v.exit(0);
    eventually("published", || r.cat("fine").is_ok_and(|d| d == b"fine"));
    let v = m.agent("V");
    v.put("closed before", "whole").unwrap();
    v.exit(3);
    assert_eq!(r.cat("closed before").unwrap(), b"whole");
    assert_eq!(m.quarantine().len(), 2);
}

#[test]
fn s42_quarantine_keeps_content_target_owner_and_reason() {
    let m = Mount::new();
    let (w, _r) = writing(&m);
    let pid = w.pid();
    w.kill(Signal::KILL);
    let row = m.quarantined("new");
    assert_eq!((row.pid, row.uid, row.command.as_str()), (pid, 0, "agent"));
    let shown = m.cli_ok(&["quarantine", "show", &row.id.to_string()]);
    assert!(shown.contains("new"), "{shown}");
    let file = m.home().join("saved");
    m.cli_ok(&["quarantine", "save", &row.id.to_string(), file.to_str().unwrap()]);
    assert_eq!(std::fs::read(&file).unwrap(), b"half of new");
    assert!(m.quarantine().iter().any(|r| r.id == row.id), "saving is no decision");
}

#[test]
fn s42_publish_and_discard_decide() {
    let m = Mount::new();
    let (w, r) = writing(&m);
    w.kill(Signal::KILL);
    let (new, old) = (m.quarantined("new"), m.quarantined("old"));
    m.cli_ok(&["quarantine", "publish", &new.id.to_string()]);
    assert_eq!(r.cat("new").unwrap(), b"half of new");
    m.cli_ok(&["quarantine", "discard", &old.id.to_string()]);
    assert_eq!(r.cat("old").unwrap(), b"old");
    m.nothing_quarantined();
    for id in [new.id, old.id] {
        for verb in ["publish", "discard"] {
            let again = m.cli(&["quarantine", verb, &id.to_string()]);
            assert!(!again.status.success(), "{verb} {id} a second time");
        }
    }
    let absent = m.cli(&["quarantine", "publish", "99999"]);
    assert!(!absent.status.success());
    let states: Vec<_> = m.history().into_iter().filter(|r| r.id == new.id).map(|r| r.state).collect();
    assert_eq!(states.last().map(String::as_str), Some("committed"));
}

#[test]
fn s42_discard_gives_the_space_back() {
    let small = SmallFs::new(24);
    let m = Setup::default().backing(small.path()).mount();
    let free = small.free();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.fill(fd, 0, 10 << 20, 1).unwrap();
    w.fsync(fd).unwrap();
    w.kill(Signal::KILL);
    let row = m.quarantined("f");
    assert!(small.free() + (10 << 20) <= free, "kept until then");
    m.cli_ok(&["quarantine", "discard", &row.id.to_string()]);
    eventually("its space is free", || small.free() + (2 << 20) >= free);
}
