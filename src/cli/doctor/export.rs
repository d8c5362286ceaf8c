//! The export: what it is, and whether everything that a commit does can be done there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::{Finding, Verdict};
use crate::cli::rows::size;
use crate::cli::target;
use crate::commit::RESERVED;
use crate::config;
use crate::sys::handle::Handle;
use crate::sys::{copy, xattr};

/// A server's clock that differs by more than this, in seconds, is worth a word.
const SKEW: f64 = 2.0;
/// Free space below which a warning is due.
const LITTLE: u64 = 1 << 30;
/// An NFS server that syncs faster than this, in seconds, has hardly been at a disk.
const TOO_FAST: f64 = 0.000_3;

pub(super) fn examine(source: &Path) -> Vec<Finding> {
    let folder = match fs::canonicalize(source).and_then(|path| fs::read_dir(&path).map(|_| path)) {
        Ok(path) => path,
        Err(error) => {
            return vec![Finding::of(
                "source",
                Verdict::Blocker,
                format!("{}: {error}", source.display()),
                "It is the folder that is published into.",
                "Name an existing folder that this user can read.",
            )];
        }
    };
    if let Some(state) = config::mounted_state_dir(&folder) {
        return vec![Finding::of(
            "source",
            Verdict::Note,
            format!("{}: is mounted by commitfs already, state in {}", folder.display(), state.display()),
            "What lies below it cannot be tried through it.",
            "Unmount first, or name the export by another path.",
        )];
    }
    let mut findings = Vec::new();
    let mount = target::mount_of(&folder);
    match &mount {
        Some((kind, options)) => {
            findings.push(Finding::good("file system", kind.clone()));
            if kind.starts_with("nfs") {
                findings.extend(nfs(options));
            }
        }
        None => findings.push(Finding::of("file system", Verdict::Note, "cannot be told", "", "")),
    }
    findings.push(nested(&folder));
    findings.push(space(&folder));
    let nfs = mount.is_some_and(|(kind, _)| kind.starts_with("nfs"));
    findings.extend(match Probe::begin(&folder) {
        Ok(probe) => probe.tries(nfs),
        Err(error) => vec![Finding::of(
            "staging",
            Verdict::Blocker,
            format!("{RESERVED} cannot be made: {error}"),
            "Drafts lie there until they are published.",
            "Mount as a user that may write to the export's root.",
        )],
    });
    findings
}

fn nfs(options: &str) -> Vec<Finding> {
    let value = |name: &str| {
        let word = options.split(',').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.map(str::to_owned)
    };
    let has = |name: &str| options.split(',').any(|word| word == name);
    let mut findings = Vec::new();
    let version = value("vers").unwrap_or_else(|| "unknown".to_owned());
    findings.push(if version.starts_with('4') {
        Finding::good("NFS version", version)
    } else {
        Finding::of(
            "NFS version",
            Verdict::Note,
            version,
            "Before version 4 locks are a service of their own, and opens are not known to the server.",
            "Mount with vers=4.2 if the server has it.",
        )
    });
    findings.push(match value("lookupcache").as_deref() {
        None | Some("all") => Finding::good("NFS lookupcache", "all: names are asked for again where it matters"),
        Some(other) => Finding::of(
            "NFS lookupcache",
            Verdict::Note,
            other,
            "Not needed: with freshness = open a folder is revalidated at misses and opens.",
            "Leave it out for fewer requests.",
        ),
    });
    if has("noac") || value("actimeo").as_deref() == Some("0") {
        findings.push(Finding::of(
            "NFS attribute cache",
            Verdict::Warning,
            "off",
            "Every look at a file becomes a request, and every write waits for the server.",
            "Leave noac and actimeo=0 out: what must be fresh is asked for.",
        ));
    }
    if has("soft") || has("softerr") {
        findings.push(Finding::of(
            "NFS soft",
            Verdict::Warning,
            "requests are given up after a time",
            "A server that is slow looks like a failed write: drafts go to quarantine.",
            "Mount with hard.",
        ));
    } else {
        findings.push(Finding::good("NFS hard", "requests wait for the server"));
    }
    findings
}

fn nested(folder: &Path) -> Finding {
    let inner: Vec<String> = target::mount_points_below(folder).iter().map(|path| path.display().to_string()).collect();
    if inner.is_empty() {
        return Finding::good("mounts below", "none");
    }
    Finding::of(
        "mounts below",
        Verdict::Warning,
        inner.join(", "),
        "A draft is published by a rename, which cannot cross from one file system to another.",
        "Mount each of them by itself.",
    )
}

fn space(folder: &Path) -> Finding {
    match rustix::fs::statvfs(folder) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let found = format!("{} and {} inodes free", size(free), space.f_favail);
            if free < LITTLE || (space.f_files > 0 && space.f_favail < 1000) {
                let why = "A rewritten file needs room for both versions until the old one is let go of.";
                return Finding::of("space", Verdict::Warning, found, why, "Make room.");
            }
            Finding::good("space", found)
        }
        Err(errno) => Finding::of("space", Verdict::Warning, errno.to_string(), "", ""),
    }
}

/// A folder in staging to try things in; it goes away again.
struct Probe {
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
    fn begin(folder: &Path) -> io::Result<Probe> {
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

    fn tries(&self, nfs: bool) -> Vec<Finding> {
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

    fn found(options: &str, what: &str) -> Option<Verdict> {
        nfs(options).iter().find(|finding| finding.what == what).map(|finding| finding.verdict)
    }

    #[test]
    fn mount_options_of_nfs_are_judged() {
        let good = "rw,relatime,vers=4.2,rsize=1048576,hard,proto=tcp,timeo=600,retrans=2,sec=sys,local_lock=none";
        for what in ["NFS version", "NFS lookupcache", "NFS hard"] {
            assert_eq!(found(good, what), Some(Verdict::Good), "{what}");
        }
        assert_eq!((found(good, "NFS attribute cache"), found(good, "NFS soft")), (None, None));
        for (options, what, verdict) in [
            ("rw,vers=3,hard", "NFS version", Verdict::Note),
            ("rw,hard", "NFS version", Verdict::Note),
            ("rw,vers=4.1,hard,lookupcache=none", "NFS lookupcache", Verdict::Note),
            ("rw,vers=4.1,hard,lookupcache=positive", "NFS lookupcache", Verdict::Note),
            ("rw,vers=4.1,hard,lookupcache=all", "NFS lookupcache", Verdict::Good),
            ("rw,vers=4.1,hard,noac", "NFS attribute cache", Verdict::Warning),
            ("rw,vers=4.1,hard,actimeo=0", "NFS attribute cache", Verdict::Warning),
            ("rw,vers=4.1,soft", "NFS soft", Verdict::Warning),
            ("rw,vers=4.1,softerr", "NFS soft", Verdict::Warning),
        ] {
            assert_eq!(found(options, what), Some(verdict), "{what} of {options}");
        }
        for finding in nfs("rw,vers=3,soft,noac,lookupcache=none") {
            assert!(!finding.why.is_empty() && !finding.remedy.is_empty(), "{}", finding.what);
        }
    }

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
