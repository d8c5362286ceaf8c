//! Digests of content: while the data streams through if it comes in order, in the background otherwise.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};
use xxhash_rust::xxh3::Xxh3;

use super::Kept;
use crate::inode::{Content, NodeTable};
use crate::journal::{DraftId, Entry, Journal};
use crate::sys::{Errno, digest, stat};

/// A digest in the making: valid as long as every write continued where the last one ended.
#[derive(Default)]
pub(super) struct Stream {
    /// `None` before the first write, and when the digest is lost: it is larger than the rest of a draft, which the kernel may
    /// remember for as long as it likes.
    hasher: Option<Box<Xxh3>>,
    next: u64,
    lost: bool,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("next", &self.next).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Stream {
    /// Takes a write that reached the file.
    pub(super) fn feed(&mut self, offset: u64, data: &[u8]) {
        if self.lost || offset != self.next {
            return self.lose();
        }
        self.hasher.get_or_insert_default().update(data);
        self.next += data.len() as u64;
    }

    /// The content changed in a way that did not stream through, or the digest is not wanted any more.
    pub(super) fn lose(&mut self) {
        self.lost = true;
        self.hasher = None;
    }

    /// Starts over on an empty file.
    pub(super) fn restart(&mut self) {
        *self = Stream::default();
    }

    /// The digest, if the stream covered exactly the file's bytes.
    pub(super) fn digest(&self, file: impl AsFd) -> Option<String> {
        let word = || digest::word(self.hasher.as_deref().unwrap_or(&Xxh3::new()));
        (!self.lost && stat::fstat(file).ok()?.size == self.next).then(word)
    }
}

/// Takes digests of versions whose data did not stream through in order, one at a time, off every commit's way.
#[derive(Debug)]
pub struct Digester {
    queue: Sender<Wanted>,
}

/// A version that has no digest yet.
#[derive(Debug)]
struct Wanted {
    id: DraftId,
    /// Where it was published: the next version there replaces it.
    path: Vec<u8>,
    content: Kept,
    /// The next version may be on its way: this one is waited with.
    waits: bool,
}

/// Versions that wait for their digest, by path, and until when.
#[derive(Default)]
struct Waiting(HashMap<Vec<u8>, (Instant, Wanted)>);

impl Waiting {
    /// Adds a version, in place of an older one that would be read for nothing.
    fn add(&mut self, wanted: Wanted, now: Instant) {
        if self.0.len() >= Digester::WAITING && !self.0.contains_key(&wanted.path) {
            tracing::debug!(draft = wanted.id, "no digest: too many versions waiting for one");
            return;
        }
        let due = if wanted.waits { now + Digester::QUIET } else { now };
        self.0.insert(wanted.path.clone(), (due, wanted));
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|(due, _)| *due).min()
    }

    /// A version whose time has come.
    fn take(&mut self, now: Instant) -> Option<Wanted> {
        let path = self.0.iter().find(|(_, (due, _))| *due <= now)?.0.clone();
        self.0.remove(&path).map(|(_, wanted)| wanted)
    }
}

impl Digester {
    /// Versions that may wait.
    const WAITING: usize = 256;

    /// Bytes from which on a version is not read while the next one may be on its way.
    const LARGE: u64 = 1 << 20;

    /// How long it is waited for the next one.
    const QUIET: Duration = Duration::from_secs(2);

    /// Starts the thread.
    pub fn start(journal: Journal) -> std::io::Result<Self> {
        let (queue, jobs) = bounded(Self::WAITING);
        std::thread::Builder::new().name("digest".to_owned()).spawn(move || {
            let mut waiting = Waiting::default();
            loop {
                let job = match waiting.next() {
                    Some(due) => jobs.recv_deadline(due),
                    None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match job {
                    Ok(wanted) => waiting.add(wanted, Instant::now()),
                    Err(RecvTimeoutError::Timeout) => {
                        if let Some(wanted) = waiting.take(Instant::now()) {
                            digest_of(&wanted, &journal);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Digester { queue })
    }

    /// Asks for the digest of a version that was published at `path`. With too many waiting, or when the next version
    /// comes first, it stays without one: a reader of the journal finds it missing, never wrong.
    pub fn take(&self, id: DraftId, path: Vec<u8>, file: Arc<Content>, nodes: &Arc<NodeTable>) {
        // One that waits holds no descriptor: it may be removed meanwhile, to make room. Elsewhere the file may not be there
        // for everybody to open again.
        let handle = if nodes.is_local() { nodes.handle_of(&*file) } else { None };
        let large = stat::fstat(&*file).is_ok_and(|stat| stat.size > Self::LARGE);
        let (content, waits) = match handle {
            Some(handle) if large => (Kept::Closed(handle, nodes.clone()), true),
            _ => (Kept::Open(file), false),
        };
        match self.queue.try_send(Wanted { id, path, content, waits }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracing::debug!(draft = id, "no digest: too many versions waiting for one"),
            Err(TrySendError::Disconnected(_)) => tracing::error!(draft = id, "no digest: the thread is gone"),
        }
    }
}

fn digest_of(wanted: &Wanted, journal: &Journal) {
    let id = wanted.id;
    match wanted.content.file().and_then(|file| digest::of_held(&*file, || file.using())) {
        Ok(digest) => {
            journal.submit(Entry::Digested { id, digest });
        }
        Err(Errno::STALE | Errno::NOENT) => tracing::debug!(draft = id, "no digest: the version is gone"),
        Err(errno) => tracing::warn!(draft = id, %errno, "cannot read a version for its digest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::at;

    #[test]
    fn the_stream_and_the_reader_agree_and_disorder_is_noticed() {
        let file = tempfile::tempfile().unwrap();
        let mut stream = Stream::default();
        for (offset, data) in [(0, b"hello "), (6, b"world!")] {
            at::write_at(&file, data, offset).unwrap();
            stream.feed(offset, data);
        }
        assert_eq!(stream.digest(&file).unwrap(), digest::of(&file).unwrap());
        stream.feed(3, b"x");
        assert_eq!(stream.digest(&file), None);
    }

    #[test]
    fn a_large_version_is_read_when_no_other_has_replaced_it() {
        let version = |id, path: &str, waits| {
            let content = Kept::Open(Content::new(tempfile::tempfile().unwrap()));
            Wanted { id, path: path.into(), content, waits }
        };
        let mut waiting = Waiting::default();
        let now = Instant::now();
        waiting.add(version(1, "large", true), now);
        waiting.add(version(2, "small", false), now);
        waiting.add(version(3, "large", true), now + Digester::QUIET / 2);
        assert_eq!(waiting.take(now).map(|wanted| wanted.id), Some(2));
        assert!(waiting.take(now + Digester::QUIET).is_none(), "replaced meanwhile");
        assert_eq!(waiting.take(waiting.next().unwrap()).map(|wanted| wanted.id), Some(3));
        assert_eq!(waiting.next(), None);
    }
}
