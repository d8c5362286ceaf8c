//! Versions that are replaced while this host has them open: the client would rename twice, and the name would be absent on
//! the server in between.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Mount, eventually};
use crate::lab::Lab;

const VERSIONS: u64 = 100;
const ROUNDS: u64 = 30;

fn content(version: u64) -> Vec<u8> {
    format!("version {version} ").repeat(1000).into_bytes()
}

/// So many versions were replaced since, each by one rename but for a few: what the client's own threads do not let go of in
/// time, nobody can know. How many were replaced in two steps.
#[track_caller]
fn in_one_step(lab: &Lab, before: u64, versions: u64, few: u64) -> u64 {
    let more = lab.renames() - before - versions;
    eprintln!("{more} of {versions} versions were replaced in two steps");
    assert!(more <= few, "{more} of {versions} versions were replaced in two steps");
    more
}

/// Ends the looks, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn one_rename_replaces_a_version_whoever_reads_it() {
    let lab = Lab::enter();
    let m = Mount::new();
    let (w, r) = (m.agent("W"), m.agent("R"));
    w.put("f", &content(0)).unwrap();
    let before = lab.renames();
    let mut held = vec![r.open("f", "r").unwrap()];
    for version in 1..=VERSIONS {
        // Some begin before anybody reads what is there, some change what is there.
        let way = if version % 2 == 0 { "w|trunc" } else { "rw" };
        let fd = w.open("f", way).unwrap();
        w.pwrite(fd, 0, &content(version)).unwrap();
        w.close(fd).unwrap();
        held.push(r.open("f", "r").unwrap());
    }
    in_one_step(&lab, before, VERSIONS, VERSIONS / 20);
    for (version, fd) in held.iter().enumerate() {
        assert!(r.pread(*fd, 0, 1 << 20).unwrap() == content(version as u64), "version {version} changed");
    }
}

/// Content that did not come in order is read again for its digest, just when the next version comes.
#[test]
fn one_rename_replaces_a_version_that_is_read_for_its_digest() {
    let lab = Lab::enter();
    let m = Mount::new();
    let w = m.agent("W");
    w.put("f", "first").unwrap();
    let before = lab.renames();
    for number in 0..ROUNDS {
        let fd = w.open("f", "w|trunc").unwrap();
        w.fill(fd, 4096, 8 << 20, number).unwrap();
        w.pwrite(fd, 0, "last").unwrap();
        w.close(fd).unwrap();
        w.put("f", "next").unwrap();
    }
    in_one_step(&lab, before, 2 * ROUNDS, ROUNDS / 10);
}

#[test]
fn one_rename_replaces_a_version_that_is_verified() {
    const ROUNDS: u64 = 6;
    let lab = Lab::enter();
    let m = Mount::setup().options("settle=0s").mount();
    let w = m.agent("W");
    let (daemon, name) = (PathBuf::from(format!("/proc/{}", m.daemon_pid())), m.export().join("f"));
    // A draft's own descriptor, which stays for a moment, has that name too.
    let is_direct = |fd: &OsStr| {
        let info = std::fs::read_to_string(daemon.join("fdinfo").join(fd)).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")?.trim().parse().ok());
        flags.is_some_and(|flags: String| i32::from_str_radix(&flags, 8).unwrap() & libc::O_DIRECT != 0)
    };
    let is_read = || {
        let mut open = std::fs::read_dir(daemon.join("fd")).unwrap().flatten();
        open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == name) && is_direct(&fd.file_name()))
    };
    let mut before = lab.renames();
    for _ in 0..ROUNDS {
        let fd = w.open("f", "w|creat|trunc").unwrap();
        // A hole, which takes no room and time only when it is read.
        w.ftruncate(fd, 1 << 30).unwrap();
        w.close(fd).unwrap();
        eventually("the daemon reads what was published", is_read);
        w.put("f", "next").unwrap();
    }
    // The first one replaced nothing.
    before += 1;
    in_one_step(&lab, before, 2 * ROUNDS - 1, ROUNDS / 3);
}

#[test]
fn a_name_that_many_look_at_is_absent_for_nobody() {
    let lab = Lab::enter();
    let m = Mount::new();
    let w = m.agent("W");
    w.put("f", "version").unwrap();
    let (here, there) = (m.mnt().join("f"), lab.on_server(m.export()).join("f"));
    let done = &AtomicBool::new(false);
    let before = lab.renames();
    let absent = std::thread::scope(|scope| {
        let over = Over(done);
        let looks = [&here, &here, &there].map(|path| {
            scope.spawn(move || {
                let mut absent = 0;
                while !done.load(Ordering::Acquire) {
                    absent += u64::from(std::fs::read(path).is_err());
                }
                absent
            })
        });
        for _ in 1..=VERSIONS {
            w.put("f", "version").unwrap();
        }
        drop(over);
        looks.map(|look| look.join().unwrap())
    });
    let more = in_one_step(&lab, before, VERSIONS, VERSIONS / 20);
    eprintln!("{absent:?} looks found nothing");
    assert!(more > 0 || absent == [0; 3], "{absent:?} looks found nothing");
}
