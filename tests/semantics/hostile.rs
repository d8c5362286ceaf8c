//! What a mount must not be confused by.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::common::mount::bare;
use crate::common::wait::LIMIT;
use crate::common::{Mount, checker, eventually, poll};

#[test]
fn s47_a_version_is_not_opened_for_writing_without_a_name() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "published").unwrap();
    let fd = r.open("f", "r").unwrap();
    let link = format!("/proc/self/fd/{fd}");
    for how in ["w", "rw", "w|append", "w|trunc", "r|trunc"] {
        assert_eq!(r.open(&*link, how).unwrap_err(), "ETXTBSY", "{how}");
    }
    assert_eq!(r.cat(&*link).unwrap(), b"published");
    // A draft has its writer's descriptor for a name.
    let fd = w.open("g", "rw|creat").unwrap();
    let again = w.open(&*format!("/proc/self/fd/{fd}"), "w|append").unwrap();
    w.write(again, "through the second").unwrap();
    w.close(fd).unwrap();
    r.sees_nothing("g");
    w.close(again).unwrap();
    assert_eq!(r.cat("g").unwrap(), b"through the second");
}

/// A file mounted over a name; taken away at the end.
struct Bound(std::path::PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        // It may be gone already, which the test has told by then.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn s47_what_is_under_a_file_that_is_mounted_over_a_name_is_not_written() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for outside in [false, true] {
        w.put("a", "bound").unwrap();
        w.put("b", "under").unwrap();
        let over = if outside { m.home().join("over") } else { m.mnt().join("b") };
        if outside {
            std::fs::write(&over, "").unwrap();
        }
        rustix::mount::mount_bind(m.mnt().join("a"), &over).unwrap();
        let bound = Bound(over.clone());
        let path = over.to_str().unwrap();
        for how in ["w|append", "rw", "w|trunc"] {
            assert_eq!(w.open(path, how).unwrap_err(), "ETXTBSY", "{how}, outside: {outside}");
        }
        assert_eq!(w.truncate(path, 1).unwrap_err(), "ETXTBSY");
        assert_eq!(r.cat(path).unwrap(), b"bound");
        w.put("a", "bound and stored again").unwrap();
        assert_eq!(r.cat(path).unwrap(), b"bound", "the version that was mounted there");
        drop(bound);
        assert_eq!(r.cat("b").unwrap(), b"under");
        assert_eq!(r.cat("a").unwrap(), b"bound and stored again");
    }
}

