//! When a draft commits: the last close, whoever makes it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::agent::socket_name;
use crate::common::{Mount, eventually, filled};

#[test]
fn s27_the_file_is_on_the_export_when_close_returns() {
    let m = Mount::new();
    let w = m.agent("W");
    let mut at_once = 0;
    for i in 0..100 {
        let (name, data) = (format!("f{}", i % 10), format!("round {i}"));
        w.put(&name, &data).unwrap();
        if m.raw_content(&name).as_deref() == Some(data.as_bytes()) {
            at_once += 1;
        } else {
            // A process forked by somebody else in between may make the proof of last close impossible.
            eventually("committed at release then", || m.raw_content(&name).as_deref() == Some(data.as_bytes()));
        }
    }
    assert!(at_once >= 50, "only {at_once} of 100 closes had committed when they returned");
}

#[test]
fn s27_the_last_close_of_who_reads_the_version_below_too() {
    let m = Mount::new();
    let w = m.agent("W");
    w.put("f", "round 0").unwrap();
    let mut at_once = 0;
    for i in 1..=50 {
        let data = format!("round {i}");
        let below = w.open("f", "r").unwrap();
        w.put("f", &data).unwrap();
        at_once += u64::from(m.raw_content("f").as_deref() == Some(data.as_bytes()));
        assert_eq!(w.pread(below, 0, 100).unwrap(), format!("round {}", i - 1).as_bytes());
        w.close(below).unwrap();
        eventually("published", || m.raw_content("f").as_deref() == Some(data.as_bytes()));
    }
    assert!(at_once >= 25, "only {at_once} of 50 closes had committed when they returned");
}

/// The kernel tells of the end of a descriptor some time after its close. Meanwhile it is one of the name's, and none of those
/// that another process closes.
#[cfg(feature = "failpoints")]
#[test]
fn s27_the_last_close_of_one_process_after_that_of_another() {
    assert!((0..5).any(|_| commits_after_another_close()), "five closes have not been proven");
}

#[cfg(feature = "failpoints")]
fn commits_after_another_close() -> bool {
    let mut m = Mount::setup().env("COMMITFS_RELEASED_MS", "60000").unmounted();
    m.hold_at("release_begins", 1);
    m.remount();
    let (v, w) = m.pair();
    // The kernel tells when a process began in ticks.
    let began = std::time::Instant::now();
    eventually("a few ticks later", || began.elapsed() > std::time::Duration::from_millis(100));
    let fds = [&w, &v].map(|who| who.open("f", "w|creat|append").unwrap());
    w.write(fds[0], "one ").unwrap();
    w.close(fds[0]).unwrap();
    let held = m.held();
    v.write(fds[1], "two").unwrap();
    v.close(fds[1]).unwrap();
    let at_once = m.raw_content("f").is_some_and(|data| data == b"one two");
    drop(held);
    m.settled();
    assert_eq!(m.raw_content("f").unwrap(), b"one two");
    crate::common::checker::check(&m);
    at_once
}

/// But if it does not come, somebody has got that descriptor.
#[test]
fn s31_a_close_beside_a_descriptor_that_was_passed_on_is_not_the_last() {
    let m = Mount::new();
    let (c, b, a) = (m.agent("C"), m.agent("B"), m.agent("A"));
    a.put("f", "old").unwrap();
    let fd = a.open("f", "w|trunc").unwrap();
    let joined = b.open("f", "w").unwrap();
    a.write(fd, "AAAAA").unwrap();
    let name = socket_name();
    let listener = c.listen(&name).unwrap();
    let socket = a.connect(&name).unwrap();
    let accepted = c.accept(listener).unwrap();
    a.send_fd(socket, fd).unwrap();
    let passed = c.receive_fd(accepted).unwrap();
    a.close(fd).unwrap();
    let closed = std::time::Instant::now();
    eventually("its release is overdue", || closed.elapsed() > std::time::Duration::from_secs(1));
    b.pwrite(joined, 10, "B").unwrap();
    b.close(joined).unwrap();
    assert_eq!(m.raw_content("f").unwrap(), b"old");
    c.write(passed, "CCCCC").unwrap();
    c.close(passed).unwrap();
    m.settled();
    assert_eq!(m.raw_content("f").unwrap(), b"AAAAACCCCCB");
}

