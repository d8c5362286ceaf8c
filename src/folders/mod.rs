//! Folder totals: who changes what while, how changes become deltas, and the worker that folds and counts.
//!
//! Nothing here locks an ancestor. A change claims the names it touches, for the length of one call on the export, and
//! leaves a delta in the transaction that records it; the journal folds deltas up the tree in batches.

mod claims;
mod count;
mod failures;
mod worker;

pub use claims::{Claim, Claims, Holds};
pub use worker::{RefreshError, Totals, TotalsOptions};
