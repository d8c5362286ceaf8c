//! Unlink and rename of names with drafts, folders, links, names as bytes.

use crate::common::{Agent, Mount, eventually};

/// A draft that replaces `old` at `f`, not closed yet.
fn overwriting(m: &Mount) -> (Agent, Agent, i32) {
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "new").unwrap();
    (w, r, fd)
}

#[test]
fn s13_an_outsider_unlinks_the_version_and_the_draft_commits() {
    let m = Mount::new();
    let (w, r, fd) = overwriting(&m);
    r.unlink("f").unwrap();
    r.sees_nothing("f");
    assert_eq!(m.raw_content("f"), None);
    assert_eq!(w.cat("f").unwrap(), b"new");
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"new");
}

#[test]
fn s13_a_draft_that_nothing_was_written_to_leaves_nothing_when_its_version_is_gone() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for (taken_away, name) in [("unlinked", "f"), ("renamed", "g")] {
        r.put(name, "old").unwrap();
        let fd = w.open(name, "rw").unwrap();
        match taken_away {
            "unlinked" => r.unlink(name).unwrap(),
            _ => r.rename(name, "elsewhere").unwrap(),
        }
        // The kernel remembers the draft's node by this for longer than the descriptor lives.
        w.list(".").unwrap();
        w.close(fd).unwrap();
        // Who had it open is nobody special any more.
        w.sees_nothing(name);
        assert!(!w.list(".").unwrap().contains(&name.as_bytes().to_vec()), "{taken_away} and listed");
        r.put(name, "next").unwrap();
        assert_eq!(w.cat(name).unwrap(), b"next");
    }
}

/// Whether or not the kernel has passed it on.
#[test]
fn s13_what_was_written_commits_though_another_draft_is_renamed_over_its_name() {
    for (first, moved) in [("over", false), ("over", true), ("below", false), ("below", true)] {
        let m = Mount::new();
        let (w, r) = m.pair();
        r.put("f", "old").unwrap();
        let mut fd = w.open("f", "w|append").unwrap();
        if moved {
            let other = w.dup(fd).unwrap();
            w.close(fd).unwrap();
            fd = other;
        }
        w.write(fd, " and new").unwrap();
        let other = r.open("tmp", "w|creat").unwrap();
        r.write(other, "other").unwrap();
        r.rename("tmp", "f").unwrap();
        let last = if first == "over" {
            r.close(other).unwrap();
            eventually("the first of them", || m.commits_of("f") == 2);
            w.close(fd).unwrap();
            "old and new"
        } else {
            w.close(fd).unwrap();
            eventually("the first of them", || m.commits_of("f") == 2);
            r.close(other).unwrap();
            "other"
        };
        m.settled();
        assert_eq!(r.cat("f").unwrap(), last.as_bytes(), "{first}, {moved}");
        assert_eq!(m.commits_of("f"), 3, "{first}, {moved}");
    }
}

#[test]
fn s14_an_outsider_renames_the_version_and_the_draft_commits() {
    let m = Mount::new();
    let (w, r, fd) = overwriting(&m);
    r.rename("f", "g").unwrap();
    assert_eq!(r.cat("g").unwrap(), b"old");
    r.sees_nothing("f");
    w.write(fd, "er").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"newer");
    assert_eq!(r.cat("g").unwrap(), b"old");
}

#[test]
fn s14_an_outsider_renames_something_over_the_name_and_the_draft_commits() {
    let m = Mount::new();
    let (w, r, fd) = overwriting(&m);
    r.put("other", "other").unwrap();
    r.rename("other", "f").unwrap();
    assert_eq!(r.cat("f").unwrap(), b"other");
    eventually("the family finds its draft at the name again", || w.cat("f").unwrap() == b"new");
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"new");
}

