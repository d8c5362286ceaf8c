//! A client of the events that a daemon serves on its HTTP socket, for the command line.
//!
//! It speaks HTTP/1.0, whose answers simply end with the connection.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::SOCKET;

/// Three heartbeats: a server that says nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(45);
/// Longest line; a path of 4096 bytes takes up to six characters each.
const LINE: usize = 256 * 1024;

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    stream: BufReader<UnixStream>,
    /// A line that has not come whole yet.
    line: Vec<u8>,
    /// An event that has not come whole yet.
    event: Event,
    position: Option<i64>,
    /// When something came last.
    heard: Instant,
}

/// What came.
#[derive(Debug)]
pub enum Came {
    /// An event of the journal, or `resync`.
    Event(Event),
    /// Nothing until the deadline.
    Nothing,
    /// The daemon ends, or cannot be heard any more.
    End,
}

/// One event.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// Its id; `None` for `resync`.
    pub id: Option<i64>,
    /// Its kind.
    pub kind: String,
    /// What it says.
    pub data: Value,
}

impl Events {
    /// Subscribes to events after `after`; `query` is what else is asked, encoded. `NotFound` and `ConnectionRefused`
    /// mean that there is no daemon.
    pub fn subscribe(state_dir: &Path, after: Option<i64>, query: &[(&str, &str)]) -> io::Result<Events> {
        let dir = File::open(state_dir)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let mut asked: Vec<String> = after.iter().map(|after| format!("after={after}")).collect();
        asked.extend(query.iter().map(|(name, value)| format!("{name}={}", encoded(value))));
        let request = format!("GET /v1/events?{} HTTP/1.0\r\nHost: localhost\r\n\r\n", asked.join("&"));
        (&stream).write_all(request.as_bytes())?;
        let mut events = Events {
            stream: BufReader::new(stream),
            line: Vec::new(),
            event: Event::default(),
            position: after,
            heard: Instant::now(),
        };
        let end = Some(Instant::now() + SILENCE);
        let status = events.line(end)?.unwrap_or_default();
        let accepted = status.split(' ').nth(1) == Some("200");
        while events.line(end)?.is_some_and(|line| !line.is_empty()) {}
        if !accepted {
            let mut said = String::new();
            while let Some(line) = events.line(end)? {
                said.push_str(&line);
            }
            let detail = serde_json::from_str::<Value>(&said)
                .ok()
                .and_then(|problem| problem["detail"].as_str().map(str::to_owned));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, detail.unwrap_or(status)));
        }
        Ok(events)
    }

    /// What to subscribe after, to go on where this stream has come to.
    pub fn position(&self) -> Option<i64> {
        self.position
    }

    /// Waits for the next event, until `deadline` if there is one.
    pub fn next(&mut self, deadline: Option<Instant>) -> io::Result<Came> {
        loop {
            let line = match self.line(deadline) {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Came::End),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Came::Nothing),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Came::End),
                Err(error) => return Err(error),
            };
            match line.split_once(": ") {
                Some(("id", id)) => self.event.id = id.parse().ok(),
                Some(("event", kind)) => self.event.kind = kind.to_owned(),
                Some(("data", data)) => self.event.data = serde_json::from_str(data)?,
                // Only what has come whole moves the position: what is cut off before is asked for again.
                _ if line.is_empty() => {
                    let event = std::mem::take(&mut self.event);
                    self.position = event.id.or(self.position);
                    // A heartbeat and a position have no data.
                    if !event.data.is_null() {
                        return Ok(Came::Event(event));
                    }
                }
                _ => {}
            }
        }
    }

    /// The next line; `None` at the end, or when nothing came for too long. `TimedOut` at the deadline: what has come
    /// of a line is kept.
    fn line(&mut self, deadline: Option<Instant>) -> io::Result<Option<String>> {
        loop {
            let now = Instant::now();
            let left = deadline.map_or(SILENCE, |deadline| deadline.saturating_duration_since(now));
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let quiet = (self.heard + SILENCE).saturating_duration_since(now);
            if quiet.is_zero() {
                return Ok(None);
            }
            self.stream.get_ref().set_read_timeout(Some(left.min(quiet)))?;
            match self.stream.read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.last() == Some(&b'\n') => {
                    self.heard = Instant::now();
                    let line = std::mem::take(&mut self.line);
                    return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()));
                }
                Ok(_) => return Ok(None),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            if self.line.len() > LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "line without an end"));
            }
        }
    }
}

/// As in a query: everything but letters, digits and a few signs as `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that says this to one client, and goes away.
    fn saying(dir: &Path, what: &str) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        let what = what.to_owned();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            client.write_all(what.as_bytes()).unwrap();
        })
    }

    #[test]
    fn an_event_that_is_cut_off_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let whole = "id: 8\nevent: begun\ndata: {}\n\n";
        for (cut, at) in [("id: 9\n", 8), ("id: 9\nevent: begun\ndata: {}\n", 8), ("id: 9\n\n", 9)] {
            let server = saying(dir.path(), &format!("{whole}{cut}"));
            let mut events = Events::subscribe(dir.path(), Some(7), &[]).unwrap();
            assert!(matches!(events.next(None).unwrap(), Came::Event(Event { id: Some(8), .. })));
            assert!(matches!(events.next(None).unwrap(), Came::End), "{cut:?}");
            assert_eq!(events.position(), Some(at), "{cut:?}");
            server.join().unwrap();
            std::fs::remove_file(dir.path().join(SOCKET)).unwrap();
        }
    }

    #[test]
    fn a_position_is_not_that_of_the_event_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let server = saying(dir.path(), "id: 9\n\n: heartbeat\n\nevent: resync\ndata: {}\n\n");
        let mut events = Events::subscribe(dir.path(), None, &[]).unwrap();
        assert!(matches!(events.next(None).unwrap(), Came::Event(Event { id: None, .. })));
        assert_eq!(events.position(), Some(9));
        server.join().unwrap();
    }
}
