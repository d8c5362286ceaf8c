//! An export that has no room left when it is mounted after a crash.

use std::fs::File;
use std::path::Path;

use rustix::fs::FallocateFlags;

use super::promised::{promise, unproven};
use crate::common::{Agent, Errno, Mount, Setup, SmallFs, checker, eventually};

/// Takes the last block, and what is left of the files that could still be made without one.
#[track_caller]
fn fill_up(disk: &SmallFs) {
    let ballast = File::create(disk.path().join("ballast")).unwrap();
    rustix::fs::fallocate(&ballast, FallocateFlags::empty(), 0, disk.free() / 10 * 9).unwrap();
    drop(ballast);
    disk.fill_up();
    assert!(!has_room(disk.path()), "{} bytes are free", disk.free());
}

fn has_room(folder: &Path) -> bool {
    let more = folder.join("more");
    let written = std::fs::write(&more, [1; 4096]).is_ok();
    let _ = std::fs::remove_file(more);
    written
}

fn large(w: &Agent, name: &str, mebibytes: u64) -> Result<(), Errno> {
    let fd = w.open(name, "w|creat|trunc")?;
    let written = w.fill(fd, 0, mebibytes << 20, 1);
    w.close(fd).and(written.map(drop))
}

fn make_room(disk: &SmallFs) {
    std::fs::remove_file(disk.path().join("ballast")).unwrap();
}

/// The process that the instance's lease tells of.
fn lease_of(m: &Mount) -> Option<u64> {
    let instance = std::fs::read_to_string(m.state().join("instance")).unwrap();
    let lease = std::fs::read(m.raw(&format!(".commitfs/hosts/{}.json", instance.trim()))).ok()?;
    serde_json::from_slice::<serde_json::Value>(&lease).unwrap()["pid"].as_u64()
}

#[track_caller]
fn is_mounted_after_a_crash(disk: &SmallFs) {
    let mut m = Setup::default().backing(disk.path()).options("retain=1h,lease=1s").mount();
    let w = unproven(&m, "W");
    w.put("kept", "kept").unwrap();
    large(&w, "gone", 4).unwrap();
    w.unlink("gone").unwrap();
    promise(&m, &w, "promised", "whole");
    m.recorded();
    m.kill9();
    drop(w);
    fill_up(disk);
    let former = lease_of(&m).unwrap();
    // What was kept for later makes room, and so the lease is written in the end.
    m.remount();
    assert_eq!(m.agent("R").cat("kept").unwrap(), b"kept");
    let w = m.agent("W");
    eventually("what was kept has made room", || w.put("before", "").is_ok());
    drop(w);
    m.recovered();
    assert_eq!(m.raw_content("promised").unwrap(), b"whole");
    m.nothing_quarantined();
    eventually("what was removed is gone", || {
        m.json(&["outbox", "ls"]).as_array().unwrap().iter().all(|row| row["path"] != "gone")
    });
    eventually("the lease is this daemon's", || lease_of(&m).unwrap() == u64::from(m.daemon_pid()));
    assert_ne!(lease_of(&m).unwrap(), former);
    m.agent("A").put("after", "there is room again").unwrap();
    m.umount();
    // There is no lease now, and nothing that could make way.
    fill_up(disk);
    m.remount();
    let w = m.agent("B");
    assert_eq!(w.cat("promised").unwrap(), b"whole");
    assert!(large(&w, "large", 1).is_err(), "where is it?");
    assert_eq!(lease_of(&m), None);
    make_room(disk);
    eventually("there is a lease", || lease_of(&m) == Some(m.daemon_pid().into()));
    large(&w, "large", 1).unwrap();
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    checker::walk(&m.raw(".commitfs/hosts"), Path::new(""), &mut |_, name| {
        assert!(name.extension().unwrap() == "json", "{} is left over", name.display());
    });
}

#[test]
fn s40_a_full_ext4_is_mounted_after_a_crash() {
    is_mounted_after_a_crash(&SmallFs::new(24));
}

/// Which makes not even an empty file then.
#[test]
fn s40_a_full_xfs_is_mounted_after_a_crash() {
    is_mounted_after_a_crash(&SmallFs::made_by(&["mkfs.xfs", "-q", "-f"], 320));
}

/// Its folder needs another block for its name. A close has returned, so its content is not given back.
#[cfg(feature = "failpoints")]
#[test]
fn s40_what_was_promised_waits_for_room() {
    let disk = SmallFs::new(24);
    let mut m = Setup::default().backing(disk.path()).mount();
    let name = |n: usize| format!("{n:0250}");
    let size = |folder: &str| m.raw(folder).metadata().unwrap().len();
    for folder in ["measured", "d"] {
        std::fs::create_dir(m.raw(folder)).unwrap();
    }
    let empty = size("measured");
    let fits = (0..).take_while(|&n| {
        File::create(m.raw("measured").join(name(n))).unwrap();
        size("measured") == empty
    });
    for n in 0..fits.count() {
        File::create(m.raw("d").join(name(n))).unwrap();
    }
    let w = unproven(&m, "W");
    let promised = format!("d/{}", name(1000));
    promise(&m, &w, &promised, "whole");
    m.recorded();
    m.kill9();
    drop(w);
    m.hold_at("recover_before_resolve", 1);
    m.remount();
    let held = m.held();
    fill_up(&disk);
    drop(held);
    m.recovered();
    m.nothing_quarantined();
    assert!(m.pending().iter().any(|row| row.path == promised && row.state == "sealed"), "{:?}", m.pending());
    make_room(&disk);
    eventually("it is published", || m.raw_content(&promised).is_some_and(|data| data == b"whole"));
    m.nothing_quarantined();
}
