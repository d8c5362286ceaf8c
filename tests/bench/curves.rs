//! How things grow: the rate of publishing against threads, against names in the folder and against rows of the journal, and
//! memory against nodes. Each becomes a plot.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use commitfs::journal::{Begun, Commit, CommitKind, Entry, Journal, Owner};
use serde_json::{Map, Value, json};

use crate::contender::{self, Contender, Kind};
use crate::plot::{Plot, Series};
use crate::report::{machine, median};
use crate::work::{SMALL, publish_into};
use crate::{Options, Result, footprint};

/// Rows that one published draft has in the journal: its own, its commit's, two events'.
const ROWS: u64 = 4;

struct Drawing<'a> {
    folder: &'a Path,
    options: &'a Options,
    stop: &'a AtomicBool,
    rounds: u32,
    most: u64,
    slice: Duration,
}

type Curve = fn(&Drawing<'_>) -> Result<Plot>;

const CURVES: [(&str, Curve); 4] = [
    ("publish-threads", |drawing| drawing.threads()),
    ("publish-names", |drawing| drawing.names()),
    ("publish-journal", |drawing| drawing.journal()),
    ("memory-nodes", |drawing| drawing.nodes()),
];

/// Draws the curves that are asked for, and writes their numbers beside them.
pub fn draw(folder: &Path, options: &Options, plots: &Path, most: u64, stop: &AtomicBool) -> Result<()> {
    if let Some(unknown) = options.only.iter().find(|name| !CURVES.iter().any(|(known, _)| known == name)) {
        let known = CURVES.map(|(name, _)| name).join(", ");
        return Err(format!("no curve {unknown}; there are {known}").into());
    }
    let (rounds, slice) = if options.quick { (2, 200) } else { (5, 1500) };
    let rounds = options.rounds.unwrap_or(rounds);
    std::fs::create_dir_all(plots)?;
    for (name, curve) in CURVES {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        let own = folder.join(name);
        std::fs::create_dir(&own)?;
        let drawing = Drawing { folder: &own, options, stop, rounds, most, slice: Duration::from_millis(slice) };
        // Each curve begins with journals of its own.
        contender::forget_states(drawing.folder, &drawing.options.programs)?;
        let plot = curve(&drawing)?;
        contender::forget_states(drawing.folder, &drawing.options.programs)?;
        std::fs::remove_dir_all(&own)?;
        std::fs::write(plots.join(name).with_extension("svg"), plot.svg())?;
        let numbers = json!({ "machine": machine(), "backing": options.backing, "series": numbers(&plot) });
        let path = plots.join(name).with_extension("json");
        std::fs::write(path, format!("{numbers:#}\n"))?;
        if options.json {
            println!("{numbers}");
        } else {
            println!("{}", plot.table());
        }
    }
    Ok(())
}

fn numbers(plot: &Plot) -> Map<String, Value> {
    plot.series.iter().map(|series| (series.name.clone(), json!(series.points))).collect()
}

impl Drawing<'_> {
    fn points(&self, full: &[u64]) -> Vec<u64> {
        // A hundredth of the size, where the beginning is the same.
        let quick = |point: &u64| if *point > 1000 { point / 100 } else { *point };
        let mut points: Vec<u64> = if self.options.quick { full.iter().map(quick).collect() } else { full.to_vec() };
        points.sort_unstable();
        points.dedup();
        points.retain(|point| *point <= self.most);
        points
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }

    /// The careful discipline and commitfs, which store the same; whichever of them are asked for.
    fn writers(&self) -> Vec<Kind> {
        let all = [Kind::Careful, Kind::Commitfs];
        all.into_iter().filter(|kind| self.options.contenders.contains(kind)).collect()
    }

    /// Median rates of publishing 16 KiB in folder `name` of each contender, in interleaved rounds.
    fn rates(&self, contenders: &[Contender], name: &str, threads: usize) -> Result<Vec<f64>> {
        let mut rates = vec![Vec::new(); contenders.len()];
        for round in 0..self.rounds {
            for turn in 0..contenders.len() {
                self.check()?;
                let which = (round as usize + turn) % contenders.len();
                let contender = &contenders[which];
                rustix::fs::syncfs(std::fs::File::open(&contender.backing)?)?;
                let prefix = format!("new-{threads}-{round}-");
                let folder = contender.root.join(name);
                rates[which].push(publish_into(contender, &folder, &prefix, threads, SMALL, self.slice)?);
            }
        }
        Ok(rates.iter().filter_map(|rates| median(rates)).collect())
    }

    fn threads(&self) -> Result<Plot> {
        let contenders: Vec<_> = self
            .writers()
            .into_iter()
            .map(|kind| Contender::start(kind, self.folder, &self.options.programs))
            .collect::<Result<_>>()?;
        let mut series = Series::of(&contenders);
        for threads in self.points(&[1, 2, 4, 8, 16, 32, 64]) {
            let threads = threads as usize;
            let name = format!("at-{threads}");
            for contender in &contenders {
                std::fs::create_dir(contender.root.join(&name))?;
            }
            Series::add(&mut series, threads as f64, &self.rates(&contenders, &name, threads)?);
        }
        Ok(Plot { title: "publish 16 KiB", x: "threads", y: "files/s", series })
    }

    fn names(&self) -> Result<Plot> {
        let kinds = self.writers();
        let mut series: Vec<Series> = kinds.iter().map(|kind| Series::new(kind.name())).collect();
        let mut have = 0;
        for many in self.points(&[100, 1_000, 10_000, 100_000, 300_000, 1_000_000]) {
            for kind in &kinds {
                let folder = self.folder.join(kind.name()).join("folder");
                std::fs::create_dir_all(&folder)?;
                (have..many)
                    .try_for_each(|number| std::fs::File::create(folder.join(format!("name-{number}"))).map(drop))?;
            }
            have = many;
            let contenders: Vec<_> = kinds
                .iter()
                .map(|kind| Contender::start(*kind, self.folder, &self.options.programs))
                .collect::<Result<_>>()?;
            self.settled(&contenders)?;
            Series::add(&mut series, many as f64, &self.rates(&contenders, "folder", 1)?);
            drop(contenders);
            for kind in &kinds {
                remove_new(&self.folder.join(kind.name()).join("folder"))?;
            }
        }
        Ok(Plot { title: "publish 16 KiB, one thread", x: "names in the folder", y: "files/s", series })
    }

    fn journal(&self) -> Result<Plot> {
        const KEEP_ALL: &str = "history=1000000000";
        let kinds = self.writers();
        let mut series: Vec<Series> = kinds.iter().map(|kind| Series::new(kind.name())).collect();
        let mut pruned = Series::new("commitfs while old rows go");
        let state = contender::state_dir(Kind::Commitfs, &self.folder.join("any"), &self.options.programs);
        let mut have = 0;
        let points = self.points(&[1_000, 10_000, 100_000, 1_000_000, 3_000_000, 10_000_000]);
        for rows in &points {
            fill_journal(&state, have, *rows)?;
            have = *rows;
            let (contenders, rates) = self.over_journal(&kinds, KEEP_ALL, &format!("of-{rows}"))?;
            drop(contenders);
            Series::add(&mut series, *rows as f64, &rates);
        }
        // The same journal by a daemon that keeps less: measured from the start on, while it prunes.
        let keep = if self.options.quick { "history=1000" } else { "history=1000000" };
        let (contenders, rates) = self.over_journal(&kinds, keep, "pruned")?;
        drop(contenders);
        if let Some(rate) = kinds.iter().position(|kind| *kind == Kind::Commitfs).and_then(|own| rates.get(own)) {
            pruned.points.push((have as f64, *rate));
            series.push(pruned);
        }
        Ok(Plot { title: "publish 16 KiB, one thread", x: "rows in the journal", y: "files/s", series })
    }

    fn over_journal(&self, kinds: &[Kind], history: &str, name: &str) -> Result<(Vec<Contender>, Vec<f64>)> {
        let mut contenders = Vec::new();
        for kind in kinds {
            let backing = self.folder.join(kind.name());
            std::fs::create_dir_all(backing.join(name))?;
            let options: &[&str] = if kind.is_commitfs() { &[history] } else { &[] };
            contenders.push(Contender::start_over(*kind, &backing, &self.options.programs, options)?);
        }
        let rates = self.rates(&contenders, name, 1)?;
        Ok((contenders, rates))
    }

    fn nodes(&self) -> Result<Plot> {
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| kind.is_mounted() && kind.bears_many_nodes() && self.options.contenders.contains(kind))
            .filter(|kind| !matches!(kind, Kind::CommitfsPt | Kind::Release))
            .collect();
        let mut series: Vec<Series> = kinds.iter().map(|kind| Series::new(kind.name())).collect();
        let shared = self.folder.join("many");
        std::fs::create_dir(&shared)?;
        let mut have = 0;
        for nodes in self.points(&[1_000, 10_000, 100_000, 300_000, 1_000_000]) {
            footprint::fill(&shared, have as usize..nodes as usize)?;
            have = nodes;
            let mut used = Vec::new();
            for kind in &kinds {
                self.check()?;
                let mounted = Contender::start_over(*kind, &shared, &self.options.programs, &[])?;
                footprint::visit(&mounted.root)?;
                used.push(footprint::resident(&mounted)?);
            }
            Series::add(&mut series, nodes as f64, &used);
        }
        Ok(Plot { title: "resident memory of the daemon", x: "files looked at", y: "MiB", series })
    }

    /// Waits until the daemons have done what they do after a mount.
    fn settled(&self, contenders: &[Contender]) -> Result<()> {
        let begin = Instant::now();
        for daemon in contenders.iter().filter_map(Contender::daemon) {
            let mut before = daemon.processor_time()?;
            loop {
                self.check()?;
                std::thread::sleep(Duration::from_secs(1));
                let now = daemon.processor_time()?;
                if now.saturating_sub(before) < Duration::from_millis(20) || begin.elapsed() > Duration::from_secs(120)
                {
                    break;
                }
                before = now;
            }
        }
        Ok(())
    }
}

fn remove_new(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"new-") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Brings a journal from `have` to `rows` rows by what publishing writes into it.
fn fill_journal(state: &Path, have: u64, rows: u64) -> Result<()> {
    /// Entries that wait in memory at most.
    const PAGE: u64 = 10_000;
    let journal = Journal::open(state)?;
    for number in have / ROWS..rows / ROWS {
        let id = journal.next_draft_id();
        let path = format!("archive/part-{:03}/file-{number:07}", number % 1000).into_bytes();
        let owner = Owner { uid: 0, gid: 0, pid: 1, command: "bench".to_owned() };
        let stage = format!("{id}.0");
        let begun = Begun { id, path: path.clone(), stage, ino: number + 2, kind: CommitKind::New, owner };
        journal.submit(Entry::Begun(begun));
        journal.submit(Entry::Committed(Commit {
            id,
            path,
            ino: number + 2,
            size: SMALL as u64,
            digest: Some(format!("xxh3:{number:032x}")),
            mtime: SystemTime::now(),
            uid: 0,
            duration: Duration::from_millis(1),
            kind: CommitKind::New,
            change: None,
        }));
        if number % PAGE == 0 {
            journal.flush()?;
        }
    }
    journal.close();
    Ok(())
}