#[test]
fn s27_close_returns_what_the_commit_came_to() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    w.put("d/f", "old").unwrap();
    let fd = w.open("d/f", "w|trunc").unwrap();
    w.write(fd, "new").unwrap();
    // Somebody on another host puts a folder in the way: the rename cannot succeed.
    std::fs::remove_file(m.raw("d/f")).unwrap();
    std::fs::create_dir(m.raw("d/f")).unwrap();
    let closed = w.close(fd);
    let row = m.quarantined("d/f");
    assert_eq!(row.bytes, 3);
    assert_ne!(row.reason, None);
    assert!(m.raw("d/f").is_dir());
    assert!(r.stat("d/f").unwrap().is_dir());
    if let Err(error) = closed {
        assert_eq!(error, "EISDIR");
    } else {
        assert_eq!(m.commits_of("d/f"), 1, "not committed");
    }
}

#[test]
fn s28_nothing_written_is_no_new_version() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "same").unwrap();
    let before = r.shown("f");
    for how in ["w", "rw", "w|append", "rw|creat"] {
        let fd = w.open("f", how).unwrap();
        w.close(fd).unwrap();
        assert_eq!(r.shown("f"), before, "{how}");
    }
    m.settled();
    assert_eq!(m.commits_of("f"), 1);
    m.nothing_quarantined();
}

#[test]
fn s28_a_change_that_is_refused_is_no_new_version() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "same").unwrap();
    let before = r.shown("f");
    let refused = w.truncate("f", 1 << 60);
    if refused.is_ok() {
        eprintln!("SKIPPED: no size is too large for the file system of this export");
        return;
    }
    assert_eq!(refused.unwrap_err(), "EFBIG");
    let fd = w.open("f", "rw").unwrap();
    assert_eq!(w.ftruncate(fd, 1 << 60).unwrap_err(), "EFBIG");
    w.close(fd).unwrap();
    m.settled();
    assert_eq!(r.shown("f"), before);
    assert_eq!(m.commits_of("f"), 1);
    // What comes after it counts.
    let fd = w.open("f", "rw").unwrap();
    assert_eq!(w.ftruncate(fd, 1 << 60).unwrap_err(), "EFBIG");
    w.ftruncate(fd, 2).unwrap();
    w.close(fd).unwrap();
    m.settled();
    assert_eq!(r.cat("f").unwrap(), b"sa");
    m.nothing_quarantined();
}

/// The kernel remembers what it has looked up for writing, though it never takes its word for it again.
#[test]
fn s28_what_was_opened_and_not_written_costs_the_daemon_no_descriptor() {
    let m = Mount::new();
    let w = m.agent("W");
    let names: Vec<String> = (0..300).map(|n| format!("f{n}")).collect();
    for name in &names {
        w.put(name, "same").unwrap();
    }
    m.settled();
    let open = || m.files_open();
    let before = open();
    for name in &names {
        let fd = w.open(name, "rw").unwrap();
        w.close(fd).unwrap();
    }
    eventually("the kernel has forgotten them", || open() < before + 100);
}

#[test]
fn s28_a_capability_that_is_not_there_is_not_removed() {
    let m = Mount::new();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    let read = w.open("f", "r").unwrap();
    w.write(fd, "content").unwrap();
    w.close(fd).unwrap();
    m.settled();
    let opened = format!("/proc/self/fd/{read}");
    let refused = w.call(&["removexattr", &opened, "security.capability"]).unwrap_err();
    // NFS has none at all.
    assert!(refused == "ENODATA" || refused == "EOPNOTSUPP", "{refused:?}");
    w.close(read).unwrap();
    m.settled();
    assert_eq!(m.commits_of("f"), 1);
}

#[test]
fn s29_every_duplicate_of_a_descriptor_counts() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    let twin = w.dup(fd).unwrap();
    let third = w.dup2(fd, 77).unwrap();
    w.write(fd, "1").unwrap();
    w.close(fd).unwrap();
    r.sees_nothing("f");
    w.write(twin, "2").unwrap();
    w.close(third).unwrap();
    r.sees_nothing("f");
    w.write(twin, "3").unwrap();
    w.close(twin).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"123");
    m.settled();
    assert_eq!(m.commits_of("f"), 1);
}

#[test]
fn s29_shell_redirections_publish_what_the_command_wrote() {
    for shell in ["/bin/sh", "/bin/bash"] {
        let m = Mount::new();
        let (w, r) = m.pair();
        w.put("old", "old").unwrap();
        let cases: [(&str, &str); 8] = [
            ("echo one > f", "one\n"),
            ("(echo a; echo b) > f", "a\nb\n"),
            ("exec 3>f; echo x >&3; echo y >&3; exec 3>&-", "x\ny\n"),
            ("echo more >> old; cat old > f", "oldmore\n"),
            ("{ echo a; /bin/echo b; } > f", "a\nb\n"),
            ("(/bin/echo a; /bin/sh -c '/bin/echo b') > f", "a\nb\n"),
            ("seq 3 | while read x; do /bin/echo $x; done > f", "1\n2\n3\n"),
            ("cat > f <<E\nhere\nE\n", "here\n"),
        ];
        for (script, expected) in cases {
            let (status, _, complaints) = w.run(shell, script).unwrap();
            assert_eq!((status.as_str(), complaints.as_str()), ("0", ""), "{script}");
            let found = String::from_utf8(r.cat("f").unwrap()).unwrap();
            assert_eq!(found, expected, "{shell}: {script}");
        }
    }
}

