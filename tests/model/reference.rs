//! The reference: names, versions, drafts with writers. What the contract leaves open is refused with [`Said::Open`], and
//! then the operation is not tried on the mount either.

use std::collections::{BTreeMap, BTreeSet};

use crate::ops::{How, Op, is_in_place, offset};

/// What an operation must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Done,
    Fails(&'static str),
    /// The contract does not say, or there is nothing to do it with.
    Open,
}

/// A descriptor for writing.
#[derive(Clone, Debug)]
pub struct Handle {
    pub p: usize,
    file: File,
    append: bool,
}

/// What a descriptor writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Draft(usize),
    /// A version that is written in place.
    InPlace(Id),
}

/// Which version.
pub type Id = usize;

#[derive(Clone, Debug)]
struct Draft {
    name: Option<usize>,
    /// What it was begun over.
    base: Option<Id>,
    content: Vec<u8>,
    changed: bool,
    killed: bool,
    /// Who ever wrote it: those that have closed are neither family nor surely outsiders.
    writers: Vec<usize>,
}

/// The whole state.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The version of each name; several names may have one.
    names: BTreeMap<usize, Id>,
    /// The content of every version that there ever was.
    versions: Vec<Vec<u8>>,
    /// Versions that were changed in place.
    changed: BTreeSet<Id>,
    drafts: Vec<Option<Draft>>,
    pub handles: Vec<Handle>,
    pub commits: u64,
}

impl Model {
    /// The k-th handle of a process, counted round.
    pub fn handle(&self, p: usize, k: usize) -> Option<usize> {
        let own: Vec<usize> = (0..self.handles.len()).filter(|h| self.handles[*h].p == p).collect();
        (!own.is_empty()).then(|| own[k % own.len()])
    }

    fn at(&self, name: usize) -> Option<usize> {
        self.drafts.iter().position(|d| d.as_ref().is_some_and(|d| d.name == Some(name)))
    }

    fn writes(&self, p: usize, draft: usize) -> bool {
        self.handles.iter().any(|h| h.p == p && h.file == File::Draft(draft))
    }

    /// The draft at a name, if the process is of its family; `Err` when the contract does not say.
    fn own(&self, p: usize, name: usize) -> Result<Option<usize>, ()> {
        match self.at(name) {
            Some(draft) if self.is_undone(draft, name) => Err(()),
            Some(draft) if self.writes(p, draft) => Ok(Some(draft)),
            Some(draft) if self.draft(draft).writers.contains(&p) => Err(()),
            _ => Ok(None),
        }
    }

    /// Nothing was written to the draft yet, and what it would have begun with is no longer what the name shows.
    fn is_undone(&self, draft: usize, name: usize) -> bool {
        let draft = self.draft(draft);
        !draft.changed && self.version(name) != Some(&draft.content)
    }

    /// The version that a process opens at the name for reading, which must not change any more unless it is written in
    /// place.
    pub fn reads_a_version(&self, p: usize, name: usize) -> Option<Id> {
        if self.own(p, name) == Ok(None) { self.names.get(&name).copied() } else { None }
    }

    /// Whether a version was changed in place.
    pub fn was_changed(&self, version: Id) -> bool {
        self.changed.contains(&version)
    }

    /// Whether what a name has was changed in place.
    pub fn is_changed(&self, name: usize) -> bool {
        self.names.get(&name).is_some_and(|version| self.was_changed(*version))
    }

    fn publish(&mut self, name: usize, content: Vec<u8>) -> Id {
        self.versions.push(content);
        self.names.insert(name, self.versions.len() - 1);
        self.versions.len() - 1
    }

    /// Whether a version may be changed in place: what a draft that was begun over it and not written yet goes on with is
    /// not said.
    fn may_change(&self, version: Id) -> bool {
        !self.drafts.iter().flatten().any(|draft| draft.base == Some(version))
    }

    fn draft(&self, draft: usize) -> &Draft {
        self.drafts[draft].as_ref().expect("a draft that is open")
    }

    fn draft_mut(&mut self, draft: usize) -> &mut Draft {
        self.drafts[draft].as_mut().expect("a draft that is open")
    }

    /// What a process must see at a name; `Err` when the contract does not say.
    pub fn sees(&self, p: usize, name: usize) -> Result<Option<&[u8]>, ()> {
        match self.own(p, name)? {
            Some(draft) => Ok(Some(&self.draft(draft).content)),
            None => Ok(self.version(name)),
        }
    }

    /// What the export must show.
    pub fn version(&self, name: usize) -> Option<&[u8]> {
        self.names.get(&name).map(|id| self.versions[*id].as_slice())
    }

    fn content_mut(&mut self, file: File) -> &mut Vec<u8> {
        match file {
            File::Draft(draft) => {
                self.draft_mut(draft).changed = true;
                &mut self.draft_mut(draft).content
            }
            File::InPlace(id) => {
                self.changed.insert(id);
                &mut self.versions[id]
            }
        }
    }

