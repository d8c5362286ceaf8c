//! The HTTP API: what it serves.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::http::{Server, TOKEN};
use crate::common::mount::show;
use crate::common::{Mount, Setup, eventually};

fn with_tcp() -> Mount {
    Setup::default().admin().mount()
}

/// The paths in `d` that a list has, read three rows at a time.
pub fn paths_by_threes(server: &Server, list: &str) -> Vec<String> {
    let (mut seen, mut target) = (Vec::new(), format!("/v1/{list}?path=d/*&limit=3"));
    loop {
        let page = server.get(&target).json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(items.iter().map(|row| row["path"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { return seen };
        target = format!("/v1/{list}?path=d/*&limit=3&cursor={next}");
    }
}

#[test]
fn the_socket_is_there_without_asking_and_for_its_owner_only() {
    let m = Mount::new();
    let mode = std::fs::metadata(m.state().join("http.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = m.http().get("/v1/status");
    assert_eq!(status.status, 200);
    let status = status.json();
    assert_eq!(status["mountpoint"], m.mnt().to_str().unwrap());
    assert_eq!(status["pid"], m.daemon_pid());
    assert_eq!((&status["journal"], &status["admin"]), (&json!("ok"), &Value::Null));
}

#[test]
fn rows_as_they_come_and_pages_of_them() {
    let m = with_tcp();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    for n in 0..7 {
        w.put(format!("d/f{n}").as_str(), "12345").unwrap();
    }
    let open = w.open("pending", "w|creat").unwrap();
    w.write(open, "abc").unwrap();
    m.recorded();
    for server in [m.http(), m.tcp()] {
        let pending = server.get("/v1/pending").json();
        assert_eq!((pending["items"].as_array().unwrap().len(), &pending["next"]), (1, &Value::Null));
        let row = &pending["items"][0];
        assert_eq!((&row["path"], &row["state"], &row["pid"]), (&json!("pending"), &json!("open"), &json!(w.pid())));

        let seen = paths_by_threes(&server, "commits");
        assert_eq!(seen, ["d/f6", "d/f5", "d/f4", "d/f3", "d/f2", "d/f1", "d/f0"]);
        let found = server.get("/v1/commits?contains=f4").json();
        assert_eq!(found["items"][0]["path"], "d/f4");
        assert_eq!(found["items"][0]["size"], 5);
        let id = found["items"][0]["id"].as_i64().unwrap();
        let story = server.get(&format!("/v1/drafts/{id}")).json();
        let kinds: Vec<&str> =
            story["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
        assert_eq!((kinds.first(), kinds.last()), (Some(&"begun"), Some(&"committed")));
        let rule = server.get("/v1/rules?path=a.db").json();
        assert!(rule["rule"].as_str().unwrap().contains("direct"), "{rule}");
    }
    w.close(open).unwrap();
}

#[test]
fn quarantine_is_published_and_discarded() {
    let m = with_tcp();
    let server = m.tcp();
    let mut ids = Vec::new();
    for name in ["keep", "drop"] {
        let w = m.agent(name);
        let fd = w.open(name, "w|creat").unwrap();
        w.write(fd, "content of the killed").unwrap();
        w.kill(Signal::KILL);
        ids.push(m.quarantined(name).id);
    }
    let listed = server.get("/v1/quarantine").json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    assert!(listed["items"][0]["reason"].as_str().unwrap().contains("signal 9"), "{listed}");
    let content = server.get(&format!("/v1/quarantine/{}/content", ids[0]));
    assert_eq!((content.status, content.text().as_str()), (200, "content of the killed"));

    let published = server.post(&format!("/v1/quarantine/{}/publish", ids[0]));
    assert_eq!((published.status, published.json()), (200, json!({ "id": ids[0], "published": true })));
    assert_eq!(m.agent("R").cat("keep").unwrap(), b"content of the killed");
    assert_eq!(server.post(&format!("/v1/quarantine/{}/discard", ids[1])).status, 200);
    m.recorded();
    assert_eq!(server.get("/v1/quarantine").json()["items"], json!([]));

    let again = server.post(&format!("/v1/quarantine/{}/publish", ids[0]));
    assert_eq!((again.status, again.header("content-type")), (409, Some("application/problem+json")));
    assert!(again.json()["detail"].as_str().unwrap().contains("committed"), "{}", again.text());
    assert_eq!(server.post("/v1/quarantine/999999/discard").status, 404);
    assert_eq!(server.get(&format!("/v1/quarantine/{}/content", ids[1])).status, 409);
}

/// The status of a purge whose body is this, chunks and all.
fn chunked(server: &Server, body: &str) -> u16 {
    let mut stream = server.connect();
    let head = "POST /v1/trash/purge HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let more = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked");
    stream.write_all(format!("{head}{more}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    std::str::from_utf8(&answer).unwrap().trim_start_matches("HTTP/1.1 ").parse().unwrap()
}

#[test]
fn what_is_asked_wrongly_is_a_problem() {
    let m = with_tcp();
    let server = m.tcp();
    for (method, target, body, status) in [
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/v1/drafts/4711", "", 404),
        ("GET", "/v1/drafts/x", "", 400),
        ("POST", "/v1/pending", "", 405),
        ("GET", "/v1/quarantine/1/publish", "", 405),
        ("GET", "/v1/pending?limit=0", "", 400),
        ("GET", "/v1/pending?limit=100000", "", 400),
        ("GET", "/v1/pending?cursor=rubbish", "", 400),
        ("GET", "/v1/pending?cursor=c-5", "", 400),
        ("GET", "/v1/pending?cursor=c%2B5", "", 400),
        ("GET", "/v1/pending?colour=red", "", 400),
        ("GET", "/v1/commits?path=a%5B", "", 400),
        ("GET", "/v1/events?after=x", "", 400),
        ("GET", "/v1/events?after=-1", "", 400),
        ("GET", "/v1/events?kind=nothing", "", 400),
        ("GET", "/v1/rules", "", 400),
        ("GET", "/v1/outbox?state=lost", "", 400),
        ("GET", "/v1/outbox?colour=red", "", 400),
        ("GET", "/v1/trash?state=dead", "", 400),
        ("GET", "/v1/folders?sort=colour", "", 400),
        ("GET", "/v1/folders?cursor=c1", "", 400),
        ("GET", "/v1/folders?path_hex=f", "", 400),
        ("GET", "/v1/folders?path=nowhere", "", 404),
        ("POST", "/v1/outbox", "", 405),
        ("POST", "/v1/outbox/4711/retry", "", 404),
        ("POST", "/v1/outbox/4711/drop", "", 404),
        ("POST", "/v1/trash/4711/restore", "", 404),
        ("POST", "/v1/trash/4711/purge", "", 404),
        ("POST", "/v1/folders/rm", "", 415),
        ("POST", "/v1/log-level", "{", 415),
    ] {
        let answer = server.ask(method, target, &[], body);
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {target}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    }
    let allowed = server.ask("PUT", "/v1/status", &[("allow", "ANYTHING")], "");
    assert_eq!((allowed.status, allowed.header("allow")), (405, Some("GET,HEAD")), "what there is, not what was asked");
    let json = [("content-type", "application/json")];
    assert_eq!(server.ask("POST", "/v1/log-level", &json, r#"{"level":"loud"}"#).status, 400);
    assert_eq!(
        server.ask("POST", "/v1/log-level", &json, &format!("{{\"level\":\"{}\"}}", "x".repeat(70_000))).status,
        413
    );
    for (target, body, status) in [
        ("/v1/folders/rm", "{}", 400),
        ("/v1/folders/rm", r#"{"path":"/"}"#, 409),
        ("/v1/folders/rm", r#"{"path":"nowhere"}"#, 404),
        ("/v1/folders/rm", r#"{"path":".commitfs"}"#, 404),
        ("/v1/folders/refresh", r#"{"colour":"red"}"#, 422),
        ("/v1/folders/refresh", "[null, null]", 422),
        ("/v1/folders/rm", r#"["nowhere", null, false, false]"#, 422),
        ("/v1/trash/4711/restore", r#"{"to_hex":"zz"}"#, 400),
        ("/v1/trash/purge", "rubbish", 400),
        ("/v1/trash/purge", "[]", 422),
        ("/v1/trash/purge", r#"{"ids":[5]}"#, 422),
        ("/v1/trash/4711/purge", r#"{"now":true}"#, 422),
        ("/v1/outbox/retry", r#"{"ids":[5]}"#, 422),
        ("/v1/quarantine/4711/discard", r#"{"force":true}"#, 422),
    ] {
        let answer = server.ask("POST", target, &json, body);
        assert_eq!(answer.status, status, "{target} {body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{target} {body}");
    }
    assert_eq!(server.ask("POST", "/v1/trash/purge", &[], r#"{"ids":[5]}"#).status, 415);
    assert_eq!(server.ask("POST", "/v1/trash/purge", &json, "{}").status, 200);
    assert_eq!(chunked(&server, "3\r\n{} \r\n0\r\n\r\n"), 200);
    assert_eq!(chunked(&server, "no number\r\n{}\r\n0\r\n\r\n"), 400, "it is malformed, not large");
    let long = format!("/v1/pending?contains={}", "x".repeat(20_000));
    assert!(matches!(server.get(&long).status, 414 | 431));
    assert_eq!(server.get("/v1/status").status, 200);
}

#[test]
fn an_address_in_use_refuses_the_mount() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let m = Setup::default().unmounted();
    std::fs::remove_dir(m.state()).unwrap();
    let mut args = m.mount_args();
    args.extend(["--admin".into(), address.clone().into()]);
    let out = Command::new(env!("CARGO_BIN_EXE_commitfs")).args(&args).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", show(&out));
    assert!(String::from_utf8_lossy(&out.stderr).contains(&address), "{}", show(&out));
    assert!(!crate::common::mount::mounts().iter().any(|(point, _)| point == m.mnt()));
    assert!(!m.state().exists() && !m.raw(".commitfs").exists(), "nothing is left behind");
}

#[test]
fn the_document_describes_what_is_served() {
    let m = with_tcp();
    let server = m.tcp();
    let document = server.get("/v1/openapi.json");
    assert_eq!(document.header("content-type"), Some("application/json"));
    let document = document.json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 10);
    for (path, methods) in paths {
        let target = path.replace("{id}", "4711");
        for method in methods.as_object().unwrap().keys() {
            if path == "/v1/events" {
                assert_eq!(server.events("", &[]).block().unwrap().map(|block| block.retry), Some(true));
                continue;
            }
            let answer = server.ask(&method.to_uppercase(), &target, &[], "");
            // The draft is not there; the path is.
            let detail = if answer.status == 404 { answer.json()["detail"].to_string() } else { String::new() };
            assert!(answer.status != 405 && !detail.contains("no such path"), "{method} {path}: {}", answer.text());
        }
        let other = if methods.get("get").is_some() { "PUT" } else { "GET" };
        assert_eq!(server.ask(other, &target, &[], "").status, 405, "{other} {path}");
    }
    let source = include_str!("../../src/admin/api/mod.rs");
    for route in source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(paths.contains_key(route) || !route.starts_with("/v1"), "{route} is not in the document");
    }
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let m = Setup::default().config("log_format = 'json'\n").mount();
    let w = m.agent("W");
    m.cli_ok(&["log-level", "trace"]);
    w.put("f", "x").unwrap();
    eventually("details are logged", || {
        m.log().contains("\"level\":\"TRACE\"") || m.log().contains("\"level\":\"DEBUG\"")
    });
    let json = [("content-type", "application/json")];
    let answer = m.http().ask("POST", "/v1/log-level", &json, r#"{"level":"error"}"#);
    assert_eq!(answer.json(), json!({ "level": "error" }));
    for line in m.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["timestamp"].is_string() && line["message"].is_string(), "{line}");
    }
    let out = m.cli(&["log-level", "loud"]);
    assert_eq!(out.status.code(), Some(2), "{}", show(&out));
}

#[test]
fn lines_for_the_journal_of_systemd_carry_a_priority() {
    let mut m = Setup::default().unmounted();
    // The daemon's standard error, as systemd announces it.
    let log = m.home().join("daemon.log");
    let stat = std::fs::File::create(&log).unwrap().metadata().unwrap();
    m.set_env("JOURNAL_STREAM", &format!("{}:{}", stat.dev(), stat.ino()));
    m.remount();
    let k = m.agent("K");
    let fd = k.open("f", "w|creat").unwrap();
    k.write(fd, "x").unwrap();
    k.kill(Signal::KILL);
    let id = m.quarantined("f").id;
    let text = || std::fs::read_to_string(&log).unwrap();
    eventually("it is logged", || text().contains("quarantine"));
    for line in text().lines() {
        let (priority, rest) = line.split_at(3);
        assert!(["<3>", "<4>", "<6>", "<7>"].contains(&priority), "{line}");
        assert!(
            !rest.contains('\u{1b}') && !rest.contains("T1") && !rest.contains(" WARN "),
            "no time, level, colour: {line}"
        );
    }
    let warned: Vec<String> = text().lines().filter(|line| line.starts_with("<4>")).map(str::to_owned).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains(&format!("draft={id}")) && warned[0].contains("path=\"f\""), "{warned:?}");
    // Another stream than the announced one is nobody's journal.
    m.umount();
    m.set_env("JOURNAL_STREAM", "1:1");
    std::fs::write(&log, "").unwrap();
    m.remount();
    eventually("it is logged", || !text().is_empty());
    assert!(!text().starts_with('<'), "{}", text());
}

#[test]
fn a_quarantine_is_one_line_with_path_draft_and_process() {
    let m = Setup::default().config("log_format = 'json'\n").mount();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "x").unwrap();
    let pid = w.pid();
    w.kill(Signal::KILL);
    let id = m.quarantined("f").id;
    let line = || {
        let log = m.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["message"] == "quarantined")
    };
    eventually("it is in the log", || line().is_some());
    let line = line().unwrap();
    assert_eq!((&line["draft"], &line["path"], &line["pid"]), (&json!(id), &json!("f"), &json!(pid)), "{line}");
    assert_eq!((&line["level"], &line["command"]), (&json!("WARN"), &json!("agent")));
}