#[test]
fn s29_a_redirection_is_hidden_while_its_command_runs() {
    for shell in ["/bin/sh", "/bin/bash"] {
        let m = Mount::new();
        let (w, r) = m.pair();
        w.call(&["mkfifo", "go"]).unwrap();
        w.put("f", "old").unwrap();
        for script in [
            "(/bin/echo half; read x < go; /bin/echo whole) > f",
            "exec 3>f; /bin/echo half >&3; read x < go; /bin/echo whole >&3",
            "{ echo half; read x < go; echo whole; } > f",
        ] {
            w.put("f", "old").unwrap();
            w.send(&["run", shell, script]);
            eventually("the draft has its first line", || m.pending().iter().any(|row| row.path == "f"));
            assert_eq!(r.cat("f").unwrap(), b"old", "{shell}: {script}");
            r.sh("echo > go");
            assert_eq!(w.answer().unwrap()[0], b"0");
            assert_eq!(r.cat("f").unwrap(), b"half\nwhole\n", "{shell}: {script}");
        }
    }
}

#[test]
fn s30_a_forked_child_that_outlives_the_opener_commits() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "parent ").unwrap();
    let child = w.fork("C");
    w.close(fd).unwrap();
    r.sees_nothing("f");
    child.write(fd, "child ").unwrap();
    assert_eq!(child.cat("f").unwrap(), b"parent child ");
    w.exit(0);
    r.sees_nothing("f");
    child.write(fd, "alone").unwrap();
    child.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"parent child alone");
}

#[test]
fn s30_a_daemon_that_kept_the_descriptor_commits() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "start ").unwrap();
    let daemon = w.double_fork("D");
    w.exit(0);
    r.sees_nothing("f");
    daemon.write(fd, "end").unwrap();
    r.sees_nothing("f");
    daemon.exit(0);
    eventually("the daemon's end published it", || r.cat("f").is_ok_and(|d| d == b"start end"));
    m.nothing_quarantined();
}

#[test]
fn s30_a_daemon_that_was_given_to_another_parent_keeps_the_file_open() {
    let m = Mount::new();
    let (above, r) = m.pair();
    above.become_subreaper();
    let below = above.fork("W");
    for opener in [&above, &below] {
        let fd = opener.open("f", "w|creat|trunc").unwrap();
        opener.write(fd, "opener ").unwrap();
        // Both are children of `above` now, whichever of the two they come from.
        let daemon = opener.double_fork("D");
        let other = above.double_fork("E");
        opener.close(fd).unwrap();
        let before = r.cat("f").ok();
        assert_ne!(before.as_deref(), Some(&b"opener "[..]), "published while the daemon has it open");
        daemon.write(fd, "daemon").unwrap();
        assert_eq!(r.cat("f").ok(), before);
        other.exit(0);
        daemon.close(fd).unwrap();
        eventually("its close published it", || r.cat("f").is_ok_and(|d| d == b"opener daemon"));
        daemon.exit(0);
    }
    m.nothing_quarantined();
}

#[test]
fn s30_a_child_that_closes_first_does_not_publish_for_its_parent() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "before ").unwrap();
    for n in 0..5 {
        let child = w.fork("C");
        child.close(fd).unwrap();
        r.sees_nothing("f");
        child.exit(n);
        r.sees_nothing("f");
    }
    w.write(fd, "after").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"before after");
}

#[test]
fn s31_a_descriptor_passed_over_a_socket_is_a_writer() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let v = m.agent("V");
    let (a, b) = connect(&w, &v);
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "sender ").unwrap();
    w.send_fd(a, fd).unwrap();
    let received = v.receive_fd(b).unwrap();
    w.close(fd).unwrap();
    v.write(received, "receiver").unwrap();
    let seen = r.cat("f").unwrap();
    assert!(seen == b"old" || seen == b"sender ", "whole versions only: {:?}", String::from_utf8_lossy(&seen));
    v.close(received).unwrap();
    eventually("all that was written is published", || r.cat("f").unwrap() == b"sender receiver");
}

