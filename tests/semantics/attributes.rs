//! Operations that take effect at once; attributes of drafts and versions; permissions.

use std::time::{Duration, SystemTime};

use crate::common::mount::peer_base;
use crate::common::{Mount, Setup, eventually};

#[test]
fn s21_an_open_pipe_without_a_name_is_changed_and_asked_as_before() {
    let m = Mount::new();
    let (w, _) = m.pair();
    for how in ["unlinked", "replaced"] {
        w.call(&["mkfifo", "p"]).unwrap();
        let fd = w.open("p", "rw").unwrap();
        let before = w.fstat(fd).unwrap();
        if how == "unlinked" {
            w.unlink("p").unwrap();
        } else {
            w.put("f", "data").unwrap();
            w.rename("f", "p").unwrap();
            assert_eq!(w.stat("p").unwrap().size, 4);
        }
        let now = w.fstat(fd).unwrap();
        assert_eq!((now.ino, now.mode, now.nlink), (before.ino, before.mode, 0), "{how}");
        w.fchmod(fd, 0o600).unwrap();
        w.call(&["chown", &format!("/proc/self/fd/{fd}"), "1", "2"]).unwrap();
        let now = w.fstat(fd).unwrap();
        assert_eq!((now.perm(), now.uid, now.gid, now.nlink), (0o600, 1, 2, 0), "{how}");
        w.write(fd, "x").unwrap();
        assert_eq!(w.read(fd, 1).unwrap(), b"x", "{how}");
        w.close(fd).unwrap();
        if how == "replaced" {
            w.unlink("p").unwrap();
        }
    }
}

#[test]
fn s21_operations_on_names_take_effect_at_once() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    assert!(r.stat("d").unwrap().is_dir());
    w.symlink("target/of it", "s").unwrap();
    assert_eq!(r.readlink("s").unwrap(), b"target/of it");
    w.call(&["mkfifo", "p"]).unwrap();
    assert_eq!(r.stat("p").unwrap().mode & 0o170_000, 0o010_000);
    w.call(&["mknod", "n"]).unwrap();
    assert_eq!(r.shown("n").size, 0);
    w.put("f", "data").unwrap();
    w.link("f", "d/l").unwrap();
    assert_eq!(r.stat("d/l").unwrap().nlink, 2);
    assert_eq!(r.stat("d/l").unwrap().ino, r.stat("f").unwrap().ino);
    w.unlink("d/l").unwrap();
    r.sees_nothing("d/l");
    assert_eq!(r.stat("f").unwrap().nlink, 1);
    w.rename("f", "d/f").unwrap();
    r.sees_nothing("f");
    assert_eq!(r.cat("d/f").unwrap(), b"data");
    assert_eq!(w.rmdir("d").unwrap_err(), "ENOTEMPTY");
    w.unlink("d/f").unwrap();
    w.rmdir("d").unwrap();
    assert_eq!(r.stat("d").unwrap_err(), "ENOENT");
    for name in ["s", "p", "n"] {
        assert!(m.raw(name).symlink_metadata().is_ok(), "{name} is on the export");
    }
}

