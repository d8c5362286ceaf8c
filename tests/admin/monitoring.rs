//! Metrics as Prometheus reads them, the rules and the dashboard that use them, `verify` and `doctor`.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::mount::show;
use crate::common::{Agent, Mount, Setup, SmallFs, eventually};

/// `NAME` or `NAME{labels}` and its value.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn what_happens_is_counted_in_a_form_that_promtool_likes() {
    let m = Mount::new();
    let w = m.agent("W");
    w.put("f", "12345").unwrap();
    w.put("f", "123").unwrap();
    w.append("f", "4").unwrap();
    let fd = w.open("open", "w|creat").unwrap();
    w.write(fd, "xyz").unwrap();
    w.fsync(fd).unwrap();
    let k = m.agent("K");
    let killed = k.open("killed", "w|creat").unwrap();
    k.write(killed, "x").unwrap();
    k.kill(Signal::KILL);
    m.quarantined("killed");
    assert_eq!(m.agent("R").cat("none").unwrap_err(), "ENOENT");
    let mut text = String::new();
    eventually("it is counted", || {
        text = m.http().get("/metrics").text();
        value(&text, "commitfs_pending_bytes") == Some(3.0)
    });
    assert_eq!(value(&text, "commitfs_commits_total{kind=\"new\"}"), Some(1.0), "{text}");
    assert_eq!(value(&text, "commitfs_commits_total{kind=\"overwrite\"}"), Some(1.0));
    assert_eq!(value(&text, "commitfs_commits_total{kind=\"append\"}"), Some(1.0));
    assert_eq!(value(&text, "commitfs_committed_bytes_total"), Some(12.0));
    assert_eq!(value(&text, "commitfs_commit_duration_seconds_count{phase=\"total\"}"), Some(3.0));
    assert_eq!(value(&text, "commitfs_commit_duration_seconds_count{phase=\"fsync\"}"), Some(3.0));
    assert_eq!(value(&text, "commitfs_pending_drafts"), Some(1.0));
    assert_eq!(value(&text, "commitfs_quarantined"), Some(1.0));
    assert_eq!(value(&text, "commitfs_quarantines_total"), Some(1.0));
    for series in [
        "commitfs_oldest_pending_seconds",
        "commitfs_fuse_requests_total{op=\"create\"}",
        "commitfs_errors_total{errno=\"ENOENT\",op=\"lookup\"}",
        "commitfs_journal_batch_entries_count",
        "commitfs_journal_write_seconds_sum",
        "commitfs_journal_healthy",
    ] {
        assert!(value(&text, series).is_some_and(|value| value > 0.0), "{series} in\n{text}");
    }
    let proofs =
        ["last_close", "still_open", "unknown"].map(|o| format!("commitfs_close_proofs_total{{outcome=\"{o}\"}}"));
    let judged: f64 = proofs.iter().map(|series| value(&text, series).unwrap()).sum();
    assert!(judged >= 4.0, "{text}");
    assert!(!text.contains("killed") && !text.contains("path="), "no label names a file");
    w.close(fd).unwrap();

    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool (package prometheus)");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{}", show(&out));
}

#[test]
fn rules_and_dashboard_use_metrics_that_exist() {
    let m = Mount::new();
    m.agent("W").put("f", "x").unwrap();
    assert_eq!(m.agent("R").cat("none").unwrap_err(), "ENOENT");
    let text = m.http().get("/metrics").text();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring");
    let out = Command::new("promtool").arg("check").arg("rules").arg(top.join("alerts.yml")).output();
    let out = out.expect("promtool (package prometheus)");
    assert!(out.status.success(), "{}", show(&out));
    let dashboard: Value = serde_json::from_slice(&std::fs::read(top.join("dashboard.json")).unwrap()).unwrap();
    let mut panels = Vec::new();
    let mut used = std::fs::read_to_string(top.join("alerts.yml")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            used.push_str(expression);
            used.push('\n');
            // As a rule, so that its grammar is checked too.
            let expression = expression.replace("$__rate_interval", "5m");
            panels.push(json!({ "record": format!("panel:n{}", panels.len()), "expr": expression }));
        }
    }
    let as_rules = m.home().join("panels.yml");
    let group = json!({ "groups": [{ "name": "dashboard", "rules": panels }] });
    std::fs::write(&as_rules, group.to_string()).unwrap();
    let out = Command::new("promtool").arg("check").arg("rules").arg(as_rules).output().unwrap();
    assert!(out.status.success(), "{}", show(&out));
    let words = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: BTreeSet<&str> = words.filter(|word| word.starts_with("commitfs_")).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let there = text.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
        assert!(there, "{name} is used and not served");
    }
}

