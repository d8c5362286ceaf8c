//! From words to a validated mount: command line, `-o` list and TOML file become one [`Config`].
//!
//! The file is overridden by `-o`, and `-o` by options of their own. Nothing is created here: a refusal leaves no trace.

mod admin;
mod ready;
mod settings;

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::admin::http;
use crate::commit::RESERVED;
use crate::journal;
use crate::log::LogFormat;
use crate::retention::ReaperOptions;
use crate::rules::{Defaults, Rule, Rules, Span};
use crate::sys::xattr;

pub use ready::{Failure, ReadySignal};
pub(crate) use ready::{LOG, READY, detach};
pub use settings::Freshness;
use settings::Settings;

/// The virtual extended attribute by which a mount's root tells where its journal is: an absolute path, raw bytes.
pub const STATE_DIR_XATTR: &str = "user.commitfs.state_dir";

const DAY: Duration = Duration::from_secs(86_400);

/// What `commitfs mount` was given.
#[derive(Clone, Debug, clap::Args)]
pub struct MountArgs {
    /// The folder to publish into, normally on an NFS mount
    pub source: PathBuf,
    /// Where applications work; may be SOURCE itself
    pub mountpoint: PathBuf,
    /// Stay in the foreground
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// Comma-separated mount options: kernel flags, or NAME=VALUE as in the configuration file
    #[arg(short = 'o', long = "options", value_name = "OPTS")]
    pub options: Vec<String>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the journal, on a local disk [default: below /var/lib/commitfs for root, else the XDG state folder]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Serve HTTP (API, events, metrics, web page) on TCP too: without a token only to look, and on loopback addresses only
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<String>,
    /// File with the token that requests over TCP must show
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// A name under which a proxy serves it, besides localhost and plain addresses
    #[arg(long, value_name = "NAME")]
    pub admin_host: Vec<String>,
    /// Read each commit again after this time (90, 5m, 2h) and compare it with its digest
    #[arg(long, value_name = "S")]
    pub settle: Option<Span>,
    /// How lines of the log look [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Look at everything, and mount nothing
    #[arg(long, hide = true)]
    pub fake: bool,
    /// Let options pass that nobody knows
    #[arg(long, hide = true)]
    pub sloppy: bool,
    /// Started by `mount` itself: report readiness on standard output
    #[arg(long, hide = true)]
    pub daemonized: bool,
}

/// A mount, validated: every path is absolute and was looked at.
#[derive(Clone, Debug)]
pub struct Config {
    /// The export, canonical.
    pub source: PathBuf,
    /// Where to mount, canonical; may be `source`.
    pub mountpoint: PathBuf,
    /// Folder of the journal and the control socket, absolute; need not exist yet.
    pub state_dir: PathBuf,
    /// Let other users in. Default: for root.
    pub allow_other: bool,
    /// Let the kernel check permissions.
    pub default_permissions: bool,
    /// Refuse every change.
    pub read_only: bool,
    /// Flags for the kernel, in order: `nodev`, `noatime`…
    pub kernel_options: Vec<String>,
    /// Whose word a lookup trusts.
    pub freshness: Freshness,
    /// How long the kernel may keep entries and attributes.
    pub ttl: Duration,
    /// Session threads.
    pub threads: usize,
    /// Commits that run at once.
    pub commit_workers: usize,
    /// Let the kernel read versions by itself where it can.
    pub passthrough: bool,
    /// Let the kernel gather writes to drafts.
    pub writeback: bool,
    /// The HTTP server.
    pub admin: http::Options,
    /// Read each commit again after this time.
    pub settle: Option<Duration>,
    /// How lines of the log look.
    pub log_format: LogFormat,
    /// How what was taken out of the name space is removed.
    pub reaper: ReaperOptions,
    /// Keep folder totals.
    pub totals: bool,
    /// Every folder is counted again after this time.
    pub recount: Duration,
    /// Between two comparisons of staging and trash with the journal.
    pub sweep: Duration,
    /// Events that the journal keeps, and with them the drafts that they tell of.
    pub history: i64,
    /// How each path is written.
    pub rules: Rules,
    /// The same as text, for the journal's meta row `rules`.
    pub rules_toml: String,
}

/// Why a mount was refused. The text names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The request is wrong; exit status 2.
    #[error("{0}")]
    Usage(String),
    /// The request is fine and the machine is not; exit status 1.
    #[error("{0}")]
    Environment(String),
}