#[test]
fn s21_changes_of_attributes_take_effect_at_once() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "data").unwrap();
    let before = r.shown("f");
    w.chmod("f", 0o640).unwrap();
    assert_eq!(r.stat("f").unwrap().perm(), 0o640);
    w.utimens("f", 1_000_000_000_000_000_001, 1_111_111_111_123_456_789).unwrap();
    assert_eq!(r.stat("f").unwrap().mtime, 1_111_111_111_123_456_789);
    if takes_xattrs(&m) {
        w.set_xattr("f", "user.colour", "blue").unwrap();
        assert_eq!(r.xattr("f", "user.colour").unwrap(), b"blue");
        assert!(r.xattrs("f").unwrap().contains(&b"user.colour".to_vec()));
        w.call(&["removexattr", "f", "user.colour"]).unwrap();
        assert_eq!(r.xattr("f", "user.colour").unwrap_err(), "ENODATA");
    } else {
        assert_eq!(w.set_xattr("f", "user.colour", "blue").unwrap_err(), "EOPNOTSUPP", "as on the export");
    }
    w.chown("f", 1234, 2345).unwrap();
    let now = r.stat("f").unwrap();
    assert_eq!((now.uid, now.gid), (1234, 2345));
    assert_eq!((r.cat("f").unwrap(), now.ino), (before.data, before.ino), "none of this makes a new version");
    assert_eq!(m.commits_of("f"), 1);
    w.mkdir("d").unwrap();
    w.chmod("d", 0o1777).unwrap();
    assert_eq!(r.stat("d").unwrap().perm(), 0o1777);
    w.utimens("d", 0, 5_000_000_000).unwrap();
    assert_eq!(r.stat("d").unwrap().mtime, 5_000_000_000);
    // Before 1970, as the export has it.
    w.mkdir("old").unwrap();
    let half_past = SystemTime::UNIX_EPOCH - Duration::from_millis(1_500);
    let of_export = || m.raw("old").metadata().unwrap().modified().unwrap();
    std::fs::File::open(m.raw("old")).unwrap().set_modified(half_past).unwrap();
    let expected = of_export();
    w.utimens("old", 0, -1_500_000_000).unwrap();
    assert_eq!(of_export(), expected);
}

/// `touch` sets times through a descriptor that is open for writing.
#[test]
fn s21_what_is_set_through_a_descriptor_that_writes_nothing_takes_effect_at_once() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "data").unwrap();
    w.link("f", "g").unwrap();
    w.put("alone", "data").unwrap();
    for (path, names) in [("f", ["f", "g"]), ("g", ["g", "f"]), ("alone", ["alone", "./alone"])] {
        for time in [1_111_111_111_123_456_789, 2_222_222_222_000_000_001] {
            let held = r.open(names[1], "r").unwrap();
            let fd = w.open(path, "w").unwrap();
            w.futimens(fd, time, time).unwrap();
            w.fchmod(fd, 0o640).unwrap();
            assert_eq!(r.fstat(held).unwrap().perm(), 0o640, "{path}");
            w.fchmod(fd, 0o600).unwrap();
            w.close(fd).unwrap();
            assert_eq!(r.fstat(held).unwrap().perm(), 0o600, "{path}");
            for name in names {
                let now = r.stat(name).unwrap();
                assert_eq!((now.mtime, now.perm()), (i128::from(time), 0o600), "{path}, {name}");
            }
            if takes_xattrs(&m) {
                // Makes the kernel write back what it keeps of the node that is open.
                w.set_xattr(names[0], "user.colour", "blue").unwrap();
                r.set_xattr(&*format!("/proc/self/fd/{held}"), "user.colour", "red").unwrap();
            }
            r.close(held).unwrap();
            for name in names {
                assert_eq!(r.stat(name).unwrap().mtime, i128::from(time), "{path}, {name}, afterwards");
            }
        }
    }
    for path in ["f", "g", "alone"] {
        assert_eq!(m.commits_of(path), usize::from(path != "g"), "{path}: no new version");
    }
}

#[test]
fn s22_attributes_set_on_a_draft_are_published_with_it() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open_mode("f", "w|creat", 0o600).unwrap();
    w.write(fd, "data").unwrap();
    w.fchmod(fd, 0o751).unwrap();
    let has_xattrs = takes_xattrs(&m);
    assert_eq!(w.set_xattr("f", "user.a", "1").is_ok(), has_xattrs);
    w.chown("f", 1234, 2345).unwrap();
    w.futimens(fd, 0, 1_234_567_890_000_000_001).unwrap();
    assert_eq!(w.stat("f").unwrap().perm(), 0o751);
    r.sees_nothing("f");
    w.close(fd).unwrap();
    let now = r.stat("f").unwrap();
    assert_eq!((now.perm(), now.uid, now.gid, now.mtime), (0o751, 1234, 2345, 1_234_567_890_000_000_001));
    if has_xattrs {
        assert_eq!(r.xattr("f", "user.a").unwrap(), b"1");
    }
    let raw = std::os::unix::fs::MetadataExt::mtime_nsec(&m.raw("f").metadata().unwrap());
    assert_eq!(raw, 1, "times set before close survive the commit");
}

