//! Writes that come late: while a commit takes long, after a promise, over a version that is being copied.

use crate::faultfs::FaultFs;
use crate::faultfs::disk::Realm;
use crate::faultfs::plan::Op;

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