impl Config {
    /// Reads the configuration file, applies `-o`, looks at the folders.
    pub fn from_args(args: &MountArgs) -> Result<Config, ConfigError> {
        let mut settings = match &args.config {
            Some(file) => Settings::read(file)?,
            None => Settings::default(),
        };
        settings.sloppy = args.sloppy;
        for list in &args.options {
            settings.apply(list)?;
        }
        let source = folder("source", &args.source, "give the folder to publish into")?;
        let mountpoint = folder("mount point", &args.mountpoint, "create it first: mkdir -p")?;
        if mountpoint != source && mountpoint.starts_with(&source) {
            return Err(ConfigError::Usage(format!(
                "mount point {}: is inside the source {}; mount over the source itself, or outside of it",
                mountpoint.display(),
                source.display()
            )));
        }
        check_source(&source)?;
        if let Some(state_dir) = mounted_state_dir(&source) {
            return Err(ConfigError::Environment(format!(
                "source {}: is a commitfs mount already (state folder {}); unmount it first: commitfs umount {}",
                source.display(),
                state_dir.display(),
                source.display()
            )));
        }
        let state_dir = match args.state_dir.clone().or(settings.state_dir.take()) {
            Some(dir) => absolute(&dir).map_err(|error| environment("state folder", &dir, &error))?,
            None => default_state_dir(&source).ok_or_else(|| {
                ConfigError::Usage(
                    "state folder: neither XDG_STATE_HOME nor HOME is set; give --state-dir DIR".to_owned(),
                )
            })?,
        };
        check_state_dir(&state_dir, &source, &mountpoint)?;

        let mut hosts = std::mem::take(&mut settings.admin_hosts);
        hosts.extend(args.admin_host.iter().cloned());
        let token_file = args.admin_token_file.as_deref().or(settings.admin_token_file.as_deref());
        let admin = admin::Said { listen: args.admin.as_deref().or(settings.admin.as_deref()), token_file, hosts };
        let admin = admin.options()?;

        let defaults = Defaults {
            on_kill: settings.on_kill.unwrap_or_default(),
            on_failure_exit: settings.on_failure_exit.unwrap_or_default(),
            retain: settings.retain.map_or(Defaults::default().retain, |span| span.0),
        };
        if let Some(void) = settings.rules.iter().find_map(Rule::is_void) {
            return Err(ConfigError::Usage(void));
        }
        let allow_other = settings.allow_other.unwrap_or_else(is_root);
        let default_permissions = settings.default_permissions.unwrap_or(true);
        if allow_other && !default_permissions {
            return Err(ConfigError::Usage(
                "default_permissions=off with allow_other lets every user do what the daemon may: add allow_other=off"
                    .to_owned(),
            ));
        }
        let rules = Rules::new(settings.rules, defaults).map_err(|error| ConfigError::Usage(error.to_string()))?;
        Ok(Config {
            source,
            mountpoint,
            state_dir,
            allow_other,
            default_permissions,
            read_only: settings.read_only.unwrap_or(false),
            kernel_options: settings.kernel_options.into_iter().map(String::from).collect(),
            freshness: settings.freshness.unwrap_or_default(),
            ttl: settings.ttl.map_or(Duration::from_secs(1), |span| span.0),
            threads: settings.threads.map_or(8, |count| count.0),
            commit_workers: settings.commit_workers.map_or(16, |count| count.0),
            passthrough: settings.passthrough.unwrap_or(true),
            writeback: settings.writeback.unwrap_or(true),
            admin,
            settle: args.settle.or(settings.settle).map(|span| span.0),
            log_format: args.log_format.or(settings.log_format).unwrap_or_default(),
            reaper: ReaperOptions {
                segment: settings.reap_segment.map_or(256, |count| count.0 as usize),
                rate: settings.reap_rate.map_or(5000, |count| count.0),
                max_attempts: settings.max_attempts.map_or(8, |count| count.0),
                backoff: settings.reap_backoff.map_or(Duration::from_secs(1), |span| span.0),
                watermark: settings.watermark.map_or(5, |percent| percent.0),
                retain: defaults.retain,
                lease: settings.lease.map_or(Duration::from_secs(600), |span| span.0),
            },
            totals: settings.totals.unwrap_or(true),
            history: settings.history.map_or(1_000_000, |kept| kept.0),
            recount: settings.recount.map_or(DAY, |span| span.0),
            sweep: settings.sweep.map_or(Duration::from_secs(3600), |span| span.0),
            rules_toml: rules.to_toml(),
            rules,
        })
    }
}

