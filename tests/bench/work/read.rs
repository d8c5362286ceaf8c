//! Reading: one big file from the cache and from the disk, and one small file while it is replaced.

use std::fs::File;
use std::hint::black_box;
use std::io::{Error, Read, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{KIB, MIB, Pace, Random, SMALL, Turn, repeated};
use crate::contender::Kind;

/// Random reads of a file that is not in the cache.
const COLD_READS: usize = 500;

pub fn big(root: &Path) -> PathBuf {
    root.join("big")
}

/// The folder of the file that is replaced.
pub const REPLACED: &str = "replaced";

/// From end to end; returns MiB.
fn read_through(path: &Path, buffer: &mut [u8]) -> Result<f64> {
    let mut file = File::open(path)?;
    let mut read = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(read as f64 / MIB as f64),
            count => read += count,
        }
    }
}

pub fn read_big(root: &Path, pace: &Pace) -> Result<f64> {
    let mut buffer = vec![0; MIB];
    repeated(pace, || read_through(&big(root), &mut buffer))
}

fn read_blocks(file: &File, size: usize, count: usize, random: &mut Random) -> Result<f64> {
    let mut buffer = [0; 4 * KIB];
    for _ in 0..count {
        let block = random.next() % (size / (4 * KIB)) as u64;
        file.read_exact_at(&mut buffer, block * 4096)?;
    }
    black_box(&buffer);
    Ok(count as f64)
}

pub fn read_random(root: &Path, pace: &Pace) -> Result<f64> {
    let file = File::open(big(root))?;
    std::io::copy(&mut &file, &mut std::io::sink())?; // into the cache
    let mut random = Random(7);
    repeated(pace, || read_blocks(&file, pace.big, 1000, &mut random))
}

/// Takes a file out of the page cache: that of the mount, and that of the folder below.
fn evict(turn: &Turn<'_>) -> Result<()> {
    for root in [&turn.contender.root, &turn.contender.backing] {
        rustix::fs::fadvise(File::open(big(root))?, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// Repeats `pass` on a cold file for a slice; taking it out of the cache is not timed.
fn repeated_cold(turn: &Turn<'_>, mut pass: impl FnMut() -> Result<f64>) -> Result<f64> {
    let (mut done, mut time) = (0.0, Duration::ZERO);
    while time < turn.pace.slice {
        evict(turn)?;
        let begin = Instant::now();
        done += pass()?;
        time += begin.elapsed();
    }
    Ok(done / time.as_secs_f64())
}

pub fn read_big_cold(turn: &Turn<'_>) -> Result<f64> {
    let mut buffer = vec![0; MIB];
    repeated_cold(turn, || read_through(&big(&turn.contender.root), &mut buffer))
}

pub fn read_random_cold(turn: &Turn<'_>) -> Result<f64> {
    let mut random = Random(11 + u64::from(turn.round));
    repeated_cold(turn, || {
        let file = File::open(big(&turn.contender.root))?;
        read_blocks(&file, turn.pace.big, COLD_READS, &mut random)
    })
}

/// Reads of one file of 16 KiB, each with an open and a close, by `readers` threads while another process, which is nobody's
/// family, replaces it without a pause. Where replacements are whole, so must be what is read.
pub fn while_replaced(turn: &Turn<'_>, readers: usize) -> Result<f64> {
    let kind = turn.contender.kind;
    let whole = kind == Kind::Careful || kind.is_commitfs();
    let folder = turn.contender.root.join(REPLACED);
    let path = folder.join("file-00000");
    turn.contender.store(&path, &[1; SMALL], SMALL)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["store", "--on-and-on", "--times", "1"]).arg(&folder).stdin(Stdio::piped());
    if kind == Kind::Careful {
        command.arg("--careful");
    }
    let mut writer = command.spawn()?;
    let (over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let begin = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let read = || -> Result<()> {
            while !over.load(Ordering::Relaxed) && begin.elapsed() < turn.pace.slice {
                let content = std::fs::read(&path)?;
                if whole && (content.len() != SMALL || content.iter().any(|byte| *byte != content[0])) {
                    over.store(true, Ordering::Relaxed);
                    return Err(Error::other(format!("a torn read of {} bytes", content.len())));
                }
                reads.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let readers: Vec<_> = (0..readers).map(|_| scope.spawn(read)).collect();
        let ended: Vec<Result<()>> =
            readers.into_iter().map(|reader| reader.join().expect("a reader panicked")).collect();
        ended.into_iter().collect::<Result<()>>()
    });
    let elapsed = begin.elapsed();
    drop(writer.stdin.take());
    let status = writer.wait()?;
    outcome?;
    if !status.success() {
        return Err(Error::other(format!("the writer failed: {status}")));
    }
    Ok(reads.into_inner() as f64 / elapsed.as_secs_f64())
}
