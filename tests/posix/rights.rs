//! Owners, modes, lists: who may, and whose it is.

use super::Place;

const ALICE: (u32, u32) = (1201, 1201);
const BOB: (u32, u32) = (1202, 1202);

pub fn the_umask_and_the_mode_decide(p: &Place) {
    let a = p.agent("a");
    for (mask, file, folder) in [("000", 0o666, 0o755), ("027", 0o640, 0o750), ("077", 0o600, 0o700)] {
        a.call(&["umask", mask]).unwrap();
        let (f, d) = (format!("f{mask}"), format!("d{mask}"));
        let fd = a.open_mode(&*f, "w|creat", 0o666).unwrap();
        assert_eq!(a.fstat(fd).unwrap().perm(), file);
        a.close(fd).unwrap();
        a.mkdir(&*d).unwrap();
        assert_eq!((a.stat(&*f).unwrap().perm(), a.stat(&*d).unwrap().perm()), (file, folder), "{mask}");
    }
    let fd = a.open_mode("closed", "w|creat", 0o000).unwrap();
    a.write(fd, "may be written all the same").unwrap();
    a.close(fd).unwrap();
    assert_eq!(a.stat("closed").unwrap().perm(), 0);
    let user = p.user("u", ALICE.0, ALICE.1);
    let fd = user.open_mode("readonly", "w|creat|excl", 0o444).unwrap();
    user.write(fd, "by its maker").unwrap();
    user.close(fd).unwrap();
    assert_eq!(user.open("readonly", "w").unwrap_err(), "EACCES");
    assert_eq!(user.cat("readonly").unwrap(), b"by its maker");
}

pub fn a_setgid_folder_gives_its_group(p: &Place) {
    let a = p.agent("a");
    a.mkdir("d").unwrap();
    a.chown("d", 0, 4242).unwrap();
    a.chmod("d", 0o2777).unwrap();
    let user = p.user("u", ALICE.0, ALICE.1);
    user.put("d/f", "x").unwrap();
    user.mkdir("d/sub").unwrap();
    user.symlink("f", "d/s").unwrap();
    user.sh("mkfifo d/p");
    for name in ["d/f", "d/sub", "d/s", "d/p"] {
        let it = a.lstat(name).unwrap();
        assert_eq!((it.uid, it.gid), (ALICE.0, 4242), "{name}");
    }
    assert_eq!(a.stat("d/sub").unwrap().perm() & 0o2000, 0o2000);
    assert_eq!(a.stat("d/f").unwrap().perm(), 0o644);
    user.call(&["umask", "000"]).unwrap();
    let fd = user.open_mode("d/program", "w|creat", 0o2755).unwrap();
    user.close(fd).unwrap();
    assert_eq!(a.stat("d/program").unwrap().perm(), 0o755, "not of the group: no set-gid program");
}

pub fn a_sticky_folder_protects_names(p: &Place) {
    let a = p.agent("a");
    a.mkdir("d").unwrap();
    a.chmod("d", 0o1777).unwrap();
    let (alice, bob) = (p.user("alice", ALICE.0, ALICE.1), p.user("bob", BOB.0, BOB.1));
    alice.put("d/f", "alice's").unwrap();
    alice.mkdir("d/sub").unwrap();
    alice.chmod("d/f", 0o666).unwrap();
    bob.put("d/g", "bob's").unwrap();
    assert_eq!(bob.unlink("d/f").unwrap_err(), "EPERM");
    assert_eq!(bob.rmdir("d/sub").unwrap_err(), "EPERM");
    assert_eq!(bob.rename("d/f", "d/h").unwrap_err(), "EPERM");
    assert_eq!(bob.rename("d/g", "d/f").unwrap_err(), "EPERM");
    bob.append("d/f", " and bob's").unwrap();
    assert_eq!(alice.cat("d/f").unwrap(), b"alice's and bob's");
    let now = alice.stat("d/f").unwrap();
    assert_eq!((now.uid, now.gid, now.perm()), (ALICE.0, ALICE.1, 0o666));
    alice.unlink("d/f").unwrap();
}

