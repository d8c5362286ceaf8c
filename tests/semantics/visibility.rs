//! Who sees what while a write is pending: new files, overwrites, appends, patches, truncation, mappings.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::common::{Agent, Mount, eventually, filled};

/// A name with an old version, a writer and an outsider.
fn old_version(m: &Mount, path: &str, data: &[u8]) -> (Agent, Agent) {
    let (w, r) = m.pair();
    w.put(path, data).unwrap();
    assert_eq!(r.cat(path).unwrap(), data);
    (w, r)
}

#[test]
fn s01_a_pending_write_is_like_a_private_file_renamed_at_close() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", b"old");
    let fd = w.open("f", "w|trunc").unwrap();
    let mut before = r.shown("f");
    for i in 0..20 {
        w.fill(fd, i * 5000, 5000, 7).unwrap();
        w.fsync(fd).unwrap();
        let now = r.shown("f");
        assert_eq!(now, before);
        before = now;
    }
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), filled(7, 100_000));
}

#[test]
fn s02_a_new_file_is_hidden_from_outsiders_until_the_last_close() {
    let m = Mount::new();
    let (w, r) = m.pair();
    r.sees_nothing("f");
    let fd = w.open("f", "w|creat").unwrap();
    r.sees_nothing("f");
    w.write(fd, "half ").unwrap();
    r.sees_nothing("f");
    w.fsync(fd).unwrap();
    r.sees_nothing("f");
    assert_eq!(r.unlink("f").unwrap_err(), "ENOENT");
    assert_eq!(r.rename("f", "g").unwrap_err(), "ENOENT");
    assert_eq!(r.link("f", "g").unwrap_err(), "ENOENT");
    assert_eq!(r.chmod("f", 0o600).unwrap_err(), "ENOENT");
    assert_eq!(r.truncate("f", 0).unwrap_err(), "ENOENT");
    assert_eq!(r.xattrs("f").unwrap_err(), "ENOENT");
    assert_eq!(m.raw_content("f"), None);
    w.write(fd, "whole").unwrap();
    w.close(fd).unwrap();
    let shown = r.shown("f");
    assert_eq!((shown.data.as_slice(), shown.size), (&b"half whole"[..], 10));
}

#[test]
fn s02_an_outsider_that_looked_before_and_during_sees_the_file_at_once_after() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for i in 0..100 {
        let name = format!("f{i}");
        assert_eq!(r.stat(&name).unwrap_err(), "ENOENT");
        let fd = w.open(&name, "w|creat|excl").unwrap();
        assert_eq!(r.stat(&name).unwrap_err(), "ENOENT");
        w.write(fd, &name).unwrap();
        assert_eq!(r.stat(&name).unwrap_err(), "ENOENT");
        w.close(fd).unwrap();
        assert_eq!(r.stat(&name).unwrap().size, name.len() as u64);
        assert_eq!(r.cat(&name).unwrap(), name.as_bytes());
    }
}

#[test]
fn s02_the_folders_time_is_that_of_the_appearance() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let ticks = std::cell::Cell::new(0);
    for looks_between in [false, true] {
        // A folder for each: a replaced version that is still open has a name of the NFS client's own for a while, whose
        // end is a change of the folder too.
        let folder = format!("d-{looks_between}");
        w.mkdir(&folder).unwrap();
        // Set back each time: a clock may stand still for as long as a commit takes.
        let set_back = || {
            r.utimens(&folder, 5, 5).unwrap();
            // To a client of NFS 3 two changes of a folder within one tick of the server's clock are one.
            let now = || {
                let made = format!("tick-{}", ticks.replace(ticks.get() + 1));
                r.mkdir(&made).unwrap();
                r.stat(&made).unwrap().mtime
            };
            let first = now();
            eventually("the clock has moved", || now() != first);
            r.stat(&folder).unwrap().mtime
        };
        let name = format!("{folder}/name");
        let before = set_back();
        let fd = w.open(&name, "w|creat").unwrap();
        if looks_between {
            assert_eq!(r.stat(&folder).unwrap().mtime, before, "nothing has appeared yet");
        }
        w.close(fd).unwrap();
        assert_ne!(r.stat(&folder).unwrap().mtime, before, "{name} has appeared");
        let before = set_back();
        w.put(&name, "again").unwrap();
        assert_ne!(r.stat(&folder).unwrap().mtime, before, "a replacement is a change of the folder too");
    }
}

#[test]
fn s02_an_empty_file_is_a_version_too() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("empty", "w|creat").unwrap();
    r.sees_nothing("empty");
    w.close(fd).unwrap();
    assert_eq!(r.shown("empty").size, 0);
}

