//! What the daemons use: processor time and memory while nothing happens, memory after the work, with many nodes, and with
//! many drafts.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::contender::{Contender, Kind};
use crate::report::floor;
use crate::{Options, Result, work};

/// What `--only` calls the part with many nodes and drafts.
pub const NAME: &str = "memory";

#[derive(Default)]
struct Used {
    /// Milliseconds of processor time per second.
    idle_cpu: f64,
    idle: f64,
    after: f64,
    with_nodes: Option<f64>,
    with_drafts: Option<f64>,
}

/// All memory in MiB, resident.
#[derive(Default)]
pub struct Footprint {
    used: BTreeMap<Kind, Used>,
    nodes: usize,
    drafts: usize,
}

impl Footprint {
    /// Daemons that have just mounted and have nothing to do.
    pub fn idle(contenders: &[Contender], quick: bool) -> Result<Self> {
        let mut footprint = Self::default();
        std::thread::sleep(Duration::from_secs(2));
        let begin = Instant::now();
        let mut before = BTreeMap::new();
        for (kind, daemon) in daemons(contenders) {
            before.insert(kind, daemon.processor_time()?);
        }
        std::thread::sleep(Duration::from_secs(if quick { 3 } else { 30 }));
        for (kind, daemon) in daemons(contenders) {
            let spent = daemon.processor_time()?.saturating_sub(before[&kind]);
            let idle_cpu = 1000.0 * spent.as_secs_f64() / begin.elapsed().as_secs_f64();
            footprint.used.insert(kind, Used { idle_cpu, idle: daemon.resident_mib()?, ..Used::default() });
        }
        Ok(footprint)
    }

    /// Those daemons after their work.
    pub fn after(&mut self, contenders: &[Contender]) -> Result<()> {
        for (kind, daemon) in daemons(contenders) {
            self.used.entry(kind).or_default().after = daemon.resident_mib()?;
        }
        Ok(())
    }

    /// Each daemon anew, over one folder with many files that are all listed and looked at, and with many files open for
    /// writing.
    pub fn measure_scale(&mut self, folder: &Path, kinds: &[Kind], options: &Options) -> Result<()> {
        (self.nodes, self.drafts) = if options.quick { (20_000, 1_000) } else { (1_000_000, 10_000) };
        let shared = folder.join("many");
        std::fs::create_dir(&shared)?;
        fill(&shared, 0..self.nodes)?;
        for kind in kinds.iter().filter(|kind| kind.is_mounted() && kind.bears_many_nodes() && **kind != Kind::Release)
        {
            let mounted = Contender::start_over(*kind, &shared, &options.programs, &[])?;
            let visited = visit(&mounted.root)?;
            if visited < self.nodes {
                return Err(format!("{}: only {visited} of {} names were listed", kind.name(), self.nodes).into());
            }
            let used = self.used.entry(*kind).or_default();
            used.with_nodes = Some(resident(&mounted)?);
            drop(mounted);
            if kind.is_commitfs() {
                used.with_drafts = Some(with_drafts(*kind, folder, options, self.drafts)?);
            }
        }
        Ok(())
    }

    fn limit() -> f64 {
        floor("idle-memory-mib").unwrap_or(f64::INFINITY)
    }

    pub fn holds(&self) -> bool {
        self.used.get(&Kind::Commitfs).is_none_or(|used| used.idle < Self::limit())
    }

    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<13}{:>12}{:>10}{:>12}{:>16}{:>16}",
            "daemon",
            "idle ms/s",
            "idle MiB",
            "after work",
            format!("{} nodes", self.nodes),
            format!("{} drafts", self.drafts)
        )];
        let of = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        for (kind, used) in &self.used {
            let (nodes, drafts) = (of(used.with_nodes), of(used.with_drafts));
            lines.push(format!(
                "{:<13}{:>12.3}{:>10.1}{:>12.1}{nodes:>16}{drafts:>16}",
                kind.name(),
                used.idle_cpu,
                used.idle,
                used.after
            ));
        }
        lines.push(format!("limit of commitfs's idle memory: {} MiB", Self::limit()));
        lines.join("\n")
    }

    pub fn json(&self) -> Value {
        let daemons: Map<_, _> = self
            .used
            .iter()
            .map(|(kind, used)| {
                let value = json!({
                    "idle_cpu_ms_per_s": used.idle_cpu,
                    "idle_mib": used.idle,
                    "after_mib": used.after,
                    "with_nodes_mib": used.with_nodes,
                    "with_drafts_mib": used.with_drafts,
                });
                (kind.name().to_owned(), value)
            })
            .collect();
        json!({ "nodes": self.nodes, "drafts": self.drafts, "daemons": daemons })
    }
}

fn daemons(contenders: &[Contender]) -> impl Iterator<Item = (Kind, &crate::daemon::Daemon)> {
    contenders.iter().filter_map(|contender| Some((contender.kind, contender.daemon()?)))
}

pub fn resident(contender: &Contender) -> Result<f64> {
    contender.daemon().ok_or("no daemon")?.resident_mib()
}

/// Files of a folder of `d0`, `d1`… with 100,000 names each.
pub fn fill(folder: &Path, numbers: std::ops::Range<usize>) -> std::io::Result<()> {
    for number in numbers {
        let part = folder.join(format!("d{}", number / 100_000));
        if number % 100_000 == 0 {
            std::fs::create_dir_all(&part)?;
        }
        File::create(part.join(format!("file-{number}")))?;
    }
    Ok(())
}

/// Lists what is below a folder and looks at each file; returns how many there are.
pub fn visit(folder: &Path) -> std::io::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        files += if entry.metadata()?.is_dir() { visit(&entry.path())? } else { 1 };
    }
    Ok(files)
}

/// Memory with so many files open for writing, 4 KiB written to each.
fn with_drafts(kind: Kind, folder: &Path, options: &Options, count: usize) -> Result<f64> {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limits.maximum, maximum: limits.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted)?;
    let backing = folder.join(format!("drafts-{}", kind.name()));
    std::fs::create_dir(&backing)?;
    let mounted = Contender::start_over(kind, &backing, &options.programs, &[])?;
    let mut open = Vec::with_capacity(count);
    for path in work::numbered(&mounted.root, count) {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(&[7; 4096])?;
        open.push(file);
    }
    let used = resident(&mounted)?;
    drop(open);
    Ok(used)
}
