//! The control socket: `control.sock` in the state folder, for its owner only.
//!
//! One JSON object per line, one reply line each. A reply is `{"ok":true,…}` or `{"ok":false,"error":TEXT,"errno":N}`; the
//! reply to `save` is followed by as many raw bytes as it announces. Paths that are not UTF-8 travel as `path_hex`.
//!
//! Addresses of sockets are limited to 108 bytes and state folders are not, so both sides reach the socket through
//! a descriptor of its folder.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

pub use crate::commit::VerbError;
use crate::journal::DraftId;

/// Name of the socket in the state folder.
pub const SOCKET: &str = "control.sock";

/// Connections served at once; more are refused.
const CONNECTIONS: usize = 32;
/// A path has at most 4096 bytes; each may take six characters of JSON.
const LINE: u64 = 64 * 1024;
/// A client that says nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(30);
/// How long a stopping server waits for replies that are being written.
const LAST_REPLIES: Duration = Duration::from_secs(3);

/// What a daemon does when asked. Called from several threads at once.
pub trait Verbs: Send + Sync + 'static {
    /// An object with what only the daemon knows: `pid`, `export`, `mountpoint`, `uptime_seconds`, `journal` (`ok` or
    /// an error text); whatever else is in it is shown as it is.
    fn status(&self) -> Value;
    /// Publishes a draft from quarantine.
    fn publish(&self, id: DraftId) -> Result<(), VerbError>;
    /// Gives up a draft in quarantine.
    fn discard(&self, id: DraftId) -> Result<(), VerbError>;
    /// The content of a draft in quarantine.
    fn open_quarantined(&self, id: DraftId) -> Result<File, VerbError>;
    /// Unmounts when the commits in flight are done. Refuses, naming them, while drafts are pending, unless forced.
    fn unmount(&self, force: bool) -> Result<(), VerbError>;
    /// Which rule applies to a path relative to the mount, and why.
    fn rule(&self, path: &[u8]) -> String;
    /// Remembers that a published version is not what was published.
    fn mismatch(&self, id: DraftId, detail: &str) -> Result<(), VerbError>;
    /// Changes what is logged from now on; returns what is in force, or what is wrong with the words.
    fn log_level(&self, directives: &str) -> Result<String, String>;
    /// Any other verb: fields of the reply; `None` if there is no such verb.
    fn other(&self, verb: &str, request: &Value) -> Option<Result<Value, VerbError>>;
}

/// A running server. Dropping it takes the socket away and lets replies that are being written finish.
#[derive(Debug)]
pub struct ControlServer {
    socket: PathBuf,
    stop: Option<OwnedFd>,
    accepting: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

/// Connections that are open, by number, so that those that only wait for a request can be ended.
#[derive(Debug, Default)]
struct Connections {
    open: Mutex<HashMap<u64, UnixStream>>,
    closed: Condvar,
}

/// Starts serving. A socket that a dead daemon left is replaced; the journal's lock has made sure that it is dead.
pub fn serve(state_dir: &Path, verbs: Arc<dyn Verbs>) -> io::Result<ControlServer> {
    let socket = state_dir.join(SOCKET);
    let listener = bind(state_dir, SOCKET)?;
    listener.set_nonblocking(true)?;
    let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let connections = Arc::new(Connections::default());
    let accepting = {
        let connections = Arc::clone(&connections);
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&listener, &stopped, &connections, &verbs))?
    };
    Ok(ControlServer { socket, stop: Some(stop), accepting: Some(accepting), connections })
}

/// The socket appears under its name with its final permissions. One that a dead daemon left is replaced.
pub(super) fn bind(state_dir: &Path, name: &str) -> io::Result<UnixListener> {
    let dir = File::open(state_dir)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let fresh = through.join(format!("{name}.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, through.join(name))?;
    Ok(listener)
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop = None;
        if self.accepting.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the control socket's thread has panicked");
        }
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::warn!(%error, socket = %self.socket.display(), "cannot remove the control socket");
        }
        let mut open = self.connections.open.lock();
        for stream in open.values() {
            // A client that has gone already is as good.
            stream.shutdown(Shutdown::Read).unwrap_or_default();
        }
        let deadline = Instant::now() + LAST_REPLIES;
        while !open.is_empty() && !self.connections.closed.wait_until(&mut open, deadline).timed_out() {}
    }
}

/// Ends when the other end of `stopped` is closed.
fn accept(listener: &UnixListener, stopped: &OwnedFd, connections: &Arc<Connections>, verbs: &Arc<dyn Verbs>) {
    for number in 0.. {
        let stream = match next(listener, stopped) {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "control socket");
                // Out of descriptors, most likely: others will be closed.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if let Err(error) = converse_apart(stream, number, connections, verbs) {
            tracing::warn!(%error, "control connection");
        }
    }
}

/// The next connection; `None` when the server is to stop.
fn next(listener: &UnixListener, stopped: &OwnedFd) -> io::Result<Option<UnixStream>> {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(None);
        }
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