/// The receiver is no writer for the daemon before it writes, and another draft may have begun by then.
#[test]
fn s31_a_descriptor_whose_sender_closed_it_unwritten_goes_over_nothing_that_came_since() {
    for over in [true, false] {
        let m = Mount::new();
        std::fs::write(m.raw("f"), "old content").unwrap();
        let (w, o) = m.pair();
        let v = m.agent("V");
        let (a, b) = connect(&w, &v);
        let fd = w.open("f", "w").unwrap();
        w.send_fd(a, fd).unwrap();
        let received = v.receive_fd(b).unwrap();
        w.close(fd).unwrap();
        let other = o.open("f", "w|append").unwrap();
        o.write(other, ", and more").unwrap();
        if over {
            o.close(other).unwrap();
        }
        let said = v.pwrite(received, 0, "NEW").and_then(|_| v.fsync(received));
        assert_eq!(said.unwrap_err(), "ESTALE", "the other one is published: {over}");
        assert_eq!(v.close(received).unwrap_err(), "ESTALE");
        if !over {
            o.close(other).unwrap();
        }
        assert_eq!(o.cat("f").unwrap(), b"old content, and more");
        m.settled();
        m.nothing_quarantined();
    }
}

/// A socket between two agents.
pub(super) fn connect(a: &crate::common::Agent, b: &crate::common::Agent) -> (i32, i32) {
    let name = socket_name();
    let listener = a.listen(&name).unwrap();
    let theirs = b.connect(&name).unwrap();
    (a.accept(listener).unwrap(), theirs)
}

#[test]
fn s32_a_mapping_that_outlives_its_descriptor_is_a_writer() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", &filled(1, 4096)).unwrap();
    let fd = w.open("f", "rw").unwrap();
    let map = w.mmap(fd, 0, 4096, "shared").unwrap();
    w.store(map, 0, "early").unwrap();
    w.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), filled(1, 4096));
    w.store(map, 100, "late").unwrap();
    assert_eq!(r.cat("f").unwrap(), filled(1, 4096));
    w.munmap(map).unwrap();
    let mut expected = filled(1, 4096);
    expected[..5].copy_from_slice(b"early");
    expected[100..104].copy_from_slice(b"late");
    eventually("the stores made after close are published", || r.cat("f").unwrap() == expected);
    m.settled();
    assert_eq!(m.commits_of("f"), 2, "in one version");
}

#[test]
fn s32_a_mapping_left_to_the_end_of_the_process_is_published() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "rw|creat").unwrap();
    w.ftruncate(fd, 4096).unwrap();
    let map = w.mmap(fd, 0, 4096, "shared").unwrap();
    w.close(fd).unwrap();
    r.sees_nothing("f");
    w.store(map, 4090, "at end").unwrap();
    w.exit(0);
    eventually("published whole", || r.cat("f").is_ok_and(|d| d.len() == 4096 && d.ends_with(b"at end")));
}

/// Two processes, thousands of rounds, nothing in between: a close that returned is seen by the next open.
fn rounds(how: &str, count: u64) {
    let m = Mount::new();
    let (w, r) = m.pair();
    let counters = m.home().join("counters");
    std::fs::write(&counters, [0; 4096]).unwrap();
    let counters = counters.to_str().unwrap();
    // On one processor whoever spins takes the other's time: each round then costs two slices of the scheduler.
    let alone = std::thread::available_parallelism().is_ok_and(|n| n.get() == 1);
    let count = (if alone { count / 20 } else { count }).to_string();
    for agent in [&w, &r] {
        agent.patience(std::time::Duration::from_secs(300));
    }
    w.send(&["rounds", "write", counters, "f", &count, how]);
    r.send(&["rounds", "read", counters, "f", &count, how]);
    let wrong = r.answer().unwrap();
    let texts: Vec<_> = wrong.iter().map(|w| String::from_utf8_lossy(w)).collect();
    assert!(wrong.is_empty(), "{how}: {texts:#?}");
    assert_eq!(w.answer().unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn s33_read_after_close_overwritten() {
    rounds("plain", 4000);
}

#[test]
fn s33_read_after_close_new_names() {
    rounds("new", 4000);
}

#[test]
fn s33_read_after_close_of_two_duplicates() {
    rounds("dup", 4000);
}

#[test]
fn s33_read_after_close_with_a_forked_child() {
    rounds("fork", 1500);
}

#[test]
fn s33_read_after_close_appended() {
    rounds("append", 1500);
}

#[test]
fn s33_read_after_close_patched() {
    rounds("patch", 3000);
}

/// Two holders of a descriptor close it at the same time, one of them with writes that the kernel still has. Neither is in any
/// table any more.
fn closed_at_once(how: &str) {
    let m = Mount::new();
    let w = m.agent("W");
    let counters = m.home().join("counters");
    std::fs::write(&counters, [0; 4096]).unwrap();
    let count = if std::thread::available_parallelism().is_ok_and(|n| n.get() == 1) { 50 } else { 1000 };
    w.patience(std::time::Duration::from_secs(300));
    let done = AtomicBool::new(false);
    let (name, whole) = (m.mnt().join("f"), |data: &[u8]| data.len() == 1 << 16 && data.iter().all(|b| *b == data[0]));
    let partial = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut partial = Vec::new();
            while !done.load(Ordering::Acquire) {
                partial.extend(std::fs::read(&name).ok().filter(|data| !whole(data)).map(|data| data.len()));
            }
            partial
        });
        w.send(&["rounds", "beside", counters.to_str().unwrap(), "f", &count.to_string(), how]);
        let answer = w.answer();
        done.store(true, Ordering::Release);
        assert_eq!(answer, Ok(Vec::new()));
        looking.join().unwrap()
    });
    assert!(partial.is_empty(), "parts of a file were found, of {partial:?} bytes");
    m.settled();
    let commits = m.commits_of("f");
    assert!((1..=count).contains(&commits), "{commits} versions of {count} files");
}