#[test]
fn s15_the_family_unlinks_a_new_draft_and_nothing_is_published() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "rw|creat").unwrap();
    w.write(fd, "scratch").unwrap();
    w.unlink("f").unwrap();
    w.sees_nothing("f");
    assert_eq!(w.pread(fd, 0, 10).unwrap(), b"scratch", "the descriptor works on");
    w.write(fd, " pad").unwrap();
    assert_eq!(w.fstat(fd).unwrap().size, 11);
    w.close(fd).unwrap();
    r.sees_nothing("f");
    m.settled();
    r.sees_nothing("f");
    assert_eq!(m.commits_of("f"), 0);
    m.nothing_quarantined();
}

#[test]
fn s15_the_family_unlinks_a_name_with_a_draft_and_the_old_version_goes_too() {
    let m = Mount::new();
    let (w, r, fd) = overwriting(&m);
    w.unlink("f").unwrap();
    r.sees_nothing("f");
    w.sees_nothing("f");
    w.close(fd).unwrap();
    m.settled();
    r.sees_nothing("f");
    assert_eq!(m.raw_content("f"), None);
}

#[test]
fn s15_a_name_is_free_again_after_its_draft_was_unlinked() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let first = w.open("f", "w|creat|excl").unwrap();
    w.write(first, "first").unwrap();
    w.unlink("f").unwrap();
    let second = w.open("f", "w|creat|excl").unwrap();
    w.write(second, "second").unwrap();
    w.close(first).unwrap();
    r.sees_nothing("f");
    w.close(second).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"second");
}

#[test]
fn s16_the_family_renames_a_new_draft_and_it_appears_under_the_new_name() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "moved").unwrap();
    w.rename("f", "d/g").unwrap();
    w.sees_nothing("f");
    assert_eq!(w.cat("d/g").unwrap(), b"moved");
    r.sees_nothing("f");
    r.sees_nothing("d/g");
    w.write(fd, " on").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("d/g").unwrap(), b"moved on");
    r.sees_nothing("f");
}

#[test]
fn s16_the_family_renames_a_draft_over_another_name() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("g", "old").unwrap();
    let before = r.shown("g");
    let fd = w.open("f.tmp", "w|creat").unwrap();
    w.write(fd, "new").unwrap();
    w.rename("f.tmp", "g").unwrap();
    assert_eq!(w.cat("g").unwrap(), b"new");
    assert_eq!(r.shown("g"), before, "not before the last close");
    w.close(fd).unwrap();
    assert_eq!(r.cat("g").unwrap(), b"new");
    r.sees_nothing("f.tmp");
}

#[test]
fn s16_a_name_with_a_version_and_a_draft_is_renamed_whole() {
    let m = Mount::new();
    let (w, r, fd) = overwriting(&m);
    w.rename("f", "g").unwrap();
    assert_eq!(w.cat("g").unwrap(), b"new");
    w.sees_nothing("f");
    assert_eq!(r.shown("g").data, b"old", "the version moves at once, the draft when it is closed");
    r.sees_nothing("f");
    w.close(fd).unwrap();
    assert_eq!(r.cat("g").unwrap(), b"new");
    r.sees_nothing("f");
}

#[test]
fn s16_the_usual_save_by_rename_is_whole_at_once() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for round in 0..50 {
        let data = format!("round {round}");
        w.put("f.tmp", &data).unwrap();
        w.rename("f.tmp", "f").unwrap();
        assert_eq!(r.cat("f").unwrap(), data.as_bytes());
        r.sees_nothing("f.tmp");
    }
}

#[test]
fn s16_a_draft_renamed_away_and_back_is_published_once() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("a", "w|creat").unwrap();
    w.write(fd, "data").unwrap();
    w.rename("a", "b").unwrap();
    w.rename("b", "c").unwrap();
    w.rename("c", "a").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("a").unwrap(), b"data");
    r.sees_nothing("b");
    r.sees_nothing("c");
    assert_eq!(r.list(".").unwrap(), [b"a"]);
}

