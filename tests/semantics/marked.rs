//! Folders and files with marks of the export's file system: projects, and what must not be changed.

use std::path::Path;
use std::process::Command;

use crate::common::mount::show;
use crate::common::{Mount, Setup, SmallFs};

#[track_caller]
fn chattr(arguments: &[&str], path: &Path) {
    let out = Command::new("chattr").args(arguments).arg(path).output().unwrap();
    assert!(out.status.success(), "chattr {arguments:?} {}: {}", path.display(), show(&out));
}

/// The project of a file, as the export has it.
#[track_caller]
fn project(m: &Mount, path: &str) -> String {
    let out = Command::new("lsattr").args(["-p", "-d"]).arg(m.raw(path)).output().unwrap();
    String::from_utf8_lossy(&out.stdout).split_whitespace().next().unwrap_or_default().to_owned()
}

/// The paths below `p` of which a version is kept.
#[track_caller]
fn kept(m: &Mount) -> Vec<String> {
    m.recorded();
    let rows = m.json(&["outbox", "ls"]);
    let paths = rows.as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap().to_owned());
    let mut kept: Vec<_> = paths.filter(|path| path.starts_with("p/")).collect();
    kept.sort();
    kept
}

#[test]
fn s27_a_folder_that_hands_its_project_down_takes_what_is_closed_in_it() {
    let small = SmallFs::made_by(&["mkfs.xfs", "-q", "-f"], 320);
    let config = "[[rule]]\nglob = '**/*.csv'\ndone_marker = true\nretain = '1h'\n";
    let m = Setup::default().backing(small.path()).config(config).mount();
    let (w, r) = m.pair();
    w.mkdir("p").unwrap();
    w.put("p/before.csv", "old").unwrap();
    chattr(&["+P", "-p", "42"], &m.raw("p"));
    for name in ["p/before.csv", "p/new.csv", "p/new.csv"] {
        w.put(name, "one").unwrap();
        assert_eq!((r.cat(name).unwrap(), project(&m, name)), (b"one".to_vec(), "42".to_owned()));
        assert!(r.cat(&format!("{name}.done")).is_ok());
    }
    w.append("p/new.csv", "two").unwrap();
    w.unlink("p/before.csv").unwrap();
    assert_eq!(r.cat("p/new.csv").unwrap(), b"onetwo");
    m.nothing_quarantined();
    assert_eq!(kept(&m), ["p/before.csv", "p/before.csv", "p/new.csv", "p/new.csv"]);
}

#[test]
fn s27_a_version_that_cannot_be_kept_for_its_project_is_replaced_all_the_same() {
    let small = SmallFs::made_by(&["mkfs.xfs", "-q", "-f"], 320);
    // The reserved folder is made in a project, and files of another one cannot be linked there.
    chattr(&["+P", "-p", "1"], small.path());
    let m = Setup::default().backing(small.path()).mount();
    let (w, r) = m.pair();
    w.mkdir("p").unwrap();
    chattr(&["+P", "-p", "42"], &m.raw("p"));
    w.put("p/f", "one").unwrap();
    let reader = r.open("p/f", "r").unwrap();
    w.put("p/f", "two").unwrap();
    assert_eq!((r.cat("p/f").unwrap(), r.pread(reader, 0, 9).unwrap()), (b"two".to_vec(), b"one".to_vec()));
    w.unlink("p/f").unwrap();
    m.nothing_quarantined();
    assert_eq!(kept(&m), [""; 0]);
}

#[test]
fn s47_what_cannot_be_replaced_is_refused_when_it_is_opened() {
    let small = SmallFs::new(16);
    let m = Setup::default().backing(small.path()).mount();
    let (w, r) = m.pair();
    w.mkdir("folder").unwrap();
    for (mark, name) in [("i", "fixed"), ("a", "grows")] {
        w.put(name, "old").unwrap();
        chattr(&[&format!("+{mark}")], &m.raw(name));
        for how in ["w", "rw", "w|append", "w|trunc", "w|creat"] {
            assert_eq!(w.open(name, how).map_err(|errno| errno.0), Err("EPERM".to_owned()), "{name}, {how}");
            // The refusal does not hang on to what the thread does next.
            assert_eq!(w.cat(name).unwrap(), b"old");
            w.put("other", "new").unwrap();
        }
        assert_eq!(w.truncate(name, 1).map_err(|errno| errno.0), Err("EPERM".to_owned()), "{name}");
        chattr(&[&format!("-{mark}")], &m.raw(name));
        w.append(name, " and new").unwrap();
        assert_eq!(r.cat(name).unwrap(), b"old and new");
    }
    // What is written in place may be appended to.
    w.put("app.log", "1").unwrap();
    chattr(&["+a"], &m.raw("app.log"));
    w.append("app.log", "2").unwrap();
    assert_eq!(w.open("app.log", "w").map_err(|errno| errno.0), Err("EPERM".to_owned()));
    assert_eq!(r.cat("app.log").unwrap(), b"12");
    let fd = w.open("app.log", "w|append").unwrap();
    w.appends(fd, false).unwrap();
    assert_eq!(w.pwrite(fd, 0, "over").map_err(|errno| errno.0), Err("EPERM".to_owned()), "not in another place");
    w.close(fd).unwrap();
    assert_eq!(r.cat("app.log").unwrap(), b"12");
    chattr(&["-a"], &m.raw("app.log"));
    chattr(&["+i"], &m.raw("folder"));
    assert_eq!(w.open("folder/new", "w|creat").map_err(|errno| errno.0), Err("EPERM".to_owned()));
    chattr(&["-i"], &m.raw("folder"));
    w.put("folder/new", "new").unwrap();
    m.nothing_quarantined();
}
