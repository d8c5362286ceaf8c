//! Which paths are published atomically and which are written in place: ordered globs, the first match wins.
//!
//! The user's rules come first, then [`BUILT_IN`], then the mount's defaults. A glob without `/` is matched against the
//! last component, in any folder; one with `/` against the whole path relative to the mount. Names are bytes. Where no rule
//! matches, the content decides whether a file is a database.

mod database;

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use globset::{Candidate, Glob, GlobBuilder, GlobSet};
use serde::{Deserialize, Serialize};

pub use database::{has_pages, is_database, is_database_at};

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
            self.glob.0
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
                source: format!("rule {} of the configuration, {:?}", index + 1, rule.glob.0),
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

/// Compiles a glob with the meaning it has in a rule: `*` and `?` never match a slash, `**/` is any number of folders.
/// Alternatives with and without a slash in one glob count as with one.
pub fn compile(glob: &str) -> Result<Glob, RuleError> {
    let refuse = |message: &str| Err(RuleError::Glob { glob: glob.to_owned(), message: message.to_owned() });
    if glob.is_empty() {
        return refuse("is empty");
    }
    if let Some(folder) = glob.strip_suffix('/') {
        return refuse(&format!("names a folder and would match no file; for all files below it, write {folder}/**"));
    }
    // Paths are matched as the mount has them: from its root, in one way of writing each.
    for part in glob.strip_prefix('/').unwrap_or(glob).split('/') {
        match part {
            "" => return refuse("would match no file: no path has two slashes in a row"),
            "." | ".." => {
                return refuse(&format!(
                    "would match no file: no path has {part:?} in it; write it from the mount's root on"
                ));
            }
            _ => {}
        }
    }
    let anchored = match glob.strip_prefix('/') {
        Some(rooted) => rooted.to_owned(),
        None if glob.contains('/') => glob.to_owned(),
        None => format!("**/{glob}"),
    };
    GlobBuilder::new(&anchored)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| RuleError::Glob { glob: glob.to_owned(), message: error.kind().to_string() })
}

/// A glob that is known to compile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl Pattern {
    fn compile(&self) -> Result<Glob, RuleError> {
        compile(&self.0)
    }
}

impl TryFrom<String> for Pattern {
    type Error = RuleError;

    fn try_from(glob: String) -> Result<Self, RuleError> {
        compile(&glob)?;
        Ok(Pattern(glob))
    }
}

/// A length of time as people write it: `0`, `90` (seconds), `250ms`, `60s`, `5m`, `2h`, `7d`; a hundred
/// years at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Span(pub Duration);

/// A hundred years in milliseconds: with more than that, no time from now on could be told.
const LONGEST: u64 = 36_500 * 86_400_000;

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a length of time: a number of seconds, or '250ms', '60s', '5m', '2h', '7d'")]
enum Written {
    Seconds(u64),
    Text(String),
}

