//! What an admin may ask of a read-only mount.

use rustix::process::Signal;

use crate::common::mount::show;
use crate::common::{Setup, eventually};

#[test]
fn s51_verbs_keep_to_a_read_only_mount() {
    let mut m = Setup::default().config("retain = '1h'\n").mount();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("d/kept", "x").unwrap();
    w.put("old", "x").unwrap();
    w.unlink("old").unwrap();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "half of it").unwrap();
    w.kill(Signal::KILL);
    let draft = m.quarantined("f").id.to_string();
    let trash = || m.http().get("/v1/trash").json()["items"].as_array().unwrap().clone();
    eventually("it is in the trash", || trash().len() == 1);
    let row = trash()[0]["id"].to_string();
    m.umount();
    m.set_options("ro");
    m.remount();
    m.recovered();

    let before = std::fs::read_dir(m.raw(".commitfs/trash")).unwrap().count();
    for args in [
        &["quarantine", "publish", &draft][..],
        &["quarantine", "discard", &draft],
        &["rm", "-r", "d"],
        &["trash", "restore", &row],
        &["trash", "purge"],
        &["trash", "purge", &row],
        &["outbox", "retry"],
        &["outbox", "retry", &row],
        &["refresh", "d"],
        &["fsck", "--repair"],
    ] {
        let out = m.cli(args);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {}", show(&out));
        assert!(String::from_utf8_lossy(&out.stderr).contains("read-only"), "{args:?}: {}", show(&out));
    }
    let json = [("content-type", "application/json")];
    for (target, body) in [
        (format!("/v1/quarantine/{draft}/publish"), ""),
        (format!("/v1/quarantine/{draft}/discard"), ""),
        ("/v1/folders/rm".to_owned(), r#"{"path":"d"}"#),
        ("/v1/folders/refresh".to_owned(), r#"{"path":"d"}"#),
        (format!("/v1/trash/{row}/restore"), ""),
        (format!("/v1/trash/{row}/purge"), ""),
        ("/v1/trash/purge".to_owned(), ""),
        ("/v1/outbox/retry".to_owned(), ""),
        (format!("/v1/outbox/{row}/retry"), ""),
    ] {
        let headers = if body.is_empty() { &[][..] } else { &json };
        let answer = m.http().ask("POST", &target, headers, body);
        assert_eq!((answer.status, &answer.json()["errno"]), (403, &"EROFS".into()), "{target}: {}", answer.text());
    }
    assert!(m.raw("d/kept").exists() && !m.raw("f").exists() && !m.raw("old").exists());
    assert_eq!((m.quarantine().len(), m.http().get("/v1/trash").json()["items"].as_array().unwrap().len()), (1, 1));
    assert_eq!(std::fs::read_dir(m.raw(".commitfs/trash")).unwrap().count(), before);

    // The page offers what is left: what is there may be looked at.
    let status = m.http().get("/v1/status").json();
    assert!(status["changes_refused"].as_str().is_some_and(|why| why.contains("read-only")), "{status}");
    assert_eq!(status["only_looks"], false);
    let content = m.http().get(&format!("/v1/quarantine/{draft}/content"));
    assert_eq!((content.status, content.text().as_str()), (200, "half of it"));
    m.cli_ok(&["fsck"]);
}
