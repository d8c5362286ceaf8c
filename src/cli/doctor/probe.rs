//! Whether everything that a commit does can be done on the export: it is tried.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::{Finding, Verdict};
use crate::commit::RESERVED;
use crate::sys::handle::Handle;
use crate::sys::{copy, xattr};

/// A server's clock that differs by more than this, in seconds, is worth a word.
const SKEW: f64 = 2.0;
/// An NFS server that syncs faster than this, in seconds, has hardly been at a disk.
const TOO_FAST: f64 = 0.000_3;

/// A folder in staging to try things in; it goes away again.
pub(super) struct Probe {
    dir: PathBuf,
    /// Made by this, and to be removed if empty.
    made: Vec<PathBuf>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("commitfs: {}: {error}", self.dir.display());
        }
        for dir in self.made.iter().rev() {
            // Somebody else may use it by now.
            fs::remove_dir(dir).unwrap_or_default();
        }
    }
}

impl Probe {
    pub(super) fn begin(folder: &Path) -> io::Result<Probe> {
        let (reserved, stage) = (folder.join(RESERVED), folder.join(RESERVED).join("stage"));
        let mut made = Vec::new();
        for dir in [&reserved, &stage] {
            match fs::create_dir(dir) {
                Ok(()) => made.push(dir.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let dir = stage.join(format!("doctor-{}", std::process::id()));
        let probe = Probe { dir, made };
        fs::create_dir(&probe.dir)?;
        Ok(probe)
    }

    pub(super) fn tries(&self, nfs: bool) -> Vec<Finding> {
        let mut findings = vec![self.publish()];
        if findings[0].verdict == Verdict::Blocker {
            return findings;
        }
        findings.extend([
            self.link(),
            self.attributes(),
            self.clone_content(),
            self.handles(),
            self.owner(),
            self.clock(),
        ]);
        findings.push(self.sync(nfs));
        findings
    }

    fn file(&self, name: &str, content: &[u8]) -> io::Result<File> {
        let mut file = File::options().create(true).truncate(true).read(true).write(true).open(self.dir.join(name))?;
        file.write_all(content)?;
        Ok(file)
    }

    /// What a commit does: write, sync, rename over a name, sync the folder.
    fn publish(&self) -> Finding {
        let publish = || {
            self.file("old", b"old")?;
            let new = self.file("new", b"new")?;
            new.sync_all()?;
            fs::rename(self.dir.join("new"), self.dir.join("old"))?;
            File::open(&self.dir)?.sync_all()?;
            let (content, ino) = (fs::read(self.dir.join("old"))?, fs::metadata(self.dir.join("old"))?.ino());
            let same = content == b"new" && ino == new.metadata()?.ino();
            if same { Ok(()) } else { Err(io::Error::other("the renamed file is not what is found under its name")) }
        };
        match publish() {
            Ok(()) => Finding::good("commit", "write, fsync, rename over a name, fsync of the folder"),
            Err(error) => Finding::of(
                "commit",
                Verdict::Blocker,
                error.to_string(),
                "A version is published by exactly these calls.",
                "Use a file system with atomic renames on which this user may write.",
            ),
        }
    }

    fn link(&self) -> Finding {
        match fs::hard_link(self.dir.join("old"), self.dir.join("link")) {
            Ok(()) => Finding::good("hard links", "work"),
            Err(error) => {
                Finding::of("hard links", Verdict::Note, error.to_string(), "Applications find none either.", "")
            }
        }
    }

    fn attributes(&self) -> Finding {
        let set = self.file("x", b"").map_err(|error| crate::sys::errno_of(&error)).and_then(|file| {
            xattr::set(&file, "user.commitfs.probe".as_ref(), b"x", 0)?;
            xattr::get(&file, "user.commitfs.probe".as_ref())
        });
        match set {
            Ok(_) => Finding::good("extended attributes", "work"),
            Err(errno) => Finding::of(
                "extended attributes",
                Verdict::Note,
                errno.to_string(),
                "Applications find none either; a version has none to hand on to the next.",
                "NFS has them from version 4.2 on.",
            ),
        }
    }

    fn clone_content(&self) -> Finding {
        let cloned = || {
            let from = self.file("from", &[7; 8192])?;
            let to = self.file("to", b"")?;
            let cloned = rustix::fs::ioctl_ficlone(&to, &from).is_ok();
            if !cloned {
                copy::copy_content(&from, &to, 8192)?;
            }
            Ok::<bool, io::Error>(cloned)
        };
        let why = "An append or a patch begins with a copy of the old version.";
        match cloned() {
            Ok(true) => Finding::good("clones", "work: appending to a large file costs nothing"),
            Ok(false) => Finding::of("clones", Verdict::Note, "not supported: content is copied", why, ""),
            Err(error) => Finding::of("clones", Verdict::Warning, error.to_string(), why, ""),
        }
    }

    fn handles(&self) -> Finding {
        match File::open(&self.dir).map_err(|error| crate::sys::errno_of(&error)).and_then(Handle::of) {
            Ok(_) => Finding::good("file handles", "work: files in use take no descriptor"),
            Err(errno) => Finding::of(
                "file handles",
                Verdict::Note,
                errno.to_string(),
                "Each file that the kernel knows takes a descriptor instead.",
                "",
            ),
        }
    }

    fn owner(&self) -> Finding {
        let mine = rustix::process::geteuid().as_raw();
        match self.file("owner", b"").and_then(|file| file.metadata()) {
            Ok(metadata) => owned(mine, metadata.uid()),
            Err(error) => Finding::of("owner", Verdict::Warning, error.to_string(), "", ""),
        }
    }

    fn clock(&self) -> Finding {
        let before = SystemTime::now();
        let there =
            self.file("clock", b"x").and_then(|file| file.sync_all().and_then(|()| file.metadata()?.modified()));
        let there = match there {
            Ok(there) => there,
            Err(error) => return Finding::of("clock", Verdict::Note, error.to_string(), "", ""),
        };
        skew(match there.duration_since(before) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        })
    }

    fn sync(&self, nfs: bool) -> Finding {
        let timed = self.file("sync", &[1; 1 << 16]).and_then(|file| {
            file.sync_all()?;
            let mut best = f64::MAX;
            for _ in 0..5 {
                (&file).write_all(&[2; 4096])?;
                let began = Instant::now();
                file.sync_all()?;
                best = best.min(began.elapsed().as_secs_f64());
            }
            Ok(best)
        });
        match timed {
            Err(error) => {
                Finding::of("fsync", Verdict::Blocker, error.to_string(), "Without it nothing is durable.", "")
            }
            Ok(seconds) => synced(seconds, nfs),
        }
    }
}

/// The file system's clock is so many seconds ahead.
fn skew(seconds: f64) -> Finding {
    if seconds.abs() <= SKEW {
        return Finding::good("clock", format!("the file system's differs by {:.3} s", seconds.abs()));
    }
    Finding::of(
        "clock",
        Verdict::Warning,
        format!("the file system's is {seconds:+.1} s from this host's"),
        "Modification times do not fit; make and backup programs are misled.",
        "Synchronise both by NTP.",
    )
}

/// The quickest fsync took so long.
fn synced(seconds: f64, nfs: bool) -> Finding {
    let found = format!("{:.2} ms", seconds * 1000.0);
    if nfs && seconds < TOO_FAST {
        return Finding::of(
            "fsync",
            Verdict::Warning,
            format!("{found}: faster than a disk; the server may export async"),
            "A server that answers before its disk has the data loses what it had acknowledged when it crashes.",
            "sync in the server's exports; `commitfs verify` and --settle find what was lost.",
        );
    }
    let hint = if nfs { "; whether the server exports async cannot be seen from here" } else { "" };
    Finding::good("fsync", format!("{found}{hint}"))
}

/// Files made by `mine` belong to `theirs`.
fn owned(mine: u32, theirs: u32) -> Finding {
    if theirs == mine {
        return Finding::good("owner", format!("files belong to uid {mine}"));
    }
    Finding::of(
        "owner",
        Verdict::Note,
        format!("files of uid {mine} belong to uid {theirs}: root is squashed"),
        "Names are then changed as their writers, who must be allowed to.",
        "no_root_squash in the server's exports makes the daemon independent of them.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_owners_and_hasty_servers_are_judged() {
        for (seconds, verdict) in
            [(0.0, Verdict::Good), (-1.9, Verdict::Good), (2.5, Verdict::Warning), (-60.0, Verdict::Warning)]
        {
            assert_eq!(skew(seconds).verdict, verdict, "{seconds}");
        }
        assert!(skew(-60.0).found.contains("-60.0 s"));
        for (seconds, nfs, verdict) in
            [(0.000_05, true, Verdict::Warning), (0.000_05, false, Verdict::Good), (0.004, true, Verdict::Good)]
        {
            assert_eq!(synced(seconds, nfs).verdict, verdict, "{seconds} {nfs}");
        }
        assert_eq!(owned(0, 0).verdict, Verdict::Good);
        assert!(owned(0, 65534).verdict == Verdict::Note && owned(0, 65534).found.contains("squashed"));
    }
}
