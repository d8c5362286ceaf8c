//! Bytes and times.

use super::Place;

pub fn appending_processes_do_not_overwrite_each_other(p: &Place) {
    let (a, b) = (p.agent("a"), p.agent("b"));
    let (fa, fb) = (a.open("f", "w|creat|append").unwrap(), b.open("f", "w|creat|append").unwrap());
    let mut expected = String::new();
    for i in 0..30 {
        a.write(fa, format!("a{i:02}\n").as_str()).unwrap();
        b.write(fb, format!("b{i:02}\n").as_str()).unwrap();
        expected += &format!("a{i:02}\nb{i:02}\n");
    }
    a.close(fa).unwrap();
    b.close(fb).unwrap();
    assert_eq!(String::from_utf8(a.cat("f").unwrap()).unwrap(), expected);
    let script = "for i in 1 2 3 4 5 6 7 8; do for j in 1 2 3 4 5 6 7 8 9 10; do echo line >>g; done & done; wait";
    a.sh(script);
    assert!(a.cat("g").unwrap().starts_with(b"line\nline\n"));
}

pub fn an_append_goes_to_the_end_after_a_truncation(p: &Place) {
    let a = p.agent("a");
    a.put("f", "0123456789").unwrap();
    let (append, plain) = (a.open("f", "w|append").unwrap(), a.open("f", "rw").unwrap());
    a.ftruncate(plain, 3).unwrap();
    a.write(append, "abc").unwrap();
    a.pwrite(append, 0, "at the end all the same").unwrap();
    a.close(append).unwrap();
    a.close(plain).unwrap();
    assert_eq!(a.cat("f").unwrap(), b"012abcat the end all the same");
}

pub fn direct_and_synchronous_writes_arrive(p: &Place) {
    let a = p.agent("a");
    a.sh("head -c 65536 /dev/urandom >from");
    a.sh("dd if=from of=to bs=4096 oflag=direct 2>&1 && cmp from to");
    a.sh("dd if=to of=again bs=8192 iflag=direct oflag=sync,direct 2>&1 && cmp from again");
    a.sh("dd if=from of=to bs=4096 seek=4 count=2 conv=notrunc oflag=direct,dsync 2>&1");
    let (from, to) = (a.cat("from").unwrap(), a.cat("to").unwrap());
    assert_eq!(to.len(), 65536);
    assert!(to[..16384] == from[..16384] && to[16384..24576] == from[..8192] && to[24576..] == from[24576..]);
}

pub fn holes_are_found_and_punched(p: &Place) {
    let a = p.agent("a");
    let fd = a.open("f", "rw|creat").unwrap();
    a.fill(fd, 0, 1 << 20, 3).unwrap();
    a.fill(fd, 8 << 20, 1 << 20, 4).unwrap();
    assert_eq!(a.seek(fd, 0, "hole").unwrap(), 1 << 20);
    assert_eq!(a.seek(fd, 1 << 20, "data").unwrap(), 8 << 20);
    a.fallocate(fd, "punch", 0, 1 << 20).unwrap();
    assert_eq!(a.seek(fd, 0, "data").unwrap(), 8 << 20);
    assert_eq!(a.seek(fd, 9 << 20, "data").unwrap_err(), "ENXIO");
    a.fallocate(fd, "keep", 9 << 20, 1 << 20).unwrap();
    assert_eq!(a.fstat(fd).unwrap().size, 9 << 20);
    a.close(fd).unwrap();
    let now = a.stat("f").unwrap();
    assert_eq!(now.size, 9 << 20);
    assert!(now.blocks * 512 < 4 << 20, "{} blocks", now.blocks);
    let content = a.cat("f").unwrap();
    assert!(
        content[..8 << 20].iter().all(|b| *b == 0)
            && content[8 << 20..] == crate::common::filled(4, 9 << 20)[8 << 20..]
    );
}

pub fn truncation_shortens_and_fills_with_zeros(p: &Place) {
    let a = p.agent("a");
    a.put("f", "0123456789").unwrap();
    a.truncate("f", 4).unwrap();
    a.truncate("f", 8).unwrap();
    assert_eq!(a.cat("f").unwrap(), b"0123\0\0\0\0");
    assert_eq!(a.truncate("nothing", 0).unwrap_err(), "ENOENT");
    a.mkdir("d").unwrap();
    assert_eq!(a.truncate("d", 0).unwrap_err(), "EISDIR");
    let fd = a.open("f", "r").unwrap();
    assert_eq!(a.ftruncate(fd, 0).unwrap_err(), "EINVAL");
    assert_eq!(a.write(fd, "x").unwrap_err(), "EBADF");
    let fd = a.open("f", "w").unwrap();
    assert_eq!(a.read(fd, 1).unwrap_err(), "EBADF");
}