#[test]
fn s17_a_draft_follows_its_folder() {
    for by_family in [true, false] {
        let m = Mount::new();
        let (w, r) = m.pair();
        w.mkdir("d").unwrap();
        w.mkdir("d/e").unwrap();
        w.put("d/e/old", "old").unwrap();
        let new = w.open("d/e/new", "w|creat").unwrap();
        let over = w.open("d/e/old", "w|trunc").unwrap();
        w.write(new, "new").unwrap();
        w.write(over, "newer").unwrap();
        if by_family { &w } else { &r }.rename("d", "x").unwrap();
        assert_eq!(w.cat("x/e/new").unwrap(), b"new");
        assert_eq!(w.cat("x/e/old").unwrap(), b"newer");
        r.sees_nothing("x/e/new");
        assert_eq!(r.shown("x/e/old").data, b"old");
        w.close(new).unwrap();
        w.close(over).unwrap();
        assert_eq!(r.cat("x/e/new").unwrap(), b"new");
        assert_eq!(r.cat("x/e/old").unwrap(), b"newer");
        assert_eq!(r.stat("d").unwrap_err(), "ENOENT");
    }
}

#[test]
fn s24_an_overwrite_through_one_hard_link_leaves_the_other() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("a", "old").unwrap();
    w.link("a", "b").unwrap();
    let (a, b) = (r.stat("a").unwrap(), r.stat("b").unwrap());
    assert_eq!((a.ino, a.nlink), (b.ino, 2));
    let fd = w.open("b", "w|trunc").unwrap();
    w.write(fd, "new").unwrap();
    assert_eq!((r.shown("a").data, r.shown("b").data), (b"old".to_vec(), b"old".to_vec()));
    assert_eq!((w.cat("a").unwrap(), w.cat("b").unwrap()), (b"old".to_vec(), b"new".to_vec()));
    w.close(fd).unwrap();
    assert_eq!((r.shown("a").data, r.shown("b").data), (b"old".to_vec(), b"new".to_vec()));
    assert_eq!(r.stat("a").unwrap().nlink, 1);
}

#[test]
fn s25_names_are_bytes() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let long = vec![b'n'; 255];
    let names: [&[u8]; 7] = [b"\xff\xfe\x80", b" ", b"new\nline", b"-rf", b"\xc3\xa4", b"a\\b", &long];
    for name in names {
        let fd = w.open(name, "w|creat").unwrap();
        w.write(fd, name).unwrap();
        assert_eq!(r.stat(name).unwrap_err(), "ENOENT");
        w.close(fd).unwrap();
        assert_eq!(r.cat(name).unwrap(), name);
        assert!(r.lists(".", name));
        w.append(name, "!").unwrap();
        assert_eq!(r.cat(name).unwrap(), [name, b"!"].concat());
    }
    assert_eq!(r.list(".").unwrap().len(), names.len());
    let too_long = vec![b'n'; 256];
    assert_eq!(w.open(&too_long, "w|creat").unwrap_err(), "ENAMETOOLONG");
    m.recorded();
    m.cli_ok(&["log"]);
    assert_eq!(m.history().iter().filter(|row| row.state == "committed").count(), 2 * names.len());
    w.mkdir(b"\xf0\x80").unwrap();
    w.put(b"\xf0\x80/\xf1", "deep").unwrap();
    w.rename(b"\xf0\x80", b"\xf2").unwrap();
    assert_eq!(r.cat(b"\xf2/\xf1").unwrap(), b"deep");
}

#[test]
fn s25_long_names_and_deep_folders_survive_a_restart() {
    let mut m = Mount::new();
    let w = m.agent("W");
    let folder = vec!["d".repeat(200); 8].join("/");
    w.sh(&format!("mkdir -p {folder}"));
    let path = format!("{folder}/{}", "f".repeat(255));
    w.put(&path, "deep").unwrap();
    drop(w);
    m.umount();
    m.remount();
    assert_eq!(m.agent("R").cat(&path).unwrap(), b"deep");
}

