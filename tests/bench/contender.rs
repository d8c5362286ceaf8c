//! What is compared: a folder to work in, how files are made there, and the daemon behind it, if any.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, work};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// The folder as it is: open, write, close. No promise at all.
    Bare,
    /// The folder as it is: temporary file, write, fsync, rename, fsync of the folder.
    Careful,
    /// bindfs over the folder: open, write, close through a FUSE file system that promises nothing either.
    Bindfs,
    /// A commitfs mount: open, write, close.
    Commitfs,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Bare, Self::Careful, Self::Bindfs, Self::Commitfs];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Careful => "careful",
            Self::Bindfs => "bindfs",
            Self::Commitfs => "commitfs",
        }
    }
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
    /// Makes its folder below `folder`, with the files that are read, and mounts.
    pub fn start(kind: Kind, folder: &Path, commitfs: &Path, config: Option<&Path>) -> Result<Self> {
        let backing = folder.join(kind.name());
        std::fs::create_dir(&backing)?;
        work::prepare(&backing)?;
        let mountpoint = folder.join(format!("{}-mount", kind.name()));
        let daemon = match kind {
            Kind::Bare | Kind::Careful => None,
            Kind::Bindfs => {
                let mut command = Command::new("bindfs");
                command.arg("-f").args([&backing, &mountpoint]);
                Some(Daemon::start(command, &mountpoint, None)?)
            }
            Kind::Commitfs => {
                let mut command = Command::new(commitfs);
                command.args(["mount", "-f", "--state-dir"]).arg(folder.join("state"));
                if let Some(config) = config {
                    command.arg("--config").arg(config);
                }
                command.args([&backing, &mountpoint]);
                Some(Daemon::start(command, &mountpoint, Some(commitfs.to_owned()))?)
            }
        };
        let root = daemon.as_ref().map_or_else(|| backing.clone(), |_| mountpoint);
        Ok(Self { kind, backing, root, daemon })
    }

    /// Stores `content` as this contender's applications would, in writes of `block` bytes.
    pub fn store(&self, path: &Path, content: &[u8], block: usize) -> std::io::Result<()> {
        match self.kind {
            Kind::Careful => store_carefully(path, content, block),
            Kind::Bare | Kind::Bindfs | Kind::Commitfs => write_file(path, content, block).map(drop),
        }
    }

    /// Resident memory of the daemon in MiB; 0 without one.
    pub fn resident_mib(&self) -> Result<f64> {
        let Some(daemon) = &self.daemon else { return Ok(0.0) };
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

fn write_file(path: &Path, content: &[u8], block: usize) -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    for piece in content.chunks(block) {
        file.write_all(piece)?;
    }
    Ok(file)
}

fn store_carefully(path: &Path, content: &[u8], block: usize) -> std::io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let mut temporary = OsStr::new(".").to_owned();
    temporary.push(name);
    let temporary = folder.join(temporary);
    write_file(&temporary, content, block)?.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// A FUSE daemon in the foreground; dropping it unmounts.
struct Daemon {
    process: Child,
    mountpoint: PathBuf,
    /// The program that unmounts it, where it has one of its own.
    commitfs: Option<PathBuf>,
}

impl Daemon {
    fn start(mut command: Command, mountpoint: &Path, commitfs: Option<PathBuf>) -> Result<Self> {
        std::fs::create_dir(mountpoint)?;
        let log = mountpoint.with_extension("log");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn();
        let process = process.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let mut daemon = Self { process, mountpoint: mountpoint.to_owned(), commitfs };
        let begin = Instant::now();
        while !daemon.is_mounted() {
            if daemon.process.try_wait()?.is_some() || begin.elapsed() > Duration::from_secs(20) {
                let log = std::fs::read_to_string(&log)?;
                return Err(format!("{} did not mount: {log}", command.get_program().display()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|path| Path::new(path) == self.mountpoint))
    }

    fn unmount(&mut self) -> bool {
        let mut command = match &self.commitfs {
            Some(commitfs) => Command::new(commitfs),
            None => Command::new("fusermount3"),
        };
        command.arg(if self.commitfs.is_some() { "umount" } else { "-u" }).arg(&self.mountpoint);
        command.status().is_ok_and(|status| status.success()) && self.has_ended()
    }

    fn has_ended(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.unmount() {
            return;
        }
        eprintln!("bench: {} was not unmounted in order; ending its daemon", self.mountpoint.display());
        // Both fail only where there is nothing left to end.
        self.process.kill().and_then(|()| self.process.wait().map(drop)).ok();
        Command::new("fusermount3").arg("-uz").arg(&self.mountpoint).stderr(Stdio::null()).status().ok();
    }
}
