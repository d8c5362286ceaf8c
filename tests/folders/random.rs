//! Random operations, with crashes of the daemon in between: after folding, `du` equals a fresh walk.

use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::common::{Agent, Mount, checker};

#[derive(Clone, Debug)]
enum Op {
    Put(String, usize),
    Append(String, usize),
    Mkdir(String),
    Rename(String, String),
    Exchange(String, String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    RemoveTree(String),
    RestoreLast,
    Crash,
    Refresh(String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c.log"]), 1..4).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (path(), 0..5000usize).prop_map(|(path, bytes)| Op::Put(path, bytes)),
        4 => (path(), 0..5000usize).prop_map(|(path, bytes)| Op::Append(path, bytes)),
        12 => path().prop_map(Op::Mkdir),
        6 => (path(), path()).prop_map(|(from, to)| Op::Rename(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Op::Exchange(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        4 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        1 => path().prop_map(Op::RemoveTree),
        1 => Just(Op::RestoreLast),
        1 => Just(Op::Crash),
        1 => path().prop_map(Op::Refresh),
    ]
}

/// What is written in place under one of several hard links is counted there alone until the folders of the others are
/// counted again: not done here.
fn is_shared_in_place(m: &Mount, path: &str) -> bool {
    path.ends_with(".log") && std::fs::metadata(m.raw(path)).is_ok_and(|there| there.is_file() && there.nlink() > 1)
}

/// Most of them fail for a good reason: the path is not there, or is a folder.
fn apply(m: &mut Mount, agent: &mut Agent, op: &Op) -> bool {
    match op {
        Op::Put(path, _) | Op::Append(path, _) if is_shared_in_place(m, path) => false,
        Op::Put(path, bytes) => agent.put(path, &vec![b'x'; *bytes]).is_ok(),
        Op::Append(path, bytes) => agent.append(path, &vec![b'y'; *bytes]).is_ok(),
        Op::Mkdir(path) => agent.mkdir(path).is_ok(),
        Op::Rename(from, to) => agent.rename(from, to).is_ok(),
        Op::Exchange(from, to) => agent.rename_with(from, to, "exchange").is_ok(),
        Op::Link(from, to) => agent.link(from, to).is_ok(),
        Op::Unlink(path) => agent.unlink(path).is_ok(),
        Op::Rmdir(path) => agent.rmdir(path).is_ok(),
        Op::RemoveTree(path) => m.cli(&["rm", "-r", path]).status.success(),
        Op::Refresh(path) => m.cli(&["refresh", path]).status.success(),
        Op::RestoreLast => {
            let rows = m.json(&["trash", "ls"]);
            let Some(row) = rows.as_array().unwrap().last() else { return false };
            m.cli(&["trash", "restore", &row["id"].to_string()]).status.success()
        }
        Op::Crash => {
            m.kill9();
            m.remount();
            *agent = m.agent("A");
            true
        }
    }
}

#[test]
fn du_equals_a_walk_after_anything() {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = from_env("COMMITFS_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let cases = from_env("COMMITFS_TEST_CASES").unwrap_or(6) as u32;
    eprintln!("again: COMMITFS_TEST_SEED={seed} COMMITFS_TEST_CASES={cases} cargo test --test folders du_equals");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let done = std::cell::Cell::new(0u32);
    let outcome = runner.run(&prop::collection::vec(op(), 60..160), |ops| {
        let mut m = Mount::new();
        let mut agent = m.agent("A");
        for op in &ops {
            if apply(&mut m, &mut agent, op) {
                done.set(done.get() + 1);
            }
        }
        checker::totals(&m);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("COMMITFS_TEST_SEED={seed}: {error}"));
    assert!(done.get() > cases * 15, "only {} operations did anything", done.get());
}
