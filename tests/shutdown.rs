//! The file system of the export shuts down at random moments under a crowd of writers and readers, as at a power cut or a
//! failing disk: calls fail, and what its log has not on the disk is gone. The daemon is killed, the file system comes back,
//! and whatever was closed is there. `scripts/suite shutdown` runs it.

#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::agent::example;
use common::outages::{Dice, Outages, from_env};
use common::{Mount, SmallFs, checker, content, eventually, poll};
use serde_json::Value;

#[test]
fn xfs_shuts_down() {
    what_was_closed_outlives_it(&["mkfs.xfs", "-q", "-f"]);
}

#[test]
fn ext4_shuts_down() {
    what_was_closed_outlives_it(&["mkfs.ext4", "-q", "-F"]);
}

fn what_was_closed_outlives_it(mkfs: &[&str]) {
    let seconds = from_env("COMMITFS_TEST_SECONDS", 90);
    let mut dice = Dice::from_env();
    let disk = SmallFs::made_by(mkfs, 2048);
    let mut m = Mount::setup().backing(disk.path()).options("retain=1s").mount();
    m.lives_for(Duration::from_secs(seconds + 600));
    // Not there while the mount is not.
    let folder = m.mnt().join("tree");
    std::fs::create_dir(&folder).unwrap();
    let outages = Outages::of(&m);
    let mut hunt = Command::new(example("hunt"))
        .arg(&folder)
        .arg("--outages")
        .arg(outages.file())
        .args(["--writers", "6", "--readers", "3", "--at-least", "100", "--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(seconds * 3 / 4) {
        rounds += 1;
        let pause = Duration::from_millis(500 + dice.roll(2000));
        assert!(poll(pause, || hunt.try_wait().unwrap()).is_none(), "the hunt has ended early");
        outages.next();
        disk.shut_down();
        // The daemon meets it first, for a while.
        assert!(poll(Duration::from_millis(dice.roll(500)), || hunt.try_wait().unwrap()).is_none());
        m.kill9();
        m.without_export(|| disk.mount_again());
        checker::walk(&m.raw(""), Path::new(""), &mut |path, name| {
            let whole = content::verify(&std::fs::read(path).unwrap());
            assert!(whole.is_ok(), "round {rounds}: {}: {whole:?}", name.display());
        });
        m.remount();
        eventually("what was promised is published", || m.pending().iter().all(|row| row.reason.is_none()));
        // What was being written; of its content only what had been synced is there.
        for row in m.quarantine() {
            m.cli_ok(&["quarantine", "discard", &row.id.to_string()]);
        }
        outages.next();
    }
    let out = hunt.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    println!("{}: {rounds} times in {seconds} s: {report}", mkfs[0]);
    for what in ["torn", "stale", "lost", "failed"] {
        assert_eq!(report[what], 0, "{what}: {report}");
    }
    assert!(rounds > 3 && report["versions"].as_u64() > Some(100), "hardly anything happened: {report}");
    m.settled();
    checker::check(&m);
}
