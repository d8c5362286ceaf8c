//! The workloads. Each returns a rate, so more is better everywhere.

mod names;
mod read;
mod tree;
mod write;

use std::fs::File;
use std::io::Result;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::contender::{Contender, Kind};

pub use names::numbered;
pub use write::{publish_into, store};

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;
pub const SMALL: usize = 16 * KIB;

pub struct Workload {
    pub name: &'static str,
    pub unit: &'static str,
    /// What commitfs is compared with.
    pub reference: Kind,
    /// It is compared with the better of bindfs and mergerfs, too.
    pub rivals: bool,
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    Publish { threads: usize, size: usize },
    Overwrite,
    Append { big: bool },
    WriteBig { block: usize },
    ReadBig { cold: bool },
    ReadRandom { cold: bool },
    Stat,
    OpenRead,
    List,
    Untar,
    Clone,
    Replaced { readers: usize },
}

const fn written(name: &'static str, unit: &'static str, work: Work) -> Workload {
    Workload { name, unit, reference: Kind::Careful, rivals: false, work }
}

const fn seen(name: &'static str, unit: &'static str, work: Work) -> Workload {
    Workload { name, unit, reference: Kind::Bare, rivals: true, work }
}

pub const WORKLOADS: [Workload; 20] = [
    written("publish-1", "files/s", Work::Publish { threads: 1, size: SMALL }),
    written("publish-8", "files/s", Work::Publish { threads: 8, size: SMALL }),
    written("publish-32", "files/s", Work::Publish { threads: 32, size: SMALL }),
    written("publish-1M", "files/s", Work::Publish { threads: 1, size: MIB }),
    written("overwrite", "files/s", Work::Overwrite),
    written("append", "appends/s", Work::Append { big: true }),
    written("append-1M", "appends/s", Work::Append { big: false }),
    written("write-1M", "MiB/s", Work::WriteBig { block: MIB }),
    written("write-4K", "MiB/s", Work::WriteBig { block: 4 * KIB }),
    seen("read-1M", "MiB/s", Work::ReadBig { cold: false }),
    seen("read-random-4K", "reads/s", Work::ReadRandom { cold: false }),
    seen("cold-1M", "MiB/s", Work::ReadBig { cold: true }),
    seen("cold-random-4K", "reads/s", Work::ReadRandom { cold: true }),
    seen("stat", "stats/s", Work::Stat),
    seen("open-read", "files/s", Work::OpenRead),
    seen("list-stat", "names/s", Work::List),
    seen("untar", "files/s", Work::Untar),
    seen("git-clone", "clones/s", Work::Clone),
    written("replaced-1", "reads/s", Work::Replaced { readers: 1 }),
    written("replaced-64", "reads/s", Work::Replaced { readers: 64 }),
];

/// How much is done.
pub struct Pace {
    /// How long a measurement of repeated work lasts at least.
    pub slice: Duration,
    /// The big file, written and read.
    pub big: usize,
    /// The file that is appended to.
    pub appended: usize,
    /// Names in the folder that is listed.
    pub names: usize,
    /// Small files that are opened and read.
    pub small: usize,
}

/// What is unpacked and cloned; made by `scripts/bench`.
#[derive(Default)]
pub struct Sources {
    pub tar: Option<PathBuf>,
    pub repository: Option<PathBuf>,
}

/// One measurement of one contender in one round.
pub struct Turn<'a> {
    pub contender: &'a Contender,
    pub round: u32,
    pub pace: &'a Pace,
    pub sources: &'a Sources,
}

impl Workload {
    /// The careful discipline differs from the bare folder only where something is written. The other mounts append as the
    /// bare folder does.
    pub fn applies_to(&self, kind: Kind) -> bool {
        match self.work {
            Work::WriteBig { .. } => true,
            _ if kind == Kind::Release => false,
            Work::Append { .. } => matches!(kind, Kind::Bare | Kind::Careful) || kind.is_commitfs(),
            Work::Untar | Work::Clone => true,
            _ => kind != Kind::Careful || self.reference == Kind::Careful,
        }
    }

    /// Whether what it works on is there.
    pub fn is_possible(&self, sources: &Sources) -> bool {
        match self.work {
            Work::Untar => sources.tar.is_some(),
            Work::Clone => sources.repository.is_some(),
            _ => true,
        }
    }

    /// Makes what it reads or changes, straight on the backing folder.
    pub fn prepare(&self, contender: &Contender, pace: &Pace) -> Result<()> {
        let backing = &contender.backing;
        match self.work {
            Work::ReadBig { .. } | Work::ReadRandom { .. } => make(&read::big(backing), pace.big)?,
            Work::Append { big: true } => make(&write::appended(backing, true), pace.appended)?,
            Work::Append { big: false } => make(&write::appended(backing, false), MIB)?,
            Work::Overwrite => names::make(&backing.join("overwritten"), write::OVERWRITTEN, SMALL)?,
            Work::Replaced { .. } => names::make(&backing.join(read::REPLACED), 1, SMALL)?,
            Work::Stat | Work::List => names::make(&backing.join("names"), pace.names, 0)?,
            Work::OpenRead => names::make(&backing.join("small"), pace.small, 4 * KIB)?,
            Work::Publish { .. } | Work::WriteBig { .. } | Work::Untar | Work::Clone => {}
        }
        settle(backing)
    }

    pub fn run(&self, turn: &Turn<'_>) -> Result<f64> {
        let (root, pace) = (&turn.contender.root, turn.pace);
        if self.reference == Kind::Careful || matches!(self.work, Work::Untar | Work::Clone) {
            settle(&turn.contender.backing)?;
        }
        match self.work {
            Work::Publish { threads, size } => write::publish(turn, self.name, threads, size),
            Work::Overwrite => write::overwrite(turn),
            Work::Append { big } => write::append(turn, big),
            Work::WriteBig { block } => write::write_big(turn, block),
            Work::ReadBig { cold: false } => read::read_big(root, pace),
            Work::ReadRandom { cold: false } => read::read_random(root, pace),
            Work::ReadBig { cold: true } => read::read_big_cold(turn),
            Work::ReadRandom { cold: true } => read::read_random_cold(turn),
            Work::Stat => names::stat(root, pace),
            Work::OpenRead => names::open_read(root, pace),
            Work::List => names::list(root, pace),
            Work::Untar => tree::untar(turn),
            Work::Clone => tree::clone(turn),
            Work::Replaced { readers } => read::while_replaced(turn, readers),
        }
    }
}

/// A file of noise, unless it is there in this size.
fn make(path: &Path, size: usize) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|there| there.len() == size as u64) {
        return Ok(());
    }
    let mut file = File::create(path)?;
    for begin in (0..size).step_by(NOISE) {
        std::io::Write::write_all(&mut file, noise(NOISE.min(size - begin)))?;
    }
    Ok(())
}

/// What earlier work left unwritten is not to be paid by the next.
fn settle(backing: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(backing)?)?)
}

const NOISE: usize = 16 * MIB;

/// Content that no layer can store shorter: at most 16 MiB of it.
fn noise(size: usize) -> &'static [u8] {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        (0..NOISE / 8).flat_map(|_| random.next().to_le_bytes()).collect()
    });
    &BYTES[..size]
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
