//! `fsck`, and what dead instances leave.

use rustix::process::Signal;

use crate::common::mount::{show, signal};
use crate::common::{Mount, checker, eventually, sized};
use crate::{id, outbox, row_of, trash};

#[test]
fn fsck_finds_both_kinds_of_orphans_and_repairs_them_when_told() {
    let m = Mount::setup().options("retain=1h").mount();
    let w = m.agent("W");
    w.put("kept", "content").unwrap();
    w.put("living", "content").unwrap();
    w.put("gone", "content").unwrap();
    w.unlink("gone").unwrap();
    let fd = w.open("draft", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    w.kill(Signal::KILL);
    let draft = m.quarantined("draft");
    let row = row_of(&m, "gone");
    let folder = trash(&m)[0].parent().unwrap().to_owned();
    let stage = std::fs::read_dir(m.raw(".commitfs/stage")).unwrap().flatten().next().unwrap().path();
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    // An inode without a row, one that is not removed at all, a row without an inode; the same for drafts.
    std::fs::rename(m.raw("kept"), folder.join("7.0")).unwrap();
    std::fs::hard_link(m.raw("living"), folder.join("8.0")).unwrap();
    std::fs::remove_file(folder.join(row["stage"].as_str().unwrap())).unwrap();
    std::fs::write(stage.join("9.0"), "never published").unwrap();
    let story = m.json(&["show", &draft.id.to_string()]);
    std::fs::remove_file(stage.join(story["stage"].as_str().unwrap())).unwrap();
    let dry = m.cli(&["fsck", "--json"]);
    assert_eq!(dry.status.code(), Some(1), "{}", show(&dry));
    let found: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
    for key in
        ["trash_without_row", "trash_still_named", "rows_without_trash", "staged_without_row", "drafts_without_content"]
    {
        assert_eq!(found[key], 1, "{key} in {found}");
    }
    assert_eq!(trash(&m).len(), 2, "a dry run changes nothing");
    m.cli_ok(&["fsck", "--repair"]);
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    // Where it was is known from its commit; it can be restored.
    let rows = outbox(&m);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0]["path"], &rows[0]["stage"]), (&"kept".into(), &"7.0".into()));
    m.cli_ok(&["trash", "restore", &id(&rows[0])]);
    let r = m.agent("R");
    assert_eq!(r.cat("kept").unwrap(), b"content");
    assert_eq!(
        m.quarantine().iter().filter(|row| row.reason.as_deref() == Some("staged file without a row")).count(),
        1
    );
    m.cli_ok(&["refresh", "."]);
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn many_rows_and_many_inodes_are_compared_in_bounded_memory() {
    let mut m = Mount::setup().options("retain=1h").mount();
    let rows = sized(20_000, 1_000_000);
    let (agreeing, orphans) = (rows / 10, rows / 10);
    m.recovered();
    let conn = rusqlite::Connection::open(m.state().join("journal.sqlite")).unwrap();
    conn.busy_timeout(crate::common::wait::LIMIT).unwrap();
    let fill = |of: &str, columns: &str, count: usize| {
        let numbers = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)";
        conn.execute(&format!("INSERT INTO {of} {numbers} SELECT {columns} FROM n"), [count as i64]).unwrap();
    };
    // In the outbox, the first tenth has its inode; in quarantine nothing has. The trash folder has as many without a row.
    fill(
        "outbox (id, kind, state, path, staged, ino, uid, gid, bytes, files, deleted_at, due_at, next_attempt)",
        "n + 10000000, 'unlink', 'pending', CAST('f' || n AS BLOB), n || '.1', n, 0, 0, 0, 1, 0, 1 << 60, 1 << 60",
        rows,
    );
    fill(
        "drafts (id, state, path, stage, ino, kind, uid, gid, pid, command, bytes, begun_at, changed_at, event, reason, kept)",
        "n + 10000000, 'quarantined', CAST('f' || n AS BLOB), (n + 10000000) || '.1', n, 'new', 0, 0, 0, '', 0, 0, 0, n, 'killed', 1",
        rows,
    );
    drop(conn);
    let folder = |of: &str| std::fs::read_dir(m.raw(of)).unwrap().flatten().next().unwrap().path();
    let (trash, stage) = (folder(".commitfs/trash"), folder(".commitfs/stage"));
    for n in 1..=agreeing {
        std::fs::File::create(trash.join(format!("{n}.1"))).unwrap();
    }
    for n in 0..orphans {
        std::fs::File::create(trash.join(format!("{n}.2"))).unwrap();
        std::fs::File::create(stage.join(format!("{n}.2"))).unwrap();
    }
    let before = m.peak_memory();
    let found = |out: std::process::Output| {
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", show(&out)))
    };
    let dry = found(m.cli(&["fsck", "--json"]));
    assert_eq!(dry["rows_without_trash"], rows - agreeing, "{dry}");
    assert_eq!((&dry["trash_without_row"], &dry["staged_without_row"]), (&orphans.into(), &orphans.into()), "{dry}");
    assert_eq!(dry["drafts_without_content"], rows, "{dry}");
    let repaired = found(m.cli(&["fsck", "--repair", "--json"]));
    assert_eq!(repaired["rows_without_trash"], dry["rows_without_trash"]);
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    let more = m.peak_memory() - before;
    eprintln!("comparing {rows} rows needed {} KiB more", more >> 10);
    assert!(more < 24 << 20, "comparing {rows} rows needed {more} bytes more");
    assert_eq!(m.json(&["status"])["outbox"], agreeing + orphans);
    // The next start compares them too, and finds nothing to do.
    m.kill9();
    m.remount();
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    assert_eq!(m.json(&["status"])["quarantined"], rows + orphans);
    assert!(m.peak_memory() < 64 << 20, "starting needed {} bytes", m.peak_memory());
}

