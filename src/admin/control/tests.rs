//! Both sides together.

use std::fs;
use std::io::BufRead as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;

use super::server::{CONNECTIONS, LAST_REPLIES, SPARE};
use super::*;

#[derive(Default)]
pub(in crate::admin) struct Stub {
    content: Vec<u8>,
    slow: AtomicBool,
}

impl Verbs for Stub {
    fn status(&self) -> Value {
        json!({ "pid": 7 })
    }
    fn publish(&self, id: DraftId) -> Result<(), VerbError> {
        if id == 1 { Ok(()) } else { Err(VerbError { message: format!("no draft {id}"), errno: 2 }) }
    }
    fn discard(&self, _: DraftId) -> Result<(), VerbError> {
        Ok(())
    }
    fn open_quarantined(&self, _: DraftId) -> Result<File, VerbError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.content).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        Ok(file)
    }
    fn unmount(&self, _: bool) -> Result<(), VerbError> {
        self.slow.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }
    fn other(&self, verb: &str, request: &Value) -> Option<Result<Value, VerbError>> {
        (verb == "echo").then(|| Ok(json!({ "echo": request["path"] })))
    }
    fn rule(&self, path: &[u8]) -> String {
        path.escape_ascii().to_string()
    }
    fn mismatch(&self, _: DraftId, _: &str) -> Result<(), VerbError> {
        Ok(())
    }
    fn log_level(&self, directives: &str) -> Result<String, String> {
        Err(directives.to_owned())
    }
}

#[test]
fn verbs_and_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let _server = serve(dir.path(), Arc::new(Stub { content: vec![b'x'; 300_000], ..Stub::default() })).unwrap();
    let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = Client::connect(dir.path()).unwrap();
    assert_eq!(client.status().unwrap()["pid"], 7);
    client.publish(1).unwrap();
    let error = client.publish(2).unwrap_err();
    assert!(matches!(&error, ClientError::Refused { errno: 2, .. }), "{error}");
    let mut saved = Vec::new();
    assert_eq!(client.save(1, &mut saved).unwrap(), 300_000);
    assert_eq!(saved, vec![b'x'; 300_000]);
    client.discard(1).unwrap();
    assert_eq!(client.rule("d/ü".as_bytes()).unwrap(), "d/\\xc3\\xbc");
    assert_eq!(client.rule(b"\xff\n").unwrap(), "\\xff\\n");
    assert_eq!(client.ask(&json!({ "verb": "echo", "path": "p" })).unwrap()["echo"], "p");
}

#[test]
fn nonsense_is_answered_and_long_lines_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let _server = serve(dir.path(), Arc::new(Stub::default())).unwrap();
    let mut client = Client::connect(dir.path()).unwrap();
    for line in ["nonsense\n", "[]\n", "{}\n", "{\"verb\":\"dance\"}\n", "{\"verb\":\"publish\"}\n"] {
        client.stream.get_mut().write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        client.stream.read_line(&mut answer).unwrap();
        assert!(answer.starts_with("{\"errno\":22") && answer.contains("\"ok\":false"), "{answer}");
    }
    // The server hangs up before it has read all of this.
    client.stream.get_mut().write_all(&vec![b'x'; 70_000]).unwrap_or_default();
    assert!(client.status().is_err());
    assert!(Client::connect(dir.path()).unwrap().status().is_ok());
}

#[test]
fn a_stale_socket_is_replaced_and_a_long_folder_works() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(200));
    fs::create_dir(&long).unwrap();
    drop(bind(&long, SOCKET).unwrap());
    assert_eq!(Client::connect(&long).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let server = serve(&long, Arc::new(Stub::default())).unwrap();
    assert!(Client::connect(&long).unwrap().status().is_ok());
    drop(server);
    assert_eq!(Client::connect(&long).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn stopping_ends_idle_connections_and_lets_the_last_reply_out() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Arc::new(Stub::default());
    let server = serve(dir.path(), Arc::clone(&stub) as Arc<dyn Verbs>).unwrap();
    let mut idle = Client::connect(dir.path()).unwrap();
    idle.status().unwrap();
    let mut busy = Client::connect(dir.path()).unwrap();
    let asking = std::thread::spawn(move || busy.unmount(false));
    while !stub.slow.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = Instant::now();
    drop(server);
    assert!(begun.elapsed() < LAST_REPLIES);
    asking.join().unwrap().unwrap();
    assert!(idle.status().is_err());
}

#[test]
fn connections_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let _server = serve(dir.path(), Arc::new(Stub::default())).unwrap();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| Client::connect(dir.path()).unwrap()).collect();
    clients.iter_mut().for_each(|client| drop(client.status().unwrap()));
    // What is left is for two verbs.
    let mut spare: Vec<_> = (0..SPARE).map(|_| Client::connect(dir.path()).unwrap()).collect();
    for client in &mut spare {
        client.status().unwrap();
        assert!(matches!(client.publish(1), Err(ClientError::Refused { errno: 11, .. })));
    }
    assert!(Client::connect(dir.path()).unwrap().status().is_err());
    clients.clear();
    spare.clear();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Client::connect(dir.path()).unwrap().status().is_err() {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn a_daemon_that_says_nothing_is_named_and_one_that_is_slow_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let listener = bind(dir.path(), SOCKET).unwrap();
    let mut client = Client::connect(dir.path()).unwrap();
    client.patience = Duration::from_millis(10);
    let error = client.status().unwrap_err();
    assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    // It takes up the conversation only when it comes to it.
    let mut client = Client::connect(dir.path()).unwrap();
    let asking = std::thread::spawn(move || client.status());
    drop(listener.accept().unwrap());
    let mut stream = io::BufReader::new(listener.accept().unwrap().0);
    stream.read_line(&mut String::new()).unwrap();
    reply(stream.get_mut(), &json!({ "ok": true, "pid": 7 })).unwrap();
    assert_eq!(asking.join().unwrap().unwrap()["pid"], 7);
}

#[test]
fn hex_round_trip() {
    assert_eq!(from_hex(&to_hex(b"\x00\xffa")).unwrap(), b"\x00\xffa");
    assert!(from_hex("abc").is_none() && from_hex("zz").is_none());
}

#[test]
fn a_path_means_something_inside_the_mount_or_is_refused() {
    for (asked, meant) in [("", ""), ("/", ""), ("a", "a"), ("//a/./b//c/.", "a/b/c"), ("..a/b../...", "..a/b../...")] {
        assert_eq!(inside(asked.as_bytes()).unwrap(), meant.as_bytes(), "{asked}");
    }
    for outside in ["..", "../a", "a/../b", "a/..", "/../a", "a\0b"] {
        let error = inside(outside.as_bytes()).unwrap_err();
        assert_eq!(error.errno, Errno::INVAL.raw_os_error(), "{outside}: {error}");
    }
}

#[test]
fn a_path_in_hex_wins_and_is_refused_where_it_is_none() {
    assert_eq!(path_in(&json!({})).unwrap(), None);
    assert_eq!(path_in(&json!({ "path": "a", "path_hex": null })).unwrap(), Some(b"a".to_vec()));
    assert_eq!(path_in(&json!({ "path": "a", "path_hex": "ff" })).unwrap(), Some(b"\xff".to_vec()));
    let error = path_in(&json!({ "path": "a", "path_hex": "f" })).unwrap_err();
    assert_eq!((error.errno, error.message.as_str()), (Errno::INVAL.raw_os_error(), "path_hex: is not hex"));
}
