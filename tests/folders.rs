//! Folder totals: what `du` says is what a walk finds, whatever happened.

#![allow(missing_docs)]

mod common;

#[path = "folders/random.rs"]
mod random;
#[path = "folders/totals.rs"]
mod totals;