#[test]
fn a_dead_instance_is_adopted_and_its_return_finds_out() {
    let mut m = Mount::setup().options("retain=1h,lease=3s").mount();
    let other = Mount::setup().export_of(&m).options("retain=1h,lease=3s,sweep=300ms").mount();
    let w = m.agent("W");
    w.put("gone", "published").unwrap();
    w.unlink("gone").unwrap();
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "half of the new").unwrap();
    w.fsync(fd).unwrap();
    eventually("the draft's row is there", || m.pending().iter().any(|row| row.path == "f" && row.bytes > 0));
    assert!(outbox(&other).is_empty() && other.quarantine().is_empty(), "a living instance's things are its own");
    m.kill9();
    drop(w);
    let find =
        |m: &Mount| m.quarantine().into_iter().find(|row| row.reason.as_deref().is_some_and(|r| r.contains("is dead")));
    eventually("the other instance has the draft", || find(&other).is_some());
    eventually("and what was removed", || outbox(&other).iter().any(|row| row["bytes"] == 9));
    let row = find(&other).unwrap();
    let saved = other.home().join("saved");
    other.cli_ok(&["quarantine", "save", &row.id.to_string(), saved.to_str().unwrap()]);
    assert_eq!(std::fs::read(&saved).unwrap(), b"half of the new");
    m.remount();
    let mine = m.quarantined("f");
    assert!(mine.reason.as_deref().unwrap().contains("adopted by another instance"), "{mine:?}");
    let out = m.cli(&["quarantine", "publish", &mine.id.to_string()]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("adopted by another instance"), "{}", show(&out));
    assert_eq!(m.raw_content("f").unwrap(), b"old");
    eventually("rows without an inode are gone", || outbox(&m).is_empty());
    let w = m.agent("W");
    w.put("f", "new").unwrap();
    assert_eq!(m.raw_content("f").unwrap(), b"new");
    // Gone and come back in an orderly way, nothing is adopted.
    let fd = w.open("g", "w|creat").unwrap();
    w.write(fd, "x").unwrap();
    w.kill(Signal::KILL);
    m.quarantined("g");
    m.umount();
    other.recorded();
    other.cli_ok(&["fsck", "--repair"]);
    m.remount();
    assert!(m.quarantine().iter().any(|row| row.path == "g" && row.all["kept"] == true));
}

