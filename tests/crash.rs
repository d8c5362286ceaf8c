//! kill -9 of the daemon at every named step of the protocol, remount, and the consistency checker.
//!
//! `cargo test --features failpoints --test crash`. `COMMITFS_TEST_POINT=NAME:N` runs a single case.

#![allow(missing_docs)]

#[cfg(feature = "failpoints")]
mod common;
#[cfg(feature = "failpoints")]
#[path = "crash/workload.rs"]
mod workload;

#[cfg(not(feature = "failpoints"))]
#[test]
#[ignore = "needs --features failpoints: no crash point was exercised"]
fn crash_points() {}

#[cfg(feature = "failpoints")]
mod points {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use crate::common::checker::{self, Promise};
    use rustix::process::Signal;

    use crate::common::{Mount, Setup, content, eventually};
    use crate::workload::Workload;

    /// Every point of the protocol, and at which passes to stop there.
    const POINTS: &[&str] = &[
        "begin_after_stage",
        "begin_after_row",
        "commit_after_seal",
        "commit_before_fsync",
        "commit_after_fsync",
        "commit_before_rename",
        "commit_after_look",
        "commit_after_rename",
        "commit_after_dirsync",
        "commit_after_record",
        "quarantine_before_row",
        "quarantine_after_row",
        "discard_before_row",
        "discard_after_row",
    ];

    /// Points of the recovery itself: reached by crashing at the other first.
    const IN_RECOVERY: &[(&str, &str)] = &[
        ("recover_before_resolve", "commit_before_fsync"),
        ("recover_before_resolve", "commit_after_rename"),
        ("recover_after_rename", "commit_after_seal"),
        ("commit_before_fsync", "commit_after_seal"),
        ("commit_after_fsync", "commit_after_seal"),
        ("commit_after_rename", "commit_after_seal"),
        ("commit_after_dirsync", "commit_after_seal"),
        ("commit_after_record", "commit_after_seal"),
        ("quarantine_before_row", "quarantine_before_row"),
        ("quarantine_after_row", "quarantine_before_row"),
    ];

    const PASSES: &[u64] = &[1, 2, 7, 20];

    /// At this pass the journal's rows are, for as long as nobody waits for them, only in its redo file.
    const LAGGING: u64 = 7;

    #[derive(Default)]
    struct Exercised {
        commits: u64,
        quarantined: u64,
        reached: BTreeSet<String>,
    }

    /// Works until the daemon dies at the point; false when it never came there.
    fn crash_at(m: &mut Mount, point: &str, pass: u64, promises: &mut BTreeMap<String, Promise>) -> bool {
        m.set_env("COMMITFS_FAILPOINT", &format!("{point}:{pass}"));
        m.set_env("COMMITFS_LINGER_MS", if pass == LAGGING { "60000" } else { "5" });
        m.remount();
        let mut work = Workload::new(m, pass);
        for _ in 0..60 {
            if !work.step(m, promises) {
                break;
            }
        }
        // A commit made at release may still be on its way to the point.
        let reached = work.died()
            || crate::common::poll(std::time::Duration::from_secs(2), || m.daemon_is_dead().then_some(())).is_some();
        if !reached {
            m.kill9();
            return false;
        }
        m.daemon_ended();
        true
    }

    /// Mounts again, without any point armed, and checks everything.
    fn check_after(m: &mut Mount, case: &str, promises: &BTreeMap<String, Promise>, sum: &mut Exercised) {
        m.set_env("COMMITFS_FAILPOINT", "");
        m.remount();
        let seen = checker::check(m);
        let mut wrong = checker::broken_promises(m, promises);
        wrong.extend(checker::unrecorded(m));
        assert!(wrong.is_empty(), "after a crash at {case}:\n  {}", wrong.join("\n  "));
        sum.commits += seen.commits;
        sum.quarantined += seen.quarantined;
        // The mount shows what the export has, and takes new writes for every name.
        let r = m.agent("R");
        let mut work = Workload::new(m, 99);
        checker::walk(&m.raw(""), Path::new(""), &mut |path, name| {
            let shown = r.cat(name.as_os_str().as_encoded_bytes()).unwrap();
            assert!(shown == std::fs::read(path).unwrap(), "{}: mount and export differ", name.display());
        });
        let mut again = promises.clone();
        for name in promises.keys() {
            work.rewrite(name, &mut again);
            assert!(content::verify(&r.cat(name).unwrap()).is_ok(), "{name} after recovery");
        }
        eventually("the export has it all", || checker::broken_promises(m, &again).is_empty());
        checker::check(m);
    }

    fn chosen(case: &str) -> bool {
        std::env::var("COMMITFS_TEST_POINT").map_or(true, |only| only == case)
    }

    #[test]
    fn every_point_of_the_protocol_survives_a_crash() {
        let mut sum = Exercised::default();
        for point in POINTS {
            for pass in PASSES {
                let case = format!("{point}:{pass}");
                if !chosen(&case) {
                    continue;
                }
                eprintln!("crash at {case}; again: COMMITFS_TEST_POINT={case}");
                let (mut m, mut promises) = (Mount::setup().unmounted(), BTreeMap::new());
                if crash_at(&mut m, point, *pass, &mut promises) {
                    sum.reached.insert((*point).to_owned());
                }
                check_after(&mut m, &case, &promises, &mut sum);
            }
        }
        if std::env::var_os("COMMITFS_TEST_POINT").is_none() {
            let missed: Vec<_> = POINTS.iter().filter(|p| !sum.reached.contains(**p)).collect();
            assert!(missed.is_empty(), "never reached: {missed:?}");
            assert!(
                sum.commits > 200 && sum.quarantined > 10,
                "{} commits, {} quarantined",
                sum.commits,
                sum.quarantined
            );
        }
    }

