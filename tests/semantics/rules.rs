//! Rules: which names are written in place.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use crate::common::{Mount, Setup, eventually};

#[test]
fn s45_direct_files_are_written_in_place() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for name in ["app.log", "run.pid", "x.lock", "data.db", "data.sqlite", "data.sqlite3", "data.db-wal", "data.db-shm"]
    {
        let fd = w.open(name, "rw|creat").unwrap();
        assert_eq!(r.stat(name).unwrap().size, 0, "{name} is there at once");
        w.write(fd, "line 1\n").unwrap();
        assert_eq!(r.cat(name).unwrap(), b"line 1\n", "{name}");
        let reader = r.open(name, "r").unwrap();
        w.write(fd, "line 2\n").unwrap();
        assert_eq!(r.stat(name).unwrap().size, 14, "{name}");
        assert_eq!(r.pread(reader, 0, 100).unwrap(), b"line 1\nline 2\n", "{name}");
        assert_eq!(m.raw_content(name).unwrap(), b"line 1\nline 2\n", "{name}");
        w.ftruncate(fd, 3).unwrap();
        assert_eq!(r.fstat(reader).unwrap().size, 3, "{name}");
        w.close(fd).unwrap();
        w.append(name, "more").unwrap();
        assert_eq!(r.cat(name).unwrap(), b"linmore", "{name}");
        assert_eq!(r.pread(reader, 0, 100).unwrap(), b"linmore", "{name}: the same file");
        r.close(reader).unwrap();
    }
    m.recorded();
    assert!(m.history().is_empty() && m.pending().is_empty(), "nothing was ever a draft");
}

#[test]
fn s45_of_a_file_with_two_names_each_follows_its_own_rule() {
    let m = Mount::new();
    let (w, r) = m.pair();
    // The one that the kernel looked up last is the one that is not written, and the other way round.
    for (whole, in_place, written_last) in [("a", "a.log", false), ("b", "b.log", true)] {
        w.put(whole, "old").unwrap();
        w.link(whole, in_place).unwrap();
        let look = |name| r.cat(name).unwrap();
        let looked_up = if written_last { whole } else { in_place };
        look(looked_up);
        let fd = w.open(whole, "w|trunc").unwrap();
        w.write(fd, "new").unwrap();
        assert_eq!((look(whole), look(in_place)), (b"old".to_vec(), b"old".to_vec()), "{whole} is a draft");
        w.close(fd).unwrap();
        assert_eq!((look(whole), look(in_place)), (b"new".to_vec(), b"old".to_vec()), "{whole} is published");
        w.unlink(whole).unwrap();
        w.link(in_place, whole).unwrap();
        look(looked_up);
        let fd = w.open(in_place, "w|trunc").unwrap();
        w.write(fd, "here").unwrap();
        assert_eq!(
            (look(whole), look(in_place)),
            (b"here".to_vec(), b"here".to_vec()),
            "{in_place} is written in place"
        );
        w.close(fd).unwrap();
        look(looked_up);
        w.truncate(in_place, 2).unwrap();
        assert_eq!((look(whole), look(in_place)), (b"he".to_vec(), b"he".to_vec()), "{in_place} is cut in place");
        look(looked_up);
        w.truncate(whole, 1).unwrap();
        assert_eq!((look(whole), look(in_place)), (b"h".to_vec(), b"he".to_vec()), "{whole} has a version of its own");
    }
}

#[test]
fn s45_a_name_from_before_its_second_one_follows_its_own_rule() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("a", "old").unwrap();
    // The kernel may remember the name as it was before.
    w.stat("a").unwrap();
    w.link("a", "a.log").unwrap();
    let fd = w.open("a", "w|trunc").unwrap();
    w.write(fd, "new").unwrap();
    assert_eq!(r.cat("a.log").unwrap(), b"old");
    w.close(fd).unwrap();
    assert_eq!((r.cat("a").unwrap(), r.cat("a.log").unwrap()), (b"new".to_vec(), b"old".to_vec()));
}

