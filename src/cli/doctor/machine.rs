//! The kernel, FUSE, limits, the state folder.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::{Finding, Verdict};
use crate::cli::rows::size;
use crate::fuse::{self, Offer};
use crate::journal;
use crate::sys::procfs::{self, Shows};
use crate::sys::{Errno, mount, process};

/// Oldest kernel that can serve a mount, and the oldest that reads versions at its own speed.
const NEEDED: (u32, u32) = (4, 20);
const PASSTHROUGH: (u32, u32) = (6, 9);
/// Open descriptors below which large mounts get slow.
const DESCRIPTORS: u64 = 65_536;
/// Free space that a busy journal should have.
const JOURNAL_SPACE: u64 = 256 << 20;

pub(super) fn examine() -> Vec<Finding> {
    let root = rustix::process::geteuid().is_root();
    let mut findings = vec![kernel(), device(root)];
    findings.extend((!root).then(helper));
    if findings.iter().all(|finding| finding.verdict != Verdict::Blocker) {
        findings.push(connection(tried(), root));
    }
    findings.push(user(root));
    findings.push(processes());
    findings.push(threads(process::tells_tables()));
    findings.push(descriptors());
    findings
}

fn kernel() -> Finding {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < NEEDED {
        return Finding::of(
            "kernel",
            Verdict::Blocker,
            release,
            "Truncating opens must arrive as one request, which older kernels do not offer.",
            "Use Linux 4.20 or later.",
        );
    }
    if version < PASSTHROUGH {
        return Finding::of(
            "kernel",
            Verdict::Note,
            release,
            "Without passthrough every read goes through the daemon when writeback is off.",
            "Linux 6.9 or later has it.",
        );
    }
    Finding::good("kernel", release)
}

fn processes() -> Finding {
    const WHAT: &str = "processes";
    const REMEDY: &str = "Run it in the pid name space of the host (--pid=host of a container).";
    match procfs::shows() {
        Shows::All => Finding::good(WHAT, "those of the whole machine"),
        Shows::Own => Finding::of(
            WHAT,
            Verdict::Warning,
            "those of one pid name space",
            "Applications outside of it can read and not write, for nothing can be known of them (S47).",
            REMEDY,
        ),
        Shows::Others => Finding::of(
            WHAT,
            Verdict::Blocker,
            "/proc shows those of another pid name space, or none",
            "Who writes, and whether a close was the last, is looked up there.",
            REMEDY,
        ),
    }
}

/// What `kcmp` says of two tasks.
fn threads(told: Result<(), Errno>) -> Finding {
    const WHAT: &str = "threads";
    match told {
        Ok(()) => Finding::good(WHAT, "it is told which of them share their descriptors"),
        Err(errno) => Finding::of(
            WHAT,
            Verdict::Warning,
            format!("it is not told which of them share their descriptors (kcmp: {errno})"),
            "No close by a program with several threads is proven to be the last: its commit comes soon after it, not within (S29).",
            "A kernel with CONFIG_KCMP, and the capability SYS_PTRACE (--cap-add of a container).",
        ),
    }
}

fn device(root: bool) -> Finding {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Finding::good("/dev/fuse", "can be opened"),
        Err(error) => Finding::of(
            "/dev/fuse",
            Verdict::Blocker,
            error.to_string(),
            "A mount is a connection to this device.",
            if root {
                "Load the module: modprobe fuse; in a container, pass the device in."
            } else {
                "Run as root, or make it mode 0666."
            },
        ),
    }
}

/// A mount on a folder of its own, for as long as it takes to hear what the kernel offers.
fn tried() -> io::Result<Offer> {
    let folder = std::env::temp_dir().join(format!("commitfs-doctor-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let offer = fuse::offered(&folder);
    fs::remove_dir(&folder)?;
    offer
}

fn connection(offer: io::Result<Offer>, root: bool) -> Finding {
    const WHAT: &str = "FUSE";
    let offer = match offer {
        Ok(offer) => offer,
        Err(error) => {
            return Finding::of(
                WHAT,
                Verdict::Blocker,
                format!("a mount cannot be made: {error}"),
                "An empty one was tried, which needs nothing of the export.",
                if root {
                    "In a container, give it the capability SYS_ADMIN, and mounts that no security module forbids."
                } else {
                    "fusermount3 must belong to root and be set-user-ID, and TMPDIR be a folder of this user."
                },
            );
        }
    };
    let protocol = format!("protocol {}.{}", offer.protocol.0, offer.protocol.1);
    if offer.missing.is_empty() {
        return Finding::good(WHAT, format!("{protocol}, everything that a mount uses"));
    }
    let found = format!("{protocol}, without {}", offer.missing.join(", "));
    if offer.lacks_the_obligatory() {
        let why = "Truncating opens must arrive as one request: a mount refuses to serve without.";
        return Finding::of(WHAT, Verdict::Blocker, found, why, "Use Linux 4.20 or later.");
    }
    let why = "A mount does without: slower, or with fewer checks by the kernel.";
    Finding::of(WHAT, Verdict::Note, found, why, "A later kernel, or one built with these.")
}

fn helper() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|file| file.is_file()) {
        Some(file) => Finding::good("fusermount3", file.display().to_string()),
        None => Finding::of(
            "fusermount3",
            Verdict::Blocker,
            "not found",
            "Users other than root mount through it.",
            "Install the package fuse3.",
        ),
    }
}

