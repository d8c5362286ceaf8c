//! Several writers of one name.

use crate::common::{Mount, eventually};

#[test]
fn s12_a_second_writer_joins_the_draft_and_the_last_close_commits() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let v = m.agent("V");
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "one ").unwrap();
    r.sees_nothing("f");
    let other = v.open("f", "w|creat|append").unwrap();
    v.write(other, "two ").unwrap();
    assert_eq!(v.cat("f").unwrap(), b"one two ", "a joined writer sees the draft");
    assert_eq!(w.stat("f").unwrap().size, 8, "and so does the first");
    r.sees_nothing("f");
    w.close(fd).unwrap();
    r.sees_nothing("f");
    v.write(other, "three").unwrap();
    v.close(other).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"one two three");
    m.settled();
}

#[test]
fn s12_writers_of_an_existing_name_share_one_draft() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let v = m.agent("V");
    w.put("f", "..........").unwrap();
    let before = r.shown("f");
    let (a, b) = (w.open("f", "rw").unwrap(), v.open("f", "rw").unwrap());
    w.pwrite(a, 0, "AAA").unwrap();
    v.pwrite(b, 5, "BBB").unwrap();
    assert_eq!(w.pread(a, 0, 10).unwrap(), b"AAA..BBB..");
    assert_eq!(v.pread(b, 0, 10).unwrap(), b"AAA..BBB..");
    assert_eq!(r.shown("f"), before);
    v.close(b).unwrap();
    assert_eq!(r.shown("f"), before);
    w.close(a).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"AAA..BBB..");
}

#[test]
fn s12_a_second_writer_that_truncates_truncates_the_draft() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let v = m.agent("V");
    w.put("f", "old").unwrap();
    let a = w.open("f", "w|append").unwrap();
    w.write(a, " and more").unwrap();
    let b = v.open("f", "w|trunc").unwrap();
    assert_eq!(w.fstat(a).unwrap().size, 0);
    assert_eq!(r.cat("f").unwrap(), b"old");
    v.write(b, "fresh").unwrap();
    v.close(b).unwrap();
    w.write(a, " end").unwrap();
    w.close(a).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"fresh end");
}

#[test]
fn s12_a_writer_that_reads_through_an_own_descriptor_sees_the_draft_grow() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    let reader = w.open("f", "r").unwrap();
    w.write(fd, "abc").unwrap();
    assert_eq!(w.read(reader, 10).unwrap(), b"abc");
    w.write(fd, "def").unwrap();
    assert_eq!(w.read(reader, 10).unwrap(), b"def");
    w.close(fd).unwrap();
    eventually("it is published, although its writer still reads it", || r.cat("f").is_ok_and(|d| d == b"abcdef"));
    assert_eq!(w.pread(reader, 0, 10).unwrap(), b"abcdef");
}

#[test]
fn s12_a_version_and_the_next_draft_of_the_same_name_do_not_mix() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "first").unwrap();
    for round in 0..50 {
        let fd = w.open("f", "w|trunc").unwrap();
        let held = r.open("f", "r").unwrap();
        let old = r.pread(held, 0, 100).unwrap();
        w.write(fd, format!("round {round}").as_str()).unwrap();
        assert_eq!(r.pread(held, 0, 100).unwrap(), old);
        w.close(fd).unwrap();
        assert_eq!(r.pread(held, 0, 100).unwrap(), old);
        assert_eq!(r.cat("f").unwrap(), format!("round {round}").as_bytes());
        r.close(held).unwrap();
    }
}

/// On one processor nothing happens at once, and each change of turns takes a slice.
fn is_alone() -> bool {
    std::thread::available_parallelism().is_ok_and(|n| n.get() == 1)
}

/// Two processes that open, write and close one name again and again: a commit begins at any moment of an open.
fn beside(how: &str) {
    let m = Mount::new();
    let (w, v) = (m.agent("W"), m.agent("V"));
    let counters = m.home().join("counters");
    std::fs::write(&counters, [0; 4096]).unwrap();
    let count = if is_alone() { "150" } else { "3000" };
    for agent in [&w, &v] {
        agent.patience(std::time::Duration::from_secs(300));
        agent.send(&["rounds", "beside", counters.to_str().unwrap(), "f", count, how]);
    }
    assert_eq!([w.answer(), v.answer()], [Ok(Vec::new()), Ok(Vec::new())]);
    m.settled();
    let last = m.raw_content("f").unwrap();
    assert!(last.len() == 9 && last.ends_with(b"\n"), "one of them, whole: {}", last.escape_ascii());
    crate::common::checker::check(&m);
}