impl TryFrom<Written> for Span {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Seconds(seconds) => seconds.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let milliseconds = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => 0,
        };
        let total = number.parse::<u64>().ok().filter(|_| milliseconds > 0).map(|n| n.saturating_mul(milliseconds));
        match total {
            Some(total) if total > LONGEST => Err(format!("{text:?} is too long; 36500d is the most")),
            Some(total) => Ok(Span(Duration::from_millis(total))),
            None => Err(format!("{text:?} is no length of time; write 250ms, 60s, 5m, 2h or 7d")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            seconds if seconds % 1000 == 0 => write!(f, "{}s", seconds / 1000),
            milliseconds => write!(f, "{milliseconds}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(text: &str) -> Rules {
        let head = "on_kill = 'quarantine'\non_failure_exit = 'publish'\nretain = '60s'\n";
        Rules::from_toml(&format!("{head}{text}")).unwrap()
    }

    #[test]
    fn built_in_rules_look_at_the_last_component() {
        let rules = Rules::default();
        let direct: [&[u8]; 10] = [
            b"a.lock",
            b"d/e/a.pid",
            b".log",
            b"x/\xff\xfe.log",
            b"app.sqlite",
            b"app.sqlite3-wal",
            b"a.db",
            b"d/a.db-wal",
            b"a-shm",
            b"a\nb-journal",
        ];
        for path in direct {
            assert_eq!(rules.decide(path).mode, Mode::Direct, "{}", path.escape_ascii());
        }
        let atomic: [&[u8]; 7] = [b"", b"a", b"x.log/file", b"log", b"a.lockx", b"a.db/x", b"\xff\xfe"];
        for path in atomic {
            assert_eq!(rules.decide(path).mode, Mode::Atomic, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn the_first_match_wins_and_the_users_come_first() {
        let rules = rules(
            "[[rule]]\nglob = 'keep.log'\ndone_marker = true\n\
             [[rule]]\nglob = 'cache/**'\nmode = 'direct'\n\
             [[rule]]\nglob = 'cache/x'\nretain = 0\n\
             [[rule]]\nglob = '*.tmp'\nretain = '2h'\non_kill = 'publish'\non_failure_exit = 'quarantine'\n",
        );
        let keep = rules.decide(b"d/keep.log");
        assert_eq!((keep.mode, keep.done_marker), (Mode::Atomic, true));
        assert!(keep.source.contains("rule 1") && keep.source.contains("keep.log"), "{}", keep.source);
        assert_eq!(rules.decide(b"cache/x").mode, Mode::Direct);
        assert_eq!(rules.decide(b"cache/d/x.tmp").mode, Mode::Direct);
        assert_eq!(rules.decide(b"d/cache/x").mode, Mode::Atomic);
        let tmp = rules.decide(b"a.tmp");
        assert_eq!(tmp.retain, Duration::from_secs(7200));
        assert_eq!((tmp.on_kill, tmp.on_failure_exit), (OnKill::Publish, OnFailureExit::Quarantine));
        assert_eq!(rules.decide(b"other").source, "default: no rule matches");
    }

    #[test]
    fn the_content_is_asked_only_where_no_rule_matches() {
        let rules = rules("[[rule]]\nglob = 'kept'\n");
        assert_eq!(rules.decide_for(b"store", || true).mode, Mode::Direct);
        assert_eq!(rules.decide_for(b"store", || false).mode, Mode::Atomic);
        for (path, mode) in [(&b"kept"[..], Mode::Atomic), (b"a.db", Mode::Direct)] {
            assert_eq!(rules.decide_for(path, || panic!("asked")).mode, mode);
        }
    }

    #[test]
    fn a_glob_with_a_slash_is_the_whole_path() {
        let rules = rules(
            "[[rule]]\nglob = '/top'\nmode = 'direct'\n[[rule]]\nglob = 'd/*'\nmode = 'direct'\n\
             [[rule]]\nglob = '**/e/f'\nmode = 'direct'\n",
        );
        for (path, mode) in [
            ("top", Mode::Direct),
            ("d/top", Mode::Direct),
            ("x/top", Mode::Atomic),
            ("d/x/y", Mode::Atomic),
            ("e/f", Mode::Direct),
            ("a/b/e/f", Mode::Direct),
        ] {
            assert_eq!(rules.decide(path.as_bytes()).mode, mode, "{path}");
        }
    }

    #[test]
    fn rules_survive_as_text() {
        let rules =
            rules("[[rule]]\nglob = '*.x\\'\nmode = 'direct'\nretain = '1500ms'\n".replace("\\'", "'").as_str());
        let again = Rules::from_toml(&rules.to_toml()).unwrap();
        assert_eq!(again.decisions, rules.decisions);
        assert_eq!(Rules::from_toml(&Rules::default().to_toml()).unwrap().decisions, Rules::default().decisions);
    }

    #[test]
    fn wrong_rules_are_named() {
        for glob in ["", "folder/", "a[", "{a", "./a/*", "a//b", "//a", "../b", "a/./b", "a/..", ".", ".."] {
            let error = compile(glob).unwrap_err().to_string();
            assert!(error.contains(&format!("{glob:?}")), "{error}");
        }
        for glob in ["...", ".a/*", "a/.b/..c", "/a", "**/..a", "a/**"] {
            assert!(compile(glob).is_ok(), "{glob}");
        }
        assert!("5x".parse::<Span>().is_err());
        assert!("".parse::<Span>().is_err());
        assert!("99999999999999999999d".parse::<Span>().is_err());
        assert_eq!("36500d".parse::<Span>().unwrap().0, Duration::from_secs(36_500 * 86_400));
        assert!("36501d".parse::<Span>().unwrap_err().contains("36500d is the most"));
        assert!(Span::try_from(Written::Seconds(i64::MAX as u64)).unwrap_err().contains("too long"));
        assert_eq!("5m".parse::<Span>().unwrap().0, Duration::from_secs(300));
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_decision(path in prop::collection::vec(any::<u8>(), 0..64)) {
            let rules = Rules::default();
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
            let direct = [&b".lock"[..], b".pid", b".log", b".db", b"-wal", b"-shm", b"-journal"]
                .iter()
                .any(|end| name.ends_with(end))
                || name.windows(7).any(|part| part == b".sqlite");
            prop_assert_eq!(rules.decide(&path).mode == Mode::Direct, direct);
        }
    }
}