    /// The file of a process's descriptor, if what would be done with it is said.
    fn written(&self, p: usize, handle: usize) -> Option<(File, bool)> {
        let Handle { file, append, .. } = self.handles[self.handle(p, handle)?];
        match file {
            File::InPlace(id) if !self.may_change(id) => None,
            file => Some((file, append)),
        }
    }

    /// Whether an outsider's view of the name hides a draft.
    pub fn hides(&self, name: usize) -> bool {
        self.at(name).is_some()
    }

    /// Applies one operation.
    pub fn apply(&mut self, op: &Op) -> Said {
        match *op {
            Op::Open { p, name, how } => self.open(p, name, how),
            Op::Write { p, handle, at, data, len } => {
                let Some((file, append)) = self.written(p, handle) else { return Said::Open };
                let bytes = vec![data; usize::from(len)];
                let content = self.content_mut(file);
                let from = if append { content.len() } else { offset(at) };
                if content.len() < from + bytes.len() {
                    content.resize(from + bytes.len(), 0);
                }
                content[from..from + bytes.len()].copy_from_slice(&bytes);
                Said::Done
            }
            Op::Resize { p, handle, len } => {
                let Some((file, _)) = self.written(p, handle) else { return Said::Open };
                self.content_mut(file).resize(usize::from(len), 0);
                Said::Done
            }
            Op::Sync { p, handle } => self.handle(p, handle).map_or(Said::Open, |_| Said::Done),
            Op::Duplicate { p, handle } => {
                let Some(h) = self.handle(p, handle) else { return Said::Open };
                self.handles.push(self.handles[h].clone());
                Said::Done
            }
            Op::Close { p, handle } => {
                let Some(h) = self.handle(p, handle) else { return Said::Open };
                self.close(h);
                Said::Done
            }
            Op::Unlink { p, name } => self.unlink(p, name),
            Op::Rename { p, from, to } => self.rename(p, from, to),
            Op::Exchange { p, one, other } => self.exchange(p, one, other),
            Op::Link { p, from, to } => self.link(p, from, to),
            Op::Truncate { p, name, len } => self.truncate(p, name, len),
            Op::Hold { p, name } => match self.sees(p, name) {
                Ok(Some(_)) => Said::Done,
                Ok(None) => Said::Fails("ENOENT"),
                Err(()) => Said::Open,
            },
            Op::Exit { p } => {
                self.leave(p);
                Said::Done
            }
            Op::Kill { p } => {
                let own = self.handles.iter().filter(|h| h.p == p);
                let drafts: Vec<usize> = own
                    .filter_map(|h| match h.file {
                        File::Draft(draft) => Some(draft),
                        File::InPlace(_) => None,
                    })
                    .collect();
                let shared = drafts.iter().any(|d| self.draft(*d).writers.iter().any(|w| *w != p));
                if shared {
                    return Said::Open;
                }
                for draft in drafts {
                    self.draft_mut(draft).killed = true;
                }
                self.leave(p);
                Said::Done
            }
        }
    }

    fn truncate(&mut self, p: usize, name: usize, len: u16) -> Said {
        let len = usize::from(len);
        match (self.own(p, name), self.at(name)) {
            (Ok(Some(_)), _) if is_in_place(name) => Said::Open,
            (Ok(Some(draft)), _) => {
                self.content_mut(File::Draft(draft)).resize(len, 0);
                Said::Done
            }
            (Ok(None), None) => match self.names.get(&name).copied() {
                Some(id) if is_in_place(name) && !self.may_change(id) => Said::Open,
                Some(id) if is_in_place(name) => {
                    self.content_mut(File::InPlace(id)).resize(len, 0);
                    Said::Done
                }
                Some(id) => {
                    let mut content = self.versions[id].clone();
                    content.resize(len, 0);
                    self.publish(name, content);
                    Said::Done
                }
                None => Said::Fails("ENOENT"),
            },
            _ => Said::Open,
        }
    }

    fn open(&mut self, p: usize, name: usize, how: How) -> Said {
        let there = self.at(name);
        let undone = there.is_some_and(|draft| self.is_undone(draft, name));
        if undone || (!how.creates() && self.own(p, name).is_err()) {
            return Said::Open;
        }
        if is_in_place(name) {
            return self.open_in_place(p, name, how);
        }
        let exists = there.is_some() || self.names.contains_key(&name);
        if how == How::Exclusive && exists {
            return Said::Fails("EEXIST");
        }
        if !exists && !how.creates() {
            return Said::Fails("ENOENT");
        }
        if there.is_some() && !how.creates() && !self.names.contains_key(&name) && self.own(p, name) != Ok(there) {
            // An outsider sees no such file and did not ask for a new one.
            return Said::Fails("ENOENT");
        }
        let draft = there.unwrap_or_else(|| {
            let base = self.names.get(&name).copied();
            let content = self.version(name).unwrap_or_default().to_vec();
            let (changed, writers) = (base.is_none(), Vec::new());
            self.drafts.push(Some(Draft { name: Some(name), base, content, changed, killed: false, writers }));
            self.drafts.len() - 1
        });
        if !self.draft(draft).writers.contains(&p) {
            self.draft_mut(draft).writers.push(p);
        }
        if how.truncates() {
            self.content_mut(File::Draft(draft)).clear();
        }
        self.handles.push(Handle { p, file: File::Draft(draft), append: how.appends() });
        Said::Done
    }

