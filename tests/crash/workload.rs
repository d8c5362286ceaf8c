//! Applications that write self-verifying content in every ordinary way, and remember what close told them.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::common::agent::socket_name;
use crate::common::checker::Promise;
use crate::common::content::{Header, name_number, record, verify, version};
use crate::common::wait::{LIMIT, poll};
use crate::common::{Agent, Mount, Outcome};

/// Names that are rewritten again and again.
const NAMES: [&str; 5] = ["rewritten", "appended", "patched", "renamed", "shared"];

/// Two applications at work.
pub struct Workload {
    w: Agent,
    v: Agent,
    /// A socket from one to the other.
    socket: (i32, i32),
    dice: u64,
    steps: u64,
    died: bool,
}

/// A write that was begun and not finished.
pub struct Open {
    name: String,
    generation: u64,
    fd: i32,
    rest: Vec<u8>,
}

impl Workload {
    pub fn new(m: &Mount, seed: u64) -> Workload {
        let (w, v) = (m.agent("W"), m.agent("V"));
        let name = socket_name();
        let listener = w.listen(&name).unwrap();
        let theirs = v.connect(&name).unwrap();
        let socket = (w.accept(listener).unwrap(), theirs);
        Workload { w, v, socket, dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, steps: 0, died: false }
    }
    /// Whether the daemon was seen to be gone.
    pub fn died(&self) -> bool {
        self.died
    }

    fn roll(&mut self, n: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % n
    }

    /// One more write of one kind; false when the daemon is gone.
    pub fn step(&mut self, m: &Mount, promises: &mut BTreeMap<String, Promise>) -> bool {
        let kind = self.steps % 10;
        self.steps += 1;
        let chosen = NAMES[self.roll(NAMES.len() as u64) as usize];
        let done = match kind {
            0 => self.new_file(promises),
            1 | 2 => self.by_name(chosen, promises, false),
            3 => self.by_name("appended", promises, false),
            4 => self.by_name("patched", promises, false),
            5 => self.by_name(chosen, promises, true),
            6 => self.killed(m, promises),
            7 => self.unlinked(promises),
            8 => self.passed(promises),
            _ => self.by_name("renamed", promises, true),
        };
        // Any error will do: which one depends on where the request was when the daemon died.
        self.died = done.is_err();
        !self.died
    }

    fn new_file(&mut self, promises: &mut BTreeMap<String, Promise>) -> Outcome<()> {
        let name = format!("new{}", self.steps);
        self.by_name(&name, promises, false)
    }

    /// Writes the next generation of a name. `late` closes by way of a duplicate, so that the commit comes at release.
    fn by_name(&mut self, name: &str, promises: &mut BTreeMap<String, Promise>, late: bool) -> Outcome<()> {
        let promise = promises.entry(name.to_owned()).or_default();
        promise.tried += 1;
        let generation = promise.tried;
        let (records, len) = (1 + self.roll(4), self.roll(9000));
        let piece = |index| record(Header { name: name_number(name), generation, index, of: records, len });
        let path = if name == "renamed" { "renamed.tmp" } else { name };
        if path != name {
            // It may be found under its temporary name, if the daemon dies before it has moved.
            promises.insert(path.to_owned(), Promise { closed: 0, tried: generation });
        }
        let w = if name == "shared" { &self.v } else { &self.w };
        // An append must continue what is there.
        let base = w.cat(name).ok().and_then(|d| verify(&d).ok()).and_then(|h| h.last().map(|h| h.generation));
        let how = match name {
            "appended" if base == Some(generation - 1) => "w|creat|append",
            "patched" => "rw|creat",
            _ => "w|creat|trunc",
        };
        let fd = w.open(path, how)?;
        if name == "patched" {
            let whole = version(name, generation, 2, 5000);
            for (at, block) in whole.chunks(4000).enumerate().rev() {
                w.pwrite(fd, at as u64 * 4000, block)?;
            }
        } else {
            for index in 0..records {
                w.write(fd, &piece(index))?;
            }
        }
        if late {
            let twin = w.dup(fd)?;
            w.close(fd)?;
            w.close(twin)?;
        } else {
            w.close(fd)?;
        }
        if path != name {
            w.rename(path, name)?;
        }
        promises.get_mut(name).unwrap().closed = generation;
        Ok(())
    }

