//! While something is done for one file that takes long, everybody else goes on.

use std::thread;
use std::time::Duration;

use crate::bulk::RULE;
use crate::closing::connect;
use crate::common::wait::poll;
use crate::common::{Agent, Immutable, Mount, Setup, eventually};
use crate::promised::unproven;

/// More than the daemon has threads for requests.
const MANY: usize = 10;

#[test]
fn s06_nobody_waits_for_a_version_that_is_being_copied_for_a_writer() {
    let mut m = Setup::default().unmounted();
    m.hold_at("begin_after_stage", 2);
    m.remount();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    w.put("d/big", "old content").unwrap();
    let mut many: Vec<Agent> = (0..MANY).map(|i| m.agent(&format!("R{i}"))).collect();
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let fd = w.open("d/big", "rw").unwrap();
            w.write(fd, "NEW").unwrap();
            w.close(fd).unwrap();
        });
        let held = m.held();
        let looks: Vec<_> = many.drain(..).map(|r| scope.spawn(move || (r.stat("d/big").unwrap().size, r))).collect();
        for look in looks {
            let (size, r) = look.join().unwrap();
            assert_eq!(size, 11);
            many.push(r);
        }
        assert_eq!(r.cat("d/big").unwrap(), b"old content");
        r.put("d/other", "a commit in the same folder").unwrap();
        let misses: Vec<_> = many.drain(..).map(|r| scope.spawn(move || r.stat("d/missing").unwrap_err())).collect();
        for miss in misses {
            assert_eq!(miss.join().unwrap(), "ENOENT");
        }
        r.unlink("d/other").unwrap();
        r.rename("d", "e").unwrap();
        assert!(!writer.is_finished());
        drop(held);
    });
    assert_eq!(r.cat("e/big").unwrap(), b"NEW content");
    assert_eq!(m.commits_of("e/big"), 1, "it was told of its new path");
}

/// To find data in what the kernel has not sent yet, a writer waits until it is written, which may mean a copy.
#[test]
fn s06_nobody_waits_for_a_copy_that_a_seek_waits_for() {
    let mut m = Setup::default().options("commit_workers=1,writeback=on").unmounted();
    m.hold_at("begin_after_stage", 2);
    m.remount();
    let patched = |w: &Agent, name: &str| {
        w.put(name, "old content").unwrap();
        let fd = w.open(name, "rw").unwrap();
        w.pwrite(fd, 0, "NEW").unwrap();
        w.send(&["seek", &fd.to_string(), "0", "data"]);
        fd
    };
    let w = m.agent("W");
    let fd = patched(&w, "f");
    let held = m.held();
    let others: Vec<_> = (0..MANY).map(|i| m.agent(&format!("O{i}"))).collect();
    let fds: Vec<_> = others.iter().enumerate().map(|(i, o)| patched(o, &format!("f{i}"))).collect();
    for (i, (o, fd)) in others.iter().zip(fds).enumerate() {
        o.answer().unwrap();
        o.close(fd).unwrap();
        // Whether in the close or behind it, where nothing proves that it is the last.
        eventually("published", || m.raw_content(&format!("f{i}")).is_some_and(|found| found == b"NEW content"));
    }
    assert!(!w.has_answered());
    drop(held);
    w.answer().unwrap();
    w.close(fd).unwrap();
    eventually("published", || m.raw_content("f").is_some_and(|found| found == b"NEW content"));
}

#[test]
fn s22_an_attribute_that_is_changed_while_the_version_is_copied_is_the_drafts() {
    for change in [["setxattr", "f", "user.x", "new"].as_slice(), &["removexattr", "f", "user.x"]] {
        let mut m = Setup::default().options("writeback=on").unmounted();
        m.hold_at("begin_after_stage", 2);
        m.remount();
        let (w, r) = m.pair();
        let thread = w.thread("T");
        w.put("f", "old content").unwrap();
        w.set_xattr("f", "user.x", "old").unwrap();
        let fd = w.open("f", "rw").unwrap();
        let second = w.dup(fd).unwrap();
        w.pwrite(fd, 0, "NEW").unwrap();
        // The kernel sends it then, and holds no lock of the file.
        w.send(&["close", &second.to_string()]);
        let held = m.held();
        thread.send(change);
        // It waits for the copy, or goes wrong.
        poll(std::time::Duration::from_secs(1), || thread.has_answered().then_some(()));
        assert_eq!(r.xattr("f", "user.x").unwrap(), b"old", "{change:?}");
        drop(held);
        w.answer().unwrap();
        thread.answer().unwrap();
        assert_eq!(r.xattr("f", "user.x").unwrap(), b"old", "{change:?}");
        w.close(fd).unwrap();
        assert_eq!(r.cat("f").unwrap(), b"NEW content");
        let expected = if change.len() == 4 { Ok(b"new".to_vec()) } else { Err("ENODATA".to_owned()) };
        assert_eq!(r.xattr("f", "user.x").map_err(|errno| errno.0), expected, "{change:?}");
    }
}

