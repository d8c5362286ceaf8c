//! Locks exclude readers and writers of one path, whichever of its two nodes they have open.

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Agent, Mount, eventually};

/// Waits until the agent's thread sleeps in a system call for a lock.
fn waits_for_a_lock(agent: &Agent) {
    let calls = [libc::SYS_fcntl, libc::SYS_flock];
    eventually("the agent waits for the lock", || {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", agent.pid())).unwrap_or_default();
        call.split_whitespace().next().and_then(|n| n.parse().ok()).is_some_and(|n: i64| calls.contains(&n))
    });
}

#[test]
fn s47_record_locks_exclude_by_bytes_and_say_who() {
    let m = Mount::new();
    let (a, b) = m.pair();
    a.put("f", "0123456789").unwrap();
    let (fa, fb) = (a.open("f", "rw").unwrap(), b.open("f", "rw").unwrap());
    a.lock(fa, "write", 2, 3).unwrap();
    a.lock(fa, "write", 5, 1).unwrap();
    assert_eq!(b.lock(fb, "write", 5, 10).unwrap_err(), "EAGAIN");
    assert_eq!(b.test_lock(fb, 0, 0).unwrap(), [1, 2, 4, i64::from(a.pid())], "adjacent locks are one");
    assert!(a.test_lock(fa, 0, 0).unwrap().is_empty(), "never in its own way");
    b.lock(fb, "write", 6, 0).unwrap();
    a.lock(fa, "read", 3, 1).unwrap();
    b.lock(fb, "read", 3, 1).unwrap();
    assert_eq!(a.lock(fa, "write", 3, 1).unwrap_err(), "EAGAIN");
    b.lock(fb, "unlock", 0, 0).unwrap();
    a.lock(fa, "write", 0, 0).unwrap();
}

#[test]
fn s47_a_reader_of_the_version_and_a_writer_of_the_draft_exclude_each_other() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "old").unwrap();
    let (fw, fr) = (w.open("f", "rw").unwrap(), r.open("f", "r").unwrap());
    w.pwrite(fw, 0, "new").unwrap();
    assert_eq!(r.pread(fr, 0, 3).unwrap(), b"old", "two nodes");
    r.lock(fr, "read", 0, 0).unwrap();
    assert_eq!(w.lock(fw, "write", 0, 0).unwrap_err(), "EAGAIN");
    r.lock(fr, "unlock", 0, 0).unwrap();
    w.lock(fw, "write", 0, 0).unwrap();
    assert_eq!(r.lock(fr, "read", 0, 0).unwrap_err(), "EAGAIN");
    assert_eq!(r.lock(fr, "read,ofd", 0, 0).unwrap_err(), "EAGAIN");
    // Where the export is NFS, a flock is an fcntl lock of the whole file to the server, and may meet those.
    w.lock(fw, "unlock", 0, 0).unwrap();
    r.flock_how(fr, "share").unwrap();
    assert_eq!(w.flock(fw).unwrap_err(), "EAGAIN", "flock meets flock, and across the nodes too");
    r.flock_how(fr, "unlock").unwrap();
    w.close(fw).unwrap();
    r.lock(fr, "read", 0, 0).unwrap();
    let again = w.open("f", "rw").unwrap();
    assert_eq!(w.lock(again, "write", 0, 0).unwrap_err(), "EAGAIN", "the version changed, the path did not");
}

#[test]
fn s47_whoever_waits_for_a_lock_finds_what_was_written_under_it() {
    let m = Mount::new();
    let (a, b) = m.pair();
    a.put("f", "old").unwrap();
    let (fa, fb) = (a.open("f", "rw").unwrap(), b.open("f", "r").unwrap());
    a.lock(fa, "write", 0, 0).unwrap();
    b.send_lock(fb, "read,wait", 0, 0);
    waits_for_a_lock(&b);
    a.pwrite(fa, 0, "new").unwrap();
    a.close(fa).unwrap();
    b.answer().unwrap();
    assert_eq!(b.cat("f").unwrap(), b"new");
    let fa = a.open("f", "r").unwrap();
    b.flock(fb).unwrap();
    a.send(&[b"flock".as_slice(), fa.to_string().as_bytes(), b"wait"]);
    waits_for_a_lock(&a);
    b.close(fb).unwrap();
    a.answer().unwrap();
}