#[test]
fn s45_a_name_follows_its_own_rule_after_its_second_one_is_gone() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for how in ["w|trunc", "w|creat|trunc", "rw"] {
        w.put("a", "old").unwrap();
        let reader = r.open("a", "r").unwrap();
        w.link("a", "a.log").unwrap();
        r.stat("a.log").unwrap();
        w.unlink("a.log").unwrap();
        let nameless = r.open(&format!("/proc/self/fd/{reader}"), "w");
        assert_eq!(nameless.map_err(|errno| errno.0), Err("ETXTBSY".to_owned()));
        let fd = w.open("a", how).unwrap();
        w.pwrite(fd, 0, "new").unwrap();
        assert_eq!(r.cat("a").unwrap(), b"old", "{how}");
        w.close(fd).unwrap();
        assert_eq!((r.cat("a").unwrap(), r.pread(reader, 0, 9).unwrap()), (b"new".to_vec(), b"old".to_vec()), "{how}");
        r.close(reader).unwrap();
    }
}

#[test]
fn s45_who_writes_one_name_in_place_is_an_outsider_of_the_others_draft() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let (second, in_place) = (m.agent("S"), m.agent("I"));
    w.put("a", "old").unwrap();
    w.link("a", "a.log").unwrap();
    let held = in_place.open("a.log", "w").unwrap();
    let (one, other) = (w.open("a", "w|trunc").unwrap(), second.open("a", "w|append").unwrap());
    w.write(one, "unfinished").unwrap();
    // Whoever opened the draft first is gone: its family is known by what it has open.
    w.exit(0);
    second.write(other, " business").unwrap();
    for outsider in [&in_place, &r] {
        assert_eq!(outsider.cat("a").unwrap(), b"old");
    }
    in_place.pwrite(held, 0, "OLD").unwrap();
    assert_eq!((in_place.cat("a").unwrap(), r.cat("a").unwrap()), (b"OLD".to_vec(), b"OLD".to_vec()));
    second.close(other).unwrap();
    assert_eq!(r.cat("a").unwrap(), b"unfinished business");
    assert_eq!(r.cat("a.log").unwrap(), b"OLD");
}

#[test]
fn s45_direct_files_may_be_changed_from_elsewhere() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("app.log", "here\n").unwrap();
    assert_eq!(r.cat("app.log").unwrap(), b"here\n");
    std::fs::write(m.raw("app.log"), "here\nthere\n").unwrap();
    let fd = r.open("app.log", "r").unwrap();
    assert_eq!(r.pread(fd, 0, 100).unwrap(), b"here\nthere\n");
    assert_eq!(r.fstat(fd).unwrap().size, 11);
    w.append("app.log", "and here\n").unwrap();
    assert_eq!(m.raw_content("app.log").unwrap(), b"here\nthere\nand here\n");
    // Also by a descriptor, as `/dev/stdout` is opened: it is the file's only name.
    std::fs::write(m.raw("app.log"), "anew\n").unwrap();
    let again = r.open(&format!("/proc/self/fd/{fd}"), "w|append").unwrap();
    r.write(again, "and here\n").unwrap();
    assert_eq!(m.raw_content("app.log").unwrap(), b"anew\nand here\n");
}

