//! Commands that only read: `status`, `pending`, `log`, `show`, `rules`.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};

use super::daemon::{daemon, is_nobody};
use super::rows::{self, pairs, path, since, size, span, utc};
use super::{CliError, Place, print, print_json, stored_rules, target};
use crate::admin::control::{Client, ClientError};
use crate::admin::json::counting_json;
use crate::journal::DraftId;
use crate::journal::read::{Counts, Reader, Story};
use crate::rules::{self, Mode};

/// Between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(1);

pub(super) fn status(place: Place<'_>, json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    let reader = Reader::open(&state_dir)?;
    let (counts, meta) = (reader.counts()?, reader.meta()?);
    let daemon = Daemon::ask(&state_dir);
    let mut fields = rows::status_json(&counts, &meta);
    fields.insert("state_dir".to_owned(), state_dir.to_string_lossy().into());
    fields.insert("daemon".to_owned(), daemon.word().into());
    fields.insert("totals".to_owned(), counting_json(&reader.freshness()?));
    if let Daemon::Up(Value::Object(said)) = &daemon {
        fields.extend(said.iter().filter(|(key, _)| *key != "ok").map(|(key, value)| (key.clone(), value.clone())));
    }
    let object = Value::Object(fields);
    if json {
        return print_json(&object);
    }
    print(&status_text(&object, &daemon, &counts))
}

/// What the control socket says.
enum Daemon {
    Up(Value),
    Down,
    /// It may be there; this user cannot tell, or it does not answer.
    Silent(String),
}

impl Daemon {
    fn ask(state_dir: &Path) -> Daemon {
        match Client::connect(state_dir) {
            Ok(mut client) => match client.status() {
                Ok(said) => Daemon::Up(said),
                Err(error) => Daemon::Silent(error.to_string()),
            },
            Err(error) if is_nobody(&error) => Daemon::Down,
            Err(error) => Daemon::Silent(error.to_string()),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Daemon::Up(_) => "up",
            Daemon::Down => "down",
            Daemon::Silent(_) => "unknown",
        }
    }
}

fn status_text(object: &Value, daemon: &Daemon, counts: &Counts) -> String {
    let word = |key: &str| object[key].as_str().unwrap_or("unknown").to_owned();
    let mut facts = vec![("state folder", word("state_dir"))];
    facts.push(match daemon {
        Daemon::Up(said) => {
            let mut text = "up".to_owned();
            if let Some(pid) = said["pid"].as_u64() {
                text += &format!(", pid {pid}");
            }
            if let Some(uptime) = said["uptime_seconds"].as_f64().and_then(|s| Duration::try_from_secs_f64(s).ok()) {
                text += &format!(", for {}", span(uptime));
            }
            ("daemon", text)
        }
        Daemon::Down => ("daemon", "down".to_owned()),
        Daemon::Silent(why) => ("daemon", format!("unknown: {why}")),
    });
    facts.push(("export", word("export")));
    facts.push(("mount point", word("mountpoint")));
    facts.push((
        "pending",
        match counts.oldest_pending {
            Some(oldest) => {
                format!("{}, {}, oldest {}", counts.pending, size(counts.pending_bytes), span(since(oldest)))
            }
            None => "0".to_owned(),
        },
    ));
    facts.push(("commits", counts.committed.to_string()));
    facts.push((
        "quarantined",
        match counts.quarantined {
            0 => "0".to_owned(),
            n => format!("{n}, {}", size(counts.quarantined_bytes)),
        },
    ));
    if let Some(address) = object["admin"].as_str() {
        facts.push(("admin", format!("http://{address}/")));
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut kept = format!("{}, {}", number(&object["outbox"]), size(number(&object["outbox_bytes"])));
    match number(&object["outbox_dead"]) {
        0 => {}
        dead => kept += &format!(", and {dead} that cannot be removed"),
    }
    facts.push(("outbox", kept));
    let totals = &object["totals"];
    facts.push((
        "folders",
        match number(&totals["uncounted"]) {
            0 => number(&totals["folders"]).to_string(),
            waiting => format!("{}, of which {waiting} wait to be counted", number(&totals["folders"])),
        },
    ));
    match (number(&totals["drift_bytes"]), number(&totals["drift_files"])) {
        (0, 0) => {}
        (bytes, files) => {
            facts.push(("drift", format!("{} and {files} files were found changed from outside", size(bytes))));
        }
    }
    if let Some(health) = object["journal"].as_str() {
        facts.push(("journal", health.to_owned()));
    }
    pairs(&facts)
}

pub(super) fn pending(place: Place<'_>, watch: bool, json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    loop {
        // Opened each time: a journal may be replaced, or read without its log while no daemon runs.
        let rows = Reader::open(&state_dir)?.pending()?;
        if json {
            print_json(&rows.iter().map(|row| Value::Object(rows::draft_json(row))).collect())?;
        } else {
            let text = if rows.is_empty() { "nothing pending\n".to_owned() } else { rows::draft_table(&rows) };
            // Home and clear; scrollback stays.
            let clear = if watch && io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            print(&format!("{clear}{text}"))?;
        }
        if !watch {
            return Ok(());
        }
        std::thread::sleep(WATCH);
    }
}

