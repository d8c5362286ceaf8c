//! What the kernel knows of a draft that it may have forgotten in between.
//!
//! It keeps the size of a file by itself whose writes it gathers, and takes it from the answer of which it makes the
//! node. That answer may have been on its way while the draft was written through another open, published, and its node
//! forgotten: then an append would go over what is there.

use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::{Draft, Phase};

impl Draft {
    /// A look-up is answered with this size.
    pub fn told(&self, size: u64) {
        self.told_size.fetch_max(size, Ordering::AcqRel);
    }

    /// The kernel has forgotten the node while an answer was on its way.
    pub(super) fn lag(&self) {
        self.lags.store(true, Ordering::Release);
    }

    /// True if it was published and nobody has it open for writing: then the kernel has gathered nothing, and may have
    /// another size than there is.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.body.read_recursive().phase, Phase::Published(_)) && !self.is_written(None)
    }

    /// One open of a draft at rest at a time.
    pub fn reopening(&self) -> MutexGuard<'_, ()> {
        self.reopening.lock()
    }

    /// True if the kernel may take a draft at rest for larger than it is, of which nobody can talk it out.
    pub fn may_seem_larger(&self) -> bool {
        self.lags.load(Ordering::Acquire)
            && self.stat().is_ok_and(|stat| self.told_size.load(Ordering::Acquire) > stat.size)
    }
}
