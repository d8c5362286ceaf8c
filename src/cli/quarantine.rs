//! `quarantine`: looking at drafts that were kept aside, and deciding about them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::{Value, json};

use super::daemon::{connect, daemon};
use super::rows::{self, path, size, story_json};
use super::show::{story, story_text};
use super::{CliError, Place, print, print_json, target};
use crate::commit::RESERVED;
use crate::journal::read::Reader;
use crate::journal::{DraftId, DraftRow, DraftState};

pub(super) fn list(place: Place<'_>, json: bool) -> Result<(), CliError> {
    let rows = Reader::open(&target::find(place)?)?.quarantined()?;
    if json {
        return print_json(&rows.iter().map(|row| Value::Object(rows::draft_json(row))).collect());
    }
    print(&if rows.is_empty() { "quarantine is empty\n".to_owned() } else { rows::draft_table(&rows) })
}

pub(super) fn show(place: Place<'_>, id: DraftId, json: bool) -> Result<(), CliError> {
    let reader = Reader::open(&target::find(place)?)?;
    let story = story(&reader, id)?;
    expect_quarantined(&story.draft)?;
    let staged = if story.draft.kept { staged_path(&reader, &story.draft)? } else { None };
    if json {
        let mut object = story_json(&story);
        object["content"] = json!(staged.map(|path| path.to_string_lossy().into_owned()));
        return print_json(&object);
    }
    let content = match staged {
        Some(staged) => format!("content: {}\n", rows::text(staged.as_os_str().as_bytes())),
        None => String::new(),
    };
    print(&format!("{}{content}", story_text(&story)))
}

pub(super) fn save(place: Place<'_>, id: DraftId, file: &Path, json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    if file == Path::new("-") || is_stdout(file) {
        let mut out = io::stdout().lock();
        fetch(&state_dir, id, &mut out, CliError::Output)?;
        return out.flush().map_err(CliError::Output);
    }
    let failed = |error: &io::Error| CliError::Failure(format!("{}: {error}", file.display()));
    let written = |error: io::Error| failed(&error);
    let bytes = match fs::metadata(file) {
        // A device or a FIFO is written to, not replaced.
        Ok(there) if !there.is_file() => {
            let open = OpenOptions::new().write(true).open(file).map_err(|error| failed(&error))?;
            let bytes = fetch(&state_dir, id, &mut &open, written)?;
            flush(&open).map_err(|error| failed(&error))?;
            bytes
        }
        there => {
            // A symlink stays, and what it leads to is replaced.
            let target = there.and_then(|_| fs::canonicalize(file)).unwrap_or_else(|_| file.to_owned());
            let fresh = Fresh::beside(&target).map_err(|error| failed(&error))?;
            let bytes = fetch(&state_dir, id, &mut &fresh.file, written)?;
            fresh.publish(&target).map_err(|error| failed(&error))?;
            bytes
        }
    };
    if json {
        return print_json(&json!({ "id": id, "file": file.to_string_lossy(), "bytes": bytes }));
    }
    let shown = rows::text(file.as_os_str().as_bytes());
    print(&format!("draft {id}: {} saved to {shown}\n", size(bytes)))
}

/// Whether a path such as `/dev/stdout` leads to what standard output is: a message would end up in the content.
fn is_stdout(file: &Path) -> bool {
    let (Ok(there), Ok(out)) = (fs::metadata(file), rustix::fs::fstat(io::stdout())) else { return false };
    (there.dev(), there.ino()) == (out.st_dev, out.st_ino)
}