#[test]
fn an_instance_that_was_silent_for_longer_than_its_lease_takes_writers_again() {
    let mut m = Mount::setup().options("retain=1h,lease=3s").mount();
    let other = Mount::setup().export_of(&m).options("retain=1h,lease=3s,sweep=300ms").mount();
    let w = m.agent("W");
    for name in ["f", "gone"] {
        w.put(name, "old").unwrap();
    }
    w.unlink("gone").unwrap();
    let open = ["f", "g", "h"].map(|name| w.open(name, "w|creat").unwrap());
    for fd in open {
        w.write(fd, "half").unwrap();
        w.fsync(fd).unwrap();
    }
    // Its close has returned, and another process has it open.
    let closed = w.open("closed", "w|creat").unwrap();
    w.write(closed, "whole").unwrap();
    let holder = w.fork("H");
    w.close(closed).unwrap();
    m.recorded();
    signal(m.daemon_pid(), Signal::STOP);
    eventually("what it had is adopted", || other.quarantine().len() == 4 && !outbox(&other).is_empty());
    let folders = |which: &str| std::fs::read_dir(m.raw(&format!(".commitfs/{which}"))).unwrap().count();
    eventually("to the end", || folders("stage") == 1 && folders("trash") == 1);
    signal(m.daemon_pid(), Signal::CONT);
    // At once, whether or not it has noticed.
    w.put("first", "new").unwrap();
    for name in ["f", "g", "h", "closed"] {
        let row = m.quarantined(name);
        assert!(row.reason.as_deref().unwrap().contains("adopted"), "{row:?}");
        eventually("its content is known to be elsewhere", || m.json(&["show", &row.id.to_string()])["kept"] == false);
    }
    // The kernel may gather it; the other instance's copy, below, has nothing of it.
    drop(w.write(open[0], "more"));
    assert_eq!(w.fsync(open[0]).unwrap_err(), "EIO");
    for fd in open {
        assert_eq!(w.close(fd).unwrap_err(), "EIO");
    }
    holder.kill(Signal::KILL);
    for row in other.quarantine() {
        let saved = other.home().join("saved");
        other.cli_ok(&["quarantine", "save", &row.id.to_string(), saved.to_str().unwrap()]);
        let content = std::fs::read(&saved).unwrap();
        assert!(content == b"half" || content == b"whole", "{content:?}");
    }
    let r = m.agent("R");
    assert_eq!(r.cat("f").unwrap(), b"old");
    for name in ["g", "h", "closed"] {
        r.sees_nothing(name);
    }
    // New files, and what they replace is kept.
    eventually("rows without an inode are gone", || outbox(&m).is_empty());
    for name in ["f", "g"] {
        w.put(name, "new").unwrap();
        w.put(name, "newer").unwrap();
        assert_eq!(m.raw_content(name).unwrap(), b"newer");
        w.unlink(name).unwrap();
    }
    let kept = |name: &str| outbox(&m).iter().filter(|row| row["path"] == name).count();
    eventually("what was replaced and removed is kept", || kept("f") == 3 && kept("g") == 2);
    m.cli_ok(&["trash", "restore", &row_of(&m, "g")["id"].to_string(), "--to", "back"]);
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    let unfinished = w.open("unfinished", "w|creat").unwrap();
    w.write(unfinished, "own").unwrap();
    m.recorded();
    m.kill9();
    drop(w);
    m.remount();
    let row = m.quarantined("unfinished");
    assert!(row.reason.as_deref().unwrap().contains("daemon stopped"), "{row:?}");
    eventually("all is settled", || {
        std::fs::read_dir(m.raw(".commitfs/hosts")).unwrap().flatten().all(|f| f.path().extension().unwrap() == "json")
    });
    assert!(m.cli_ok(&["fsck"]).contains("agree") && other.cli_ok(&["fsck"]).contains("agree"));
}

