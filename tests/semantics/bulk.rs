//! The rule `commit = "release"`: writers that do not wait for their commit, and whose writes the kernel makes by itself where it can.

use rustix::process::Signal;

use crate::common::mount::signal;
use crate::common::{Agent, Setup, checker, eventually};

pub(super) const RULE: &str = "[[rule]]\nglob = '*.bin'\ncommit = 'release'\n";

/// Through the page cache, and passed through.
fn ways() -> [(&'static str, Setup); 2] {
    [("gathered", "writeback=on"), ("passed through", "writeback=off")]
        .map(|(way, options)| (way, Setup::default().options(options).config(RULE)))
}

/// After a close, whoever looks waits for the commit behind it.
fn closed(w: &Agent, fd: i32) {
    w.close(fd).unwrap();
}

#[test]
fn s62_a_new_name_appears_whole_after_its_close() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let (w, r) = m.pair();
        let fd = w.open("f.bin", "w|creat").unwrap();
        for piece in 1..=3_u64 {
            w.write(fd, [b'x'; 1000]).unwrap();
            assert_eq!(w.stat("f.bin").unwrap().size, piece * 1000, "{way}: its family sees what was written");
            assert_eq!(w.fstat(fd).unwrap().size, piece * 1000, "{way}");
            r.sees_nothing("f.bin");
        }
        w.fsync(fd).unwrap();
        r.sees_nothing("f.bin");
        closed(&w, fd);
        assert_eq!(r.cat("f.bin").unwrap(), [b'x'; 3000], "{way}");
        assert_eq!(m.raw_content("f.bin").unwrap(), [b'x'; 3000], "{way}");
        m.settled();
        assert_eq!(m.commits_of("f.bin"), 1, "{way}");
        checker::check(&m);
    }
}

#[test]
fn s62_an_old_version_stays_until_the_next_is_complete() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let (w, r) = m.pair();
        for (how, at, expected) in [
            ("w|trunc", None, "new"),
            ("w|append", None, "old contentnew"),
            ("w", Some(4), "old newtent"),
            ("rw", Some(4), "old newtent"),
            ("rw|append", None, "old contentnew"),
        ] {
            w.put("f.bin", "old content").unwrap();
            assert_eq!(r.cat("f.bin").unwrap(), b"old content", "{way}, {how}");
            let fd = w.open("f.bin", how).unwrap();
            match at {
                Some(at) => w.pwrite(fd, at, "new").map(drop).unwrap(),
                None => w.write(fd, "new").map(drop).unwrap(),
            }
            assert_eq!(w.cat("f.bin").unwrap(), expected.as_bytes(), "{way}, {how}: its family");
            assert_eq!(r.shown("f.bin").data, b"old content", "{way}, {how}");
            closed(&w, fd);
            assert_eq!(r.cat("f.bin").unwrap(), expected.as_bytes(), "{way}, {how}");
        }
        m.settled();
        m.nothing_quarantined();
        checker::check(&m);
    }
}

#[test]
fn s62_what_is_not_written_to_is_no_new_version() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let (w, r) = m.pair();
        std::fs::write(m.raw("f.bin"), "content").unwrap();
        // Old enough to be told from a copy that is written to.
        w.utimens("f.bin", 1_000_000_000, 1_000_000_000).unwrap();
        let before = r.stat("f.bin").unwrap();
        for how in ["w", "w|append", "rw"] {
            closed(&w, w.open("f.bin", how).unwrap());
            m.settled();
            let now = r.stat("f.bin").unwrap();
            assert_eq!((now.ino, now.size), (before.ino, 7), "{way}, {how}");
        }
        assert_eq!(m.commits_of("f.bin"), 0, "{way}");
        // As much as one byte, or a mode, is one.
        let fd = w.open("f.bin", "w").unwrap();
        w.write(fd, "C").unwrap();
        closed(&w, fd);
        assert_eq!(r.cat("f.bin").unwrap(), b"Content", "{way}");
        w.utimens("f.bin", 1_000_000_000, 1_000_000_000).unwrap();
        let fd = w.open("f.bin", "w").unwrap();
        w.fchmod(fd, 0o600).unwrap();
        closed(&w, fd);
        eventually("its mode", || r.stat("f.bin").unwrap().perm() == 0o600);
        m.settled();
    }
}

#[test]
fn s62_the_last_of_several_writers_commits() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let (w, r) = m.pair();
        let first = w.open("f.bin", "w|creat").unwrap();
        w.write(first, "one ").unwrap();
        let second = m.agent("S");
        let joined = second.open("f.bin", "w|creat|append").unwrap();
        second.write(joined, "two ").unwrap();
        // One that could map it for writing.
        let third = m.agent("T");
        let both = third.open("f.bin", "rw|creat");
        if way == "passed through" {
            assert_eq!(both.map_err(|error| error.0), Err("ETXTBSY".to_owned()), "{way}");
        } else {
            let both = both.unwrap();
            assert_eq!(third.pread(both, 0, 100).unwrap(), b"one two ", "{way}");
            closed(&third, both);
        }
        closed(&w, first);
        r.sees_nothing("f.bin");
        second.write(joined, "three").unwrap();
        closed(&second, joined);
        assert_eq!(r.cat("f.bin").unwrap(), b"one two three", "{way}");
        m.settled();
        assert_eq!(m.commits_of("f.bin"), 1, "{way}");
    }
}

