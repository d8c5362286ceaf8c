//! Counting, folding, reading.

use crate::common::mount::show;
use crate::common::{Mount, checker, eventually};

#[test]
fn every_kind_of_change_is_counted() {
    let m = Mount::setup().config("[[rule]]\nglob = 'direct/**'\nmode = 'direct'\n").mount();
    let w = m.agent("W");
    for folder in ["a", "a/b", "a/b/c", "d", "direct"] {
        w.mkdir(folder).unwrap();
    }
    w.put("a/b/c/f", "12345").unwrap();
    w.put("a/b/c/f", "123").unwrap();
    w.append("a/b/c/f", "45678").unwrap();
    w.truncate("a/b/c/f", 100).unwrap();
    w.put("top", "x").unwrap();
    w.link("top", "d/link").unwrap();
    w.symlink("nowhere", "d/symlink").unwrap();
    w.call(&["mkfifo", "d/fifo"]).unwrap();
    checker::totals(&m);
    w.rename("a/b/c/f", "d/f").unwrap();
    w.rename("a/b", "d/b").unwrap();
    checker::totals(&m);
    w.put("d/g", "replaced").unwrap();
    w.rename("d/g", "d/f").unwrap();
    w.mkdir("e").unwrap();
    w.put("e/f", "eeee").unwrap();
    match w.rename_with("e", "d", "exchange") {
        // NFS has no such call.
        Err(errno) if errno == "EINVAL" => {
            for (from, to) in [("e", "x"), ("d", "e"), ("x", "d")] {
                w.rename(from, to).unwrap();
            }
        }
        other => other.unwrap(),
    }
    checker::totals(&m);
    w.put("direct/f", "in place").unwrap();
    w.append("direct/f", "and more").unwrap();
    w.truncate("direct/f", 3).unwrap();
    let fd = w.open("direct/open", "rw|creat").unwrap();
    w.write(fd, "written and unlinked").unwrap();
    w.unlink("direct/open").unwrap();
    w.close(fd).unwrap();
    let fd = w.open("direct/open", "rw|creat").unwrap();
    w.write(fd, "written and moved").unwrap();
    w.rename("direct/open", "d/moved").unwrap();
    w.close(fd).unwrap();
    w.unlink("e/symlink").unwrap();
    w.rmdir("e/b/c").unwrap();
    w.rename("e/b", "b").unwrap();
    w.mkdir("empty").unwrap();
    w.rename("b", "empty").unwrap();
    checker::totals(&m);
    checker::check(&m);
}

#[test]
fn what_was_there_before_is_counted_in_the_background() {
    let mut m = Mount::setup().unmounted();
    for n in 0..50 {
        std::fs::create_dir_all(m.raw(&format!("d{}/e{n}/f", n % 5))).unwrap();
        std::fs::write(m.raw(&format!("d{}/e{n}/file", n % 5)), vec![b'x'; n]).unwrap();
    }
    m.remount();
    let w = m.agent("W");
    for n in 0..20 {
        w.put(&format!("d0/e0/new{n}"), "new").unwrap();
    }
    checker::totals(&m);
    let status = m.json(&["status"]);
    assert_eq!((&status["totals"]["folders"], &status["totals"]["uncounted"]), (&106.into(), &0.into()));
    // Nothing is counted again after a clean end.
    drop(w);
    m.umount();
    m.remount();
    assert!(!m.log().lines().last().unwrap_or_default().contains("counted in the background"));
    let shown = m.json(&["du", "d0", "-d", "0"]);
    assert_eq!((&shown["rfiles"], &shown["rsubdirs"]), (&30.into(), &20.into()));
}