#[test]
fn s47_a_signal_ends_the_wait_for_a_lock() {
    let m = Mount::new();
    let (a, b) = m.pair();
    a.put("f", "x").unwrap();
    let (fa, fb) = (a.open("f", "rw").unwrap(), b.open("f", "rw").unwrap());
    a.lock(fa, "write", 0, 0).unwrap();
    let usr1 = Signal::USR1;
    b.ask(&["heed", &usr1.as_raw().to_string()]).unwrap();
    b.send_lock(fb, "write,wait", 0, 0);
    waits_for_a_lock(&b);
    kill_process(Pid::from_raw(b.pid() as i32).unwrap(), usr1).unwrap();
    assert_eq!(b.answer().unwrap_err(), "EINTR");
    b.send_lock(fb, "write,wait,ofd", 0, 0);
    waits_for_a_lock(&b);
    b.kill(Signal::KILL);
    a.lock(fa, "unlock", 0, 0).unwrap();
    let c = m.agent("c");
    let fc = c.open("f", "rw").unwrap();
    c.lock(fc, "write", 0, 0).unwrap();
}

#[test]
fn s47_two_processes_that_wait_for_each_other_are_told() {
    let m = Mount::new();
    let (a, b) = m.pair();
    a.put("f", "0123456789").unwrap();
    let (fa, fb) = (a.open("f", "rw").unwrap(), b.open("f", "rw").unwrap());
    a.lock(fa, "write", 0, 1).unwrap();
    b.lock(fb, "write", 5, 1).unwrap();
    b.send_lock(fb, "write,wait", 0, 1);
    waits_for_a_lock(&b);
    a.send_lock(fa, "write,wait", 5, 1);
    // Which of the two requests the daemon takes last is nobody's choice: that one closes the circle.
    eventually("the circle is seen", || a.has_answered() || b.has_answered());
    let (told, other, fd) = if a.has_answered() { (&a, &b, fa) } else { (&b, &a, fb) };
    assert_eq!(told.answer().unwrap_err(), "EDEADLK");
    assert!(!other.has_answered(), "one of them goes on waiting");
    told.lock(fd, "unlock", 0, 0).unwrap();
    other.answer().unwrap();
}

#[test]
fn s47_who_gave_back_what_another_waits_for_may_wait_for_that_other() {
    let m = Mount::new();
    let (a, b) = m.pair();
    a.put("f", "0123456789").unwrap();
    let (fa, fb) = (a.open("f", "rw").unwrap(), b.open("f", "rw").unwrap());
    for _ in 0..100 {
        a.lock(fa, "write", 0, 1).unwrap();
        b.lock(fb, "write", 5, 1).unwrap();
        b.send_lock(fb, "write,wait", 0, 1);
        waits_for_a_lock(&b);
        // At once: before the other has been given what it waits for.
        a.send_lock(fa, "unlock", 0, 1);
        a.send_lock(fa, "write,wait", 5, 1);
        b.answer().unwrap();
        a.answer().unwrap();
        b.lock(fb, "unlock", 0, 0).unwrap();
        a.answer().unwrap();
        a.lock(fa, "unlock", 0, 0).unwrap();
    }
}

