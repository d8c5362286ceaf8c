//! Which paths are published atomically and which are written in place: ordered globs, the first match wins.
//!
//! The user's rules come first, then [`BUILT_IN`], then the mount's defaults. A glob without `/` is matched against the
//! last component, in any folder; one with `/` against the whole path relative to the mount. Names are bytes. Where no rule
//! matches, the content decides whether a file is a database.

mod database;
mod pattern;
mod span;

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use globset::{Candidate, GlobSet};
use serde::{Deserialize, Serialize};

pub use database::{has_pages, is_database, is_database_at};
use pattern::compile;
pub use pattern::{Pattern, matcher};
pub use span::Span;

/// What cannot work on drafts: databases that several processes share while they are open, lock and pid files that others
/// must see at once, logs that are followed while they grow.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("*.lock", "a lock file must be seen at once"),
    ("*.pid", "a pid file must be seen while its writer runs"),
    ("*.log", "a log is followed while it grows"),
    ("*.sqlite*", "a database is shared while it is open"),
    ("*.db", "a database is shared while it is open"),
    ("*-wal", "part of a database"),
    ("*-shm", "part of a database"),
    ("*-journal", "part of a database"),
];

/// How a path is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Through a draft, published by rename.
    #[default]
    Atomic,
    /// In place, as without commitfs: readers see every intermediate state.
    Direct,
}

/// When a draft is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitAt {
    /// Inside the last close, which says whether it succeeded.
    #[default]
    Close,
    /// After the last close, which does not wait for it and promises nothing.
    Release,
}

/// What becomes of a draft whose writer was killed by a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnKill {
    /// It is kept aside; the old version stays.
    #[default]
    Quarantine,
    /// It is published as if it had been closed.
    Publish,
}

/// What becomes of a draft whose writer exits with a failure status and without closing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailureExit {
    /// It is published: an exit is a close.
    #[default]
    Publish,
    /// It is kept aside; the old version stays.
    Quarantine,
}

/// What holds for a path for which no rule says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// See [`OnKill`].
    pub on_kill: OnKill,
    /// See [`OnFailureExit`].
    pub on_failure_exit: OnFailureExit,
    /// How long a replaced or unlinked version is kept for those who still read it.
    pub retain: Duration,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            on_kill: OnKill::default(),
            on_failure_exit: OnFailureExit::default(),
            retain: Duration::from_secs(60),
        }
    }
}

/// One rule as the user writes it; what is left out is the mount's default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which paths.
    pub glob: Pattern,
    /// How they are written.
    #[serde(default)]
    pub mode: Mode,
    /// See [`CommitAt`].
    #[serde(default)]
    pub commit: CommitAt,
    /// See [`OnKill`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_kill: Option<OnKill>,
    /// See [`OnFailureExit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure_exit: Option<OnFailureExit>,
    /// See [`Defaults::retain`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<Span>,
    /// Write `NAME.done` with size and digest after each commit.
    #[serde(default)]
    pub done_marker: bool,
}

impl Rule {
    /// Why what it says would mean nothing: a file that is written in place is not committed.
    pub fn is_void(&self) -> Option<String> {
        let word = match (self.mode, self.commit, self.done_marker) {
            (Mode::Direct, CommitAt::Release, _) => "commit = \"release\"",
            (Mode::Direct, _, true) => "done_marker = true",
            _ => return None,
        };
        Some(format!(
            "rule {:?}: {word} means nothing with mode = \"direct\", whose files are written in place and never \
             committed; leave out one of the two",
            self.glob.as_str()
        ))
    }
}

/// What holds for one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How it is written.
    pub mode: Mode,
    /// See [`CommitAt`].
    pub commit: CommitAt,
    /// See [`OnKill`].
    pub on_kill: OnKill,
    /// See [`OnFailureExit`].
    pub on_failure_exit: OnFailureExit,
    /// See [`Defaults::retain`].
    pub retain: Duration,
    /// Write `NAME.done` with size and digest after each commit.
    pub done_marker: bool,
    /// Which rule said so, and why: for `commitfs rules`.
    pub source: String,
}

/// The rules of one mount, compiled.
#[derive(Clone, Debug)]
pub struct Rules {
    globs: GlobSet,
    /// One for each glob, and the default behind them.
    decisions: Vec<Decision>,
    /// What holds for a database for which no rule says otherwise.
    database: Decision,
    user: Vec<Rule>,
    defaults: Defaults,
}

/// The effective rules as text: what a daemon leaves for those who ask while it is down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Effective {
    on_kill: OnKill,
    on_failure_exit: OnFailureExit,
    retain: Span,
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
}

