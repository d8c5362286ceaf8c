//! Runs a sequence on the mount and on the model, and compares everything after each step.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::common::wait::{LIMIT, poll};
use crate::common::{Agent, Mount};
use crate::ops::{NAMES, Op, PROCESSES, offset};
use crate::reference::{Handle, Id, Model, Said};

/// What a run has exercised.
#[derive(Debug, Default)]
pub struct Done {
    pub steps: u64,
    pub commits: u64,
    /// Looks at a name whose draft the looker must not see.
    pub hidden: u64,
}

struct World<'a> {
    m: &'a Mount,
    folder: String,
    model: Model,
    agents: Vec<Agent>,
    /// Descriptors, in the order of the model's handles.
    fds: Vec<i32>,
    /// Versions that somebody reads: process, descriptor, content.
    held: Vec<(usize, i32, Id, Vec<u8>)>,
}

/// One sequence in a folder of its own.
pub fn run(m: &Mount, folder: &str, ops: &[Op], done: &mut Done) -> Result<(), String> {
    let r = m.agent("R");
    r.mkdir(folder).unwrap();
    r.mkdir(&format!("{folder}/d")).unwrap();
    let agents = (0..PROCESSES).map(|p| start(m, folder, p)).collect();
    let mut world =
        World { m, folder: folder.to_owned(), model: Model::default(), agents, fds: Vec::new(), held: Vec::new() };
    for (n, op) in ops.iter().enumerate() {
        world.step(op).and_then(|strict| world.compare(strict, done)).map_err(|e| format!("step {n}, {op:?}: {e}"))?;
        done.steps += 1;
    }
    for p in 0..PROCESSES {
        world.step(&Op::Exit { p }).and_then(|_| world.compare(false, done)).map_err(|e| format!("at the end: {e}"))?;
    }
    // The journal does not tell of what was written in place.
    for name in (0..NAMES.len()).filter(|name| world.model.is_changed(*name)) {
        r.unlink(&format!("{folder}/{}", NAMES[name])).unwrap();
    }
    done.commits += world.model.commits;
    Ok(())
}

fn start(m: &Mount, folder: &str, p: usize) -> Agent {
    let agent = m.agent(&format!("P{p}"));
    agent.call(&["chdir", folder]).unwrap();
    agent
}