/// Neither what an export hides nor what a mount shows is an export.
fn check_source(source: &Path) -> Result<(), ConfigError> {
    if source.components().any(|part| part.as_os_str() == RESERVED) {
        let shown = source.display();
        return Err(ConfigError::Usage(format!("source {shown}: lies in the folder that commitfs keeps for itself")));
    }
    let device = |folder: &Path| fs::metadata(folder).map(|metadata| metadata.dev());
    let Ok(own) = device(source) else { return Ok(()) };
    let on = |above: &&Path| device(above).is_ok_and(|dev| dev == own) && mounted_state_dir(above).is_some();
    match source.ancestors().skip(1).find(on) {
        Some(above) => Err(ConfigError::Environment(format!(
            "source {}: lies on the commitfs mount {}; give the folder on that mount's own source",
            source.display(),
            above.display()
        ))),
        None => Ok(()),
    }
}

/// The state folder of the mount whose root this folder is; `None` for any other folder.
pub fn mounted_state_dir(folder: &Path) -> Option<PathBuf> {
    let metadata = fs::metadata(folder).ok()?;
    if !metadata.is_dir() {
        return None;
    }
    let root = File::open(folder).ok()?;
    let value = xattr::get(&root, STATE_DIR_XATTR.as_ref()).ok()?;
    (value.first() == Some(&b'/')).then(|| PathBuf::from(std::ffi::OsStr::from_bytes(&value)))
}

/// Where state folders are by default: `/var/lib/commitfs` for root, below the XDG state folder otherwise.
pub fn state_base() -> Option<PathBuf> {
    if is_root() {
        return Some(PathBuf::from("/var/lib/commitfs"));
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("commitfs"))
}

/// The default state folder of an export, given its canonical path: a readable name and a hash of the whole path.
pub fn default_state_dir(source: &Path) -> Option<PathBuf> {
    let name: String = match source.components().next_back() {
        Some(Component::Normal(name)) => name
            .as_bytes()
            .iter()
            .take(40)
            .map(|&byte| if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) { char::from(byte) } else { '_' })
            .collect(),
        _ => "root".to_owned(),
    };
    let hash = xxhash_rust::xxh3::xxh3_64(source.as_os_str().as_bytes());
    Some(state_base()?.join(format!("{name}-{:010x}", hash >> 24)))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn folder(what: &str, path: &Path, remedy: &str) -> Result<PathBuf, ConfigError> {
    let shown = path.display();
    match look_at(path) {
        Ok((metadata, canonical)) if metadata.is_dir() => Ok(canonical),
        Ok(_) => Err(ConfigError::Usage(format!("{what} {shown}: is not a folder"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ConfigError::Usage(format!("{what} {shown}: does not exist; {remedy}")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(ConfigError::Usage(format!("{what} {shown}: is not a folder")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(ConfigError::Environment(format!(
            "{what} {shown}: is the mount of a daemon that is gone; remove it first: commitfs umount {shown}"
        ))),
        Err(error) => Err(environment(what, path, &error)),
    }
}

fn look_at(path: &Path) -> io::Result<(fs::Metadata, PathBuf)> {
    let canonical = fs::canonicalize(path)?;
    let metadata = fs::metadata(&canonical)?;
    // The mount of a daemon that is gone may still answer for attributes, from the kernel's cache.
    match fs::read_dir(&canonical) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(error),
        _ => Ok((metadata, canonical)),
    }
}

fn environment(what: &str, path: &Path, error: &io::Error) -> ConfigError {
    ConfigError::Environment(format!("{what} {}: {error}", path.display()))
}

/// Absolute and free of symlinks as far as it exists.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut existing = path.as_path();
    loop {
        match fs::canonicalize(existing) {
            Ok(canonical) => return Ok(missing.iter().rev().fold(canonical, |path, name| path.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match (existing.parent(), existing.file_name()) {
                (Some(parent), Some(name)) => {
                    missing.push(name);
                    existing = parent;
                }
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
}

fn check_state_dir(dir: &Path, source: &Path, mountpoint: &Path) -> Result<(), ConfigError> {
    for (what, folder) in [("source", source), ("mount point", mountpoint)] {
        if dir.starts_with(folder) {
            return Err(ConfigError::Usage(format!(
                "state folder {}: is inside the {what} {}; choose one outside with --state-dir",
                dir.display(),
                folder.display()
            )));
        }
    }
    if dir.exists() && !dir.is_dir() {
        return Err(ConfigError::Usage(format!("state folder {}: is not a folder", dir.display())));
    }
    journal::check_local(dir).map_err(|error| ConfigError::Environment(error.to_string()))
}

#[cfg(test)]
mod tests;
