//! Full disks, of the export and of the journal.

use std::path::Path;

use crate::common::mount::peer_base;
use crate::common::{Mount, Setup, SmallFs, checker, eventually};

#[test]
fn s39_a_full_disk_is_an_error_of_fsync_or_close_and_the_old_version_stays() {
    let small = SmallFs::new(24);
    let m = Setup::default().backing(small.path()).mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let before = r.shown("f");
    for sync in [true, false] {
        let free = small.free();
        let fd = w.open("f", "w|trunc").unwrap();
        let written = w.fill(fd, 0, 60 << 20, 1);
        let synced = if sync { w.fsync(fd) } else { Ok(()) };
        let closed = w.close(fd);
        let errors: Vec<_> =
            [written.err(), synced.clone().err(), closed.clone().err()].into_iter().flatten().collect();
        assert!(errors.iter().any(|e| *e == "ENOSPC"), "nobody was told: {errors:?}");
        assert!(closed.is_err(), "close must not promise what was not written: {errors:?}");
        assert_eq!(r.shown("f"), before);
        let row = m.quarantined("f");
        assert!(row.reason.is_some(), "{row:?}");
        eventually("its space is given back", || small.free() + (2 << 20) >= free);
        m.settled();
    }
    w.put("f", "there is room again").unwrap();
    assert_eq!(r.cat("f").unwrap(), b"there is room again");
}

/// Who may not raise the limit that the daemon was started with is told of it, and alone.
#[test]
fn s39_a_limit_of_file_sizes_ends_no_daemon() {
    let m = Setup::default().file_size(8192).mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    let written = w.fill(fd, 0, 8 << 20, 1).map(drop);
    match written.and(w.fsync(fd)).and(w.close(fd)) {
        Ok(()) => assert_eq!(r.stat("f").unwrap().size, 8 << 20),
        Err(errno) => assert!(errno == "EFBIG" || errno == "EIO", "{errno:?}"),
    }
    w.put("g", "small").unwrap();
    assert_eq!(r.cat("g").unwrap(), b"small");
}

/// A truncation by name has no close that could tell.
#[test]
fn s39_a_truncation_by_name_of_a_draft_that_has_failed_says_so() {
    let small = SmallFs::new(24);
    let m = Setup::default().backing(small.path()).mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    let failed = w.fill(fd, 0, 60 << 20, 1).map(drop).and(w.fsync(fd));
    assert_eq!(failed.unwrap_err(), "ENOSPC");
    assert_eq!(w.truncate("f", 1).unwrap_err(), "ENOSPC");
    assert_eq!(w.close(fd).unwrap_err(), "ENOSPC");
    assert_eq!(r.cat("f").unwrap(), b"old");
}

#[test]
fn s39_a_new_file_that_found_the_disk_full_gives_its_space_back_with_its_last_descriptor() {
    let small = SmallFs::new(24);
    let m = Setup::default().backing(small.path()).mount();
    let w = m.agent("W");
    let free = small.free();
    // Nobody looks at the name again: the kernel remembers the draft.
    for name in ["first", "second", "third"] {
        let fd = w.open(name, "rw|creat").unwrap();
        w.write(fd, "begun").unwrap();
        let reader = w.open(name, "r").unwrap();
        let written = w.fill(fd, 5, 60 << 20, 1);
        let closed = w.close(fd);
        assert!(written.is_err() || closed.is_err(), "nobody was told");
        m.quarantined(name);
        assert_eq!(w.pread(reader, 0, 5).unwrap(), b"begun", "who has it open reads on");
        w.close(reader).unwrap();
        eventually("its space is given back", || small.free() + (2 << 20) >= free);
    }
    m.settled();
}

#[test]
fn s39_an_error_reported_once_by_fsync_is_not_forgotten_at_close() {
    let small = SmallFs::new(24);
    let m = Setup::default().backing(small.path()).mount();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    let written = w.fill(fd, 0, 60 << 20, 1);
    let first = w.fsync(fd);
    let second = w.fsync(fd);
    assert!(written.is_err() || first.is_err());
    assert!(second.is_err(), "a tainted draft stays tainted");
    assert!(w.close(fd).is_err());
    r.sees_nothing("f");
    assert_eq!(m.commits_of("f"), 0);
}

#[test]
fn s39_others_go_on_while_one_writer_fails() {
    let small = SmallFs::new(24);
    let m = Setup::default().backing(small.path()).mount();
    let (w, r) = m.pair();
    let v = m.agent("V");
    v.put("kept", "kept").unwrap();
    let fd = w.open("big", "w|creat").unwrap();
    let written = w.fill(fd, 0, 60 << 20, 1);
    assert_eq!(r.cat("kept").unwrap(), b"kept");
    assert!(r.lists(".", "kept"));
    assert!(w.close(fd).is_err() || written.is_err());
    r.sees_nothing("big");
    eventually("small files fit again", || v.put("small", "small").is_ok());
    assert_eq!(r.cat("small").unwrap(), b"small");
}

