//! Several hosts: two mounts of one export, each with a journal of its own.

use crate::common::content::{newest, verify, version};
use crate::common::mount::peer_base;
use crate::common::wait::{LIMIT, poll};
use crate::common::{Agent, Mount, Setup, eventually};

/// The same export, mounted twice, each with a state of its own.
fn two_hosts() -> (Mount, Mount) {
    two_hosts_with("")
}

/// Likewise, with options.
fn two_hosts_with(options: &str) -> (Mount, Mount) {
    let setup = if options.is_empty() { Setup::default() } else { Setup::default().options(options) };
    let a = setup.clone().mount();
    let b = setup.export_of(&a).mount();
    (a, b)
}

#[test]
fn s53_an_open_on_one_host_sees_what_was_committed_on_another() {
    let (a, b) = two_hosts();
    let (w, r): (Agent, Agent) = (a.agent("W"), b.agent("R"));
    for round in 0..100 {
        let data = format!("round {round}");
        w.put("f", &data).unwrap();
        eventually("committed", || a.raw_content("f").is_some_and(|d| d == data.as_bytes()));
        assert_eq!(r.cat("f").unwrap(), data.as_bytes());
        assert_eq!(r.stat("f").unwrap().size, data.len() as u64);
        let name = format!("new{round}");
        r.sees_nothing(&name);
        let fd = w.open(&name, "w|creat").unwrap();
        w.write(fd, "half").unwrap();
        r.sees_nothing(&name);
        w.close(fd).unwrap();
        eventually("committed", || a.raw_content(&name).is_some());
        assert_eq!(r.cat(&name).unwrap(), b"half");
        w.unlink(&name).unwrap();
    }
    eventually("what was unlinked on one host is gone on the other", || r.list(".").unwrap() == [b"f"]);
    eventually("also for those who had seen it", || (0..100).all(|n| r.stat(&format!("new{n}")).is_err()));
}

#[test]
fn s53_what_another_host_has_looked_at_before_does_not_hide_a_commit() {
    // On NFS every look-up asks the server; on another file system each host asks as soon as it knows of the other.
    let (a, b) = two_hosts();
    for (number, [at, other]) in [[&a, &b], [&b, &a]].into_iter().enumerate() {
        let (w, r) = (at.agent(&format!("W{number}")), other.agent(&format!("R{number}")));
        noticed(at, &w, &r);
        looks_hide_no_commit(at, &w, &r);
    }
}

#[test]
fn s53_a_draft_of_this_host_does_not_hide_a_commit_of_another() {
    let (a, b) = two_hosts();
    let (w, r, d) = (a.agent("W"), b.agent("R"), b.agent("D"));
    noticed(&a, &w, &r);
    w.put("f", "round none").unwrap();
    eventually("committed", || a.raw_content("f").is_some());
    let fd = d.open("f", "rw").unwrap();
    d.write(fd, "draft").unwrap();
    for round in 0..20 {
        let data = format!("round {round}, {}", "x".repeat(round * 300));
        r.shown("f");
        w.put("f", &data).unwrap();
        eventually("committed", || a.raw_content("f").as_deref() == Some(data.as_bytes()));
        if round % 2 == 0 {
            assert_eq!(r.stat("f").unwrap().size, data.len() as u64, "round {round}");
        }
        assert_eq!(r.shown("f").data, data.as_bytes(), "round {round}");
        assert_eq!(d.cat("f").unwrap(), b"draft none", "round {round}");
    }
    d.close(fd).unwrap();
    eventually("the draft is published", || r.cat("f").unwrap() == b"draft none");
}

/// Waits until the reader's host sees each commit of the writer's at once.
fn noticed(at: &Mount, w: &Agent, r: &Agent) {
    eventually("the host that reads has noticed the other one", || {
        ["one", "three"].iter().all(|data| {
            w.put("probe", data).unwrap();
            eventually("committed", || at.raw_content("probe").as_deref() == Some(data.as_bytes()));
            r.stat("probe").is_ok_and(|found| found.size == data.len() as u64)
        })
    });
}

