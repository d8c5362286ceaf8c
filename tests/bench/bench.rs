//! The same work on the bare folder, on the bare folder with the careful discipline by hand, on bindfs and on a
//! commitfs mount, in interleaved rounds: `scripts/bench`. `docs/PERFORMANCE.md` says how to read the table.

mod contender;
mod report;
mod work;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;

use contender::{Contender, Kind};
use report::{Memory, Report, Row};
use work::{Pace, WORKLOADS, Workload};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(about = "Compares commitfs with the bare folder, with the careful discipline by hand and with bindfs")]
struct Options {
    /// Under two minutes: fewer and shorter measurements
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Exit with 1 when a ratio is below its floor in tests/bench/floors.json
    #[arg(long)]
    check: bool,
    /// Only these workloads
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these: bare, careful, bindfs, commitfs
    #[arg(long, value_delimiter = ',', default_value = "bare,careful,bindfs,commitfs")]
    contenders: Vec<Kind>,
    /// A configuration file for the commitfs mount
    #[arg(long)]
    config: Option<PathBuf>,
    /// The commitfs program
    #[arg(long)]
    commitfs: PathBuf,
    /// Where everything is made, and removed again
    #[arg(long)]
    folder: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let workloads = chosen(&options.only)?;
    let folder = Folder::make(&options.folder)?;
    let started = options
        .contenders
        .iter()
        .map(|kind| Contender::start(*kind, &folder.0, &options.commitfs, options.config.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    let idle = idle_memory(&started)?;
    let samples = measure(&workloads, &started, options.quick, &stop)?;
    let memory = memory_of(&started)?.zip(idle).map(|(after, idle)| Memory { idle, after });
    drop(started);
    drop(folder);

    let rows = workloads.iter().map(|work| Row::new(work, &samples)).collect();
    let report = Report::new(rows, memory);
    if options.json {
        println!("{}", report.json());
    } else {
        println!("{}", report.table());
    }
    Ok(if options.check && !report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn chosen(names: &[String]) -> Result<Vec<&'static Workload>> {
    if let Some(unknown) = names.iter().find(|name| !WORKLOADS.iter().any(|work| work.name == name.as_str())) {
        let known = WORKLOADS.map(|work| work.name).join(", ");
        return Err(format!("no workload {unknown}; there are {known}").into());
    }
    Ok(WORKLOADS.iter().filter(|work| names.is_empty() || names.iter().any(|name| name == work.name)).collect())
}

/// Rates by workload and contender, in the order of the rounds.
type Samples = BTreeMap<(&'static str, Kind), Vec<f64>>;

/// Every round does each workload once on every contender, beginning with another one each time, so that what else the
/// machine does meanwhile falls on all alike.
fn measure(
    workloads: &[&'static Workload],
    contenders: &[Contender],
    quick: bool,
    stop: &AtomicBool,
) -> Result<Samples> {
    let pace = Pace { slice: Duration::from_millis(if quick { 300 } else { 1500 }) };
    let (rounds, limit) = if quick { (5, Duration::from_secs(90)) } else { (9, Duration::from_secs(900)) };
    let progress = std::io::stderr().is_terminal();
    let mut samples = Samples::new();
    let begin = Instant::now();
    for round in 0..rounds {
        let one_more = begin.elapsed().checked_div(round).unwrap_or_default();
        if round >= 3 && begin.elapsed() + one_more > limit {
            break;
        }
        if progress {
            eprint!("\rround {} of {rounds} ", round + 1);
        }
        for work in workloads {
            for turn in 0..contenders.len() {
                if stop.load(Ordering::Relaxed) {
                    return Err("interrupted".into());
                }
                let contender = &contenders[(round as usize + turn) % contenders.len()];
                if !work.applies_to(contender.kind) {
                    continue;
                }
                let rate = work
                    .run(contender, round, &pace)
                    .map_err(|error| format!("{} on {}: {error}", work.name, contender.kind.name()))?;
                samples.entry((work.name, contender.kind)).or_default().push(rate);
            }
        }
    }
    if progress {
        eprint!("\r{:20}\r", "");
    }
    Ok(samples)
}

/// Memory of a daemon that has just mounted and has nothing to do.
fn idle_memory(contenders: &[Contender]) -> Result<Option<f64>> {
    if contenders.iter().any(|contender| contender.kind == Kind::Commitfs) {
        std::thread::sleep(Duration::from_secs(2));
    }
    memory_of(contenders)
}

/// Resident memory of the commitfs daemon in MiB.
fn memory_of(contenders: &[Contender]) -> Result<Option<f64>> {
    contenders.iter().find(|contender| contender.kind == Kind::Commitfs).map(Contender::resident_mib).transpose()
}

/// The folder of the run; it is removed when the run ends.
struct Folder(PathBuf);

impl Folder {
    fn make(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let folder = Self(path.canonicalize()?);
        folder.empty()?;
        Ok(folder)
    }

    fn empty(&self) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.empty() {
            eprintln!("bench: cannot empty {}: {error}", self.0.display());
        }
    }
}