/// Lines of the log that say of a draft, by its path, that it is not what was published.
fn logged(m: &Mount, id: i64, path: &str) -> usize {
    let (draft, path) = (format!("draft={id} "), format!("path=\"{path}\""));
    let is_meant = |line: &&str| line.contains("ERROR") && line.contains(&draft) && line.contains(&path);
    m.log().lines().filter(is_meant).count()
}

#[test]
fn verify_reads_again_what_was_published() {
    let mut m = Mount::new();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    for (name, content) in [("a", "first content"), ("d/b", "second content"), ("c", "third")] {
        w.put(name, content).unwrap();
    }
    w.put("a", "newer content").unwrap();
    w.unlink("c").unwrap();
    m.recorded();
    let verify = |m: &Mount, more: &[&str], code: i32| -> Value {
        let out = m.cli(&[&["verify", "--json"], more].concat());
        assert_eq!(out.status.code(), Some(code), "{}", show(&out));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let all = verify(&m, &["--path", "[abcd]*"], 0);
    assert_eq!((&all["same"], &all["gone"]), (&2.into(), &1.into()), "{all}");
    let (below, now) = (verify(&m, &["--path", "d/*"], 0), verify(&m, &["--since", "0s"], 0));
    assert_eq!((&below["same"], &now["same"]), (&1.into(), &0.into()));
    let hour = verify(&m, &["--since", "1h"], 0);
    assert!(hour["same"].as_u64().unwrap() >= 2);

    // The same inode with other bytes: what a server that lost data shows.
    let ino = std::fs::metadata(m.raw("d/b")).unwrap().ino();
    std::fs::OpenOptions::new().write(true).open(m.raw("d/b")).unwrap().write_all(b"sEcond").unwrap();
    assert_eq!(std::fs::metadata(m.raw("d/b")).unwrap().ino(), ino);
    let wrong = verify(&m, &[], 1);
    let row = &wrong["wrong"][0];
    assert_eq!((&row["path"], &row["outcome"]), (&"d/b".into(), &"different".into()), "{wrong}");
    let told = m.cli_ok(&["events", "--kind", "mismatch", "--json"]);
    assert!(told.lines().count() == 1 && told.contains("\"d/b\"") && told.contains("digest"), "{told}");
    assert_eq!(logged(&m, row["id"].as_i64().unwrap(), "d/b"), 1, "one line: {}", m.log());
    let metrics = m.http().get("/metrics").text();
    let sum = |outcome: &str, calls: &[&Value]| calls.iter().map(|found| found[outcome].as_u64().unwrap()).sum::<u64>();
    let calls = [&all, &below, &now, &hour, &wrong];
    for (outcome, expected) in [("same", sum("same", &calls)), ("gone", sum("gone", &calls)), ("different", 1)] {
        let line = format!("\ncommitfs_verified_total{{outcome=\"{outcome}\"}} {expected}\n");
        assert!(metrics.contains(&line), "{line} is what the alert goes by: {metrics}");
    }
    drop(w);
    m.umount();
    std::fs::OpenOptions::new().append(true).open(m.raw("a")).unwrap().write_all(b"!").unwrap();
    let wrong = verify(&m, &["--path", "a"], 1);
    assert!(wrong["wrong"][0]["detail"].as_str().unwrap().contains("14 bytes"), "{wrong}");
    assert_eq!(m.cli_ok(&["events", "--kind", "mismatch"]).lines().count(), 2, "recorded without a daemon too");
}

#[test]
fn verify_takes_an_inode_that_was_used_again_for_another_one() {
    let m = Setup::default().options("retain=0").mount();
    let w = m.agent("W");
    w.put("f", "first").unwrap();
    let ino = w.stat("f").unwrap().ino;
    w.unlink("f").unwrap();
    // Where numbers are given out again, the next one has it at once.
    w.put("f.tmp", "another").unwrap();
    let again = w.stat("f.tmp").unwrap().ino == ino;
    eprintln!("the same number: {again}");
    w.rename("f.tmp", "f").unwrap();
    m.recorded();
    let found = m.json(&["verify", "--path", "f"]);
    assert_eq!((&found["gone"], &found["wrong"]), (&1.into(), &serde_json::json!([])), "{found}");
}

/// A draft that was renamed to a name whose files are written in place, and published there.
fn published_in_place(w: &Agent) {
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "published ").unwrap();
    w.rename("f", "f.log").unwrap();
    w.close(fd).unwrap();
}

#[test]
fn verify_takes_what_was_written_in_place_since_for_no_damage() {
    let m = Mount::new();
    let w = m.agent("W");
    published_in_place(&w);
    m.recorded();
    assert_eq!(m.json(&["verify", "--path", "f.log"])["same"], 1);
    w.append("f.log", "and gone on with").unwrap();
    let found = m.json(&["verify", "--path", "f.log"]);
    assert_eq!((&found["same"], &found["gone"]), (&0.into(), &1.into()), "{found}");
    assert_eq!(m.cli_ok(&["events", "--kind", "mismatch"]), "");
}