#[test]
fn an_instance_is_dead_when_its_own_lease_is_over() {
    let mut m = Mount::setup().options("lease=1h").mount();
    let other = Mount::setup().export_of(&m).options("lease=2s,sweep=1h").mount();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "x").unwrap();
    m.kill9();
    drop(w);
    let lease = m.raw(".commitfs/hosts").join(format!("{}.json", instance(&m)));
    let said = std::fs::read_to_string(&lease).unwrap();
    let silent_for = |minutes: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * minutes);
        std::fs::File::options().write(true).open(&lease).unwrap().set_modified(time).unwrap();
        dead_for(&other)
    };
    // What cannot be read is judged by the reader's own lease.
    std::fs::write(&lease, "{}").unwrap();
    eventually("dead by the lease of the one who looks", || silent_for(50) == 1);
    std::fs::write(&lease, &said).unwrap();
    assert_eq!(silent_for(50), 0, "it said that it would be silent for an hour at most");
    // Who looks has not been there for an hour itself.
    assert_eq!(silent_for(70), 0, "it may have been away as the one who looks was");
    std::fs::write(&lease, said.replace("3600000", "1000")).unwrap();
    eventually("its own lease is over", || silent_for(1) == 1);
    eventually("adopted", || {
        other.cli_ok(&["fsck", "--repair"]);
        other.quarantine().len() == 1
    });
}

/// A server that was away was away for all: the first who is back knows nothing of the others yet.
#[test]
fn s53_who_was_away_takes_nobody_for_dead_before_a_lease_is_over() {
    let m = Mount::setup().options("lease=2s,sweep=1h").mount();
    // Long enough for one look, however slow the machine is.
    write_silent(&m, "other.json", 8000);
    assert_eq!(dead_for(&m), 0, "just begun");
    eventually("there for so long", || dead_for(&m) == 1);
    signal(m.daemon_pid(), Signal::STOP);
    let own = m.raw(".commitfs/hosts").join(format!("{}.json", instance(&m)));
    let last = own.metadata().unwrap().modified().unwrap();
    eventually("its own lease is over", || last.elapsed().is_ok_and(|silent| silent.as_secs() >= 2));
    signal(m.daemon_pid(), Signal::CONT);
    assert_eq!(dead_for(&m), 0, "just back");
    eventually("back for so long", || dead_for(&m) == 1);
}

/// The power was off: one host is back, the other is still starting.
#[test]
fn s53_what_was_promised_is_published_by_the_host_that_starts_later() {
    let mut m = Mount::setup().options("lease=1h").mount();
    let mut other = Mount::setup().export_of(&m).options("lease=1h,sweep=50ms").mount();
    let w = m.agent("W");
    // Nobody looks through so many descriptors for a proof: the close promises.
    w.put("many", "").unwrap();
    for _ in 0..600 {
        w.open("many", "r").unwrap();
    }
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "promised").unwrap();
    w.dup(fd).unwrap();
    w.close(fd).unwrap();
    assert!(m.pending().iter().any(|row| row.path == "f" && row.state == "sealed"), "nothing was promised");
    m.kill9();
    drop(w);
    other.kill9();
    let lease = m.raw(".commitfs/hosts").join(format!("{}.json", instance(&m)));
    std::fs::File::options().write(true).open(lease).unwrap().set_modified(long_ago()).unwrap();
    other.remount();
    other.recovered();
    other.cli_ok(&["fsck", "--repair"]);
    assert!(other.quarantine().is_empty(), "{:?}", other.quarantine());
    m.remount();
    eventually("published", || m.raw_content("f").is_some_and(|data| data == b"promised"));
}

fn instance(m: &Mount) -> String {
    std::fs::read_to_string(m.state().join("instance")).unwrap().trim().to_owned()
}

/// How many instances this one takes for dead.
#[track_caller]
fn dead_for(m: &Mount) -> u64 {
    // Exit status 1: there is something to repair.
    let out = m.cli(&["fsck", "--json"]);
    let found: serde_json::Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", show(&out)));
    found["dead_instances"].as_u64().unwrap()
}