#[test]
fn s03_the_writer_and_its_threads_see_the_draft() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "old", b"old");
    let t = w.thread("T");
    let new = w.open("new", "w|creat").unwrap();
    let over = w.open("old", "w|trunc").unwrap();
    w.write(new, "12345").unwrap();
    w.write(over, "1234567").unwrap();
    for family in [&w, &t] {
        let shown = family.shown("new");
        assert_eq!(shown.data, b"12345");
        assert_eq!(shown.ino, family.fstat(new).unwrap().ino, "path and descriptor are one file");
        assert_eq!(family.shown("old").data, b"1234567");
    }
    w.write(new, "6").unwrap();
    assert_eq!(t.stat("new").unwrap().size, 6);
    assert_eq!(t.cat("new").unwrap(), b"123456");
    r.sees_nothing("new");
    assert_eq!(r.shown("old").data, b"old");
}

#[test]
fn s03_children_and_grandchildren_see_the_draft() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let before = w.fork("B");
    let fd = w.open("f", "rw|creat|cloexec").unwrap();
    w.write(fd, "draft").unwrap();
    let after = w.fork("A");
    let grandchild = after.fork("G");
    for family in [&before, &after, &grandchild] {
        let shown = family.shown("f");
        assert_eq!((shown.data.as_slice(), shown.size), (&b"draft"[..], 5));
    }
    assert_eq!(w.sh("cat f; ls; wc -c < f"), "draftf\n5\n");
    r.sees_nothing("f");
}

#[test]
fn s03_the_family_works_on_its_draft_by_path() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "abc").unwrap();
    let again = w.open("f", "rw").unwrap();
    assert_eq!(w.read(again, 10).unwrap(), b"abc");
    assert_eq!(w.write(again, "def").unwrap(), 3);
    assert_eq!(w.pread(again, 0, 10).unwrap(), b"abcdef");
    w.close(again).unwrap();
    r.sees_nothing("f");
    w.truncate("f", 4).unwrap();
    assert_eq!(w.stat("f").unwrap().size, 4);
    r.sees_nothing("f");
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"abcd");
}

#[test]
fn s04_an_exclusive_create_finds_a_draft_to_be_there() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat|excl").unwrap();
    assert_eq!(r.open("f", "w|creat|excl").unwrap_err(), "EEXIST");
    assert_eq!(w.open("f", "w|creat|excl").unwrap_err(), "EEXIST");
    r.sees_nothing("f");
    w.write(fd, "mine").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.open("f", "w|creat|excl").unwrap_err(), "EEXIST");
    assert_eq!(r.cat("f").unwrap(), b"mine");
}

#[test]
fn s05_a_folder_with_a_draft_is_not_empty() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    let fd = w.open("d/f", "w|creat").unwrap();
    assert_eq!(r.list("d").unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(r.rmdir("d").unwrap_err(), "ENOTEMPTY");
    assert_eq!(w.rmdir("d").unwrap_err(), "ENOTEMPTY");
    r.mkdir("e").unwrap();
    assert_eq!(r.rename("e", "d").unwrap_err(), "ENOTEMPTY", "renaming over it would remove it too");
    w.write(fd, "x").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("d/f").unwrap(), b"x");
}

/// What a writer has written, and the kernel has only gathered so far, is a draft as any other.
#[test]
fn s05_what_the_kernel_has_gathered_keeps_its_name_when_the_version_is_gone() {
    let m = Mount::new();
    let (w, r) = m.pair();
    // Also of a descriptor that a shell has put where it wants it.
    for moved in [false, true] {
        let at = |name: &str| format!("{name}-{moved}");
        let write_over = |name: &str| {
            w.put(name, "old").unwrap();
            let mut fd = w.open(name, "rw").unwrap();
            if moved {
                let other = w.dup(fd).unwrap();
                w.close(fd).unwrap();
                fd = other;
            }
            w.write(fd, "new").unwrap();
            r.unlink(name).unwrap();
            fd
        };
        let d = at("d");
        w.mkdir(&d).unwrap();
        let fd = write_over(&format!("{d}/f"));
        assert_eq!(r.rmdir(&d).unwrap_err(), "ENOTEMPTY");
        let over = write_over(&format!("{d}/g"));
        r.mkdir(&at("e")).unwrap();
        assert_eq!(r.rename(&at("e"), &d).unwrap_err(), "ENOTEMPTY");
        for fd in [fd, over] {
            w.close(fd).unwrap();
        }
        r.put("other", "other").unwrap();
        for what in ["mkdir", "symlink", "link", "folder"] {
            let name = at(what);
            let fd = write_over(&name);
            let made = match what {
                "mkdir" => r.mkdir(&name),
                "symlink" => r.symlink("e", &name),
                "link" => r.link("other", &name),
                _ => r.rename(&at("e"), &name),
            };
            assert_eq!(made.unwrap_err(), if what == "folder" { "ENOTDIR" } else { "EEXIST" }, "{name}");
            w.close(fd).unwrap();
            m.settled();
            assert_eq!(r.cat(&name).unwrap(), b"new", "{name}");
        }
        let (from, to) = (at("f"), at("moved"));
        let fd = write_over(&from);
        w.rename(&from, &to).unwrap();
        w.close(fd).unwrap();
        m.settled();
        assert_eq!(r.cat(&to).unwrap(), b"new");
        r.sees_nothing(&from);
    }
}