#[test]
fn s30_a_close_publishes_nothing_that_a_childs_close_is_still_writing() {
    closed_at_once("heir");
}

#[test]
fn s30_a_close_publishes_nothing_that_another_threads_close_is_still_writing() {
    closed_at_once("thread");
}

/// The kernel remembers the draft's node for as long as it likes; that must not keep a descriptor open.
#[test]
fn s27_published_files_cost_the_daemon_no_descriptors() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let held = || m.files_open();
    w.put("first", "1").unwrap();
    let before = held();
    for i in 0..300 {
        w.put(&format!("f{i:03}"), "content").unwrap();
        w.put("again", &format!("{i}")).unwrap();
    }
    eventually("descriptors are few", || held() < before + 50);
    assert_eq!(r.cat("f123").unwrap(), b"content");
    assert_eq!(w.cat("again").unwrap(), b"299");
}

/// A descriptor without access to the content outlives the commit.
#[test]
fn s27_a_path_descriptor_of_a_draft_goes_on_telling_its_attributes() {
    let m = Mount::new();
    let (w, _r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    let path = w.open("f", "path").unwrap();
    w.write(fd, "content").unwrap();
    w.close(fd).unwrap();
    for i in 0..20 {
        w.put(&format!("other{i}"), "x").unwrap();
    }
    assert_eq!(w.fstat(path).unwrap().size, 7);
    let through = w.open(&format!("/proc/self/fd/{path}"), "r").unwrap();
    assert_eq!(w.read(through, 100).unwrap(), b"content");
}

#[test]
fn s34_writes_through_a_descriptor_that_was_in_flight_make_a_new_version() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let v = m.agent("V");
    let (a, b) = connect(&w, &v);
    let fd = w.open("f", "rw|creat").unwrap();
    w.write(fd, "first").unwrap();
    w.send_fd(a, fd).unwrap();
    w.close(fd).unwrap();
    eventually("the close published it, or the descriptor in flight was seen", || {
        r.cat("f").is_ok_and(|d| d == b"first") || m.pending().iter().any(|row| row.path == "f")
    });
    let held = r.open("f", "r").ok();
    let published = r.stat("f").ok();
    let received = v.receive_fd(b).unwrap();
    v.pwrite(received, 5, " second").unwrap();
    assert_eq!(v.pread(received, 0, 100).unwrap(), b"first second");
    if let (Some(held), Some(before)) = (held, published) {
        assert_eq!(r.pread(held, 0, 100).unwrap(), b"first", "the published version is not touched");
        assert_eq!(r.fstat(held).unwrap().mtime, before.mtime);
        assert_eq!(r.cat("f").unwrap(), b"first");
    }
    v.close(received).unwrap();
    eventually("the late write is published too", || r.cat("f").is_ok_and(|d| d == b"first second"));
}

#[test]
fn s27_a_version_leaves_nothing_open_behind_its_close() {
    let m = Mount::new();
    let w = m.agent("W");
    let open = || m.files_open();
    w.put("first", "x").unwrap();
    m.settled();
    let before = open();
    for n in 0..300 {
        w.put(&format!("f{n}"), "x").unwrap();
    }
    eventually("nothing of them is open any more", || open() < before + 30);
}