#[test]
fn s43_a_full_journal_disk_refuses_writes_and_readers_go_on() {
    let small = SmallFs::new(8);
    let mut m = Setup::default().state(small.path()).mount();
    let (w, r) = m.pair();
    for i in 0..20 {
        w.put(&format!("f{i}"), "before").unwrap();
    }
    m.settled();
    let ballast = small.fill_up();
    let mut refused = None;
    for i in 0..5000 {
        if let Err(error) = w.put(&format!("g{i}"), "while full") {
            refused = Some((i, error));
            break;
        }
    }
    let (count, error) = refused.expect("writes are refused once nothing can be recorded");
    assert!(error == "ENOSPC" || error == "EIO", "{error:?}");
    for i in 0..20 {
        assert_eq!(r.cat(&format!("f{i}")).unwrap(), b"before");
    }
    for i in 0..count {
        assert_eq!(r.cat(&format!("g{i}")).unwrap(), b"while full", "g{i}: its close had succeeded");
    }
    assert!(r.lists(".", "f0"));
    std::fs::remove_file(ballast).unwrap();
    eventually("writes are taken again", || w.put("after", "after").is_ok());
    assert_eq!(r.cat("after").unwrap(), b"after");
    m.expect_mess();
}

/// By somebody who tidies up on the export.
#[test]
fn s39_a_close_whose_staged_file_was_removed_fails_and_the_old_version_stays() {
    if peer_base().is_some() {
        eprintln!("SKIPPED: on NFS that looks like a rename whose answer was lost");
        return;
    }
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("old", "old").unwrap();
    m.settled();
    for name in ["old", "new"] {
        let fd = w.open(name, "w|creat|trunc").unwrap();
        w.write(fd, "lost").unwrap();
        w.fsync(fd).unwrap();
        let mut staged = Vec::new();
        checker::walk(&m.raw(".commitfs/stage"), Path::new(""), &mut |path, _| staged.push(path.to_owned()));
        staged.retain(|path| path.is_file());
        assert_eq!(staged.len(), 1, "{staged:?}");
        std::fs::remove_file(&staged[0]).unwrap();
        assert_eq!(w.close(fd).unwrap_err(), "EIO");
    }
    assert_eq!(r.cat("old").unwrap(), b"old");
    r.sees_nothing("new");
    m.quarantined("new");
}

#[test]
fn s39_room_that_is_refused_ahead_of_the_writes_costs_nothing_that_was_written() {
    let small = SmallFs::new(24);
    let m = Setup::default().backing(small.path()).mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    for (name, content) in [("f", "hello"), ("new", "hello")] {
        let fd = w.open(name, "rw|creat").unwrap();
        assert_eq!(w.fallocate(fd, "", 0, 1 << 36).unwrap_err(), "ENOSPC");
        w.pwrite(fd, 0, content).unwrap();
        w.fsync(fd).unwrap();
        w.close(fd).unwrap();
        assert_eq!(r.cat(name).unwrap(), content.as_bytes());
    }
    let fd = w.open("f", "rw").unwrap();
    assert_eq!(w.fallocate(fd, "", 0, 1 << 36).unwrap_err(), "ENOSPC");
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"hello");
    m.nothing_quarantined();
}

/// Or a program that writes until the disk is full would never end, and fill the kernel's memory.
#[test]
fn s39_who_goes_on_writing_is_told_that_the_disk_is_full() {
    let small = SmallFs::new(24);
    let m = Setup::default().backing(small.path()).mount();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    let refused = (0..4096).find_map(|nth| w.fill(fd, nth << 20, 1 << 20, nth).err());
    assert_eq!(refused.expect("4 GiB were taken"), "ENOSPC");
    assert_eq!(w.fstat(fd).map(drop), Ok(()), "attributes are told as before");
    assert_eq!(w.close(fd).unwrap_err(), "ENOSPC");
}

#[test]
fn s58_files_that_are_kept_do_not_use_the_inodes_up() {
    let small = SmallFs::made_by(&["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "200", "-O", "^has_journal"], 64);
    let m = Setup::default().backing(small.path()).options("retain=1h,watermark=0").mount();
    let w = m.agent("W");
    for round in 0..8 {
        let names: Vec<_> = (0..40).map(|nth| format!("f{nth}")).collect();
        for name in &names {
            w.put(name, "content").unwrap_or_else(|errno| panic!("{name} in round {round}: {errno:?}"));
        }
        for name in &names {
            w.unlink(name).unwrap();
        }
        w.mkdir("d").unwrap();
        w.rmdir("d").unwrap();
    }
}