/// A disk keeps what it was given only then; most of what is no regular file has nothing to flush.
fn flush(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

pub(super) fn publish(place: Place<'_>, id: DraftId, json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    daemon(&state_dir, "publish")?.publish(id)?;
    let row = Reader::open(&state_dir)?.row(id)?;
    if json {
        return print_json(&json!({ "id": id, "published": true }));
    }
    let name = row.map_or_else(String::new, |row| format!(" as {}", path(&row.path)));
    print(&format!("draft {id} published{name}\n"))
}

pub(super) fn discard(place: Place<'_>, id: DraftId, yes: bool, json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    let row = Reader::open(&state_dir)?.row(id)?.ok_or_else(|| CliError::Failure(format!("no draft {id}")))?;
    expect_quarantined(&row)?;
    let mut daemon = daemon(&state_dir, "discard")?;
    if !yes && io::stdin().is_terminal() && !confirmed(&row)? {
        return Err(CliError::Failure("nothing discarded".to_owned()));
    }
    daemon.discard(id)?;
    if json {
        return print_json(&json!({ "id": id, "discarded": true }));
    }
    print(&format!("draft {id} discarded\n"))
}

fn confirmed(row: &DraftRow) -> Result<bool, CliError> {
    print(&format!("Discard draft {}, {} meant for {}? [y/N] ", row.id, size(row.bytes), path(&row.path)))?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CliError::Failure(format!("reading the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn expect_quarantined(row: &DraftRow) -> Result<(), CliError> {
    match row.state {
        DraftState::Quarantined => Ok(()),
        other => Err(CliError::Failure(format!("draft {} is {}, not quarantined", row.id, other.as_str()))),
    }
}

/// Copies a draft's content. `written` makes an error of one of `to`, which is not one of where the content comes from.
fn fetch(
    state_dir: &Path,
    id: DraftId,
    to: &mut impl Write,
    written: impl FnOnce(io::Error) -> CliError,
) -> Result<u64, CliError> {
    let mut to = Output { to, failed: None };
    let fetched = fetch_to(state_dir, id, &mut to);
    match (fetched, to.failed) {
        (Err(_), Some(error)) => Err(written(error)),
        (fetched, _) => fetched,
    }
}

/// Keeps the error of a write from being taken for one of reading.
struct Output<'a, W> {
    to: &'a mut W,
    failed: Option<io::Error>,
}

impl<W: Write> Write for Output<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.to.write(data).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failed = Some(error);
            }
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// From the daemon, or where it lies when there is none.
fn fetch_to(state_dir: &Path, id: DraftId, to: &mut impl Write) -> Result<u64, CliError> {
    if let Some(mut client) = connect(state_dir)? {
        return Ok(client.save(id, to)?);
    }
    let reader = Reader::open(state_dir)?;
    let row = reader.row(id)?.ok_or_else(|| CliError::Failure(format!("no draft {id}")))?;
    expect_quarantined(&row)?;
    if !row.kept {
        return Err(CliError::Failure(format!("draft {id} has no content: its space was given back")));
    }
    let staged = staged_path(&reader, &row)?.ok_or_else(|| {
        CliError::Failure(format!("draft {id}: the journal does not say where its content is; mount first"))
    })?;
    let failed = |error: &io::Error| CliError::Failure(format!("{}: {error}", staged.display()));
    let mut file = open_staged(&staged, row.ino).map_err(|error| failed(&error))?;
    io::copy(&mut file, to).map_err(|error| failed(&error))
}

/// Where the staged file lies on the export, if the journal knows export and instance.
fn staged_path(reader: &Reader, row: &DraftRow) -> Result<Option<PathBuf>, CliError> {
    let meta = reader.meta()?;
    let (Some(export), Some(instance)) = (meta.get("export"), meta.get("instance")) else { return Ok(None) };
    Ok(Some(Path::new(export).join(RESERVED).join("stage").join(instance).join(&row.stage)))
}

/// Only the inode that the journal means, whoever may have put something else under its name.
fn open_staged(staged: &Path, ino: u64) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(staged)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.ino() != ino {
        return Err(io::Error::other("is not the file that was staged"));
    }
    Ok(file)
}

/// A file under a temporary name, removed unless it is published.
struct Fresh {
    file: File,
    name: Option<PathBuf>,
}

impl Fresh {
    fn beside(target: &Path) -> io::Result<Fresh> {
        let Some(name) = target.file_name() else { return Err(io::ErrorKind::InvalidFilename.into()) };
        let mut temporary = std::ffi::OsString::from(".commitfs-save-");
        // A name as long as names can be would not fit behind a prefix.
        temporary.push(name.to_string_lossy().chars().take(40).collect::<String>());
        temporary.push(format!(".{}", std::process::id()));
        let path = target.with_file_name(temporary);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Fresh { file, name: Some(path) })
    }

    fn publish(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(name) = &self.name {
            fs::rename(name, target)?;
        }
        self.name = None;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = fs::remove_file(name)
        {
            eprintln!("commitfs: {}: {error}", name.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Begun, CommitKind, Entry, Journal, Owner};

    #[test]
    fn content_is_saved_without_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let (export, state) = (dir.path().join("export"), dir.path().join("state"));
        let stage = export.join(RESERVED).join("stage/i1");
        fs::create_dir_all(&stage).unwrap();
        fs::write(stage.join("s"), "content").unwrap();
        let ino = fs::metadata(stage.join("s")).unwrap().ino();
        let journal = Journal::open(&state).unwrap();
        let id = journal.next_draft_id();
        journal.submit(Entry::Meta { key: "export", value: export.display().to_string() });
        journal.submit(Entry::Meta { key: "instance", value: "i1".to_owned() });
        journal.submit(Entry::Begun(Begun {
            id,
            path: b"a".to_vec(),
            stage: "s".to_owned(),
            ino,
            kind: CommitKind::New,
            owner: Owner::default(),
        }));
        journal.close();
        let place = Place { path: None, state_dir: Some(&state) };
        let out = dir.path().join("out");
        assert!(save(place, id, &out, true).unwrap_err().to_string().contains("not quarantined"));
        let journal = Journal::open(&state).unwrap();
        journal.submit(Entry::Quarantined { id, reason: "r".to_owned(), bytes: 7, kept: true });
        journal.close();
        fs::write(&out, "old").unwrap();
        save(place, id, &out, true).unwrap();
        assert_eq!(fs::read(&out).unwrap(), b"content");

        fs::rename(stage.join("s"), stage.join("t")).unwrap();
        fs::write(stage.join("s"), "something else").unwrap();
        assert!(save(place, id, &out, true).unwrap_err().to_string().contains("not the file that was staged"));
        assert_eq!(fs::read(&out).unwrap(), b"content");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no temporary file is left");
        assert!(publish(place, id, true).unwrap_err().to_string().contains("mount first"));
    }
}
