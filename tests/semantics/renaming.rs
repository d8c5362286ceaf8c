//! Renames of promised drafts that the daemon does not survive: the close had returned, the rename had not.

#[cfg(feature = "failpoints")]
mod crashes {
    use std::time::Duration;

    use crate::common::{Agent, Immutable, Mount, Setup, checker, eventually, poll};
    use crate::promised::{promise, unproven};

    /// A mount whose daemon dies at the point.
    fn mortal(point: &str) -> Mount {
        let mut m = Setup::default().unmounted();
        m.set_env("COMMITFS_FAILPOINT", &format!("{point}:1"));
        m.remount();
        m
    }

    /// The daemon has died, and another one has recovered.
    #[track_caller]
    fn succeed(m: &mut Mount, w: Agent) {
        eventually("it died", || m.daemon_is_dead());
        drop(w);
        m.set_env("COMMITFS_FAILPOINT", "");
        m.daemon_ended();
        m.remount();
        m.recovered();
    }

    #[track_caller]
    fn has(m: &Mount, expected: &[(&str, Option<&str>)], how: &str) {
        for (path, data) in expected {
            let found = m.raw_content(path).map(|found| String::from_utf8(found).unwrap());
            assert_eq!(found.as_deref(), *data, "{how}: {path}");
        }
    }

    /// What is under the new path then is a folder as well, with names as free as those of the draft's own one.
    #[test]
    fn s40_drafts_stay_in_their_folders_though_the_daemon_dies_as_these_change_places() {
        for (point, made) in [("rename_before_move", false), ("rename_after_move", true)] {
            let mut m = mortal(point);
            let w = unproven(&m, "W");
            for folder in ["d", "d/deep", "e", "e/deep"] {
                w.mkdir(folder).unwrap();
            }
            for folder in ["d", "e"] {
                for name in ["x", "y", "deep/z"] {
                    promise(&m, &w, &format!("{folder}/{name}"), &format!("in {folder}"));
                }
            }
            promise(&m, &w, "d/alone", "in d");
            if w.rename_with("d", "e", "exchange").unwrap_err() == "EINVAL" {
                eprintln!("SKIPPED: names cannot change places on this export (NFS)");
                return;
            }
            succeed(&mut m, w);
            let (d, e) = if made { ("e", "d") } else { ("d", "e") };
            for (folder, data) in [(d, "in d"), (e, "in e")] {
                for name in ["x", "y", "deep/z"] {
                    has(&m, &[(&format!("{folder}/{name}"), Some(data))], point);
                }
            }
            has(&m, &[(&format!("{d}/alone"), Some("in d")), (&format!("{e}/alone"), None)], point);
            m.nothing_quarantined();
            checker::check(&m);
        }
    }

    #[test]
    fn s40_drafts_stay_in_their_folder_though_the_daemon_dies_as_it_is_renamed_over_an_empty_one() {
        for (point, made) in [("rename_before_move", false), ("rename_after_move", true)] {
            let mut m = mortal(point);
            let w = unproven(&m, "W");
            for folder in ["d", "e"] {
                w.mkdir(folder).unwrap();
            }
            for name in ["x", "y"] {
                promise(&m, &w, &format!("d/{name}"), "promised");
            }
            w.rename("d", "e").unwrap_err();
            succeed(&mut m, w);
            let (now, not) = if made { ("e", "d") } else { ("d", "e") };
            for name in ["x", "y"] {
                has(&m, &[(&format!("{now}/{name}"), Some("promised")), (&format!("{not}/{name}"), None)], point);
            }
            m.nothing_quarantined();
            checker::check(&m);
        }
    }

    /// Content that is on its way appears where its folder is by then, and in no other of that name.
    #[test]
    fn s40_a_commit_that_the_daemon_died_in_is_in_its_folder_though_that_was_renamed_meanwhile() {
        for point in ["commit_before_rename", "commit_after_rename"] {
            let mut m = Setup::default().unmounted();
            m.hold_at(point, 2);
            m.remount();
            let (w, r) = (unproven(&m, "W"), m.agent("R"));
            r.mkdir("d").unwrap();
            w.put("d/f", "promised").unwrap();
            let held = m.held();
            r.rename("d", "e").unwrap();
            r.mkdir("d").unwrap();
            m.kill9();
            drop((held, w, r));
            m.set_env("COMMITFS_FAILPOINT", "");
            m.remount();
            m.recovered();
            has(&m, &[("d/f", None), ("e/f", Some("promised"))], point);
            m.nothing_quarantined();
            checker::check(&m);
        }
    }