pub fn a_default_list_is_inherited(p: &Place) {
    let a = p.agent("a");
    a.mkdir("d").unwrap();
    a.chmod("d", 0o777).unwrap();
    a.sh("setfacl -d -m u::rwx,u:1202:rw,g::r-x,o::r d");
    let user = p.user("u", ALICE.0, ALICE.1);
    user.call(&["umask", "077"]).unwrap();
    let fd = user.open_mode("d/f", "w|creat", 0o666).unwrap();
    user.write(fd, "x").unwrap();
    user.close(fd).unwrap();
    user.mkdir("d/sub").unwrap();
    let list = |path: &str| a.sh(&format!("getfacl -cnp {path}")).split_whitespace().collect::<Vec<_>>().join(" ");
    let file = "user::rw- user:1202:rw- group::r-x #effective:r-- mask::rw- other::r--";
    assert_eq!(list("d/f"), file);
    assert!(list("d/sub").contains("default:user:1202:rw-"), "{}", list("d/sub"));
    assert_eq!(a.stat("d/f").unwrap().perm(), 0o664);
    let bob = p.user("bob", BOB.0, BOB.1);
    bob.append("d/f", "y").unwrap();
    assert_eq!(list("d/f"), file, "kept by the next version");
    a.chmod("d/f", 0o600).unwrap();
    assert_eq!(bob.cat("d/f").unwrap_err(), "EACCES", "the mask forbids");
}

pub fn set_id_bits_go_with_an_owners_write(p: &Place) {
    let a = p.agent("a");
    let user = p.user("u", ALICE.0, ALICE.1);
    let reset = |mode: u32| {
        a.put("f", "0123456789").unwrap();
        a.chown("f", ALICE.0, ALICE.1).unwrap();
        a.chmod("f", mode).unwrap();
    };
    for (mode, left) in [(0o6777, 0o777), (0o2767, 0o2767), (0o4755, 0o755), (0o2755, 0o755)] {
        reset(mode);
        assert_eq!(a.stat("f").unwrap().perm(), mode);
        user.append("f", "x").unwrap();
        assert_eq!(a.stat("f").unwrap().perm(), left, "{mode:o} appended to");
        reset(mode);
        user.truncate("f", 3).unwrap();
        assert_eq!(a.stat("f").unwrap().perm(), left, "{mode:o} truncated");
        reset(mode);
        user.put("f", "all new").unwrap();
        assert_eq!(a.stat("f").unwrap().perm(), left, "{mode:o} overwritten");
    }
    reset(0o6777);
    let fd = user.open("f", "rw").unwrap();
    user.fallocate(fd, "plain", 0, 100).unwrap();
    user.close(fd).unwrap();
    assert_eq!(a.stat("f").unwrap().perm(), 0o777, "reserved space for");
    reset(0o6755);
    a.append("f", "x").unwrap();
    assert_eq!(a.stat("f").unwrap().perm(), 0o6755, "root's writing leaves them");
    a.chown("f", BOB.0, BOB.1).unwrap();
    assert_eq!(a.stat("f").unwrap().perm(), 0o755, "a new owner does not");
    reset(0o755);
    user.chmod("f", 0o6755).unwrap();
    assert_eq!(user.stat("f").unwrap().perm(), 0o6755);
    a.chown("f", ALICE.0, 4242).unwrap();
    user.chmod("f", 0o2755).unwrap();
    assert_eq!(user.stat("f").unwrap().perm(), 0o755, "not of the group");
}