#[test]
fn verify_takes_a_file_that_was_made_under_a_freed_name_for_another_one() {
    let m = Setup::default().options("retain=0").mount();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    for path in ["f", "d/f"] {
        w.put(path, "published").unwrap();
        let ino = w.stat(path).unwrap().ino;
        if path == "f" {
            w.unlink("f").unwrap();
        } else {
            m.cli_ok(&["rm", "-r", "d", "--now", "--wait"]);
            w.mkdir("d").unwrap();
        }
        // Not versions: nothing tells of them. Where numbers are given out again, one of them has that of the version.
        let again = (0..10).map(|n| format!("made{n}")).find(|name| {
            let fd = w.open(name, "r|creat").unwrap();
            w.close(fd).unwrap();
            w.stat(name).unwrap().ino == ino
        });
        eprintln!("{path}, the same number: {again:?}");
        w.rename(&again.unwrap_or_else(|| "made0".to_owned()), path).unwrap();
        m.recorded();
        let found = m.json(&["verify", "--path", path]);
        assert_eq!((&found["gone"], &found["wrong"]), (&1.into(), &serde_json::json!([])), "{found}");
    }
}

#[test]
fn verify_takes_what_was_written_in_place_under_another_name_for_no_damage() {
    let m = Mount::new();
    let w = m.agent("W");
    w.put("f", "published").unwrap();
    m.recorded();
    w.link("f", "f.log").unwrap();
    w.append("f.log", " and gone on with").unwrap();
    let found = m.json(&["verify", "--path", "f"]);
    assert_eq!((&found["gone"], &found["wrong"]), (&1.into(), &serde_json::json!([])), "{found}");
    // Other content with the time of the version is damage under however many names.
    w.put("g", "published").unwrap();
    m.recorded();
    w.link("g", "g.too").unwrap();
    let raw = std::fs::OpenOptions::new().write(true).open(m.raw("g")).unwrap();
    let time = raw.metadata().unwrap().modified().unwrap();
    (&raw).write_all(b"PUBLISHED").unwrap();
    raw.set_modified(time).unwrap();
    assert_eq!(m.cli(&["verify", "--path", "g"]).status.code(), Some(1));
}

#[test]
fn verify_shows_how_far_it_is() {
    let m = Mount::new();
    m.agent("W").put("f", &*"content ".repeat(1 << 19)).unwrap();
    m.recorded();
    let verify = |terminal: bool| {
        let command =
            format!("{} verify --path f --state-dir '{}'", env!("CARGO_BIN_EXE_commitfs"), m.state().display());
        let mut shell = if terminal { Command::new("script") } else { Command::new("sh") };
        let args = if terminal { &["-qefc", &command, "/dev/null"][..] } else { &["-c", &command] };
        let out = shell.args(args).env("TERM", "xterm").stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{}", show(&out));
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    };
    // Bytes done, bytes in all, rate, time left.
    let shown = verify(true);
    let bar = shown.split('\r').find(|text| text.contains("MiB/4.00 MiB"));
    let bar = bar.unwrap_or_else(|| panic!("no bar in {shown:?}"));
    assert!(bar.contains("B/s ") && bar.trim_end().ends_with('s'), "{bar:?}");
    assert_eq!(verify(false), "1 versions are what was published (4.0 MiB), 0 are gone, 0 are wrong\n");
}

#[test]
fn settled_commits_are_verified_by_the_daemon() {
    let m = Setup::default().config("settle = '2s'\n").mount();
    let w = m.agent("W");
    published_in_place(&w);
    w.append("f.log", "and gone on with").unwrap();
    w.put("good", "content").unwrap();
    w.put("bad", "content").unwrap();
    eventually("it is on the export", || m.raw_content("bad").is_some());
    std::fs::OpenOptions::new().write(true).open(m.raw("bad")).unwrap().write_all(b"C").unwrap();
    eventually("both were looked at", || {
        let text = m.http().get("/metrics").text();
        let seen = |outcome: &str| value(&text, &format!("commitfs_verified_total{{outcome=\"{outcome}\"}}"));
        seen("same") >= Some(1.0) && seen("gone") == Some(1.0) && seen("different") == Some(1.0)
    });
    eventually("an event tells of it", || m.cli_ok(&["events", "--kind", "mismatch"]).contains("bad"));
    let event: Value = serde_json::from_str(&m.cli_ok(&["events", "--kind", "mismatch", "--json"])).unwrap();
    assert_eq!(logged(&m, event["draft"].as_i64().unwrap(), "bad"), 1, "one line: {}", m.log());
}

