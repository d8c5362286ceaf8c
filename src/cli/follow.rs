//! Commands that wait for what happens: `wait`, `events`.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::is_nobody;
use super::rows::{self, utc};
use super::{CliError, Place, print, print_json, target};
use crate::admin::check_kinds;
use crate::admin::client::{Came, Event, Events};
use crate::admin::json::event_json;
use crate::journal::DraftId;
use crate::journal::pages::Wanted;
use crate::journal::read::{EventRow, Reader};
use crate::rules;

/// Between two looks at a path, whatever events say: a rename makes no event.
const LOOK: Duration = Duration::from_millis(250);
/// Between two attempts to reach a daemon that has gone.
const AGAIN: Duration = Duration::from_secs(1);
/// Events read from the journal at once.
const PAGE: usize = 1000;

/// What is waited for.
#[derive(Clone, Copy, Default)]
pub(super) struct Condition {
    pub(super) newer_than: Option<DraftId>,
    pub(super) size: Option<u64>,
}

struct Watched {
    state_dir: PathBuf,
    /// Relative to the mount.
    inside: Vec<u8>,
    /// Where it appears: on the mount, and on the export, which shows nobody a draft.
    files: Vec<PathBuf>,
    condition: Condition,
}

pub(super) fn wait(
    place: Place<'_>,
    path: &Path,
    condition: Condition,
    timeout: Option<Duration>,
    json: bool,
) -> Result<(), CliError> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let (state_dir, inside) = target::find_below(place, path)?;
    let files = match Reader::open(&state_dir) {
        Ok(reader) => {
            let mut meta = reader.meta()?;
            let roots = ["mountpoint", "export"].map(|key| meta.remove(key).map(PathBuf::from));
            let mut files: Vec<PathBuf> =
                roots.into_iter().flatten().map(|root| root.join(OsStr::from_bytes(&inside))).collect();
            files.dedup();
            files
        }
        // Another user's mount: its files can be looked at all the same.
        Err(_) if condition.newer_than.is_none() => vec![target::resolve(path)],
        Err(error) => return Err(error.into()),
    };
    let watched = Watched { state_dir, inside, files, condition };
    let found = watched.wait(deadline)?;
    if json { print_json(&found) } else { Ok(()) }
}

impl Watched {
    /// Subscribes first and looks then, so that nothing falls between.
    fn wait(&self, deadline: Option<Instant>) -> Result<Value, CliError> {
        loop {
            let mut events = self.subscribe().ok();
            loop {
                if let Some(found) = self.look()? {
                    return Ok(found);
                }
                let now = Instant::now();
                if deadline.is_some_and(|deadline| now >= deadline) {
                    return Err(CliError::TimedOut);
                }
                let next = deadline.map_or(now + LOOK, |deadline| deadline.min(now + LOOK));
                match events.as_mut().map(|events| events.next(Some(next))) {
                    Some(Ok(Came::Event(_) | Came::Nothing)) => {}
                    // Without a daemon the file can still be looked at; it may come back.
                    Some(Ok(Came::End) | Err(_)) => events = None,
                    None => {
                        std::thread::sleep(next.saturating_duration_since(now));
                        break;
                    }
                }
            }
        }
    }

    fn subscribe(&self) -> std::io::Result<Events> {
        let glob = std::str::from_utf8(&self.inside).ok().map(|path| format!("/{}", globset::escape(path)));
        let mut query = vec![("kind", "committed")];
        query.extend(glob.as_deref().map(|glob| ("path", glob)));
        Events::subscribe(&self.state_dir, None, &query)
    }

    /// What is there now, if it is what is waited for.
    fn look(&self) -> Result<Option<Value>, CliError> {
        let mut size = 0;
        for file in &self.files {
            let Ok(metadata) = fs::symlink_metadata(file) else { return Ok(None) };
            size = metadata.len();
        }
        if self.condition.size.is_some_and(|wanted| wanted != size) {
            return Ok(None);
        }
        let mut object = rows::path_json(&self.inside);
        object.insert("size".to_owned(), size.into());
        let newest = match Reader::open(&self.state_dir) {
            Ok(reader) => {
                let newest = match self.condition.newer_than {
                    None => reader.newest_commit_of(&self.inside)?,
                    Some(than) => match reader.event_of(than)? {
                        Some(told) => reader.newer_commit_of(&self.inside, told)?,
                        // Forgotten, or still to begin.
                        None => reader.newest_commit_of(&self.inside)?.filter(|(_, row)| row.commit.id > than),
                    },
                };
                if newest.is_none() && self.condition.newer_than.is_some() {
                    return Ok(None);
                }
                newest
            }
            Err(_) if self.condition.newer_than.is_none() => None,
            Err(error) => return Err(error.into()),
        };
        if let Some((event, row)) = newest {
            object.insert("id".to_owned(), row.commit.id.into());
            object.insert("event".to_owned(), event.into());
        }
        Ok(Some(Value::Object(object)))
    }
}

