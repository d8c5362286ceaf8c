//! A hunt for torn reads: writers publish self-verifying content by every ordinary way, readers look by every route.
//!
//! `hunt DIR [DIR...] [--seconds N] [--seed S] [--writers N] [--readers N]` prints one line of JSON and ends with 1 if a
//! reader ever saw a part, an old version after a close had returned, or missed a name. Every process is started for
//! itself, so that on a mount no reader is in a writer's family. On a bare folder it must find something: that proves the
//! hunter. Several folders are one and the same on several hosts: writers and readers take turns among them. With
//! `--plain DIR` the folder has a reader more, on a host without commitfs, who may see names late but never a part.
//!
//! What a close promises on another host begins with the commit, which may come after a close without proof. With `--raw
//! DIR` for each folder, its export, a writer promises what it finds there.
//!
//! With `--outages FILE` the daemon may be killed: FILE holds a number that is odd while it is away, and another one after
//! each time. What fails or seems to be missing meanwhile is not held against it; what was closed is.
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
    /// The export of that folder, as its host has it, if other hosts are to see what was closed.
    pub raw: Option<PathBuf>,
    /// The number of the present life of the daemon.
    pub outages: Option<PathBuf>,
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
    /// The daemon's life, `None` while it is away.
    pub fn life(&self) -> Option<u64> {
        let Some(file) = &self.outages else { return Some(0) };
        let number = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        (number % 2 == 0).then_some(number)
    }

    /// Runs `look` in one life of the daemon, again if that ended meanwhile; `None` when the time is over.
    pub fn in_one_life<T>(&self, mut look: impl FnMut() -> T) -> Option<T> {
        while Instant::now() < self.at_last {
            if let Some(life) = self.life() {
                let seen = look();
                if self.life() == Some(life) {
                    return Some(seen);
                }
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        None
    }

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
    let named = |name: &str| -> Vec<PathBuf> {
        args.iter().zip(args.iter().skip(1)).filter(|(flag, _)| *flag == name).map(|(_, dir)| dir.into()).collect()
    };
    let (plain, raw) = (named("--plain"), named("--raw"));
    if let (Some(role), Some(ledger)) = (option("--role"), option("--ledger")) {
        let until = Instant::now() + Duration::from_secs(seconds);
        let at_last = until + Duration::from_secs(9 * seconds);
        let number = number("--number", 0);
        let (raw, outages) = (raw.first().cloned(), option("--outages").map(PathBuf::from));
        let task = Task { dir, raw, outages, ledger: ledger.into(), number, seed, writers, until, at_least, at_last };
        return match role.as_str() {
            "writer" => writer::run(&task),
            "plain" => reader::run_plain(&task),
            _ => reader::run(&task),
        };
    }
    hunt((&dirs, &plain, &raw), (seconds, at_least), seed, writers, number("--readers", 4))
}

/// Starts everybody and adds up what they saw.
fn hunt(
    (dirs, plain, raw): (&[PathBuf], &[PathBuf], &[PathBuf]),
    (seconds, at_least): (u64, u64),
    seed: u64,
    writers: u64,
    readers: u64,
) -> ExitCode {
    let ledger_path = std::env::temp_dir().join(format!("hunt-{}", std::process::id()));
    let ledger = Ledger::create(&ledger_path).expect("a ledger");
    let args: Vec<String> = std::env::args().collect();
    let outages = args.iter().position(|arg| arg == "--outages").and_then(|at| args.get(at + 1)).cloned();
    let start = |role: &str, dirs: &[PathBuf], number: u64| -> Child {
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command.arg(&dirs[number as usize % dirs.len()]).args(["--role", role, "--ledger"]).arg(&ledger_path);
        if let Some(raw) = raw.get(number as usize % dirs.len()) {
            command.arg("--raw").arg(raw);
        }
        if let Some(outages) = &outages {
            command.arg("--outages").arg(outages);
        }
        let numbers = [("--number", number), ("--seconds", seconds), ("--seed", seed), ("--writers", writers)];
        for (name, value) in numbers.into_iter().chain([("--at-least", at_least)]) {
            command.args([name, &value.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a process")
    };
    let mut all: Vec<(String, Child)> = Vec::new();
    all.extend((0..writers).map(|n| (format!("writer {n}"), start("writer", dirs, n))));
    all.extend((0..readers).map(|n| (format!("reader {n}"), start("reader", dirs, n))));
    all.extend((0..plain.len() as u64).map(|n| (format!("plain reader {n}"), start("plain", plain, n))));
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
        "{{\"seed\":{seed},\"seconds\":{seconds},\"versions\":{},\"reads\":{},\"listings\":{},\"plain\":{},\"torn\":{},\"stale\":{},\"lost\":{},\"failed\":{failed}}}",
        sum.versions, sum.reads, sum.listings, sum.plain, sum.torn, sum.stale, sum.lost
    );
    if sum.torn + sum.stale + sum.lost + failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