/// A writer whose writes the kernel makes by itself gets his copy when he opens the file.
#[test]
fn s22_a_mode_that_is_changed_while_the_version_is_copied_is_the_drafts() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: only root's mounts are passed through");
        return;
    }
    let rule = "[[rule]]\nglob = '*.bin'\ncommit = 'release'\n";
    let mut m = Setup::default().options("writeback=off").config(rule).unmounted();
    m.hold_at("begin_after_stage", 2);
    m.remount();
    let (w, r) = m.pair();
    let thread = w.thread("T");
    w.put("f.bin", "old content").unwrap();
    assert_eq!(r.cat("f.bin").unwrap(), b"old content", "it is published");
    w.chmod("f.bin", 0o644).unwrap();
    w.send(&["open", "f.bin", "w"]);
    let held = m.held();
    thread.send(&["chmod", "f.bin", "600"]);
    poll(std::time::Duration::from_secs(1), || thread.has_answered().then_some(()));
    assert_eq!(r.stat("f.bin").unwrap().perm(), 0o644);
    drop(held);
    let opened = w.answer().unwrap();
    let fd = String::from_utf8(opened[0].clone()).unwrap().parse().unwrap();
    thread.answer().unwrap();
    assert_eq!(r.stat("f.bin").unwrap().perm(), 0o644);
    w.pwrite(fd, 0, "NEW").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("f.bin").unwrap(), b"NEW content");
    assert_eq!(r.stat("f.bin").unwrap().perm(), 0o600);
    m.settled();
}

#[test]
fn s13_an_outsider_acts_on_the_version_while_a_close_commits_the_next() {
    for (how, looks) in [("unlink", false), ("rename", false), ("unlink", true)] {
        let mut m = Setup::default().unmounted();
        m.hold_at("commit_before_fsync", 3);
        m.remount();
        let (w, r) = m.pair();
        w.put("p", "old").unwrap();
        w.put("q", "other").unwrap();
        let fd = w.open("p", "w|trunc").unwrap();
        w.write(fd, "new").unwrap();
        if looks {
            w.cat("p").unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(move || w.close(fd).unwrap());
            let held = m.held();
            assert_eq!(r.cat("p").unwrap(), b"old");
            match how {
                "unlink" => r.unlink("p").unwrap(),
                _ => r.rename("q", "p").unwrap(),
            }
            assert_eq!(r.cat("p").ok(), (how == "rename").then(|| b"other".to_vec()), "{how}");
            drop(held);
        });
        assert_eq!(r.cat("p").unwrap(), b"new", "{how}: whoever commits last wins");
    }
}

#[test]
fn s15_an_unlink_that_fails_leaves_the_draft_its_name() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    w.put("d/p", "old").unwrap();
    let fd = w.open("d/p", "w|trunc").unwrap();
    w.write(fd, "new").unwrap();
    let fixed = Immutable::new(m.raw("d"));
    assert_eq!(w.unlink("d/p").unwrap_err(), "EPERM");
    drop(fixed);
    w.write(fd, " and more").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("d/p").unwrap(), b"new and more");
    assert!(m.quarantine().is_empty());
}

/// The kernel tells of the end of a killed process's descriptors when the process may have been waited for already.
#[test]
fn s35_who_writes_a_name_after_its_writer_was_killed_is_not_taken_for_his_partner() {
    let mut m = Setup::default().env("COMMITFS_DESERTED_MS", "60000").unmounted();
    m.hold_at("release_begins", 1);
    m.remount();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    w.fsync(fd).unwrap();
    w.kill(rustix::process::Signal::KILL);
    thread::scope(|scope| {
        let held = m.held();
        let next = scope.spawn(move || r.put("f", "whole").unwrap());
        // It waits, or takes part.
        poll(Duration::from_secs(1), || next.is_finished().then_some(()));
        drop(held);
    });
    assert_eq!(m.agent("V").cat("f").unwrap(), b"whole");
    m.quarantined("f");
}

/// The kernel answers a close before it tells the daemon that nothing refers to the descriptor any more.
#[test]
fn s27_the_last_close_commits_while_the_release_of_another_descriptor_is_on_its_way() {
    assert!((0..5).any(|_| commits_before_another_release()), "five closes have not been proven");
}

