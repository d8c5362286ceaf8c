//! kill -9 in the middle: no orphan, no loss.

use crate::common::{Mount, checker, eventually, sized};
#[cfg(feature = "failpoints")]
use crate::outbox;
use crate::{eventually_empty, trash};

#[test]
fn kill_9_in_a_mass_deletion_leaves_no_orphan_and_no_loss() {
    let mut m = Mount::setup().options("retain=1h").mount();
    let count = sized(4000, 20_000);
    std::fs::create_dir(m.raw("d")).unwrap();
    for n in 0..count {
        std::fs::write(m.raw("d").join(format!("f{n}")), format!("{n}")).unwrap();
    }
    let w = m.agent("W");
    w.send(&["run", "sh", "rm -f d/*"]);
    eventually("it is under way", || trash(&m).len() > count / 4);
    m.kill9();
    drop(w);
    let there = |m: &Mount| std::fs::read_dir(m.raw("d")).unwrap().count();
    let (left, kept) = (there(&m), trash(&m).len());
    assert_eq!(left + kept, count, "each file is under its name or in the trash folder");
    assert!(left > 0, "killed too late to show anything");
    m.remount();
    eventually("every one has a row", || m.json(&["status"])["outbox"] == kept);
    assert_eq!(there(&m), left);
    checker::check(&m);
    checker::totals(&m);
    // And in the middle of the reaping.
    m.cli_ok(&["trash", "purge"]);
    eventually("it is under way", || trash(&m).len() < kept);
    m.kill9();
    m.remount();
    eventually_empty(&m);
    assert_eq!(there(&m), left);
    checker::check(&m);
    checker::totals(&m);
}

#[cfg(feature = "failpoints")]
mod points {
    use super::*;

    /// Unlinks, replaces, removes, restores and reaps until the daemon dies; no error of it says which.
    fn work(m: &Mount) {
        let w = m.agent("W");
        let round = |n: usize| -> Result<(), crate::common::Errno> {
            w.put("kept", "old")?;
            w.put("kept", &format!("new{n}"))?;
            w.put("gone", "x")?;
            w.unlink("gone")?;
            w.put("moved", "moved")?;
            w.rename("moved", "kept")?;
            w.mkdir("tree")?;
            w.put("tree/f", "x")?;
            m.cli(&["rm", "-r", "tree"]);
            let rows = m.json(&["outbox", "ls"]);
            let row = rows.as_array().unwrap().iter().find(|row| row["path"] == "gone").unwrap();
            m.cli(&["trash", "restore", &row["id"].to_string(), "--to", "back", "--replace"]);
            m.cli(&["trash", "purge"]);
            w.stat(".").map(drop)
        };
        for n in 0..5 {
            if round(n).is_err() {
                return;
            }
        }
    }

    #[test]
    fn every_step_of_a_removal_survives_a_crash() {
        const POINTS: &[&str] = &[
            "unlink_after_move",
            "replace_after_link",
            "replace_after_rename",
            "remove_before_move",
            "remove_after_move",
            "restore_before_move",
            "restore_after_move",
            "reap_after_begin",
            "reap_after_removal",
            "reap_after_rows",
        ];
        for point in POINTS {
            for pass in [1, 2] {
                eprintln!("crash at {point}:{pass}");
                let mut m = Mount::setup().options("retain=1h").unmounted();
                m.set_env("COMMITFS_FAILPOINT", &format!("{point}:{pass}"));
                m.remount();
                work(&m);
                eventually("the point is reached", || m.daemon_is_dead());
                m.daemon_ended();
                m.set_env("COMMITFS_FAILPOINT", "");
                m.remount();
                checker::check(&m);
                checker::totals(&m);
                let r = m.agent("R");
                if let Ok(kept) = r.cat("kept") {
                    let whole = [&b"old"[..], b"moved", b"new0", b"new1", b"new2", b"new3", b"new4"];
                    assert!(whole.contains(&&kept[..]), "{point}: {}", kept.escape_ascii());
                } else {
                    assert!(pass == 1 && r.stat("kept").is_err(), "{point}: the name has no version");
                }
                for row in outbox(&m) {
                    assert!(row["state"] == "pending" && row["path"] != "", "{point}: {row}");
                }
                m.cli_ok(&["trash", "purge"]);
                eventually_empty(&m);
                checker::check(&m);
            }
        }
    }
}
