//! Names, links and folders.

use super::Place;

pub fn opening_fails_as_it_should(p: &Place) {
    let a = p.agent("a");
    a.put("f", "x").unwrap();
    a.mkdir("d").unwrap();
    a.symlink("f", "s").unwrap();
    a.symlink("loop", "loop").unwrap();
    for (path, how, errno) in [
        ("nothing", "r", "ENOENT"),
        ("nothing", "w|trunc", "ENOENT"),
        ("nothing/f", "w|creat", "ENOENT"),
        ("f/below", "w|creat", "ENOTDIR"),
        ("f", "w|creat|excl", "EEXIST"),
        ("s", "w|creat|excl", "EEXIST"),
        ("s", "r|nofollow", "ELOOP"),
        ("s", "w|nofollow", "ELOOP"),
        ("loop", "r", "ELOOP"),
        ("d", "w", "EISDIR"),
        ("d", "rw", "EISDIR"),
        ("d", "r|creat", "EISDIR"),
        ("f", "r|dir", "ENOTDIR"),
        ("d/", "w|creat", "EISDIR"),
        ("", "r", "ENOENT"),
    ] {
        assert_eq!(a.open(path, how).unwrap_err(), errno, "{path} {how}");
    }
    let long = "n".repeat(256);
    assert_eq!(a.open(&*long, "w|creat").unwrap_err(), "ENAMETOOLONG");
    assert_eq!(a.stat(&*long).unwrap_err(), "ENAMETOOLONG");
    a.put(&long[..255], "as long as can be").unwrap();
    assert_eq!(a.cat(&long[..255]).unwrap(), b"as long as can be");
}

pub fn renaming_fails_as_it_should(p: &Place) {
    let a = p.agent("a");
    a.put("f", "f").unwrap();
    a.mkdir("d").unwrap();
    a.mkdir("d/sub").unwrap();
    a.mkdir("full").unwrap();
    a.put("full/g", "g").unwrap();
    a.mkdir("empty").unwrap();
    for (from, to, errno) in [
        ("nothing", "x", "ENOENT"),
        ("f", "nowhere/x", "ENOENT"),
        ("f", "d", "EISDIR"),
        ("d", "f", "ENOTDIR"),
        ("d", "full", "ENOTEMPTY"),
        ("d", "d/sub/x", "EINVAL"),
        ("f", "full/g/x", "ENOTDIR"),
    ] {
        assert_eq!(a.rename(from, to).unwrap_err(), errno, "{from} {to}");
    }
    a.rename("f", "f").unwrap();
    a.rename("d", "empty").unwrap();
    a.rename("f", "full/g").unwrap();
    assert_eq!(a.cat("full/g").unwrap(), b"f");
    assert_eq!(a.list(".").unwrap(), [b"empty".to_vec(), b"full".to_vec()]);
    a.link("full/g", "same").unwrap();
    a.rename("same", "full/g").unwrap();
    assert_eq!(a.stat("same").unwrap().nlink, 2, "two names of one file: nothing happens");
}

pub fn renames_exchange_and_refuse_to_replace(p: &Place) {
    let a = p.agent("a");
    a.put("a", "a").unwrap();
    a.put("b", "b").unwrap();
    a.mkdir("d").unwrap();
    assert_eq!(a.rename_with("a", "b", "noreplace").unwrap_err(), "EEXIST");
    a.rename_with("a", "d/a", "noreplace").unwrap();
    a.rename_with("d/a", "b", "exchange").unwrap();
    assert_eq!((a.cat("b").unwrap(), a.cat("d/a").unwrap()), (b"a".to_vec(), b"b".to_vec()));
    a.rename_with("b", "d", "exchange").unwrap();
    assert!(a.stat("b").unwrap().is_dir() && !a.stat("d").unwrap().is_dir());
    assert_eq!(a.cat("b/a").unwrap(), b"b");
    assert_eq!(a.rename_with("b", "nothing", "exchange").unwrap_err(), "ENOENT");
}

pub fn names_are_bytes(p: &Place) {
    let a = p.agent("a");
    let names: [&[u8]; 7] = [b"new\nline", b" ", b"-rf", b"\xff\xfe", b"...", "\u{e4}\u{1f600}".as_bytes(), b"\\'\"*?"];
    for name in names {
        a.put(name, name).unwrap();
    }
    let mut expected: Vec<Vec<u8>> = names.iter().map(|n| n.to_vec()).collect();
    expected.sort();
    assert_eq!(a.list(".").unwrap(), expected);
    for name in names {
        assert_eq!(a.cat(name).unwrap(), name);
        a.rename(name, [name, b"2"].concat().as_slice()).unwrap();
    }
    assert_eq!(a.mkdir("..").unwrap_err(), "EEXIST");
    assert_eq!(a.mkdir(".").unwrap_err(), "EEXIST");
    assert_eq!(a.rmdir(".").unwrap_err(), "EINVAL");
    assert_eq!(a.rmdir("..").unwrap_err(), "ENOTEMPTY");
    assert_eq!(a.unlink("..").unwrap_err(), "EISDIR");
    a.mkdir("d").unwrap();
    a.put("d/../up", "up").unwrap();
    assert_eq!(a.cat("./d/.././up").unwrap(), b"up");
}

