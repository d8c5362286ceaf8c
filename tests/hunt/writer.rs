//! A writer of the hunt: publishes its names by every ordinary way of writing, in several system calls each.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::content::{self, Header, name_number};
use crate::ledger::{Ledger, NAMES, Promises};
use crate::{Dice, Task};

/// How a name is written: fixed per name, so that a reader knows what to expect of it.
pub const WAYS: [&str; NAMES] = ["rewrite", "append", "patch", "shrink", "rename", "twice", "links"];

/// The name of a writer's file.
pub fn name(writer: u64, slot: usize) -> String {
    format!("w{writer}-{}", WAYS[slot])
}

/// A second name that a version has for a while. Files under such a name are written in place, and this one never is.
pub fn link_name(name: &str) -> String {
    format!("{name}.log")
}

/// The name of a writer's new file.
pub fn new_name(writer: u64, n: u64) -> String {
    format!("w{writer}-new{n}")
}

/// Writes until the time is over.
pub fn run(task: &Task) -> ExitCode {
    let ledger = Ledger::open(&task.ledger).expect("the ledger");
    let mine = &ledger.promises[task.number as usize];
    let mut dice = Dice::new(task.seed ^ (task.number << 32));
    let (mut generations, mut cut) = ([0_u64; NAMES], [false; NAMES]);
    while !task.is_over(ledger) {
        let slot = dice.roll(NAMES as u64 + 1) as usize;
        let life = task.life();
        let result = if slot == NAMES {
            new_file(task, mine, &mut dice)
        } else {
            generations[slot] += 1;
            let generation = generations[slot];
            let name = name(task.number, slot);
            let done = write(task, &name, WAYS[slot], (generation, cut[slot]), &mut dice)
                .map_err(|error| std::io::Error::new(error.kind(), format!("{name}: {error}")));
            let done = done.and_then(|()| committed(task, &name, generation));
            // An append that failed may be missing: the next one begins anew.
            cut[slot] = done.is_err();
            if done.is_ok() {
                mine.closed[slot].store(generation, Ordering::SeqCst);
            }
            done
        };
        if let Err(error) = result {
            if life.is_none() || task.life() != life {
                std::thread::park_timeout(Duration::from_millis(5));
                continue;
            }
            eprintln!("writer {} (seed {}): {error}", task.number, task.seed);
            return ExitCode::FAILURE;
        }
        ledger.versions.fetch_add(1, Ordering::SeqCst);
    }
    ExitCode::SUCCESS
}

/// Waits until the export has what was closed, if others look there.
fn committed(task: &Task, name: &str, generation: u64) -> Result<()> {
    let Some(raw) = &task.raw else { return Ok(()) };
    let there = || {
        let data = std::fs::read(raw.join(name)).ok()?;
        content::verify(&data).ok().filter(|headers| content::newest(headers) >= generation)
    };
    while there().is_none() {
        if Instant::now() >= task.at_last {
            return Err(std::io::Error::other(format!(
                "{name}: generation {generation} was closed and never committed"
            )));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    Ok(())
}

/// One version of one name, in pieces.
fn write(task: &Task, name: &str, way: &str, (generation, cut): (u64, bool), dice: &mut Dice) -> Result<()> {
    let (dir, outages) = (&task.dir, task.outages.is_some());
    let path = dir.join(name);
    let records = 1 + dice.roll(6);
    let len = dice.roll(20_000);
    let piece = |index| content::record(Header { name: name_number(name), generation, index, of: records, len });
    match way {
        "append" => {
            // Starts again now and then, so that it does not grow for ever.
            let again = cut || generation % 40 == 1;
            let mut options = OpenOptions::new();
            options.create(true).append(!again).write(true).truncate(again);
            let mut file = options.open(path)?;
            for index in 0..records {
                file.write_all(&piece(index))?;
            }
            close(file)
        }
        "patch" => {
            // The length never changes; every byte does, back to front.
            let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
            let whole = content::version(name, generation, 3, 9000);
            for (at, block) in whole.chunks(4000).enumerate().rev() {
                file.write_all_at(block, at as u64 * 4000)?;
            }
            file.seek(SeekFrom::Start(0))?;
            file.flush()?;
            close(file)
        }
        "shrink" => {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let whole = content::version(name, generation, records, len / 2);
            for block in whole.chunks(3000) {
                file.write_all(block)?;
            }
            file.set_len(whole.len() as u64)?;
            close(file)
        }
        "rename" => {
            let aside = dir.join(format!("{name}.tmp"));
            let mut file = File::create(&aside)?;
            for index in 0..records {
                file.write_all(&piece(index))?;
            }
            close(file)?;
            std::fs::rename(aside, path)?;
            // Nothing else makes a rename last, should there be a power cut.
            if outages { File::open(dir)?.sync_all() } else { Ok(()) }
        }
        "links" => {
            let second = dir.join(link_name(name));
            if dice.roll(2) == 0 {
                link(&path, &second)?;
            }
            if dice.roll(2) == 0 {
                unlink(&second)?;
            }
            write(task, name, "rewrite", (generation, cut), dice)
        }
        // As shells do: the descriptor is duplicated and closed twice.
        "twice" => {
            let file = File::create(path)?;
            let mut twin = file.try_clone()?;
            close(file)?;
            for index in 0..records {
                twin.write_all(&piece(index))?;
            }
            close(twin)
        }
        _ => {
            let mut file = File::create(path)?;
            for index in 0..records {
                file.write_all(&piece(index))?;
                if dice.roll(10) == 0 {
                    file.sync_all()?;
                }
            }
            close(file)
        }
    }
}

/// Gives a file a second name, if it has its first one yet.
fn link(path: &Path, second: &Path) -> Result<()> {
    unlink(second)?;
    match std::fs::hard_link(path, second) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Takes a name away, if it is there.
fn unlink(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A name that never was; old ones are removed from the other end.
fn new_file(task: &Task, mine: &Promises, dice: &mut Dice) -> Result<()> {
    let n = mine.created.load(Ordering::SeqCst);
    write(task, &new_name(task.number, n), "rewrite", (1, false), dice)?;
    committed(task, &new_name(task.number, n), 1)?;
    mine.created.store(n + 1, Ordering::SeqCst);
    let oldest = mine.unlinking.load(Ordering::SeqCst);
    if n - oldest > 30 {
        mine.unlinking.store(oldest + 1, Ordering::SeqCst);
        match std::fs::remove_file(task.dir.join(new_name(task.number, oldest))) {
            // The daemon was killed before it could say that it was done.
            Err(error) if task.outages.is_some() && error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Closes and hears what close says, which dropping a file does not.
fn close(file: File) -> Result<()> {
    let raw = file.as_raw_fd();
    let owned = file.into_raw_fd();
    debug_assert_eq!(raw, owned);
    crate::reader::close_raw(owned)
}