#[test]
fn s22_attributes_of_the_draft_stay_hidden_from_outsiders() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let before = r.shown("f");
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "newer").unwrap();
    w.fchmod(fd, 0o600).unwrap();
    w.futimens(fd, 0, 7_000_000_000).unwrap();
    assert_eq!(r.shown("f"), before);
    w.close(fd).unwrap();
    let now = r.stat("f").unwrap();
    assert_eq!((now.perm(), now.mtime, now.size), (0o600, 7_000_000_000, 5));
}

#[test]
fn s22_attributes_that_a_writer_sets_after_its_first_write_stay_hidden_too() {
    let m = Mount::new();
    if !takes_xattrs(&m) {
        return eprintln!("SKIPPED: the export has no attributes");
    }
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    w.set_xattr("f", "user.sum", "of old").unwrap();
    let fd = w.open("f", "rw").unwrap();
    w.pwrite(fd, 0, "NEW").unwrap();
    w.set_xattr("f", "user.sum", "of new").unwrap();
    assert_eq!((r.cat("f").unwrap(), r.xattr("f", "user.sum").unwrap()), (b"old".to_vec(), b"of old".to_vec()));
    assert_eq!(w.xattr("f", "user.sum").unwrap(), b"of new");
    w.close(fd).unwrap();
    assert_eq!((r.cat("f").unwrap(), r.xattr("f", "user.sum").unwrap()), (b"NEW".to_vec(), b"of new".to_vec()));
}

#[test]
fn s22_an_access_time_that_was_set_stays() {
    let m = Mount::new();
    let w = m.agent("W");
    for round in 0..5 {
        let name = format!("f{round}");
        w.put(&name, "0123456789").unwrap();
        let fd = w.open(&name, "rw").unwrap();
        // Not in order: its digest is taken from the version.
        w.pwrite(fd, 5, "B").unwrap();
        w.pwrite(fd, 1, "A").unwrap();
        w.futimens(fd, 1_000_000_000, 2_000_000_000).unwrap();
        w.close(fd).unwrap();
        let digested = || {
            m.json(&["log"])
                .as_array()
                .unwrap()
                .iter()
                .any(|row| row["path"] == *name && row["digest"].is_string() && row["kind"] != "new")
        };
        eventually("the digest is taken", digested);
        let atime = std::os::unix::fs::MetadataExt::atime(&m.raw(&name).metadata().unwrap());
        assert_eq!(atime, 1, "{name}");
    }
}

#[test]
fn s22_the_times_of_a_version_are_those_of_its_last_write() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i128;
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "x").unwrap();
    w.close(fd).unwrap();
    let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i128;
    let mtime = r.stat("f").unwrap().mtime;
    // The kernel's coarse clock may lag by a tick.
    let tick = 20_000_000;
    assert!(start - tick <= mtime && mtime <= end + tick, "{start} {mtime} {end}");
}

#[test]
fn s22_a_version_has_the_modification_time_that_its_writer_saw() {
    if std::env::var_os("COMMITFS_TEST_BACKING").is_some() {
        // On NFS the server's clock has its say: what was written in the tick of the creation has the server's time.
        return;
    }
    for options in ["writeback=on", "writeback=off"] {
        let m = Setup::default().options(options).mount();
        let (w, r) = m.pair();
        let seen = |how: &str, fd: i32| {
            let seen = w.fstat(fd).unwrap().mtime;
            w.close(fd).unwrap();
            assert_eq!(r.stat("f").unwrap().mtime, seen, "{options}: {how}");
            w.close(w.open("f", "r").unwrap()).unwrap();
            assert_eq!(r.stat("f").unwrap().mtime, seen, "{options}: {how}, later");
        };
        for round in 0..20 {
            let how = |how| format!("round {round}, {how}");
            if round > 0 {
                w.unlink("f").unwrap();
            }
            let fd = w.open("f", "w|creat").unwrap();
            w.write(fd, "new").unwrap();
            seen(&how("a new name"), fd);
            let fd = w.open("f", "w|trunc").unwrap();
            w.write(fd, "replaced").unwrap();
            seen(&how("replaced"), fd);
            let fd = w.open("f", "w|append").unwrap();
            w.write(fd, "and more").unwrap();
            w.fsync(fd).unwrap();
            w.write(fd, "and more").unwrap();
            seen(&how("appended to"), fd);
            let fd = w.open("f", "w").unwrap();
            w.write(fd, "patched").unwrap();
            w.ftruncate(fd, 3).unwrap();
            seen(&how("cut off"), fd);
        }
    }
}

