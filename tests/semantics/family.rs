//! Who is told from whom by what it has open: numbers of files.

use crate::common::{Mount, Setup, eventually};

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
