//! Random operations by several simulated processes on a mount, against a small model of the one rule.
//!
//! The choices are the same each time unless `COMMITFS_TEST_SEED=N` says otherwise; `scripts/suite model` tries many.
//! `COMMITFS_TEST_CASES=N` makes a run longer.

#![allow(missing_docs)]

mod common;
#[path = "model/ops.rs"]
mod ops;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/run.rs"]
mod run;

use common::Mount;
use ops::Op;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

#[test]
fn random_operations_agree_with_the_one_rule() {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = from_env("COMMITFS_TEST_SEED").unwrap_or(1);
    let cases = from_env("COMMITFS_TEST_CASES").unwrap_or(40) as u32;
    eprintln!("again: COMMITFS_TEST_SEED={seed} COMMITFS_TEST_CASES={cases} cargo test --test model");

    let m = Mount::new();
    let mut folder = 0;
    let mut done = run::Done::default();
    let config = Config {
        cases,
        max_shrink_iters: 400,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let done_cell = std::cell::RefCell::new(&mut done);
    let folder_cell = std::cell::RefCell::new(&mut folder);
    let outcome = runner.run(&ops::sequence(), |ops: Vec<Op>| {
        let n = {
            let mut folder = folder_cell.borrow_mut();
            **folder += 1;
            **folder
        };
        run::run(&m, &format!("case{n}"), &ops, &mut done_cell.borrow_mut()).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, ops)) => {
            let list: Vec<String> = ops.iter().map(|op| format!("  {op:?}")).collect();
            panic!("COMMITFS_TEST_SEED={seed}: {why}\nthe smallest sequence found:\n{}", list.join("\n"));
        }
        Err(other) => panic!("COMMITFS_TEST_SEED={seed}: {other}"),
    }
    eprintln!("{done:?}");
    assert!(done.commits > u64::from(cases) && done.hidden > u64::from(cases), "hardly anything happened: {done:?}");
    m.settled();
    common::checker::check(&m);
}
