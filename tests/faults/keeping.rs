//! What lies in quarantine, and what was published, looked at through a file system that loses, refuses and is peculiar.

use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;
use rustix::process::Signal;

use crate::common::mount::show;
use crate::common::{Mount, checker, content, eventually};
use crate::faultfs::FaultFs;
use crate::faultfs::disk::{Cut, Realm};
use crate::faultfs::plan::{Fault, Op, When};

/// Waits until the content of a path's draft in quarantine would outlast a power cut.
#[track_caller]
fn is_kept(fs: &FaultFs, m: &Mount, path: &str, content: &[u8]) {
    let id = m.quarantined(path).id.to_string();
    let staged = m.json(&["quarantine", "show", &id])["content"].as_str().unwrap().to_owned();
    let ino = std::fs::metadata(staged).unwrap().ino();
    eventually(&format!("{path} in quarantine is on the disk"), || fs.on_disk(ino).as_deref() == Some(content));
}

#[test]
fn what_is_in_quarantine_survives_a_later_power_cut() {
    let fs = FaultFs::new();
    // What the kernel has gathered would go with the daemon.
    let mut m = fs.setup_whole().options("writeback=off").unmounted();
    m.expect_mess();
    fs.rest();
    m.remount();
    let half = content::version("half", 1, 1, 9000);
    let write = |m: &Mount, name: &str| {
        let w = m.agent("W");
        let fd = w.open(name, "w|creat").unwrap();
        w.write(fd, &half).unwrap();
        w
    };
    // The writer is killed.
    write(&m, "writer").kill(Signal::KILL);
    is_kept(&fs, &m, "writer", &half);
    // The daemon is asked to end.
    let w = write(&m, "asked");
    m.terminate(Signal::TERM);
    drop(w);
    m.remount();
    is_kept(&fs, &m, "asked", &half);
    // The daemon is killed, and a mount later the power is cut.
    let w = write(&m, "killed");
    m.recorded();
    m.kill9();
    drop(w);
    m.remount();
    is_kept(&fs, &m, "killed", &half);
    m.settled();
    m.kill9();
    fs.cut(Cut::All, Cut::All);
    m.set_env("COMMITFS_BOOT", "another");
    m.remount();
    for name in ["writer", "asked", "killed"] {
        let id = m.quarantined(name).id.to_string();
        let out = m.cli(&["quarantine", "save", &id, "-"]);
        assert!(out.stdout == half, "{name}: {} bytes of {}", out.stdout.len(), half.len());
    }
    checker::check(&m);
}

#[test]
fn the_size_of_what_could_not_be_looked_at_is_right_after_the_next_mount() {
    let fs = FaultFs::new();
    let mut m = fs.setup().options("writeback=off").mount();
    m.expect_mess();
    let w = m.agent("W");
    let fd = w.open("half", "w|creat").unwrap();
    w.write(fd, [7; 9000]).unwrap();
    m.recorded();
    fs.refuse(Realm::Export, |_| true, Errno::IO);
    m.terminate(Signal::TERM);
    drop(w);
    fs.allow();
    m.remount();
    eventually("the row has the size of its content", || m.quarantined("half").bytes == 9000);
    checker::check(&m);
}

#[test]
fn verify_reads_below_a_server_that_cannot_read_directly() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    let w = m.agent("W");
    w.put("f", [7; 9000]).unwrap();
    m.recorded();
    assert_eq!(m.json(&["verify", "--path", "f"])["same"], 1);
}

#[test]
fn who_reads_a_version_on_fuse_is_led_to_its_other_name_before_it_is_replaced() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let fd = r.open("f", "r").unwrap();
    w.put("f", "new").unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", m.daemon_pid())).unwrap();
    let links: Vec<_> = open.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
    let trash = m.export().join(".commitfs/trash");
    assert!(links.iter().any(|link| link.starts_with(&trash) && link.is_file()), "{links:?}");
    assert!(!links.contains(&m.export().join("f (deleted)")), "{links:?}");
    assert_eq!(r.pread(fd, 0, 10).unwrap(), b"old");
}

#[test]
fn what_a_fuse_server_makes_of_removed_open_files_is_not_shown() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    std::fs::write(m.raw(".fuse_hidden0000002a00000001"), "left by a server that was killed").unwrap();
    let w = m.agent("W");
    w.put("f", "f").unwrap();
    assert_eq!(w.list(".").unwrap(), [b"f"]);
    assert_eq!(w.stat(".fuse_hidden0000002a00000001").unwrap_err(), "ENOENT");
    assert_eq!(w.put(".fuse_hidden1", "").unwrap_err(), "EPERM");
}

#[test]
fn a_rename_that_was_made_as_the_export_failed_is_a_commit_after_the_next_mount() {
    let fs = FaultFs::new();
    let mut m = fs.setup().mount();
    m.expect_mess();
    for name in ["new", "over"] {
        let w = m.agent("W");
        w.put("over", "old").unwrap();
        m.recorded();
        let fd = w.open(name, "w|creat|trunc").unwrap();
        w.write(fd, "whole").unwrap();
        fs.arm_to_die(Fault {
            realm: Realm::Export,
            skip: 0,
            op: Some(Op::Rename),
            errno: Errno::IO,
            when: When::After,
        });
        assert_eq!(w.close(fd).unwrap_err(), "EIO", "nobody knows");
        assert!(fs.disarm().is_some());
        m.quarantined(name);
        fs.allow();
        m.kill9();
        drop(w);
        m.remount();
        assert_eq!(m.raw_content(name).unwrap(), b"whole");
        eventually("it counts as committed", || m.quarantine().is_empty());
        assert_eq!(m.history().iter().find(|row| row.path == name).unwrap().state, "committed");
        checker::check(&m);
    }
}

#[test]
fn what_is_restored_and_not_durable_yet_is_not_taken_for_removed() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    let (w, r) = m.pair();
    w.put("f", "content").unwrap();
    w.unlink("f").unwrap();
    let row = || m.json(&["trash", "ls"]).as_array().unwrap().first().map(|row| row["id"].to_string());
    eventually("the outbox has it", || row().is_some());
    let id = row().unwrap();
    fs.refuse(Realm::Export, |op| op == Op::Fsyncdir, Errno::IO);
    let told = m.cli(&["trash", "restore", &id]);
    fs.allow();
    let said = show(&told);
    assert!(!told.status.success() && said.contains("restored, but not durable yet"), "{said}");
    assert_eq!(r.cat("f").unwrap(), b"content");
    assert_eq!(row(), None, "nothing is left to be restored or removed");
    let db = rusqlite::Connection::open(m.state().join("journal.sqlite")).unwrap();
    let events = "SELECT count(*) FROM events WHERE kind = 'restored'";
    assert_eq!(db.query_row(events, [], |row| row.get::<_, i64>(0)), Ok(1));
    checker::check(&m);
    checker::totals(&m);
}
