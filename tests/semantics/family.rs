//! Who is told from whom by what it has open: numbers of files, and processes without a trace of who forked them.

use crate::common::{Mount, Setup, eventually, filled};

#[test]
fn s03_a_file_keeps_its_number_until_it_is_published() {
    for options in ["writeback=on", "writeback=off"] {
        let m = Setup::default().options(options).mount();
        let (w, r) = m.pair();
        w.put("f", "old").unwrap();
        let old = w.stat("f").unwrap().ino;
        let fd = w.open("f", "rw").unwrap();
        let numbers = |fd| [w.fstat(fd).unwrap().ino, w.stat("f").unwrap().ino];
        assert_eq!(numbers(fd), [old; 2], "{options}: opened");
        w.write(fd, "new").unwrap();
        w.fsync(fd).unwrap();
        assert_eq!(numbers(fd), [old; 2], "{options}: written");
        w.ftruncate(fd, 1).unwrap();
        assert_eq!(numbers(fd), [old; 2], "{options}: cut off");
        let held = w.open("f", "r").unwrap();
        assert_eq!(r.stat("f").unwrap().ino, old);
        w.close(fd).unwrap();
        eventually("another version is there", || r.stat("f").unwrap().ino != old);
        let one_file = || numbers(held)[0] == numbers(held)[1];
        eventually("who has it open is told of its number", one_file);
    }
}

#[test]
fn s03_a_grandchild_whose_parent_is_gone_sees_what_it_has_open() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("old", &filled(1, 4096)).unwrap();
    let new = w.open("new", "w|creat").unwrap();
    w.write(new, "draft").unwrap();
    let over = w.open("old", "rw").unwrap();
    let map = w.mmap(over, 0, 4096, "shared").unwrap();
    w.pwrite(over, 0, "draft").unwrap();
    let orphan = w.double_fork("O");
    assert_eq!(orphan.shown("new").data, b"draft");
    assert_eq!(&orphan.shown("old").data[..5], b"draft");
    orphan.close(over).unwrap();
    assert_eq!(&orphan.shown("old").data[..5], b"draft", "it is mapped");
    orphan.munmap(map).unwrap();
    let after = m.agent("A");
    let read = after.open("old", "r").unwrap();
    for outsider in [&r, &after] {
        outsider.sees_nothing("new");
        assert_eq!(outsider.shown("old").data, filled(1, 4096));
    }
    after.close(read).unwrap();
    orphan.unlink("new").unwrap();
    w.close(new).unwrap();
    r.sees_nothing("new");
}

#[test]
fn s06_who_has_another_file_of_the_same_number_is_an_outsider() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    w.link("f", "other").unwrap();
    let fd = w.open("f", "rw").unwrap();
    w.write(fd, "new").unwrap();
    let daemon = w.double_fork("D");
    w.exit(0);
    let elsewhere = m.agent("E");
    // The export's own file, which is on another file system.
    elsewhere.open(m.raw("f").as_os_str().as_encoded_bytes(), "rw").unwrap();
    assert_eq!(elsewhere.cat("f").unwrap(), b"old");
    assert_eq!(daemon.cat("f").unwrap(), b"new");
    let besides = m.agent("B");
    let other = besides.open("other", "rw").unwrap();
    besides.write(other, "own").unwrap();
    assert_eq!(besides.cat("f").unwrap(), b"old", "the version is below a draft of another name too");
    assert_eq!(r.cat("f").unwrap(), b"old");
}