#[test]
fn du_shows_levels_sorts_and_says_as_of_when() {
    let m = Mount::new();
    let w = m.agent("W");
    for (folder, bytes) in [("small", 10), ("large", 1000), ("large/below", 500)] {
        w.mkdir(folder).unwrap();
        w.put(&format!("{folder}/f"), &vec![b'x'; bytes]).unwrap();
    }
    checker::totals(&m);
    let paths = |args: &[&str]| -> Vec<String> {
        let shown = m.json(args);
        shown["list"].as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(&["du", "."]), ["large", "small"]);
    assert_eq!(paths(&["du", ".", "-d", "2"]), ["large", "large/below", "small"]);
    assert_eq!(paths(&["du", ".", "--sort"]), ["large", "small"]);
    assert_eq!(paths(&["du", "large", "-d", "0"]), [""; 0]);
    let large = m.json(&["du", "large"]);
    assert_eq!((&large["bytes"], &large["rbytes"], &large["files"]), (&1000.into(), &1500.into(), &1.into()));
    assert!(large["as_of"].as_f64().unwrap() > 1e9);
    assert!(m.cli_ok(&["du", "."]).contains("as of "));
    let none = m.cli(&["du", "nothing"]);
    assert!(!none.status.success() && show(&none).contains("no folder of this mount"), "{}", show(&none));
}

#[test]
fn refresh_finds_what_was_changed_from_outside() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.mkdir("d/gone").unwrap();
    w.put("d/f", "12345").unwrap();
    checker::totals(&m);
    std::fs::write(m.raw("d/f"), "1234567890").unwrap();
    std::fs::write(m.raw("d/g"), "123").unwrap();
    std::fs::create_dir_all(m.raw("d/new/below")).unwrap();
    std::fs::write(m.raw("d/new/below/h"), "1").unwrap();
    std::fs::remove_dir(m.raw("d/gone")).unwrap();
    assert_eq!(m.json(&["du", "d", "-d", "0"])["rbytes"], 5, "nobody has told the journal");
    let found = m.json(&["refresh", "d"]);
    assert_eq!((&found["drift_bytes"], &found["drift_files"]), (&8.into(), &1.into()));
    checker::totals(&m);
    let found = m.json(&["refresh", "."]);
    assert_eq!((&found["drift_bytes"], &found["drift_files"]), (&0.into(), &0.into()));
    // A write into a folder that nobody knows has the one above counted again.
    std::fs::create_dir(m.raw("outside")).unwrap();
    w.put("outside/f", "x").unwrap();
    checker::totals(&m);
}

#[test]
fn totals_are_virtual_attributes_of_folders() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    w.mkdir("d/e").unwrap();
    w.put("d/e/f", "12345").unwrap();
    checker::totals(&m);
    let get = |name: &str| String::from_utf8(r.xattr("d", &format!("user.commitfs.{name}")).unwrap()).unwrap();
    assert_eq!((get("rfiles").as_str(), get("rsubdirs").as_str()), ("1", "1"));
    assert!(get("rctime").parse::<f64>().unwrap() > 1e9 && get("asof").parse::<f64>().unwrap() > 1e9);
    assert_eq!(r.xattr("d/e/f", "user.commitfs.rbytes").unwrap_err(), "ENODATA");
    assert_eq!(r.xattr("d", "user.commitfs.other").unwrap_err(), "ENODATA");
}

#[test]
fn totals_can_be_switched_off_and_on_again() {
    let mut m = Mount::setup().options("totals=off").mount();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("d/f", "12345").unwrap();
    m.settled();
    assert_eq!(w.xattr("d", "user.commitfs.rbytes").unwrap_err(), "ENODATA");
    assert_eq!(m.json(&["status"])["totals"]["unfolded"], 0);
    drop(w);
    m.umount();
    m.set_options("totals=on");
    m.remount();
    checker::totals(&m);
}

