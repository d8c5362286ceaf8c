//! One run of a scenario: an application that remembers what it was told, and when.

use std::collections::BTreeMap;

use crate::common::checker::Promise;
use crate::common::content::version;
use crate::common::{Agent, Errno, Mount, Outcome};
use crate::faultfs::FaultFs;

/// How a version is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// O_CREAT|O_TRUNC.
    Whole,
    /// O_APPEND: the old content stays.
    Append,
    /// Every byte of the old one written over, last block first.
    Patch,
    /// Through a duplicate that is closed last, by somebody else than the opener: the commit comes at release.
    Late,
}

/// An application at work in a folder of its own.
pub struct Run<'a> {
    pub m: &'a Mount,
    pub fs: &'a FaultFs,
    pub w: Agent,
    /// Names begin with it.
    pub folder: String,
    /// What is known of each name: must hold now.
    pub known: BTreeMap<String, Promise>,
    /// What was known of a name after so many changes of the disk: must hold after a power cut too.
    pub told: Vec<(u64, String, Promise)>,
    /// After so many changes, this generation was written under the name, or aside of it to be renamed.
    pub somewhere: Vec<(u64, String, u64)>,
    /// Calls that failed.
    pub failed: Vec<(String, Errno)>,
    /// What must never happen.
    pub wrong: Vec<String>,
}

impl<'a> Run<'a> {
    pub fn new(m: &'a Mount, fs: &'a FaultFs, folder: &str) -> Run<'a> {
        let run = Run {
            m,
            fs,
            w: m.agent("W"),
            folder: folder.to_owned(),
            known: BTreeMap::new(),
            told: Vec::new(),
            somewhere: Vec::new(),
            failed: Vec::new(),
            wrong: Vec::new(),
        };
        run.w.mkdir(&run.folder).unwrap();
        run
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    fn note<T>(&mut self, what: String, outcome: Outcome<T>) -> Option<T> {
        outcome.map_err(|errno| self.failed.push((what, errno))).ok()
    }

    pub fn tell(&mut self, path: &str) {
        let promise = self.known[path].clone();
        self.told.push((self.fs.changes(), path.to_owned(), promise));
    }

    fn promise(&mut self, path: &str) -> &mut Promise {
        self.known.entry(path.to_owned()).or_default()
    }

    /// Writes the next version of a name; true if everything said that it worked.
    pub fn write(&mut self, name: &str, how: How) -> bool {
        let path = self.path(name);
        let promise = self.promise(&path);
        promise.tried += 1;
        let generation = promise.tried;
        self.tell(&path);
        // What is renamed later has the content of its final name.
        let content = version(path.trim_end_matches(".tmp"), generation, 3, 3000);
        let flags = match how {
            How::Whole | How::Late => "w|creat|trunc",
            How::Append => "w|creat|append",
            How::Patch => "rw|creat",
        };
        let Some(fd) = self.note(format!("open {path}"), self.w.open(&path, flags)) else { return false };
        let before = self.failed.len();
        if how == How::Patch {
            for (at, block) in content.chunks(4096).enumerate().rev() {
                self.note(format!("write {path}"), self.w.pwrite(fd, at as u64 * 4096, block));
            }
        } else {
            for block in content.chunks(4096) {
                self.note(format!("write {path}"), self.w.write(fd, block));
            }
        }
        let lost = self.failed.len() > before;
        let closed = if how == How::Late {
            let other = self.w.fork("C");
            let first = self.note(format!("close {path}"), self.w.close(fd));
            let second = self.note(format!("last close of {path}"), other.close(fd));
            first.and(second).is_some()
        } else {
            self.note(format!("close {path}"), self.w.close(fd)).is_some()
        };
        if lost && closed {
            self.wrong.push(format!("{path}: a write had failed, and close says nothing"));
        }
        if closed && !lost {
            self.promise(&path).closed = generation;
            self.tell(&path);
            let name = path.trim_end_matches(".tmp").to_owned();
            self.somewhere.push((self.fs.changes(), name, generation));
        }
        closed && !lost
    }

    /// Nothing is promised of a name while it is taken away, and after.
    pub fn unpromise(&mut self, path: &str) -> Promise {
        let before = self.promise(path).clone();
        let name = path.trim_end_matches(".tmp");
        if name == path {
            self.somewhere.retain(|(_, promised, _)| promised != name);
        }
        self.promise(path).closed = 0;
        self.tell(path);
        before
    }

    pub fn unlink(&mut self, name: &str) {
        let path = self.path(name);
        let before = self.unpromise(&path);
        match self.note(format!("unlink {path}"), self.w.unlink(&path)) {
            // It is gone, until it is written again. A cut may bring it back.
            Some(()) => *self.promise(&path) = Promise::default(),
            None => *self.promise(&path) = Promise { closed: 0, ..before },
        }
    }

    /// Moves what was written to `NAME.tmp` over NAME.
    pub fn rename_tmp(&mut self, name: &str) {
        let (old, new) = (self.path(&format!("{name}.tmp")), self.path(name));
        let moved = self.unpromise(&old);
        let there = self.promise(&new).clone();
        // The old version, or the new one.
        self.promise(&new).tried = moved.tried.max(there.tried);
        self.tell(&new);
        if self.note(format!("rename {old}"), self.w.rename(&old, &new)).is_some() {
            *self.promise(&old) = Promise::default();
            self.promise(&new).closed = moved.closed;
        }
    }

    pub fn mkdir(&mut self, name: &str) -> bool {
        let path = self.path(name);
        self.note(format!("mkdir {path}"), self.w.mkdir(&path)).is_some()
    }

    /// Another call; true if it worked.
    pub fn call(&mut self, what: &str, call: impl FnOnce(&Agent) -> Outcome<()>) -> bool {
        let outcome = call(&self.w);
        self.note(what.to_owned(), outcome).is_some()
    }

    /// A command of commitfs; true if it worked.
    pub fn command(&mut self, args: &[&str]) -> bool {
        let out = self.m.cli(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if !out.status.success() {
            self.failed.push((format!("commitfs {args:?}: {said}"), Errno(said)));
        }
        out.status.success()
    }
}
