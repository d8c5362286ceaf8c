//! What a close had promised when the daemon died, and what has become of its name since.

#[cfg(feature = "failpoints")]
use std::thread;
#[cfg(feature = "failpoints")]
use std::time::Duration;

use rustix::process::Signal;

use crate::common::agent::socket_name;
#[cfg(feature = "failpoints")]
use crate::common::wait::poll;
use crate::common::{Agent, Mount, Setup, checker, eventually};

/// An agent of whose closes nothing proves that they are the last: nobody looks through so many descriptors.
pub(super) fn unproven(m: &Mount, name: &str) -> Agent {
    let w = m.agent(name);
    open_many(&w);
    w
}

fn open_many(w: &Agent) {
    w.put("many", "").unwrap();
    for _ in 0..600 {
        w.open("many", "r").unwrap();
    }
}

/// Writes a file whose close returns on a promise: it is not published, because the writer has it open once more.
#[track_caller]
pub fn promise(m: &Mount, w: &Agent, path: &str, data: &str) -> i32 {
    let fd = w.open(path, "w|creat|trunc").unwrap();
    w.write(fd, data).unwrap();
    let open = w.dup(fd).unwrap();
    w.close(fd).unwrap();
    assert!(m.pending().iter().any(|row| row.path == path && row.state == "sealed"), "{path}: nothing was promised");
    open
}

#[track_caller]
fn crash_and_recover(m: &mut Mount) {
    m.kill9();
    m.remount();
    m.recovered();
}

#[track_caller]
fn is_kept_as_overtaken(m: &Mount, path: &str, data: &str) {
    let row = m.quarantined(path);
    assert!(row.reason.as_deref().unwrap().contains("changed after its close"), "{row:?}");
    let saved = m.home().join("saved");
    m.cli_ok(&["quarantine", "save", &row.id.to_string(), saved.to_str().unwrap()]);
    assert_eq!(std::fs::read(&saved).unwrap(), data.as_bytes());
    std::fs::remove_file(&saved).unwrap();
}

/// Although its mappings, had it any, would be gone by then.
#[test]
fn s35_what_was_promised_to_a_killed_writer_is_published_by_the_close_of_a_child() {
    let m = Mount::new();
    let (w, r) = m.pair();
    // First, so that nobody looks so far in the child's table either.
    open_many(&w);
    let fd = w.open("f", "rw|creat").unwrap();
    w.write(fd, "whole").unwrap();
    let child = w.fork("child");
    w.close(fd).unwrap();
    assert!(m.pending().iter().any(|row| row.path == "f" && row.state == "sealed"), "nothing was promised");
    w.kill(Signal::KILL);
    child.close(fd).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"whole");
}

#[test]
fn s53_recovery_puts_nothing_over_what_another_host_has_published_since() {
    for old in [None, Some("old")] {
        let mut a = Mount::new();
        let b = Setup::default().export_of(&a).mount();
        let w = unproven(&a, "W");
        w.mkdir("d").unwrap();
        if let Some(old) = old {
            w.put("d/shared", old).unwrap();
            eventually("published", || a.raw_content("d/shared").is_some());
        }
        promise(&a, &w, "d/shared", "promised by A");
        promise(&a, &w, "d/alone", "promised by A");
        a.kill9();
        drop(w);
        let v = b.agent("V");
        v.put("d/shared", "published by B").unwrap();
        eventually("published", || b.raw_content("d/shared").is_some_and(|data| data == b"published by B"));
        a.remount();
        a.recovered();
        assert_eq!(a.raw_content("d/shared").unwrap(), b"published by B", "over {old:?}");
        assert_eq!(a.agent("R").cat("d/shared").unwrap(), b"published by B");
        is_kept_as_overtaken(&a, "d/shared", "promised by A");
        assert_eq!(a.raw_content("d/alone").unwrap(), b"promised by A");
    }
}

