//! The command line's side.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};

use super::{DraftId, IDLE, SOCKET, add_path, reply};

/// How long a daemon may take to say what it is doing. Seconds are not enough on a machine that is busy with something else.
const ANSWER: Duration = Duration::from_secs(60);

/// A conversation with a running daemon.
#[derive(Debug)]
pub struct Client {
    pub(super) stream: BufReader<UnixStream>,
    pub(super) patience: Duration,
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
    /// It said nothing for as long as one waits.
    #[error("control socket: the daemon does not answer within {seconds} s")]
    Silent {
        /// How long that was.
        seconds: u64,
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
        Ok(Client { stream: BufReader::new(stream), patience: ANSWER })
    }

    /// What the daemon says of itself. A daemon that does not answer within a minute is an error.
    pub fn status(&mut self) -> Result<Value, ClientError> {
        self.stream.get_ref().set_read_timeout(Some(self.patience))?;
        let status = self.ask(&json!({ "verb": "status" }));
        self.stream.get_ref().set_read_timeout(None)?;
        match status {
            Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::Silent { seconds: self.patience.as_secs() })
            }
            said => said,
        }
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
        let mut request = json!({ "verb": "rules" });
        add_path(&mut request, path);
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
