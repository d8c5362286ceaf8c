//! The same work on the bare folder, on the bare folder with the careful discipline by hand, on other FUSE file systems and
//! on a commitfs mount, in interleaved rounds; and curves over threads, names, rows and nodes: `scripts/bench`.
//! `docs/PERFORMANCE.md` says how to read the tables.

mod contender;
mod curves;
mod daemon;
mod footprint;
mod plot;
mod report;
mod work;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use contender::{Contender, Kind};
use footprint::Footprint;
use report::{Report, Row};
use work::{MIB, Pace, Sources, Turn, WORKLOADS, Workload};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(about = "Compares commitfs with the bare folder, with the careful discipline by hand and with other mounts")]
struct Options {
    #[command(subcommand)]
    job: Option<Job>,
    /// Under two minutes: fewer and shorter measurements
    #[arg(long, global = true)]
    quick: bool,
    /// Print JSON instead of the tables
    #[arg(long, global = true)]
    json: bool,
    /// Exit with 1 when a ratio is below its floor in tests/bench/floors.json
    #[arg(long)]
    check: bool,
    /// Only these workloads, or curves
    #[arg(long, value_delimiter = ',', global = true)]
    only: Vec<String>,
    /// Only these
    #[arg(long, value_delimiter = ',', global = true, default_value = NAMES)]
    contenders: Vec<Kind>,
    /// At most so many rounds
    #[arg(long, global = true)]
    rounds: Option<u32>,
    /// What the folder is on, for the report
    #[arg(long, default_value = "a local disk", global = true)]
    backing: String,
    /// A tar archive to unpack
    #[arg(long)]
    tar: Option<PathBuf>,
    /// A git repository to clone
    #[arg(long)]
    repository: Option<PathBuf>,
    #[command(flatten)]
    programs: Programs,
    /// Where everything is made, and removed again
    #[arg(long, global = true, default_value = "bench")]
    folder: PathBuf,
}

const NAMES: &str = "bare,careful,bindfs,mergerfs,passthrough,commitfs,commitfs-pt,release";

#[derive(Subcommand)]
enum Job {
    /// Curves instead of the table: publish rate against threads, names in the folder, rows of the journal; memory
    /// against nodes
    Curves {
        /// Where the plots go
        #[arg(long)]
        plots: PathBuf,
        /// No point beyond this many threads, names, rows or nodes
        #[arg(long, default_value_t = u64::MAX)]
        most: u64,
    },
    /// Only stores files of 16 KiB, for whoever counts calls or requests meanwhile
    Store {
        /// With the careful discipline
        #[arg(long)]
        careful: bool,
        /// The same name each time
        #[arg(long)]
        same: bool,
        /// How many
        #[arg(long, default_value_t = 100)]
        times: usize,
        /// Until standard input ends, each with other content, besides
        #[arg(long)]
        on_and_on: bool,
        /// The first one's number
        #[arg(long, default_value_t = 0)]
        first: usize,
        /// Where
        into: PathBuf,
    },
}

