//! The control socket: `control.sock` in the state folder, for its owner only.
//!
//! One JSON object per line, one reply line each. A reply is `{"ok":true,…}` or `{"ok":false,"error":TEXT,"errno":N}`; the
//! reply to `save` is followed by as many raw bytes as it announces. Paths that are not UTF-8 travel as `path_hex`.
//!
//! Addresses of sockets are limited to 108 bytes and state folders are not, so both sides reach the socket through
//! a descriptor of its folder.

mod client;
mod server;
#[cfg(test)]
pub(super) mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;

pub use crate::commit::VerbError;
use crate::inode::display_path;
pub use crate::journal::DraftId;
use crate::sys::Errno;
pub use client::{Client, ClientError};
pub(super) use server::bind;
pub use server::{ControlServer, serve};

/// Name of the socket in the state folder.
pub const SOCKET: &str = "control.sock";

/// Who says nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(30);

/// What a daemon does when asked. Called from several threads at once.
pub trait Verbs: Send + Sync + 'static {
    /// An object with what only the daemon knows: `pid`, `source`, `mountpoint`, `uptime_seconds`, `journal` (`ok` or
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

/// The path in a request, as [`add_path`] has put it there, if it has one.
pub fn path_in(request: &Value) -> Result<Option<Vec<u8>>, VerbError> {
    let path = match request["path_hex"].as_str() {
        Some(hex) => Some(from_hex(hex).ok_or_else(|| VerbError::new(Errno::INVAL, "path_hex: is not hex"))?),
        None => request["path"].as_str().map(|path| path.as_bytes().to_vec()),
    };
    path.map(|path| inside(&path)).transpose()
}

/// A path relative to the mount, in the one way in which names are compared: without `.` and slashes that mean nothing.
/// Every path that somebody asks with passes here, so that nothing but the mount can be meant: `EINVAL` for one with `..`,
/// or with a zero byte.
pub fn inside(path: &[u8]) -> Result<Vec<u8>, VerbError> {
    let refused = |why| Err(VerbError::new(Errno::INVAL, format!("path {}: {why}", display_path(path))));
    if path.contains(&0) {
        return refused("has a zero byte, which no name has");
    }
    let components = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let components: Vec<&[u8]> = components.collect();
    if components.contains(&&b".."[..]) {
        return refused("has '..' in it: say it from the root of the mount on");
    }
    Ok(components.join(&b'/'))
}

/// Puts a path into a request.
pub fn add_path(request: &mut Value, path: &[u8]) {
    match std::str::from_utf8(path) {
        Ok(path) => request["path"] = path.into(),
        Err(_) => request["path_hex"] = to_hex(path).into(),
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

/// One line, either way.
fn reply(to: &mut impl Write, value: &Value) -> io::Result<()> {
    let mut line = value.to_string();
    line.push('\n');
    to.write_all(line.as_bytes())
}