#[test]
fn s22_an_empty_draft_that_is_emptied_has_a_new_time() {
    for options in ["writeback=on", "writeback=off"] {
        let m = Setup::default().options(options).mount();
        let (w, r) = m.pair();
        let first = w.open("f", "w|creat").unwrap();
        w.futimens(first, 0, 7_000_000_000).unwrap();
        let again = w.open("f", "w|trunc").unwrap();
        assert!(w.stat("f").unwrap().mtime > 7_000_000_000, "{options}");
        w.close(first).unwrap();
        w.close(again).unwrap();
        assert!(r.stat("f").unwrap().mtime > 7_000_000_000, "{options}: published");
    }
}

#[test]
fn s23_an_overwrite_keeps_mode_owner_xattrs_and_acl() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    w.chown("f", 1234, 2345).unwrap();
    w.chmod("f", 0o664).unwrap();
    let has_xattrs = takes_xattrs(&m);
    assert_eq!(w.set_xattr("f", "user.colour", "blue").is_ok(), has_xattrs);
    let acl = acl_for(4321);
    let has_acl = w.set_xattr("f", "system.posix_acl_access", &acl).is_ok();
    let on_nfs = std::env::var_os("COMMITFS_TEST_BACKING").is_some();
    assert!(has_acl || on_nfs, "POSIX ACLs work on a local disk");
    for how in ["w|trunc", "w|append", "rw", "w|creat|trunc"] {
        let fd = w.open("f", how).unwrap();
        w.write(fd, "new").unwrap();
        w.close(fd).unwrap();
        let now = r.stat("f").unwrap();
        assert_eq!((now.perm(), now.uid, now.gid), (0o664, 1234, 2345), "{how}");
        assert_eq!(r.xattr("f", "user.colour").is_ok_and(|value| value == b"blue"), has_xattrs, "{how}");
        if has_acl {
            assert_eq!(r.xattr("f", "system.posix_acl_access").unwrap(), acl, "{how}");
        }
    }
    w.truncate("f", 1).unwrap();
    let now = r.stat("f").unwrap();
    assert_eq!((now.size, now.perm(), now.uid, now.gid), (1, 0o664, 1234, 2345));
    assert_eq!(r.xattr("f", "user.colour").is_ok_and(|value| value == b"blue"), has_xattrs);
}

#[test]
fn s23_a_set_id_bit_that_the_writer_gives_before_its_first_write_stays() {
    let m = Mount::new();
    let w = m.agent("W");
    for by_path in [false, true] {
        w.put("f", "old").unwrap();
        w.chmod("f", 0o755).unwrap();
        let fd = w.open("f", "rw").unwrap();
        if by_path { w.chmod("f", 0o6755) } else { w.fchmod(fd, 0o6755) }.unwrap();
        // Whoever writes and is not root takes such bits away.
        w.pwrite(fd, 0, "new").unwrap();
        w.close(fd).unwrap();
        m.settled();
        let expected = if rustix::process::geteuid().is_root() { 0o6755 } else { 0o755 };
        assert_eq!((w.cat("f").unwrap(), w.stat("f").unwrap().perm()), (b"new".to_vec(), expected), "{by_path}");
        w.unlink("f").unwrap();
    }
}

