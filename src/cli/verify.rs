//! `verify`: what was published is read again and compared with the journal.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use xxhash_rust::xxh3::xxh3_64;

use super::daemon::connect;
use super::rows::{self, size};
use super::{CliError, Place, print, print_json, stored_rules, target};
use crate::admin::control::Client;
use crate::commit::{Verdict, compare};
use crate::journal::pages::Wanted;
use crate::journal::read::Reader;
use crate::journal::{Commit, Entry, Journal};
use crate::rules::{self, Mode};
use crate::sys::{Errno, direct};

/// Commits read from the journal at once.
const PAGE: usize = 1000;

pub(super) fn verify(
    place: Place<'_>,
    since: Option<Duration>,
    glob: Option<&str>,
    json: bool,
) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    let reader = Reader::open(&state_dir)?;
    let mut meta = reader.meta()?;
    let rules = meta.remove("rules").map(|text| stored_rules(&text)).transpose()?.unwrap_or_default();
    let export = meta.remove("export").map(PathBuf::from);
    let export =
        export.ok_or_else(|| CliError::Failure("the journal does not say of which export it is".to_owned()))?;
    let root = File::open(&export).map_err(|error| CliError::Failure(format!("{}: {error}", export.display())))?;
    let commits = chosen(&reader, since, glob)?;
    let bar = bar(commits.iter().map(|commit| commit.size).sum());
    let mut found = Found::default();
    for commit in &commits {
        let mut verdict = look(&root, commit, &bar);
        let is_database = || rules::is_database_at(&root, &commit.path);
        let in_place = || rules.decide_for(&commit.path, is_database).mode == Mode::Direct;
        if matches!(verdict, Verdict::Different(_)) && (in_place() || reader.is_reused(commit)?) {
            verdict = Verdict::Gone;
        }
        let shown = rows::path(&commit.path);
        match &verdict {
            Verdict::Same => found.bytes += commit.size,
            Verdict::Gone => {}
            Verdict::Different(detail) => {
                bar.suspend(|| eprintln!("commitfs: commit {}, {shown}: {detail}", commit.id));
                record(&state_dir, commit, detail)?;
            }
            Verdict::Unreadable(_) => bar.suspend(|| eprintln!("commitfs: commit {}, {shown}: {verdict}", commit.id)),
        }
        found.add(commit, &verdict);
    }
    drop(reader);
    bar.finish_and_clear();
    found.count(&state_dir);
    found.tell(json)
}

#[derive(Default)]
struct Found {
    same: u64,
    gone: u64,
    bytes: u64,
    unreadable: u64,
    wrong: Vec<Value>,
}

impl Found {
    fn add(&mut self, commit: &Commit, verdict: &Verdict) {
        match verdict {
            Verdict::Same => self.same += 1,
            Verdict::Gone => self.gone += 1,
            Verdict::Different(_) | Verdict::Unreadable(_) => {
                self.unreadable += u64::from(matches!(verdict, Verdict::Unreadable(_)));
                let mut row = rows::path_json(&commit.path);
                row.insert("id".to_owned(), commit.id.into());
                row.insert("outcome".to_owned(), verdict.word().into());
                row.insert("detail".to_owned(), verdict.to_string().into());
                self.wrong.push(Value::Object(row));
            }
        }
    }

    /// For the metrics of the daemon, which has been told of what is different. Without one there are none.
    fn count(&self, state_dir: &Path) {
        let Found { same, gone, unreadable, .. } = self;
        let request = json!({ "verb": "verified", "same": same, "gone": gone, "unreadable": unreadable });
        if let Ok(mut client) = Client::connect(state_dir)
            && let Err(error) = client.ask(&request)
        {
            tracing::debug!(%error, "the daemon does not count what was verified");
        }
    }

    fn tell(self, json: bool) -> Result<(), CliError> {
        let wrong = self.wrong.len();
        if json {
            let Found { same, gone, bytes, wrong, .. } = self;
            print_json(&json!({ "same": same, "gone": gone, "bytes": bytes, "wrong": wrong }))?;
        } else {
            let (same, gone, bytes) = (self.same, self.gone, size(self.bytes));
            print(&format!("{same} versions are what was published ({bytes}), {gone} are gone, {wrong} are wrong\n"))?;
        }
        if wrong == 0 { Ok(()) } else { Err(CliError::Told) }
    }
}

/// The newest commit of each path.
fn chosen(reader: &Reader, since: Option<Duration>, glob: Option<&str>) -> Result<Vec<Commit>, CliError> {
    let glob = rules::matcher(glob).map_err(CliError::Glob)?;
    let wanted = Wanted { glob, contains: None };
    let begin = since.and_then(|since| SystemTime::now().checked_sub(since));
    let mut seen = HashSet::new();
    let mut commits = Vec::new();
    let mut position = Some(i64::MAX);
    while let Some(before) = position {
        let page = reader.commits_page(before, PAGE, &wanted)?;
        position = page.next;
        for row in page.rows {
            let Some(commit) = row.commit else { continue };
            if begin.is_some_and(|begin| commit.at < begin) {
                return Ok(commits);
            }
            if seen.insert(xxh3_64(&commit.commit.path)) {
                commits.push(commit.commit);
            }
        }
    }
    Ok(commits)
}

fn look(root: &File, commit: &Commit, bar: &ProgressBar) -> Verdict {
    let before = bar.position();
    let mut seen = |n: usize| {
        bar.inc(n as u64);
        true
    };
    let verdict = match direct::open(root, Path::new(OsStr::from_bytes(&commit.path))) {
        Ok(file) => compare(&file, commit, || (), &mut seen).unwrap_or(Verdict::Same),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::XDEV) => Verdict::Gone,
        Err(errno) => Verdict::Unreadable(errno),
    };
    bar.set_position(before + commit.size);
    verdict
}

fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let template = "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// A mismatch becomes an event of the journal: by the daemon, or here if there is none.
fn record(state_dir: &Path, commit: &Commit, detail: &str) -> Result<(), CliError> {
    if let Some(mut client) = connect(state_dir)? {
        return Ok(client.mismatch(commit.id, detail)?);
    }
    let journal = Journal::open(state_dir)?;
    let entry = Entry::Mismatch { id: commit.id, detail: detail.to_owned() };
    journal.wait(journal.submit(entry))?;
    journal.close();
    Ok(())
}
