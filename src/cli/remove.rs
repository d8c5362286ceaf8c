//! `rm -r` and `fsck`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;

use super::daemon::daemon;
use super::outbox::said;
use super::rows::{self, size, span};
use super::{CliError, Place, print, print_json, target};
use crate::admin::control::{ClientError, add_path};
use crate::admin::json::{path_json, until};
use crate::journal::read::Reader;
use crate::journal::{OutboxId, OutboxState};

/// Between two looks at the progress.
const LOOK: Duration = Duration::from_millis(100);

/// What `rm` was given besides the path.
#[derive(Clone, Copy)]
pub(super) struct Wishes {
    pub recursive: bool,
    pub force: bool,
    pub now: bool,
    pub wait: bool,
}

pub(super) fn remove(place: Place<'_>, asked: &Path, wishes: Wishes, json: bool) -> Result<(), CliError> {
    if !wishes.recursive {
        return Err(CliError::Usage("rm removes whole folders: say rm -r".to_owned()));
    }
    let (state_dir, inside) = target::find_name(place, asked)?;
    let mut request = json!({ "verb": "remove", "force": wishes.force, "now": wishes.now });
    add_path(&mut request, &inside);
    let answer = daemon(&state_dir, "rm")?.ask(&request).map_err(|error| match error {
        ClientError::Refused { errno, .. } if errno == Errno::NOTDIR.raw_os_error() => {
            CliError::Failure(format!("{}: is no folder, and rm removes whole folders only", rows::path(&inside)))
        }
        other => other.into(),
    })?;
    let id = answer["id"].as_i64().unwrap_or_default();
    let row = Reader::open(&state_dir)?.outbox_row(id)?;
    let kept_for = row.as_ref().map_or(Duration::ZERO, |row| until(row.next_attempt));
    // Somebody at a terminal sees how work that goes on now goes on; the end of a retention is not waited for unasked.
    let watched = wishes.wait || (io::stderr().is_terminal() && kept_for.is_zero());
    if watched {
        watch(&state_dir, id)?;
    }
    let text = match row {
        Some(row) if !watched => {
            let kept = match kept_for {
                Duration::ZERO => "its content goes in the background".to_owned(),
                time => format!("kept for {}: commitfs trash restore {id} brings it back", span(time)),
            };
            let what = format!("{} files and folders, {}", row.aside.files, size(row.aside.bytes));
            format!("{} removed: {what}, as row {id} of the outbox; {kept}\n", rows::path(&inside))
        }
        _ => format!("{} removed\n", rows::path(&inside)),
    };
    let mut removed = path_json(&inside);
    removed.insert("id".to_owned(), id.into());
    said(json, &removed.into(), &text)
}

/// Until the row is gone, or dead. Survives the end of the daemon: the next one goes on, as the removal does without us.
fn watch(state_dir: &Path, id: OutboxId) -> Result<(), CliError> {
    let shown = io::stderr().is_terminal();
    loop {
        let row = Reader::open(state_dir)?.outbox_row(id)?;
        let Some(row) = row else { break };
        if row.state != OutboxState::Pending {
            let why = row.last_error.unwrap_or_default();
            return Err(CliError::Failure(format!("row {id} could not be removed: {why}; see commitfs outbox ls")));
        }
        if shown {
            let text = match until(row.next_attempt) {
                Duration::ZERO => bar(row.reaped, row.aside.files),
                time if row.attempts == 0 => format!("kept for {} more", span(time)),
                time => format!("{}, tried again in {}", bar(row.reaped, row.aside.files), span(time)),
            };
            // If the terminal is gone, the work still counts.
            io::stderr().write_all(format!("\r{text}\x1b[K").as_bytes()).unwrap_or_default();
        }
        std::thread::sleep(LOOK);
    }
    if shown {
        io::stderr().write_all(b"\r\x1b[K").unwrap_or_default();
    }
    Ok(())
}

/// Without a number of all, which only folder totals tell, there is nothing to fill.
fn bar(done: u64, all: u64) -> String {
    const WIDTH: u64 = 40;
    if all == 0 {
        return format!("{done} removed");
    }
    let filled = (done.min(all) * WIDTH).checked_div(all).unwrap_or(0) as usize;
    format!("[{}{}] {done} of {all}", "#".repeat(filled), " ".repeat(WIDTH as usize - filled))
}

pub(super) fn fsck(place: Place<'_>, repair: bool, json: bool) -> Result<(), CliError> {
    let state_dir = target::find(place)?;
    let mut answer = daemon(&state_dir, "fsck")?.ask(&json!({ "verb": "fsck", "repair": repair }))?;
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("ok");
    }
    let clean = answer["clean"].as_bool().unwrap_or(false);
    if json {
        print_json(&answer)?;
    } else {
        let words = [
            ("trash_without_row", "inodes in the trash folder without a row"),
            ("trash_still_named", "names in the trash folder of files that are not removed"),
            ("rows_without_trash", "outbox rows without an inode"),
            ("staged_without_row", "staged files without a row"),
            ("drafts_without_content", "drafts in quarantine without content"),
            ("dead_instances", "dead instances whose staging nobody has adopted"),
            ("foreign", "names that are none of commitfs's, which are left alone"),
        ];
        let found: Vec<_> = words
            .iter()
            .filter_map(|(key, word)| Some((*word, answer[*key].as_u64().filter(|&n| n > 0)?.to_string())))
            .collect();
        let verdict = match (clean, repair) {
            (true, _) => "staging and journal agree\n",
            (false, true) => "repaired\n",
            (false, false) => "nothing was changed; fsck --repair puts it right\n",
        };
        print(&format!("{}{verdict}", rows::pairs(&found)))?;
    }
    // As fsck(8) has it: something is left to do.
    if clean || repair { Ok(()) } else { Err(CliError::Told) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_bar_of_any_numbers_has_its_width() {
        for (done, all) in [(0, 3), (1, 3), (9, 3), (3, 3)] {
            let bar = super::bar(done, all);
            assert_eq!(bar.find(']'), Some(41), "{bar}");
        }
        assert_eq!(super::bar(5, 0), "5 removed");
    }
}