#[test]
fn s23_what_others_change_of_a_version_the_draft_over_it_takes_over() {
    let m = Mount::new();
    let (w, other) = m.pair();
    let has_xattrs = takes_xattrs(&m);
    for how in ["w|trunc", "rw", "w|append"] {
        w.put("f", "old").unwrap();
        w.chown("f", 1000, 1000).unwrap();
        w.chmod("f", 0o644).unwrap();
        let fd = w.open("f", how).unwrap();
        w.write(fd, "new").unwrap();
        let written = w.fstat(fd).unwrap();
        assert_eq!(other.cat("f").unwrap(), b"old", "{how}");
        other.chown("f", 1234, 2345).unwrap();
        other.chmod("f", 0o6711).unwrap();
        if has_xattrs {
            other.set_xattr("f", "user.colour", "blue").unwrap();
        }
        let draft = w.fstat(fd).unwrap();
        assert_eq!((draft.perm() & 0o777, draft.uid, draft.gid), (0o711, 1234, 2345), "{how}: the writer sees it");
        assert_eq!(draft.mtime, written.mtime, "{how}: its content is as old as it was");
        w.close(fd).unwrap();
        let now = other.stat("f").unwrap();
        assert_eq!((now.perm(), now.uid, now.gid), (0o711, 1234, 2345), "{how}: no rights that nobody vouched for");
        if has_xattrs {
            assert_eq!(other.xattr("f", "user.colour").unwrap(), b"blue", "{how}");
        }
        w.unlink("f").unwrap();
    }
}

/// Whether the export's file system keeps extended attributes of users: NFS 3 does not.
fn takes_xattrs(m: &Mount) -> bool {
    let probe = m.raw("probe");
    std::fs::write(&probe, "").unwrap();
    let set = rustix::fs::setxattr(&probe, "user.probe", b"x", rustix::fs::XattrFlags::empty());
    std::fs::remove_file(&probe).unwrap();
    assert!(set.is_ok() || std::env::var_os("COMMITFS_TEST_BACKING").is_some(), "they work on a local disk");
    set.is_ok()
}

/// `u::rw-,u:UID:rw-,g::rw-,m::rw-,o::r--` as the kernel wants it.
fn acl_for(uid: u32) -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 6, uid), (4, 6, u32::MAX), (0x10, 6, u32::MAX), (0x20, 4, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

#[test]
fn s48_files_belong_to_who_makes_them() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("open").unwrap();
    w.chmod("open", 0o777).unwrap();
    let user = m.agent("U");
    user.call(&["become", "1234", "2345"]).unwrap();
    user.call(&["umask", "027"]).unwrap();
    user.open_mode("open/f", "w|creat", 0o666).and_then(|fd| user.close(fd)).unwrap();
    user.mkdir("open/d").unwrap();
    user.symlink("f", "open/s").unwrap();
    user.call(&["mkfifo", "open/p"]).unwrap();
    for name in ["f", "d", "s", "p"] {
        let found = r.lstat(&format!("open/{name}")).unwrap();
        assert_eq!((found.uid, found.gid), (1234, 2345), "{name}");
    }
    assert_eq!(r.stat("open/f").unwrap().perm(), 0o640);
    assert_eq!(m.commits_of("open/f"), 1);
    assert!(m.history().iter().all(|row| row.uid == 1234));
}

#[test]
fn s48_files_belong_to_who_changes_them_too() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("open").unwrap();
    w.chmod("open", 0o777).unwrap();
    let user = m.agent("U");
    user.call(&["become", "1234", "2345"]).unwrap();
    user.put("open/f", "one ").unwrap();
    user.append("open/f", "two ").unwrap();
    let fd = user.open("open/f", "rw").unwrap();
    user.pwrite(fd, 0, "ONE").unwrap();
    user.close(fd).unwrap();
    user.truncate("open/f", 7).unwrap();
    let (from, to) = (user.open("open/f", "r").unwrap(), user.open("open/g", "w|creat").unwrap());
    assert_eq!(user.copy_range(from, 0, to, 0, 7), Ok(7));
    user.close(to).unwrap();
    for name in ["open/f", "open/g"] {
        assert_eq!((r.cat(name).unwrap(), r.stat(name).unwrap().uid), (b"ONE two".to_vec(), 1234), "{name}");
    }
    user.chmod("open/g", 0o600).unwrap();
    user.append("open/g", " three").unwrap();
    assert_eq!(user.cat("open/g").unwrap(), b"ONE two three");
}