/// What runs besides this program.
#[derive(Args, Clone)]
pub struct Programs {
    /// The commitfs program
    #[arg(long, global = true, default_value = "commitfs")]
    commitfs: PathBuf,
    /// libfuse's example `passthrough_ll`, where there is one
    #[arg(long, global = true)]
    passthrough: Option<PathBuf>,
    /// A configuration file for the commitfs mounts
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// Where the mount points are, if not beside the folders
    #[arg(long, global = true)]
    mounts: Option<PathBuf>,
    /// Where the state folders are, if not beside the mount points
    #[arg(long, global = true)]
    state: Option<PathBuf>,
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
    if let Some(Job::Store { careful, same, on_and_on, times, first, into }) = &options.job {
        let kind = if *careful { Kind::Careful } else { Kind::Bare };
        let path = |number| into.join(format!("file-{:05}", if *same { 0 } else { number }));
        return work::store(&Contender::plain(kind, into), *first..first + times, *on_and_on, path);
    }
    let folder = Folder::make(&options.folder)?;
    contender::forget_states(&folder.0, &options.programs)?;
    if let Some(Job::Curves { plots, most }) = &options.job {
        curves::draw(&folder.0, options, plots, *most, &stop)?;
        return Ok(ExitCode::SUCCESS);
    }
    let sources = Sources { tar: options.tar.clone(), repository: options.repository.clone() };
    let workloads = chosen(&options.only, &sources)?;
    let pace = pace(options.quick);
    let kinds: Vec<Kind> = options
        .contenders
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::Passthrough || options.programs.passthrough.is_some())
        .collect();
    let started =
        kinds.iter().map(|kind| Contender::start(*kind, &folder.0, &options.programs)).collect::<Result<Vec<_>>>()?;
    let mut footprint = Footprint::idle(&started, options.quick)?;
    let samples = measure(&workloads, &started, &pace, &sources, options, &stop)?;
    footprint.after(&started)?;
    drop(started);
    if options.only.is_empty() || options.only.iter().any(|name| name == footprint::NAME) {
        footprint.measure_scale(&folder.0, &kinds, options)?;
    }
    drop(folder);

    let rows = workloads.iter().map(|work| Row::new(work, &samples)).collect();
    let report = Report::new(kinds, rows, footprint, options.backing.clone());
    if options.json {
        println!("{:#}", report.json());
    } else {
        println!("{}", report.tables());
    }
    Ok(if options.check && !report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn pace(quick: bool) -> Pace {
    let slice = Duration::from_millis(if quick { 100 } else { 1000 });
    let (big, appended) = if quick { (32 * MIB, 64 * MIB) } else { (256 * MIB, 1024 * MIB) };
    let (names, small) = if quick { (1000, 300) } else { (10_000, 2_000) };
    Pace { slice, big, appended, names, small }
}

fn chosen(names: &[String], sources: &Sources) -> Result<Vec<&'static Workload>> {
    let is_known = |name: &&String| WORKLOADS.iter().any(|work| work.name == name.as_str());
    if let Some(unknown) = names.iter().find(|name| !is_known(name) && name.as_str() != footprint::NAME) {
        let known = WORKLOADS.map(|work| work.name).join(", ");
        return Err(format!("no workload {unknown}; there are {known}, {}", footprint::NAME).into());
    }
    let is_asked = |work: &&Workload| names.is_empty() || names.iter().any(|name| name == work.name);
    Ok(WORKLOADS.iter().filter(is_asked).filter(|work| work.is_possible(sources)).collect())
}

/// Rates by workload and contender, in the order of the rounds.
type Samples = BTreeMap<(&'static str, Kind), Vec<f64>>;

/// Every round does each workload once on every contender, beginning with another one each time, so that what else the
/// machine does meanwhile falls on all alike.
fn measure(
    workloads: &[&'static Workload],
    contenders: &[Contender],
    pace: &Pace,
    sources: &Sources,
    options: &Options,
    stop: &AtomicBool,
) -> Result<Samples> {
    for work in workloads {
        for contender in contenders.iter().filter(|contender| work.applies_to(contender.kind)) {
            work.prepare(contender, pace).map_err(|error| failed(work, contender, &error))?;
        }
    }
    let (rounds, least, limit) = if options.quick { (5, 2, 80) } else { (9, 3, 1800) };
    let rounds = options.rounds.unwrap_or(rounds);
    let progress = std::io::stderr().is_terminal();
    let mut samples = Samples::new();
    let begin = Instant::now();
    for round in 0..rounds {
        let one_more = begin.elapsed().checked_div(round).unwrap_or_default();
        if round >= least && begin.elapsed() + one_more > Duration::from_secs(limit) {
            break;
        }
        for work in workloads {
            if progress {
                eprint!("\rround {} of {rounds}: {:16}", round + 1, work.name);
            }
            for turn in 0..contenders.len() {
                if stop.load(Ordering::Relaxed) {
                    return Err("interrupted".into());
                }
                let contender = &contenders[(round as usize + turn) % contenders.len()];
                if !work.applies_to(contender.kind) {
                    continue;
                }
                let turn = Turn { contender, round, pace, sources };
                let rate = work.run(&turn).map_err(|error| failed(work, contender, &error))?;
                samples.entry((work.name, contender.kind)).or_default().push(rate);
            }
        }
    }
    if progress {
        eprint!("\r{:40}\r", "");
    }
    Ok(samples)
}

fn failed(work: &Workload, contender: &Contender, error: &std::io::Error) -> String {
    format!("{} on {}: {error}", work.name, contender.kind.name())
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