#[test]
fn s45_who_holds_a_direct_file_sees_it_grow_elsewhere() {
    for options in ["", "passthrough=off"] {
        let m = if options.is_empty() { Mount::new() } else { Mount::setup().options(options).mount() };
        let (w, r) = m.pair();
        let elsewhere = |line: &str| {
            let mut file = std::fs::File::options().append(true).open(m.raw("app.log")).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        };
        w.put("app.log", "one\n").unwrap();
        let writer = w.open("app.log", "w|append").unwrap();
        let reader = r.open("app.log", "r").unwrap();
        w.write(writer, "two\n").unwrap();
        let sized = |size: u64, when: &str| {
            let all =
                || [r.stat("app.log").unwrap().size, r.fstat(reader).unwrap().size, w.fstat(writer).unwrap().size];
            eventually(&format!("{size} bytes {when} ({options})"), || all() == [size; 3]);
        };
        sized(8, "after a write");
        elsewhere("three\n");
        sized(14, "after one elsewhere");
        w.write(writer, "four\n").unwrap();
        sized(19, "after one behind that");
        elsewhere("five\n");
        w.write(writer, "six\n").unwrap();
        sized(28, "after one behind another one that nobody looked at");
        w.close(writer).unwrap();
        elsewhere("seven\n");
        let seen = || [r.stat("app.log").unwrap().size, r.fstat(reader).unwrap().size];
        eventually(&format!("34 bytes after a close and a write elsewhere ({options})"), || seen() == [34; 2]);
        assert_eq!(r.pread(reader, 0, 100).unwrap(), b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n");
        w.append("app.log", "eight\n").unwrap();
        eventually(&format!("40 bytes ({options})"), || seen() == [40; 2]);
    }
}

/// With a change of names or attributes the kernel writes back the time that it has.
#[test]
fn s45_a_direct_file_keeps_the_time_of_its_last_write_when_it_is_renamed() {
    let m = Mount::new();
    let w = m.agent("W");
    let time = |path: &str| {
        let there = m.raw(path).metadata().unwrap();
        i128::from(there.mtime()) * 1_000_000_000 + i128::from(there.mtime_nsec())
    };
    for how in ["rename", "another rule's", "link", "unlink", "attribute"] {
        w.put("a.log", "one").unwrap();
        let fd = w.open("a.log", "w|append").unwrap();
        w.link("a.log", "second.log").unwrap();
        w.futimens(fd, 1, 5).unwrap();
        w.stat("a.log").unwrap();
        w.write(fd, "two").unwrap();
        let written = time("a.log");
        assert!(written > 1_000_000_000_000);
        let name = match how {
            "rename" => w.rename("a.log", "b.log").map(|()| "b.log"),
            "another rule's" => w.rename("a.log", "a.log.1").map(|()| "a.log.1"),
            "link" => w.link("a.log", "third.log").map(|()| "a.log"),
            "unlink" => w.unlink("second.log").map(|()| "a.log"),
            _ => w.set_xattr("a.log", "user.a", "b").map(|()| "a.log"),
        };
        let name = name.unwrap();
        w.fsync(fd).unwrap();
        assert_eq!(time(name), written, "{how}");
        w.futimens(fd, 1, 6).unwrap();
        w.write(fd, "three").unwrap();
        // Whoever has it open writes in place, whatever its name is by now.
        eventually(how, || w.stat(name).unwrap().mtime == time(name));
        w.close(fd).unwrap();
        w.sh("rm -f *.log *.log.1");
    }
}

#[test]
fn s45_a_direct_file_has_the_time_of_its_last_write() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let raw = || {
        let there = m.raw("app.log").metadata().unwrap();
        i128::from(there.mtime()) * 1_000_000_000 + i128::from(there.mtime_nsec())
    };
    let fd = w.open("app.log", "rw|creat|append").unwrap();
    let reader = r.open("app.log", "r").unwrap();
    let same = |when: &str| {
        let all = || [r.stat("app.log").unwrap().mtime, r.fstat(reader).unwrap().mtime, w.fstat(fd).unwrap().mtime];
        // At once, but on a machine that is so busy that the answer does not wait for it.
        eventually(&format!("one time, {when}"), || all() == [raw(); 3]);
    };
    same("created");
    for round in 0..3 {
        // No clock need tick: every write comes after a time that was set.
        w.futimens(fd, 1, 5 + round).unwrap();
        same("set");
        w.write(fd, "line\n").unwrap();
        assert!(raw() > 1_000_000_000_000, "the export has the time of the write");
        same("written");
        r.list(".").unwrap();
        same("listed");
    }
    w.futimens(fd, 1, 50).unwrap();
    std::fs::File::options().append(true).open(m.raw("app.log")).unwrap().write_all(b"there").unwrap();
    eventually("the time of a write elsewhere", || r.stat("app.log").unwrap().mtime == raw());
    // What is set by name, too, is the export's.
    r.utimens("app.log", 1, 77).unwrap();
    assert_eq!(raw(), 77);
    same("set by name");
    w.ftruncate(fd, 3).unwrap();
    same("cut short");
    // Of whom the kernel asks about the file's mode, with the file locked.
    w.fchmod(fd, 0o666).unwrap();
    r.call(&["become", "1234", "2345"]).unwrap();
    w.write(fd, "and").unwrap();
    r.sh("touch app.log");
    same("touched by another");
    w.write(fd, "more").unwrap();
    w.close(fd).unwrap();
    eventually("the time of the last write, closed", || {
        (r.stat("app.log").unwrap().mtime, r.fstat(reader).unwrap().mtime) == (raw(), raw())
    });
    assert!(raw() > 1_000_000_000_000);
}

