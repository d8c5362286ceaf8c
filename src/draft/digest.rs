//! Digests of content: while the data streams through if it comes in order, in the background otherwise.

use std::os::fd::AsFd;
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, bounded};
use xxhash_rust::xxh3::Xxh3;

use crate::inode::Content;
use crate::journal::{DraftId, Entry, Journal};
use crate::sys::{digest, stat};

/// A digest in the making: valid as long as every write continued where the last one ended.
#[derive(Default)]
pub(super) struct Stream {
    hasher: Xxh3,
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
            self.lost = true;
            return;
        }
        self.hasher.update(data);
        self.next += data.len() as u64;
    }

    /// The content changed in a way that did not stream through.
    pub(super) fn lose(&mut self) {
        self.lost = true;
    }

    /// Starts over on an empty file.
    pub(super) fn restart(&mut self) {
        *self = Stream::default();
    }

    /// The digest, if the stream covered exactly the file's bytes.
    pub(super) fn digest(&self, file: impl AsFd) -> Option<String> {
        (!self.lost && stat::fstat(file).ok()?.size == self.next).then(|| digest::word(&self.hasher))
    }
}

/// Takes digests of versions whose data did not stream through in order, one at a time, off every commit's way.
#[derive(Debug)]
pub struct Digester {
    queue: Sender<(DraftId, Arc<Content>)>,
}

impl Digester {
    /// Versions that may wait; each holds a descriptor.
    const WAITING: usize = 256;

    /// Starts the thread.
    pub fn start(journal: Journal) -> std::io::Result<Self> {
        let (queue, jobs) = bounded::<(DraftId, Arc<Content>)>(Self::WAITING);
        std::thread::Builder::new().name("digest".to_owned()).spawn(move || {
            for (id, file) in jobs {
                match digest::of(&*file) {
                    Ok(digest) => {
                        journal.submit(Entry::Digested { id, digest });
                    }
                    Err(errno) => tracing::warn!(draft = id, %errno, "cannot read a version for its digest"),
                }
            }
        })?;
        Ok(Digester { queue })
    }

    /// Asks for a version's digest. With too many waiting the commit stays without one: a reader of the journal finds
    /// it missing, never wrong.
    pub fn take(&self, id: DraftId, file: Arc<Content>) {
        match self.queue.try_send((id, file)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracing::debug!(draft = id, "no digest: too many versions waiting for one"),
            Err(TrySendError::Disconnected(_)) => tracing::error!(draft = id, "no digest: the thread is gone"),
        }
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
}