    #[test]
    fn s40_a_close_that_is_promised_as_its_folder_is_renamed_is_promised_for_where_it_is_then() {
        let mut m = Setup::default().unmounted();
        m.hold_at("rename_after_move", 1);
        m.remount();
        let (w, r) = (unproven(&m, "W"), m.agent("R"));
        r.mkdir("d").unwrap();
        let fd = w.open("d/f", "w|creat").unwrap();
        w.write(fd, "promised").unwrap();
        w.dup(fd).unwrap();
        r.send(&["rename", "d", "e"]);
        let held = m.held();
        w.send(&["close", &fd.to_string()]);
        // It waits for the rename, or has been promised something.
        poll(Duration::from_secs(1), || w.has_answered().then_some(()));
        let promised = w.has_answered();
        m.kill9();
        drop((held, w, r));
        m.set_env("COMMITFS_FAILPOINT", "");
        m.remount();
        m.recovered();
        if promised {
            has(&m, &[("e/f", Some("promised"))], "");
        }
        checker::check(&m);
    }

    /// What somebody has put at its name meanwhile is newer than what was promised, also after a rename that was refused.
    #[test]
    fn s40_a_rename_that_fails_makes_a_promised_draft_no_newer_than_it_was() {
        for dies in [false, true] {
            let mut m = if dies { mortal("rename_after_tell") } else { Mount::new() };
            let (w, r) = (unproven(&m, "W"), m.agent("R"));
            w.mkdir("fixed").unwrap();
            r.put("f", "old").unwrap();
            r.put("g", "newer").unwrap();
            promise(&m, &w, "f", "promised");
            r.rename("g", "f").unwrap();
            m.recorded();
            if dies {
                w.rename("f", "fixed/f").unwrap_err();
                succeed(&mut m, w);
            } else {
                let fixed = Immutable::new(m.raw("fixed"));
                w.rename("f", "fixed/f").unwrap_err();
                drop(fixed);
                m.kill9();
                drop(w);
                m.remount();
                m.recovered();
            }
            has(&m, &[("f", Some("newer")), ("fixed/f", None)], &format!("the daemon dies in it: {dies}"));
            m.quarantined("f");
            checker::check(&m);
        }
    }

    /// By another host, say.
    #[test]
    fn s40_a_draft_whose_folder_was_moved_on_since_the_daemon_died_is_kept() {
        let mut m = mortal("rename_before_move");
        let w = unproven(&m, "W");
        for folder in ["d", "e"] {
            w.mkdir(folder).unwrap();
        }
        promise(&m, &w, "d/x", "promised");
        w.rename("d", "e").unwrap_err();
        eventually("it died", || m.daemon_is_dead());
        std::fs::rename(m.raw("d"), m.raw("elsewhere")).unwrap();
        succeed(&mut m, w);
        has(&m, &[("e/x", None), ("elsewhere/x", None)], "");
        m.quarantined("e/x");
        checker::check(&m);
    }

    /// A draft alone has no name on the export: nothing is renamed there.
    #[test]
    fn s40_of_two_drafts_one_renamed_over_the_other_the_renamed_one_stays_though_the_daemon_dies() {
        for first in ["a", "b"] {
            for version in [false, true] {
                let how = format!("{first} was promised first, a version under b: {version}");
                let mut m = mortal("rename_after_tell");
                let w = unproven(&m, "W");
                if version {
                    w.put("b", "old").unwrap();
                    eventually("published", || m.raw_content("b").is_some());
                }
                for name in [first, if first == "a" { "b" } else { "a" }] {
                    promise(&m, &w, name, name);
                }
                w.rename("a", "b").unwrap_err();
                succeed(&mut m, w);
                has(&m, &[("a", None), ("b", Some("a"))], &how);
                m.nothing_quarantined();
                checker::check(&m);
            }
        }
    }

    /// Their rows are written down anew with it, in any order.
    #[test]
    fn s40_of_two_drafts_of_one_name_the_later_one_stays_when_their_folder_is_renamed() {
        let mut m = Mount::new();
        let (w, o) = (unproven(&m, "W"), unproven(&m, "O"));
        w.mkdir("d").unwrap();
        for at in 0..8 {
            promise(&m, &o, &format!("d/new{at}"), "second");
            promise(&m, &w, &format!("d/f{at}"), "first");
            o.rename(&format!("d/new{at}"), &format!("d/f{at}")).unwrap();
        }
        w.rename("d", "e").unwrap();
        m.recorded();
        m.kill9();
        drop((w, o));
        m.remount();
        m.recovered();
        for at in 0..8 {
            has(&m, &[(&format!("e/f{at}"), Some("second"))], "");
        }
        m.nothing_quarantined();
        checker::check(&m);
    }
}
