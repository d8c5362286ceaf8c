//! What writes: new files, files stored again, appends, one big file.

use std::io::{Read, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{KIB, MIB, NOISE, SMALL, Turn, noise, numbered, repeated};
use crate::contender::{Contender, Kind};

pub const OVERWRITTEN: usize = 64;

/// New names in one folder, from `threads` threads at once.
pub fn publish(turn: &Turn<'_>, name: &str, threads: usize, size: usize) -> Result<f64> {
    let folder = turn.contender.root.join(format!("{name}-{}", turn.round));
    std::fs::create_dir(&folder)?;
    publish_into(turn.contender, &folder, "", threads, size, turn.pace.slice)
}

/// As many new files as there is time for, in a folder that is there; per second.
pub fn publish_into(
    contender: &Contender,
    folder: &Path,
    prefix: &str,
    threads: usize,
    size: usize,
    slice: Duration,
) -> Result<f64> {
    let content = noise(size);
    let stored = AtomicU64::new(0);
    let start = Barrier::new(threads + 1);
    let (begin, outcome) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|thread| {
                let (stored, start) = (&stored, &start);
                scope.spawn(move || -> Result<()> {
                    start.wait();
                    let begin = Instant::now();
                    for number in 0.. {
                        if begin.elapsed() >= slice {
                            break;
                        }
                        contender.store(&folder.join(format!("{prefix}{thread}-{number}")), content, MIB)?;
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

pub fn overwrite(turn: &Turn<'_>) -> Result<f64> {
    let paths = numbered(&turn.contender.root.join("overwritten"), OVERWRITTEN);
    let content = noise(SMALL);
    let mut next = paths.iter().cycle();
    repeated(turn.pace, || next.next().map_or(Ok(0.0), |path| turn.contender.store(path, content, SMALL).map(|()| 1.0)))
}

pub fn appended(root: &Path, big: bool) -> PathBuf {
    root.join(if big { "appended" } else { "appended-1M" })
}

/// Appends of 4 KiB, each with an open and a close of its own.
pub fn append(turn: &Turn<'_>, big: bool) -> Result<f64> {
    let path = appended(&turn.contender.root, big);
    let content = noise(4 * KIB);
    let begin = Instant::now();
    let mut done = 0.0;
    while begin.elapsed() < turn.pace.slice {
        turn.contender.append(&path, content)?;
        done += 1.0;
    }
    Ok(done / begin.elapsed().as_secs_f64())
}

pub fn write_big(turn: &Turn<'_>, block: usize) -> Result<f64> {
    let name = format!("written-{block}-{}", turn.round);
    let path = turn.contender.root.join(&name);
    let begin = Instant::now();
    turn.contender.store_many(&path, noise(NOISE), block, turn.pace.big / NOISE)?;
    let elapsed = begin.elapsed();
    turn.contender.arrived(&name);
    std::fs::remove_file(turn.contender.backing.join(&name))?; // behind the mount: removal is not what is measured
    Ok((turn.pace.big / MIB) as f64 / elapsed.as_secs_f64())
}

impl Contender {
    /// Stores `times` times `content` in one file.
    fn store_many(&self, path: &Path, content: &[u8], block: usize, times: usize) -> Result<()> {
        let fill = |path: &Path| {
            let mut file = std::fs::File::create(path)?;
            for _ in 0..times {
                for piece in content.chunks(block) {
                    std::io::Write::write_all(&mut file, piece)?;
                }
            }
            Ok(file)
        };
        match self.kind {
            Kind::Careful => crate::contender::carefully(path, fill),
            _ => fill(path).map(drop),
        }
    }
}

/// Stores files of 16 KiB by number; then, if asked to, the last one again until standard input ends.
pub fn store(
    contender: &Contender,
    numbers: Range<usize>,
    on_and_on: bool,
    path: impl Fn(usize) -> PathBuf,
) -> crate::Result<ExitCode> {
    let last = numbers.end - 1;
    for number in numbers {
        contender.store(&path(number), &[7; SMALL], SMALL)?;
    }
    if on_and_on {
        static ENDED: AtomicBool = AtomicBool::new(false);
        std::thread::spawn(|| {
            // The end, a byte or an error: nobody wants more.
            drop(std::io::stdin().read(&mut [0]));
            ENDED.store(true, Ordering::Relaxed);
        });
        let mut version = 0_u8;
        while !ENDED.load(Ordering::Relaxed) {
            version = version.wrapping_add(1);
            contender.store(&path(last), &[version; SMALL], SMALL)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