fn doctor(args: &[&std::ffi::OsStr], code: i32) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_commitfs")).args(["doctor", "--json"]).args(args).output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{}", show(&out));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", show(&out)))
}

#[track_caller]
fn finding<'a>(report: &'a Value, what: &str) -> &'a Value {
    let found = report["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == what);
    found.unwrap_or_else(|| panic!("nothing on {what} in {report:#}"))
}

#[test]
fn doctor_finds_an_export_fit() {
    let m = Setup::default().unmounted();
    let report = doctor(&[m.export().as_os_str(), "--state-dir".as_ref(), m.state().as_os_str()], 0);
    for what in ["kernel", "/dev/fuse", "state folder", "commit", "clock", "hard links"] {
        assert_eq!(finding(&report, what)["verdict"], "ok", "{report:#}");
    }
    // As this machine and this export happen to be.
    for what in
        ["space", "open files", "user", "mounts below", "extended attributes", "clones", "file handles", "owner"]
    {
        assert_ne!(finding(&report, what)["verdict"], "blocker", "{report:#}");
    }
    // A kernel may be built without something that a mount can do without.
    let offer = finding(&report, "FUSE");
    assert!(offer["found"].as_str().unwrap().starts_with("protocol 7."), "{report:#}");
    assert!(offer["verdict"] == "ok" || offer["verdict"] == "note", "{report:#}");
    for row in report["findings"].as_array().unwrap() {
        let told = row["verdict"] == "ok" || row["why"].is_string();
        assert!(told && row["found"].is_string(), "what is not as it should be says why: {row}");
    }
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let left: Vec<_> = left.filter(|e| e.file_name().to_string_lossy().starts_with("commitfs-doctor-")).collect();
    assert!(left.is_empty(), "the mount that was tried is gone: {left:?}");
    // On NFS when the laboratory runs this.
    let nfs = rustix::fs::statfs(m.export()).unwrap().f_type == 0x6969;
    assert_eq!(finding(&report, "file system")["found"].as_str().unwrap().starts_with("nfs"), nfs, "{report:#}");
    if nfs {
        for what in ["NFS lookupcache", "NFS hard"] {
            assert_eq!(finding(&report, what)["verdict"], "ok", "{report:#}");
        }
        let version = finding(&report, "NFS version");
        let good = version["found"].as_str().unwrap().starts_with('4');
        assert_eq!(version["verdict"], if good { "ok" } else { "note" }, "{report:#}");
    } else {
        assert!(!report.to_string().contains("NFS version"), "{report:#}");
        assert_eq!(finding(&report, "owner")["verdict"], "ok", "{report:#}");
    }
    // A server whose disk is memory is as fast as one that exports async, and taken for one.
    let sync = &finding(&report, "fsync");
    assert!(sync["verdict"] == "ok" || nfs && sync["found"].as_str().unwrap().contains("async"), "{report:#}");
    assert_eq!(std::fs::read_dir(m.export()).unwrap().count(), 0, "nothing is left behind");
    let out = Command::new(env!("CARGO_BIN_EXE_commitfs")).arg("doctor").arg(m.export()).output().unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("0 blockers"), "{}", show(&out));
}

#[test]
fn doctor_names_what_blocks() {
    let m = Mount::new();
    let state = m.mnt().join("state");
    m.agent("W").mkdir("state").unwrap();
    let other = Setup::default().unmounted();
    let report = doctor(&[other.export().as_os_str(), "--state-dir".as_ref(), state.as_os_str()], 1);
    let blocker = finding(&report, "state folder");
    assert_eq!(blocker["verdict"], "blocker");
    assert!(blocker["found"].as_str().unwrap().contains("FUSE") && blocker["remedy"].is_string(), "{blocker}");
    let file = other.home().join("file");
    std::fs::write(&file, "").unwrap();
    for nowhere in [std::path::Path::new("/proc/x"), &file, &file.join("x")] {
        let report = doctor(&[other.export().as_os_str(), "--state-dir".as_ref(), nowhere.as_os_str()], 1);
        let blocker = finding(&report, "state folder");
        assert!(blocker["verdict"] == "blocker" && blocker["remedy"].is_string(), "{blocker}");
    }
    let absent = other.home().join("absent");
    assert_eq!(finding(&doctor(&[absent.as_os_str()], 1), "source")["verdict"], "blocker");
    assert_eq!(finding(&doctor(&[m.mnt().as_os_str()], 0), "source")["verdict"], "note");

    let small = SmallFs::new(16);
    let report = doctor(&[small.path().as_os_str()], 0);
    assert_eq!(finding(&report, "space")["verdict"], "warning");
    small.fill_up();
    assert_eq!(doctor(&[small.path().as_os_str()], 1)["verdict"], "blocker");
}
