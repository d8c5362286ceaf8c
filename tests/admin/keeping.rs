//! The outbox, the trash and folder totals over HTTP: looked at a page at a time, and decided about.

use std::path::PathBuf;

use commitfs::admin::control::{Client, ClientError};
use serde_json::{Value, json};

use crate::common::http::{Answer, Server};
use crate::common::{Immutable, Mount, Setup, checker, eventually, poll, wait::LIMIT};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn post(server: &Server, target: &str, body: &Value) -> Answer {
    server.ask("POST", target, JSON, &body.to_string())
}

fn rows(server: &Server, target: &str) -> Vec<Value> {
    let page = server.get(target).json();
    page["items"].as_array().unwrap_or_else(|| panic!("{target}: {page}")).clone()
}

/// The row of a path, once it is written.
#[track_caller]
fn row_of(server: &Server, path: &str) -> Value {
    let find = || rows(server, "/v1/outbox").into_iter().find(|row| row["path"] == path);
    poll(LIMIT, find).unwrap_or_else(|| panic!("no outbox row of {path}"))
}

/// Where a row's inode lies on the raw export.
fn in_trash(m: &Mount, row: &Value) -> PathBuf {
    let instance = std::fs::read_dir(m.raw(".commitfs/trash")).unwrap().flatten().next().unwrap().path();
    instance.join(row["stage"].as_str().unwrap())
}

