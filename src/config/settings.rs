//! What a configuration file and `-o` may say. `None` is "not said".

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IntoDeserializer as _;

use super::ConfigError;
use crate::log::LogFormat;
use crate::rules::{OnFailureExit, OnKill, Rule, Span};

/// Whose word a lookup trusts when another host may have published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// The server's: a miss and an open revalidate.
    #[default]
    Open,
    /// The NFS client's caches.
    Ttl,
}

/// Flags that are handed to the kernel as they are.
const KERNEL: &[&str] =
    &["dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync"];

/// Words of fstab that mean something to others, and nothing to a mount.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
];

/// Names that take a value or stand for yes, for the message on unknown ones.
const NAMED: &str = "ro, rw, allow_other, default_permissions, freshness=, ttl=, threads=, commit_workers=, passthrough, \
                     writeback, on_kill=, on_failure_exit=, retain=, reap_rate=, reap_segment=, reap_backoff=, \
                     max_attempts=, watermark=, totals, recount=, sweep=, lease=, history=, state_dir=, admin=, \
                     admin_token_file=, admin_host=, log_format=, settle=";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    pub state_dir: Option<PathBuf>,
    pub allow_other: Option<bool>,
    pub default_permissions: Option<bool>,
    pub read_only: Option<bool>,
    #[serde(rename = "options")]
    pub kernel_options: Vec<KernelOption>,
    pub freshness: Option<Freshness>,
    pub ttl: Option<Span>,
    pub threads: Option<Count>,
    pub commit_workers: Option<Count>,
    pub passthrough: Option<bool>,
    pub writeback: Option<bool>,
    pub on_kill: Option<OnKill>,
    pub on_failure_exit: Option<OnFailureExit>,
    pub retain: Option<Span>,
    pub admin: Option<String>,
    pub admin_token_file: Option<PathBuf>,
    pub admin_hosts: Vec<String>,
    pub settle: Option<Span>,
    pub log_format: Option<LogFormat>,
    pub reap_rate: Option<Positive>,
    pub reap_segment: Option<Positive>,
    pub reap_backoff: Option<Span>,
    pub max_attempts: Option<Positive>,
    pub watermark: Option<Percent>,
    pub totals: Option<bool>,
    pub recount: Option<Span>,
    pub sweep: Option<Span>,
    pub lease: Option<Lease>,
    pub history: Option<Kept>,
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
    /// Options that nobody knows are passed over.
    #[serde(skip)]
    pub sloppy: bool,
}

/// A flag the kernel knows.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct KernelOption(String);

impl TryFrom<String> for KernelOption {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        if KERNEL.contains(&word.as_str()) {
            Ok(KernelOption(word))
        } else {
            Err(format!("unknown kernel option {word:?}, expected one of {}", KERNEL.join(", ")))
        }
    }
}

impl From<KernelOption> for String {
    fn from(option: KernelOption) -> String {
        option.0
    }
}

/// A number within limits.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64", bound = "T: TryFrom<i64>")]
pub(super) struct Within<T, const MIN: i64, const MAX: i64>(pub T);

/// A number of threads.
pub(super) type Count = Within<usize, 1, 256>;
/// A number from one on.
pub(super) type Positive = Within<u32, 1, { u32::MAX as i64 }>;
/// A number of events to keep: more than can be on their way.
pub(super) type Kept = Within<i64, 1000, { i64::MAX }>;
/// Percent of the file system's space.
pub(super) type Percent = Within<u8, 0, 90>;

impl<T: TryFrom<i64>, const MIN: i64, const MAX: i64> TryFrom<i64> for Within<T, MIN, MAX> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let fits = if (MIN..=MAX).contains(&number) { T::try_from(number).ok() } else { None };
        // A limit that only the type has is not worth a word.
        let expected = if MAX < i64::from(u32::MAX) { format!("{MIN} to {MAX}") } else { format!("{MIN} or more") };
        fits.map(Within).ok_or_else(|| format!("{number} is out of range, expected {expected}"))
    }
}

/// How long an instance may be silent: long enough for its signs of life, of which there are five, to come late.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Span")]
pub(super) struct Lease(pub Duration);

impl TryFrom<Span> for Lease {
    type Error = String;

    fn try_from(span: Span) -> Result<Self, String> {
        match span.0 {
            long if long >= Duration::from_secs(1) => Ok(Lease(long)),
            _ => Err(format!(
                "{span} is too short, expected 1s or more: others take whoever is silent that long for dead"
            )),
        }
    }
}