/// The kernel repeats an open that is sent round; what the thread asks for after that has nothing to do with it, be it another
/// name or the same.
#[test]
fn s02_who_fails_to_open_a_name_for_writing_sees_no_draft_of_others() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for round in 0..40 {
        let there = format!("there{round}");
        let same = round % 2 == 0;
        let new = if same { there.clone() } else { format!("new{round}") };
        w.put(&there, "version").unwrap();
        let begin = || {
            let fd = w.open(&new, "w|creat").unwrap();
            w.write(fd, "half").unwrap();
            w.fsync(fd).unwrap();
            fd
        };
        let before = (!same).then(begin);
        // The kernel remembers the name, which is gone when the open looks for it again.
        r.stat(&there).unwrap();
        std::fs::remove_file(m.raw(&there)).unwrap();
        assert_eq!(r.open(&there, "w").unwrap_err(), "ENOENT");
        let fd = before.unwrap_or_else(begin);
        assert_eq!(r.cat(&new).unwrap_err(), "ENOENT");
        w.close(fd).unwrap();
        assert_eq!(r.cat(&new).unwrap(), b"half");
    }
}

/// An open that shall be answered from the kernel's memory is not repeated.
#[test]
fn s06_who_gives_an_open_for_writing_up_sees_no_draft() {
    let m = Mount::new();
    let w = m.agent("W");
    w.put("there", "version").unwrap();
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "half").unwrap();
    w.fsync(fd).unwrap();
    let path = |name: &str| m.mnt().join(name);
    for name in ["there", "f"] {
        std::fs::metadata(path(name)).unwrap();
        let given_up = rustix::fs::openat2(
            rustix::fs::CWD,
            path(name),
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::CACHED,
        );
        assert_eq!(given_up.err(), Some(Errno::AGAIN), "{name}");
        assert_eq!(std::fs::metadata(path("f")).unwrap().len(), 3, "{name}");
        assert_eq!(std::fs::read(path("f")).unwrap(), b"old", "{name}");
    }
    w.close(fd).unwrap();
    assert_eq!(std::fs::read(path("f")).unwrap(), b"half");
}

#[test]
fn s06_an_overwrite_shows_the_old_version_until_the_last_close() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", b"old version");
    let before = r.shown("f");
    for how in ["w|trunc", "w|creat|trunc", "rw|trunc", "w|creat", "w"] {
        let before = r.shown("f");
        let fd = w.open("f", how).unwrap();
        assert_eq!(r.shown("f"), before, "after open {how}");
        w.write(fd, "new").unwrap();
        w.fsync(fd).unwrap();
        assert_eq!(r.shown("f"), before, "after write {how}");
        assert_eq!(m.raw_content("f").unwrap(), before.data, "raw export, {how}");
        w.close(fd).unwrap();
        let after = r.shown("f");
        assert!(after.data.starts_with(b"new"), "after close {how}");
        assert!(after.mtime >= before.mtime, "{how}");
    }
    assert_ne!(r.shown("f").data, before.data);
}

#[test]
fn s06_a_large_overwrite_is_one_version() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", &filled(1, 300_000));
    let fd = w.open("f", "w|trunc").unwrap();
    w.fill(fd, 0, 5_000_000, 2).unwrap();
    assert_eq!(r.cat("f").unwrap(), filled(1, 300_000));
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), filled(2, 5_000_000));
}

#[test]
fn s07_an_append_shows_the_old_version_until_the_last_close() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", b"one\n");
    let before = r.shown("f");
    let fd = w.open("f", "w|append").unwrap();
    w.write(fd, "two\n").unwrap();
    assert_eq!(w.fstat(fd).unwrap().size, 8);
    assert_eq!(r.shown("f"), before);
    w.write(fd, "three\n").unwrap();
    w.fsync(fd).unwrap();
    assert_eq!(r.shown("f"), before);
    w.close(fd).unwrap();
    assert_eq!(r.shown("f").data, b"one\ntwo\nthree\n");
}

#[test]
fn s07_an_append_to_a_large_file_keeps_what_was_there() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", b"");
    let fd = w.open("f", "w").unwrap();
    w.fill(fd, 0, 3_000_001, 5).unwrap();
    w.close(fd).unwrap();
    w.append("f", "tail").unwrap();
    let found = r.cat("f").unwrap();
    assert_eq!(found.len(), 3_000_005);
    assert!(found.starts_with(&filled(5, 3_000_001)) && found.ends_with(b"tail"));
}