#[test]
fn trash_is_paged_restored_and_purged() {
    let m = Setup::default().admin().config("retain = '1h'\n").mount();
    let server = m.tcp();
    let (w, r) = m.pair();
    w.mkdir("d").unwrap();
    for n in 0..7 {
        w.put(format!("d/f{n}").as_str(), format!("content {n}").as_str()).unwrap();
        w.unlink(format!("d/f{n}").as_str()).unwrap();
    }
    row_of(&server, "d/f6");
    for list in ["trash", "outbox"] {
        let seen = super::api::paths_by_threes(&server, list);
        assert_eq!(seen, ["d/f0", "d/f1", "d/f2", "d/f3", "d/f4", "d/f5", "d/f6"], "{list}");
    }
    let row = &rows(&server, "/v1/trash?contains=f4")[0];
    assert_eq!((&row["kind"], &row["state"], &row["bytes"]), (&json!("unlink"), &json!("pending"), &json!(9)));
    assert!(row["due_seconds"].as_f64().is_some_and(|due| due > 0.0), "{row}");

    let restored = server.post(&format!("/v1/trash/{}/restore", row["id"]));
    assert_eq!((restored.status, &restored.json()["path"]), (200, &json!("d/f4")), "{}", restored.text());
    assert_eq!(r.cat("d/f4").unwrap(), b"content 4");
    let other = row_of(&server, "d/f5");
    let target = format!("/v1/trash/{}/restore", other["id"]);
    let taken = post(&server, &target, &json!({ "to": "d/f4" }));
    assert_eq!((taken.status, &taken.json()["errno"]), (409, &json!("EEXIST")), "{}", taken.text());
    assert_eq!(r.cat("d/f4").unwrap(), b"content 4");
    assert_eq!(post(&server, &target, &json!({ "to": "/d/f4", "replace": true })).status, 200);
    eventually("it took the name", || r.cat("d/f4").unwrap() == b"content 5");
    let exact = row_of(&server, "d/f6");
    let to = json!({ "to_hex": "642f78ff" });
    assert_eq!(post(&server, &format!("/v1/trash/{}/restore", exact["id"]), &to).status, 200);
    assert_eq!(r.cat(&b"d/x\xff"[..]).unwrap(), b"content 6");

    let one = row_of(&server, "d/f0");
    assert_eq!(
        server.post(&format!("/v1/trash/{}/purge", one["id"])).json(),
        json!({ "id": one["id"], "purged": true })
    );
    eventually("it alone is gone", || !rows(&server, "/v1/outbox").iter().any(|row| row["id"] == one["id"]));
    row_of(&server, "d/f1");
    assert_eq!(server.post("/v1/trash/purge").status, 200);
    eventually("nothing is kept", || rows(&server, "/v1/outbox").is_empty());
    assert_eq!(server.get("/v1/status").json()["outbox"], 0);
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn words_that_verbs_do_not_know_are_refused() {
    let m = Setup::default().config("retain = '1h'\n").mount();
    let w = m.agent("W");
    w.put("f", "x").unwrap();
    w.unlink("f").unwrap();
    row_of(&m.http(), "f");
    let mut control = Client::connect(m.state()).unwrap();
    for request in [
        json!({ "verb": "trash_purge", "id": 5 }),
        json!({ "verb": "trash_purge", "ids": [5], "path": "f" }),
        json!({ "verb": "trash_purge", "ids": 5 }),
        json!({ "verb": "outbox_retry", "id": 5 }),
        json!({ "verb": "remove", "path": "f", "noww": true }),
    ] {
        let error = control.ask(&request).unwrap_err();
        assert!(matches!(error, ClientError::Refused { errno: 22, .. }), "{request}: {error}");
    }
    assert_eq!(rows(&m.http(), "/v1/trash").len(), 1, "nothing was purged");
    control.ask(&json!({ "verb": "trash_purge" })).unwrap();
    eventually("nothing is kept", || rows(&m.http(), "/v1/outbox").is_empty());
}

#[test]
fn dead_letters_are_tried_again_and_dropped() {
    let m = Setup::default().admin().config("retain = '1h'\nreap_backoff = '2ms'\n").mount();
    let server = m.tcp();
    let w = m.agent("W");
    let mut guards = Vec::new();
    let mut told = server.events("kind=dead", &[]);
    told.block().unwrap();
    for name in ["a", "b", "c"] {
        w.put(name, "x").unwrap();
        w.unlink(name).unwrap();
        guards.push(Immutable::new(in_trash(&m, &row_of(&server, name))));
    }
    w.put("fine", "x").unwrap();
    w.unlink("fine").unwrap();
    row_of(&server, "fine");
    assert_eq!(server.post("/v1/trash/purge").status, 200);
    let dead = || rows(&server, "/v1/outbox?state=dead");
    eventually("three are dead", || dead().len() == 3);
    assert!(rows(&server, "/v1/outbox?state=pending").is_empty());
    assert!(rows(&server, "/v1/trash").is_empty(), "what is dead is not waiting to be restored");
    let letters = dead();
    assert!(letters[0]["reason"].as_str().unwrap().contains("not permitted"), "{}", letters[0]);
    let mut paths: Vec<_> = (0..3).map(|_| told.event().data["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    assert_eq!(paths, ["a", "b", "c"], "an event tells of each");
    assert_eq!(server.get("/v1/status").json()["outbox_dead"], 3);
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("\ncommitfs_dead_letters 3\n") && metrics.contains("\ncommitfs_outbox_depth 0\n"));

    let dropped = format!("/v1/outbox/{}/drop", letters[0]["id"]);
    assert_eq!(server.post(&dropped).json(), json!({ "id": letters[0]["id"], "dropped": true }));
    let again = server.post(&dropped);
    assert_eq!((again.status, &again.json()["errno"]), (409, &json!("EINVAL")), "{}", again.text());
    assert!(!m.log().contains("ERROR journal") && !m.log().contains("left out"), "a harmless request:\n{}", m.log());
    assert_eq!(rows(&server, "/v1/outbox?state=dropped").len(), 1);
    let retried = server.post(&format!("/v1/outbox/{}/retry", letters[1]["id"]));
    assert_eq!(retried.json()["ids"], json!([letters[1]["id"]]));
    eventually("it is dead again", || dead().len() == 2);
    drop(guards);
    let all = server.post("/v1/outbox/retry").json();
    assert_eq!(all["ids"], json!([letters[1]["id"], letters[2]["id"]]), "the dropped one is not meant");
    eventually("they are gone", || dead().is_empty());
    assert_eq!(server.post(&format!("/v1/outbox/{}/retry", letters[0]["id"])).status, 200);
    eventually("the dropped one too", || rows(&server, "/v1/outbox").is_empty());
    checker::check(&m);
}

#[test]
fn folders_are_looked_at_counted_again_and_removed() {
    let m = Setup::default().admin().mount();
    let server = m.tcp();
    let w = m.agent("W");
    w.mkdir("top").unwrap();
    for n in 0..7u64 {
        w.mkdir(format!("top/d{n}").as_str()).unwrap();
        // Two of a size.
        w.put(format!("top/d{n}/f").as_str(), "x".repeat(10 * (1 + n as usize / 2)).as_str()).unwrap();
    }
    let folder = |query: &str| server.get(&format!("/v1/folders{query}")).json();
    eventually("all is counted", || folder("?path=top")["rfiles"] == 7);
    let top = folder("?path=/top/");
    assert_eq!((&top["rbytes"], &top["files"], &top["rsubdirs"]), (&json!(160), &json!(0), &json!(7)), "{top}");
    assert!(top["as_of"].as_f64().is_some_and(|at| at > 1.0) && top["counting"]["folders"].is_u64(), "{top}");
    assert_eq!(folder("")["items"][0]["path"], "top");
    for (sort, expected) in [("size", "6 4 5 2 3 0 1"), ("name", "0 1 2 3 4 5 6")] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = folder(&format!("?path=top&sort={sort}&limit=2{cursor}"));
            let paths = page["items"].as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap());
            seen.extend(paths.map(|path| path.trim_start_matches("top/d").to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen.join(" "), expected, "by {sort}");
    }

    // From outside, which no delta tells of.
    std::fs::write(m.raw("top/d0/outside"), "12345").unwrap();
    let refreshed = post(&server, "/v1/folders/refresh", &json!({ "path": "top" }));
    assert_eq!(refreshed.status, 202, "{}", refreshed.text());
    eventually("it was counted", || folder("?path=top")["uncounted"] == 0);
    assert_eq!(folder("?path=top/d0")["rbytes"], 15);
    eventually("and added above", || folder("?path=top")["rbytes"] == 165);
    assert_eq!(server.post("/v1/folders/refresh").status, 202, "the whole mount");

    let fd = w.open("top/d3/pending", "w|creat").unwrap();
    w.write(fd, "x").unwrap();
    let busy = post(&server, "/v1/folders/rm", &json!({ "path": "top/d3" }));
    assert_eq!((busy.status, &busy.json()["errno"]), (409, &json!("EBUSY")), "{}", busy.text());
    assert!(busy.json()["detail"].as_str().unwrap().contains("top/d3/pending"), "{}", busy.text());
    w.close(fd).unwrap();
    // A close that could not be proven to be the last one publishes a moment later.
    let mut removed = busy;
    eventually("it is removed", || {
        removed = post(&server, "/v1/folders/rm", &json!({ "path": "top/d3" }));
        removed.json()["errno"] != "EBUSY"
    });
    assert_eq!((removed.status, &removed.json()["path"]), (200, &json!("top/d3")), "{}", removed.text());
    assert_eq!(m.agent("R").stat("top/d3").unwrap_err(), "ENOENT");
    eventually("it is not counted any more", || folder("?path=top")["rsubdirs"] == 6);
    eventually("it can be restored", || rows(&server, "/v1/trash?path=top/*").iter().any(|row| row["kind"] == "tree"));
    eventually("all is counted", || folder("")["uncounted"] == 0);
    checker::totals(&m);
}

#[test]
fn folders_are_not_counted_where_totals_are_off() {
    let m = Setup::default().config("totals = false\n").mount();
    let refused = post(&m.http(), "/v1/folders/refresh", &json!({ "path": "" }));
    assert_eq!(refused.json()["errno"], "EOPNOTSUPP", "{}", refused.text());
}

#[test]
fn nothing_beside_the_export_and_nothing_reserved_can_be_meant() {
    let m = Setup::default().admin().config("retain = '1h'\n").mount();
    let server = m.tcp();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("f", "content").unwrap();
    w.unlink("f").unwrap();
    let id = row_of(&server, "f")["id"].clone();
    let beside = m.export().parent().unwrap().join("beside");
    std::fs::create_dir(&beside).unwrap();

    for path in ["../beside", "d/../../beside", "d/..", "..", "d\0"] {
        for (target, body) in [
            ("/v1/folders/rm".to_owned(), json!({ "path": path, "now": true })),
            ("/v1/folders/refresh".to_owned(), json!({ "path": path })),
            (format!("/v1/trash/{id}/restore"), json!({ "to": format!("{path}/evil") })),
        ] {
            let refused = post(&server, &target, &body);
            assert_eq!(refused.status, 400, "{target} {body}: {}", refused.text());
        }
        let mut control = Client::connect(m.state()).unwrap();
        for request in [
            json!({ "verb": "remove", "path": path, "now": true }),
            json!({ "verb": "refresh", "path": path }),
            json!({ "verb": "rules", "path": path }),
            json!({ "verb": "trash_restore", "id": id, "path": format!("{path}/evil") }),
        ] {
            let error = control.ask(&request).unwrap_err();
            let said = error.to_string();
            assert!(matches!(error, ClientError::Refused { errno: 22, .. }), "{request}: {said}");
            assert!(said.contains("'..'") || said.contains("zero byte"), "{said}");
        }
    }
    assert_eq!(server.get("/v1/folders?path=d/../d").status, 400);
    for path in [".commitfs/trash", "./.commitfs", "/.commitfs/staging/"] {
        let refused = post(&server, "/v1/folders/rm", &json!({ "path": path, "now": true }));
        assert_eq!(refused.status, 404, "{path}: {}", refused.text());
        let refused = post(&server, &format!("/v1/trash/{id}/restore"), &json!({ "to": format!("{path}/f") }));
        assert_eq!(refused.status, 403, "{path}: {}", refused.text());
    }
    assert_eq!(in_trash(&m, &row_of(&server, "f")).metadata().unwrap().len(), 7);
    assert_eq!(std::fs::read_dir(&beside).unwrap().count(), 0);
    std::fs::remove_dir(&beside).unwrap();

    let removed = post(&server, "/v1/folders/rm", &json!({ "path": "/./d//." }));
    assert_eq!((removed.status, &removed.json()["path"]), (200, &json!("d")), "{}", removed.text());
    checker::check(&m);
}

#[test]
fn a_name_that_no_file_system_has_is_asked_for_wrongly() {
    let m = Setup::default().admin().mount();
    let refused = post(&m.tcp(), "/v1/folders/rm", &json!({ "path": "x".repeat(256) }));
    assert_eq!((refused.status, &refused.json()["errno"]), (400, &json!("ENAMETOOLONG")), "{}", refused.text());
}
