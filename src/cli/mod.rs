//! The command line: options in, exit status out. Reading commands open the journal read-only and work with the daemon up
//! or down; commands that change something ask the daemon over its control socket.

mod args;
mod daemon;
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
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command, Outbox, Place, Quarantine, Trash};

use crate::admin::control::ClientError;
use crate::config::ConfigError;
use crate::journal::JournalError;
use crate::journal::pages::Which;
use crate::rules::{RuleError, Rules};

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
    Glob(RuleError),
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
                    eprintln!("commitfs: {}", rows::message(&error.to_string()));
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
        Command::Du { path, depth, sort, at } => totals::du(at.place(), path.as_deref(), depth, sort, json),
        Command::Refresh { path, at } => totals::refresh(at.place(), path.as_deref(), json),
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

/// mount(8) calls `mount.fuse.commitfs SOURCE DIR [-sfnv] [-N SPACE] [-o OPTS] [-t TYPE]`: our `mount`, with flags that are
/// its own.
fn as_mount_helper(args: Vec<OsString>) -> Vec<OsString> {
    let called = args.first().map(Path::new).and_then(Path::file_name).unwrap_or(OsStr::new("commitfs"));
    if !called.as_encoded_bytes().starts_with(b"mount.") {
        return args;
    }
    let mut helper = vec![OsString::from("commitfs"), OsString::from("mount")];
    let mut rest = args.into_iter().skip(1);
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some("-t" | "-N") => drop(rest.next()),
            Some("-o") => helper.extend([Some(arg), rest.next()].into_iter().flatten()),
            Some(flags) if is_of_flags(flags) => {
                // No mtab is written, and there is nothing to be verbose about.
                helper.extend(flags.contains('f').then(|| OsString::from("--fake")));
                helper.extend(flags.contains('s').then(|| OsString::from("--sloppy")));
            }
            _ => helper.push(arg),
        }
    }
    helper
}

/// Whether these are flags of mount(8), one or more.
fn is_of_flags(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|flags| !flags.is_empty() && flags.chars().all(|flag| "sfnv".contains(flag)))
}

/// The rules that a daemon has written into its journal.
fn stored_rules(text: &str) -> Result<Rules, CliError> {
    Rules::from_toml(text).map_err(|error| CliError::Failure(format!("rules that the journal has stored: {error}")))
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
    fn only_a_glob_of_the_command_line_is_wrong_usage() {
        let error = stored_rules("rule = 7").unwrap_err();
        assert_eq!(error.exit(), Exit::Failure);
        assert!(error.to_string().starts_with("rules that the journal has stored: "), "{error}");
        let error = crate::rules::matcher(Some("[")).map_err(CliError::Glob).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().starts_with("--path: "), "{error}");
    }

    #[test]
    fn called_by_mount() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let args = as_mount_helper(words("/sbin/mount.fuse.commitfs /e /m -n -o rw,nodev -t fuse.commitfs"));
        assert_eq!(args, words("commitfs mount /e /m -o rw,nodev"));
        let Command::Mount(mount) = Cli::try_parse_from(args).unwrap().command else { panic!("not mount") };
        assert_eq!(mount.options, ["rw,nodev"]);
        let args = as_mount_helper(words("mount.commitfs /e /m -f -sv -o ro"));
        assert_eq!(args, words("commitfs mount /e /m --fake --sloppy -o ro"));
        assert_eq!(as_mount_helper(words("commitfs -n")), words("commitfs -n"));
    }

    #[test]
    fn one_place_only() {
        assert!(Cli::try_parse_from(["commitfs", "status", "/m", "--at", "/n"]).is_err());
        assert!(Cli::try_parse_from(["commitfs", "pending", "/m", "--json"]).unwrap().json);
        assert!(Cli::try_parse_from(["commitfs", "quarantine", "publish", "3", "--at", "/m"]).is_ok());
    }
}
