//! Exports that run full, limit their users, or take root's rights away.

use crate::common::{Mount, eventually};
use crate::lab::{Kind, Lab};

#[test]
fn no_room_is_told_once_at_close_although_writing_succeeded() {
    let lab = Lab::enter();
    let export = lab.export(Kind { mebibytes: 24, ..Kind::default() });
    let m = Mount::setup().backing(export.path()).mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let before = r.shown("f");
    // How it is without commitfs: the client takes what the server has no room for.
    let free = export.free();
    for sync in [false, true] {
        let fd = w.open("f", "w|trunc").unwrap();
        let written = w.fill(fd, 0, 40 << 20, 1);
        if sync {
            let first = w.fsync(fd);
            assert!(written.is_err() || first.is_err(), "somebody has to be told");
            assert!(w.fsync(fd).is_err(), "it stays an error, whatever NFS says the second time");
        }
        assert_eq!(w.close(fd).unwrap_err(), "ENOSPC", "written: {written:?}");
        assert_eq!(r.shown("f"), before);
        m.settled();
        eventually("its space is given back", || export.free() + (2 << 20) >= free);
    }
    assert_eq!(m.commits_of("f"), 1);
    // Told once: what comes after is not blamed for it.
    w.put("f", "there is room again").unwrap();
    assert_eq!(r.cat("f").unwrap(), b"there is room again");
    assert_eq!(m.quarantine().iter().filter(|row| row.path == "f").count(), 2);
    crate::common::checker::check(&m);
}

#[test]
fn a_users_quota_is_told_to_that_user_alone() {
    let lab = Lab::enter();
    for squash in [false, true] {
        let export = lab.export(Kind { mebibytes: 48, squash, quota: true });
        let m = Mount::setup().backing(export.path()).mount();
        let top = m.agent("T");
        top.mkdir("open").unwrap();
        top.chmod("open", 0o777).unwrap();
        export.limit(1234, 4096);
        let (u, v) = (m.agent("U"), m.agent("V"));
        u.call(&["become", "1234", "1234"]).unwrap();
        v.call(&["become", "2345", "2345"]).unwrap();
        u.put("open/small", "small").unwrap();
        let fd = u.open("open/big", "w|creat").unwrap();
        let written = u.fill(fd, 0, 12 << 20, 1);
        assert_eq!(u.close(fd).unwrap_err(), "EDQUOT", "squash {squash}: written {written:?}");
        v.sees_nothing("open/big");
        let fd = v.open("open/big", "w|creat").unwrap();
        v.fill(fd, 0, 12 << 20, 1).unwrap();
        v.close(fd).unwrap();
        assert_eq!(v.stat("open/big").unwrap().uid, 2345);
        eventually("its user may write again", || u.put("open/small", "again").is_ok());
        let found = v.stat("open/small").unwrap();
        assert_eq!((found.uid, found.size), (1234, 5));
        crate::common::checker::check(&m);
    }
}

#[test]
fn where_root_is_nobody_callers_get_their_own_errors() {
    let lab = Lab::enter();
    let export = lab.export(Kind { mebibytes: 24, squash: true, ..Kind::default() });
    let m = Mount::setup().backing(export.path()).mount();
    let top = m.agent("T");
    top.mkdir("open").unwrap();
    top.chmod("open", 0o1777).unwrap();
    let (u, v) = (m.agent("U"), m.agent("V"));
    u.call(&["become", "1234", "1234"]).unwrap();
    v.call(&["become", "2345", "2345"]).unwrap();
    u.put("open/f", "u's").unwrap();
    u.chmod("open/f", 0o600).unwrap();
    assert_eq!(v.cat("open/f").unwrap_err(), "EACCES");
    assert_eq!(v.open("open/f", "w|trunc").unwrap_err(), "EACCES");
    assert_eq!(v.unlink("open/f").unwrap_err(), "EPERM");
    assert_eq!(v.rename("open/f", "open/g").unwrap_err(), "EPERM");
    // Nor is root anybody there: as on the export itself.
    assert_eq!(top.cat("open/f").unwrap_err(), "EACCES");
    assert_eq!(top.chown("open/f", 0, 0).unwrap_err(), "EPERM");
    for round in 0..3 {
        u.put("open/f", &format!("round {round}")).unwrap();
    }
    let found = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(export.on_server().join(m.export().strip_prefix(export.path()).unwrap()).join("open/f"))
            .unwrap(),
    );
    assert_eq!(found, 1234, "on the server it is its writer's");
    assert_eq!(u.cat("open/f").unwrap(), b"round 2");
    u.unlink("open/f").unwrap();
    v.sees_nothing("open/f");
    m.nothing_quarantined();
}