#[test]
fn s48_permissions_are_those_of_the_export() {
    let m = Mount::new();
    let w = m.agent("W");
    for (name, mode) in [("secret", 0o600), ("public", 0o644), ("shared", 0o666)] {
        w.put(name, "data").unwrap();
        w.chmod(name, mode).unwrap();
    }
    w.mkdir("closed").unwrap();
    w.put("closed/f", "data").unwrap();
    assert_eq!(w.cat("closed/f").unwrap(), b"data");
    w.chmod("closed", 0o700).unwrap();
    w.mkdir("sticky").unwrap();
    w.chmod("sticky", 0o1777).unwrap();
    w.put("sticky/f", "data").unwrap();
    let user = m.agent("U");
    user.call(&["become", "1234", "2345"]).unwrap();
    assert_eq!(user.cat("secret").unwrap_err(), "EACCES");
    assert_eq!(user.cat("public").unwrap(), b"data");
    assert_eq!(user.open("public", "w|trunc").unwrap_err(), "EACCES");
    assert_eq!(user.open("public", "rw").unwrap_err(), "EACCES");
    assert_eq!(user.truncate("public", 0).unwrap_err(), "EACCES");
    assert_eq!(user.call(&["access", "public", "w"]).unwrap_err(), "EACCES");
    user.call(&["access", "public", "r"]).unwrap();
    assert_eq!(user.cat("closed/f").unwrap_err(), "EACCES");
    assert_eq!(user.stat("closed/f").unwrap_err(), "EACCES");
    assert_eq!(user.put("new", "x").unwrap_err(), "EACCES", "the root folder is not writable for all");
    assert_eq!(user.unlink("sticky/f").unwrap_err(), "EPERM");
    assert_eq!(user.rename("sticky/f", "sticky/g").unwrap_err(), "EPERM");
    assert_eq!(user.chmod("public", 0o777).unwrap_err(), "EPERM");
    assert_eq!(user.chown("shared", 1234, 2345).unwrap_err(), "EPERM");
    user.append("shared", " more").unwrap();
    let now = w.stat("shared").unwrap();
    assert_eq!((now.uid, now.perm()), (0, 0o666), "another's file stays another's");
    eventually("appended", || w.cat("shared").unwrap() == b"data more");
}

#[test]
fn s48_a_file_may_be_made_read_only_at_creation() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("open").unwrap();
    w.chmod("open", 0o777).unwrap();
    let user = m.agent("U");
    user.call(&["become", "1234", "2345"]).unwrap();
    let fd = user.open_mode("open/f", "rw|creat|excl", 0o444).unwrap();
    user.write(fd, "read-only").unwrap();
    user.close(fd).unwrap();
    assert_eq!(r.cat("open/f").unwrap(), b"read-only");
    assert_eq!(r.stat("open/f").unwrap().perm(), 0o444);
    let fd = user.open_mode("open/g", "w|creat|excl", 0o000).unwrap();
    user.write(fd, "sealed").unwrap();
    user.close(fd).unwrap();
    assert_eq!(r.cat("open/g").unwrap(), b"sealed");
}

/// By these two times programs tell whether somebody has read what came.
#[test]
fn s22_a_write_is_no_access() {
    if peer_base().is_some() {
        eprintln!("SKIPPED: on NFS access times are the server's");
        return;
    }
    let m = Mount::new();
    let w = m.agent("W");
    let read_at = |name: &str| std::os::unix::fs::MetadataExt::atime(&m.raw(name).metadata().unwrap());
    let old = "old".repeat(5000);
    for how in ["w|append", "w|trunc", "rw"] {
        w.put("f", &old).unwrap();
        w.utimens("f", 7_000_000_000, 8_000_000_000).unwrap();
        let fd = w.open("f", how).unwrap();
        w.write(fd, "new").unwrap();
        w.fsync(fd).unwrap();
        // The kernel reads what it writes a part of.
        w.pwrite(fd, 9000, "new").unwrap();
        w.close(fd).unwrap();
        m.settled();
        assert_eq!(read_at("f"), 7, "{how}");
    }
    let fd = w.open("f", "rw").unwrap();
    w.futimens(fd, 9_000_000_000, 9_000_000_000).unwrap();
    w.write(fd, "newer").unwrap();
    w.close(fd).unwrap();
    m.settled();
    assert_eq!(read_at("f"), 9, "set by its writer before");
}