#[test]
fn s45_what_is_mapped_of_a_direct_file_stays_where_it_is() {
    let m = Mount::new();
    let (w, l) = m.pair();
    w.put("shared.db", [b'a'; 8192]).unwrap();
    // Its pages are written through any descriptor that is open: by the logger's, who came last, or by the only one.
    for how in ["rw", "rw|append"] {
        let mapped = w.open("shared.db", how).unwrap();
        let map = w.mmap(mapped, 0, 8192, "shared").unwrap();
        let log = (how == "rw").then(|| l.open("shared.db", "w|append").unwrap());
        w.store(map, 100, how).unwrap();
        w.msync(map).unwrap();
        w.munmap(map).unwrap();
        w.close(mapped).unwrap();
        if let Some(log) = log {
            l.close(log).unwrap();
        }
        let raw = m.raw_content("shared.db").unwrap();
        assert_eq!((raw.len(), &raw[100..100 + how.len()]), (8192, how.as_bytes()), "{how}");
    }
}

/// What the kernel does not write by itself makes the file larger, too.
#[test]
fn s45_a_look_at_a_direct_file_leaves_alone_what_is_stored_at_its_end() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("from", [b'a'; 8192]).unwrap();
    let from = w.open("from", "r").unwrap();
    for how in ["write", "fallocate", "copy", "truncate"] {
        let name = format!("{how}.db");
        let fd = w.open(&name, "rw|creat").unwrap();
        match how {
            "write" => assert_eq!(w.write(fd, [b'a'; 8192]).unwrap(), 8192),
            "copy" => assert_eq!(w.copy_range(from, 0, fd, 0, 8192).unwrap(), 8192),
            "truncate" => w.ftruncate(fd, 8192).unwrap(),
            _ => match w.fallocate(fd, "", 0, 8192) {
                Err(errno) if errno == "EOPNOTSUPP" => continue,
                allocated => allocated.unwrap(),
            },
        }
        let map = w.mmap(fd, 0, 8192, "shared").unwrap();
        w.store(map, 8191, "z").unwrap();
        assert_eq!(r.stat(&name).unwrap().size, 8192);
        let other = r.open(&name, "r").unwrap();
        assert_eq!(w.load(map, 8191, 1).unwrap(), b"z", "{how}");
        w.munmap(map).unwrap();
        w.close(fd).unwrap();
        r.close(other).unwrap();
        assert_eq!(m.raw_content(&name).unwrap()[8191], b'z', "{how}");
    }
}

#[test]
fn s45_a_direct_file_is_appended_to_as_long_as_its_descriptor_says_so() {
    for options in ["writeback=on", "writeback=off"] {
        let m = Mount::setup().options(options).mount();
        let (w, other) = m.pair();
        for made in [false, true] {
            let fd = w.open("app.log", if made { "w|creat|excl|append" } else { "w|creat|append" }).unwrap();
            w.write(fd, "0123456789").unwrap();
            w.appends(fd, false).unwrap();
            w.pwrite(fd, 2, "AB").unwrap();
            assert_eq!(m.raw_content("app.log").unwrap(), b"01AB456789", "{options}, {made}: no longer");
            w.appends(fd, true).unwrap();
            w.seek(fd, 0, "set").unwrap();
            // What others have added meanwhile, the kernel does not know.
            std::fs::File::options().append(true).open(m.raw("app.log")).unwrap().write_all(b"there").unwrap();
            w.write(fd, "end").unwrap();
            assert_eq!(m.raw_content("app.log").unwrap(), b"01AB456789thereend", "{options}, {made}: again");
            // One that has begun to append after its open.
            let late = other.open("app.log", "w").unwrap();
            other.appends(late, true).unwrap();
            other.write(late, "late").unwrap();
            assert_eq!(m.raw_content("app.log").unwrap(), b"01AB456789thereendlate", "{options}, {made}: since");
            other.close(late).unwrap();
            w.close(fd).unwrap();
            w.unlink("app.log").unwrap();
        }
    }
}

#[test]
fn s45_a_direct_file_can_be_mapped_by_two_processes() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("shared.db", [0; 4096]).unwrap();
    let (a, b) = (w.open("shared.db", "rw").unwrap(), r.open("shared.db", "rw").unwrap());
    let (a, b) = (w.mmap(a, 0, 4096, "shared"), r.mmap(b, 0, 4096, "shared"));
    match (a, b) {
        (Ok(a), Ok(b)) => {
            w.store(a, 17, "seen").unwrap();
            assert_eq!(r.load(b, 17, 4).unwrap(), b"seen");
        }
        (a, b) => assert_eq!((a.clone().unwrap_err().0.as_str(), b.is_err()), ("ENODEV", true), "refused alike: {a:?}"),
    }
}

