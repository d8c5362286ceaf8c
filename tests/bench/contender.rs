//! What is compared: a folder to work in, how files are made there, and the daemon behind it, if any.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::Daemon;
use crate::{Programs, Result};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Kind {
    /// The folder as it is: open, write, close. No promise at all.
    Bare,
    /// The folder as it is: temporary file, write, fsync, rename, fsync of the folder.
    Careful,
    /// bindfs over the folder: open, write, close through a FUSE file system that promises nothing either.
    Bindfs,
    /// mergerfs over the folder as its only branch, likewise.
    Mergerfs,
    /// libfuse's example `passthrough_ll` over the folder, likewise.
    Passthrough,
    /// A commitfs mount: open, write, close.
    Commitfs,
    /// The same with `-o writeback=off`: versions on kernel passthrough, writes not gathered.
    CommitfsPt,
    /// The same with the rule `commit = "release"` besides: drafts on kernel passthrough, no wait for the commit in close.
    Release,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Bare,
        Self::Careful,
        Self::Bindfs,
        Self::Mergerfs,
        Self::Passthrough,
        Self::Commitfs,
        Self::CommitfsPt,
        Self::Release,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Careful => "careful",
            Self::Bindfs => "bindfs",
            Self::Mergerfs => "mergerfs",
            Self::Passthrough => "passthrough",
            Self::Commitfs => "commitfs",
            Self::CommitfsPt => "commitfs-pt",
            Self::Release => "release",
        }
    }

    pub fn is_commitfs(self) -> bool {
        matches!(self, Self::Commitfs | Self::CommitfsPt | Self::Release)
    }

    /// A file system of its own between the program and the folder.
    pub fn is_mounted(self) -> bool {
        !matches!(self, Self::Bare | Self::Careful)
    }

    /// libfuse's example has a descriptor for each node, and ends where the limit of descriptors is.
    pub fn bears_many_nodes(self) -> bool {
        self != Self::Passthrough
    }

    /// The daemon for `backing` at `mountpoint`, which stays in the foreground.
    fn command(self, programs: &Programs, backing: &Path, mountpoint: &Path, options: &[&str]) -> Option<Command> {
        let mut command = match self {
            Self::Bare | Self::Careful => return None,
            Self::Bindfs => {
                let mut command = Command::new("bindfs");
                command.arg("-f");
                command
            }
            Self::Mergerfs => {
                let mut command = Command::new("mergerfs");
                // Without the second it takes a branch with less than 4 GiB free for full.
                command.args(["-f", "-o", "minfreespace=0"]);
                command
            }
            Self::Passthrough => {
                let mut source = OsStr::new("source=").to_owned();
                source.push(backing);
                let mut command = Command::new(programs.passthrough.as_deref()?);
                command.args(["-f", "-o"]).arg(source).arg(mountpoint);
                return Some(command);
            }
            Self::Commitfs | Self::CommitfsPt | Self::Release => {
                let state = state_dir(self, backing, programs);
                let mut command = Command::new(&programs.commitfs);
                command.args(["mount", "-f", "--state-dir"]).arg(state);
                if let Some(config) = &programs.config {
                    command.arg("--config").arg(config);
                }
                if self != Self::Commitfs {
                    command.args(["-o", "writeback=off"]);
                }
                command
            }
        };
        for option in options {
            command.args(["-o", option]);
        }
        command.args([backing, mountpoint]);
        Some(command)
    }
}

/// The state folder of a mount over `backing`: one per kind, whatever it is mounted over.
pub fn state_dir(kind: Kind, backing: &Path, programs: &Programs) -> PathBuf {
    programs.state.as_deref().unwrap_or_else(|| above(backing)).join(format!("{}-state", kind.name()))
}

/// Removes the state folders of mounts over what lies in `folder`: journals of exports that are not there any more.
pub fn forget_states(folder: &Path, programs: &Programs) -> Result<()> {
    for kind in [Kind::Commitfs, Kind::CommitfsPt, Kind::Release] {
        let state = state_dir(kind, &folder.join("any"), programs);
        if state.exists() {
            std::fs::remove_dir_all(state)?;
        }
    }
    Ok(())
}

fn above(backing: &Path) -> &Path {
    backing.parent().unwrap_or(backing)
}

pub struct Contender {
    pub kind: Kind,
    /// The folder on the disk.
    pub backing: PathBuf,
    /// The folder to work in: the mount point, or `backing`.
    pub root: PathBuf,
    daemon: Option<Daemon>,
}

impl Contender {
    /// Makes its folder below `folder`, and mounts.
    pub fn start(kind: Kind, folder: &Path, programs: &Programs) -> Result<Self> {
        let backing = folder.join(kind.name());
        std::fs::create_dir_all(&backing)?;
        Self::start_over(kind, &backing, programs, &[])
    }

    /// Mounts over a folder that is there, with these mount options.
    pub fn start_over(kind: Kind, backing: &Path, programs: &Programs, options: &[&str]) -> Result<Self> {
        let above = programs.mounts.as_deref().unwrap_or_else(|| above(backing));
        let mountpoint = above.join(format!("{}-mount", kind.name()));
        let released;
        let programs = if kind == Kind::Release {
            let config = above.join("release.toml");
            std::fs::write(&config, "[[rule]]\nglob = \"*\"\ncommit = \"release\"\n")?;
            released = Programs { config: Some(config), ..programs.clone() };
            &released
        } else {
            programs
        };
        let commitfs = kind.is_commitfs().then(|| programs.commitfs.clone());
        let daemon = kind
            .command(programs, backing, &mountpoint, options)
            .map(|command| Daemon::start(command, &mountpoint, commitfs))
            .transpose()?;
        let root = daemon.as_ref().map_or_else(|| backing.to_owned(), |_| mountpoint);
        Ok(Self { kind, backing: backing.to_owned(), root, daemon })
    }

    /// A folder that is there, as it is.
    pub fn plain(kind: Kind, folder: &Path) -> Self {
        Self { kind, backing: folder.to_owned(), root: folder.to_owned(), daemon: None }
    }

    /// Stores `content` as this contender's applications would, in writes of `block` bytes.
    pub fn store(&self, path: &Path, content: &[u8], block: usize) -> std::io::Result<()> {
        match self.kind {
            Kind::Careful => carefully(path, |temporary| write_file(temporary, content, block)),
            _ => write_file(path, content, block).map(drop),
        }
    }

    /// Adds `content` to the end of a file.
    pub fn append(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        let add = |path: &Path| {
            let mut file = OpenOptions::new().append(true).open(path)?;
            file.write_all(content)?;
            Ok(file)
        };
        match self.kind {
            // A clone where the file system has clones: the standard library copies by copy_file_range.
            Kind::Careful => carefully(path, |temporary| {
                std::fs::copy(path, temporary)?;
                add(temporary)
            }),
            _ => add(path).map(drop),
        }
    }

    /// Waits until what was stored is under its name, where closing it did not.
    pub fn arrived(&self, name: &str) {
        while self.kind == Kind::Release && !self.backing.join(name).exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The daemon, where there is one.
    pub fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }
}

fn write_file(path: &Path, content: &[u8], block: usize) -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    for piece in content.chunks(block) {
        file.write_all(piece)?;
    }
    Ok(file)
}

/// The discipline by hand around what fills a temporary file.
pub fn carefully(path: &Path, fill: impl FnOnce(&Path) -> std::io::Result<File>) -> std::io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let mut temporary = OsStr::new(".").to_owned();
    temporary.push(name);
    let temporary = folder.join(temporary);
    fill(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}