pub fn hard_links_count(p: &Place) {
    let a = p.agent("a");
    a.put("f", "x").unwrap();
    a.mkdir("d").unwrap();
    a.link("f", "d/g").unwrap();
    let (f, g) = (a.stat("f").unwrap(), a.stat("d/g").unwrap());
    assert_eq!((f.nlink, f.ino, f.dev), (2, g.ino, g.dev));
    assert_eq!(a.link("f", "d/g").unwrap_err(), "EEXIST");
    assert_eq!(a.link("d", "e").unwrap_err(), "EPERM");
    assert_eq!(a.link("nothing", "e").unwrap_err(), "ENOENT");
    a.symlink("nowhere", "s").unwrap();
    a.link("s", "s2").unwrap();
    assert_eq!(a.readlink("s2").unwrap(), b"nowhere");
    a.chmod("d/g", 0o600).unwrap();
    assert_eq!(a.stat("f").unwrap().perm(), 0o600);
    a.unlink("f").unwrap();
    assert_eq!(a.stat("d/g").unwrap().nlink, 1);
    assert_eq!(a.cat("d/g").unwrap(), b"x");
}

pub fn an_unlinked_file_lives_on_in_its_descriptor(p: &Place) {
    let a = p.agent("a");
    for how in ["rw", "r"] {
        a.put("f", "content").unwrap();
        let fd = a.open("f", how).unwrap();
        a.unlink("f").unwrap();
        assert_eq!(a.fstat(fd).unwrap().nlink, 0, "{how}");
        a.put("f", "another").unwrap();
        assert_eq!(a.pread(fd, 0, 20).unwrap(), b"content");
        assert_eq!(a.cat("f").unwrap(), b"another");
        if how == "rw" {
            a.pwrite(fd, 0, "C").unwrap();
            assert_eq!(a.pread(fd, 0, 20).unwrap(), b"Content");
        }
        a.close(fd).unwrap();
        assert_eq!(a.cat("f").unwrap(), b"another");
    }
}

pub fn a_symlink_may_dangle(p: &Place) {
    let a = p.agent("a");
    a.mkdir("d").unwrap();
    a.symlink("d/target", "s").unwrap();
    assert_eq!(a.stat("s").unwrap_err(), "ENOENT");
    assert_eq!(a.lstat("s").unwrap().size, 8);
    a.put("s", "through the link").unwrap();
    assert_eq!(a.cat("d/target").unwrap(), b"through the link");
    a.append("s", "!").unwrap();
    assert_eq!(a.cat("d/target").unwrap(), b"through the link!");
    let long = "x/".repeat(2047);
    a.symlink(&*long, "long").unwrap();
    assert_eq!(a.readlink("long").unwrap(), long.as_bytes());
    assert_eq!(a.readlink("d").unwrap_err(), "EINVAL");
    assert_eq!(a.symlink("x", "s").unwrap_err(), "EEXIST");
}

pub fn folders_count_and_refuse(p: &Place) {
    let a = p.agent("a");
    a.mkdir("d").unwrap();
    a.mkdir("d/e").unwrap();
    a.mkdir("d/f").unwrap();
    assert_eq!(a.stat("d").unwrap().nlink, 4);
    assert_eq!(a.rmdir("d").unwrap_err(), "ENOTEMPTY");
    assert_eq!(a.unlink("d").unwrap_err(), "EISDIR");
    assert_eq!(a.mkdir("d").unwrap_err(), "EEXIST");
    a.put("g", "x").unwrap();
    assert_eq!(a.rmdir("g").unwrap_err(), "ENOTDIR");
    assert_eq!(a.mkdir("g/x").unwrap_err(), "ENOTDIR");
    a.rmdir("d/e").unwrap();
    assert_eq!(a.stat("d").unwrap().nlink, 3);
    let before = a.stat("d").unwrap().mtime;
    a.sh("sleep 0.02; touch d/new");
    assert!(a.stat("d").unwrap().mtime > before, "a new name moves the folder's time");
}

/// What the kernel has kept of another's listing is gone in the middle.
pub fn a_listing_that_others_read_first_is_stable_too(p: &Place) {
    let script = r#"
import os, subprocess
for i in range(3000):
    os.mknod(f"old-{i}")
with os.scandir(".") as listing:
    subprocess.run(["ls", "-f"], check=True, stdout=subprocess.DEVNULL)
    seen = [next(listing).name]
    for i in range(0, 3000, 3):
        os.unlink(f"old-{i}")
    left = set(os.listdir("."))
    for i in range(300):
        os.mknod(f"new-{i}")
    seen += [entry.name for entry in listing]
assert len(set(seen)) == len(seen), "a name came twice"
assert left <= set(seen), f"{len(left - set(seen))} names were never listed"
"#;
    let (status, _, complaint) = p.agent("a").run("python3", script).unwrap();
    assert_eq!(status, "0", "{complaint}");
}

pub fn a_listing_is_stable_while_names_come_and_go(p: &Place) {
    let a = p.agent("a");
    let script = r#"
import os
for i in range(3000):
    os.mknod(f"old-{i}")
seen = {}
with os.scandir(".") as listing:
    for n, entry in enumerate(listing):
        seen[entry.name] = seen.get(entry.name, 0) + 1
        if n < 2000:
            if n % 2 and entry.name.startswith("old"):
                os.unlink(entry.name)
            os.mknod(f"new-{n}")
assert all(count == 1 for count in seen.values()), "a name came twice"
left = set(os.listdir("."))
missed = [name for name in left if name.startswith("old") and name not in seen]
assert not missed, f"{len(missed)} names were never listed"
"#;
    let (status, _, complaint) = a.run("python3", script).unwrap();
    assert_eq!(status, "0", "{complaint}");
}