fn converse_apart(
    mut stream: UnixStream,
    number: u64,
    connections: &Arc<Connections>,
    verbs: &Arc<dyn Verbs>,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    {
        let mut open = connections.open.lock();
        if open.len() >= CONNECTIONS {
            drop(open);
            return reply(
                &mut stream,
                &refusal("too many control connections, try again", Errno::AGAIN.raw_os_error()),
            );
        }
        open.insert(number, stream.try_clone()?);
    }
    let registered = Registered { number, connections: Arc::clone(connections) };
    let verbs = Arc::clone(verbs);
    std::thread::Builder::new().name("control-conn".to_owned()).spawn(move || {
        let _registered = registered;
        if let Err(error) = converse(&stream, &*verbs) {
            tracing::debug!(%error, "control connection");
        }
    })?;
    Ok(())
}

/// Takes the connection off the list however its thread ends.
struct Registered {
    number: u64,
    connections: Arc<Connections>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.number);
        self.connections.closed.notify_all();
    }
}

fn converse(stream: &UnixStream, verbs: &dyn Verbs) -> io::Result<()> {
    let mut requests = BufReader::new(stream);
    let mut replies = stream;
    loop {
        let Some(line) = read_line(&mut requests)? else { return Ok(()) };
        let request: Value = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                reply(&mut replies, &refusal(&format!("request is not JSON: {error}"), Errno::INVAL.raw_os_error()))?;
                continue;
            }
        };
        match answer(&request, verbs) {
            Ok(Answer::Line(value)) => reply(&mut replies, &value)?,
            Ok(Answer::Content(file)) => send(&mut replies, file)?,
            Err(error) => reply(&mut replies, &refusal(&error.message, error.errno))?,
        }
    }
}

enum Answer {
    Line(Value),
    Content(File),
}

fn answer(request: &Value, verbs: &dyn Verbs) -> Result<Answer, VerbError> {
    let done = |()| Answer::Line(json!({ "ok": true }));
    match request["verb"].as_str() {
        Some("status") => {
            let mut status = verbs.status();
            if let Value::Object(fields) = &mut status {
                fields.insert("ok".to_owned(), true.into());
            }
            Ok(Answer::Line(status))
        }
        Some("publish") => verbs.publish(draft(request)?).map(done),
        Some("discard") => verbs.discard(draft(request)?).map(done),
        Some("save") => verbs.open_quarantined(draft(request)?).map(Answer::Content),
        Some("umount") => verbs.unmount(request["force"].as_bool().unwrap_or(false)).map(done),
        Some("rules") => Ok(Answer::Line(json!({ "ok": true, "rule": verbs.rule(&path(request)?) }))),
        Some("mismatch") => {
            let detail = request["detail"].as_str().ok_or_else(|| invalid("request has no detail".to_owned()))?;
            verbs.mismatch(draft(request)?, detail).map(done)
        }
        Some("log-level") => {
            let directives = request["level"].as_str().ok_or_else(|| invalid("request has no level".to_owned()))?;
            let level = verbs.log_level(directives).map_err(invalid)?;
            Ok(Answer::Line(json!({ "ok": true, "level": level })))
        }
        Some(other) => match verbs.other(other, request) {
            Some(answer) => answer.map(|mut fields| {
                fields["ok"] = true.into();
                Answer::Line(fields)
            }),
            None => Err(invalid(format!("unknown verb {other:?}"))),
        },
        None => Err(invalid("request has no verb".to_owned())),
    }
}

fn draft(request: &Value) -> Result<DraftId, VerbError> {
    request["id"].as_i64().ok_or_else(|| invalid("request has no draft id".to_owned()))
}

fn path(request: &Value) -> Result<Vec<u8>, VerbError> {
    path_in(request).ok_or_else(|| invalid("request has no path".to_owned()))
}

/// The path in a request, as [`add_path`] has put it there.
pub fn path_in(request: &Value) -> Option<Vec<u8>> {
    let hex = request["path_hex"].as_str().and_then(from_hex);
    hex.or_else(|| request["path"].as_str().map(|path| path.as_bytes().to_vec()))
}

/// Puts a path into a request.
pub fn add_path(request: &mut Value, path: &[u8]) {
    match std::str::from_utf8(path) {
        Ok(path) => request["path"] = path.into(),
        Err(_) => request["path_hex"] = to_hex(path).into(),
    }
}

fn invalid(message: String) -> VerbError {
    VerbError { message, errno: Errno::INVAL.raw_os_error() }
}

fn refusal(message: &str, errno: i32) -> Value {
    json!({ "ok": false, "error": message, "errno": errno })
}

fn reply(to: &mut impl Write, value: &Value) -> io::Result<()> {
    let mut line = value.to_string();
    line.push('\n');
    to.write_all(line.as_bytes())
}