impl Settings {
    /// Reads a configuration file. Errors name file, line and key.
    pub(super) fn read(file: &Path) -> Result<Settings, ConfigError> {
        let shown = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError::Usage(format!("configuration file {shown}: {error}")))?;
        toml::from_str(&text).map_err(|error| {
            // What TOML's reader says of a word that is none tells how it works, not what to write.
            let message =
                error.message().replace('\n', " ").replace("wanted string or table", "expected a word in quotes");
            ConfigError::Usage(match error.span() {
                Some(span) => {
                    let (line, key) = place(&text, span.start);
                    if key.is_empty() || message.contains(&key) {
                        format!("{shown}:{line}: {message}")
                    } else {
                        format!("{shown}:{line}: {key}: {message}")
                    }
                }
                None => format!("configuration file {shown}: {message}"),
            })
        })
    }

    /// Applies one `-o` list; the last word wins.
    pub(super) fn apply(&mut self, list: &str) -> Result<(), ConfigError> {
        for option in list.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            self.apply_one(option).map_err(|message| ConfigError::Usage(format!("option -o {option}: {message}")))?;
        }
        Ok(())
    }

    fn apply_one(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("ro", None) => self.read_only = Some(true),
            ("rw", None) => self.read_only = Some(false),
            ("allow_other", value) => self.allow_other = Some(flag(value)?),
            ("noallow_other", None) => self.allow_other = Some(false),
            ("default_permissions", value) => self.default_permissions = Some(flag(value)?),
            ("nodefault_permissions", None) => self.default_permissions = Some(false),
            ("passthrough", value) => self.passthrough = Some(flag(value)?),
            ("nopassthrough", None) => self.passthrough = Some(false),
            ("writeback", value) => self.writeback = Some(flag(value)?),
            ("nowriteback", None) => self.writeback = Some(false),
            ("freshness", Some(value)) => self.freshness = Some(word(value)?),
            ("on_kill", Some(value)) => self.on_kill = Some(word(value)?),
            ("on_failure_exit", Some(value)) => self.on_failure_exit = Some(word(value)?),
            ("ttl", Some(value)) => self.ttl = Some(value.parse()?),
            ("retain", Some(value)) => self.retain = Some(value.parse()?),
            ("reap_rate", Some(value)) => self.reap_rate = Some(number(value)?),
            ("reap_segment", Some(value)) => self.reap_segment = Some(number(value)?),
            ("reap_backoff", Some(value)) => self.reap_backoff = Some(value.parse()?),
            ("max_attempts", Some(value)) => self.max_attempts = Some(number(value)?),
            ("watermark", Some(value)) => self.watermark = Some(number(value)?),
            ("totals", value) => self.totals = Some(flag(value)?),
            ("nototals", None) => self.totals = Some(false),
            ("recount", Some(value)) => self.recount = Some(value.parse()?),
            ("sweep", Some(value)) => self.sweep = Some(value.parse()?),
            ("lease", Some(value)) => self.lease = Some(value.parse::<Span>()?.try_into()?),
            ("history", Some(value)) => self.history = Some(number(value)?),
            ("threads", Some(value)) => self.threads = Some(number(value)?),
            ("commit_workers", Some(value)) => self.commit_workers = Some(number(value)?),
            ("admin", Some(value)) => self.admin = Some(value.to_owned()),
            ("admin_token_file", Some(value)) if !value.is_empty() => {
                self.admin_token_file = Some(PathBuf::from(value))
            }
            ("admin_host", Some(value)) if !value.is_empty() => self.admin_hosts.push(value.to_owned()),
            ("settle", Some(value)) => self.settle = Some(value.parse()?),
            ("log_format", Some(value)) => self.log_format = Some(word(value)?),
            ("state_dir", Some(value)) if !value.is_empty() => self.state_dir = Some(PathBuf::from(value)),
            (
                "freshness" | "on_kill" | "on_failure_exit" | "ttl" | "retain" | "threads" | "commit_workers"
                | "state_dir" | "reap_rate" | "reap_segment" | "reap_backoff" | "max_attempts" | "watermark"
                | "recount" | "sweep" | "lease" | "history" | "admin" | "admin_token_file" | "admin_host"
                | "log_format" | "settle",
                _,
            ) => return Err(format!("needs a value: {name}=…")),
            (name, None) if KERNEL.contains(&name) => self.kernel_options.push(KernelOption(name.to_owned())),
            (name, None) if IGNORED.contains(&name) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("X-") || name == "comment" => {}
            ("remount", _) => {
                return Err("a mount is not changed while it serves; unmount it, and mount it anew".to_owned());
            }
            _ if self.sloppy => {}
            _ => return Err(format!("unknown; known are {NAMED}, {}", KERNEL.join(", "))),
        }
        Ok(())
    }
}

fn flag(value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "yes" | "on" | "1") => Ok(true),
        Some("false" | "no" | "off" | "0") => Ok(false),
        Some(other) => Err(format!("{other:?} is neither true nor false")),
    }
}

/// One of an enum's words; the error lists them.
fn word<'de, T: Deserialize<'de>>(value: &'de str) -> Result<T, String> {
    T::deserialize(value.into_deserializer()).map_err(|error: serde::de::value::Error| error.to_string())
}

fn number<T: TryFrom<i64, Error = String>>(value: &str) -> Result<T, String> {
    let number: i64 = value.parse().map_err(|_| format!("{value:?} is not a number"))?;
    T::try_from(number)
}

/// Line (from 1) of a position, and the key at the beginning of that line.
fn place(text: &str, at: usize) -> (usize, String) {
    let before = text.get(..at).unwrap_or(text);
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[begin..].lines().next().unwrap_or("");
    let key = line.split_once('=').map_or("", |(key, _)| key.trim());
    (before.matches('\n').count() + 1, key.to_owned())
}
