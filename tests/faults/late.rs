//! Writes that come late: while a commit takes long, after a promise, over a version that is being copied.

use rustix::io::Errno;

use crate::calls::unproven;
use crate::common::agent::socket_name;
use crate::common::{checker, eventually};
use crate::faultfs::FaultFs;
use crate::faultfs::disk::Realm;
use crate::faultfs::plan::{Fault, Op, When};

/// A descriptor in flight over a socket is not seen: the sender's close is taken for the last.
#[test]
fn a_write_waits_for_as_long_as_the_commit_before_it_takes() {
    let fs = FaultFs::new();
    let m = fs.setup().env("COMMITFS_PARKED_MS", "20").mount();
    let (w, v) = (m.agent("W"), m.agent("V"));
    let socket = socket_name();
    let listener = w.listen(&socket).unwrap();
    let theirs = v.connect(&socket).unwrap();
    let ours = w.accept(listener).unwrap();
    let mut names = (0..).map(|n| format!("f{n}"));
    // Whoever is forked at that moment by others may stand in the way of the proof: then it is tried again.
    let (name, held) = loop {
        let name = names.next().unwrap();
        let fd = w.open(&name, "rw|creat").unwrap();
        w.write(fd, "AAAA").unwrap();
        w.send_fd(ours, fd).unwrap();
        let held = fs.hold(Realm::Export, Op::Rename);
        w.send(&["close", &fd.to_string()]);
        let promised = || m.pending().iter().any(|row| row.path == name && row.state == "sealed");
        eventually("a commit is held, or the close is promised", || held.waiting() > 0 || promised());
        if held.waiting() > 0 {
            break (name, held);
        }
        drop(held);
        w.answer().unwrap();
        v.close(v.receive_fd(theirs).unwrap()).unwrap();
    };
    let fd = v.receive_fd(theirs).unwrap();
    v.pwrite(fd, 8192, "BBBB").unwrap();
    v.send(&["fsync", &fd.to_string()]);
    eventually("the write has waited for long", || m.log().contains("a call waits on for the commit before it"));
    drop(held);
    w.answer().unwrap();
    v.answer().unwrap();
    v.pwrite(fd, 1 << 20, "CCCC").unwrap();
    v.close(fd).unwrap();
    let mut expected = vec![0; (1 << 20) + 4];
    for (at, data) in [(0, b"AAAA"), (8192, b"BBBB"), (1 << 20, b"CCCC")] {
        expected[at..at + 4].copy_from_slice(data);
    }
    eventually("all of it is published", || m.raw_content(&name).is_some_and(|found| found == expected));
    checker::check(&m);
}

#[test]
fn a_write_after_a_promise_that_cannot_be_taken_back_is_not_left_out() {
    let fs = FaultFs::new();
    let mut m = fs.setup_whole().mount();
    m.expect_mess();
    let w = unproven(&m);
    w.put("f", "old").unwrap();
    m.settled();
    let first = w.open("f", "w|trunc").unwrap();
    let second = w.dup(first).unwrap();
    w.write(first, "line 1\n").unwrap();
    w.close(first).unwrap();
    eventually("it is promised", || m.pending().iter().any(|row| row.path == "f" && row.state == "sealed"));
    fs.refuse(Realm::State, Op::writes, Errno::IO);
    // The kernel gathers it.
    w.write(second, "line 2\n").unwrap();
    assert_eq!(w.fsync(second).unwrap_err(), "EIO");
    assert_eq!(w.fsync(second).unwrap_err(), "EIO");
    assert_eq!(w.close(second).unwrap_err(), "EIO");
    fs.allow();
    m.quarantined("f");
    assert_eq!(m.raw_content("f").unwrap(), b"old");
    assert_eq!(m.agent("R").cat("f").unwrap(), b"old");
    checker::check(&m);
}

/// A promise that would have to be taken back, or to be made for another name.
#[test]
fn a_change_of_names_that_the_journal_cannot_follow_is_not_made() {
    let fs = FaultFs::new();
    let mut m = fs.setup_whole().mount();
    m.expect_mess();
    let w = unproven(&m);
    for name in ["a", "b", "q"] {
        w.put(name, "old").unwrap();
    }
    m.settled();
    let open = ["a", "q"].map(|name| {
        let fd = w.open(name, "w|trunc").unwrap();
        let open = w.dup(fd).unwrap();
        w.write(fd, &format!("promised for {name}")).unwrap();
        w.close(fd).unwrap();
        eventually("it is promised", || m.pending().iter().any(|row| row.path == name && row.state == "sealed"));
        open
    });
    fs.refuse(Realm::State, Op::writes, Errno::IO);
    assert_eq!(w.unlink("a").unwrap_err(), "EIO");
    assert_eq!(w.rename("b", "q").unwrap_err(), "EIO");
    assert_eq!(w.rename("a", "c").unwrap_err(), "EIO");
    for name in ["a", "b", "q"] {
        assert_eq!(m.raw_content(name).unwrap(), b"old", "{name}");
    }
    assert_eq!(m.raw_content("c"), None);
    fs.allow();
    for fd in open {
        w.close(fd).unwrap();
    }
    for name in ["a", "q"] {
        let promised = format!("promised for {name}");
        eventually("published", || m.raw_content(name).is_some_and(|found| found == promised.as_bytes()));
    }
    checker::check(&m);
}