#[test]
fn s47_locks_end_as_posix_has_it() {
    let m = Mount::new();
    let (a, b) = m.pair();
    a.put("f", "x").unwrap();
    let (fa, fb) = (a.open("f", "rw").unwrap(), b.open("f", "rw").unwrap());
    a.lock(fa, "write", 0, 0).unwrap();
    let second = a.open("f", "r").unwrap();
    a.close(second).unwrap();
    b.lock(fb, "write", 0, 0).unwrap();
    b.lock(fb, "unlock", 0, 0).unwrap();
    // Any close by the process ends its record locks; a description's end with it, and so does flock's.
    a.lock(fa, "write,ofd", 0, 0).unwrap();
    let second = a.open("f", "r").unwrap();
    a.close(second).unwrap();
    assert_eq!(b.lock(fb, "write", 0, 0).unwrap_err(), "EAGAIN");
    let dup = a.dup(fa).unwrap();
    a.close(fa).unwrap();
    assert_eq!(b.lock(fb, "write", 0, 0).unwrap_err(), "EAGAIN");
    a.close(dup).unwrap();
    b.lock(fb, "write", 0, 0).unwrap();
    let child = b.fork("child");
    assert_eq!(child.lock(fb, "write", 0, 0).unwrap_err(), "EAGAIN", "not inherited");
    b.exit(0);
    child.lock(fb, "write", 0, 0).unwrap();
    child.exit(0);
}

#[test]
fn s47_a_lock_goes_with_its_file() {
    let m = Mount::new();
    let (a, b) = m.pair();
    a.put("f", "x").unwrap();
    let fa = a.open("f", "r").unwrap();
    a.flock(fa).unwrap();
    a.rename("f", "g").unwrap();
    let fb = b.open("g", "r").unwrap();
    assert_eq!(b.flock(fb).unwrap_err(), "EAGAIN");
    b.unlink("g").unwrap();
    b.put("g", "another").unwrap();
    let other = b.open("g", "r").unwrap();
    b.flock(other).unwrap();
    b.put("f", "a third").unwrap();
    b.link("f", "same").unwrap();
    let (one, two) = (a.open("f", "r").unwrap(), b.open("same", "r").unwrap());
    a.flock(one).unwrap();
    assert_eq!(b.flock(two).unwrap_err(), "EAGAIN", "two names of one inode");
}

#[test]
fn s47_locks_of_the_mount_hold_on_the_export() {
    let m = Mount::new();
    let (a, _) = m.pair();
    a.put("f", "x").unwrap();
    let fa = a.open("f", "rw").unwrap();
    // For writing, because NFS makes of it a lock of the kind that needs that.
    let raw = std::fs::File::options().read(true).write(true).open(m.raw("f")).unwrap();
    let try_raw = || rustix::fs::flock(&raw, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    a.flock(fa).unwrap();
    assert_eq!(try_raw().unwrap_err(), rustix::io::Errno::AGAIN);
    a.flock_how(fa, "unlock").unwrap();
    try_raw().unwrap();
    assert_eq!(a.flock(fa).unwrap_err(), "EAGAIN");
    a.send(&[b"flock".as_slice(), fa.to_string().as_bytes(), b"wait"]);
    waits_for_a_lock(&a);
    drop(raw);
    a.answer().unwrap();
}

/// Who cannot have it has lost the lock that he had, and with it what it cost.
#[test]
fn s47_a_lock_that_cannot_be_converted_costs_nothing() {
    let m = Mount::new();
    let (a, b) = m.pair();
    a.put("f", "x").unwrap();
    let fa = a.open("f", "rw").unwrap();
    a.flock_how(fa, "share").unwrap();
    let open = || m.files_open();
    let before = open();
    // All open at once: the kernel uses the number of an owner that is gone for the next one.
    let refused: Vec<i32> = (0..100)
        .map(|_| {
            let fb = b.open("f", "r").unwrap();
            b.flock_how(fb, "share").unwrap();
            assert_eq!(b.flock(fb).unwrap_err(), "EAGAIN");
            fb
        })
        .collect();
    for fb in refused {
        b.close(fb).unwrap();
    }
    eventually("no descriptor is left behind", || open() < before + 50);
}