/// A lease that nobody keeps alive, of so many milliseconds.
fn write_silent(m: &Mount, name: &str, lease_ms: u64) -> std::path::PathBuf {
    let hosts = m.raw(".commitfs/hosts");
    let mut card: serde_json::Value =
        serde_json::from_slice(&std::fs::read(hosts.join(format!("{}.json", instance(m)))).unwrap()).unwrap();
    card["lease_ms"] = lease_ms.into();
    let lease = hosts.join(name);
    std::fs::write(&lease, card.to_string()).unwrap();
    std::fs::File::options().write(true).open(&lease).unwrap().set_modified(long_ago()).unwrap();
    lease
}

/// Waits until this instance has been there for a second, and so takes for dead whoever was silent for that long by a
/// lease of a second.
#[track_caller]
fn judges(m: &Mount) {
    let lease = write_silent(m, "judged.json", 1000);
    eventually("there for longer than a second", || dead_for(m) > 0);
    std::fs::remove_file(lease).unwrap();
}

#[cfg(feature = "failpoints")]
#[test]
fn s53_a_sweep_that_takes_long_holds_up_no_sign_of_life() {
    let mut m = Mount::setup().options("lease=1s,sweep=50ms").unmounted();
    // Not the one of recovery.
    m.hold_at("sweep_begins", 5);
    m.remount();
    let held = m.held();
    let instance = std::fs::read_to_string(m.state().join("instance")).unwrap();
    let lease = m.raw(&format!(".commitfs/hosts/{}.json", instance.trim()));
    let said = || lease.metadata().unwrap().modified().unwrap();
    for _ in 0..3 {
        let last = said();
        eventually("another sign of life", || said() > last);
    }
    drop(held);
}

#[test]
fn what_others_put_into_the_reserved_folder_is_left_alone() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let m = Mount::setup().options("retain=1h").mount();
    let w = m.agent("W");
    w.put("gone", "content").unwrap();
    w.unlink("gone").unwrap();
    row_of(&m, "gone");
    let own = |of: &str| std::fs::read_dir(m.raw(of)).unwrap().flatten().next().unwrap().path();
    let strange = OsStr::from_bytes(b"\xff.1");
    std::fs::create_dir(m.raw(".commitfs/hosts/odd.json")).unwrap();
    for folder in [own(".commitfs/stage"), own(".commitfs/trash")] {
        std::fs::create_dir(folder.join("odd")).unwrap();
        std::fs::write(folder.join("odd/precious"), "x").unwrap();
        std::fs::write(folder.join(strange), "x").unwrap();
    }
    let said = m.cli_ok(&["fsck"]);
    assert!(said.contains("agree") && said.contains("left alone"), "{said}");
    m.cli_ok(&["fsck", "--repair"]);
    assert_eq!(m.json(&["fsck"])["foreign"], 4);
    assert!(m.quarantine().is_empty() && outbox(&m).len() == 1, "{:?} {:?}", m.quarantine(), outbox(&m));
    for folder in [own(".commitfs/stage"), own(".commitfs/trash")] {
        assert!(folder.join("odd/precious").exists() && folder.join(strange).exists());
        std::fs::remove_dir_all(folder.join("odd")).unwrap();
        std::fs::remove_file(folder.join(strange)).unwrap();
    }
    checker::check(&m);
}

/// An instance that died with one draft and one removed file, and has been silent for longer than its lease; its name.
fn a_dead_one(m: &mut Mount) -> String {
    let w = m.agent("W");
    w.put("gone", "removed").unwrap();
    w.unlink("gone").unwrap();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    w.fsync(fd).unwrap();
    m.recorded();
    m.kill9();
    let instance = instance(m);
    let lease = m.raw(".commitfs/hosts").join(format!("{instance}.json"));
    std::fs::File::options().write(true).open(lease).unwrap().set_modified(long_ago()).unwrap();
    instance
}

fn long_ago() -> std::time::SystemTime {
    std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600)
}

/// The first step of an adoption.
fn mark(m: &Mount, instance: &str) -> std::path::PathBuf {
    let hosts = m.raw(".commitfs/hosts");
    let mark = hosts.join(format!("{instance}.adopted"));
    std::fs::rename(hosts.join(format!("{instance}.json")), &mark).unwrap();
    mark
}