fn looks_hide_no_commit(a: &Mount, w: &Agent, r: &Agent) {
    w.put("f", "round none").unwrap();
    for round in 0..40 {
        let (fresh, data) = (format!("new{round}"), format!("round {round}, {}", "x".repeat(round * 300)));
        // Warm: that the one is not there, what the other is, what there is at all.
        r.sees_nothing(&fresh);
        r.shown("f");
        w.put("f", &data).unwrap();
        w.put(&fresh, &data).unwrap();
        eventually("committed", || {
            [a.raw_content("f"), a.raw_content(&fresh)].iter().all(|c| c.as_deref() == Some(data.as_bytes()))
        });
        // The first look after the close, by each route in turn, and then by all.
        match round % 4 {
            0 => assert_eq!(r.stat("f").unwrap().size, data.len() as u64, "round {round}: stat of a version"),
            1 => assert_eq!(
                r.stat(&fresh).map(|found| found.size),
                Ok(data.len() as u64),
                "round {round}: stat of a new name"
            ),
            2 => assert!(r.lists(".", &fresh), "round {round}: listing"),
            _ => assert_eq!(r.cat(&fresh).unwrap(), data.as_bytes(), "round {round}: open of a new name"),
        }
        for name in ["f", &fresh] {
            assert_eq!(r.shown(name).data, data.as_bytes(), "round {round}: {name}");
        }
        w.unlink(&fresh).unwrap();
    }
}

#[test]
fn s53_of_versions_closed_at_once_on_two_hosts_one_wins_whole() {
    let (a, b) = two_hosts_with("retain=1h,ttl=0s");
    let (w, v) = (a.agent("W"), b.agent("V"));
    w.put("f", &version("f", 1, 1, 10)).unwrap();
    let rounds = 20;
    for round in 1..=rounds {
        let (mine, theirs) = (version("f", 2 * round, 3, 9000), version("f", 2 * round + 1, 2, 15_000));
        let (x, y) = (w.open("f", "w|trunc").unwrap(), v.open("f", "w|trunc").unwrap());
        w.write(x, &mine).unwrap();
        v.write(y, &theirs).unwrap();
        w.send(&["close", &x.to_string()]);
        v.send(&["close", &y.to_string()]);
        w.answer().unwrap();
        v.answer().unwrap();
        eventually("both hosts see one of the two", || {
            let seen = w.cat("f").unwrap();
            let headers = verify(&seen).unwrap_or_else(|why| panic!("round {round}: {why}"));
            newest(&headers) >= 2 * round && v.cat("f").unwrap() == seen
        });
    }
    // Each host's log has what it published, and each version that was there before a commit is set aside by it.
    for (host, first) in [(&a, 1), (&b, 0)] {
        assert_eq!(host.commits_of("f"), first + rounds as usize);
        host.nothing_quarantined();
    }
    let aside: usize = [&a, &b].map(|host| host.json(&["outbox", "ls"]).as_array().map_or(0, Vec::len)).iter().sum();
    // Of two at the very same moment both set the version before them aside.
    assert!(aside >= rounds as usize, "{aside} versions were set aside in {rounds} rounds");
}

#[test]
fn s53_what_a_commit_replaces_on_another_host_is_in_the_log() {
    let (a, b) = two_hosts_with("retain=1h");
    let (w, v, r) = (a.agent("W"), b.agent("V"), b.agent("R"));
    // The host that commits last may have looked since the other one did, or not, at a name that it knew, or not.
    for (name, known, looks) in [("f", false, true), ("g", false, false), ("h", true, false)] {
        if known {
            w.put(name, "from before").unwrap();
            eventually("committed", || r.cat(name).is_ok_and(|data| data == b"from before"));
        }
        let (x, y) = (w.open(name, "w|creat|trunc").unwrap(), v.open(name, "w|creat|trunc").unwrap());
        w.write(x, "from the first host").unwrap();
        v.write(y, "from the second host").unwrap();
        w.close(x).unwrap();
        let on = |host: &Mount, whose: &str| host.raw_content(name).is_some_and(|data| data == whose.as_bytes());
        eventually("committed", || on(&a, "from the first host"));
        if looks {
            eventually("seen", || r.cat(name).is_ok_and(|data| data == b"from the first host"));
        }
        v.close(y).unwrap();
        eventually("committed", || on(&b, "from the second host"));
        assert_eq!((a.commits_of(name), b.commits_of(name)), (1 + usize::from(known), 1), "{name}");
        let rows = b.json(&["outbox", "ls"]);
        let row =
            rows.as_array().unwrap().iter().find(|row| row["path"] == name).unwrap_or_else(|| panic!("{name}: {rows}"));
        assert_eq!((row["kind"].as_str(), row["bytes"].as_u64()), (Some("replace"), Some(19)), "{name}: {rows}");
        b.cli_ok(&["trash", "restore", &row["id"].to_string(), "--replace"]);
        eventually("what lost can be had back", || w.cat(name).is_ok_and(|data| data == b"from the first host"));
    }
}