#[test]
fn s40_what_was_renamed_over_a_promised_draft_stays() {
    for own in [true, false] {
        let mut m = Mount::new();
        let w = unproven(&m, "W");
        let other = m.agent("O");
        promise(&m, &w, "final", "first, superseded");
        w.put("final.new", "second").unwrap();
        eventually("published", || m.raw_content("final.new").is_some());
        let renamer = if own { &w } else { &other };
        renamer.rename("final.new", "final").unwrap();
        m.recorded();
        crash_and_recover(&mut m);
        assert_eq!(m.raw_content("final").unwrap(), b"second", "renamed by its family: {own}");
        assert_eq!(m.agent("R").cat("final").unwrap(), b"second");
        m.quarantined("final");
        if !own {
            is_kept_as_overtaken(&m, "final", "first, superseded");
        }
        checker::check(&m);
    }
}

/// A further name is given once the version is there.
#[cfg(feature = "failpoints")]
#[test]
fn s24_a_link_waits_for_the_commit_behind_a_close() {
    let mut m = Setup::default().unmounted();
    m.hold_at("commit_before_fsync", 2);
    m.remount();
    let w = unproven(&m, "W");
    w.put("f", "whole").unwrap();
    thread::scope(|scope| {
        let held = m.held();
        let linker = scope.spawn(move || w.link("f", "g"));
        // It waits, or is refused.
        poll(Duration::from_secs(1), || linker.is_finished().then_some(()));
        drop(held);
        linker.join().unwrap().unwrap();
    });
    assert_eq!(m.agent("R").cat("g").unwrap(), b"whole");
}

/// By its family, while another close of it may commit.
#[cfg(feature = "failpoints")]
#[test]
fn s16_what_is_renamed_over_a_closed_draft_stays_though_its_commit_begins_meanwhile() {
    let mut m = Setup::default().unmounted();
    m.hold_at("rename_before_move", 1);
    m.remount();
    let w = unproven(&m, "W");
    w.put("g", "renamed").unwrap();
    eventually("published", || m.raw_content("g").is_some());
    let open = promise(&m, &w, "f", "promised");
    let child = w.fork("C");
    w.close(open).unwrap();
    thread::scope(|scope| {
        let renamer = scope.spawn(move || w.rename("g", "f").map(|()| w).unwrap());
        let held = m.held();
        let closer = scope.spawn(move || child.close(open).map(|()| child).unwrap());
        // It waits, or commits.
        poll(Duration::from_secs(1), || closer.is_finished().then_some(()));
        drop(held);
        let _both = (renamer.join().unwrap(), closer.join().unwrap());
        m.settled();
        assert_eq!(m.raw_content("f").unwrap(), b"renamed");
        assert_eq!(m.agent("R").cat("f").unwrap(), b"renamed");
    });
    checker::check(&m);
}

/// What was at a name before a promised draft got it is older than the draft.
#[test]
fn s40_a_promised_draft_replaces_what_was_at_its_new_name_before() {
    type Renaming = fn(&Mount, &Agent, &Agent);
    let renamings: [(&str, &str, Renaming); 4] = [
        ("over a version that came after the promise", "b", |m, w, o| {
            promise(m, w, "a", "promised");
            o.put("b", "older").unwrap();
            w.rename("a", "b").unwrap();
        }),
        ("over one that has grown since", "b", |m, w, o| {
            o.put("b", "older").unwrap();
            promise(m, w, "a", "promised");
            o.append("b", " and longer").unwrap();
            w.rename("a", "b").unwrap();
        }),
        ("to a path that had a version before", "e/q", |m, w, o| {
            for folder in ["d", "e"] {
                w.mkdir(folder).unwrap();
            }
            promise(m, w, "d/q", "promised");
            o.put("e/q", "older").unwrap();
            o.rename("e", "old").unwrap();
            w.rename("d", "e").unwrap();
        }),
        ("there and back", "a", |m, w, o| {
            promise(m, w, "a", "promised");
            w.rename("a", "b").unwrap();
            o.put("a", "older").unwrap();
            o.unlink("a").unwrap();
            w.rename("b", "a").unwrap();
        }),
    ];
    for (how, name, rename) in renamings {
        let mut m = Mount::new();
        let (w, o) = (unproven(&m, "W"), m.agent("O"));
        rename(&m, &w, &o);
        m.recorded();
        crash_and_recover(&mut m);
        assert_eq!(m.raw_content(name).as_deref(), Some(&b"promised"[..]), "{how}");
        m.nothing_quarantined();
        checker::check(&m);
    }
}