/// Which events, and what to do with each.
pub(super) struct Follow<'a> {
    pub(super) follow: bool,
    pub(super) after: Option<i64>,
    pub(super) path: Option<&'a str>,
    pub(super) kinds: &'a [String],
    pub(super) exec: Option<&'a str>,
    pub(super) json: bool,
}

/// Events shown without `--after` and `--follow`.
const RECENT: usize = 20;

pub(super) fn events(place: Place<'_>, asked: &Follow<'_>) -> Result<(), CliError> {
    check_kinds(asked.kinds).map_err(CliError::Usage)?;
    let state_dir = target::find(place)?;
    let reader = Reader::open(&state_dir)?;
    let root = reader.meta()?.remove("mountpoint").map(PathBuf::from).unwrap_or_default();
    if asked.follow {
        drop(reader);
        return follow(&state_dir, &root, asked);
    }
    let glob = rules::matcher(asked.path).map_err(CliError::Glob)?;
    let wanted = Wanted { glob, contains: None };
    let takes = |event: &EventRow| wanted.takes(event, asked.kinds);
    let Some(mut position) = asked.after else {
        let recent = recent(&reader, takes)?;
        return recent.iter().try_for_each(|event| handle(&root, asked, &Value::Object(event_json(event))));
    };
    loop {
        let page = reader.events_page(position, PAGE)?;
        if !page.known {
            let data = json!({ "oldest": page.oldest, "reason": "no such event is kept: these are the oldest" });
            told(&root, asked, &Event { id: None, kind: "resync".to_owned(), data })?;
        }
        let Some(last) = page.rows.last() else { return Ok(()) };
        position = last.id;
        for event in page.rows.into_iter().filter(takes) {
            handle(&root, asked, &Value::Object(event_json(&event)))?;
        }
    }
}

/// The newest events that are wanted, in order. Pages are read from the newest back: they have no gap between them.
fn recent(reader: &Reader, takes: impl Fn(&EventRow) -> bool) -> Result<VecDeque<EventRow>, CliError> {
    let (oldest, mut end) = reader.event_range()?;
    let mut recent = VecDeque::new();
    while recent.len() < RECENT && end >= oldest {
        let rows = i64::try_from(PAGE).unwrap_or(i64::MAX).min(end - oldest + 1);
        let page = reader.events_page(end - rows, PAGE)?;
        // What is pruned meanwhile is left out: then the page begins later.
        for event in page.rows.into_iter().rev().filter(|event| event.id <= end).filter(&takes) {
            if recent.len() < RECENT {
                recent.push_front(event);
            }
        }
        end -= rows;
    }
    Ok(recent)
}

/// Until killed. A daemon that goes is waited for; what happened meanwhile is caught up with.
fn follow(state_dir: &Path, root: &Path, asked: &Follow<'_>) -> Result<(), CliError> {
    let kinds = asked.kinds.join(",");
    let mut query = Vec::new();
    query.extend(asked.path.map(|path| ("path", path)));
    if !kinds.is_empty() {
        query.push(("kind", kinds.as_str()));
    }
    let mut position = asked.after;
    let mut connected = false;
    loop {
        let mut events = match Events::subscribe(state_dir, position, &query) {
            Ok(events) => events,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                return Err(CliError::Usage(error.to_string()));
            }
            Err(error) if connected => {
                tracing::debug!(%error, "no daemon");
                std::thread::sleep(AGAIN);
                continue;
            }
            Err(error) if is_nobody(&error) => {
                let dir = state_dir.display();
                return Err(CliError::Failure(format!("events are told by the daemon, and none runs for {dir}")));
            }
            Err(error) => return Err(CliError::Failure(format!("HTTP socket in {}: {error}", state_dir.display()))),
        };
        connected = true;
        loop {
            match events.next(None) {
                Ok(Came::Event(event)) => {
                    position = events.position().or(position);
                    told(root, asked, &event)?;
                }
                Ok(Came::Nothing) => {}
                Ok(Came::End) => break,
                Err(error) => {
                    eprintln!("commitfs: {error}; connecting again");
                    break;
                }
            }
            position = events.position().or(position);
        }
        position = events.position().or(position);
    }
}

