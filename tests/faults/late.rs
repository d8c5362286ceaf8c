//! Writes that come late: while a commit takes long, after a promise, over a version that is being copied.

use rustix::io::Errno;

use crate::faultfs::FaultFs;
use crate::faultfs::disk::Realm;
use crate::faultfs::plan::{Fault, Op, When};

#[test]
fn a_version_that_is_cut_short_from_outside_while_it_is_copied_is_not_filled_up_with_zeros() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.fill(fd, 0, 1 << 20, 1).unwrap();
    w.close(fd).unwrap();
    m.settled();
    let fd = w.open("f", "rw").unwrap();
    let held = fs.hold(Realm::Export, Op::CopyRange);
    w.pwrite(fd, 0, "patched").unwrap();
    w.send(&["fsync", &fd.to_string()]);
    held.caught();
    std::fs::File::options().write(true).open(m.raw("f")).unwrap().set_len(5000).unwrap();
    drop(held);
    assert_eq!(w.answer().unwrap_err(), "EIO");
    assert_eq!(w.close(fd).unwrap_err(), "EIO");
    m.settled();
    assert_eq!(m.raw_content("f").unwrap().len(), 5000);
    assert_eq!(m.commits_of("f"), 1);
}

/// For a writer whose writes nobody but the kernel sees, the copy is made with the open.
#[test]
fn a_copy_for_an_open_that_fails_leaves_nothing() {
    let fs = FaultFs::new();
    let rule = "[[rule]]\nglob = '*.bin'\ncommit = 'release'\n";
    let m = fs.setup().options("writeback=off").config(rule).mount();
    let w = m.agent("W");
    let mut failed = 0;
    for skip in 0.. {
        let name = format!("f{skip}.bin");
        w.put(&name, "a version").unwrap();
        // The copy gets the time of a version that is not quite new.
        w.utimens(&name, 1_000_000_000, 1_000_000_000).unwrap();
        m.settled();
        let fault = Fault { realm: Realm::Export, skip, op: Some(Op::Setattr), errno: Errno::IO, when: When::Before };
        fs.arm(fault);
        let opened = w.open(&name, "w");
        let hit = fs.disarm();
        failed += u32::from(opened.is_err());
        if let Ok(fd) = opened {
            w.close(fd).unwrap();
        }
        m.settled();
        let instances = std::fs::read_dir(m.raw(".commitfs/stage")).unwrap().map(|entry| entry.unwrap().path());
        let left: Vec<_> = instances.flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten()).collect();
        assert!(left.is_empty(), "{skip}: {left:?}");
        if hit.is_none() {
            break;
        }
    }
    assert!(failed > 0);
}