/// The length is that of the moment; content in quarantine does not change.
fn send(to: &mut impl Write, mut file: File) -> io::Result<()> {
    let bytes = match file.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            return reply(to, &refusal(&error.to_string(), errno));
        }
    };
    reply(to, &json!({ "ok": true, "bytes": bytes }))?;
    let sent = io::copy(&mut (&mut file).take(bytes), to)?;
    if sent == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A line without its end; `None` at the end of the conversation.
fn read_line(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    from.take(LINE).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "line without an end, or too long")),
    }
}

/// Lower-case hex digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// What [`to_hex`] wrote.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// A conversation with a running daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// Why a daemon did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It answered that it cannot.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
        /// Its errno.
        errno: i32,
    },
    /// The conversation broke.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// It answered something else.
    #[error("control socket: unexpected reply {0}")]
    Unexpected(String),
}

impl Client {
    /// Connects to the daemon of a state folder. `NotFound` and `ConnectionRefused` mean that there is none.
    pub fn connect(state_dir: &Path) -> io::Result<Client> {
        let dir = File::open(state_dir)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
        stream.set_write_timeout(Some(IDLE))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// What the daemon says of itself. A daemon that does not answer within seconds is an error.
    pub fn status(&mut self) -> Result<Value, ClientError> {
        self.stream.get_ref().set_read_timeout(Some(Duration::from_secs(10)))?;
        let status = self.ask(&json!({ "verb": "status" }));
        self.stream.get_ref().set_read_timeout(None)?;
        status
    }

    /// Publishes a draft from quarantine.
    pub fn publish(&mut self, id: DraftId) -> Result<(), ClientError> {
        self.ask(&json!({ "verb": "publish", "id": id })).map(drop)
    }

    /// Gives up a draft in quarantine.
    pub fn discard(&mut self, id: DraftId) -> Result<(), ClientError> {
        self.ask(&json!({ "verb": "discard", "id": id })).map(drop)
    }

    /// Writes the content of a draft in quarantine, and returns its length.
    pub fn save(&mut self, id: DraftId, to: &mut impl Write) -> Result<u64, ClientError> {
        let announced = self.ask(&json!({ "verb": "save", "id": id }))?;
        let bytes = announced["bytes"].as_u64().ok_or_else(|| ClientError::Unexpected(announced.to_string()))?;
        let got = io::copy(&mut (&mut self.stream).take(bytes), to)?;
        if got < bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "content ends early").into());
        }
        Ok(bytes)
    }

    /// Unmounts; returns when the daemon has done so and begins to end.
    pub fn unmount(&mut self, force: bool) -> Result<(), ClientError> {
        self.ask(&json!({ "verb": "umount", "force": force })).map(drop)
    }

    /// Which rule applies to a path relative to the mount, and why.
    pub fn rule(&mut self, path: &[u8]) -> Result<String, ClientError> {
        let request = match std::str::from_utf8(path) {
            Ok(path) => json!({ "verb": "rules", "path": path }),
            Err(_) => json!({ "verb": "rules", "path_hex": to_hex(path) }),
        };
        let answer = self.ask(&request)?;
        answer["rule"].as_str().map(str::to_owned).ok_or_else(|| ClientError::Unexpected(answer.to_string()))
    }

    /// Has the daemon remember that a published version is not what was published.
    pub fn mismatch(&mut self, id: DraftId, detail: &str) -> Result<(), ClientError> {
        self.ask(&json!({ "verb": "mismatch", "id": id, "detail": detail })).map(drop)
    }

    /// Changes what the daemon logs from now on; returns what is in force.
    pub fn log_level(&mut self, directives: &str) -> Result<String, ClientError> {
        let answer = self.ask(&json!({ "verb": "log-level", "level": directives }))?;
        answer["level"].as_str().map(str::to_owned).ok_or_else(|| ClientError::Unexpected(answer.to_string()))
    }

    /// Sends a request and waits for the reply.
    pub fn ask(&mut self, request: &Value) -> Result<Value, ClientError> {
        reply(self.stream.get_mut(), request)?;
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon ended the conversation").into());
        }
        let unexpected = || ClientError::Unexpected(String::from_utf8_lossy(&line).trim_end().to_owned());
        let answer: Value = serde_json::from_slice(&line).map_err(|_| unexpected())?;
        match answer["ok"].as_bool() {
            Some(true) => Ok(answer),
            Some(false) => Err(ClientError::Refused {
                message: answer["error"].as_str().unwrap_or("refused without a reason").to_owned(),
                errno: answer["errno"].as_i64().and_then(|n| n.try_into().ok()).unwrap_or(Errno::IO.raw_os_error()),
            }),
            None => Err(unexpected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Stub {
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
        assert!(Client::connect(dir.path()).unwrap().status().is_err());
        clients.clear();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Client::connect(dir.path()).unwrap().status().is_err() {
            assert!(Instant::now() < deadline);
        }
    }

    #[test]
    fn hex_round_trip() {
        assert_eq!(from_hex(&to_hex(b"\x00\xffa")).unwrap(), b"\x00\xffa");
        assert!(from_hex("abc").is_none() && from_hex("zz").is_none());
    }
}
