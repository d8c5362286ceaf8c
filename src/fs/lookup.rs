//! Looking names up: which of the two nodes of a path the caller gets, and for how long the kernel may remember it.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::wait::{Until, deserted_limit};
use super::{Done, Fs};
use crate::draft::{Caller, Draft, NewDraft, Wants};
use crate::inode::{Content, Key, Node};
use crate::sys::procfs::{self, MountId};
use crate::sys::{Errno, Kind, Result, Stat, process, stat};
use crate::{commit, draft};

/// A name's node, as the kernel is told. Each one counts as a look-up until the kernel forgets it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Node id.
    pub node: u64,
    /// Attributes.
    pub stat: Stat,
    /// How long the name may be remembered.
    pub entry_ttl: Duration,
    /// How long the attributes may be remembered. Zero where the next `getattr` corrects them: `st_ino` that is not the node
    /// id, because the protocol library sends one number for both, and the size of what is written in place.
    pub attr_ttl: Duration,
}

/// An answer, or what to wait for before there is one.
pub(super) enum Seen {
    Entry(Entry),
    Wait(Until),
}

impl Fs {
    /// Looks `name` up in `parent` for `caller`.
    pub fn lookup(self: &Arc<Self>, caller: Caller, parent: u64, name: &OsStr, done: impl Done<Entry>) {
        self.lookup_patiently(caller, parent, name.to_owned(), true, done);
    }

    fn lookup_patiently(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: OsString,
        patient: bool,
        done: impl Done<Entry>,
    ) {
        let folder = match self.folder(parent) {
            Ok(folder) => folder,
            Err(errno) => return done(Err(errno)),
        };
        let Ok(state) = folder.as_folder() else { return done(Err(Errno::NOTDIR)) };
        let answering = state.answers.read();
        match self.see(caller, &folder, &name, patient) {
            Ok(Seen::Entry(entry)) => done(Ok(entry)),
            Ok(Seen::Wait(until)) => {
                drop(answering);
                let fs = self.clone();
                // A condition that held for an instant may be followed by another one to wait for.
                self.park(until, move |held| fs.lookup_patiently(caller, parent, name, held, done));
            }
            Err(errno) => {
                drop(answering);
                self.drafts.switches.looked_up_in_vain(caller.tid, (folder.id, &name));
                done(Err(errno));
            }
        }
    }

    /// What `caller` sees under `name`. The folder's `answers` must be held from here to the end of the reply.
    pub(super) fn see(&self, caller: Caller, folder: &Arc<Node>, name: &OsStr, patient: bool) -> Result<Seen> {
        if self.is_hidden(folder.id, name) {
            return Err(Errno::NOENT);
        }
        if patient && self.recovery.concerns(|| folder.path_of(name)) {
            return Ok(Seen::Wait(Until::Recovered));
        }
        if let Some(draft) = self.drafts.at(folder.key, name) {
            return self.see_around(caller, folder, name, draft, patient);
        }
        let switching = self.repeated_open(caller, folder, name);
        let (node, stat) = self.look(caller, folder, name)?;
        match switching {
            Some(wants) if node.kind == Kind::File => return self.see_again(caller, folder, name, wants, &node, &stat),
            Some(_) => self.drafts.switches.goes_on(caller.tid),
            None => {}
        }
        Ok(Seen::Entry(self.version_entry(&node, stat, self.options.ttl)))
    }

    /// Whether this is the look-up of an open that the kernel repeats, and what for. One of another name than the file had may be on
    /// the way to a file that is mounted over that name, and is then none of it.
    fn repeated_open(&self, caller: Caller, folder: &Node, name: &OsStr) -> Option<Wants> {
        let wants = self.drafts.switches.looking_up(caller.tid, folder.id, name)?;
        let is_other = self.drafts.switches.has_another_name(caller.tid, name);
        let is_mounted_over = |mount: &MountId| procfs::is_mounted_over(caller.tid, mount.dev, name);
        (!is_other || !self.mount.get().is_some_and(is_mounted_over)).then_some(wants)
    }

    /// What the export has under the name now; counts a look-up.
    fn look(&self, caller: Caller, folder: &Arc<Node>, name: &OsStr) -> Result<(Arc<Node>, Stat)> {
        if self.options.revalidate && !self.drafts.switches.is_fresh(caller.tid, name) {
            self.committer.revalidated(folder)?;
        }
        self.nodes().lookup(folder, name)
    }

