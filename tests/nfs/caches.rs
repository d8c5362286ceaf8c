//! How late a client without commitfs may see what was committed: measured, for docs/SEMANTICS.md. What it sees is whole
//! in any case.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::wait::poll;
use crate::common::{Mount, eventually};
use crate::lab::Lab;

/// Seconds until the condition holds.
fn after(mut condition: impl FnMut() -> bool) -> f64 {
    let began = Instant::now();
    let held = poll(Duration::from_secs(120), || condition().then_some(()));
    assert!(held.is_some(), "not within two minutes");
    began.elapsed().as_secs_f64()
}

fn reads(path: &Path, data: &str) -> bool {
    std::fs::read(path).is_ok_and(|seen| seen == data.as_bytes())
}

#[test]
fn caches_of_a_plain_client() {
    let _lab = Lab::enter();
    for (retain, called) in [("0s", "not kept"), ("1h", "kept")] {
        let m = Mount::setup().options(&format!("retain={retain}")).mount();
        let (plain, w) = (m.elsewhere(), m.agent("W"));
        let done = |name: &str, data: &str| {
            w.put(name, data).unwrap();
            eventually("committed", || m.raw_content(name).is_some_and(|seen| seen == data.as_bytes()));
        };
        done("f", "old");
        assert!(reads(&plain.join("f"), "old"));
        done("f", "new");
        println!(
            "replaced, old version {called}: open finds the new one after {:.1} s",
            after(|| reads(&plain.join("f"), "new"))
        );
        let held = std::fs::File::open(plain.join("f")).unwrap();
        done("f", "newer");
        println!("the same, old version held open: {:.1} s", after(|| reads(&plain.join("f"), "newer")));
        drop(held);
        assert!(!plain.join("fresh").exists());
        done("fresh", "x");
        println!("looked for before: stat finds it after {:.1} s", after(|| plain.join("fresh").exists()));
        assert!(!plain.join("second").exists());
        done("second", "x");
        let listed = after(|| std::fs::read_dir(&plain).unwrap().any(|entry| entry.unwrap().file_name() == "second"));
        println!(
            "the same: a listing shows it after {listed:.1} s, and then stat does: {}",
            plain.join("second").exists()
        );
        w.unlink("f").unwrap();
        println!("unlinked: gone after {:.1} s", after(|| !plain.join("f").exists()));
    }
}
