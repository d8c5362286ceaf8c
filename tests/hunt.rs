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

/// Runs the program; its counts.
fn hunt(dir: &Path, seconds: u64, seed: u64) -> Value {
    let numbers = [("--seconds", seconds), ("--seed", seed), ("--at-least", VERSIONS)];
    let out = Command::new(example("hunt"))
        .arg(dir)
        .args(numbers.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]))
        .output()
        .unwrap();
    let (said, complaints) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    eprintln!("hunt {} --seconds {seconds} --seed {seed}\n{said}{complaints}", dir.display());
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
