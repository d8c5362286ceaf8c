//! Faults below commitfs: each call on the export fails once, each power cut comes once, the journal's disk refuses.
//!
//! `cargo test --features failpoints --test faults`. A bounded core runs every day, everything with
//! `COMMITFS_TEST_FULL=1` (`scripts/suite faults`). `COMMITFS_TEST_POINT=SCENARIO` runs the cases of one scenario.

#![allow(missing_docs)]

#[cfg(feature = "failpoints")]
#[path = "faults/calls.rs"]
mod calls;
#[cfg(feature = "failpoints")]
mod common;
#[cfg(feature = "failpoints")]
#[path = "faultfs/mod.rs"]
mod faultfs;
#[cfg(feature = "failpoints")]
#[path = "faults/journal.rs"]
mod journal;
#[cfg(feature = "failpoints")]
#[path = "faults/keeping.rs"]
mod keeping;
#[cfg(feature = "failpoints")]
#[path = "faults/late.rs"]
mod late;
#[cfg(feature = "failpoints")]
#[path = "faults/power.rs"]
mod power;
#[cfg(feature = "failpoints")]
#[path = "faults/run.rs"]
mod run;
#[cfg(feature = "failpoints")]
#[path = "faults/scenarios.rs"]
mod scenarios;

#[cfg(not(feature = "failpoints"))]
#[test]
#[ignore = "needs --features failpoints: nothing was made to fail"]
fn faults() {}