#[test]
fn s26_listings_show_every_version_once_and_a_draft_only_to_its_family() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    let mut expected = Vec::new();
    for i in 0..300 {
        let name = format!("v{i:03}");
        w.put(&format!("d/{name}"), "v").unwrap();
        expected.push(name.into_bytes());
    }
    let mut open = Vec::new();
    let mut of_family = expected.clone();
    for i in 0..20 {
        let name = format!("x{i:03}");
        open.push(w.open(&format!("d/{name}"), "w|creat").unwrap());
        of_family.push(name.into_bytes());
        open.push(w.open(&format!("d/v{:03}", i * 10), "w|trunc").unwrap());
    }
    assert_eq!(r.list("d").unwrap(), expected);
    assert_eq!(w.list("d").unwrap(), of_family);
    assert_eq!(w.sh("ls -f d | sort | uniq -d"), "", "nothing twice");
    for fd in open {
        w.close(fd).unwrap();
    }
    assert_eq!(r.list("d").unwrap(), of_family);
    eventually("and the raw export agrees", || std::fs::read_dir(m.raw("d")).unwrap().count() == of_family.len());
}

/// The kernel may keep a listing, and hand it to whoever opened the folder before the draft began.
#[test]
fn s26_an_old_descriptor_of_a_folder_shows_what_a_new_one_would() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    for i in 0..300 {
        w.put(&format!("d/v{i:03}"), "v").unwrap();
    }
    let (mine, other) = (w.open("d", "r").unwrap(), r.open("d", "r").unwrap());
    for _ in 0..3 {
        assert_eq!(r.relist(other).unwrap().len(), 300);
        assert_eq!(w.relist(mine).unwrap().len(), 300);
    }
    let x = b"x".to_vec();
    let fd = w.open("d/x", "w|creat").unwrap();
    for _ in 0..3 {
        assert!(w.relist(mine).unwrap().contains(&x), "its family sees the draft");
        assert!(!r.relist(other).unwrap().contains(&x), "an outsider sees nothing, whoever listed before");
        assert!(!r.list("d").unwrap().contains(&x));
    }
    w.close(fd).unwrap();
    for reader in [(&r, other), (&w, mine)] {
        assert!(reader.0.relist(reader.1).unwrap().contains(&x), "after the close it is there");
        assert!(reader.0.list("d").unwrap().contains(&x));
    }
    w.unlink("d/v007").unwrap();
    w.rename("d/v008", "d/y").unwrap();
    for names in [r.relist(other).unwrap(), r.list("d").unwrap()] {
        assert_eq!(names.len(), 300);
        assert!(
            names.contains(&b"y".to_vec()) && !names.contains(&b"v008".to_vec()) && !names.contains(&b"v007".to_vec())
        );
    }
    std::fs::write(m.raw("d/outside"), "").unwrap();
    eventually("what was made on the export is listed", || r.list("d").unwrap().contains(&b"outside".to_vec()));
}

#[test]
fn s47_inode_numbers_are_those_of_the_export_and_stay() {
    let mut m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    w.symlink("f", "d/link").unwrap();
    w.put("d/f", "first").unwrap();
    // Nodes that cannot have the number for their own: the kernel knows another one of the same inode.
    let held = r.open("d/f", "r").unwrap();
    let fd = w.open("d/f", "w").unwrap();
    w.futimens(fd, 5, 1_234_567_890).unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.fstat(held).unwrap().ino, r.stat("d/f").unwrap().ino);
    let numbers = |by: &Agent| -> Vec<u64> {
        let listed = by.sh("ls -1i d | awk '{ print $1 }'");
        let listed = listed.lines().map(|line| line.trim().parse::<u64>().unwrap());
        ["d", "d/f", "d/link"].iter().map(|path| by.lstat(*path).unwrap().ino).chain(listed).collect()
    };
    let on_export: Vec<u64> = ["d", "d/f", "d/link", "d/f", "d/link"]
        .iter()
        .map(|path| std::os::unix::fs::MetadataExt::ino(&std::fs::symlink_metadata(m.raw(path)).unwrap()))
        .collect();
    assert_eq!(numbers(&r), on_export);
    r.close(held).unwrap();
    drop((w, r));
    m.umount();
    m.remount();
    assert_eq!(numbers(&m.agent("again")), on_export);
}