    /// The look-up of an open that the kernel repeats, which must not fail on account of who replaces the version
    /// meanwhile. Takes the node's look-up back if it is not the answer.
    fn see_again(
        &self,
        caller: Caller,
        folder: &Arc<Node>,
        name: &OsStr,
        wants: Wants,
        node: &Arc<Node>,
        stat: &Stat,
    ) -> Result<Seen> {
        let in_place = || {
            self.drafts.switches.looked_up_in_place(caller.tid, (folder.id, name), node.id);
            Ok(Seen::Entry(self.version_entry(node, *stat, Duration::ZERO)))
        };
        if wants.writes() && self.is_direct(&folder.path_of(name)) {
            return in_place();
        }
        if wants.writes() && stat.is_fixed() {
            // The open will say so.
            self.drafts.switches.looked_up(caller.tid, (folder.id, name), None);
            return Ok(Seen::Entry(self.version_entry(node, *stat, Duration::ZERO)));
        }
        let known = self.drafts.switches.version(caller.tid, node.id);
        let asks = self.options.revalidate && known.is_none();
        let file = match known {
            Some(file) => Ok(file),
            None if wants == Wants::EmptyDraft => self.refer_to_version(node),
            None => self.open_version(caller, node),
        };
        // A draft takes over what another host has changed of the version, which the client learns when it opens a file. One
        // that is not read is not opened.
        let like = |file: &Content| match wants {
            Wants::EmptyDraft if asks => stat::fstat_fresh(file),
            Wants::Draft if asks => stat::fstat(file),
            _ => Ok(*stat),
        };
        let (file, like) = match file.and_then(|file| like(&file).map(|like| (file, like))) {
            Ok(found) => found,
            // Replaced since it was looked up, and gone.
            Err(Errno::STALE | Errno::NOENT) => {
                self.nodes().forget(node.id, 1);
                return self.see(caller, folder, name, true);
            }
            // A read that the export refuses: the open will say so.
            Err(_) if !wants.writes() => return Ok(Seen::Entry(self.version_entry(node, *stat, Duration::ZERO))),
            Err(other) => {
                self.nodes().forget(node.id, 1);
                return Err(other);
            }
        };
        if wants == Wants::Draft && self.finds_database(&folder.path_of(name), node, stat.size, &file) {
            return in_place();
        }
        self.drafts.switches.looked_up(caller.tid, (folder.id, name), Some((node.id, file.clone())));
        if wants.writes() {
            self.nodes().forget(node.id, 1);
            let base = draft::Base { file: Some(file), unread: wants == Wants::EmptyDraft, like };
            let draft = self.begin_over(caller, folder, name, base);
            // While it has the name nobody here commits another draft of it; before, somebody may have.
            if draft.base_key() == Some(node.key) && draft.is_clean() {
                let there =
                    self.nodes().fd(folder).and_then(|dir| stat::stat_at(dir, name)).map(|there| Key::of(&there));
                if there != Ok(node.key) {
                    self.drafts.unlist_unused(folder.key, name, &draft);
                    self.drafts.drop_if_unreferenced(&draft);
                    return match there {
                        Ok(_) | Err(Errno::NOENT | Errno::STALE) => self.see(caller, folder, name, true),
                        Err(errno) => Err(errno),
                    };
                }
            }
            self.drafts.switches.expect(caller.tid, &draft);
            // One that the kernel does not get to know is never forgotten either.
            let entry =
                self.listed_entry(folder, name, &draft).inspect_err(|_| self.drafts.drop_if_unreferenced(&draft))?;
            return entry.map_or_else(|| self.see(caller, folder, name, true), |entry| Ok(Seen::Entry(entry)));
        }
        Ok(Seen::Entry(self.version_entry(node, *stat, Duration::ZERO)))
    }

    /// A name that has a draft: the family and further writers get the draft, everybody else the version.
    fn see_around(
        &self,
        caller: Caller,
        folder: &Arc<Node>,
        name: &OsStr,
        draft: Arc<Draft>,
        patient: bool,
    ) -> Result<Seen> {
        if self.options.gathers && draft.is_at_rest() && draft.may_seem_larger() {
            // Whoever writes next gets a draft of its own.
            self.drafts.unlist(folder.key, name, &draft);
            return self.see(caller, folder, name, patient);
        }
        let switching = self.repeated_open(caller, folder, name);
        let writes = switching.is_some_and(Wants::writes);
        let held = draft.held_until().is_some();
        if patient && (draft.is_awaited() || draft.is_sealing() && (writes || self.is_family(&draft, caller))) {
            return Ok(Seen::Wait(Until::Settled(draft)));
        }
        if patient && writes && draft.deserted_until(deserted_limit()).is_some() {
            return Ok(Seen::Wait(Until::Left(draft)));
        }
        if writes || self.is_family(&draft, caller) {
            if writes {
                self.drafts.switches.expect(caller.tid, &draft);
            }
            let Some(entry) = self.listed_entry(folder, name, &draft)? else {
                return self.see(caller, folder, name, patient);
            };
            self.drafts.switches.looked_up(caller.tid, (folder.id, name), None);
            return Ok(Seen::Entry(entry));
        }
        if patient && held {
            return Ok(Seen::Wait(Until::Released(draft)));
        }
        let (node, stat) = self.look(caller, folder, name)?;
        if switching.is_some() && node.kind == Kind::File {
            let file = match self.open_version(caller, &node) {
                // Replaced since it was looked up, and gone.
                Err(Errno::STALE | Errno::NOENT) => {
                    self.nodes().forget(node.id, 1);
                    return self.see(caller, folder, name, true);
                }
                // The open will say so.
                other => other.ok(),
            };
            self.drafts.switches.looked_up(caller.tid, (folder.id, name), file.map(|file| (node.id, file)));
        }
        Ok(Seen::Entry(self.version_entry(&node, stat, Duration::ZERO)))
    }