fn user(root: bool) -> Finding {
    if root {
        return Finding::good("user", "root: serves every user as themselves");
    }
    let allowed = std::fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    Finding::of(
        "user",
        Verdict::Note,
        if allowed { "not root; user_allow_other is set" } else { "not root; user_allow_other is not set" },
        "Everything is done as this user, whoever asks, and without it other users cannot enter.",
        "Mount as root for a folder of several users.",
    )
}

fn descriptors() -> Finding {
    let limit = mount::raise_descriptor_limit();
    if limit >= DESCRIPTORS {
        return Finding::good("open files", format!("up to {limit}"));
    }
    Finding::of(
        "open files",
        Verdict::Warning,
        format!("up to {limit}"),
        "Open files and, where there are no file handles, every file in use take one.",
        "LimitNOFILE=1048576 in the unit, or ulimit -Hn.",
    )
}

pub(super) fn state_folder(dir: &Path) -> Finding {
    let dir = &std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let shown = dir.display();
    if let Err(error) = journal::check_local(dir) {
        return Finding::of(
            "state folder",
            Verdict::Blocker,
            error.to_string(),
            "The journal needs locks and shared memory of one host.",
            "--state-dir DIR on a local disk.",
        );
    }
    let existing = dir.ancestors().find(|dir| dir.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    if let Err(error) = make_something(existing) {
        return Finding::of(
            "state folder",
            Verdict::Blocker,
            format!("{shown}: nothing can be made in {}: {error}", existing.display()),
            "A mount makes this folder where it is missing, and writes its journal there.",
            "--state-dir DIR where this user may write.",
        );
    }
    let free = match rustix::fs::statvfs(existing) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(errno) => {
            return Finding::of(
                "state folder",
                Verdict::Warning,
                format!("{shown}: {errno}"),
                "It must be writable.",
                "",
            );
        }
    };
    if free < JOURNAL_SPACE {
        return Finding::of(
            "state folder",
            Verdict::Warning,
            format!("{shown}: {} free", size(free)),
            "When the journal cannot be written, new writes are refused.",
            "Make room, or choose another disk with --state-dir.",
        );
    }
    Finding::good("state folder", format!("{shown}: on a local disk, {} free", size(free)))
}

/// A folder, which is removed again.
fn make_something(inside: &Path) -> io::Result<()> {
    let folder = inside.join(format!(".commitfs-doctor-{}", std::process::id()));
    fs::create_dir(&folder)?;
    fs::remove_dir(&folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_compare_tasks_is_warned_of() {
        assert_eq!(threads(Ok(())).verdict, Verdict::Good);
        let without = threads(Err(Errno::NOSYS));
        assert!(without.verdict == Verdict::Warning && without.found.contains("kcmp"), "{}", without.found);
    }

    #[test]
    fn what_the_kernel_offers_is_judged() {
        let judged = |missing: &[&'static str]| {
            let finding = connection(Ok(Offer { protocol: (7, 31), missing: missing.to_vec() }), true);
            (finding.verdict, finding.found)
        };
        assert_eq!(judged(&[]), (Verdict::Good, "protocol 7.31, everything that a mount uses".to_owned()));
        let (verdict, found) = judged(&["FUSE_PASSTHROUGH"]);
        assert!(verdict == Verdict::Note && found.contains("PASSTHROUGH"), "{found}");
        assert_eq!(judged(&["FUSE_ATOMIC_O_TRUNC"]).0, Verdict::Blocker);
        for root in [true, false] {
            let refused = connection(Err(io::ErrorKind::PermissionDenied.into()), root);
            assert!(refused.verdict == Verdict::Blocker && !refused.remedy.is_empty());
        }
    }
}