#[test]
fn an_adoption_whose_adopter_ended_is_gone_on_with() {
    for taken in [false, true] {
        let mut m = Mount::setup().options("retain=1h,lease=1s").mount();
        let other = Mount::setup().export_of(&m).options("retain=1h,lease=1h,sweep=1h").mount();
        judges(&other);
        let dead = a_dead_one(&mut m);
        mark(&m, &dead);
        // The adopter is an instance that died itself, without a trace of its own, or had one of the folders already.
        if taken {
            let adopter = std::fs::read_to_string(other.state().join("instance")).unwrap();
            let stage = m.raw(".commitfs/stage");
            std::fs::rename(stage.join(&dead), stage.join(format!("{dead}.by-{}", adopter.trim()))).unwrap();
        }
        assert_eq!(dead_for(&other), 1, "stage taken: {taken}");
        other.cli_ok(&["fsck", "--repair"]);
        let row = &other.quarantine()[0];
        assert!(row.reason.as_deref().unwrap().contains("is dead"), "{row:?}");
        assert!(outbox(&other).iter().any(|row| row["bytes"] == 7), "{:?}", outbox(&other));
        assert!(other.cli_ok(&["fsck"]).contains("agree"));
        for folder in ["stage", "trash"] {
            assert!(!m.raw(".commitfs").join(folder).join(&dead).exists(), "{folder}");
        }
        m.remount();
        let mine = m.quarantined("f");
        assert!(mine.reason.as_deref().unwrap().contains("adopted by another instance"), "{mine:?}");
    }
}

/// What was not taken before it came back stays its own.
#[test]
fn an_instance_that_came_back_before_its_folders_were_taken_keeps_them() {
    let mut m = Mount::setup().options("retain=1h,lease=1s").mount();
    let other = Mount::setup().export_of(&m).options("retain=1h,lease=1h,sweep=1h").mount();
    judges(&other);
    let dead = a_dead_one(&mut m);
    let mark = mark(&m, &dead);
    let touch = |time| std::fs::File::options().write(true).open(&mark).unwrap().set_modified(time).unwrap();
    // On its way: it has no lease yet. (Its mark shall be young for longer than this looks, on a slow machine too.)
    touch(std::time::SystemTime::now() + std::time::Duration::from_secs(3600));
    other.cli_ok(&["fsck", "--repair"]);
    // Back, and not done with its recovery.
    touch(long_ago());
    std::fs::write(m.raw(".commitfs/hosts").join(format!("{dead}.json")), "{}").unwrap();
    other.cli_ok(&["fsck", "--repair"]);
    assert!(other.quarantine().is_empty() && outbox(&other).is_empty());
    m.remount();
    let row = m.quarantined("f");
    assert!(row.reason.as_deref().unwrap().contains("daemon stopped"), "{row:?}");
    m.recovered();
    assert!(!mark.exists(), "settled");
    assert!(m.cli_ok(&["fsck"]).contains("agree") && other.cli_ok(&["fsck"]).contains("agree"));
}

/// Ended in order before its adoption was settled: its own next mount settles it, however much later.
#[test]
fn an_instance_at_rest_is_not_adopted() {
    let mut m = Mount::setup().options("retain=1h,lease=1s").mount();
    let other = Mount::setup().export_of(&m).options("retain=1h,lease=1h,sweep=1h").mount();
    judges(&other);
    let dead = a_dead_one(&mut m);
    let mark = mark(&m, &dead);
    let kept = m.home().join("mark");
    std::fs::copy(&mark, &kept).unwrap();
    m.remount();
    m.recovered();
    m.quarantined("f");
    // As if that had not been settled yet.
    std::fs::copy(&kept, &mark).unwrap();
    std::fs::File::options().write(true).open(&mark).unwrap().set_modified(long_ago()).unwrap();
    m.umount();
    other.cli_ok(&["fsck", "--repair"]);
    assert!(other.quarantine().is_empty() && outbox(&other).is_empty());
    m.remount();
    m.recovered();
    assert!(m.quarantined("f").all["kept"] == true);
    assert!(!mark.exists(), "settled");
}
