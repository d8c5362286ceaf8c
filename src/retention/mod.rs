//! What was taken out of the name space: kept for a while, restored on request, removed in the end.

mod instances;
mod reaper;
mod space;
mod sweeper;
mod trash;
mod tree;

pub use instances::LeaseFile;
pub use reaper::{Reaper, ReaperOptions};
pub use sweeper::Swept;