#[test]
fn s62_a_mapping_that_outlives_its_descriptor_is_a_writer() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let (w, r) = m.pair();
        let fd = w.open("f.bin", "rw|creat").unwrap();
        w.write(fd, [b'.'; 4096]).unwrap();
        let map = w.mmap(fd, 0, 4096, "shared").unwrap();
        w.close(fd).unwrap();
        r.sees_nothing("f.bin");
        w.store(map, 10, "stored").unwrap();
        w.munmap(map).unwrap();
        eventually("published", || r.cat("f.bin").is_ok());
        assert_eq!(&r.cat("f.bin").unwrap()[8..18], b"..stored..", "{way}");
        m.settled();
    }
}

#[test]
fn s62_a_killed_writer_publishes_nothing() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let (w, r) = m.pair();
        w.put("old.bin", "old").unwrap();
        assert_eq!(r.cat("old.bin").unwrap(), b"old");
        let new = w.open("new.bin", "w|creat").unwrap();
        w.write(new, "half of new").unwrap();
        let over = w.open("old.bin", "w|append").unwrap();
        w.write(over, " and half").unwrap();
        w.kill(Signal::KILL);
        for (path, bytes) in [("new.bin", 11), ("old.bin", 12)] {
            assert_eq!(m.quarantined(path).bytes, bytes, "{way}");
        }
        r.sees_nothing("new.bin");
        assert_eq!(r.cat("old.bin").unwrap(), b"old", "{way}");
        m.settled();
    }
}

#[test]
fn s62_what_a_killed_writer_stores_after_its_close_is_not_published() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let (w, r) = m.pair();
        w.put("f.bin", "old content").unwrap();
        assert_eq!(r.cat("f.bin").unwrap(), b"old content");
        let fd = w.open("f.bin", "rw|trunc").unwrap();
        w.write(fd, "123456789").unwrap();
        let map = w.mmap(fd, 0, 9, "shared").unwrap();
        w.close(fd).unwrap();
        w.store(map, 0, "half").unwrap();
        w.kill(Signal::KILL);
        m.settled();
        assert_eq!(r.cat("f.bin").unwrap(), b"old content", "{way}");
    }
}

#[test]
fn s62_close_does_not_say_what_became_of_the_commit() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let w = m.agent("W");
        w.mkdir("d").unwrap();
        let fd = w.open("d/f.bin", "w|creat").unwrap();
        w.write(fd, "content").unwrap();
        std::fs::remove_dir(m.raw("d")).unwrap();
        assert_eq!(w.close(fd), Ok(()), "{way}");
        let row = m.quarantined("d/f.bin");
        assert!(row.reason.as_ref().is_some_and(|reason| reason.contains("rename")), "{way}: {row:?}");
    }
}

#[test]
fn s62_close_promises_nothing_that_a_crash_would_have_to_keep() {
    for (way, setup) in ways() {
        for point in ["commit_before_fsync", "commit_before_rename", "commit_after_rename"] {
            let mut m = setup.clone().unmounted();
            m.remount();
            m.agent("W").put("old.bin", "old").unwrap();
            m.settled();
            m.umount();
            m.set_env("COMMITFS_FAILPOINT", point);
            m.remount();
            m.expect_mess();
            let w = m.agent("W");
            let fd = w.open("old.bin", "w|append").unwrap();
            w.write(fd, " and new").unwrap();
            // The daemon may be gone before it has answered.
            w.close(fd).ok();
            drop(w);
            eventually("the daemon is dead", || m.daemon_is_dead());
            m.set_env("COMMITFS_FAILPOINT", "");
            m.kill9();
            m.remount();
            m.recovered();
            let r = m.agent("R");
            if point == "commit_after_rename" {
                assert_eq!(r.cat("old.bin").unwrap(), b"old and new", "{way}, {point}");
            } else {
                assert_eq!(r.cat("old.bin").unwrap(), b"old", "{way}, {point}");
                assert_eq!(m.quarantined("old.bin").bytes, 11, "{way}, {point}");
            }
            m.settled();
            checker::check(&m);
        }
    }
}

