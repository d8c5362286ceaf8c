//! A plain HTTP/1.1 client over TCP or the socket, and a reader of event streams.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::mount::Mount;
use super::wait::{LIMIT, poll};

/// What a mount with [`Setup::admin`](super::Setup::admin) asks for.
pub const TOKEN: &str = "a-token-of-the-tests";

/// Where to ask.
#[derive(Clone, Debug)]
pub enum Server {
    Tcp(String),
    /// The same, and [`TOKEN`] is shown with each request.
    TcpWithToken(String),
    Unix(PathBuf),
}

/// A connection's two directions.
pub trait Duplex: Read + Write + Send {
    fn patience(&self, limit: Duration);
}

impl Duplex for TcpStream {
    fn patience(&self, limit: Duration) {
        self.set_read_timeout(Some(limit)).unwrap();
    }
}

impl Duplex for UnixStream {
    fn patience(&self, limit: Duration) {
        self.set_read_timeout(Some(limit)).unwrap();
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Mount {
    /// The HTTP socket in the state folder.
    pub fn http(&self) -> Server {
        Server::Unix(self.state().join("http.sock"))
    }

    /// The TCP address of a mount with [`Setup::admin`](super::Setup::admin), or with `admin = "127.0.0.1:0"`. A daemon says it once its control socket is there, which is
    /// soon after the mount.
    #[track_caller]
    pub fn tcp(&self) -> Server {
        let address = || self.json(&["status"])["admin"].as_str().map(str::to_owned);
        let address = poll(LIMIT, address).unwrap_or_else(|| panic!("the daemon says no address:\n{}", self.log()));
        if self.has_token() { Server::TcpWithToken(address) } else { Server::Tcp(address) }
    }
}

impl Server {
    #[track_caller]
    pub fn connect(&self) -> Box<dyn Duplex> {
        let stream: Box<dyn Duplex> = match self {
            Server::Tcp(address) | Server::TcpWithToken(address) => Box::new(TcpStream::connect(address).unwrap()),
            Server::Unix(path) => {
                // Addresses of sockets are short, paths are not.
                let dir = std::fs::File::open(path.parent().unwrap()).unwrap();
                let fd = std::os::fd::AsRawFd::as_raw_fd(&dir);
                let name = path.file_name().unwrap().to_str().unwrap();
                Box::new(UnixStream::connect(format!("/proc/self/fd/{fd}/{name}")).unwrap())
            }
        };
        stream.patience(LIMIT);
        stream
    }

    fn host(&self) -> String {
        match self {
            Server::Tcp(address) | Server::TcpWithToken(address) => address.clone(),
            Server::Unix(_) => "localhost".to_owned(),
        }
    }

    /// One request on a connection of its own. `headers` come after `Host`, or instead of it.
    #[track_caller]
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = BufReader::new(self.send(method, target, headers, body));
        let (status, headers) = head(&mut stream);
        let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
        let length = headers.iter().find(|(n, _)| n == "content-length").map(|(_, v)| v.parse::<u64>().unwrap());
        let mut body = Vec::new();
        if method == "HEAD" {
        } else if chunked {
            Chunks { inner: stream, left: 0, ended: false }.read_to_end(&mut body).unwrap();
        } else {
            stream.take(length.unwrap_or(u64::MAX)).read_to_end(&mut body).unwrap();
        }
        Answer { status, headers, body }
    }

    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Box<dyn Duplex> {
        let mut stream = self.connect();
        let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            text.push_str(&format!("Host: {}\r\n", self.host()));
        }
        if matches!(self, Server::TcpWithToken(_)) {
            text.push_str(&format!("Authorization: Bearer {TOKEN}\r\n"));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], "")
    }

    #[track_caller]
    pub fn post(&self, target: &str) -> Answer {
        self.ask("POST", target, &[], "")
    }

    /// A stream of events; the server must accept.
    #[track_caller]
    pub fn events(&self, query: &str, headers: &[(&str, &str)]) -> Stream {
        let mut reader = BufReader::new(self.send("GET", &format!("/v1/events?{query}"), headers, ""));
        let (status, headers) = head(&mut reader);
        assert_eq!(status, 200, "{headers:?}");
        let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
        let lines: Box<dyn BufRead + Send> = if chunked {
            Box::new(BufReader::with_capacity(4096, Chunks { inner: reader, left: 0, ended: false }))
        } else {
            Box::new(reader)
        };
        Stream { lines, headers }
    }
}

fn head(stream: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let line = |stream: &mut dyn BufRead| {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let first = line(stream);
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no answer: {first:?}"));
    let mut headers = Vec::new();
    loop {
        let next = line(stream);
        let Some((name, value)) = next.split_once(':') else { return (status, headers) };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// Takes chunks apart; ends at the last one only, so that a stream cut off is an error.
struct Chunks<R> {
    inner: R,
    left: usize,
    ended: bool,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            self.inner.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16);
            self.left = size.map_err(|_| std::io::Error::new(ErrorKind::UnexpectedEof, format!("chunk {line:?}")))?;
            if self.left == 0 {
                self.ended = true;
                self.inner.read_line(&mut line)?;
                return Ok(0);
            }
        }
        let want = self.left.min(buf.len());
        let got = self.inner.read(&mut buf[..want])?;
        self.left -= got;
        if self.left == 0 {
            self.inner.read_exact(&mut [0; 2])?;
        }
        Ok(got)
    }
}

/// Server-Sent Events as they come.
pub struct Stream {
    lines: Box<dyn BufRead + Send>,
    pub headers: Vec<(String, String)>,
}

/// A block of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    pub id: Option<i64>,
    pub event: String,
    pub data: Value,
    pub comment: bool,
    pub retry: bool,
}

impl Stream {
    /// The next block; `None` at a proper end. Anything else than a whole block is an error.
    pub fn block(&mut self) -> std::io::Result<Option<Block>> {
        let mut block = Block::default();
        let mut begun = false;
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                return if begun { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
            let Some(line) = line.strip_suffix('\n') else { return Err(ErrorKind::UnexpectedEof.into()) };
            match line.split_once(": ").unwrap_or((line, "")) {
                ("", "") => return Ok(Some(block)),
                ("", _) => block.comment = true,
                ("id", id) => block.id = Some(id.parse().unwrap()),
                ("event", event) => block.event = event.to_owned(),
                ("data", data) => block.data = serde_json::from_str(data).unwrap(),
                ("retry", _) => block.retry = true,
                other => panic!("what is {other:?}?"),
            }
            begun = true;
        }
    }

    /// The next block that is an event.
    #[track_caller]
    pub fn event(&mut self) -> Block {
        loop {
            let block = self.block().unwrap().expect("an event, not the stream's end");
            if !block.data.is_null() {
                return block;
            }
        }
    }
}