pub(super) fn log(place: Place<'_>, n: usize, glob: Option<&str>, json: bool) -> Result<(), CliError> {
    let glob = rules::matcher(glob).map_err(CliError::Glob)?;
    let rows = Reader::open(&target::find(place)?)?.log(n, glob.as_ref())?;
    if json {
        return print_json(&rows.iter().map(|row| Value::Object(rows::log_json(row))).collect());
    }
    print(&if rows.is_empty() { "nothing yet\n".to_owned() } else { rows::log_table(&rows) })
}

pub(super) fn show(place: Place<'_>, id: DraftId, json: bool) -> Result<(), CliError> {
    let story = story(&Reader::open(&target::find(place)?)?, id)?;
    if json {
        return print_json(&rows::story_json(&story));
    }
    print(&story_text(&story))
}

/// Everything about a draft, or an error that names it.
pub(super) fn story(reader: &Reader, id: DraftId) -> Result<Story, CliError> {
    reader.show(id)?.ok_or_else(|| CliError::Failure(format!("no draft {id}")))
}

pub(super) fn story_text(story: &Story) -> String {
    let draft = &story.draft;
    let mut facts = vec![
        ("draft", draft.id.to_string()),
        ("path", path(&draft.path)),
        ("state", draft.state.as_str().to_owned()),
        ("kind", draft.kind.as_str().to_owned()),
        ("size", if draft.kept { size(draft.bytes) } else { "content given back".to_owned() }),
        (
            "writer",
            format!(
                "{} pid {} uid {} gid {}",
                rows::text(draft.owner.command.as_bytes()),
                draft.owner.pid,
                draft.owner.uid,
                draft.owner.gid
            ),
        ),
        ("begun", utc(draft.begun_at)),
    ];
    if let Some(reason) = &draft.reason {
        facts.push(("reason", rows::text(reason.as_bytes())));
    }
    if let Some(row) = &story.commit {
        facts.push(("digest", row.commit.digest.clone().unwrap_or_else(|| "not taken yet".to_owned())));
        facts.push(("modified", utc(row.commit.mtime)));
        facts.push(("took", format!("{:.1} ms", row.commit.duration.as_secs_f64() * 1000.0)));
    }
    let mut events = rows::plain_table(&["EVENT", "AT", "WHAT", "PATH", "DETAIL"]);
    for event in &story.events {
        events.add_row(vec![
            event.id.to_string(),
            utc(event.at),
            event.kind.clone(),
            path(event.path.as_deref().unwrap_or_default()),
            rows::text(event.detail.as_deref().unwrap_or_default().as_bytes()),
        ]);
    }
    format!("{}\n{}", pairs(&facts), rows::lines(&mut events))
}

pub(super) fn rules(place: Place<'_>, asked: &Path, json: bool) -> Result<(), CliError> {
    let (state_dir, inside) = target::find_below(place, asked)?;
    let meta = Reader::open(&state_dir)?.meta()?;
    let Some(text) = meta.get("rules") else {
        // A daemon that has not written its rules down can still be asked.
        let mut daemon = daemon(&state_dir, "rules")?;
        let rule = daemon.rule(&inside)?;
        return if json { print_json(&json!({ "rule": rule })) } else { print(&format!("{rule}\n")) };
    };
    let rules = stored_rules(text)?;
    let is_database = || {
        let export = meta.get("export").and_then(|export| File::open(export).ok());
        export.is_some_and(|root| rules::is_database_at(root, &inside))
    };
    let decision = rules.decide_for(&inside, is_database);
    if !json {
        return print(&format!("{}: {decision}\n", path(&inside)));
    }
    let mut object = rows::path_json(&inside);
    object.insert("mode".to_owned(), json!(decision.mode));
    if decision.mode == Mode::Atomic {
        object.insert("commit".to_owned(), json!(decision.commit));
        object.insert("on_kill".to_owned(), json!(decision.on_kill));
        object.insert("on_failure_exit".to_owned(), json!(decision.on_failure_exit));
        object.insert("retain_seconds".to_owned(), json!(decision.retain.as_secs_f64()));
        object.insert("done_marker".to_owned(), decision.done_marker.into());
    }
    object.insert("source".to_owned(), decision.source.clone().into());
    print_json(&Value::Object(object))
}

pub(super) fn log_level(place: Place<'_>, level: &str, json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    let mut daemon = daemon(&state_dir, "log-level")?;
    let level = daemon.log_level(level).map_err(|error| match error {
        ClientError::Refused { message, errno } if errno == Errno::INVAL.raw_os_error() => CliError::Usage(message),
        other => other.into(),
    })?;
    if json { print_json(&json!({ "level": level })) } else { print(&format!("the daemon logs {level}\n")) }
}
