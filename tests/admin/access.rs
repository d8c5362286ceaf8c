//! The HTTP API: whom it refuses, and what.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::http::{Answer, Server};
use crate::common::mount::show;
use crate::common::{Setup, eventually};

#[test]
fn without_a_token_the_address_only_looks() {
    let m = Setup::default().config("admin = '127.0.0.1:0'\nretain = '1h'\n").mount();
    let (server, owner) = (m.tcp(), m.http());
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    w.put("d/kept", "x").unwrap();
    w.unlink("d/kept").unwrap();
    let fd = w.open("secret", "w|creat").unwrap();
    w.write(fd, "nobody else's").unwrap();
    w.kill(Signal::KILL);
    let id = m.quarantined("secret").id;
    eventually("it is in the trash", || !owner.get("/v1/trash").json()["items"].as_array().unwrap().is_empty());
    let kept = owner.get("/v1/trash").json()["items"][0]["id"].clone();
    let refused = |answer: Answer, what: &str| {
        assert_eq!(answer.status, 403, "{what}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("admin_token_file") && detail.contains("http.sock"), "{what}: {detail}");
        assert!(!answer.text().contains("nobody"), "{what}");
    };
    let json = [("content-type", "application/json")];
    for (target, body) in [
        (format!("/v1/quarantine/{id}/publish"), ""),
        (format!("/v1/quarantine/{id}/discard"), ""),
        ("/v1/outbox/retry".to_owned(), ""),
        (format!("/v1/outbox/{kept}/retry"), ""),
        (format!("/v1/outbox/{kept}/drop"), ""),
        ("/v1/trash/purge".to_owned(), ""),
        (format!("/v1/trash/{kept}/purge"), ""),
        (format!("/v1/trash/{kept}/restore"), ""),
        ("/v1/folders/refresh".to_owned(), "{}"),
        ("/v1/folders/rm".to_owned(), r#"{"path":"d"}"#),
        ("/v1/log-level".to_owned(), r#"{"level":"trace"}"#),
    ] {
        refused(server.ask("POST", &target, &json, body), &target);
    }
    let content = format!("/v1/quarantine/{id}/content");
    refused(server.get(&content), &content);
    assert_eq!(server.ask("HEAD", &content, &[], "").status, 403);

    // What is told of files is there to be seen.
    for target in ["/v1/quarantine", "/v1/trash", "/v1/pending", "/v1/folders", "/metrics", "/"] {
        assert_eq!(server.get(target).status, 200, "{target}");
    }
    let why = |server: &Server| server.get("/v1/status").json()["changes_refused"].clone();
    assert!(why(&server).as_str().unwrap().contains("admin_token_file"));
    assert_eq!(why(&owner), Value::Null);
    let only_looks = |server: &Server| server.get("/v1/status").json()["only_looks"].clone();
    assert_eq!((only_looks(&server), only_looks(&owner)), (true.into(), false.into()));

    // Nothing of it was done, and the owner of the socket may do it all.
    assert_eq!((m.quarantine().len(), &owner.get("/v1/trash").json()["items"][0]["id"]), (1, &kept));
    assert_eq!(owner.get(&content).text(), "nobody else's");
    assert_eq!(owner.post(&format!("/v1/quarantine/{id}/discard")).status, 200);
    assert_eq!(owner.ask("POST", "/v1/folders/rm", &json, r#"{"path":"d"}"#).status, 200);
    assert_eq!(owner.post("/v1/trash/purge").status, 200);
}

#[test]
fn other_sites_and_other_names_are_refused() {
    let m = Setup::default().admin().config("admin_hosts = ['files.example.org']\n").mount();
    let w = m.agent("W");
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "x").unwrap();
    w.kill(Signal::KILL);
    let target = format!("/v1/quarantine/{}/discard", m.quarantined("f").id);
    let server = m.tcp();
    for headers in [
        &[("host", "evil.example")][..],
        &[("host", "evil.example:80")],
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
        &[("host", "files.example.org"), ("origin", "http://evil.example")],
        &[("sec-fetch-site", "cross-site")],
    ] {
        let answer = server.ask("POST", &target, headers, "");
        assert_eq!(answer.status, 403, "{headers:?}: {}", answer.text());
        if headers[0].0 != "sec-fetch-site" {
            assert_eq!(server.ask("GET", "/v1/status", headers, "").status, 403, "{headers:?}");
        }
    }
    assert_eq!(m.quarantine().len(), 1, "nothing of it was done");
    assert_eq!(server.ask("GET", "/v1/status", &[("host", "files.example.org:443")], "").status, 200);
    let own = [("host", "files.example.org"), ("origin", "https://files.example.org")];
    assert_eq!(server.ask("POST", &target, &own, "").status, 200);
}

#[test]
fn beyond_loopback_only_with_a_token() {
    let m = Setup::default().unmounted();
    let token = m.home().join("token");
    std::fs::write(&token, "a-token-of-some-length\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    for admin in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9000"] {
        let mut args = m.mount_args();
        args.extend(["--admin".into(), admin.into()]);
        let out = Command::new(env!("CARGO_BIN_EXE_commitfs")).args(&args).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{}", show(&out));
        assert!(String::from_utf8_lossy(&out.stderr).contains("--admin-token-file"), "{}", show(&out));
    }
    let config = format!("admin = '0.0.0.0:0'\nadmin_token_file = '{}'\n", token.display());
    let m = Setup::default().config(&config).mount();
    let Server::Tcp(address) = m.tcp() else { panic!("no address") };
    // As from another host, where this one has an address for others: no packet is sent to find it out.
    let outward = std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()))
        .map(|own| own.ip().to_string());
    for host in outward.into_iter().chain(["127.0.0.1".to_owned()]) {
        let server = Server::Tcp(address.replace("0.0.0.0", &host));
        for headers in [&[][..], &[("authorization", "Bearer wrong-token-of-length")]] {
            for target in ["/v1/status", "/v1/events", "/metrics", "/", "/v1/openapi.json", "/v1/folders"] {
                let answer = server.ask("GET", target, headers, "");
                assert_eq!(answer.status, 401, "{host} {target}");
                assert!(answer.header("www-authenticate").is_some());
                assert!(!answer.text().contains("a-token-of"), "{}", answer.text());
            }
            assert_eq!(server.ask("POST", "/v1/trash/purge", headers, "").status, 401, "{host}");
        }
        for shown in ["Bearer a-token-of-some-length", "Basic YWRtaW46YS10b2tlbi1vZi1zb21lLWxlbmd0aA=="] {
            assert_eq!(server.ask("GET", "/v1/status", &[("authorization", shown)], "").status, 200, "{host}");
        }
    }
    assert_eq!(m.http().get("/v1/status").status, 200, "the socket is its owner's");
    assert!(!m.log().contains("a-token-of"));
}