/// Not always: a process that somebody forks just then may be in doubt.
#[cfg(feature = "failpoints")]
fn commits_before_another_release() -> bool {
    let mut m = Setup::default().env("COMMITFS_RELEASED_MS", "60000").unmounted();
    m.hold_at("release_begins", 1);
    m.remount();
    let (w, r) = m.pair();
    let first = w.open("f", "w|creat").unwrap();
    let second = w.open("f", "w").unwrap();
    w.write(first, "both").unwrap();
    w.pwrite(second, 2, "OTH").unwrap();
    w.close(second).unwrap();
    let held = m.held();
    r.sees_nothing("f");
    w.close(first).unwrap();
    let at_once = m.raw_content("f").is_some_and(|data| data == b"boOTH");
    drop(held);
    assert_eq!(r.cat("f").unwrap(), b"boOTH");
    w.append("f", " and more").unwrap();
    assert_eq!(r.cat("f").unwrap(), b"boOTH and more");
    at_once
}

/// Who joins just then, and moves the descriptor to another number, as a shell does, writes on.
#[test]
fn s12_a_close_is_not_the_last_if_somebody_joins_and_moves_its_descriptor() {
    assert!((0..5).any(|_| commits_with_who_joined_in_the_middle()), "five closes have not been proven");
}

/// Not always: to a close that is in doubt nobody joins.
fn commits_with_who_joined_in_the_middle() -> bool {
    let mut m = Setup::default().unmounted();
    m.hold_at("seal_begins", 1);
    m.remount();
    std::fs::write(m.raw("f"), "old").unwrap();
    let (w, r) = m.pair();
    let v = m.agent("V");
    let fd = w.open("f", "w|append").unwrap();
    w.write(fd, " one").unwrap();
    let (v, joined) = thread::scope(|scope| {
        let closing = scope.spawn(move || w.close(fd).unwrap());
        let held = m.held();
        let joining = scope.spawn(move || {
            let opened = v.open("f", "w|append").unwrap();
            let moved = v.dup(opened).unwrap();
            v.close(opened).unwrap();
            v.write(moved, " two").unwrap();
            (v, moved)
        });
        let joined = poll(Duration::from_secs(5), || joining.is_finished().then_some(())).is_some();
        drop(held);
        closing.join().unwrap();
        let (v, moved) = joining.join().unwrap();
        if joined {
            assert_eq!(r.cat("f").unwrap(), b"old", "not before the last of them has closed");
        }
        v.write(moved, " three").unwrap();
        v.close(moved).unwrap();
        (v, joined)
    });
    m.settled();
    assert_eq!(v.cat("f").unwrap(), b"old one two three");
    joined
}

/// For who closes it unwritten it was the last close, and the name is given back; who writes at that moment has it by then.
#[test]
fn s31_who_writes_a_passed_descriptor_while_its_sender_closes_it_writes_together_with_others() {
    let mut m = Setup::default().unmounted();
    m.hold_at("give_back_begins", 1);
    m.remount();
    std::fs::write(m.raw("f"), "old content").unwrap();
    let (w, o) = m.pair();
    let v = m.agent("V");
    let (a, b) = connect(&w, &v);
    let fd = w.open("f", "w").unwrap();
    w.send_fd(a, fd).unwrap();
    let received = v.receive_fd(b).unwrap();
    let v = thread::scope(|scope| {
        let sender = scope.spawn(move || w.close(fd).map(|()| w).unwrap());
        let held = m.held();
        let writer = scope.spawn(move || {
            v.pwrite(received, 0, "NEW").unwrap();
            v.fsync(received).map(|()| v).unwrap()
        });
        // It waits, or writes.
        poll(Duration::from_secs(1), || writer.is_finished().then_some(()));
        drop(held);
        sender.join().unwrap();
        writer.join().unwrap()
    });
    o.append("f", ", and more").unwrap();
    v.close(received).unwrap();
    m.settled();
    assert_eq!(o.cat("f").unwrap(), b"NEW content, and more");
}

/// Nothing was promised to its close, and the kernel tells of the end of its descriptor when it is dead already.
#[test]
fn s35_what_was_closed_before_the_kill_is_published_though_its_release_comes_later() {
    for how in [&["w"][..], &["rw"], &["rw", "w"], &["rw", "rw"]] {
        let mut m = Setup::default().config(RULE).unmounted();
        m.hold_at("release_begins", 1);
        m.remount();
        let w = m.agent("W");
        let open: Vec<_> = how.iter().map(|how| w.open("f.bin", &format!("{how}|creat")).unwrap()).collect();
        w.write(open[0], "whole").unwrap();
        for fd in open {
            w.close(fd).unwrap();
        }
        let held = m.held();
        w.kill(rustix::process::Signal::KILL);
        drop(held);
        m.settled();
        assert_eq!(m.raw_content("f.bin").as_deref(), Some(&b"whole"[..]), "{how:?}: {:?}", m.quarantine());
    }
}