#[test]
fn s62_the_kernel_writes_by_itself_where_it_can() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: only root's mounts are passed through");
        return;
    }
    let m = Setup::default().config(RULE).options("writeback=off").mount();
    let (w, r) = m.pair();
    w.put("over.bin", "old ").unwrap();
    assert_eq!(r.cat("over.bin").unwrap(), b"old ");
    let descriptors = [w.open("new.bin", "w|creat").unwrap(), w.open("over.bin", "w").unwrap()];
    w.seek(descriptors[1], 0, "end").unwrap();
    for fd in descriptors {
        w.write(fd, "begun, ").unwrap();
    }
    // A daemon that stands still answers no write.
    signal(m.daemon_pid(), Signal::STOP);
    let written: Vec<_> = descriptors.iter().map(|fd| w.write(*fd, vec![b'x'; 1 << 20].as_slice())).collect();
    signal(m.daemon_pid(), Signal::CONT);
    assert_eq!(written, [Ok(1 << 20), Ok(1 << 20)]);
    for fd in descriptors {
        closed(&w, fd);
    }
    for (path, begin) in [("new.bin", "begun, x"), ("over.bin", "old begun, x")] {
        let content = r.cat(path).unwrap();
        assert!(content.starts_with(begin.as_bytes()), "{path}");
        assert_eq!(content.len(), begin.len() - 1 + (1 << 20), "{path}");
    }
    m.settled();
}

#[test]
fn s62_a_draft_is_appended_to_as_long_as_its_descriptor_says_so() {
    for (way, setup) in ways() {
        let m = setup.mount();
        let (w, r) = m.pair();
        let fd = w.open("f.bin", "w|creat|append").unwrap();
        w.write(fd, "0123456789").unwrap();
        w.appends(fd, false).unwrap();
        w.pwrite(fd, 2, "AB").unwrap();
        // Another one, which the kernel may serve by itself.
        let plain = w.open("f.bin", "w").unwrap();
        w.pwrite(plain, 10, "more").unwrap();
        w.appends(fd, true).unwrap();
        w.seek(fd, 0, "set").unwrap();
        w.write(fd, "end").unwrap();
        w.appends(plain, true).unwrap();
        w.write(plain, ".").unwrap();
        assert_eq!(w.fstat(fd).unwrap().size, 18, "{way}");
        closed(&w, plain);
        closed(&w, fd);
        assert_eq!(r.cat("f.bin").unwrap(), b"01AB456789moreend.", "{way}");
        m.settled();
        checker::check(&m);
    }
}

#[test]
fn s62_what_others_may_write_to_loses_its_set_id_bits() {
    let m = Setup::default().config(RULE).options("writeback=off").mount();
    let (w, r) = m.pair();
    w.put("f.bin", "program").unwrap();
    assert_eq!(r.cat("f.bin").unwrap(), b"program");
    w.chmod("f.bin", 0o4777).unwrap();
    let user = m.agent("U");
    user.call(&["become", "1234", "2345"]).unwrap();
    let fd = user.open("f.bin", "w|append").unwrap();
    user.write(fd, " of another").unwrap();
    closed(&user, fd);
    assert_eq!(r.cat("f.bin").unwrap(), b"program of another");
    let now = r.stat("f.bin").unwrap();
    assert_eq!((now.perm(), now.uid), (0o777, 0));
    m.settled();
}

#[test]
fn s62_rules_say_so() {
    let m = Setup::default().config(RULE).mount();
    let path = |name: &str| m.mnt().join(name).to_str().unwrap().to_owned();
    let said = m.cli_ok(&["rules", &path("d/f.bin")]);
    assert!(said.contains("published after close, which does not wait for it"), "{said}");
    let said = m.cli_ok(&["rules", "--json", &path("d/f.bin")]);
    assert!(said.contains("\"commit\":\"release\""), "{said}");
    let said = m.cli_ok(&["rules", &path("d/f")]);
    assert!(said.contains("published at close;"), "{said}");
}

#[test]
fn s62_an_open_that_is_refused_has_emptied_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: only root's mounts are passed through");
        return;
    }
    let old = Some("old content");
    for (old, how) in [(None, "rw|trunc|creat"), (old, "rw|trunc|creat"), (old, "rw|trunc")] {
        let m = Setup::default().options("writeback=off").config(RULE).mount();
        let (w, o) = m.pair();
        if let Some(old) = old {
            std::fs::write(m.raw("f.bin"), old).unwrap();
        }
        let fd = w.open("f.bin", "w|creat").unwrap();
        w.write(fd, "NEW").unwrap();
        let whole = w.fstat(fd).unwrap().size;
        assert_eq!(o.open("f.bin", how).unwrap_err(), "ETXTBSY", "{how}");
        assert_eq!(w.fstat(fd).unwrap().size, whole, "{how}");
        closed(&w, fd);
        let expected = if old.is_some() { "NEW content" } else { "NEW" };
        assert_eq!(o.cat("f.bin").unwrap(), expected.as_bytes(), "{how}");
        // Nobody is passed through any more.
        let fd = o.open("f.bin", how).unwrap();
        o.write(fd, "next").unwrap();
        closed(&o, fd);
        assert_eq!(w.cat("f.bin").unwrap(), b"next", "{how}");
        m.settled();
        checker::check(&m);
    }
}
