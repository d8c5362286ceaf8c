//! The daemon's side: a thread per connection, few of them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net;
use serde_json::{Value, json};

use super::{DraftId, IDLE, SOCKET, VerbError, Verbs, path_in, reply};

/// Connections served at once; more are refused.
pub(super) const CONNECTIONS: usize = 32;
/// As many more may ask for the status, or for an end: what the others have asked for may not come back for long, although
/// nobody waits for it any more.
pub(super) const SPARE: usize = 8;
const TOO_MANY: &str = "too many control connections, try again";
/// A path has at most 4096 bytes; each may take six characters of JSON.
const LINE: u64 = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How long a stopping server waits for replies that are being written.
pub(super) const LAST_REPLIES: Duration = Duration::from_secs(3);

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
pub(in crate::admin) fn bind(state_dir: &Path, name: &str) -> io::Result<UnixListener> {
    let dir = File::open(state_dir)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let fresh = through.join(format!("{name}.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = listen_for_owner(&fresh)?;
    fs::rename(&fresh, through.join(name))?;
    Ok(listener)
}

/// The name gets the mode that the socket has before, so that nobody else can connect in between, whatever the umask.
fn listen_for_owner(name: &Path) -> io::Result<UnixListener> {
    let socket = net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, net::SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &net::SocketAddrUnix::new(name)?)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
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
    let spare = {
        let mut open = connections.open.lock();
        if open.len() >= CONNECTIONS + SPARE {
            drop(open);
            return reply(&mut stream, &refusal(TOO_MANY, Errno::AGAIN.raw_os_error()));
        }
        open.insert(number, stream.try_clone()?);
        open.len() > CONNECTIONS
    };
    let registered = Registered { number, connections: Arc::clone(connections) };
    let verbs = Arc::clone(verbs);
    std::thread::Builder::new().name("control-conn".to_owned()).spawn(move || {
        let _registered = registered;
        if let Err(error) = converse(&stream, &*verbs, spare) {
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

/// A spare connection serves but few verbs.
fn converse(stream: &UnixStream, verbs: &dyn Verbs, spare: bool) -> io::Result<()> {
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
        let answered = match request["verb"].as_str() {
            Some("status" | "umount") => answer(&request, verbs),
            _ if spare => Err(VerbError::new(Errno::AGAIN, TOO_MANY)),
            _ => answer(&request, verbs),
        };
        match answered {
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
            let detail = request["detail"].as_str().ok_or_else(|| VerbError::invalid("request has no detail"))?;
            verbs.mismatch(draft(request)?, detail).map(done)
        }
        Some("log-level") => {
            let directives = request["level"].as_str().ok_or_else(|| VerbError::invalid("request has no level"))?;
            let level = verbs.log_level(directives).map_err(VerbError::invalid)?;
            Ok(Answer::Line(json!({ "ok": true, "level": level })))
        }
        Some(other) => match verbs.other(other, request) {
            Some(answer) => answer.map(|mut fields| {
                fields["ok"] = true.into();
                Answer::Line(fields)
            }),
            None => Err(VerbError::invalid(format!("unknown verb {other:?}"))),
        },
        None => Err(VerbError::invalid("request has no verb")),
    }
}

fn draft(request: &Value) -> Result<DraftId, VerbError> {
    request["id"].as_i64().ok_or_else(|| VerbError::invalid("request has no draft id"))
}

fn path(request: &Value) -> Result<Vec<u8>, VerbError> {
    path_in(request)?.ok_or_else(|| VerbError::invalid("request has no path"))
}

fn refusal(message: &str, errno: i32) -> Value {
    json!({ "ok": false, "error": message, "errno": errno })
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Without a umask that would do it: in a child process, because a umask is the whole process's.
    #[test]
    fn a_socket_is_its_owners_from_the_beginning() {
        const HERE: &str = "COMMITFS_TEST_SOCKET";
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        if let Some(name) = std::env::var_os(HERE) {
            rustix::process::umask(Mode::empty());
            let _listener = listen_for_owner(Path::new(&name)).unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("socket");
        let test = "admin::control::server::tests::a_socket_is_its_owners_from_the_beginning";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(HERE, &name)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(mode(&name), 0o600);
        UnixStream::connect(&name).expect_err("nobody listens any more");
    }
}
