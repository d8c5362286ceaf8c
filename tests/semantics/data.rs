//! Data operations behave as on the backing.

use crate::common::{Mount, filled};

#[test]
fn s47_reads_and_writes_at_any_offset() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "rw|creat").unwrap();
    w.pwrite(fd, 1_000_000, "end").unwrap();
    w.pwrite(fd, 4095, "xy").unwrap();
    assert_eq!(w.pread(fd, 4094, 4).unwrap(), b"\0xy\0");
    assert_eq!(w.pread(fd, 1_000_001, 100).unwrap(), b"nd");
    assert_eq!(w.pread(fd, 2_000_000, 100).unwrap(), b"");
    assert_eq!(w.seek(fd, -2, "end").unwrap(), 1_000_001);
    assert_eq!(w.read(fd, 10).unwrap(), b"nd");
    w.close(fd).unwrap();
    let mut expected = vec![0; 1_000_003];
    expected[1_000_000..].copy_from_slice(b"end");
    expected[4095..4097].copy_from_slice(b"xy");
    assert!(r.cat("f").unwrap() == expected);
}

#[test]
fn s47_appending_writers_of_one_process_do_not_overwrite_each_other() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let (a, b) = (w.open("f", "w|creat|append").unwrap(), w.open("f", "w|append").unwrap());
    for i in 0..20 {
        w.write(a, format!("a{i:02}\n").as_str()).unwrap();
        w.write(b, format!("b{i:02}\n").as_str()).unwrap();
    }
    w.pwrite(a, 0, "appended whatever the offset\n").unwrap();
    w.close(a).unwrap();
    w.close(b).unwrap();
    let expected: String = (0..20).map(|i| format!("a{i:02}\nb{i:02}\n")).collect();
    assert_eq!(String::from_utf8(r.cat("f").unwrap()).unwrap(), expected + "appended whatever the offset\n");
}

#[test]
fn s47_holes_stay_holes() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "rw|creat").unwrap();
    w.write(fd, "head").unwrap();
    w.pwrite(fd, 50 << 20, "tail").unwrap();
    w.close(fd).unwrap();
    let size = (50 << 20) + 4;
    assert_eq!(r.stat("f").unwrap().size, size);
    assert!(r.stat("f").unwrap().blocks * 512 < 1 << 20, "not filled up");
    let fd = r.open("f", "r").unwrap();
    assert_eq!(r.seek(fd, 0, "data").unwrap(), 0);
    let hole = r.seek(fd, 0, "hole").unwrap();
    assert!(hole >= 4 && hole <= size);
    if hole < size {
        assert_eq!(r.seek(fd, hole as i64, "data").unwrap() & !0xf_ffff, 50 << 20);
    }
    assert_eq!(r.seek(fd, size as i64, "data").unwrap_err(), "ENXIO");
    w.append("f", "more").unwrap();
    assert_eq!(r.stat("f").unwrap().size, size + 4);
    // Where all of a file counts as data, as on NFS 3, a copy has all of it.
    if hole < size {
        assert!(r.stat("f").unwrap().blocks * 512 < 1 << 20, "nor by the copy for the next version");
    }
}

/// What the export's file system says: NFS 3 cannot reserve space.
fn raw_fallocate(m: &Mount) -> rustix::io::Result<()> {
    let probe = std::fs::File::create(m.raw("probe")).unwrap();
    let done = rustix::fs::fallocate(&probe, rustix::fs::FallocateFlags::empty(), 0, 4096);
    std::fs::remove_file(m.raw("probe")).unwrap();
    assert!(done.is_ok() || std::env::var_os("COMMITFS_TEST_BACKING").is_some(), "it works on a local disk");
    done
}