#[test]
fn s53_a_reader_on_another_host_keeps_its_version_while_that_is_retained() {
    let (a, b) = two_hosts_with("retain=1h");
    let (w, r) = (a.agent("W"), b.agent("R"));
    let old = version("f", 1, 8, 100_000);
    w.put("f", &old).unwrap();
    eventually("committed", || r.cat("f").is_ok_and(|data| data == old));
    let held = r.open("f", "r").unwrap();
    let before = r.fstat(held).unwrap();
    assert_eq!(r.pread(held, 0, 4096).unwrap(), &old[..4096]);
    for generation in 2..8 {
        w.put("f", &version("f", generation, 1, 50)).unwrap();
    }
    w.unlink("f").unwrap();
    eventually("it is gone on the other host too", || r.stat("f").is_err());
    if peer_base().is_some() {
        // Nothing that this machine still knows may answer for the server.
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < old.len() {
        seen.extend(r.pread(held, seen.len() as u64, 1 << 16).unwrap());
    }
    assert!(seen == old, "the version is what it was");
    let after = r.fstat(held).unwrap();
    assert_eq!((after.size, after.mtime, after.ino), (before.size, before.mtime, before.ino));
}

#[test]
fn s53_writers_on_two_hosts_publish_whole_versions() {
    let (a, b) = two_hosts();
    let (w, v) = (a.agent("W"), b.agent("V"));
    let r = a.agent("R");
    w.put("f", "old").unwrap();
    let (x, y) = (w.open("f", "w|trunc").unwrap(), v.open("f", "w|trunc").unwrap());
    w.write(x, "from the first host").unwrap();
    v.write(y, "from the second host").unwrap();
    assert_eq!(r.cat("f").unwrap(), b"old");
    w.close(x).unwrap();
    eventually("committed", || r.cat("f").unwrap() == b"from the first host");
    v.close(y).unwrap();
    eventually("the last to close wins", || r.cat("f").unwrap() == b"from the second host");
    assert_eq!(v.cat("f").unwrap(), b"from the second host");
}

#[test]
fn s53_who_writes_a_name_that_others_write_on_another_host_is_hardly_ever_refused() {
    let (a, b) = two_hosts();
    for (number, how) in ["append", "overwrite", "remove"].into_iter().enumerate() {
        let store = move |agent: &Agent, round: u64| {
            let data = version("f", round, 1, 50);
            if how == "remove" && round.is_multiple_of(3) {
                // Another one may have done so just now.
                drop(agent.unlink("f"));
            }
            if how == "append" { agent.append("f", &data) } else { agent.put("f", &data) }
        };
        let writers = ["V", "W", "X", "Y"].map(|name| {
            let agent = if name < "X" { &a } else { &b }.agent(&format!("{name}{number}"));
            agent.put("f", &version("f", 0, 1, 50)).unwrap();
            std::thread::spawn(move || (0..100).filter_map(|round| store(&agent, round).err()).collect::<Vec<_>>())
        });
        let refused: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        // Two commits at the same instant may keep neither what they replace: whoever writes over that is told.
        let expected = refused.iter().all(|errno| errno.0 == "ESTALE" || errno.0 == "EIO");
        assert!(expected && refused.len() <= 12, "{how}, of 400: {refused:?}");
    }
    for host in [&a, &b] {
        host.settled();
        host.nothing_quarantined();
    }
    verify(&b.raw_content("f").unwrap()).unwrap();
}

#[test]
fn s53_a_new_version_keeps_what_another_host_has_changed_of_the_version() {
    let (a, b) = two_hosts();
    let (w, v) = (a.agent("W"), b.agent("V"));
    type Change = fn(&Agent, &str);
    let writes: [Change; 3] = [
        |v, name| v.put(name, "new").unwrap(),
        |v, name| v.truncate(name, 0).unwrap(),
        |v, name| v.append(name, "new").unwrap(),
    ];
    let changes: [(&str, u32, Change); 4] = [
        ("mode", 0o644, |w, name| w.chmod(name, 0o600).unwrap()),
        ("owner", 0o644, |w, name| w.chown(name, 1234, 2345).unwrap()),
        ("bits taken", 0o6755, |w, name| w.chmod(name, 0o755).unwrap()),
        ("bits given", 0o755, |w, name| w.chmod(name, 0o6755).unwrap()),
    ];
    for ((what, mode, change), by) in changes.into_iter().flat_map(|case| [(case, &w), (case, &v)]) {
        for (number, write) in writes.into_iter().enumerate() {
            let name = format!("{what} {number} {}", u8::from(std::ptr::eq(by, &w)));
            by.put(&name, "old").unwrap();
            by.chmod(&name, mode).unwrap();
            eventually("the other host knows it", || v.stat(&name).is_ok_and(|found| found.perm() == mode));
            assert_eq!(v.cat(&name).unwrap(), b"old");
            change(&w, &name);
            let changed = w.stat(&name).unwrap();
            write(&v, &name);
            let now = w.stat(&name).unwrap();
            assert_ne!(now.ino, changed.ino, "{name}");
            assert_eq!((now.perm(), now.uid, now.gid), (changed.perm(), changed.uid, changed.gid), "{name}");
        }
    }
}

#[test]
fn s53_a_family_that_removes_or_renames_its_draft_does_so_with_what_another_host_has_published() {
    let (a, b) = two_hosts_with("retain=1h");
    let (w, v) = (a.agent("W"), b.agent("V"));
    // What one host writes at a name that it knows as free, when the other one publishes there.
    let begin = |folder: &str, name: &str| {
        w.mkdir(folder).unwrap();
        let path = format!("{folder}/{name}");
        let fd = w.open(&path, "w|creat").unwrap();
        w.write(fd, "mine").unwrap();
        v.put(&path, "theirs").unwrap();
        eventually("published", || b.raw_content(&path).is_some_and(|data| data == b"theirs"));
        fd
    };
    let row = |path: &str, kind: &str, bytes: u64| {
        let wanted = |row: &serde_json::Value| row["path"] == path && row["kind"] == kind && row["bytes"] == bytes;
        let found =
            poll(LIMIT, || a.json(&["outbox", "ls"]).as_array().unwrap().iter().find(|row| wanted(row)).cloned());
        found.unwrap_or_else(|| panic!("{path} is not kept: {}", a.json(&["outbox", "ls"])))
    };
    let kept = |path: &str, kind: &str| drop(row(path, kind, 6));

    let fd = begin("removed", "f");
    w.unlink("removed/f").unwrap();
    v.sees_nothing("removed/f");
    w.close(fd).unwrap();
    v.sees_nothing("removed/f");
    kept("removed/f", "unlink");

    let fd = begin("renamed", "f");
    w.rename("renamed/f", "renamed/g").unwrap();
    v.sees_nothing("renamed/f");
    assert_eq!(v.cat("renamed/g").unwrap(), b"theirs");
    w.close(fd).unwrap();
    assert_eq!(v.cat("renamed/g").unwrap(), b"mine");
    kept("renamed/g", "replace");

    let fd = begin("replaced", "f");
    w.put("aside", "newer").unwrap();
    w.rename("aside", "replaced/f").unwrap();
    assert_eq!(v.cat("replaced/f").unwrap(), b"newer");
    w.close(fd).unwrap();
    kept("replaced/f", "replace");

    w.mkdir("restored").unwrap();
    w.put("restored/f", "mine").unwrap();
    w.unlink("restored/f").unwrap();
    w.sees_nothing("restored/f");
    v.put("restored/f", "theirs").unwrap();
    eventually("published", || b.raw_content("restored/f").is_some_and(|data| data == b"theirs"));
    a.cli_ok(&["trash", "restore", &row("restored/f", "unlink", 4)["id"].to_string(), "--replace"]);
    assert_eq!(v.cat("restored/f").unwrap(), b"mine");
    kept("restored/f", "replace");
}

#[test]
fn s53_recovery_leaves_the_drafts_of_other_hosts_alone() {
    let (mut a, b) = two_hosts();
    let (w, v) = (a.agent("W"), b.agent("V"));
    let lost = w.open("lost", "w|creat").unwrap();
    w.write(lost, "lost").unwrap();
    w.fsync(lost).unwrap();
    a.recorded();
    let kept = v.open("kept", "w|creat").unwrap();
    v.write(kept, "half ").unwrap();
    a.kill9();
    drop(w);
    a.remount();
    a.quarantined("lost");
    a.settled();
    v.write(kept, "whole").unwrap();
    v.close(kept).unwrap();
    let r = a.agent("R");
    eventually("committed", || r.cat("kept").is_ok_and(|d| d == b"half whole"));
    assert_eq!(a.quarantine().len(), 1);
    b.nothing_quarantined();
}

#[test]
fn s53_locks_hold_between_hosts() {
    let (a, b) = two_hosts();
    let (w, v) = (a.agent("W"), b.agent("V"));
    w.put("f", "old").unwrap();
    let open = |path| std::fs::File::options().write(true).open(path).unwrap();
    let (here, there) = (open(a.raw("f")), open(b.raw("f")));
    here.try_lock().unwrap();
    if there.try_lock().is_ok() {
        eprintln!("SKIPPED: the export's own locks do not hold between hosts (NFS with nolock)");
        return;
    }
    drop((here, there));
    let (x, y) = (w.open("f", "rw").unwrap(), v.open("f", "rw").unwrap());
    w.lock(x, "write", 0, 10).unwrap();
    assert_eq!(v.lock(y, "write", 5, 10).unwrap_err(), "EAGAIN");
    assert_eq!(v.lock(y, "read", 0, 1).unwrap_err(), "EAGAIN");
    v.lock(y, "write", 10, 10).unwrap();
    w.lock(x, "unlock", 0, 10).unwrap();
    v.lock(y, "write", 0, 0).unwrap();
    assert_eq!(w.lock(x, "read", 0, 1).unwrap_err(), "EAGAIN");
    v.close(y).unwrap();
    w.flock(x).unwrap();
    let y = v.open("f", "rw").unwrap();
    assert_eq!(v.flock(y).unwrap_err(), "EAGAIN");
    w.close(x).unwrap();
    eventually("the lock goes with its descriptor", || v.flock(y).is_ok());
}

/// An NFS client keeps its pages of a file that is still open for writing, and sends them whole with what is written beside.
#[test]
fn s53_files_in_place_are_written_by_two_hosts_in_turn() {
    let (a, b) = two_hosts();
    let writers = [a.agent("W"), b.agent("V")];
    for file in 0..40 {
        let name = format!("{file}.log");
        let mut all = String::new();
        for turn in 0..12 {
            let w = &writers[turn % 2];
            let line = format!("line {turn} {}\n", "x".repeat(7 * turn));
            let fd = w.open(&name, "w|creat|append").unwrap();
            w.write(fd, &line).unwrap();
            w.close(fd).unwrap();
            all += &line;
        }
        for w in &writers {
            assert_eq!(String::from_utf8_lossy(&w.cat(&name).unwrap()), all, "{name}");
        }
    }
}

#[test]
fn s53_a_file_in_place_that_two_hosts_create_at_once_is_one() {
    let (a, b) = two_hosts();
    let writers = [a.agent("W"), b.agent("V")];
    for n in 0..300 {
        let name = format!("{n}.log");
        for w in &writers {
            w.send(&["open", &name, "w|creat|append"]);
        }
        let fds: Vec<i32> =
            writers.iter().map(|w| String::from_utf8_lossy(&w.answer().unwrap()[0]).parse().unwrap()).collect();
        for (w, fd) in writers.iter().zip(fds) {
            w.close(fd).unwrap();
        }
    }
}

/// As on a machine that was cloned: what the first one is writing is not the copy's to settle.
#[test]
fn s53_a_state_folder_that_is_in_use_on_another_host_is_refused() {
    let mut m = Mount::setup().options("lease=1h").mount();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    w.fsync(fd).unwrap();
    m.recorded();
    m.kill9();
    drop(w);
    let instance = std::fs::read_to_string(m.state().join("instance")).unwrap();
    let lease = m.raw(&format!(".commitfs/hosts/{}.json", instance.trim()));
    let mut said: serde_json::Value = serde_json::from_slice(&std::fs::read(&lease).unwrap()).unwrap();
    said["host"] = "the-first-one".into();
    std::fs::write(&lease, said.to_string()).unwrap();
    let silent = |minutes: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * minutes);
        std::fs::File::options().write(true).open(&lease).unwrap().set_modified(time).unwrap();
    };
    silent(50);
    m.start();
    assert_eq!(m.daemon_ended().code(), Some(1), "{}", m.log());
    for part in ["the-first-one", "remove it", m.state().to_str().unwrap()] {
        assert!(m.log().contains(part), "{part}: {}", m.log());
    }
    assert!(m.quarantine().is_empty(), "its draft is left alone");
    // It has been silent for too long. From then on the lease is this host's, and holds nothing up.
    silent(70);
    m.remount();
    m.quarantined("f");
    m.kill9();
    m.remount();
}