    fn open_in_place(&mut self, p: usize, name: usize, how: How) -> Said {
        if self.at(name).is_some() {
            // A draft that was renamed to there.
            return Said::Open;
        }
        let there = self.names.get(&name).copied();
        match there {
            Some(_) if how == How::Exclusive => return Said::Fails("EEXIST"),
            Some(id) if how.truncates() && !self.may_change(id) => return Said::Open,
            None if !how.creates() => return Said::Fails("ENOENT"),
            _ => {}
        }
        let file = File::InPlace(there.unwrap_or_else(|| self.publish(name, Vec::new())));
        if how.truncates() {
            self.content_mut(file).clear();
        }
        self.handles.push(Handle { p, file, append: how.appends() });
        Said::Done
    }

    fn close(&mut self, h: usize) {
        let File::Draft(draft) = self.handles.remove(h).file else { return };
        if self.handles.iter().any(|other| other.file == File::Draft(draft)) {
            return;
        }
        let ended = self.drafts[draft].take().expect("a draft that was open");
        if let (Some(name), true, false) = (ended.name, ended.changed, ended.killed) {
            self.publish(name, ended.content);
            self.commits += 1;
        }
    }

    fn leave(&mut self, p: usize) {
        while let Some(h) = self.handle(p, 0) {
            self.close(h);
        }
    }

    fn unlink(&mut self, p: usize, name: usize) -> Said {
        match self.own(p, name) {
            Err(()) => Said::Open,
            Ok(Some(draft)) => {
                self.draft_mut(draft).name = None;
                self.names.remove(&name);
                Said::Done
            }
            Ok(None) if self.names.remove(&name).is_some() => Said::Done,
            Ok(None) => Said::Fails("ENOENT"),
        }
    }

    fn rename(&mut self, p: usize, from: usize, to: usize) -> Said {
        if from == to {
            return Said::Open;
        }
        let (Ok(own), Ok(replaced)) = (self.own(p, from), self.own(p, to)) else { return Said::Open };
        let Some(draft) = own else {
            let Some(&version) = self.names.get(&from) else { return Said::Fails("ENOENT") };
            if self.names.get(&to) == Some(&version) {
                // Two names of one inode: nothing happens. What a draft there goes on with is not said.
                return if replaced.is_some() { Said::Open } else { Said::Done };
            }
            if let Some(replaced) = replaced {
                self.draft_mut(replaced).name = None;
            }
            self.names.remove(&from);
            self.names.insert(to, version);
            return Said::Done;
        };
        if replaced.is_none() && self.at(to).is_some() {
            // Two families' drafts for one name: the last to commit wins, but who sees which is not said.
            return Said::Open;
        }
        if let Some(replaced) = replaced {
            if !self.names.contains_key(&from) {
                // The replaced name had a draft of this family, and perhaps a version; whether that stays until the
                // commit is not said.
                return Said::Open;
            }
            self.draft_mut(replaced).name = None;
        }
        if self.names.contains_key(&from) && self.names.get(&from) == self.names.get(&to) {
            return Said::Open;
        }
        if let Some(version) = self.names.remove(&from) {
            self.names.insert(to, version);
        }
        self.draft_mut(draft).name = Some(to);
        Said::Done
    }

    fn exchange(&mut self, _: usize, one: usize, other: usize) -> Said {
        if one == other || self.at(one).is_some() || self.at(other).is_some() {
            return Said::Open;
        }
        match (self.names.get(&one).copied(), self.names.get(&other).copied()) {
            (Some(first), Some(second)) => {
                self.names.insert(one, second);
                self.names.insert(other, first);
                Said::Done
            }
            _ => Said::Fails("ENOENT"),
        }
    }

    fn link(&mut self, p: usize, from: usize, to: usize) -> Said {
        let (Ok(own), Ok(seen)) = (self.own(p, from), self.own(p, to).map(|draft| draft.is_some())) else {
            return Said::Open;
        };
        let Ok(Some(_)) = self.sees(p, from) else { return Said::Fails("ENOENT") };
        let busy = own.is_some_and(|draft| self.draft(draft).changed);
        if self.names.contains_key(&to) || seen {
            return Said::Fails("EEXIST");
        }
        if self.at(to).is_some_and(|draft| self.draft(draft).changed) {
            return if busy { Said::Open } else { Said::Fails("EEXIST") };
        }
        if busy {
            return Said::Fails("EBUSY");
        }
        match self.names.get(&from).copied() {
            Some(version) if self.at(to).is_none() => {
                self.names.insert(to, version);
                Said::Done
            }
            _ => Said::Open,
        }
    }
}
