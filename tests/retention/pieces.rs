//! What is kept of earlier versions, open or not, does not leave the next one in pieces.

use std::process::Command;

use crate::common::mount::show;
use crate::common::{Setup, SmallFs};

#[test]
fn a_file_that_is_appended_to_stays_in_one_piece_where_content_is_shared() {
    // The smallest that mkfs makes. XFS allocates ahead of a file that grows.
    let small = SmallFs::made_by(&["mkfs.xfs", "-q", "-f", "-m", "reflink=1"], 320);
    let m = Setup::default().backing(small.path()).mount();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.fill(fd, 0, 1 << 20, 1).unwrap();
    w.close(fd).unwrap();
    for round in 0..60 {
        let fd = w.open("f", "w|append").unwrap();
        w.fill(fd, (1 << 20) + round * 4096, 4096, 1).unwrap();
        w.close(fd).unwrap();
    }
    let out = Command::new("filefrag").arg(m.raw("f")).output().unwrap();
    let said = show(&out);
    let pieces =
        said.split_whitespace().zip(said.split_whitespace().skip(1)).find(|(_, word)| word.starts_with("extent"));
    let pieces: u32 = pieces.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap();
    assert!(pieces < 10, "{said}");
}
