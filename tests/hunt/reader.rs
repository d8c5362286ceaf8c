//! A reader of the hunt: opens, lists, stats, reads and maps, and believes nothing.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ledger::{Ledger, NAMES, mapped};
use crate::writer::{WAYS, link_name, name, new_name};
use crate::{Dice, Task, content};

/// close(2), with its error.
pub fn close_raw(fd: i32) -> Result<()> {
    // SAFETY: the caller gave the descriptor away.
    if unsafe { libc::close(fd) } == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

struct Reader<'a> {
    task: &'a Task,
    ledger: &'static Ledger,
    said: u32,
}

/// Reads until the time is over.
pub fn run(task: &Task) -> ExitCode {
    let ledger = Ledger::open(&task.ledger).expect("the ledger");
    let mut reader = Reader { task, ledger, said: 0 };
    let mut dice = Dice::new(!task.seed ^ (task.number << 40));
    while !task.is_over(ledger) {
        let writer = dice.roll(task.writers);
        match dice.roll(8) {
            0 => reader.listing(),
            1 => reader.new_names(writer),
            way => reader.known(writer, dice.roll(NAMES as u64) as usize, way),
        }
    }
    ExitCode::SUCCESS
}

/// As [`run`], on a host without commitfs, where names and versions may be late: nothing is expected to be there.
pub fn run_plain(task: &Task) -> ExitCode {
    let ledger = Ledger::open(&task.ledger).expect("the ledger");
    let mut reader = Reader { task, ledger, said: 0 };
    let mut dice = Dice::new(!task.seed ^ (task.number << 50));
    while !task.is_over(ledger) {
        let writer = dice.roll(task.writers);
        let created = ledger.promises[writer as usize].created.load(Ordering::SeqCst);
        let name = match dice.roll(NAMES as u64 + 1) as usize {
            NAMES => new_name(writer, created.saturating_sub(dice.roll(3))),
            slot => name(writer, slot),
        };
        let found = read(&task.dir.join(&name), dice.roll(8));
        ledger.plain.fetch_add(1, Ordering::SeqCst);
        // What was removed on the server while this client had it open.
        if !found.as_ref().is_err_and(|error| error.kind() == ErrorKind::StaleNetworkFileHandle) {
            reader.judge(&name, 0, found);
        }
    }
    ExitCode::SUCCESS
}