#[test]
fn s47_space_can_be_reserved_and_given_back() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "rw|creat").unwrap();
    let reserved = w.fallocate(fd, "plain", 0, 1 << 20);
    if raw_fallocate(&m).is_err() {
        assert_eq!(reserved.unwrap_err(), "EOPNOTSUPP", "as on the export");
        return;
    }
    reserved.unwrap();
    assert_eq!(w.fstat(fd).unwrap().size, 1 << 20);
    r.sees_nothing("f");
    w.fill(fd, 0, 1 << 20, 3).unwrap();
    let mut expected = filled(3, 1 << 20);
    match w.fallocate(fd, "punch", 4096, 8192) {
        Ok(()) => expected[4096..12288].fill(0),
        Err(error) => assert_eq!(error, "EOPNOTSUPP"),
    }
    let grown = w.fallocate(fd, "keep", 1 << 20, 1 << 20);
    assert!(grown.is_ok() || grown == Err(crate::common::Errno("EOPNOTSUPP".into())), "{grown:?}");
    assert_eq!(w.fstat(fd).unwrap().size, 1 << 20);
    w.close(fd).unwrap();
    assert!(r.cat("f").unwrap() == expected);
    let before = r.shown("f");
    let fd = w.open("f", "w").unwrap();
    w.fallocate(fd, "plain", 0, 2 << 20).unwrap();
    assert_eq!(r.shown("f"), before, "reserving is a change of the draft");
    w.close(fd).unwrap();
    assert_eq!(r.stat("f").unwrap().size, 2 << 20);
}

#[test]
fn s47_copy_file_range_copies() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let from = w.open("from", "rw|creat").unwrap();
    w.fill(from, 0, 300_000, 8).unwrap();
    let to = w.open("to", "rw|creat").unwrap();
    let mut done = 0;
    while done < 300_000 {
        let n = w.copy_range(from, done, to, done, 300_000 - done).unwrap();
        assert_ne!(n, 0);
        done += n;
    }
    r.sees_nothing("to");
    assert_eq!(w.fstat(to).unwrap().size, 300_000);
    w.close(from).unwrap();
    w.close(to).unwrap();
    assert!(r.cat("to").unwrap() == filled(8, 300_000));
    assert!(r.cat("from").unwrap() == filled(8, 300_000));
    w.put("small", "0123456789").unwrap();
    let before = r.shown("small");
    let (from, to) = (w.open("from", "r").unwrap(), w.open("small", "rw").unwrap());
    assert_eq!(w.copy_range(from, 100, to, 5, 3).unwrap(), 3);
    assert_eq!(r.shown("small"), before);
    w.close(to).unwrap();
    let expected = [b"01234", &filled(8, 103)[100..], b"89"].concat();
    assert_eq!(r.cat("small").unwrap(), expected);
}

#[test]
fn s47_odd_ways_to_open() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "0123456789").unwrap();
    w.mkdir("d").unwrap();
    w.symlink("f", "s").unwrap();
    assert_eq!(w.open("d", "w").unwrap_err(), "EISDIR");
    assert_eq!(w.open("d", "w|creat").unwrap_err(), "EISDIR");
    assert_eq!(w.open("f/x", "r").unwrap_err(), "ENOTDIR");
    assert_eq!(w.open("f", "r|dir").unwrap_err(), "ENOTDIR");
    assert_eq!(w.open("absent", "w").unwrap_err(), "ENOENT");
    assert_eq!(w.open("absent/f", "w|creat").unwrap_err(), "ENOENT");
    assert_eq!(w.open("s", "w|nofollow").unwrap_err(), "ELOOP");
    assert_eq!(w.open("s", "w|creat|excl").unwrap_err(), "EEXIST");
    assert_eq!(w.open("f", "w|creat|excl").unwrap_err(), "EEXIST");
    let fd = w.open("s", "w|trunc").unwrap();
    w.write(fd, "by the link").unwrap();
    assert_eq!((r.cat("f").unwrap(), r.cat("s").unwrap()), (b"0123456789".to_vec(), b"0123456789".to_vec()));
    w.close(fd).unwrap();
    assert_eq!((r.cat("f").unwrap(), r.cat("s").unwrap()), (b"by the link".to_vec(), b"by the link".to_vec()));
    assert_eq!(r.readlink("s").unwrap(), b"f", "the link itself stays");
    w.symlink("new target", "t").unwrap();
    w.put("t", "through a dangling link").unwrap();
    assert_eq!(r.cat("new target").unwrap(), b"through a dangling link");
    let fd = w.open("sync", "w|creat|sync").unwrap();
    w.write(fd, "synced").unwrap();
    r.sees_nothing("sync");
    w.close(fd).unwrap();
    assert_eq!(r.cat("sync").unwrap(), b"synced");
    let fd = r.open("f", "r").unwrap();
    assert_eq!(r.write(fd, "x").unwrap_err(), "EBADF");
    let fd = w.open("f", "w|append").unwrap();
    assert_eq!(w.pread(fd, 0, 1).unwrap_err(), "EBADF");
}