impl World<'_> {
    /// Does one operation on both sides. True if the next look must be right at once: a process that ends has called
    /// no close that could have returned, and after a rename over a draft's name its family waits for the kernel's
    /// notice.
    fn step(&mut self, op: &Op) -> Result<bool, String> {
        let before: Vec<Handle> = self.model.handles.clone();
        let chosen = |p: usize, k: usize| self.model.handle(p, k).map(|h| (h, self.fds[h]));
        let fd_of = match *op {
            Op::Write { p, handle, .. }
            | Op::Resize { p, handle, .. }
            | Op::Sync { p, handle }
            | Op::Duplicate { p, handle }
            | Op::Close { p, handle } => chosen(p, handle),
            _ => None,
        };
        let seen = match *op {
            Op::Hold { p, name } => self.model.sees(p, name).ok().flatten().map(<[u8]>::to_vec),
            _ => None,
        };
        let over_a_draft = matches!(*op, Op::Rename { to, .. } if self.model.hides(to));
        let keeps = match *op {
            Op::Hold { p, name } => self.model.reads_a_version(p, name),
            _ => None,
        };
        let expected = self.model.apply(op);
        if expected == Said::Open {
            return Ok(true);
        }
        let (fd_index, fd) = fd_of.unwrap_or((0, -1));
        let found = match *op {
            Op::Open { p, name, how } => {
                let opened = self.agents[p].open(NAMES[name], how.flags());
                if let Ok(fd) = opened {
                    self.fds.push(fd);
                }
                opened.map(drop)
            }
            Op::Write { p, at, data, len, .. } => {
                let bytes = vec![data; usize::from(len)];
                self.agents[p].pwrite(fd, offset(at) as u64, &bytes).map(drop)
            }
            Op::Resize { p, len, .. } => self.agents[p].ftruncate(fd, u64::from(len)),
            Op::Sync { p, .. } => self.agents[p].fsync(fd),
            Op::Duplicate { p, .. } => {
                let twin = self.agents[p].dup(fd);
                if let Ok(fd) = twin {
                    self.fds.push(fd);
                }
                twin.map(drop)
            }
            Op::Close { p, .. } => {
                self.fds.remove(fd_index);
                self.agents[p].close(fd)
            }
            Op::Unlink { p, name } => self.agents[p].unlink(NAMES[name]),
            Op::Rename { p, from, to } => self.agents[p].rename(NAMES[from], NAMES[to]),
            Op::Exchange { p, one, other } => self.agents[p].rename_with(NAMES[one], NAMES[other], "exchange"),
            Op::Link { p, from, to } => self.agents[p].link(NAMES[from], NAMES[to]),
            Op::Truncate { p, name, len } => self.agents[p].truncate(NAMES[name], u64::from(len)),
            Op::Hold { p, name } => {
                let opened = self.agents[p].open(NAMES[name], "r");
                match (&opened, seen, keeps) {
                    // A draft goes on changing under its family's descriptors; a version does not.
                    (Ok(fd), Some(content), Some(version)) => self.held.push((p, *fd, version, content)),
                    (Ok(fd), ..) => self.agents[p].close(*fd).unwrap(),
                    _ => {}
                }
                opened.map(drop)
            }
            Op::Exit { p } | Op::Kill { p } => {
                match op {
                    Op::Kill { .. } => self.agents[p].kill(Signal::KILL),
                    _ => self.agents[p].exit(0),
                }
                self.agents[p] = start(self.m, &self.folder, p);
                let mut kept = before.iter().map(|handle| handle.p != p);
                self.fds.retain(|_| kept.next().unwrap_or(true));
                self.held.retain(|(holder, ..)| *holder != p);
                Ok(())
            }
        };
        let agree = match (&expected, &found) {
            (Said::Done, Ok(())) => true,
            (Said::Fails(name), Err(errno)) => errno == name,
            _ => false,
        };
        if !agree {
            return Err(format!("expected {expected:?}, found {found:?}"));
        }
        Ok(!over_a_draft && !matches!(op, Op::Exit { .. } | Op::Kill { .. }))
    }

    /// Everybody's view of every name, the export's, and what readers hold.
    fn compare(&self, strict: bool, done: &mut Done) -> Result<(), String> {
        let mut last = String::new();
        let limit = if strict { std::time::Duration::ZERO } else { LIMIT };
        poll(limit, || self.views(done).map_err(|why| last = why).ok()).ok_or_else(|| last.clone())?;
        // The export may be a moment behind what lookups on the mount wait for.
        poll(LIMIT, || self.export().map_err(|why| last = why).ok()).ok_or_else(|| last.clone())?;
        for (p, fd, _, content) in self.held.iter().filter(|(_, _, version, _)| !self.model.was_changed(*version)) {
            let found = self.agents[*p].pread(*fd, 0, 1 << 20).unwrap();
            if found != *content {
                return Err(format!(
                    "process {p} holds a version that changed: {}",
                    difference(Some(content), Some(&found))
                ));
            }
        }
        Ok(())
    }

    fn views(&self, done: &mut Done) -> Result<(), String> {
        for (p, agent) in self.agents.iter().enumerate() {
            let mut listed: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
            for (name, path) in NAMES.iter().enumerate() {
                let Ok(expected) = self.model.sees(p, name) else { continue };
                let found = agent.cat(path).ok();
                if found.as_deref() != expected {
                    return Err(format!("process {p} sees {path}: {}", difference(expected, found.as_deref())));
                }
                let size = agent.stat(path).ok().map(|s| s.size);
                if size != expected.map(|e| e.len() as u64) {
                    return Err(format!(
                        "process {p}: size of {path} is {size:?}, not {:?}",
                        expected.map(<[u8]>::len)
                    ));
                }
                let (folder, last) = path.rsplit_once('/').unwrap_or((".", path));
                let names = listed.entry(folder).or_insert_with(|| agent.list(folder).unwrap());
                if names.iter().any(|n| n == last.as_bytes()) != expected.is_some() {
                    return Err(format!("process {p}: {path} is listed wrongly: {names:?}"));
                }
                done.hidden += u64::from(self.model.hides(name) && expected == self.model.version(name));
            }
        }
        Ok(())
    }

    fn export(&self) -> Result<(), String> {
        for (name, path) in NAMES.iter().enumerate() {
            let found = self.m.raw_content(&format!("{}/{path}", self.folder));
            let expected = self.model.version(name);
            if found.as_deref() != expected {
                return Err(format!("the export has {path}: {}", difference(expected, found.as_deref())));
            }
        }
        Ok(())
    }
}

fn difference(expected: Option<&[u8]>, found: Option<&[u8]>) -> String {
    match (expected, found) {
        (Some(e), Some(f)) => {
            let at = e.iter().zip(f).take_while(|(a, b)| a == b).count();
            format!("{} bytes instead of {}, different from byte {at} on", f.len(), e.len())
        }
        (Some(e), None) => format!("nothing instead of {} bytes", e.len()),
        (None, Some(f)) => format!("{} bytes instead of nothing", f.len()),
        (None, None) => "no difference".to_owned(),
    }
}