#[test]
fn s40_what_came_after_a_promise_stays_when_its_folder_is_renamed() {
    let mut m = Mount::new();
    let (w, o) = (unproven(&m, "W"), m.agent("O"));
    w.mkdir("d").unwrap();
    promise(&m, &w, "d/q", "promised");
    // Open it, and it would be a second writer.
    o.put("d/new", "newer").unwrap();
    o.rename("d/new", "d/q").unwrap();
    o.unlink("d/q").unwrap();
    w.rename("d", "e").unwrap();
    m.recorded();
    crash_and_recover(&mut m);
    assert_eq!(m.raw_content("e/q"), None);
    is_kept_as_overtaken(&m, "e/q", "promised");
}

/// The close had returned, the rename had not.
#[cfg(feature = "failpoints")]
#[test]
fn s40_what_was_promised_is_published_though_the_daemon_dies_in_a_rename() {
    for (point, made) in [("rename_before_move", false), ("rename_after_move", true)] {
        for (old, new, draft) in [("a", "b", ""), ("d", "e", "/f")] {
            for version in [true, false] {
                let how = format!("{point}, {old}{draft} with a version below: {version}");
                let mut m = Setup::default().unmounted();
                m.set_env("COMMITFS_FAILPOINT", &format!("{point}:1"));
                m.remount();
                let w = unproven(&m, "W");
                let name = |of: &str| format!("{of}{draft}");
                if !draft.is_empty() {
                    w.mkdir(old).unwrap();
                }
                if version {
                    w.put(&name(old), "old").unwrap();
                    eventually("published", || m.raw_content(&name(old)).is_some());
                }
                promise(&m, &w, &name(old), "promised");
                if w.rename(old, new).is_ok() {
                    // A draft alone is in no folder of the export, which has nothing to rename.
                    assert!(!version && draft.is_empty(), "{how}");
                    continue;
                }
                eventually("it died", || m.daemon_is_dead());
                drop(w);
                m.set_env("COMMITFS_FAILPOINT", "");
                m.daemon_ended();
                m.remount();
                m.recovered();
                let there = name(if made { new } else { old });
                assert_eq!(m.raw_content(&there).as_deref(), Some(&b"promised"[..]), "{how}");
                m.nothing_quarantined();
                checker::check(&m);
            }
        }
    }
}

#[test]
fn s15_a_promised_draft_that_its_family_has_unlinked_is_not_published_by_recovery() {
    let mut m = Mount::new();
    let w = unproven(&m, "W");
    promise(&m, &w, "temporary", "secret");
    w.unlink("temporary").unwrap();
    crash_and_recover(&mut m);
    assert_eq!(m.raw_content("temporary"), None);
    m.agent("R").sees_nothing("temporary");
    m.quarantined("temporary");
    checker::check(&m);
}

#[test]
fn s40_a_change_of_attributes_does_not_hold_a_promise_back() {
    let mut m = Mount::new();
    let w = unproven(&m, "W");
    for name in ["mode", "time", "link", "new"] {
        if name != "new" {
            w.put(name, "old").unwrap();
            eventually("published", || m.raw_content(name).is_some());
        }
        promise(&m, &w, name, "promised");
    }
    m.kill9();
    drop(w);
    // As another host might.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    std::fs::set_permissions(m.raw("mode"), mode).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(m.raw("time")).unwrap().set_modified(long_ago).unwrap();
    std::fs::hard_link(m.raw("link"), m.raw("twin")).unwrap();
    m.remount();
    m.recovered();
    for name in ["mode", "time", "link", "new"] {
        assert_eq!(m.raw_content(name).unwrap(), b"promised", "{name}");
    }
    assert_eq!(m.raw_content("twin").unwrap(), b"old");
    m.nothing_quarantined();
}

#[test]
fn s40_a_promise_goes_along_with_its_draft_and_its_folder() {
    let mut m = Mount::new();
    let w = unproven(&m, "W");
    w.mkdir("d").unwrap();
    w.put("d/final", "old").unwrap();
    w.put("d/stays", "old").unwrap();
    eventually("published", || m.raw_content("d/stays").is_some());
    promise(&m, &w, "d/temporary", "promised");
    w.rename("d/temporary", "d/final").unwrap();
    promise(&m, &w, "d/stays", "promised");
    w.rename("d", "e").unwrap();
    m.recorded();
    crash_and_recover(&mut m);
    assert_eq!(m.raw_content("e/final").unwrap(), b"promised");
    assert_eq!(m.raw_content("e/stays").unwrap(), b"promised");
    m.nothing_quarantined();
    checker::check(&m);
}