fn told(root: &Path, asked: &Follow<'_>, event: &Event) -> Result<(), CliError> {
    if event.kind == "resync" {
        let mut data = event.data.clone();
        data["kind"] = json!("resync");
        return if asked.json { print_json(&data) } else { print(&format!("resync  {}\n", text(&data["reason"]))) };
    }
    handle(root, asked, &event.data)
}

/// Prints an event and runs the command for it.
fn handle(root: &Path, asked: &Follow<'_>, data: &Value) -> Result<(), CliError> {
    if asked.json {
        print_json(data)?;
    } else if asked.exec.is_none() {
        print(&line(data))?;
    }
    match asked.exec {
        Some(command) => run(root, command, data),
        None => Ok(()),
    }
}

fn text(value: &Value) -> String {
    rows::text(value.as_str().unwrap_or_default().as_bytes())
}

fn line(data: &Value) -> String {
    let at = data["at"].as_f64().and_then(|at| Duration::try_from_secs_f64(at).ok()).unwrap_or_default();
    let size = data["size"].as_u64().map(|size| format!("  {}", rows::size(size))).unwrap_or_default();
    let detail = data["detail"].as_str().map(|_| format!("  {}", text(&data["detail"]))).unwrap_or_default();
    let id = data["id"].as_i64().unwrap_or_default();
    let when = utc(std::time::UNIX_EPOCH + at);
    format!("{id}  {when}  {}  {}{size}{detail}\n", text(&data["kind"]), text(&data["path"]))
}

/// One after the other; a command that fails is told of and not repeated.
fn run(root: &Path, command: &str, data: &Value) -> Result<(), CliError> {
    let word = |key: &str| match &data[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let inside = crate::admin::json::path_of(data);
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped());
    shell
        .env("COMMITFS_EVENT", word("id"))
        .env("COMMITFS_KIND", word("kind"))
        .env("COMMITFS_DRAFT", word("draft"))
        .env("COMMITFS_SIZE", word("size"))
        .env("COMMITFS_DETAIL", word("detail"))
        .env("COMMITFS_PATH", OsStr::from_bytes(&inside))
        .env("COMMITFS_FILE", root.join(OsStr::from_bytes(&inside)));
    let failed = |error: std::io::Error| CliError::Failure(format!("/bin/sh: {error}"));
    let mut child = shell.spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take()
        && let Err(error) = writeln!(input, "{data}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(failed(error));
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        eprintln!("commitfs: event {}: the command ended with {status}", word("id"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Begun, CommitKind, Entry, Journal, Owner};

    #[test]
    fn the_newest_events_come_in_order_from_however_far_back() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let last = i64::try_from(2 * PAGE + 7).unwrap();
        for id in 1..=last {
            let owner = Owner { uid: 0, gid: 0, pid: 1, command: String::new() };
            let (path, stage) = (b"f".to_vec(), format!("{id}.0"));
            journal.submit(Entry::Begun(Begun { id, path, stage, ino: 1, kind: CommitKind::New, owner }));
        }
        journal.flush().unwrap();
        let reader = Reader::open(dir.path()).unwrap();
        let found = |takes: fn(&EventRow) -> bool| -> Vec<i64> {
            recent(&reader, takes).unwrap().iter().map(|event| event.id).collect()
        };
        assert_eq!(found(|_| true), (last - 19..=last).collect::<Vec<_>>());
        assert_eq!(found(|event| event.id % 1000 == 3), [3, 1003, 2003]);
        assert_eq!(found(|event| event.id <= 2), [1, 2]);
        assert!(found(|_| false).is_empty());
    }

    #[test]
    fn without_events_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let _journal = Journal::open(dir.path()).unwrap();
        assert!(recent(&Reader::open(dir.path()).unwrap(), |_| true).unwrap().is_empty());
    }
}
