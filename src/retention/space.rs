//! Space pressure: what waits for the end of its retention does not wait when room is needed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Reaper;
use crate::journal::{JournalError, OutboxId};
use crate::sys::at;

/// As much is given back at once when a write found no room.
const ENOUGH: u64 = 256 << 20;
/// So long a write without room waits for what is being removed just then.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was removed.
#[derive(Debug, Default)]
struct Freed {
    rows: usize,
    /// As far as they are known: those of a folder that was not counted are not.
    bytes: u64,
    /// What somebody else works on.
    busy: Vec<OutboxId>,
}

impl Reaper {
    /// How often room was made so far.
    pub fn purges(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Removes what was kept for later, the oldest first, because a write found no room. True if that gave anything
    /// back since `seen`, which is [`Reaper::purges`] before the write: then it is worth one more attempt.
    pub fn make_room(&self, seen: u64) -> bool {
        let _room = self.room.lock();
        if self.purges() != seen {
            // Somebody else has just done it.
            return true;
        }
        self.hurry(true);
        let freed = self.purge_until(|freed| freed >= ENOUGH);
        if let Ok(freed) = &freed {
            self.wait_for(&freed.busy);
        }
        self.hurry(false);
        match freed {
            Ok(Freed { rows: 0, busy, .. }) if busy.is_empty() => false,
            // Rows, not bytes: what was in a folder that was not counted is not known.
            Ok(freed) => {
                tracing::warn!(freed.rows, freed.bytes, "no space left: removed what was kept for later");
                self.purges.fetch_add(1, Ordering::AcqRel);
                true
            }
            Err(error) => {
                tracing::error!(%error, "no space left, and the outbox cannot be read");
                false
            }
        }
    }

    /// Waits until nobody works on these rows any more; of a large tree, as much goes as can meanwhile.
    fn wait_for(&self, rows: &[OutboxId]) {
        let end = Instant::now() + PATIENCE;
        let mut busy = self.busy.lock();
        while rows.iter().any(|id| busy.contains(id)) {
            if self.released.wait_until(&mut busy, end).timed_out() {
                return;
            }
        }
    }

    /// Purges ahead of time while less than the watermark is free.
    pub(super) fn keep_watermark(&self) -> Result<(), JournalError> {
        if self.is_roomy() {
            return Ok(());
        }
        let _room = self.room.lock();
        let freed = self.purge_until(|_| self.is_roomy())?;
        if freed.rows > 0 {
            tracing::warn!(
                freed.rows,
                freed.bytes,
                watermark = self.options.watermark,
                "space runs low: removed what was kept for later"
            );
        }
        Ok(())
    }

    pub(super) fn is_roomy(&self) -> bool {
        match at::statvfs(self.by.staging.trash()) {
            // Of inodes, too; a file system that makes them as it goes tells of none.
            Ok(fs) => [(fs.f_bavail, fs.f_blocks), (fs.f_favail, fs.f_files)]
                .into_iter()
                .all(|(free, all)| u128::from(free) * 100 >= u128::from(all) * u128::from(self.options.watermark)),
            Err(errno) => {
                tracing::debug!(%errno, "the export does not tell its free space");
                true
            }
        }
    }

    /// Removes waiting rows segment by segment until `enough` says so of the bytes given back, or none is left.
    fn purge_until(&self, enough: impl Fn(u64) -> bool) -> Result<Freed, JournalError> {
        let (mut after, mut freed) = (0, Freed::default());
        while !enough(freed.bytes) {
            let rows = self.by.journal.read(|reader| reader.outbox_waiting(after, self.options.segment))?;
            let Some(last) = rows.last() else { break };
            after = last.aside.id;
            // As fast as it goes: somebody waits for the room.
            let outcome = self.reap(&rows, u32::MAX)?;
            freed.rows += outcome.gone.len();
            freed.bytes += outcome.bytes;
            freed.busy.extend(outcome.busy);
            if self.is_stopped() {
                break;
            }
        }
        Ok(freed)
    }
}
