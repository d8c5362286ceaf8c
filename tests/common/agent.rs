//! The test's side of an agent: one method per command, errors as errno names.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::{LIMIT, poll};
use super::wire;

/// An errno by name, as the agent reported it.
#[derive(Clone, PartialEq, Eq)]
pub struct Errno(pub String);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<&str> for Errno {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// What a command came to.
pub type Outcome<T> = Result<T, Errno>;

/// `stat` in the words of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub ino: u64,
    pub size: u64,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i128,
    pub blocks: u64,
    pub dev: u64,
}

impl Attributes {
    fn parse(tokens: &[Vec<u8>]) -> Self {
        let text = |i: usize| String::from_utf8_lossy(&tokens[i]).into_owned();
        let n = |i: usize| text(i).parse::<u64>().unwrap();
        Attributes {
            ino: n(0),
            size: n(1),
            mode: u32::from_str_radix(&text(2), 8).unwrap(),
            nlink: n(3),
            uid: n(4) as u32,
            gid: n(5) as u32,
            mtime: text(6).parse().unwrap(),
            blocks: n(7),
            dev: n(8),
        }
    }

    /// Permission bits.
    pub fn perm(&self) -> u32 {
        self.mode & 0o7777
    }

    pub fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// A simulated application in a process of its own. Processes started with [`Agent::start`] are siblings, so none is in
/// another's family; those made by [`Agent::fork`] are.
pub struct Agent {
    name: String,
    pid: u32,
    stream: RefCell<BufReader<UnixStream>>,
    child: RefCell<Option<Child>>,
    /// A process, and none of ours.
    forked: bool,
    said: RefCell<VecDeque<String>>,
    limit: Cell<Duration>,
}

static SOCKETS: AtomicU64 = AtomicU64::new(0);

/// A name that no other socket on this machine has.
pub fn socket_name() -> String {
    format!("commitfs-test-{}-{}", std::process::id(), SOCKETS.fetch_add(1, Ordering::Relaxed))
}

fn listen() -> (String, UnixListener) {
    let name = socket_name();
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    (name, listener)
}

/// The example binary of that name, built by `cargo test` next to the tests.
pub fn example(name: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let path = me.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples` (a plain `cargo test` does)", path.display());
    path
}

impl Agent {
    /// Starts an agent with `folder` as its working directory.
    pub fn start(name: &str, folder: &Path) -> Agent {
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        let (socket, listener) = listen();
        let mut command = Command::new(BINARY.get_or_init(|| example("agent")));
        command.arg(&socket).current_dir(folder).stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("agent {name} in {}: {e}", folder.display()));
        let pid = child.id();
        let agent = Agent::attach(name, pid, &listener);
        agent.child.replace(Some(child));
        let hello = agent.ask(&["hello"]).unwrap();
        let theirs = String::from_utf8_lossy(&hello[0]).into_owned();
        assert_eq!(theirs, wire::FINGERPRINT.to_string(), "a stale agent: run `cargo build --examples`");
        agent
    }

    fn attach(name: &str, pid: u32, listener: &UnixListener) -> Agent {
        let stream =
            poll(LIMIT, || listener.accept().ok()).unwrap_or_else(|| panic!("agent {name} never called back")).0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Agent {
            name: name.to_owned(),
            pid,
            stream: RefCell::new(BufReader::new(stream)),
            child: RefCell::new(None),
            forked: false,
            said: RefCell::default(),
            limit: Cell::new(LIMIT),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// For commands that work for long.
    pub fn patience(&self, limit: Duration) {
        self.limit.set(limit);
        self.stream.borrow().get_ref().set_read_timeout(Some(limit)).unwrap();
    }

    /// Sends a command and does not wait.
    pub fn send<T: AsRef<[u8]>>(&self, tokens: &[T]) {
        let line = wire::join(tokens);
        let mut said = self.said.borrow_mut();
        if said.len() >= 40 {
            said.pop_front();
        }
        said.push_back(shorten(&line));
        self.stream
            .borrow_mut()
            .get_mut()
            .write_all(line.as_bytes())
            .unwrap_or_else(|e| panic!("agent {}: {e}", self.name));
    }

    /// Waits for the answer to a command that was sent.
    #[track_caller]
    pub fn answer(&self) -> Outcome<Vec<Vec<u8>>> {
        let mut line = String::new();
        match self.stream.borrow_mut().read_line(&mut line) {
            Ok(0) => panic!("agent {} is gone", self.name),
            Ok(_) => {}
            Err(e) => panic!(
                "agent {} does not answer within {:?} ({e}):\n{}",
                self.name,
                self.limit.get(),
                self.whereabouts()
            ),
        }
        let outcome = wire::split(&line);
        if let Some(said) = self.said.borrow_mut().back_mut() {
            said.push_str(" -> ");
            said.push_str(&shorten(&line));
        }
        match outcome[0].as_slice() {
            b"ok" => Ok(outcome[1..].to_vec()),
            _ => Err(Errno(String::from_utf8_lossy(outcome.get(1).map_or(b"?", Vec::as_slice)).into_owned())),
        }
    }

    /// Whether the answer to a command that was sent is there.
    pub fn has_answered(&self) -> bool {
        let stream = self.stream.borrow();
        let mut readable = [rustix::event::PollFd::new(stream.get_ref(), rustix::event::PollFlags::IN)];
        !stream.buffer().is_empty() || rustix::event::poll(&mut readable, Some(&Default::default())).unwrap() > 0
    }

    #[track_caller]
    pub fn ask<T: AsRef<[u8]>>(&self, tokens: &[T]) -> Outcome<Vec<Vec<u8>>> {
        self.send(tokens);
        self.answer()
    }

    /// Where its threads hang, for the report of a failure.
    fn whereabouts(&self) -> String {
        let mut text = String::new();
        hanging(self.pid, &mut text);
        text + &self.transcript()
    }

    fn transcript(&self) -> String {
        let said = self.said.borrow();
        let lines: Vec<String> = said.iter().map(|l| format!("  {}: {}", self.name, l)).collect();
        lines.join("\n")
    }

    /// Starts an agent inside this one: a forked child that shares its descriptors, and is of its family.
    #[track_caller]
    pub fn fork(&self, name: &str) -> Agent {
        self.inner("fork", name)
    }

    /// A grandchild whose parent has already gone, as daemons are made.
    #[track_caller]
    pub fn double_fork(&self, name: &str) -> Agent {
        self.inner("dfork", name)
    }

    /// Processes below this one that lose their parent become its children.
    #[track_caller]
    pub fn become_subreaper(&self) {
        self.send(&["subreaper"]);
        self.answer().unwrap();
    }

    /// A second thread of the same process.
    #[track_caller]
    pub fn thread(&self, name: &str) -> Agent {
        self.inner("thread", name)
    }

    #[track_caller]
    fn inner(&self, how: &str, name: &str) -> Agent {
        let (socket, listener) = listen();
        self.send(&[how, &socket]);
        let mut inner = Agent::attach(name, 0, &listener);
        self.answer().unwrap();
        let hello = inner.ask(&["hello"]).unwrap();
        inner.pid = String::from_utf8_lossy(&hello[1]).parse().unwrap();
        inner.forked = how != "thread";
        inner
    }

    /// Kills it from outside and waits until the kernel has let go of it.
    #[track_caller]
    pub fn kill(&self, signal: Signal) {
        self.signal(signal);
        self.gone();
    }

    /// Sends it a signal, and waits for nothing.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid as i32).unwrap(), signal).unwrap();
    }

    /// Lets it end by itself, descriptors still open.
    #[track_caller]
    pub fn exit(&self, status: i32) {
        self.send(&["exit", &status.to_string()]);
        self.gone();
    }

    /// Lets it take a signal's default action by itself.
    #[track_caller]
    pub fn die(&self, signal: Signal) {
        self.send(&["die", &signal.as_raw().to_string()]);
        self.gone();
    }

    /// Waits until the process has ended; one started by the test is reaped.
    #[track_caller]
    pub fn gone(&self) -> Option<ExitStatus> {
        let mut child = self.child.borrow_mut();
        let ended = poll(LIMIT, || match child.as_mut() {
            Some(c) => c.try_wait().unwrap().map(Some),
            None => is_gone(self.pid).then_some(None),
        });
        ended.unwrap_or_else(|| panic!("agent {} does not end:\n{}", self.name, self.whereabouts()))
    }
}

/// Where a process and its children wait.
fn hanging(pid: u32, text: &mut String) {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let of = |what: &str| read(task.path().join(what));
        text.push_str(&format!(
            "  {} ({}): {}, call {}\n",
            task.path().display(),
            of("comm"),
            of("wchan"),
            of("syscall")
        ));
        for child in of("children").split_whitespace().filter_map(|c| c.parse().ok()) {
            hanging(child, text);
        }
    }
}

/// Whether a process has ended, reaped or not.
fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => true,
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("agent {} (pid {}) did:\n{}", self.name, self.pid, self.transcript());
        }
        // A forked agent, or a thread, goes when its socket closes; a process started here is killed and reaped. What it has
        // open would keep the mount. It may hang in a request to a broken mount: then the mount's guard frees it later.
        let patience = Duration::from_secs(5);
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = poll(patience, || child.try_wait().ok().flatten());
        } else if self.forked {
            let _ = self.stream.borrow().get_ref().shutdown(Shutdown::Both);
            let _ = poll(patience, || is_gone(self.pid).then_some(()));
        }
    }
}

fn shorten(line: &str) -> String {
    let line = line.trim_end();
    match line.char_indices().nth(160) {
        None => line.to_owned(),
        Some((at, _)) => format!("{}… ({} characters)", &line[..at], line.len()),
    }
}

impl Agent {
    /// One more word for the calls below.
    #[track_caller]
    pub(super) fn attributes(&self, tokens: &[&[u8]]) -> Outcome<Attributes> {
        self.ask(tokens).map(|t| Attributes::parse(&t))
    }
}