#[test]
fn s08_a_patch_in_place_shows_the_old_version_until_the_last_close() {
    let m = Mount::new();
    let data = filled(3, 200_000);
    let (w, r) = old_version(&m, "f", b"");
    let fd = w.open("f", "rw").unwrap();
    w.fill(fd, 0, 200_000, 3).unwrap();
    w.close(fd).unwrap();
    let before = r.shown("f");
    let fd = w.open("f", "rw").unwrap();
    assert_eq!(w.pread(fd, 100, 50).unwrap(), &data[100..150]);
    assert_eq!(r.shown("f"), before);
    w.pwrite(fd, 100_000, "PATCH").unwrap();
    assert_eq!(w.pread(fd, 99_999, 7).unwrap(), [&data[99_999..100_000], b"PATCH", &data[100_005..100_006]].concat());
    assert_eq!(r.shown("f"), before);
    w.close(fd).unwrap();
    let mut expected = data;
    expected[100_000..100_005].copy_from_slice(b"PATCH");
    assert!(r.cat("f").unwrap() == expected, "one patch, the rest as it was");
}

#[test]
fn s09_a_truncation_by_descriptor_is_part_of_the_draft() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", b"0123456789");
    let before = r.shown("f");
    let fd = w.open("f", "rw").unwrap();
    w.ftruncate(fd, 4).unwrap();
    assert_eq!(w.fstat(fd).unwrap().size, 4);
    assert_eq!(r.shown("f"), before);
    w.ftruncate(fd, 6).unwrap();
    assert_eq!(r.shown("f"), before);
    w.close(fd).unwrap();
    assert_eq!(r.shown("f").data, b"0123\0\0");
}

#[test]
fn s10_a_truncation_by_path_is_one_new_version_at_once() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", b"0123456789");
    for (len, expected) in [(4, &b"0123"[..]), (7, b"0123\0\0\0"), (0, b""), (3, b"\0\0\0")] {
        let reader = r.open("f", "r").unwrap();
        let before = r.pread(reader, 0, 100).unwrap();
        w.truncate("f", len).unwrap();
        assert_eq!(r.shown("f").data, expected);
        assert_eq!(m.raw_content("f").unwrap(), expected);
        assert_eq!(r.pread(reader, 0, 100).unwrap(), before, "a version that was open keeps its bytes");
        r.close(reader).unwrap();
    }
    assert_eq!(w.truncate("absent", 3).unwrap_err(), "ENOENT");
}

#[test]
fn s11_stores_to_a_shared_mapping_are_part_of_the_draft() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", &filled(4, 8192));
    let before = r.shown("f");
    let fd = w.open("f", "rw").unwrap();
    let map = w.mmap(fd, 0, 8192, "shared").unwrap();
    w.store(map, 10, "first").unwrap();
    w.msync(map).unwrap();
    assert_eq!(w.pread(fd, 10, 5).unwrap(), b"first");
    assert_eq!(r.shown("f"), before);
    w.store(map, 5000, "second").unwrap();
    w.munmap(map).unwrap();
    assert_eq!(r.shown("f"), before);
    w.close(fd).unwrap();
    let mut expected = filled(4, 8192);
    expected[10..15].copy_from_slice(b"first");
    expected[5000..5006].copy_from_slice(b"second");
    eventually("the mapped stores are published", || r.cat("f").unwrap() == expected);
}

#[test]
fn s11_a_private_mapping_changes_nothing() {
    let m = Mount::new();
    let (w, r) = old_version(&m, "f", &filled(4, 4096));
    let before = r.shown("f");
    let fd = w.open("f", "rw").unwrap();
    let map = w.mmap(fd, 0, 4096, "private").unwrap();
    w.store(map, 0, "mine").unwrap();
    assert_eq!(w.load(map, 0, 4).unwrap(), b"mine");
    w.close(fd).unwrap();
    assert_eq!(r.shown("f").data, before.data);
    w.munmap(map).unwrap();
    assert_eq!(r.shown("f").data, before.data);
}

#[test]
fn s03_who_reads_the_version_is_no_family_of_a_draft_whose_first_writer_is_gone() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let v = m.agent("V");
    w.put("f", "old").unwrap();
    let (mine, theirs) = (w.open("f", "w|append").unwrap(), v.open("f", "rw").unwrap());
    w.write(mine, "draft").unwrap();
    let held = r.open("f", "r").unwrap();
    assert_eq!(r.cat("f").unwrap(), b"old");
    w.exit(0);
    assert_eq!(r.cat("f").unwrap(), b"old", "it has the version open, not the draft");
    assert_eq!(v.cat("f").unwrap(), b"olddraft");
    v.close(theirs).unwrap();
    r.close(held).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"olddraft");
}
