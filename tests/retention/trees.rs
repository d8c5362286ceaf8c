//! `rm -r`.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use crate::common::mount::show;
use crate::common::{Mount, checker, eventually, sized};
use crate::{eventually_empty, id, outbox, row_of, trash};

/// A chain of folders, deeper than any path can name, with a file at each level.
fn chain(root: &Path, depth: usize) {
    use rustix::fs::{Mode, OFlags};
    let mut dir = rustix::fs::open(root, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        dir = rustix::fs::openat(&dir, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        drop(rustix::fs::openat(&dir, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap());
    }
}

#[test]
fn a_folder_goes_by_one_rename_and_comes_back_whole() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("t").unwrap();
    w.mkdir("t/in").unwrap();
    w.put("t/in/f", "content").unwrap();
    checker::totals(&m);
    let plain = m.cli(&["rm", "t"]);
    assert_eq!(plain.status.code(), Some(2), "{}", show(&plain));
    assert!(m.cli_ok(&["rm", "-r", "t"]).contains("t removed"));
    eventually("it is gone", || r.stat("t").is_err());
    r.sees_nothing("t");
    let row = row_of(&m, "t");
    assert_eq!((&row["kind"], &row["bytes"], &row["files"]), (&"tree".into(), &7.into(), &2.into()));
    checker::totals(&m);
    m.cli_ok(&["trash", "restore", &id(&row)]);
    eventually("it is back", || r.cat("t/in/f").is_ok_and(|data| data == b"content"));
    w.put("t/in/g", "more").unwrap();
    checker::totals(&m);
    checker::check(&m);
}

#[test]
fn drafts_inside_are_named_and_go_to_quarantine_when_forced() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("t").unwrap();
    w.mkdir("t/in").unwrap();
    w.put("t/old", "x").unwrap();
    let fd = w.open("t/in/new", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    let busy = m.cli(&["rm", "-r", "t"]);
    assert!(!busy.status.success() && show(&busy).contains("t/in/new"), "{}", show(&busy));
    assert_eq!(r.cat("t/old").unwrap(), b"x");
    m.cli_ok(&["rm", "-r", "t", "--force"]);
    let row = m.quarantined("t/in/new");
    assert!(row.reason.unwrap().contains("its folder was removed"));
    assert_eq!(w.close(fd).unwrap_err(), "ENOENT");
    eventually("it is gone", || r.stat("t").is_err());
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn nothing_is_published_into_a_folder_that_was_removed() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("t").unwrap();
    // It stands in the folder while that is removed.
    let inside = crate::common::Agent::start("I", &m.mnt().join("t"));
    inside.put("before", "x").unwrap();
    m.cli_ok(&["rm", "-r", "t"]);
    assert_eq!(inside.open("after", "w|creat").unwrap_err(), "ENOENT");
    assert_eq!(inside.mkdir("folder").unwrap_err(), "ENOENT");
    w.mkdir("t").unwrap();
    w.put("t/other", "y").unwrap();
    assert_eq!(w.list("t").unwrap(), [b"other"]);
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn deep_and_wide_trees_go_in_the_background() {
    let m = Mount::new();
    std::fs::create_dir_all(m.raw("t/wide")).unwrap();
    chain(&m.raw("t"), 5000);
    let wide = sized(20_000, 200_000);
    for n in 0..wide {
        std::fs::File::create(m.raw("t/wide").join(format!("f{n}"))).unwrap();
    }
    let before = m.peak_memory();
    m.cli_ok(&["rm", "-r", "t", "--now", "--wait"]);
    assert!(!m.raw("t").exists());
    eventually_empty(&m);
    let more = m.peak_memory() - before;
    assert!(more < 16 << 20, "removing needed {more} bytes more");
    checker::totals(&m);
    eventually("rows of its folders are gone", || m.json(&["status"])["totals"]["folders"] == 1);
}

#[test]
fn a_terminal_sees_how_a_removal_goes_on() {
    let mut m = Mount::setup().options("reap_rate=1").mount();
    for name in ["now", "kept"] {
        std::fs::create_dir(m.raw(name)).unwrap();
        for n in 0..1200 {
            std::fs::File::create(m.raw(name).join(format!("f{n}"))).unwrap();
        }
    }
    m.cli_ok(&["refresh", "."]);
    let on_terminal = |m: &Mount, arguments: &str| {
        let program = env!("CARGO_BIN_EXE_commitfs");
        let command = format!("{program} rm -r {arguments} --state-dir {}", m.state().display());
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    // At its own pace, which it is held to after a thousand files, it would take minutes; it goes on under the next daemon,
    // and is watched meanwhile.
    let mut watched = on_terminal(&m, "now --now");
    let mut output = watched.stdout.take().unwrap();
    let (mut seen, mut part) = (String::new(), [0; 4096]);
    while !seen.contains("of 1200") {
        let n = output.read(&mut part).unwrap();
        assert!(n > 0, "ended without a bar: {seen}");
        seen += &String::from_utf8_lossy(&part[..n]);
    }
    assert!(!seen.contains("now removed"), "{seen}");
    m.umount();
    m.set_options("reap_rate=100000");
    m.remount();
    output.read_to_string(&mut seen).unwrap();
    assert!(watched.wait().unwrap().success() && seen.contains("now removed"), "{seen}");
    assert!(outbox(&m).is_empty(), "it was waited for");
    // What is kept is not waited for.
    let kept = on_terminal(&m, "kept").wait_with_output().unwrap();
    let seen = String::from_utf8_lossy(&kept.stdout);
    assert!(kept.status.success() && !seen.contains("of 1200") && seen.contains("kept for"), "{seen}");
    assert_eq!(outbox(&m).len(), 1);
    // Nobody at a terminal, nobody asked to wait: it goes by itself.
    std::fs::create_dir(m.raw("other")).unwrap();
    let quiet = m.cli(&["rm", "-r", "other", "--now"]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{}", show(&quiet));
}

#[test]
fn a_removal_that_was_interrupted_goes_on_after_kill_9() {
    let mut m = Mount::setup().options("reap_rate=3000").mount();
    std::fs::create_dir_all(m.raw("t/a/b")).unwrap();
    for n in 0..12_000 {
        let folder = ["t", "t/a", "t/a/b"][n % 3];
        std::fs::File::create(m.raw(folder).join(format!("f{n}"))).unwrap();
    }
    std::fs::write(m.raw("stays"), "x").unwrap();
    m.cli_ok(&["rm", "-r", "t", "--now"]);
    eventually("it is under way", || {
        outbox(&m).iter().any(|row| row["begun"] == true && row["reaped"].as_u64().unwrap() > 0)
    });
    m.kill9();
    let left = trash(&m);
    assert_eq!(left.len(), 1, "{left:?}");
    m.remount();
    let row = row_of(&m, "t");
    // Asked until there is somebody to answer.
    eventually("it cannot be restored", || {
        show(&m.cli(&["trash", "restore", &id(&row)])).contains("not whole any more") || outbox(&m).is_empty()
    });
    eventually_empty(&m);
    assert_eq!(m.raw_content("stays").unwrap(), b"x");
    checker::check(&m);
    checker::totals(&m);
}

#[cfg(feature = "failpoints")]
mod under_way {
    use std::process::{Command, Stdio};

    use crate::common::{Agent, Mount, checker, eventually};

    /// The number of the newest event of a kind and a path.
    fn event(m: &Mount, kind: &str, path: &str) -> i64 {
        let db = rusqlite::Connection::open(m.state().join("journal.sqlite")).unwrap();
        let sql = "SELECT max(id) FROM events WHERE kind = ?1 AND path = CAST(?2 AS BLOB)";
        db.query_row(sql, [kind, path], |row| row.get::<_, Option<i64>>(0)).unwrap().unwrap_or(0)
    }

    #[test]
    fn s59_a_commit_that_has_its_name_ends_before_its_folder_is_removed() {
        let mut m = Mount::setup().options("retain=1h").unmounted();
        m.hold_at("commit_after_look", 2);
        m.remount();
        let w = m.agent("W");
        w.mkdir("t").unwrap();
        w.mkdir("t/in").unwrap();
        let inside = Agent::start("I", &m.mnt().join("t"));
        w.put("t/in/f", "old").unwrap();
        let fd = w.open("t/in/f", "w|trunc").unwrap();
        w.write(fd, "new content").unwrap();
        w.send(&["close", &fd.to_string()]);
        let held = m.held();
        let mut removal = Command::new(env!("CARGO_BIN_EXE_commitfs"));
        removal.args(["rm", "-r", "--force", "t", "--state-dir"]).arg(m.state()).stdout(Stdio::null());
        let mut removal = removal.spawn().unwrap();
        eventually("nothing new begins in it", || {
            inside.mkdir("probe").and_then(|()| inside.rmdir("probe")).is_err_and(|errno| errno == "ENOENT")
        });
        drop(held);
        assert_eq!(w.answer().map(drop), Ok(()), "it had begun before the removal");
        assert!(removal.wait().unwrap().success());
        m.recorded();
        let (committed, removed) = (event(&m, "committed", "t/in/f"), event(&m, "removed", "t"));
        assert!(committed > 0 && committed < removed, "committed as {committed}, removed as {removed}");
        w.mkdir("t").unwrap();
        w.put("t/other", "y").unwrap();
        checker::totals(&m);
        checker::check(&m);
    }

    #[test]
    fn s59_a_commit_that_has_no_name_yet_finds_its_folder_gone() {
        let mut m = Mount::setup().options("retain=1h").config(MARKED).unmounted();
        m.hold_at("commit_before_rename", 1);
        m.remount();
        let (w, v) = m.pair();
        w.mkdir("t").unwrap();
        let fd = w.open("t/f", "w|creat").unwrap();
        w.write(fd, "new content").unwrap();
        w.send(&["close", &fd.to_string()]);
        let held = m.held();
        m.cli_ok(&["rm", "-r", "--force", "t"]);
        v.mkdir("t").unwrap();
        v.put("t/other", "y").unwrap();
        drop(held);
        assert_eq!(w.answer().unwrap_err(), "ENOENT");
        assert!(m.quarantined("t/f").reason.unwrap().contains("rename"));
        assert_eq!(v.list("t").unwrap().len(), 2, "the file and its marker");
        checker::totals(&m);
        checker::check(&m);
    }

    const MARKED: &str = "[[rule]]\nglob = '**'\ndone_marker = true\n";

    /// With names of all kinds that change in the folder while it is removed and made anew, again and again.
    #[test]
    fn s60_what_goes_on_in_a_folder_while_it_is_removed_counts_nowhere_else() {
        let m = Mount::setup().options("retain=1h").mount();
        let w = m.agent("W");
        let shells: Vec<_> = (0..4).map(|n| m.agent(&format!("S{n}"))).collect();
        for (n, shell) in shells.iter().enumerate() {
            let script = format!(
                "for i in $(seq 150); do mkdir -p t/d$((i % 3)); echo $i > t/f$((i % 5)); echo $i > t/d$((i % 3))/g{n};
                     echo $i >> t/x{n}.log; mv t/f$((i % 5)) t/d$((i % 3))/; rm -f t/d$((i % 3))/f$((i % 4));
                 done 2>/dev/null; true"
            );
            shell.send(&["run", "sh", &script]);
        }
        while !shells.iter().all(Agent::has_answered) {
            m.cli(&["rm", "-r", "--force", "t"]);
            let _ = w.mkdir("t");
        }
        for shell in &shells {
            shell.answer().unwrap();
        }
        checker::totals(&m);
        checker::check(&m);
        m.cli_ok(&["refresh", "."]);
        let totals = &m.json(&["status"])["totals"];
        assert_eq!((&totals["drift_bytes"], &totals["drift_files"]), (&0.into(), &0.into()), "{totals}");
    }
}