impl Reader<'_> {
    fn report(&mut self, counter: &AtomicU64, what: &str) {
        counter.fetch_add(1, Ordering::SeqCst);
        self.said += 1;
        if self.said <= 3 {
            eprintln!("reader {} (seed {}): {what}", self.task.number, self.task.seed);
        }
    }

    /// A name that is rewritten all the time: whole, and not older than what had been closed before.
    fn known(&mut self, writer: u64, slot: usize, way: u64) {
        let closed = self.ledger.promises[writer as usize].closed[slot].load(Ordering::SeqCst);
        let name = name(writer, slot);
        let path = self.task.dir.join(&name);
        // A mapping of a daemon that is killed is a SIGBUS.
        let way = if self.task.outages.is_some() && way == 4 { 0 } else { way };
        let Some(found) = self.task.in_one_life(|| read(&path, way)) else { return };
        self.ledger.reads.fetch_add(1, Ordering::SeqCst);
        self.judge(&name, closed, found);
        if WAYS[slot] == "links" {
            let path = self.task.dir.join(link_name(&name));
            let Some(found) = self.task.in_one_life(|| read(&path, way)) else { return };
            self.judge(&name, 0, found);
        }
    }

    /// Names that were made once and must be there from then on.
    fn new_names(&mut self, writer: u64) {
        let promises = &self.ledger.promises[writer as usize];
        let created = promises.created.load(Ordering::SeqCst);
        // The next one may appear at any moment, but only whole.
        for n in created.saturating_sub(2)..created + 1 {
            let name = new_name(writer, n);
            let path = self.task.dir.join(&name);
            let way = if self.task.outages.is_some() && n % 8 == 4 { 0 } else { n % 8 };
            let Some(found) = self.task.in_one_life(|| read(&path, way)) else { return };
            self.ledger.reads.fetch_add(1, Ordering::SeqCst);
            let gone = promises.unlinking.load(Ordering::SeqCst) > n;
            self.judge(&name, u64::from(n < created && !gone), found);
        }
    }

    fn judge(&mut self, name: &str, promised: u64, found: Result<Vec<u8>>) {
        match found {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if promised > 0 {
                    self.report(&self.ledger.lost, &format!("{name}: lost, generation {promised} had been closed"));
                }
            }
            Err(error) => self.report(&self.ledger.torn, &format!("{name}: {error}")),
            Ok(data) => match content::verify(&data) {
                Err(why) => self.report(&self.ledger.torn, &format!("{name}: torn: {why}")),
                Ok(headers) if headers[0].name != content::name_number(name) && !name.ends_with(".tmp") => {
                    // A renamed file keeps the name it was made for; only "rename" does that.
                    self.report(&self.ledger.torn, &format!("{name}: another name's content"));
                }
                Ok(headers) => {
                    let newest = content::newest(&headers);
                    if newest < promised {
                        let text = format!("{name}: generation {newest}, {promised} had been closed");
                        self.report(&self.ledger.stale, &text);
                    }
                }
            },
        }
    }

    /// Names that exist for the whole of a listing must be in it, and none twice.
    fn listing(&mut self) {
        let before: Vec<u64> = self.ledger.promises.iter().map(|p| p.created.load(Ordering::SeqCst)).collect();
        let dir = &self.task.dir;
        let list = || std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<OsString>>>();
        let entries = match self.task.in_one_life(list) {
            Some(Ok(entries)) => entries,
            Some(Err(error)) => return self.report(&self.ledger.lost, &format!("listing: {error}")),
            None => return,
        };
        self.ledger.listings.fetch_add(1, Ordering::SeqCst);
        let names: BTreeSet<&OsString> = entries.iter().collect();
        if names.len() != entries.len() {
            self.report(&self.ledger.lost, "a name was listed twice");
        }
        for (writer, created) in (0_u64..).zip(before) {
            let promises = &self.ledger.promises[writer as usize];
            for n in promises.unlinking.load(Ordering::SeqCst)..created {
                let name = new_name(writer, n);
                if !names.contains(&OsString::from(&name)) {
                    self.report(&self.ledger.lost, &format!("{name}: not listed"));
                }
            }
        }
    }
}

/// Reads a whole file in one of several ways, in small pieces, slowly enough to be overtaken.
fn read(path: &Path, way: u64) -> Result<Vec<u8>> {
    match way {
        // By size: what stat says must be there.
        2 | 3 => {
            let mut file = File::open(path)?;
            let size = file.metadata()?.len() as usize;
            let mut data = vec![0; size];
            let mut at = 0;
            while at < size {
                let end = (at + 1500).min(size);
                match file.read(&mut data[at..end])? {
                    0 => break,
                    n => at += n,
                }
            }
            data.truncate(at);
            if at < size {
                return Err(Error::other(format!("size {size}, but only {at} bytes")));
            }
            if file.read(&mut [0])? != 0 {
                return Err(Error::other(format!("more bytes than its size of {size}")));
            }
            Ok(data)
        }
        4 => {
            let file = File::open(path)?;
            let size = file.metadata()?.len() as usize;
            mapped(&file, size)
        }
        // Twice through one descriptor: the same bytes.
        5 => {
            let mut file = File::open(path)?;
            let (mut first, mut second) = (Vec::new(), Vec::new());
            file.read_to_end(&mut first)?;
            std::thread::yield_now();
            std::io::Seek::rewind(&mut file)?;
            file.read_to_end(&mut second)?;
            if first == second { Ok(first) } else { Err(Error::other("two reads of one descriptor differ")) }
        }
        _ => std::fs::read(path),
    }
}