    /// The entry of the draft that has this name. `None` if it has lost it since. Also if its version is gone, the one that
    /// it was published as or began over: then it has the name no longer, until somebody writes to it. Content that is
    /// pending is there, unless the export is in trouble.
    fn listed_entry(&self, folder: &Node, name: &OsStr, draft: &Arc<Draft>) -> Result<Option<Entry>> {
        match self.draft_entry(draft) {
            Err(Errno::STALE) if !draft.is_pending() => {
                self.drafts.unlist(folder.key, name, draft);
                self.drafts.drop_if_unreferenced(draft);
                Ok(None)
            }
            // Counted first, and then looked for: one that is counted is not taken off its name for being forgotten.
            Ok(_) if !self.drafts.at(folder.key, name).is_some_and(|there| Arc::ptr_eq(&there, draft)) => {
                self.drafts.forget(draft.node, 1);
                Ok(None)
            }
            entry => entry.map(Some),
        }
    }

    /// The entry of a version, folder or special file, whose look-up was counted already.
    pub(super) fn version_entry(&self, node: &Node, stat: Stat, ttl: Duration) -> Entry {
        node.telling();
        // Of a file that is written in place the kernel has to ask: see `Fs::getattr`.
        let asks =
            node.id != stat.ino || node.writers_in_place.load(Ordering::Acquire) > 0 || self.has_news(node, &stat);
        let attr_ttl = if asks { Duration::ZERO } else { self.options.ttl };
        // Times set through a draft of one name make a new node, which the other names must find at once.
        let shared = node.kind == Kind::File && stat.nlink > 1;
        let entry_ttl = if self.changes_unseen() || shared { Duration::ZERO } else { ttl };
        Entry { node: node.id, stat, entry_ttl, attr_ttl }
    }

    /// The entry of a draft; counts a look-up. Names that have a draft are never remembered by the kernel.
    pub(super) fn draft_entry(&self, draft: &Arc<Draft>) -> Result<Entry> {
        // Counted first: what is told was seen after all that the kernel had forgotten by then.
        self.drafts.looked_up(draft);
        let stat = draft.stat().inspect_err(|_| {
            self.drafts.forget(draft.node, 1);
        })?;
        draft.told(stat.size);
        Ok(Entry { node: draft.node, stat, entry_ttl: Duration::ZERO, attr_ttl: Duration::ZERO })
    }

    /// Begins a draft over a version, without content of its own yet. Joins one that is there already.
    fn begin_over(&self, caller: Caller, folder: &Arc<Node>, name: &OsStr, base: draft::Base) -> Arc<Draft> {
        let process = process::of(caller.tid);
        let draft = Draft::new(NewDraft {
            node: self.nodes().fresh_id(),
            target: commit::Target { parent: folder.clone(), name: name.to_owned() },
            base: Some(base),
            decision: self.committer.rules.decide(&folder.path_of(name)).clone(),
            creds: self.creds(caller),
            owner: self.owner(caller, process.as_ref()),
        });
        match self.drafts.list(folder.key, name, &draft) {
            Ok(()) => draft,
            Err(there) => there,
        }
    }

    /// `EPERM` for a version that no rename may replace, as the look-up of a repeated open has found.
    pub(super) fn refuse_fixed(&self, caller: Caller, node: &Node) -> Result<()> {
        if self.drafts.switches.is_round(caller.tid) && node.is_fixed() {
            self.drafts.switches.end(caller.tid);
            return Err(Errno::PERM);
        }
        Ok(())
    }

    /// `EXDEV` where no rename from the staging folder could publish.
    pub(super) fn refuse_other_file_system(&self, key: Key) -> Result<()> {
        if key.dev == self.nodes().root().key.dev { Ok(()) } else { Err(Errno::XDEV) }
    }

    /// The kernel forgets `count` look-ups of a node.
    pub fn forget(&self, node: u64, count: u64) {
        if !self.drafts.forget(node, count) {
            self.nodes().forget(node, count);
        }
    }
}