    /// Written again through a descriptor that was passed to somebody who was there before it was opened. Its opener's
    /// close looks like the last one and publishes; for the other's there is no proof: the daemon promises it, and
    /// commits at the release.
    fn passed(&mut self, promises: &mut BTreeMap<String, Promise>) -> Outcome<()> {
        let promise = promises.entry("passed".to_owned()).or_default();
        promise.tried += 2;
        let (first, second) = (promise.tried - 1, promise.tried);
        let fd = self.w.open("passed", "w|creat|trunc")?;
        self.w.write(fd, &version("passed", first, 2, 3000))?;
        self.w.send_fd(self.socket.0, fd)?;
        let received = self.v.receive_fd(self.socket.1)?;
        self.w.close(fd)?;
        promises.get_mut("passed").unwrap().closed = first;
        self.v.pwrite(received, 0, &version("passed", second, 2, 3000))?;
        self.v.close(received)?;
        promises.get_mut("passed").unwrap().closed = second;
        Ok(())
    }

    /// A writer that is killed: nothing of it may be published.
    fn killed(&mut self, m: &Mount, promises: &mut BTreeMap<String, Promise>) -> Outcome<()> {
        let name = format!("killed{}", self.steps);
        promises.insert(name.clone(), Promise::default());
        let victim = m.agent("K");
        let fd = victim.open(&name, "w|creat")?;
        victim.write(fd, "half")?;
        // Its row is in the journal, so that a crash from now on leaves something to resolve.
        poll(LIMIT, || m.pending().iter().any(|row| row.path == name).then_some(()));
        victim.kill(Signal::KILL);
        self.w.stat(".").map(drop)
    }

    /// A file that is unlinked before it is closed.
    fn unlinked(&mut self, promises: &mut BTreeMap<String, Promise>) -> Outcome<()> {
        let name = format!("unlinked{}", self.steps);
        promises.insert(name.clone(), Promise::default());
        let fd = self.w.open(&name, "w|creat")?;
        self.w.write(fd, "half")?;
        self.w.unlink(&name)?;
        self.w.close(fd)
    }

    /// A whole new version of a name, which must work.
    pub fn rewrite(&mut self, name: &str, promises: &mut BTreeMap<String, Promise>) {
        let promise = promises.get_mut(name).unwrap();
        promise.tried += 1;
        let whole = version(name.trim_end_matches(".tmp"), promise.tried, 1, 50);
        self.w.put(name, &whole).unwrap_or_else(|e| panic!("{name} after recovery: {e:?}"));
        promise.closed = promise.tried;
    }

    /// Begins versions of several names and writes half of each; the commands for the other half are on their way.
    pub fn begin_several(&mut self, promises: &mut BTreeMap<String, Promise>) -> Vec<Open> {
        let mut open = Vec::new();
        for name in ["rewritten", "patched", "fresh"] {
            let promise = promises.entry(name.to_owned()).or_default();
            promise.tried += 1;
            let whole = version(name, promise.tried, 3, 30_000);
            let (half, rest) = whole.split_at(whole.len() / 2);
            let fd = self.w.open(name, "w|creat|trunc").unwrap();
            self.w.write(fd, half).unwrap();
            open.push(Open { name: name.to_owned(), generation: promise.tried, fd, rest: rest.to_vec() });
        }
        // The daemon is killed while this one is at work.
        let first = &open[0];
        self.w.send(&[&b"write"[..], first.fd.to_string().as_bytes(), &first.rest]);
        self.w.send(&[&b"close"[..], first.fd.to_string().as_bytes()]);
        open
    }

    /// Hears what became of them.
    pub fn end_several(&mut self, open: Vec<Open>, promises: &mut BTreeMap<String, Promise>) {
        let written = self.w.answer();
        let closed = self.w.answer();
        if written.is_ok() && closed.is_ok() {
            promises.get_mut(&open[0].name).unwrap().closed = open[0].generation;
        }
        for late in &open[1..] {
            assert!(self.w.close(late.fd).is_err(), "a dead daemon cannot promise {}", late.name);
        }
    }
}