#[test]
fn counting_goes_on_beside_changes_and_concurrent_changes_do_not_deadlock() {
    let mut m = Mount::setup().unmounted();
    for n in 0..300 {
        std::fs::create_dir_all(m.raw(&format!("t/{}/{}", n % 10, n))).unwrap();
        std::fs::write(m.raw(&format!("t/{}/{}/f", n % 10, n)), vec![b'x'; n]).unwrap();
    }
    m.remount();
    let shells: Vec<_> = (0..4).map(|n| m.agent(&format!("S{n}"))).collect();
    for (n, shell) in shells.iter().enumerate() {
        let script = format!(
            "for i in $(seq 60); do
                 echo $i > t/$((i % 10))/new{n}.$i; mkdir -p t/m{n}/$i; mv t/$((i % 10))/new{n}.$i t/m{n}/$i/;
                 echo changed > t/0/shared; mv t/m{n}/$i t/$((i % 7))/moved{n}.$i;
                 rm -rf t/$(((i + 3) % 7))/moved{n}.$((i - 4)); rm -f t/0/shared;
             done 2>/dev/null; true"
        );
        shell.send(&["run", "sh", &script]);
    }
    m.cli(&["refresh", "."]);
    for shell in &shells {
        shell.patience(crate::common::wait::LIMIT * 3);
        shell.answer().unwrap();
    }
    m.cli_ok(&["rm", "-r", "t/3"]);
    eventually("the tree is out of the name space", || !m.raw("t/3").exists());
    checker::totals(&m);
    checker::check(&m);
    // Nothing was changed from outside: whatever a count corrected was told wrongly.
    m.cli_ok(&["refresh", "."]);
    let totals = &m.json(&["status"])["totals"];
    assert_eq!((&totals["drift_bytes"], &totals["drift_files"]), (&0.into(), &0.into()), "{totals}");
}

#[test]
fn what_is_below_a_folder_that_moves_is_told_under_one_path() {
    let m = Mount::new();
    let (w, mover) = m.pair();
    w.mkdir("a").unwrap();
    w.mkdir("a/in").unwrap();
    // One stands inside and writes; the other gives the folder above another name all the time.
    let inside = crate::common::Agent::start("I", &m.mnt().join("a/in"));
    inside.send(&[
        "run",
        "sh",
        "for i in $(seq 300); do echo $i > f$((i % 7)); echo $i > g$i; rm -f g$((i - 3)); done",
    ]);
    mover.send(&["run", "sh", "for i in $(seq 150); do mv a b; mv b a; done"]);
    for agent in [&inside, &mover] {
        agent.patience(crate::common::wait::LIMIT * 3);
        agent.answer().unwrap();
    }
    checker::totals(&m);
    m.cli_ok(&["refresh", "."]);
    let totals = &m.json(&["status"])["totals"];
    assert_eq!((&totals["drift_bytes"], &totals["drift_files"]), (&0.into(), &0.into()), "{totals}");
}

#[test]
fn the_slow_pass_finds_what_was_changed_from_outside_and_says_so() {
    let m = Mount::setup().options("recount=1s").mount();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("d/f", "12345").unwrap();
    checker::totals(&m);
    std::fs::write(m.raw("d/f"), "1234567890").unwrap();
    std::fs::create_dir(m.raw("d/new")).unwrap();
    std::fs::write(m.raw("d/new/g"), "123").unwrap();
    let totals = || m.json(&["status"])["totals"].clone();
    eventually("the pass has come by", || m.json(&["du", "d", "-d", "0"])["rbytes"] == 13);
    checker::totals(&m);
    assert_eq!((&totals()["drift_bytes"], &totals()["drift_files"]), (&5.into(), &0.into()), "{}", totals());
    assert!(m.cli_ok(&["status"]).contains("found changed from outside"), "{}", m.cli_ok(&["status"]));
}

