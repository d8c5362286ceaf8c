//! A simulated application: does the file operations a test tells it to, one at a time, and reports what came back.
//!
//! `agent SOCKET` connects to an abstract unix socket and serves it; without an argument it serves stdin and stdout,
//! which is handy by hand: `echo 'put f hello' | agent`. Forked children and threads serve sockets of their own.

mod jumble;
mod ops;
mod rounds;
mod sys;
mod wire;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

/// What a command came to.
pub type Outcome = std::io::Result<Vec<Vec<u8>>>;

/// The arguments of one command.
pub struct Args {
    tokens: std::vec::IntoIter<Vec<u8>>,
    control: Option<RawFd>,
}

impl Args {
    /// The next argument as bytes; empty when there is none.
    pub fn bytes(&mut self) -> Vec<u8> {
        self.tokens.next().unwrap_or_default()
    }

    /// The next argument as text.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The next argument as a number.
    pub fn number<T: std::str::FromStr + Default>(&mut self) -> T {
        self.text().parse().unwrap_or_default()
    }
}

fn main() {
    match std::env::args().nth(1) {
        Some(name) => serve_socket(&name, None),
        None => serve(std::io::stdin(), std::io::stdout(), None),
    }
}

/// Connects to the test's socket and serves it; a forked child first drops the socket of its parent.
pub fn serve_socket(name: &str, inherited: Option<RawFd>) {
    if let Some(control) = inherited {
        let _ = sys::close(control);
    }
    let address = SocketAddr::from_abstract_name(name).expect("a socket name");
    let stream = UnixStream::connect_addr(&address).expect("the test listens");
    let control = stream.as_raw_fd();
    let answers = stream.try_clone().expect("a second descriptor");
    serve(stream, answers, Some(control));
}

/// Answers commands until the other side hangs up.
fn serve(commands: impl Read, mut answers: impl Write, control: Option<RawFd>) {
    let mut commands = BufReader::new(commands);
    let mut line = String::new();
    loop {
        line.clear();
        match commands.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut tokens = wire::split(&line).into_iter();
        let verb = tokens.next().map(|v| String::from_utf8_lossy(&v).into_owned()).unwrap_or_default();
        let answer = match ops::run(&verb, &mut Args { tokens, control }) {
            Ok(tokens) => {
                let mut all = vec![b"ok".to_vec()];
                all.extend(tokens);
                wire::join(&all)
            }
            Err(error) => wire::join(&["err".to_owned(), errno_name(&error)]),
        };
        if answers.write_all(answer.as_bytes()).and_then(|()| answers.flush()).is_err() {
            return;
        }
    }
}

impl Args {
    /// The socket this agent is served over, which a forked child must not keep.
    pub fn control(&self) -> Option<RawFd> {
        self.control
    }
}

/// `ENOENT` and the like.
fn errno_name(error: &std::io::Error) -> String {
    const NAMES: &[(i32, &str)] = &[
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::EINTR, "EINTR"),
        (libc::EIO, "EIO"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENODEV, "ENODEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::EFBIG, "EFBIG"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::ESPIPE, "ESPIPE"),
        (libc::EROFS, "EROFS"),
        (libc::EMLINK, "EMLINK"),
        (libc::ERANGE, "ERANGE"),
        (libc::ENAMETOOLONG, "ENAMETOOLONG"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENOTEMPTY, "ENOTEMPTY"),
        (libc::ELOOP, "ELOOP"),
        (libc::ENOMSG, "ENOMSG"),
        (libc::ENODATA, "ENODATA"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::ENXIO, "ENXIO"),
        (libc::ESTALE, "ESTALE"),
        (libc::EDQUOT, "EDQUOT"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::ENOTCONN, "ENOTCONN"),
        (libc::EMFILE, "EMFILE"),
        (libc::ECONNABORTED, "ECONNABORTED"),
        (libc::EDEADLK, "EDEADLK"),
        (libc::ENOLCK, "ENOLCK"),
    ];
    let Some(number) = error.raw_os_error() else { return format!("{error}") };
    let name = NAMES.iter().find(|(n, _)| *n == number);
    name.map_or_else(|| format!("E{number}"), |(_, name)| (*name).to_owned())
}
