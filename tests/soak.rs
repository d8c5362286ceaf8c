//! Load for as long as one likes: a crowd of writers and readers while the daemon is killed at random moments. Nothing is
//! torn, stale or lost, and nothing grows. `scripts/soak` runs it.

#![allow(missing_docs)]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::agent::example;
use common::outages::{Dice, Outages, from_env};
use common::{Mount, checker, eventually, poll};
use serde_json::Value;

/// What the daemon uses.
#[derive(Clone, Copy, Debug)]
struct Sample {
    resident: u64,
    descriptors: usize,
    threads: u64,
}

fn sample(m: &Mount) -> Sample {
    let status = std::fs::read_to_string(format!("/proc/{}/status", m.daemon_pid())).unwrap();
    let number = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let descriptors = m.files_open();
    Sample { resident: number("VmRSS:") << 10, descriptors, threads: number("Threads:") }
}

/// Files in a reserved folder.
fn files_in(m: &Mount, folder: &str) -> usize {
    let instances = std::fs::read_dir(m.raw(".commitfs").join(folder)).unwrap().flatten();
    instances.map(|instance| std::fs::read_dir(instance.path()).unwrap().count()).sum()
}

/// What was being written when the daemon died is given up.
fn discard_what_was_cut(m: &Mount) -> usize {
    let rows = m.quarantine();
    for row in &rows {
        m.cli_ok(&["quarantine", "discard", &row.id.to_string()]);
    }
    rows.len()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The middle one.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

#[test]
fn nothing_is_lost_and_nothing_grows() {
    let seconds = 60 * from_env("COMMITFS_SOAK_MINUTES", 10);
    let (writers, readers) = (from_env("COMMITFS_SOAK_WRITERS", 64), from_env("COMMITFS_SOAK_READERS", 64));
    let mut dice = Dice::from_env();
    let mut m = Mount::setup().options("retain=2s").mount();
    m.lives_for(Duration::from_secs(seconds + 600));
    let folder = m.mnt().join("tree");
    std::fs::create_dir(&folder).unwrap();
    let outages = Outages::of(&m);
    let idle = sample(&m);
    let began = Instant::now();
    let numbers = [("--seconds", seconds), ("--writers", writers), ("--readers", readers), ("--at-least", 100)];
    let mut hunt = Command::new(example("hunt"))
        .arg(&folder)
        .arg("--outages")
        .arg(outages.file())
        .args(numbers.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut lives, mut discarded) = (Vec::new(), 0);
    while began.elapsed() < Duration::from_secs(seconds * 3 / 4) {
        // Some seconds of work, and then in the middle of it.
        let pause = Duration::from_millis(2000 + dice.roll(12_000));
        assert!(poll(pause, || hunt.try_wait().unwrap()).is_none(), "the hunt has ended early");
        lives.push(sample(&m));
        outages.next();
        m.kill9();
        m.remount();
        outages.next();
        discarded += discard_what_was_cut(&m);
    }
    // A life without a death, to see what grows in it.
    let mut last = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        if poll(Duration::from_secs(2), || hunt.try_wait().unwrap()).is_some() {
            break;
        }
        last.push(sample(&m));
    }
    let out = hunt.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    m.settled();
    discarded += discard_what_was_cut(&m);
    let seen = checker::check(&m);
    eventually("the trash is empty", || files_in(&m, "trash") == 0);
    eventually("the staging folder is empty", || files_in(&m, "stage") == 0);
    let peak = |of: fn(&Sample) -> u64, samples: &[Sample]| samples.iter().map(of).max().unwrap_or(0);
    let resident = |sample: &Sample| sample.resident;
    println!(
        "soak: {seconds} s, {writers} writers, {readers} readers, {} kills\n\
         seen: {report}\n\
         commits {}, drafts cut off by a kill {discarded}\n\
         idle: {:.1} MiB, {} descriptors, {} threads\n\
         before each kill: at most {:.1} MiB, {} descriptors\n\
         last life ({} samples): first {:.1} MiB, last {:.1} MiB, most {:.1} MiB, {} descriptors",
        lives.len(),
        seen.commits,
        mib(idle.resident),
        idle.descriptors,
        idle.threads,
        mib(peak(resident, &lives)),
        peak(|s| s.descriptors as u64, &lives),
        last.len(),
        mib(last.first().map_or(0, resident)),
        mib(last.last().map_or(0, resident)),
        mib(peak(resident, &last)),
        peak(|s| s.descriptors as u64, &last),
    );
    for what in ["torn", "stale", "lost", "failed"] {
        assert_eq!(report[what], 0, "{what}: {report}");
    }
    assert!(lives.len() > 1 && report["versions"].as_u64() > Some(100), "hardly anything happened: {report}");
    if last.len() >= 6 {
        let third = last.len() / 3;
        let early = median(last[..third].iter().map(resident).collect());
        let late = median(last[last.len() - third..].iter().map(resident).collect());
        assert!(late < early + early / 2 + (16 << 20), "memory grows: {:.1} to {:.1} MiB", mib(early), mib(late));
    }
    eventually("descriptors go with their users", || sample(&m).descriptors < idle.descriptors + 40);
}
