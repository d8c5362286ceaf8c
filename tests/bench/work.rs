//! The workloads. Each returns a rate, so more is better everywhere.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, LazyLock};
use std::time::{Duration, Instant};

use crate::contender::{Contender, Kind};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// The big file, written and read.
const BIG: usize = 256 * MIB;
const SMALL: usize = 16 * KIB;
const NAMES: usize = 10_000;
const SMALL_FILES: usize = 2_000;
const OVERWRITTEN: usize = 64;

pub struct Workload {
    pub name: &'static str,
    pub unit: &'static str,
    /// What commitfs is compared with.
    pub reference: Kind,
    work: Work,
}

enum Work {
    Publish { threads: usize },
    Overwrite,
    WriteBig { block: usize },
    ReadBig,
    ReadRandom,
    Stat,
    ReadSmall,
    List,
}

pub const WORKLOADS: [Workload; 10] = [
    Workload { name: "publish-1", unit: "files/s", reference: Kind::Careful, work: Work::Publish { threads: 1 } },
    Workload { name: "publish-8", unit: "files/s", reference: Kind::Careful, work: Work::Publish { threads: 8 } },
    Workload { name: "overwrite", unit: "files/s", reference: Kind::Careful, work: Work::Overwrite },
    Workload { name: "write-1M", unit: "MiB/s", reference: Kind::Careful, work: Work::WriteBig { block: MIB } },
    Workload { name: "write-4K", unit: "MiB/s", reference: Kind::Careful, work: Work::WriteBig { block: 4 * KIB } },
    Workload { name: "read-1M", unit: "MiB/s", reference: Kind::Bare, work: Work::ReadBig },
    Workload { name: "read-random-4K", unit: "reads/s", reference: Kind::Bare, work: Work::ReadRandom },
    Workload { name: "stat", unit: "stats/s", reference: Kind::Bare, work: Work::Stat },
    Workload { name: "read-small", unit: "files/s", reference: Kind::Bare, work: Work::ReadSmall },
    Workload { name: "list-stat", unit: "names/s", reference: Kind::Bare, work: Work::List },
];

/// How long a measurement of repeated work lasts at least.
pub struct Pace {
    pub slice: Duration,
}

impl Workload {
    /// The careful discipline differs from the bare folder only where something is written.
    pub fn applies_to(&self, kind: Kind) -> bool {
        kind != Kind::Careful || self.reference == Kind::Careful
    }

    pub fn run(&self, contender: &Contender, round: u32, pace: &Pace) -> Result<f64> {
        if self.reference == Kind::Careful {
            settle(&contender.backing)?;
        }
        match self.work {
            Work::Publish { threads } => publish(contender, threads, round, pace),
            Work::Overwrite => overwrite(contender, pace),
            Work::WriteBig { block } => write_big(contender, block, round),
            Work::ReadBig => read_big(&contender.root, pace),
            Work::ReadRandom => read_random(&contender.root, pace),
            Work::Stat => stat(&contender.root, pace),
            Work::ReadSmall => read_small(&contender.root, pace),
            Work::List => list(&contender.root, pace),
        }
    }
}

/// The files that are only read, written straight to the backing folder.
pub fn prepare(backing: &Path) -> Result<()> {
    std::fs::write(big(backing), noise(BIG))?;
    for (folder, count, size) in
        [("names", NAMES, 0), ("small", SMALL_FILES, 4 * KIB), ("overwritten", OVERWRITTEN, SMALL)]
    {
        let folder = backing.join(folder);
        std::fs::create_dir(&folder)?;
        let content = noise(size);
        for path in numbered(&folder, count) {
            std::fs::write(path, content)?;
        }
    }
    settle(backing)
}

/// What earlier work left unwritten is not to be paid by the next.
fn settle(backing: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(backing)?)?)
}

fn big(root: &Path) -> PathBuf {
    root.join("big")
}

fn numbered(folder: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|number| folder.join(format!("file-{number:05}"))).collect()
}