/// Two drafts are promised for one name, one after the other.
fn promise_twice() -> Mount {
    let mut m = Mount::new();
    let (w, o) = (unproven(&m, "W"), unproven(&m, "O"));
    w.put("f", "old").unwrap();
    eventually("published", || m.raw_content("f").is_some());
    promise(&m, &w, "f", "first");
    promise(&m, &o, "g", "second");
    o.rename("g", "f").unwrap();
    m.recorded();
    m.kill9();
    m
}

#[track_caller]
fn the_second_stays(m: &mut Mount) {
    m.remount();
    m.recovered();
    assert_eq!(m.raw_content("f").unwrap(), b"second");
    m.nothing_quarantined();
    assert_eq!(m.commits_of("f"), 3);
    checker::check(m);
}

#[test]
fn s40_of_several_promised_for_one_name_the_last_one_stays() {
    the_second_stays(&mut promise_twice());
}

#[cfg(feature = "failpoints")]
#[test]
fn s40_of_several_promised_for_one_name_the_last_one_stays_though_recovery_dies_between_them() {
    for point in ["recover_after_rename", "commit_after_record"] {
        let mut m = promise_twice();
        m.set_env("COMMITFS_FAILPOINT", &format!("{point}:1"));
        m.start();
        eventually("recovery has published the first", || m.daemon_is_dead());
        m.daemon_ended();
        assert_eq!(m.raw_content("f").unwrap(), b"first");
        m.set_env("COMMITFS_FAILPOINT", "");
        the_second_stays(&mut m);
    }
}

/// The version goes first, so that an unlink that fails changes nothing; its end is not answered.
#[cfg(feature = "failpoints")]
#[test]
fn s15_an_unlink_that_the_daemon_does_not_survive_publishes_no_promised_draft() {
    let mut m = Setup::default().unmounted();
    m.set_env("COMMITFS_FAILPOINT", "unlink_after_move:1");
    m.remount();
    let w = unproven(&m, "W");
    w.put("f", "old").unwrap();
    eventually("published", || m.raw_content("f").is_some());
    promise(&m, &w, "f", "promised");
    w.unlink("f").unwrap_err();
    eventually("it died", || m.daemon_is_dead());
    drop(w);
    m.set_env("COMMITFS_FAILPOINT", "");
    m.daemon_ended();
    m.remount();
    m.recovered();
    assert_eq!(m.raw_content("f"), None);
    is_kept_as_overtaken(&m, "f", "promised");
    checker::check(&m);
}

/// Or the promise would be one of data that a power cut takes.
#[cfg(feature = "failpoints")]
#[test]
fn s40_what_is_written_after_the_sync_for_a_promise_is_not_promised() {
    let mut m = Setup::default().unmounted();
    m.hold_at("promise_after_sync", 1);
    m.remount();
    let w = unproven(&m, "W");
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "promised").unwrap();
    let child = w.fork("C");
    thread::scope(|scope| {
        let closer = scope.spawn(move || w.close(fd).map(|()| w).unwrap());
        let held = m.held();
        let writer = scope.spawn(move || {
            child.pwrite(fd, 8, ", and more").unwrap();
            child.fsync(fd).map(|()| child).unwrap()
        });
        // It waits, or writes.
        poll(Duration::from_secs(1), || writer.is_finished().then_some(()));
        drop(held);
        let _both = (closer.join().unwrap(), writer.join().unwrap());
        assert!(m.pending().iter().any(|row| row.path == "f" && row.state == "open"), "{:?}", m.pending());
    });
    eventually("published", || m.raw_content("f").is_some());
    assert_eq!(m.raw_content("f").unwrap(), b"promised, and more");
}