/// A bind mount, taken away at the end.
struct Bound(std::path::PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_folder_that_cannot_be_counted_holds_nobody_up() {
    let m = Mount::setup().options("recount=1s").mount();
    let mut dead = Mount::new();
    for name in ["dead", "alive"] {
        std::fs::create_dir(m.raw(name)).unwrap();
    }
    rustix::mount::mount_bind(dead.mnt(), m.raw("dead")).unwrap();
    let bound = Bound(m.raw("dead"));
    dead.kill9();
    let told = || m.log().matches("cannot count a folder").count();
    for round in 1..=2 {
        let refreshed = m.cli(&["refresh", "."]);
        assert!(!refreshed.status.success(), "{}", show(&refreshed));
        assert!(show(&refreshed).contains("dead cannot be counted"), "{}", show(&refreshed));
        assert!(told() <= round, "{}", m.log());
    }
    std::fs::write(m.raw("alive/f"), "12345").unwrap();
    eventually("the other one is counted again by itself", || m.json(&["du", "alive", "-d", "0"])["rbytes"] == 5);
    assert!(told() <= 2, "once until it is asked for: {}", m.log());
    drop(bound);
    m.cli_ok(&["refresh", "."]);
    checker::totals(&m);
}

#[test]
fn the_rows_of_a_removed_tree_go_too() {
    let m = Mount::new();
    let w = m.agent("W");
    let mut path = "t".to_owned();
    for _ in 0..30 {
        w.mkdir(&path).unwrap();
        path.push_str("/d");
    }
    checker::totals(&m);
    assert_eq!(m.json(&["status"])["totals"]["folders"], 31);
    m.cli_ok(&["rm", "-r", "t"]);
    eventually("they are gone", || m.json(&["status"])["totals"]["folders"] == 1);
    checker::totals(&m);
}

#[test]
fn markers_are_counted_like_any_file() {
    let m = Mount::setup().config("[[rule]]\nglob = '*'\ndone_marker = true\n").mount();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("f", "12345").unwrap();
    w.put("f", "1234567").unwrap();
    w.put("g", "12345").unwrap();
    assert!(m.raw("f.done").exists());
    checker::totals(&m);
    w.rename("f", "g").unwrap();
    w.rename("g", "d/f").unwrap();
    w.put("d/f", "again").unwrap();
    w.put("d/h", "h").unwrap();
    w.rename("d/h", "h").unwrap();
    w.unlink("h").unwrap();
    w.truncate("d/f", 2).unwrap();
    checker::totals(&m);
    m.cli_ok(&["refresh", "."]);
    let totals = &m.json(&["status"])["totals"];
    assert_eq!((&totals["drift_bytes"], &totals["drift_files"]), (&0.into(), &0.into()), "{totals}");
}

#[test]
fn s60_what_is_written_in_place_in_a_removed_folder_counts_nowhere() {
    let m = Mount::setup().options("retain=1h").mount();
    let (w, v) = m.pair();
    w.mkdir("t").unwrap();
    let [grows, shrinks] = ["t/a.log", "t/b.log"].map(|name| {
        w.put(name, "0123456789").unwrap();
        w.open(name, "rw").unwrap()
    });
    m.cli_ok(&["rm", "-r", "t"]);
    v.mkdir("t").unwrap();
    v.put("t/new", "abc").unwrap();
    w.pwrite(grows, 0, [b'x'; 5000]).unwrap();
    w.ftruncate(shrinks, 3).unwrap();
    w.close(grows).unwrap();
    w.close(shrinks).unwrap();
    checker::totals(&m);
    m.cli_ok(&["refresh", "."]);
    let totals = &m.json(&["status"])["totals"];
    assert_eq!((&totals["drift_bytes"], &totals["drift_files"]), (&0.into(), &0.into()), "{totals}");
}

#[test]
fn s60_what_is_being_written_in_place_when_the_mount_ends_counts_all_the_same() {
    for forced in [true, false] {
        let mut m = Mount::new();
        let w = m.agent("W");
        w.mkdir("d").unwrap();
        w.put("d/a.log", "abc").unwrap();
        checker::totals(&m);
        let fd = w.open("d/a.log", "w|append").unwrap();
        w.write(fd, [b'x'; 5000]).unwrap();
        if forced {
            m.cli_ok(&["umount", "--force"]);
            assert!(m.daemon_ended().success());
        } else {
            assert!(m.terminate(rustix::process::Signal::TERM).success());
        }
        drop(w);
        m.remount();
        checker::totals(&m);
    }
}
