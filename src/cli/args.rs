//! The grammar: commands, their arguments, and what help says of them.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::MountArgs;
use crate::journal::{DraftId, OutboxId};
use crate::rules::Span;

#[derive(Parser)]
#[command(name = "commitfs", version, about = "A file system that makes close() mean closed", max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Machine-readable output
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Subcommand)]
pub(super) enum Command {
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
        /// On a mount, or relative to its root unless the working folder has that name
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
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(0..))]
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
        /// On a mount, or relative to the root of the one that --at or --state-dir names
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
        /// On a mount, or relative to its root unless the working folder has that name; without, all of it
        path: Option<PathBuf>,
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
        /// On a mount, or relative to its root unless the working folder has that name; without, all of it
        path: Option<PathBuf>,
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
        /// On a mount, or relative to its root unless the working folder has that name
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Subcommand)]
pub(super) enum Outbox {
    /// List it
    Ls {
        #[command(flatten)]
        target: Target,
        /// How many
        #[arg(short, value_name = "N", default_value_t = 1000)]
        n: usize,
    },
    /// Give rows whose removal has failed all their attempts again; without numbers, every dead one
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
pub(super) enum Trash {
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
        /// Under this path instead: on a mount, or relative to the root of the one that --at or --state-dir names
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
pub(super) enum Quarantine {
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
        /// Replaced if it exists; a device or a FIFO is written to
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
pub(super) struct At {
    /// Mount point or export; not needed while exactly one is mounted
    #[arg(long, value_name = "PATH")]
    at: Option<PathBuf>,
    /// Folder of the journal; wins over a path
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Which mount is meant.
#[derive(Args)]
pub(super) struct Target {
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
    pub(super) fn place(&self) -> Place<'_> {
        Place { path: self.at.as_deref(), state_dir: self.state_dir.as_deref() }
    }
}

impl Target {
    pub(super) fn place(&self) -> Place<'_> {
        Place { path: self.target.as_deref().or(self.at.as_deref()), state_dir: self.state_dir.as_deref() }
    }
}

/// What the user said of which mount is meant.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) path: Option<&'a Path>,
    pub(super) state_dir: Option<&'a Path>,
}
