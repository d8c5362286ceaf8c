//! The export: what it is, and how it is mounted.

use std::fs;
use std::path::Path;

use super::probe::Probe;
use super::{Finding, Verdict};
use crate::cli::rows::size;
use crate::cli::target;
use crate::commit::RESERVED;
use crate::config;

/// Free space below which a warning is due.
const LITTLE: u64 = 1 << 30;

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
}