#[test]
fn s45_sqlite_works_on_the_mount() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for (name, journal) in [("a.db", "delete"), ("b.db", "wal"), ("c.sqlite", "truncate")] {
        w.sh(&format!(
            "sqlite3 {name} 'pragma journal_mode={journal}; create table t(x); insert into t values(1),(2);'"
        ));
        assert_eq!(r.sh(&format!("sqlite3 {name} 'select sum(x) from t'")).trim(), "3");
        let script = format!(
            "for i in $(seq 20); do sqlite3 -cmd '.timeout 20000' {name} 'insert into t values(10)' & done; wait; \
             sqlite3 {name} 'select count(*), sum(x) from t; pragma integrity_check'"
        );
        assert_eq!(w.sh(&script).trim(), "22|203\nok", "{name}");
    }
}

#[test]
fn s45_sqlite_works_under_a_name_that_no_rule_knows() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.sh("sqlite3 plain 'create table t(x); insert into t values(1),(2);'");
    assert_eq!(r.sh("sqlite3 plain 'select sum(x) from t'").trim(), "3");
    w.sh("sqlite3 plain 'update t set x = x + 1'");
    assert_eq!(r.sh("sqlite3 plain 'select sum(x) from t; pragma integrity_check'").trim(), "5\nok");
}

#[test]
fn s45_sqlite_under_a_name_that_no_rule_knows_survives_a_kill() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.sh("sqlite3 store 'pragma journal_mode=wal; create table t(k integer primary key, v); create index i on t(v);
          with recursive n(i) as (select 1 union all select i + 1 from n limit 2000)
          insert into t(v) select hex(randomblob(50)) from n'");
    // What was committed before is in the database, what comes after it in the log.
    w.sh("sqlite3 store <<'END' || true
pragma wal_autocheckpoint=0;
delete from t where k % 3 = 0;
pragma wal_checkpoint(restart);
insert into t(v) values ('after'), ('it');
.shell kill -9 $PPID
END");
    let found = r.sh("sqlite3 store 'select count(*) from t; pragma integrity_check'");
    assert_eq!(found.trim(), format!("{}\nok", 2000 - 666 + 2));
    let script = "for i in $(seq 20); do sqlite3 -cmd '.timeout 20000' store 'insert into t(v) values(1)' & done; wait; \
                  sqlite3 store 'select count(*) from t where v = 1; pragma integrity_check'";
    assert_eq!(w.sh(script).trim(), "20\nok");
    m.recorded();
    let verified = m.cli_ok(&["verify"]);
    assert!(verified.contains("0 are wrong"), "{verified}");
}

/// Begins as a database does, and has the size of one.
fn database() -> Vec<u8> {
    let mut content = b"SQLite format 3\0".to_vec();
    content.resize(1024, b'.');
    content
}

#[test]
fn s45_a_database_is_known_by_its_content() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("store", &database()).unwrap();
    let said = m.cli_ok(&["rules", "store"]);
    assert!(said.contains("direct") && said.contains("SQLite"), "{said}");
    let ino = r.stat("store").unwrap().ino;
    let early = r.open("store", "r").unwrap();
    assert_eq!(r.pread(early, 100, 3).unwrap(), b"...");
    let fd = w.open("store", "rw").unwrap();
    w.pwrite(fd, 100, "now").unwrap();
    w.pwrite(fd, 1024, [b'.'; 512]).unwrap();
    assert_eq!((r.pread(early, 100, 3).unwrap(), r.fstat(early).unwrap().size), (b"now".to_vec(), 1536));
    assert_eq!(&r.cat("store").unwrap()[100..103], b"now");
    assert_eq!(&m.raw_content("store").unwrap()[100..103], b"now");
    let again = w.open("store", "rw").unwrap();
    w.pwrite(again, 100, "too").unwrap();
    assert_eq!(r.pread(early, 100, 3).unwrap(), b"too");
    assert_eq!(r.stat("store").unwrap().ino, ino);
    // Replaced whole it is a new version.
    let whole = w.open("store", "w|trunc").unwrap();
    w.write(whole, "new").unwrap();
    assert_eq!(&r.cat("store").unwrap()[100..103], b"too");
    w.close(whole).unwrap();
    assert_eq!((r.cat("store").unwrap(), r.pread(early, 100, 3).unwrap()), (b"new".to_vec(), b"too".to_vec()));
    assert!(m.cli_ok(&["rules", "store"]).contains("atomic"));
    // Neither its beginning alone nor its size makes one.
    for content in [database()[..1000].to_vec(), vec![b'.'; 1024]] {
        w.put("plain", &content).unwrap();
        let fd = w.open("plain", "rw").unwrap();
        w.pwrite(fd, 100, "now").unwrap();
        assert_eq!(r.cat("plain").unwrap(), content);
        w.close(fd).unwrap();
    }
}