/// A set of rules that cannot be compiled or read.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// A glob is wrong.
    #[error("glob {glob:?}: {message}")]
    Glob {
        /// Which.
        glob: String,
        /// Why.
        message: String,
    },
    /// All globs together are too large to compile.
    #[error("compiling the rules: {0}")]
    Set(#[from] globset::Error),
    /// [`Rules::from_toml`] was given something else.
    #[error("reading the rules: {0}")]
    Text(#[from] toml::de::Error),
}

impl Rules {
    /// Compiles the user's rules, in order, in front of the built-in ones.
    pub fn new(user: Vec<Rule>, defaults: Defaults) -> Result<Rules, RuleError> {
        let mut globs = GlobSet::builder();
        let mut decisions = Vec::with_capacity(user.len() + BUILT_IN.len() + 1);
        for (index, rule) in user.iter().enumerate() {
            globs.add(rule.glob.compile()?);
            decisions.push(Decision {
                mode: rule.mode,
                commit: rule.commit,
                on_kill: rule.on_kill.unwrap_or(defaults.on_kill),
                on_failure_exit: rule.on_failure_exit.unwrap_or(defaults.on_failure_exit),
                retain: rule.retain.map_or(kept(rule.mode, defaults), |span| span.0),
                done_marker: rule.done_marker,
                source: format!("rule {} of the configuration, {:?}", index + 1, rule.glob.as_str()),
            });
        }
        for (glob, why) in BUILT_IN {
            globs.add(compile(glob)?);
            decisions.push(Decision {
                mode: Mode::Direct,
                retain: Duration::ZERO,
                ..fallback(defaults, format!("built-in rule {glob:?}: {why}"))
            });
        }
        decisions.push(fallback(defaults, "default: no rule matches".to_owned()));
        let content = "built-in: an SQLite database by its content, which is shared while it is open";
        let database = Decision { mode: Mode::Direct, ..fallback(defaults, content.to_owned()) };
        Ok(Rules { globs: globs.build()?, decisions, database, user, defaults })
    }

    /// What holds for the file that is under a path now. `is_database` looks at its content, and is asked only where no rule
    /// matches.
    pub fn decide_for(&self, path: &[u8], is_database: impl FnOnce() -> bool) -> &Decision {
        let decision = self.decide(path);
        let is_default = self.decisions.last().is_some_and(|last| std::ptr::eq(last, decision));
        if is_default && is_database() { &self.database } else { decision }
    }

    /// What the rules say of a path relative to the mount, without leading slash. Allocates nothing of its own.
    pub fn decide(&self, path: &[u8]) -> &Decision {
        thread_local! {
            static MATCHES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }
        let first = MATCHES.with_borrow_mut(|matches| {
            self.globs.matches_candidate_into(&Candidate::from_bytes(path), matches);
            matches.first().copied()
        });
        &self.decisions[first.unwrap_or(self.decisions.len() - 1)]
    }

    /// The effective rules as TOML, without the built-in ones: what [`Rules::from_toml`] reads.
    pub fn to_toml(&self) -> String {
        let effective = Effective {
            on_kill: self.defaults.on_kill,
            on_failure_exit: self.defaults.on_failure_exit,
            retain: Span(self.defaults.retain),
            rules: self.user.clone(),
        };
        // Words, numbers and strings: there is nothing in it that TOML cannot say.
        toml::to_string(&effective).unwrap_or_default()
    }

    /// Reads what [`Rules::to_toml`] wrote.
    pub fn from_toml(text: &str) -> Result<Rules, RuleError> {
        let effective: Effective = toml::from_str(text)?;
        let defaults = Defaults {
            on_kill: effective.on_kill,
            on_failure_exit: effective.on_failure_exit,
            retain: effective.retain.0,
        };
        Rules::new(effective.rules, defaults)
    }
}

impl Default for Rules {
    /// The built-in rules and nothing else.
    fn default() -> Self {
        Rules::new(Vec::new(), Defaults::default()).expect("the built-in globs compile")
    }
}

impl fmt::Display for Decision {
    /// One line for `commitfs rules`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Direct => write!(f, "direct: written in place, readers see every intermediate state")?,
            Mode::Atomic => {
                let killed = match self.on_kill {
                    OnKill::Quarantine => "quarantined",
                    OnKill::Publish => "published",
                };
                let failed = match self.on_failure_exit {
                    OnFailureExit::Publish => "published",
                    OnFailureExit::Quarantine => "quarantined",
                };
                let when = match self.commit {
                    CommitAt::Close => "at close",
                    CommitAt::Release => "after close, which does not wait for it",
                };
                write!(
                    f,
                    "atomic: published {when}; {killed} when its writer is killed, {failed} when it exits with a failure; \
                     old versions are kept {}",
                    Span(self.retain)
                )?;
                if self.done_marker {
                    write!(f, "; with a .done marker")?;
                }
            }
        }
        write!(f, " ({})", self.source)
    }
}

/// Files written in place have no versions: what is unlinked is gone, unless the rule says otherwise.
fn kept(mode: Mode, defaults: Defaults) -> Duration {
    match mode {
        Mode::Atomic => defaults.retain,
        Mode::Direct => Duration::ZERO,
    }
}

fn fallback(defaults: Defaults, source: String) -> Decision {
    Decision {
        mode: Mode::Atomic,
        commit: CommitAt::Close,
        on_kill: defaults.on_kill,
        on_failure_exit: defaults.on_failure_exit,
        retain: defaults.retain,
        done_marker: false,
        source,
    }
}

#[cfg(test)]
mod tests;