/// Content that no layer can store shorter.
fn noise(size: usize) -> &'static [u8] {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        (0..BIG / 8).flat_map(|_| random.next().to_le_bytes()).collect()
    });
    &NOISE[..size]
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Repeats `pass`, which returns how much it did, for a slice; a pass before that is not counted.
fn repeated(pace: &Pace, mut pass: impl FnMut() -> Result<f64>) -> Result<f64> {
    pass()?;
    let begin = Instant::now();
    let mut done = 0.0;
    while begin.elapsed() < pace.slice {
        done += pass()?;
    }
    Ok(done / begin.elapsed().as_secs_f64())
}

/// New names in one folder, from `threads` threads at once.
fn publish(contender: &Contender, threads: usize, round: u32, pace: &Pace) -> Result<f64> {
    let folder = contender.root.join(format!("publish-{threads}-{round}"));
    std::fs::create_dir(&folder)?;
    let content = noise(SMALL);
    let stored = AtomicU64::new(0);
    let start = Barrier::new(threads + 1);
    let (begin, outcome) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|thread| {
                let (folder, stored, start) = (&folder, &stored, &start);
                scope.spawn(move || -> Result<()> {
                    start.wait();
                    let begin = Instant::now();
                    for number in 0.. {
                        if begin.elapsed() >= pace.slice {
                            break;
                        }
                        contender.store(&folder.join(format!("{thread}-{number}")), content, SMALL)?;
                        stored.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        start.wait();
        let begin = Instant::now();
        let outcome: Result<()> = writers.into_iter().try_for_each(|writer| writer.join().expect("a writer panicked"));
        (begin, outcome)
    });
    let elapsed = begin.elapsed();
    outcome?;
    Ok(stored.into_inner() as f64 / elapsed.as_secs_f64())
}

fn overwrite(contender: &Contender, pace: &Pace) -> Result<f64> {
    let paths = numbered(&contender.root.join("overwritten"), OVERWRITTEN);
    let content = noise(SMALL);
    let mut next = paths.iter().cycle();
    repeated(pace, || next.next().map_or(Ok(0.0), |path| contender.store(path, content, SMALL).map(|()| 1.0)))
}

fn write_big(contender: &Contender, block: usize, round: u32) -> Result<f64> {
    let name = format!("written-{block}-{round}");
    let content = noise(BIG);
    let begin = Instant::now();
    contender.store(&contender.root.join(&name), content, block)?;
    let elapsed = begin.elapsed();
    std::fs::remove_file(contender.backing.join(&name))?; // behind the mount: removal is not what is measured
    Ok((BIG / MIB) as f64 / elapsed.as_secs_f64())
}

fn read_big(root: &Path, pace: &Pace) -> Result<f64> {
    let mut buffer = vec![0; MIB];
    repeated(pace, || {
        let mut file = File::open(big(root))?;
        let mut read = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(read as f64 / MIB as f64),
                count => read += count,
            }
        }
    })
}

fn read_random(root: &Path, pace: &Pace) -> Result<f64> {
    let file = File::open(big(root))?;
    std::io::copy(&mut &file, &mut std::io::sink())?; // into the cache
    let mut buffer = [0; 4 * KIB];
    let mut random = Random(7);
    repeated(pace, || {
        for _ in 0..1000 {
            let block = random.next() % (BIG / (4 * KIB)) as u64;
            file.read_exact_at(&mut buffer, block * 4096)?;
        }
        black_box(&buffer);
        Ok(1000.0)
    })
}

fn stat(root: &Path, pace: &Pace) -> Result<f64> {
    let paths = numbered(&root.join("names"), NAMES);
    repeated(pace, || {
        for path in &paths {
            black_box(std::fs::metadata(path)?);
        }
        Ok(NAMES as f64)
    })
}

fn read_small(root: &Path, pace: &Pace) -> Result<f64> {
    let paths = numbered(&root.join("small"), SMALL_FILES);
    repeated(pace, || {
        for path in &paths {
            black_box(std::fs::read(path)?);
        }
        Ok(SMALL_FILES as f64)
    })
}

fn list(root: &Path, pace: &Pace) -> Result<f64> {
    let folder = root.join("names");
    repeated(pace, || {
        let mut names = 0.0;
        for entry in std::fs::read_dir(&folder)? {
            black_box(entry?.metadata()?);
            names += 1.0;
        }
        Ok(names)
    })
}
