//! The hunt for torn reads, on the mount and on the bare export: `tests/hunt/` has the program.

#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::process::Command;

use common::agent::example;
use common::{Mount, checker};
use serde_json::Value;

/// What makes a hunt worth anything, however slow the machine is: so many versions.
const VERSIONS: u64 = 201;

/// Runs the program in a folder; its counts.
fn hunt(dir: &Path, seconds: u64, seed: u64) -> Value {
    hunt_in(&[dir], &[], &[], seconds, seed)
}

/// Runs the program in a folder as several hosts have it, with the export of each, and as hosts without commitfs do.
fn hunt_in(dirs: &[&Path], raw: &[&Path], plain: &[&Path], seconds: u64, seed: u64) -> Value {
    let numbers = [("--seconds", seconds), ("--seed", seed), ("--at-least", VERSIONS)];
    let out = Command::new(example("hunt"))
        .args(dirs)
        .args(raw.iter().flat_map(|dir| [Path::new("--raw"), dir]))
        .args(plain.iter().flat_map(|dir| [Path::new("--plain"), dir]))
        .args(numbers.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]))
        .output()
        .unwrap();
    let (said, complaints) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    eprintln!("hunt {dirs:?} --seconds {seconds} --seed {seed}\n{said}{complaints}");
    serde_json::from_str(said.trim()).unwrap_or_else(|e| panic!("{e}: {said}"))
}

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no {key} in {report}"))
}

/// `COMMITFS_TEST_SECONDS` and `COMMITFS_TEST_SEED` choose longer hunts and other ways.
fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_torn_nothing_stale_nothing_lost_on_the_mount() {
    let m = Mount::new();
    let report = hunt(m.mnt(), from_env("COMMITFS_TEST_SECONDS", 15), from_env("COMMITFS_TEST_SEED", 1));
    for what in ["torn", "stale", "lost", "failed"] {
        assert_eq!(count(&report, what), 0, "{what}: {report}");
    }
    assert!(count(&report, "versions") >= VERSIONS, "hardly anything was written: {report}");
    assert!(count(&report, "reads") > 1000 && count(&report, "listings") > 20, "hardly anything was read: {report}");
    let seen = checker::check(&m);
    assert!(seen.commits > 100, "{seen:?}");
    assert_eq!(seen.quarantined, 0);
}

#[test]
fn nothing_torn_nothing_stale_nothing_lost_across_hosts() {
    // On NFS every look-up asks the server; on another file system the kernel may keep a name for `ttl`.
    let a = Mount::setup().options("ttl=0s").mount();
    let b = Mount::setup().options("ttl=0s").export_of(&a).mount();
    let plain = a.elsewhere();
    let (seconds, seed) = (from_env("COMMITFS_TEST_SECONDS", 20), from_env("COMMITFS_TEST_SEED", 1));
    let report = hunt_in(&[a.mnt(), b.mnt()], &[a.export(), b.export()], &[&plain], seconds, seed);
    for what in ["torn", "stale", "lost", "failed"] {
        assert_eq!(count(&report, what), 0, "{what}: {report}");
    }
    assert!(count(&report, "versions") >= VERSIONS, "hardly anything was written: {report}");
    assert!(count(&report, "plain") > 20, "the host without commitfs read hardly anything: {report}");
    let commits: usize = [&a, &b].map(|host| host.commits().values().sum::<usize>()).iter().sum();
    assert!(commits > 100, "{commits}");
    for host in [&a, &b] {
        host.settled();
        host.nothing_quarantined();
    }
    checker::walk(&a.raw(""), Path::new(""), &mut |path, name| {
        let whole = common::content::verify(&std::fs::read(path).unwrap());
        assert!(whole.is_ok(), "{}: {whole:?}", name.display());
    });
}

#[test]
fn the_same_hunt_finds_torn_reads_on_the_bare_export() {
    let m = Mount::setup().unmounted();
    for seed in 1.. {
        let report = hunt(m.export(), 3, seed);
        if count(&report, "torn") > 0 {
            break;
        }
        assert!(seed < 10, "the hunter finds nothing where there is something: {report}");
    }
}