    #[test]
    fn recovery_survives_a_crash_of_its_own() {
        let mut sum = Exercised::default();
        for (point, first) in IN_RECOVERY {
            for pass in [1, 2] {
                let case = format!("{point}:{pass}+{first}");
                if !chosen(&case) {
                    continue;
                }
                eprintln!("crash at {case}; again: COMMITFS_TEST_POINT={case}");
                let (mut m, mut promises) = (Mount::setup().unmounted(), BTreeMap::new());
                assert!(crash_at(&mut m, first, 3, &mut promises), "{first} was not reached");
                m.set_env("COMMITFS_FAILPOINT", &format!("{point}:{pass}"));
                m.start();
                if crate::common::poll(std::time::Duration::from_secs(3), || m.daemon_is_dead().then_some(())).is_some()
                {
                    sum.reached.insert((*point).to_owned());
                    m.daemon_ended();
                } else {
                    m.kill9();
                }
                check_after(&mut m, &case, &promises, &mut sum);
            }
        }
        if std::env::var_os("COMMITFS_TEST_POINT").is_none() {
            let missed: BTreeSet<_> =
                IN_RECOVERY.iter().map(|(p, _)| *p).filter(|p| !sum.reached.contains(*p)).collect();
            assert!(missed.is_empty(), "never reached in recovery: {missed:?}");
            assert!(sum.commits > 20, "{} commits", sum.commits);
        }
    }

    #[test]
    fn a_crash_at_any_other_moment_is_survived() {
        let mut sum = Exercised::default();
        let (mut m, mut promises) = (Mount::setup().unmounted(), BTreeMap::new());
        for round in 0..15 {
            m.set_env("COMMITFS_FAILPOINT", "");
            m.remount();
            let mut work = Workload::new(&m, 1000 + round);
            for _ in 0..round % 7 {
                work.step(&m, &mut promises);
            }
            let open = work.begin_several(&mut promises);
            m.kill9();
            work.end_several(open, &mut promises);
            drop(work);
            check_after(&mut m, &format!("round {round}"), &promises, &mut sum);
            m.umount();
            promises = generations(&m);
        }
        assert!(sum.commits > 100, "{} commits", sum.commits);
    }

    /// What is there now: the promises to begin the next round with.
    fn generations(m: &Mount) -> BTreeMap<String, Promise> {
        let mut found = BTreeMap::new();
        checker::walk(&m.raw(""), Path::new(""), &mut |path, name| {
            let headers = content::verify(&std::fs::read(path).unwrap()).unwrap();
            let newest = content::newest(&headers);
            found.insert(name.to_str().unwrap().to_owned(), Promise { closed: newest, tried: newest });
        });
        found
    }

    #[test]
    fn a_writer_that_is_killed_is_promised_nothing() {
        let mut m = Setup::default().unmounted();
        m.set_env("COMMITFS_FAILPOINT", "commit_after_seal:1");
        m.remount();
        let w = m.agent("W");
        w.put("other", "").unwrap();
        let fd = w.open("f", "w|creat").unwrap();
        w.write(fd, "half").unwrap();
        // A child with so many descriptors that nothing proves that it has none of this file.
        let child = w.fork("C");
        child.close(fd).unwrap();
        for _ in 0..600 {
            child.open("other", "r").unwrap();
        }
        w.kill(Signal::KILL);
        eventually("it is in quarantine", || m.quarantine().iter().any(|row| row.path == "f"));
        assert!(!m.daemon_is_dead(), "a promise was written for it, and a crash would publish it");
        assert_eq!(m.raw_content("f"), None);
    }

    #[test]
    fn the_checker_notices_what_it_should() {
        let m = Mount::new();
        let mut promises = BTreeMap::new();
        let mut work = Workload::new(&m, 5);
        for _ in 0..30 {
            assert!(work.step(&m, &mut promises));
        }
        drop(work);
        checker::check(&m);
        assert_eq!(checker::broken_promises(&m, &promises), Vec::<String>::new());
        let (name, promise) = promises.iter().find(|(_, p)| p.closed > 0).unwrap();
        let whole = m.raw_content(name).unwrap();
        let complain = |what: &str| {
            assert!(!checker::broken_promises(&m, &promises).is_empty(), "{what} went unnoticed");
        };
        std::fs::write(m.raw(name), &whole[..whole.len() - 1]).unwrap();
        complain("a partial file");
        std::fs::write(m.raw(name), content::version(name, promise.closed - 1, 1, 10)).unwrap();
        complain("an old version");
        std::fs::remove_file(m.raw(name)).unwrap();
        complain("a lost file");
        std::fs::write(m.raw(name), &whole).unwrap();
        assert_eq!(checker::broken_promises(&m, &promises), Vec::<String>::new());
        std::fs::write(m.raw("intruder"), content::version("intruder", 1, 1, 10)).unwrap();
        complain("a file that nobody wrote");
    }
}
