//! A hunt for torn reads: writers publish self-verifying content by every ordinary way, readers look by every route.
//!
//! `hunt DIR [DIR...] [--seconds N] [--seed S] [--writers N] [--readers N]` prints one line of JSON and ends with 1 if a
//! reader ever saw a part, an old version after a close had returned, or missed a name. Every process is started for
//! itself, so that on a mount no reader is in a writer's family. On a bare folder it must find something: that proves the
//! hunter. Several folders are one and the same on several hosts: writers and readers take turns among them.
//!
//! `--at-least N` goes on, on a slow machine, until there were N versions, 5 N reads and N/10 listings, for ten times the
//! seconds at most.

mod ledger;
mod reader;
mod writer;

#[path = "../common/content.rs"]
#[allow(dead_code, missing_docs)]
mod content;
#[path = "../agent/wire.rs"]
#[allow(dead_code, missing_docs)]
mod wire;

use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ledger::Ledger;

/// What one process is asked to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// The folder that is hunted in.
    pub dir: PathBuf,
    /// The counters that all processes share.
    pub ledger: PathBuf,
    /// Which writer or reader.
    pub number: u64,
    /// All choices follow from it.
    pub seed: u64,
    /// How many writers there are.
    pub writers: u64,
    /// When to stop…
    pub until: Instant,
    /// …unless there were fewer versions…
    pub at_least: u64,
    /// …and it is not yet this late.
    pub at_last: Instant,
}

impl Task {
    /// Whether to stop.
    pub fn is_over(&self, ledger: &Ledger) -> bool {
        let (now, sum) = (Instant::now(), ledger.totals());
        let little = sum.versions < self.at_least || sum.reads < 5 * self.at_least || 10 * sum.listings < self.at_least;
        now >= self.at_last || (now >= self.until && !little)
    }
}

/// A small generator: the same seed makes the same choices.
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    let number = |name: &str, default: u64| option(name).and_then(|v| v.parse().ok()).unwrap_or(default);
    let dirs: Vec<PathBuf> = args.iter().take_while(|arg| !arg.starts_with("--")).map(PathBuf::from).collect();
    let Some(dir) = dirs.first().cloned() else {
        eprintln!("hunt DIR [DIR...] [--seconds N] [--at-least N] [--seed S] [--writers N] [--readers N]");
        return ExitCode::from(2);
    };
    let at_least = number("--at-least", 0);
    let seconds = number("--seconds", 10);
    let writers = number("--writers", 4).clamp(1, ledger::WRITERS as u64);
    let seed = number("--seed", 1);
    if let (Some(role), Some(ledger)) = (option("--role"), option("--ledger")) {
        let until = Instant::now() + Duration::from_secs(seconds);
        let at_last = until + Duration::from_secs(9 * seconds);
        let number = number("--number", 0);
        let task = Task { dir, ledger: ledger.into(), number, seed, writers, until, at_least, at_last };
        return match role.as_str() {
            "writer" => writer::run(&task),
            _ => reader::run(&task),
        };
    }
    hunt(&dirs, (seconds, at_least), seed, writers, number("--readers", 4))
}

/// Starts everybody and adds up what they saw.
fn hunt(dirs: &[PathBuf], (seconds, at_least): (u64, u64), seed: u64, writers: u64, readers: u64) -> ExitCode {
    let ledger_path = std::env::temp_dir().join(format!("hunt-{}", std::process::id()));
    let ledger = Ledger::create(&ledger_path).expect("a ledger");
    let start = |role: &str, number: u64| -> Child {
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command.arg(&dirs[number as usize % dirs.len()]).args(["--role", role, "--ledger"]).arg(&ledger_path);
        let numbers = [("--number", number), ("--seconds", seconds), ("--seed", seed), ("--writers", writers)];
        for (name, value) in numbers.into_iter().chain([("--at-least", at_least)]) {
            command.args([name, &value.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a process")
    };
    let mut all: Vec<(String, Child)> = Vec::new();
    all.extend((0..writers).map(|n| (format!("writer {n}"), start("writer", n))));
    all.extend((0..readers).map(|n| (format!("reader {n}"), start("reader", n))));
    let mut failed = 0;
    for (who, mut child) in all {
        let status = child.wait().expect("its end");
        if !status.success() {
            eprintln!("{who} ended with {status}");
            failed += 1;
        }
    }
    let sum = ledger.totals();
    let _ = std::fs::remove_file(&ledger_path);
    println!(
        "{{\"seed\":{seed},\"seconds\":{seconds},\"versions\":{},\"reads\":{},\"listings\":{},\"torn\":{},\"stale\":{},\"lost\":{},\"failed\":{failed}}}",
        sum.versions, sum.reads, sum.listings, sum.torn, sum.stale, sum.lost
    );
    if sum.torn + sum.stale + sum.lost + failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
