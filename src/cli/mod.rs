//! The command line: options in, exit status out. Reading commands open the journal read-only and work with the daemon up
//! or down; commands that change something ask the daemon over its control socket.

mod doctor;
mod follow;
mod mount;
mod outbox;
mod quarantine;
mod remove;
mod rows;
mod show;
mod target;
mod totals;
mod verify;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::admin::control::ClientError;
use crate::config::{ConfigError, MountArgs};
use crate::journal::pages::Which;
use crate::journal::{DraftId, JournalError, OutboxId};
use crate::rules::{RuleError, Span};

/// What a command leaves to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// Done.
    Ok = 0,
    /// The request was fine and could not be carried out.
    Failure = 1,
    /// The request was wrong.
    Usage = 2,
    /// It did not happen in time, as timeout(1) says it.
    TimedOut = 124,
}

#[derive(Parser)]
#[command(name = "commitfs", version, about = "A file system that makes close() mean closed", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Machine-readable output
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Mount an export; returns when the mount serves
    Mount(MountArgs),
    /// Unmount when the commits in flight are done
    Umount {
        #[command(flatten)]
        target: Target,
        /// Quarantine what is pending, and take the mount away even if it is in use
        #[arg(short, long)]
        force: bool,
    },
    /// The daemon and its numbers
    Status {
        #[command(flatten)]
        target: Target,
    },
    /// Drafts that are not published yet
    Pending {
        #[command(flatten)]
        target: Target,
        /// Repeat every second; with --json one line each time
        #[arg(long)]
        watch: bool,
    },
    /// Drafts that have ended, newest last
    Log {
        #[command(flatten)]
        target: Target,
        /// How many
        #[arg(short, value_name = "N", default_value_t = 20)]
        n: usize,
        /// Only paths that match; a glob without '/' is matched against the last component
        #[arg(long, value_name = "GLOB")]
        path: Option<String>,
    },
    /// Everything about one draft
    Show {
        /// Its number
        id: DraftId,
        #[command(flatten)]
        at: At,
    },
    /// Drafts that were kept aside
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// Return when a commit of PATH is visible: at once if it is there; status 124 if it is not there in time
    Wait {
        /// On a mount, or relative to its root
        path: PathBuf,
        /// Only a commit that was recorded after commit ID, as `log` numbers them
        #[arg(long, value_name = "ID")]
        newer_than: Option<DraftId>,
        /// Only a version of exactly N bytes
        #[arg(long, value_name = "N")]
        size: Option<u64>,
        /// Give up after this time: 90, 250ms, 5m, 2h
        #[arg(long, value_name = "S")]
        timeout: Option<Span>,
        #[command(flatten)]
        at: At,
    },
    /// What happened last, or with --follow what happens
    Events {
        #[command(flatten)]
        target: Target,
        /// Go on as it happens, also when the daemon is restarted
        #[arg(short, long)]
        follow: bool,
        /// Begin after event ID
        #[arg(long, value_name = "ID")]
        after: Option<i64>,
        /// Only paths that match; a glob without '/' is matched against the last component
        #[arg(long, value_name = "GLOB")]
        path: Option<String>,
        /// Only this kind: begun, committed, quarantined, discarded…; may be given more than once
        #[arg(long, value_name = "KIND", value_delimiter = ',')]
        kind: Vec<String>,
        /// Run a shell command for each, one after the other: COMMITFS_KIND, COMMITFS_PATH, COMMITFS_FILE, COMMITFS_SIZE,
        /// COMMITFS_DRAFT, COMMITFS_EVENT, COMMITFS_DETAIL in its environment, the event as JSON on its input
        #[arg(long, value_name = "CMD")]
        exec: Option<String>,
    },
    /// Whether this machine and an export are fit for a mount; whatever can be tried is tried. Status 1 on a blocker
    Doctor {
        /// The folder to publish into
        source: PathBuf,
        /// Folder of the journal, as for mount
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
    /// Read again what was published, past caches, and compare it with size and digest in the journal
    Verify {
        #[command(flatten)]
        target: Target,
        /// Only what was published within this time: 90, 5m, 2h, 7d
        #[arg(long, value_name = "TIME")]
        since: Option<Span>,
        /// Only paths that match; a glob without '/' is matched against the last component
        #[arg(long, value_name = "GLOB")]
        path: Option<String>,
    },
    /// Change what the daemon logs from now on
    LogLevel {
        /// off, error, warn, info, debug or trace, or TARGET=LEVEL,…
        level: String,
        #[command(flatten)]
        at: At,
    },
    /// What was unlinked, replaced or removed and waits for the reaper
    #[command(subcommand)]
    Outbox(Outbox),
    /// What can be restored of it
    #[command(subcommand)]
    Trash(Trash),
    /// Remove a whole folder by one rename; its content goes in the background
    Rm {
        /// On a mount, or relative to its root
        path: PathBuf,
        /// With all that is in it
        #[arg(short, long)]
        recursive: bool,
        /// Send files that are being written in it to quarantine
        #[arg(short, long)]
        force: bool,
        /// Do not keep it for a while
        #[arg(long)]
        now: bool,
        /// Wait until its content is gone, which at a terminal is the default where it goes at once
        #[arg(short, long)]
        wait: bool,
        #[command(flatten)]
        at: At,
    },
    /// What a folder holds with all below it, from the journal
    Du {
        /// On a mount, or relative to its root
        #[arg(default_value = "")]
        path: PathBuf,
        /// Levels below it to show
        #[arg(short, long, value_name = "DEPTH", default_value_t = 1)]
        depth: usize,
        /// The largest first
        #[arg(short, long)]
        sort: bool,
        #[command(flatten)]
        at: At,
    },
    /// Count a folder and all below it again
    Refresh {
        /// On a mount, or relative to its root
        #[arg(default_value = "")]
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Compare staging and trash with the journal
    Fsck {
        #[command(flatten)]
        target: Target,
        /// Put right what is wrong
        #[arg(long)]
        repair: bool,
    },
    /// Which rule applies to a path, and why
    Rules {
        /// On a mount, or relative to its root
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Subcommand)]
enum Outbox {
    /// List it
    Ls {
        #[command(flatten)]
        target: Target,
        /// How many
        #[arg(short, value_name = "N", default_value_t = 1000)]
        n: usize,
    },
    /// Give rows all their attempts again; without numbers, every dead one
    Retry {
        /// Their numbers
        ids: Vec<OutboxId>,
        #[command(flatten)]
        at: At,
    },
    /// Give a dead row up: what it stands for stays in the trash folder
    Drop {
        /// Its number
        id: OutboxId,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Subcommand)]
enum Trash {
    /// List it
    Ls {
        #[command(flatten)]
        target: Target,
        /// How many
        #[arg(short, value_name = "N", default_value_t = 1000)]
        n: usize,
    },
    /// Put a file or a tree back under its old path
    Restore {
        /// Its number
        id: OutboxId,
        /// Under this path instead
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
        /// Also if a file has that name
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        at: At,
    },
    /// Remove now what is kept for a while; without numbers, everything
    Purge {
        /// Their numbers
        ids: Vec<OutboxId>,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Subcommand)]
enum Quarantine {
    /// List them
    Ls {
        #[command(flatten)]
        target: Target,
    },
    /// Everything about one of them, and where its content is
    Show {
        /// Its number
        id: DraftId,
        #[command(flatten)]
        at: At,
    },
    /// Copy its content to a file; '-' is standard output
    Save {
        /// Its number
        id: DraftId,
        /// Replaced if it exists
        file: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Publish it under the path it was meant for
    Publish {
        /// Its number
        id: DraftId,
        #[command(flatten)]
        at: At,
    },
    /// Give its content up
    Discard {
        /// Its number
        id: DraftId,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        at: At,
    },
}

/// Which mount is meant, where something else has the first position.
#[derive(Args)]
struct At {
    /// Mount point or export; not needed while exactly one is mounted
    #[arg(long, value_name = "PATH")]
    at: Option<PathBuf>,
    /// Folder of the journal; wins over a path
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Which mount is meant.
#[derive(Args)]
struct Target {
    /// Mount point or export; not needed while exactly one is mounted
    #[arg(value_name = "PATH")]
    target: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "PATH", conflicts_with = "target")]
    at: Option<PathBuf>,
    /// Folder of the journal; wins over a path
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl At {
    fn place(&self) -> Place<'_> {
        Place { path: self.at.as_deref(), state_dir: self.state_dir.as_deref() }
    }
}

impl Target {
    fn place(&self) -> Place<'_> {
        Place { path: self.target.as_deref().or(self.at.as_deref()), state_dir: self.state_dir.as_deref() }
    }
}