#[test]
fn s47_open_through_proc_has_a_defined_answer() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "version").unwrap();
    let fd = w.open("f", "r").unwrap();
    let path = format!("/proc/{}/fd/{fd}", w.pid());
    assert_eq!(w.cat(&path).unwrap(), b"version");
    // There is no name to make a draft for: either the draft of the name it had, or a clear refusal; never a change of
    // the published version under its readers.
    if let Ok(writing) = w.open(&path, "w|trunc") {
        w.write(writing, "changed").unwrap();
        assert_eq!(r.cat("f").unwrap(), b"version");
        w.close(writing).unwrap();
    }
    assert_eq!(w.pread(fd, 0, 100).unwrap(), b"version");
    let new = w.open("new", "rw|creat").unwrap();
    w.write(new, "draft").unwrap();
    assert_eq!(w.cat(&format!("/proc/{}/fd/{new}", w.pid())).unwrap(), b"draft");
    w.close(new).unwrap();
    eventually_cat(&r, "new", b"draft");
}

fn eventually_cat(r: &crate::common::Agent, path: &str, data: &[u8]) {
    crate::common::eventually("published", || r.cat(path).is_ok_and(|d| d == data));
}

#[test]
fn s47_statfs_and_locks_work() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let found = w.ask(&["statfs", "."]).unwrap();
    assert_ne!(found[1], b"0", "the backing's blocks");
    w.put("lock", "").unwrap();
    let (a, b) = (w.open("lock", "r").unwrap(), r.open("lock", "r").unwrap());
    w.flock(a).unwrap();
    assert_eq!(r.flock(b).unwrap_err(), "EAGAIN");
    w.close(a).unwrap();
    r.flock(b).unwrap();
}

#[test]
fn s47_names_do_not_change_places_while_one_is_open_for_writing() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("a", "AAAA").unwrap();
    w.put("b", "BBBB").unwrap();
    let fd = w.open("a", "rw").unwrap();
    for (one, other) in [("a", "b"), ("b", "a")] {
        assert_eq!(w.rename_with(one, other, "exchange").unwrap_err(), "EBUSY");
    }
    w.pwrite(fd, 0, "w").unwrap();
    w.close(fd).unwrap();
    assert_eq!((r.cat("a").unwrap(), r.cat("b").unwrap()), (b"wAAA".to_vec(), b"BBBB".to_vec()));
    assert!(w.rename_with("a", "b", "exchange").map_or_else(|errno| errno == "EINVAL", |()| true));
    // A shell has closed one descriptor, and written by the other.
    let first = w.open("a", "rw").unwrap();
    let fd = w.dup(first).unwrap();
    w.close(first).unwrap();
    w.write(fd, "s").unwrap();
    assert_eq!(r.rename_with("b", "a", "exchange").unwrap_err(), "EBUSY");
    w.close(fd).unwrap();
}

#[test]
fn s47_renames_with_flags_do_as_the_backing_can() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("a", "a").unwrap();
    w.put("b", "b").unwrap();
    let refused = w.rename_with("a", "b", "noreplace").unwrap_err();
    assert!(refused == "EEXIST" || refused == "EINVAL", "{refused:?}");
    match w.rename_with("a", "b", "exchange") {
        Ok(()) => assert_eq!((r.cat("a").unwrap(), r.cat("b").unwrap()), (b"b".to_vec(), b"a".to_vec())),
        Err(error) => {
            assert_eq!(error, "EINVAL");
            assert_eq!((r.cat("a").unwrap(), r.cat("b").unwrap()), (b"a".to_vec(), b"b".to_vec()));
        }
    }
    match w.rename_with("a", "c", "noreplace") {
        Ok(()) => assert!(r.stat("c").is_ok() && r.stat("a").is_err()),
        Err(error) => assert_eq!(error, "EINVAL"),
    }
}

#[test]
fn s47_what_is_being_written_gets_no_further_name_also_if_only_the_kernel_knows() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for how in ["rw", "rw|append"] {
        w.put("f", "old").unwrap();
        let fd = w.open("f", how).unwrap();
        w.write(fd, "NEW").unwrap();
        assert_eq!(w.link("f", "g").unwrap_err(), "EBUSY", "{how}");
        w.close(fd).unwrap();
        w.link("f", "g").unwrap();
        assert_eq!(r.cat("g").unwrap(), r.cat("f").unwrap());
        w.unlink("g").unwrap();
    }
}