#[test]
fn s45_a_rule_of_the_configuration_comes_before_the_content() {
    let m = Setup::default().config("[[rule]]\nglob = 'store'\nmode = 'atomic'\n").mount();
    let (w, r) = m.pair();
    w.put("store", &database()).unwrap();
    assert!(m.cli_ok(&["rules", "store"]).contains("rule 1"));
    let fd = w.open("store", "rw").unwrap();
    w.pwrite(fd, 100, "now").unwrap();
    assert_eq!(r.cat("store").unwrap(), database());
    w.close(fd).unwrap();
    assert_eq!(&r.cat("store").unwrap()[100..103], b"now");
}

const CONFIG: &str = r#"
[[rule]]
glob = "inbox/*.dat"
mode = "direct"

[[rule]]
glob = "*.log"
mode = "atomic"

[[rule]]
glob = "careless/**"
mode = "atomic"
on_kill = "publish"
"#;

#[test]
fn s46_rules_of_the_configuration_come_before_the_built_in_ones() {
    let m = Setup::default().config(CONFIG).mount();
    let (w, r) = m.pair();
    w.mkdir("inbox").unwrap();
    w.mkdir("careless").unwrap();
    let direct = w.open("inbox/a.dat", "w|creat").unwrap();
    w.write(direct, "seen at once").unwrap();
    assert_eq!(r.cat("inbox/a.dat").unwrap(), b"seen at once");
    let atomic = w.open("app.log", "w|creat").unwrap();
    w.write(atomic, "hidden").unwrap();
    r.sees_nothing("app.log");
    let careless = w.open("careless/f", "w|creat").unwrap();
    w.write(careless, "published when killed").unwrap();
    w.kill(rustix::process::Signal::KILL);
    crate::common::eventually("on_kill of the rule", || {
        r.cat("careless/f").is_ok_and(|d| d == b"published when killed")
    });
    m.quarantined("app.log");
    assert_eq!(m.quarantine().len(), 1);
}

#[test]
fn s46_the_command_says_which_rule_applies_and_why() {
    let m = Setup::default().config(CONFIG).mount();
    for (path, mode, glob) in [
        ("inbox/a.dat", "direct", "inbox/*.dat"),
        ("app.log", "atomic", "*.log"),
        ("deep/below/x.db", "direct", "*.db"),
        ("plain.txt", "atomic", ""),
    ] {
        let said = m.cli_ok(&["rules", path]);
        assert!(said.contains(mode) && said.contains(glob), "{path}: {said}");
    }
}

#[test]
fn s46_a_rename_takes_a_file_to_its_new_rule() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("a.log", "one\n").unwrap();
    w.rename("a.log", "a.txt").unwrap();
    let fd = w.open("a.txt", "w|append").unwrap();
    w.write(fd, "two\n").unwrap();
    assert_eq!(r.cat("a.txt").unwrap(), b"one\n");
    w.close(fd).unwrap();
    assert_eq!(r.cat("a.txt").unwrap(), b"one\ntwo\n");
    w.rename("a.txt", "b.log").unwrap();
    let fd = w.open("b.log", "w|append").unwrap();
    w.write(fd, "three\n").unwrap();
    assert_eq!(r.cat("b.log").unwrap(), b"one\ntwo\nthree\n");
    w.close(fd).unwrap();
    // A log that is rotated while its writer keeps it open goes on being written in place, where it now is.
    let fd = w.open("c.log", "w|creat|append").unwrap();
    w.write(fd, "1").unwrap();
    w.rename("c.log", "c.log.1").unwrap();
    w.write(fd, "2").unwrap();
    assert_eq!(r.cat("c.log.1").unwrap(), b"12");
    w.close(fd).unwrap();
}
