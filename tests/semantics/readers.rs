//! What a reader holds stays as it is.

use crate::common::{Mount, filled};

#[test]
fn s18_a_reader_keeps_its_version_across_ten_overwrites() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", &filled(0, 20_000)).unwrap();
    let fd = r.open("f", "r").unwrap();
    let map = r.mmap(fd, 0, 20_000, "ro").unwrap();
    let before = r.fstat(fd).unwrap();
    let first = r.pread(fd, 0, 100).unwrap();
    for round in 1..=10_u64 {
        match round % 4 {
            0 => w.append("f", "appended").unwrap(),
            1 => w.put("f", &filled(round, 1000 * round)).unwrap(),
            2 => w.truncate("f", 10).unwrap(),
            _ => {
                let patch = w.open("f", "rw").unwrap();
                w.pwrite(patch, 3, "patched").unwrap();
                w.close(patch).unwrap();
            }
        }
        let now = r.fstat(fd).unwrap();
        assert_eq!((now.ino, now.size, now.mtime), (before.ino, before.size, before.mtime), "round {round}");
        assert_eq!(r.pread(fd, 0, 100).unwrap(), first, "round {round}");
        assert!(r.pread(fd, 0, 30_000).unwrap() == filled(0, 20_000), "round {round}");
        assert!(r.load(map, 0, 20_000).unwrap() == filled(0, 20_000), "round {round}");
        assert_ne!(r.stat("f").unwrap().ino, before.ino, "the path shows the new version, round {round}");
    }
    assert_eq!(r.seek(fd, 0, "end").unwrap(), 20_000);
}

#[test]
fn s18_a_version_survives_being_unlinked_and_renamed_over() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("a", "first").unwrap();
    w.put("b", "second").unwrap();
    let (a, b) = (r.open("a", "r").unwrap(), r.open("b", "r").unwrap());
    w.unlink("a").unwrap();
    w.put("c", "third").unwrap();
    w.rename("c", "b").unwrap();
    assert_eq!(r.pread(a, 0, 10).unwrap(), b"first");
    assert_eq!(r.pread(b, 0, 10).unwrap(), b"second");
    assert_eq!(r.fstat(b).unwrap().size, 6);
    assert_eq!(r.cat("b").unwrap(), b"third");
}

#[test]
fn s18_readers_of_one_name_hold_different_versions() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let mut held = Vec::new();
    for round in 0..20_u64 {
        w.put("f", &filled(round, 5000 + round)).unwrap();
        held.push(r.open("f", "r").unwrap());
    }
    for (round, fd) in (0_u64..).zip(&held) {
        assert_eq!(r.fstat(*fd).unwrap().size, 5000 + round);
        assert!(r.pread(*fd, 0, 10_000).unwrap() == filled(round, 5000 + round), "round {round}");
    }
}

#[test]
fn s18_a_reader_through_the_cache_never_sees_another_versions_page() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for round in 0..200_u64 {
        let len = 1 + (round * 7919) % 9000;
        w.put("f", &filled(round, len)).unwrap();
        assert!(r.cat("f").unwrap() == filled(round, len), "round {round}, {len} bytes");
        assert_eq!(r.stat("f").unwrap().size, len, "round {round}");
    }
}

#[test]
fn s21_open_for_reading_with_creat_takes_effect_at_once() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "r|creat").unwrap();
    assert_eq!(r.shown("f").size, 0);
    assert_eq!(m.raw_content("f").unwrap(), b"");
    w.close(fd).unwrap();
    w.put("g", "kept").unwrap();
    let fd = w.open("g", "r|creat").unwrap();
    assert_eq!(w.read(fd, 10).unwrap(), b"kept");
}
