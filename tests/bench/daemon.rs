//! A FUSE daemon in the foreground: mounting, unmounting, and what it uses.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// Dropping it unmounts.
pub struct Daemon {
    process: Child,
    mountpoint: PathBuf,
    /// The program that unmounts it, where it has one of its own.
    commitfs: Option<PathBuf>,
}

impl Daemon {
    pub fn start(mut command: Command, mountpoint: &Path, commitfs: Option<PathBuf>) -> Result<Self> {
        std::fs::create_dir_all(mountpoint)?;
        let log = mountpoint.with_extension("log");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn();
        let process = process.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let mut daemon = Self { process, mountpoint: mountpoint.to_owned(), commitfs };
        let begin = Instant::now();
        while !daemon.is_mounted() {
            if daemon.process.try_wait()?.is_some() || begin.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(&log)?;
                return Err(format!("{} did not mount: {log}", command.get_program().display()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time of all threads that live.
    pub fn processor_time(&self) -> Result<Duration> {
        let mut nanos = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let Ok(line) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
            nanos += line.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
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
        while begin.elapsed() < Duration::from_secs(30) {
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