#[test]
fn s47_another_file_system_inside_the_export_is_not_written_to() {
    if bare() {
        return;
    }
    let mut m = Mount::new();
    m.umount();
    let inside = m.raw("inside");
    std::fs::create_dir(&inside).unwrap();
    mount("tmpfs", &inside, "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write(m.raw("inside/there"), "content").unwrap();
    m.remount();
    let w = m.agent("W");
    let tried = [
        w.open("inside/new", "w|creat").map(drop),
        w.open("inside/there", "w").map(drop),
        w.put("inside/there", "x"),
        w.truncate("inside/there", 0),
    ];
    let read = w.cat("inside/there");
    let moved = w.rename("inside/there", "out");
    let named = (w.mkdir("inside/folder"), w.rename("inside/there", "inside/folder/same"));
    let draft = w.open("draft", "w|creat").unwrap();
    let renamed = w.rename("draft", "inside/draft");
    let published = w.close(draft).and_then(|()| w.cat("draft"));
    unmount(&inside, UnmountFlags::DETACH).unwrap();
    for outcome in tried {
        assert_eq!(outcome.unwrap_err(), "EXDEV");
    }
    assert_eq!(moved.unwrap_err(), "EXDEV");
    assert_eq!(renamed.unwrap_err(), "EXDEV", "a file that is being written");
    assert_eq!(published.unwrap(), b"");
    assert_eq!(read.unwrap(), b"content");
    assert_eq!(named, (Ok(()), Ok(())));
    drop(w);
    m.umount();
    m.remount();
    m.agent("W").put("inside/new", "the folder is the export's again").unwrap();
}

/// However few the daemon was allowed by whoever started it, if root may raise limits here. Where it may not, who comes too
/// late is told so, and nobody else suffers.
#[test]
fn s47_the_daemon_may_have_as_many_files_open_as_its_users() {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let may_raise = u64::from_str_radix(held.trim(), 16).unwrap() & 1 << CAP_SYS_RESOURCE != 0;
    let m = Mount::setup().descriptors(256).mount();
    let (w, r) = m.pair();
    let (mut drafts, mut refused) = (Vec::new(), 0);
    for i in 0..300 {
        match w.open(&format!("f{i}"), "w|creat") {
            Ok(fd) => drafts.push((i, fd)),
            Err(errno) => {
                assert_eq!((errno.0.as_str(), may_raise), ("EMFILE", false), "f{i}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused == 0, may_raise, "{refused} of 300 refused");
    for &(_, fd) in &drafts {
        w.write(fd, "content").unwrap();
        w.close(fd).unwrap();
    }
    for (i, _) in drafts {
        assert_eq!(r.cat(&format!("f{i}")).unwrap(), b"content");
    }
    m.nothing_quarantined();
}

#[test]
fn s47_descriptors_of_a_daemon_that_is_gone_fail_and_do_not_hang() {
    let mut m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "content").unwrap();
    let (fr, fw) = (r.open("f", "r").unwrap(), w.open("g", "rw|creat").unwrap());
    let locked = w.open("f", "r").unwrap();
    w.flock(locked).unwrap();
    m.kill9();
    m.remount();
    assert_eq!(r.fsync(fr).unwrap_err(), "ENOTCONN");
    assert_eq!(r.flock(fr).unwrap_err(), "ENOTCONN");
    assert_eq!(w.pwrite(fw, 0, "x").and_then(|_| w.fsync(fw)).unwrap_err(), "ENOTCONN");
    assert_eq!(r.stat("never asked for").unwrap_err(), "ENOTCONN", "its working folder is of the old mount, too");
    let other = m.agent("other");
    let again = other.open("f", "r").unwrap();
    other.flock(again).unwrap();
    assert_eq!(other.cat("f").unwrap(), b"content");
}

#[test]
fn s20_nothing_is_reached_by_climbing_or_by_swapping_links() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("a").unwrap();
    w.put("a/f", "inside").unwrap();
    let outside = m.home().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), "outside").unwrap();
    let script = format!(
        "import os\nfor i in range(400):\n os.rename('a', 'b'); os.symlink({:?}, 'a'); os.unlink('a'); os.rename('b', 'a')\n",
        outside.to_str().unwrap()
    );
    w.send(&["run", "python3", &script]);
    for _ in 0..400 {
        match r.cat("a/f") {
            Ok(data) => assert!(data == b"inside" || data == b"outside"),
            Err(errno) => assert!(errno == "ENOENT" || errno == "ESTALE", "{errno:?}"),
        }
        // The kernel follows the link; the daemon never does: nothing is written outside through the mount's names.
        if let Err(errno) = r.open("a/new", "w|creat|excl|nofollow").and_then(|fd| r.close(fd)) {
            assert!(["ENOENT", "EEXIST", "ESTALE"].contains(&errno.0.as_str()), "{errno:?}");
        }
        for path in ["a/new", "b/new"] {
            if let Err(errno) = r.unlink(path) {
                assert!(errno == "ENOENT" || errno == "ESTALE", "{errno:?}");
            }
        }
    }
    w.answer().unwrap();
    assert_eq!(w.cat("a/f").unwrap(), b"inside");
    assert_eq!(std::fs::read(outside.join("f")).unwrap(), b"outside");
}

/// Truncates, renames and stores the same two names as fast as it can.
const HAMMER: &str = r#"
import os, random, sys
dice = random.Random(int(sys.argv[1]))
for n in range(1500):
    one, other = dice.sample(["a", "b"], 2)
    try:
        what = dice.randrange(4)
        if what == 0:
            os.rename(one, other)
        elif what == 1:
            os.close(os.open(one, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        else:
            os.truncate(one, n)
    except OSError:
        pass
    with open(sys.argv[2], "w") as progress:
        progress.write(str(n))
"#;

/// The kernel holds a file's lock for as long as it waits for a truncation, and a folder's for a rename that waits for the
/// file's; news of the folder wait for that.
#[test]
fn s10_truncations_and_renames_of_the_same_names_do_not_wait_for_each_other_for_ever() {
    let m = Mount::new();
    let reached = |n: u32| m.home().join(format!("reached{n}"));
    let hammer = |n: u32| {
        let mut python = Command::new("python3");
        python.args(["-c", HAMMER, &n.to_string()]).arg(reached(n)).current_dir(m.mnt()).spawn().unwrap()
    };
    let mut running: Vec<Child> = (0..6).map(hammer).collect();
    let progress = || (0..6).map(|n| std::fs::read(reached(n)).unwrap_or_default()).collect::<Vec<_>>();
    while !running.is_empty() {
        let before = progress();
        let goes_on = poll(LIMIT, || {
            running.retain_mut(|child| child.try_wait().unwrap().is_none());
            (running.is_empty() || progress() != before).then_some(())
        });
        assert!(goes_on.is_some(), "{} of 6 wait for ever", running.len());
    }
    checker::check(&m);
}

/// Folders `d` in each other, deeper than any path goes. Flattened at the end: to remove them from below takes a call each.
struct Deep(OwnedFd);

fn below(folder: impl AsFd) -> OwnedFd {
    openat(folder, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

impl Deep {
    fn make(export: OwnedFd, depth: usize) -> Deep {
        let mut folder = export.try_clone().unwrap();
        for _ in 0..depth {
            mkdirat(&folder, "d", Mode::RWXU).unwrap();
            folder = below(&folder);
        }
        Deep(export)
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        let top = &self.0;
        let shorten = || {
            renameat(openat(top, "d", OFlags::PATH, Mode::empty())?, "d", top, "up")?;
            // Not empty after a failure: then that stays.
            unlinkat(top, "d", AtFlags::REMOVEDIR)?;
            renameat(top, "up", top, "d")
        };
        while shorten().is_ok() {}
    }
}

#[test]
fn s47_folders_may_lie_in_each_other_deeper_than_a_path_is_long() {
    const DEPTH: usize = 20_000;
    // To make the names of all of them durable would take a minute.
    let m = Mount::setup().options("totals=false").env("COMMITFS_SKIP_SYNC", "folder").mount();
    let open = |path: &std::path::Path| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let _deep = Deep::make(open(&m.raw("")), DEPTH);
    let bottom = |from: OwnedFd| (0..DEPTH).fold(from, |folder, _| below(folder));
    {
        let there = bottom(open(m.mnt()));
        let file = openat(&there, "f", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR | Mode::WUSR).unwrap();
        File::from(file).write_all(b"content").unwrap();
        let read = openat(&there, "f", OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(std::io::read_to_string(File::from(read)).unwrap(), "content");
    }
    let there = bottom(open(&m.raw("")));
    let read = openat(&there, "f", OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(std::io::read_to_string(File::from(read)).unwrap(), "content");
    unlinkat(&there, "f", AtFlags::empty()).unwrap();
    assert_eq!(m.agent("R").list(".").unwrap(), [b"d"]);
}

/// As logs are rotated, without a pause.
const ROTATE: &str = "
import os
while True:
    with open('next', 'w') as f:
        f.write('next')
    try:
        os.rename('a', 'a.1')
    except FileNotFoundError:
        pass
    os.rename('next', 'a')
";

#[test]
fn s12_a_name_that_others_rename_all_the_time_can_be_opened_for_writing() {
    let m = Mount::new();
    let w = m.agent("W");
    w.put("a", "old").unwrap();
    let mut rotating = Command::new("python3").args(["-c", ROTATE]).current_dir(m.mnt()).spawn().unwrap();
    eventually("it rotates", || m.raw("a.1").exists());
    let opened: Vec<_> = (0..1000).map(|_| w.open("a", "w|creat|append").map(|fd| w.close(fd))).collect();
    rotating.kill().unwrap();
    rotating.wait().unwrap();
    let refused: Vec<_> = opened.iter().filter(|result| **result != Ok(Ok(()))).collect();
    // The name may be renamed twice while an open is on its way (S12): hardly ever, and nothing else is said.
    let twice = refused.iter().filter(|result| matches!(result, Err(errno) if *errno == "ESTALE"));
    assert!(twice.count() == refused.len() && refused.len() <= opened.len() / 50, "{refused:?}");
}