#[test]
fn a_version_that_is_cut_short_while_it_is_copied_is_not_filled_up_with_zeros() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.fill(fd, 0, 1 << 20, 1).unwrap();
    w.close(fd).unwrap();
    m.settled();
    let fd = w.open("f", "rw").unwrap();
    let held = fs.hold(Realm::Export, Op::CopyRange);
    w.pwrite(fd, 0, "patched").unwrap();
    w.send(&["fsync", &fd.to_string()]);
    held.caught();
    std::fs::File::options().write(true).open(m.raw("f")).unwrap().set_len(5000).unwrap();
    drop(held);
    w.answer().unwrap();
    let mut expected = std::fs::read(m.raw("f")).unwrap();
    expected[..7].copy_from_slice(b"patched");
    w.close(fd).unwrap();
    m.settled();
    let found = m.raw_content("f").unwrap();
    assert!(found.len() == 5000 && found == expected, "{} bytes", found.len());
    checker::check(&m);
}

/// For a writer whose writes nobody but the kernel sees, the copy is made with the open.
#[test]
fn a_copy_for_an_open_that_fails_leaves_nothing() {
    let fs = FaultFs::new();
    let rule = "[[rule]]\nglob = '*.bin'\ncommit = 'release'\n";
    let m = fs.setup().options("writeback=off").config(rule).mount();
    let w = m.agent("W");
    let mut failed = 0;
    for skip in 0.. {
        let name = format!("f{skip}.bin");
        w.put(&name, "a version").unwrap();
        // The copy gets the time of a version that is not quite new.
        w.utimens(&name, 1_000_000_000, 1_000_000_000).unwrap();
        m.settled();
        let fault = Fault { realm: Realm::Export, skip, op: Some(Op::Setattr), errno: Errno::IO, when: When::Before };
        fs.arm(fault);
        let opened = w.open(&name, "w");
        let hit = fs.disarm();
        failed += u32::from(opened.is_err());
        if let Ok(fd) = opened {
            w.close(fd).unwrap();
        }
        m.settled();
        let instances = std::fs::read_dir(m.raw(".commitfs/stage")).unwrap().map(|entry| entry.unwrap().path());
        let left: Vec<_> = instances.flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten()).collect();
        assert!(left.is_empty(), "{skip}: {left:?}");
        if hit.is_none() {
            break;
        }
    }
    assert!(failed > 0);
}

#[test]
fn an_fsync_does_not_queue_behind_the_copies_of_others() {
    /// As many as the daemon has threads for what waits for a disk.
    const THREADS: usize = 8;
    const COPIES: usize = THREADS + 4;
    let fs = FaultFs::new();
    let m = fs.setup().options("writeback=off").mount();
    let writers: Vec<_> = (0..COPIES).map(|n| m.agent(&format!("W{n}"))).collect();
    for (n, w) in writers.iter().enumerate() {
        w.put(&format!("f{n}"), "a version").unwrap();
    }
    let v = m.agent("V");
    // Of the first copies on a mount the kernel (6.18) asks in two ways, and when two come at once it may conclude that
    // there is neither: then it copies by itself, and none is held.
    v.put("first", "a version").unwrap();
    v.append("first", "!").unwrap();
    let other = v.open("other", "w|creat").unwrap();
    v.write(other, "content").unwrap();
    m.recorded();
    let fds: Vec<_> = writers.iter().enumerate().map(|(n, w)| w.open(&format!("f{n}"), "rw").unwrap()).collect();
    let held = fs.hold_many(Realm::Export, Op::CopyRange, COPIES);
    for (w, fd) in writers.iter().zip(&fds) {
        w.send(&["pwrite", &fd.to_string(), "0", "A"]);
    }
    eventually("all threads for it copy", || held.waiting() >= THREADS);
    v.fsync(other).unwrap();
    drop(held);
    for (w, fd) in writers.iter().zip(fds) {
        w.answer().unwrap();
        w.close(fd).unwrap();
    }
    v.close(other).unwrap();
    // Beside other tests that start processes, not every close can be proven to be the last.
    m.settled();
    for n in 0..COPIES {
        assert_eq!(m.raw_content(&format!("f{n}")).unwrap(), b"A version");
    }
    checker::check(&m);
}

/// It has the name claimed while it is tried again, and a count leaves it out.
#[test]
fn what_is_not_durable_yet_is_counted_whatever_is_counted_meanwhile() {
    let fs = FaultFs::new();
    let m = fs.setup().env("COMMITFS_RETRY_MS", "20").env("COMMITFS_LOG", "debug").mount();
    let w = unproven(&m);
    w.mkdir("d").unwrap();
    w.put("d/before", "content").unwrap();
    m.settled();
    checker::totals(&m);
    let fd = w.open("d/f", "w|creat").unwrap();
    w.write(fd, "whole").unwrap();
    let held = fs.hold(Realm::Export, Op::Rename);
    w.close(fd).unwrap();
    held.caught();
    fs.refuse(Realm::Export, |op| op == Op::Fsyncdir, Errno::IO);
    drop(held);
    eventually("it is postponed", || m.pending().iter().any(|row| row.path == "d/f" && row.reason.is_some()));
    let held = fs.hold_on(Realm::Export, Op::Lookup, "/d/f");
    held.caught();
    m.json(&["refresh", "d"]);
    let tries = || m.log().matches("still not published").count();
    let before = tries();
    fs.arm(Fault { realm: Realm::Export, skip: 0, op: Some(Op::Lookup), errno: Errno::IO, when: When::Before });
    drop(held);
    eventually("it was tried in vain", || tries() > before);
    let failed = fs.disarm().map(|call| call.path);
    assert!(failed.as_ref().is_some_and(|path| path.ends_with("d/f")), "{failed:?}");
    fs.allow();
    m.settled();
    assert_eq!(m.commits_of("d/f"), 1);
    checker::totals(&m);
    checker::check(&m);
}