pub fn a_mapping_is_the_file(p: &Place) {
    let a = p.agent("a");
    let fd = a.open("f", "rw|creat").unwrap();
    a.ftruncate(fd, 10000).unwrap();
    let map = a.mmap(fd, 0, 10000, "rw").unwrap();
    a.store(map, 5000, "mapped").unwrap();
    assert_eq!(a.pread(fd, 5000, 6).unwrap(), b"mapped");
    a.pwrite(fd, 100, "written").unwrap();
    assert_eq!(a.load(map, 100, 7).unwrap(), b"written");
    a.msync(map).unwrap();
    a.munmap(map).unwrap();
    a.close(fd).unwrap();
    let content = a.cat("f").unwrap();
    assert!(content.len() == 10000 && &content[5000..5006] == b"mapped" && &content[100..107] == b"written");
    let fd = a.open("f", "r").unwrap();
    assert_eq!(a.mmap(fd, 0, 10000, "rw").unwrap_err(), "EACCES");
}

pub fn descriptors_share_their_offset(p: &Place) {
    let a = p.agent("a");
    let fd = a.open("f", "rw|creat").unwrap();
    let dup = a.dup(fd).unwrap();
    a.write(fd, "one").unwrap();
    let child = a.fork("child");
    child.write(dup, "two").unwrap();
    a.write(fd, "three").unwrap();
    assert_eq!(child.seek(fd, 0, "cur").unwrap(), 11);
    child.exit(0);
    a.close(fd).unwrap();
    a.close(dup).unwrap();
    assert_eq!(a.cat("f").unwrap(), b"onetwothree");
}

pub fn copies_inside_the_file_system(p: &Place) {
    let a = p.agent("a");
    let from = a.open("from", "rw|creat").unwrap();
    a.fill(from, 0, 200_000, 9).unwrap();
    let to = a.open("to", "rw|creat").unwrap();
    assert_eq!(a.copy_range(from, 100, to, 50, 1000).unwrap(), 1000);
    assert_eq!(a.copy_range(from, 300_000, to, 0, 10).unwrap(), 0, "nothing behind the end");
    a.close(from).unwrap();
    a.close(to).unwrap();
    let to = a.cat("to").unwrap();
    assert!(to.len() == 1050 && to[50..] == crate::common::filled(9, 1100)[100..]);
    a.sh("cp --reflink=auto --sparse=always from copy && cmp from copy && cp -a from kept && cmp from kept");
    a.sh("printf %s- *; truncate -s 1M sparse; cp sparse sparse2; cmp sparse sparse2");
}

pub fn explicit_times_are_kept_to_the_nanosecond(p: &Place) {
    let a = p.agent("a");
    a.put("f", "x").unwrap();
    for time in [1_234_567_890_123_456_789_i64, 1, 4_102_444_800_999_999_999] {
        a.utimens("f", time, time).unwrap();
        assert_eq!(a.stat("f").unwrap().mtime, i128::from(time));
    }
    let fd = a.open("f", "rw").unwrap();
    a.write(fd, "y").unwrap();
    a.futimens(fd, 5, 987_654_321_012_345_678).unwrap();
    assert_eq!(a.fstat(fd).unwrap().mtime, 987_654_321_012_345_678);
    a.close(fd).unwrap();
    assert_eq!(a.stat("f").unwrap().mtime, 987_654_321_012_345_678, "also after the close");
    a.append("f", "z").unwrap();
    assert!(a.stat("f").unwrap().mtime > 1_000_000_000_000_000_000, "a write moves it");
    a.sh("touch -d '2001-02-03 04:05:06.789' g && [ $(stat -c %.Y g) = $(date -d '2001-02-03 04:05:06.789' +%s.%N) ]");
    a.sh("c=$(stat -c %z g); sleep 0.02; chmod 600 g; [ \"$c\" != \"$(stat -c %z g)\" ]");
}