/// What the user said of which mount is meant.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: Option<&'a Path>,
    state_dir: Option<&'a Path>,
}

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failure(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Daemon(#[from] ClientError),
    #[error("--path: {0}")]
    Glob(#[from] RuleError),
    /// What was waited for did not happen.
    #[error("timed out")]
    TimedOut,
    /// The one who waits was told already.
    #[error("told already")]
    Told,
    /// Writing the output failed; nobody listening is not worth a word.
    #[error("writing output: {0}")]
    Output(io::Error),
}

impl CliError {
    fn exit(&self) -> Exit {
        match self {
            CliError::Usage(_) | CliError::Config(ConfigError::Usage(_)) | CliError::Glob(_) => Exit::Usage,
            CliError::TimedOut => Exit::TimedOut,
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            CliError::Failure(_)
            | CliError::Told
            | CliError::Config(ConfigError::Environment(_))
            | CliError::Journal(_)
            | CliError::Daemon(_)
            | CliError::Output(_) => Exit::Failure,
        }
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let exit = match Cli::try_parse_from(as_mount_helper(std::env::args_os().collect())) {
        Ok(cli) => match dispatch(cli) {
            Ok(()) => Exit::Ok,
            Err(error) => {
                let exit = error.exit();
                if exit != Exit::Ok && !matches!(error, CliError::Told) {
                    eprintln!("commitfs: {error}");
                }
                exit
            }
        },
        Err(error) => {
            // Help goes to standard output, errors to standard error; if neither can be written, the status remains.
            error.print().unwrap_or_default();
            if error.use_stderr() { Exit::Usage } else { Exit::Ok }
        }
    };
    ExitCode::from(exit as u8)
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let json = cli.json;
    match cli.command {
        Command::Mount(args) => mount::mount(&args),
        Command::Umount { target, force } => mount::umount(target.place(), force),
        Command::Status { target } => show::status(target.place(), json),
        Command::Pending { target, watch } => show::pending(target.place(), watch, json),
        Command::Log { target, n, path } => show::log(target.place(), n, path.as_deref(), json),
        Command::Show { id, at } => show::show(at.place(), id, json),
        Command::Wait { path, newer_than, size, timeout, at } => {
            let condition = follow::Condition { newer_than, size };
            follow::wait(at.place(), &path, condition, timeout.map(|span| span.0), json)
        }
        Command::Events { target, follow, after, path, kind, exec } => {
            let (path, exec) = (path.as_deref(), exec.as_deref());
            follow::events(target.place(), &follow::Follow { follow, after, path, kinds: &kind, exec, json })
        }
        Command::Doctor { source, state_dir } => doctor::doctor(&source, state_dir.as_deref(), json),
        Command::Verify { target, since, path } => {
            verify::verify(target.place(), since.map(|span| span.0), path.as_deref(), json)
        }
        Command::LogLevel { level, at } => show::log_level(at.place(), &level, json),
        Command::Outbox(command) => match command {
            Outbox::Ls { target, n } => outbox::list(target.place(), Which::All, n, json),
            Outbox::Retry { ids, at } => outbox::retry(at.place(), &ids, json),
            Outbox::Drop { id, at } => outbox::drop_row(at.place(), id, json),
        },
        Command::Trash(command) => match command {
            Trash::Ls { target, n } => outbox::list(target.place(), Which::Restorable, n, json),
            Trash::Restore { id, to, replace, at } => outbox::restore(at.place(), id, to.as_deref(), replace, json),
            Trash::Purge { ids, at } => outbox::purge(at.place(), &ids, json),
        },
        Command::Rm { path, recursive, force, now, wait, at } => {
            remove::remove(at.place(), &path, remove::Wishes { recursive, force, now, wait }, json)
        }
        Command::Du { path, depth, sort, at } => totals::du(at.place(), &path, depth, sort, json),
        Command::Refresh { path, at } => totals::refresh(at.place(), &path, json),
        Command::Fsck { target, repair } => remove::fsck(target.place(), repair, json),
        Command::Rules { path, at } => show::rules(at.place(), &path, json),
        Command::Quarantine(command) => match command {
            Quarantine::Ls { target } => quarantine::list(target.place(), json),
            Quarantine::Show { id, at } => quarantine::show(at.place(), id, json),
            Quarantine::Save { id, file, at } => quarantine::save(at.place(), id, &file, json),
            Quarantine::Publish { id, at } => quarantine::publish(at.place(), id, json),
            Quarantine::Discard { id, yes, at } => quarantine::discard(at.place(), id, yes, json),
        },
    }
}

/// mount(8) calls `mount.commitfs SOURCE DIR [-sfnv] [-o OPTS] [-t TYPE]`: our `mount`, with flags of its own.
fn as_mount_helper(args: Vec<OsString>) -> Vec<OsString> {
    let called = args.first().map(Path::new).and_then(Path::file_name).unwrap_or(OsStr::new("commitfs"));
    if !called.as_encoded_bytes().starts_with(b"mount.") {
        return args;
    }
    let mut helper = vec![OsString::from("commitfs"), OsString::from("mount")];
    let mut rest = args.into_iter().skip(1);
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            // Tolerate sloppy options, write no mtab, be verbose: nothing to do for any of them.
            Some("-s" | "-n" | "-v" | "-sn" | "-sv" | "-nv") => {}
            Some("-t" | "-N") => drop(rest.next()),
            _ => helper.push(arg),
        }
    }
    helper
}

/// Writes to standard output, all of it at once.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Writes one JSON value and a newline.
fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print(&format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn called_by_mount() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let args = as_mount_helper(words("/sbin/mount.commitfs /e /m -n -o rw,nodev -t fuse.commitfs"));
        assert_eq!(args, words("commitfs mount /e /m -o rw,nodev"));
        let Command::Mount(mount) = Cli::try_parse_from(args).unwrap().command else { panic!("not mount") };
        assert_eq!(mount.options, ["rw,nodev"]);
        assert_eq!(as_mount_helper(words("commitfs -n")), words("commitfs -n"));
    }

    #[test]
    fn one_place_only() {
        assert!(Cli::try_parse_from(["commitfs", "status", "/m", "--at", "/n"]).is_err());
        assert!(Cli::try_parse_from(["commitfs", "pending", "/m", "--json"]).unwrap().json);
        assert!(Cli::try_parse_from(["commitfs", "quarantine", "publish", "3", "--at", "/m"]).is_ok());
    }
}