/// The version below has the number by which the kernel may know the draft, and is no sign that the draft is still open.
#[test]
fn s35_what_was_closed_is_published_although_its_killed_writer_had_the_version_below_otherwise_too() {
    for mapped in [true, false] {
        let mut m = Setup::default().unmounted();
        m.hold_at("release_begins", 1);
        m.remount();
        std::fs::write(m.raw("f"), "old").unwrap();
        std::fs::hard_link(m.raw("f"), m.raw("g")).unwrap();
        let w = m.agent("W");
        if mapped {
            let below = w.open("f", "r").unwrap();
            w.mmap(below, 0, 3, "ro").unwrap();
            w.close(below).unwrap();
        } else {
            w.open("g", "w|trunc").unwrap();
        }
        let fd = w.open("f", "rw").unwrap();
        w.pwrite(fd, 0, "new").unwrap();
        w.close(fd).unwrap();
        let held = m.held();
        w.kill(rustix::process::Signal::KILL);
        drop(held);
        m.settled();
        assert_eq!(m.raw_content("f").as_deref(), Some(&b"new"[..]), "mapped: {mapped}: {:?}", m.quarantine());
    }
}

#[test]
fn s35_who_is_killed_after_its_close_spoils_nothing_for_others_though_its_release_comes_later() {
    let mut m = Setup::default().unmounted();
    m.hold_at("release_begins", 1);
    m.remount();
    std::fs::write(m.raw("f"), "old").unwrap();
    let (w, v) = m.pair();
    let first = w.open("f", "w|trunc").unwrap();
    w.write(first, "of the one").unwrap();
    w.fsync(first).unwrap();
    let joined = v.open("f", "rw").unwrap();
    v.pwrite(joined, 10, ", of the other").unwrap();
    v.close(joined).unwrap();
    let held = m.held();
    v.kill(rustix::process::Signal::KILL);
    drop(held);
    assert_eq!(w.fsync(first), Ok(()));
    assert_eq!(w.close(first), Ok(()));
    assert_eq!(m.raw_content("f").as_deref(), Some(&b"of the one, of the other"[..]));
}

/// The release of the one that was closed last comes before that of another one.
fn looks_while_a_release_is_on_its_way(path: &str) {
    let mut m = Setup::default().config(RULE).env("COMMITFS_RELEASED_MS", "60000").unmounted();
    // The first one is of a file that makes the closes unproven.
    m.hold_at("release_begins", 2);
    m.remount();
    std::fs::write(m.raw(path), "old").unwrap();
    let (w, r) = (unproven(&m, "W"), m.agent("R"));
    let (first, second) = (w.open(path, "rw|trunc").unwrap(), w.open(path, "w").unwrap());
    w.write(first, "new").unwrap();
    w.close(first).unwrap();
    let held = m.held();
    w.close(second).unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(move || r.cat(path).unwrap());
        // It waits, or has been told of the old version.
        poll(Duration::from_secs(1), || reader.is_finished().then_some(()));
        drop(held);
        assert_eq!(reader.join().unwrap(), b"new");
    });
}

#[test]
fn s33_who_looks_after_a_close_without_proof_waits_for_the_releases_of_all_that_were_closed() {
    looks_while_a_release_is_on_its_way("f");
}

#[test]
fn s62_who_looks_after_a_close_waits_for_the_releases_of_all_that_were_closed() {
    looks_while_a_release_is_on_its_way("f.bin");
}

/// It is of its family who renames it, over a draft of its own.
#[test]
fn s16_a_draft_that_is_closed_in_the_middle_of_its_rename_is_published_under_its_new_name() {
    let mut m = Setup::default().unmounted();
    m.hold_at("rename_before_retarget", 1);
    m.remount();
    let w = m.agent("W");
    let r = w.fork("R");
    let renamed = w.open("a", "w|creat").unwrap();
    w.write(renamed, "renamed").unwrap();
    let replaced = r.open("b", "w|creat").unwrap();
    r.write(replaced, "replaced").unwrap();
    let r = thread::scope(|scope| {
        let renamer = scope.spawn(move || r.rename("a", "b").map(|()| r).unwrap());
        let held = m.held();
        let closer = scope.spawn(move || w.close(renamed).map(|()| w).unwrap());
        // It waits, or commits.
        poll(Duration::from_secs(1), || closer.is_finished().then_some(()));
        drop(held);
        closer.join().unwrap();
        renamer.join().unwrap()
    });
    // Not every close is proven to be the last, beside others that fork.
    eventually("published", || m.raw_content("b").as_deref() == Some(&b"renamed"[..]));
    assert_eq!(m.raw_content("a"), None);
    r.write(replaced, ", and without a name").unwrap();
    r.close(replaced).unwrap();
    let o = m.agent("O");
    assert_eq!(o.cat("b").unwrap(), b"renamed");
    o.put("b", "fresh").unwrap();
    assert_eq!(o.cat("b").unwrap(), b"fresh");
    m.nothing_quarantined();
}