#[test]
fn s12_writers_that_come_and_go_are_never_refused() {
    beside("plain");
}

/// Each open finds what was there, a draft or a version: nobody's line is overwritten.
#[test]
fn s12_lines_appended_by_two_processes_that_come_and_go_are_all_there() {
    let m = Mount::new();
    let (w, v) = (m.agent("W"), m.agent("V"));
    let counters = m.home().join("counters");
    std::fs::write(&counters, [0; 4096]).unwrap();
    let count = if is_alone() { 150 } else { 3000 };
    for agent in [&w, &v] {
        agent.patience(std::time::Duration::from_secs(300));
        agent.send(&["rounds", "beside", counters.to_str().unwrap(), "f", &count.to_string(), "append"]);
    }
    assert_eq!([w.answer(), v.answer()], [Ok(Vec::new()), Ok(Vec::new())]);
    m.settled();
    let content = String::from_utf8(m.raw_content("f").unwrap()).unwrap();
    let mut lines: Vec<&str> = content.lines().collect();
    lines.sort_unstable();
    let all: Vec<String> = (1..=count).flat_map(|round| [format!("{round:08}"), format!("{round:08}")]).collect();
    let lost = all.len() - lines.len();
    assert!(lines == all, "{lost} of {} lines were lost", all.len());
}

#[test]
fn s16_a_draft_that_is_published_while_its_family_renames_it_goes_along() {
    beside("rename");
}

#[test]
fn s12_six_processes_with_all_calls_on_the_same_names_are_told_what_the_bare_folder_would_tell_them() {
    let m = Mount::new();
    std::fs::create_dir(m.mnt().join("d")).unwrap();
    let agents: Vec<_> = ["A", "B", "C", "D", "E", "F"].into_iter().map(|name| m.agent(name)).collect();
    let calls = if is_alone() { 500 } else { 5000 };
    let seed = std::env::var("COMMITFS_TEST_SEED").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    for (number, agent) in agents.iter().enumerate() {
        agent.patience(std::time::Duration::from_secs(300));
        agent.send(&["jumble", &calls.to_string(), &(10 * seed + number).to_string()]);
    }
    let failed: Vec<String> =
        agents.iter().flat_map(|agent| agent.answer().unwrap()).map(|said| String::from_utf8(said).unwrap()).collect();
    // A name may be replaced a second time within one open: seen are up to one in a thousand calls, where all closes are proven.
    let (stale, other): (Vec<_>, Vec<_>) = failed.iter().partition(|said| said.ends_with(" ESTALE"));
    let count = |what: &str| -> u64 {
        let said = stale.iter().filter(|said| said.ends_with(what));
        said.map(|said| said.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    let (stale, closes) = (count(" ESTALE"), count(" close ESTALE"));
    assert!(other.is_empty() && stale <= 10 + calls / 150, "COMMITFS_TEST_SEED={seed}: {failed:?}");
    if crate::common::mount::bare() {
        return;
    }
    m.settled();
    // Somebody's draft may be renamed over a name while another has only opened it, whose close says so then.
    let kept = m.quarantine();
    let lost: Vec<_> = kept.iter().filter(|row| !row.reason.as_deref().unwrap_or("").contains("Stale file")).collect();
    assert!(lost.is_empty() && kept.len() as u64 <= closes, "{closes} closes said ESTALE: {kept:?}");
    let disagree = || crate::common::checker::disagreements(&m);
    crate::common::eventually("journal and file system agree, but for what was written in place", || {
        disagree().iter().all(|complaint| complaint.contains("bytes, commit") || complaint.contains("not the content"))
    });
}

#[test]
fn s15_a_draft_without_a_name_can_be_opened_and_written_after_its_last_close() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "one").unwrap();
    let held = w.open("f", "r").unwrap();
    w.unlink("f").unwrap();
    w.close(fd).unwrap();
    let again = w.open(&format!("/proc/self/fd/{held}"), "rw").unwrap();
    w.pwrite(again, 3, " two").unwrap();
    w.fsync(again).unwrap();
    assert_eq!(w.pread(held, 0, 100).unwrap(), b"one two");
    w.close(again).unwrap();
    w.close(held).unwrap();
    r.sees_nothing("f");
    m.nothing_quarantined();
    crate::common::checker::check(&m);
}
