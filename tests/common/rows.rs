//! What `--json` says, as rows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::mount::{Mount, bare};

/// The name that [`Mount::recorded`] commits.
const BARRIER: &str = ".barrier";

/// A row of `pending`, `log` or `quarantine ls`.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    pub path: String,
    pub state: String,
    pub bytes: u64,
    pub uid: u32,
    pub pid: u32,
    pub command: String,
    pub age_seconds: f64,
    pub reason: Option<String>,
    /// The whole row.
    pub all: Value,
}

impl Row {
    #[track_caller]
    fn parse(value: &Value) -> Row {
        let get = |key: &str| value.get(key).unwrap_or_else(|| panic!("no `{key}` in {value}"));
        let text = |key: &str| get(key).as_str().unwrap_or_else(|| panic!("`{key}` is no text in {value}")).to_owned();
        let number = |key: &str| get(key).as_u64().unwrap_or_else(|| panic!("`{key}` is no number in {value}"));
        Row {
            id: number("id") as i64,
            path: text("path"),
            state: text("state"),
            bytes: number("bytes"),
            uid: number("uid") as u32,
            pid: number("pid") as u32,
            command: text("command"),
            age_seconds: get("age_seconds").as_f64().unwrap_or_else(|| panic!("`age_seconds` in {value}")),
            reason: value.get("reason").and_then(Value::as_str).map(str::to_owned),
            all: value.clone(),
        }
    }
}

impl Mount {
    /// `commitfs VERB --json`, parsed.
    #[track_caller]
    pub fn json(&self, verb: &[&str]) -> Value {
        let out = self.cli_ok(&[verb, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{verb:?} --json: {e}\n{out}"))
    }

    #[track_caller]
    fn rows(&self, verb: &[&str]) -> Vec<Row> {
        if bare() {
            return Vec::new();
        }
        let value = self.json(verb);
        let rows = value.as_array().unwrap_or_else(|| panic!("{verb:?}: no array: {value}"));
        rows.iter().map(Row::parse).filter(|row| row.path != BARRIER).collect()
    }

    /// Waits until all that was done so far is in the journal: rows are written in order, and soon, but not before close
    /// returns. Does so by one more commit, which other rows never show.
    #[track_caller]
    pub fn recorded(&self) {
        if bare() || !self.is_up() {
            return;
        }
        let before = self.barriers();
        let agent = self.agent("barrier");
        agent.put(BARRIER, "").unwrap();
        super::wait::eventually("a commit is in the journal", || self.barriers() > before);
        agent.unlink(BARRIER).unwrap();
    }

    fn barriers(&self) -> usize {
        let rows = self.json(&["log", "-n", "10000", "--path", BARRIER]);
        rows.as_array().map_or(0, Vec::len)
    }

    /// Drafts that are open or sealed.
    #[track_caller]
    pub fn pending(&self) -> Vec<Row> {
        self.rows(&["pending"])
    }

    #[track_caller]
    pub fn quarantine(&self) -> Vec<Row> {
        self.rows(&["quarantine", "ls"])
    }

    /// The last commits and what else ended.
    #[track_caller]
    pub fn history(&self) -> Vec<Row> {
        self.rows(&["log", "-n", "100000"])
    }

    /// Rows of the log in state `committed`, by path, how many.
    #[track_caller]
    pub fn commits(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for row in self.history().into_iter().filter(|r| r.state == "committed") {
            *counts.entry(row.path).or_default() += 1;
        }
        counts
    }

    /// Commits of one path.
    #[track_caller]
    pub fn commits_of(&self, path: &str) -> usize {
        self.recorded();
        self.commits().get(path).copied().unwrap_or(0)
    }

    /// Waits until a draft of this path is in quarantine; returns its row.
    #[track_caller]
    pub fn quarantined(&self, path: &str) -> Row {
        let find = || self.quarantine().into_iter().find(|row| row.path == path);
        super::wait::poll(super::wait::LIMIT, find).unwrap_or_else(|| panic!("no draft of {path} came into quarantine"))
    }

    #[track_caller]
    pub fn nothing_quarantined(&self) {
        self.recorded();
        let rows = self.quarantine();
        assert!(rows.is_empty(), "in quarantine: {rows:#?}");
    }

    /// Waits until so many drafts are pending and no more.
    #[track_caller]
    pub fn settled_but(&self, open: usize) {
        self.recorded();
        super::wait::eventually("nothing else is pending any more", || self.pending().len() == open);
    }

    /// Waits until nothing is pending.
    #[track_caller]
    pub fn settled(&self) {
        self.recorded();
        super::wait::eventually("nothing is pending any more", || self.pending().is_empty());
        self.recorded();
    }
}