/// The version goes along with the rename, and what the row says of the name has to be of one moment.
#[cfg(feature = "failpoints")]
#[test]
fn s40_a_close_that_is_promised_as_its_file_is_renamed_is_promised_for_its_new_name() {
    let mut m = Setup::default().unmounted();
    m.hold_at("promise_after_sync", 2);
    m.remount();
    let w = unproven(&m, "W");
    w.put("old", "before").unwrap();
    m.settled();
    let t = w.thread("T");
    let fd = w.open("old", "w|trunc").unwrap();
    w.dup(fd).unwrap();
    w.write(fd, "promised").unwrap();
    w.send(&["close", &fd.to_string()]);
    let held = m.held();
    t.send(&["rename", "old", "new"]);
    poll(Duration::from_secs(1), || m.raw("new").exists().then_some(()));
    drop(held);
    w.answer().unwrap();
    t.answer().unwrap();
    crash_and_recover(&mut m);
    assert_eq!(m.raw_content("new").unwrap(), b"promised");
    assert_eq!(m.raw_content("old"), None);
    checker::check(&m);
}

#[test]
fn s40_a_draft_that_was_published_is_promised_again_over_itself() {
    let mut m = Mount::new();
    let (w, v) = (m.agent("W"), unproven(&m, "V"));
    let name = socket_name();
    let listener = w.listen(&name).unwrap();
    let theirs = v.connect(&name).unwrap();
    let ours = w.accept(listener).unwrap();
    let fd = w.open("f", "rw|creat").unwrap();
    w.write(fd, "first").unwrap();
    w.send_fd(ours, fd).unwrap();
    w.close(fd).unwrap();
    let received = v.receive_fd(theirs).unwrap();
    v.pwrite(received, 5, " second").unwrap();
    let _open = v.dup(received).unwrap();
    v.close(received).unwrap();
    assert!(m.pending().iter().any(|row| row.path == "f" && row.state == "sealed"), "nothing was promised");
    crash_and_recover(&mut m);
    assert_eq!(m.raw_content("f").unwrap(), b"first second");
    m.nothing_quarantined();
}

/// What it does not know is not held against it.
#[test]
fn s40_what_an_older_version_has_promised_is_rolled_forward() {
    let mut m = Mount::new();
    let w = unproven(&m, "W");
    w.put("f", "old").unwrap();
    eventually("published", || m.raw_content("f").is_some());
    promise(&m, &w, "f", "promised");
    promise(&m, &w, "g", "promised");
    m.kill9();
    drop(w);
    let db = rusqlite::Connection::open(m.state().join("journal.sqlite")).unwrap();
    db.execute_batch(
        "ALTER TABLE drafts DROP COLUMN below; ALTER TABLE drafts DROP COLUMN moved_from;
         ALTER TABLE drafts DROP COLUMN folder; ALTER TABLE drafts DROP COLUMN stay;
         ALTER TABLE drafts DROP COLUMN named; PRAGMA user_version = 6;",
    )
    .unwrap();
    drop(db);
    m.remount();
    m.recovered();
    for name in ["f", "g"] {
        assert_eq!(m.raw_content(name).unwrap(), b"promised");
    }
    m.nothing_quarantined();
}

/// A slow recovery: the name is looked at when its turn comes.
#[cfg(feature = "failpoints")]
#[test]
fn s40_what_comes_to_a_name_while_recovery_is_at_others_stays() {
    use crate::common::mount::signal;
    use rustix::process::Signal;

    let mut m = Mount::new();
    let w = unproven(&m, "W");
    for name in ["a", "b", "c"] {
        promise(&m, &w, name, "promised");
    }
    m.kill9();
    drop(w);
    m.set_env("COMMITFS_FAILPOINT", "recover_before_resolve:2:stop");
    m.start();
    let pid = m.daemon_pid();
    eventually("recovery is at the second", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    });
    assert_eq!(m.raw_content("a").unwrap(), b"promised");
    for name in ["b", "c"] {
        assert_eq!(m.raw_content(name), None);
    }
    std::fs::write(m.raw("c"), "newer").unwrap();
    signal(pid, Signal::CONT);
    eventually("recovery has come to the third", || m.is_up() && m.quarantine().iter().any(|row| row.path == "c"));
    assert_eq!(m.raw_content("b").unwrap(), b"promised");
    assert_eq!(m.raw_content("c").unwrap(), b"newer");
    is_kept_as_overtaken(&m, "c", "promised");
}