/// `VFS_CAP_REVISION_2`, `cap_net_raw` permitted.
const CAPABILITY: &[u8] = &[0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Somebody whom only the mode lets write, once to a file with a draft and once to one that is written in place.
pub fn what_a_program_may_goes_with_the_write_of_another(p: &Place) {
    let a = p.agent("a");
    let bob = p.user("bob", BOB.0, BOB.1);
    for f in ["f", "f.log"] {
        let reset = |mode: u32| {
            a.put(f, "0123456789").unwrap();
            a.chown(f, ALICE.0, ALICE.1).unwrap();
            a.chmod(f, mode).unwrap();
            a.set_xattr(f, "security.capability", CAPABILITY).unwrap();
            assert_eq!(a.xattr(f, "security.capability").unwrap(), CAPABILITY);
        };
        let check = |what: &str, left: u32| {
            let now = a.stat(f).unwrap();
            assert_eq!((now.uid, now.gid, now.perm()), (ALICE.0, ALICE.1, left), "{f} {what}");
            assert_eq!(a.xattr(f, "security.capability").unwrap_err(), "ENODATA", "{f} {what}");
        };
        // The last one is not for the group to execute, and the writer is none of the group's.
        for (mode, left) in [(0o4757, 0o757), (0o2777, 0o777), (0o2767, 0o767), (0o757, 0o757)] {
            reset(mode);
            bob.append(f, "x").unwrap();
            check("appended to", left);
            reset(mode);
            bob.put(f, "all new").unwrap();
            check("overwritten", left);
            reset(mode);
            bob.truncate(f, 3).unwrap();
            check("truncated", left);
            assert_eq!(a.stat(f).unwrap().size, 3);
            a.append(f, "y").unwrap();
            reset(mode);
            let fd = bob.open(f, "rw").unwrap();
            bob.pwrite(fd, 2, "patched").unwrap();
            bob.fsync(fd).unwrap();
            bob.close(fd).unwrap();
            check("patched", left);
            assert_eq!(a.cat(f).unwrap(), b"01patched9");
            reset(mode);
            let fd = bob.open(f, "rw").unwrap();
            bob.fallocate(fd, "plain", 0, 100).unwrap();
            bob.close(fd).unwrap();
            check("reserved space for", left);
        }
        reset(0o6755);
        a.chown(f, BOB.0, ALICE.1).unwrap();
        a.chown(f, ALICE.0, ALICE.1).unwrap();
        check("given away and back", 0o755);
        reset(0o6755);
        let to_nobody = format!("perl -e 'exit(chown(-1, -1, \"{f}\") ? 0 : 7)'");
        assert_eq!(bob.run("sh", &to_nobody).unwrap().0, "7", "not its owner");
        a.sh(&to_nobody);
        check("given to nobody", 0o755);
    }
}

pub fn the_present_may_be_set_by_whoever_may_write(p: &Place) {
    let a = p.agent("a");
    let bob = p.user("bob", BOB.0, BOB.1);
    for f in ["f", "f.log"] {
        a.put(f, "x").unwrap();
        a.chown(f, ALICE.0, ALICE.1).unwrap();
        a.chmod(f, 0o666).unwrap();
        let year_2001 = 1_000_000_000_000_000_000;
        for by in [format!("touch {f}"), format!("perl -e 'utime(undef, undef, \"{f}\") or die'")] {
            a.utimens(f, year_2001, year_2001).unwrap();
            bob.sh(&by);
            assert!(a.stat(f).unwrap().mtime > i128::from(year_2001) * 3 / 2, "{by}");
        }
        assert_eq!(bob.utimens(f, 5, 5).unwrap_err(), "EPERM");
        a.chmod(f, 0o644).unwrap();
        assert_ne!(bob.run("sh", &format!("touch {f}")).unwrap().0, "0");
    }
}

pub fn an_overwrite_by_another_keeps_the_owner(p: &Place) {
    let a = p.agent("a");
    a.mkdir("d").unwrap();
    a.chmod("d", 0o777).unwrap();
    a.put("d/f", "first").unwrap();
    a.chown("d/f", ALICE.0, 4242).unwrap();
    a.chmod("d/f", 0o666).unwrap();
    a.set_xattr("d/f", "user.kept", "yes").unwrap();
    let bob = p.user("bob", BOB.0, BOB.1);
    bob.put("d/f", "bob's text").unwrap();
    let check = |what: &str| {
        let now = a.stat("d/f").unwrap();
        assert_eq!((now.uid, now.gid, now.perm()), (ALICE.0, 4242, 0o666), "{what}");
        assert_eq!(a.xattr("d/f", "user.kept").unwrap(), b"yes", "{what}");
    };
    check("overwritten");
    bob.append("d/f", "!").unwrap();
    check("appended to");
    bob.truncate("d/f", 3).unwrap();
    check("truncated");
    assert_eq!(bob.chmod("d/f", 0o600).unwrap_err(), "EPERM");
    assert_eq!(bob.chown("d/f", BOB.0, BOB.1).unwrap_err(), "EPERM");
    let fd = bob.open("d/f", "rw").unwrap();
    bob.write(fd, "z").unwrap();
    assert_eq!(bob.fchmod(fd, 0o600).unwrap_err(), "EPERM", "nor while it is being written");
    assert_eq!(bob.futimens(fd, 5, 5).unwrap_err(), "EPERM");
    bob.close(fd).unwrap();
    check("patched");
    assert_eq!(a.cat("d/f").unwrap(), b"zob");
}

pub fn strangers_are_refused(p: &Place) {
    let alice = p.user("alice", ALICE.0, ALICE.1);
    alice.put("f", "alice's").unwrap();
    alice.chmod("f", 0o640).unwrap();
    alice.mkdir("d").unwrap();
    alice.put("d/g", "inside").unwrap();
    alice.chmod("d", 0o711).unwrap();
    let bob = p.user("bob", BOB.0, BOB.1);
    assert_eq!(bob.cat("f").unwrap_err(), "EACCES");
    assert_eq!(bob.append("f", "x").unwrap_err(), "EACCES");
    assert_eq!(bob.truncate("f", 0).unwrap_err(), "EACCES");
    assert_eq!(bob.utimens("f", 5, 5).unwrap_err(), "EPERM");
    assert_eq!(bob.list("d").unwrap_err(), "EACCES");
    assert_eq!(bob.cat("d/g").unwrap(), b"inside");
    assert_eq!(bob.put("d/new", "x").unwrap_err(), "EACCES");
    assert_eq!(bob.unlink("d/g").unwrap_err(), "EACCES");
    assert_eq!(bob.rename("d/g", "mine").unwrap_err(), "EACCES");
    assert_eq!(bob.mkdir("d/sub").unwrap_err(), "EACCES");
    alice.chmod("d", 0o700).unwrap();
    assert_eq!(bob.cat("d/g").unwrap_err(), "EACCES");
    assert_eq!(alice.chown("f", BOB.0, ALICE.1).unwrap_err(), "EPERM");
    assert_eq!(alice.cat("f").unwrap(), b"alice's");
}

pub fn supplementary_groups_count(p: &Place) {
    let a = p.agent("a");
    a.mkdir("d").unwrap();
    a.chown("d", 0, 4242).unwrap();
    a.chmod("d", 0o2770).unwrap();
    let as_member = |script: &str| {
        a.run("sh", &format!("setpriv --reuid {} --regid {} --groups 4242,77 sh -c '{script}'", ALICE.0, ALICE.1))
            .unwrap()
    };
    let (status, _, complaint) = as_member("echo x >d/f && echo y >>d/f && mkdir d/sub && mv d/f d/g && chgrp 77 d/g");
    assert_eq!(status, "0", "{complaint}");
    let made = a.stat("d/g").unwrap();
    assert_eq!((made.uid, made.gid), (ALICE.0, 77));
    assert_eq!(a.cat("d/g").unwrap(), b"x\ny\n");
    let (status, ..) = as_member("chgrp 4243 d/g");
    assert_ne!(status, "0", "not one of the groups");
}

/// As a server does that acts for one user after the other.
pub fn groups_are_those_of_whom_a_thread_has_become(p: &Place) {
    let a = p.agent("a");
    a.mkdir("d").unwrap();
    a.chown("d", 0, 4242).unwrap();
    a.chmod("d", 0o770).unwrap();
    let script = format!(
        r#"
import os
alice, bob = {ALICE:?}, {BOB:?}
def tried(name, ids, groups):
    os.seteuid(0)
    os.setegid(ids[1])
    os.setgroups(groups)
    os.seteuid(ids[0])
    try:
        os.mkdir("d/" + name)
        with open("d/" + name + ".txt", "w") as f:
            f.write("x")
        return True
    except PermissionError:
        return False
for n in range(20):
    assert not tried(f"no-{{n}}", alice, [77])
    assert tried(f"bob-{{n}}", bob, [77, 4242])
    assert not tried(f"no-{{n}}", bob, [])
    assert tried(f"alice-{{n}}", alice, [4242])
"#
    );
    let (status, _, complaint) = a.run("python3", &script).unwrap();
    assert_eq!(status, "0", "{complaint}");
    assert_eq!(a.list("d").unwrap().len(), 80);
    let made = a.stat("d/bob-7.txt").unwrap();
    assert_eq!((made.uid, made.gid), BOB);
}
