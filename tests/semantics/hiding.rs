//! The raw export, staging, and a mount over itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::{Mount, Setup, eventually, filled};

/// All names on the raw export outside of staging.
fn raw_names(m: &Mount) -> BTreeSet<PathBuf> {
    fn walk(folder: &Path, below: &Path, names: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = below.join(entry.file_name());
            if name == Path::new(".commitfs") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &name, names);
            }
            names.insert(name);
        }
    }
    let mut names = BTreeSet::new();
    walk(&m.raw(""), Path::new(""), &mut names);
    names
}

#[test]
fn s19_the_raw_export_never_shows_a_final_name_with_partial_content() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("d/old", "old").unwrap();
    let fds = [
        w.open("d/new", "w|creat").unwrap(),
        w.open("d/old", "w|trunc").unwrap(),
        w.open("top", "rw|creat|excl").unwrap(),
    ];
    let names: BTreeSet<PathBuf> = ["d", "d/old"].into_iter().map(PathBuf::from).collect();
    for i in 0..10 {
        for fd in fds {
            w.fill(fd, i * 10_000, 10_000, 9).unwrap();
            w.fsync(fd).unwrap();
        }
        assert_eq!(raw_names(&m), names, "no temporary names either");
        assert_eq!(m.raw_content("d/old").unwrap(), b"old");
    }
    for fd in fds {
        w.close(fd).unwrap();
    }
    for name in ["d/new", "d/old", "top"] {
        eventually("the export has it whole", || m.raw_content(name).is_some_and(|d| d == filled(9, 100_000)));
    }
    assert_eq!(raw_names(&m).len(), 4);
}

#[test]
fn s20_staging_is_not_reachable_through_the_mount() {
    let m = Mount::new();
    let w = m.agent("W");
    let fd = w.open("draft", "w|creat").unwrap();
    w.write(fd, "hidden").unwrap();
    w.mkdir("d").unwrap();
    assert!(m.raw(".commitfs").is_dir(), "staging lies at the export's root");
    assert!(!w.lists(".", ".commitfs"));
    let links = std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(m.export()).unwrap());
    assert_eq!(w.stat(".").unwrap().nlink, if links > 2 { links - 1 } else { links }, "nor counted");
    for path in [".commitfs", "./.commitfs", "d/../.commitfs", "d/../../mnt/.commitfs", ".commitfs/", ".commitfs/x"] {
        assert!(w.stat(path).is_err(), "{path}");
        assert!(w.open(path, "r").is_err(), "{path}");
        assert!(w.open(path, "r|dir").is_err(), "{path}");
        assert!(w.open(path, "w|creat").is_err(), "{path}");
        assert!(w.list(path).is_err(), "{path}");
        assert!(w.mkdir(path).is_err(), "{path}");
        assert!(w.symlink("d", path).is_err(), "{path}");
        assert!(w.call(&["mkfifo", path]).is_err(), "{path}");
        assert!(w.rmdir(path).is_err(), "{path}");
        assert!(w.unlink(path).is_err(), "{path}");
        assert!(w.rename("d", path).is_err(), "{path}");
        assert!(w.rename(path, "e").is_err(), "{path}");
        assert!(w.rename_with("d", path, "exchange").is_err(), "{path}");
        assert!(w.link("draft", path).is_err(), "{path}");
        assert!(w.chmod(path, 0o777).is_err(), "{path}");
        assert!(w.call(&["chdir", path]).is_err(), "{path}");
        assert!(w.xattrs(path).is_err(), "{path}");
    }
    w.symlink(".commitfs", "through").unwrap();
    assert!(w.list("through").is_err());
    w.symlink(m.raw("").join(".commitfs").as_os_str().as_encoded_bytes(), "elsewhere").unwrap();
    w.mkdir("d/.commitfs").unwrap();
    w.put("d/.commitfs/f", "the name is only reserved at the root").unwrap();
    assert_eq!(w.sh("find . -name .commitfs"), "./d/.commitfs\n");
    assert!(m.raw(".commitfs").is_dir());
}

#[test]
fn s50_a_mount_over_itself_is_a_drop_in_replacement() {
    let mut m = Setup::default().over_itself().mount();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "new").unwrap();
    assert_eq!(r.cat("f").unwrap(), b"old");
    assert_eq!(m.raw_content("f").unwrap(), b"old");
    w.close(fd).unwrap();
    assert_eq!(r.cat(m.export().join("f").to_str().unwrap()).unwrap(), b"new");
    eventually("and below the mount", || m.raw_content("f").unwrap() == b"new");
    assert!(!r.lists(".", ".commitfs"));
    drop((w, r));
    m.umount();
    assert_eq!(std::fs::read(m.export().join("f")).unwrap(), b"new");
    m.remount();
    assert_eq!(m.agent("R").cat("f").unwrap(), b"new");
}

#[test]
fn s50_a_mount_over_itself_recovers_after_a_crash() {
    let mut m = Setup::default().over_itself().mount();
    let w = m.agent("W");
    w.put("f", "kept").unwrap();
    let fd = w.open("g", "w|creat").unwrap();
    w.write(fd, "lost").unwrap();
    w.fsync(fd).unwrap();
    m.recorded();
    m.kill9();
    drop(w);
    m.remount();
    let r = m.agent("R");
    assert_eq!(r.cat("f").unwrap(), b"kept");
    r.sees_nothing("g");
    m.quarantined("g");
}
