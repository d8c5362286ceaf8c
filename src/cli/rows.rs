//! Rows of the journal as JSON for scripts and as text for people.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table};

use crate::admin::json::age;
pub(super) use crate::admin::json::{draft_json, log_json, path_json, since, status_json, story_json};
use crate::journal::read::LogRow;
use crate::journal::{DraftRow, DraftState};

/// For `pending` and `quarantine ls`.
pub(super) fn draft_table(rows: &[DraftRow]) -> String {
    let with_reason = rows.iter().any(|row| row.reason.is_some());
    let mut head = vec!["ID", "STATE", "SIZE", "AGE", "UID", "PID", "COMMAND", "PATH"];
    if with_reason {
        head.push("REASON");
    }
    let mut table = plain_table(&head);
    for row in rows {
        let mut cells = vec![
            right(row.id),
            state_cell(row.state),
            right(if row.kept { size(row.bytes) } else { "given back".to_owned() }),
            right(span(age(row))),
            right(row.owner.uid),
            right(row.owner.pid),
            Cell::new(text(row.owner.command.as_bytes())),
            Cell::new(path(&row.path)),
        ];
        if with_reason {
            cells.push(Cell::new(row.reason.as_deref().map(|reason| text(reason.as_bytes())).unwrap_or_default()));
        }
        table.add_row(cells);
    }
    lines(&mut table)
}

/// For `log`.
pub(super) fn log_table(rows: &[LogRow]) -> String {
    let with_reason = rows.iter().any(|row| row.draft.reason.is_some());
    let mut head = vec!["ID", "STATE", "KIND", "SIZE", "AGE", "TOOK", "UID", "COMMAND", "PATH"];
    if with_reason {
        head.push("REASON");
    }
    let mut table = plain_table(&head);
    for LogRow { draft, commit } in rows {
        let took = commit.as_ref().map(|row| format!("{:.1} ms", row.commit.duration.as_secs_f64() * 1000.0));
        let kind = commit.as_ref().map_or(draft.kind, |row| row.commit.kind);
        let mut cells = vec![
            right(draft.id),
            state_cell(draft.state),
            Cell::new(kind.as_str()),
            right(size(draft.bytes)),
            right(span(age(draft))),
            right(took.unwrap_or_default()),
            right(draft.owner.uid),
            Cell::new(text(draft.owner.command.as_bytes())),
            Cell::new(path(&draft.path)),
        ];
        if with_reason {
            cells.push(Cell::new(draft.reason.as_deref().map(|reason| text(reason.as_bytes())).unwrap_or_default()));
        }
        table.add_row(cells);
    }
    lines(&mut table)
}

/// For things with a name and a value.
pub(super) fn pairs(rows: &[(&str, String)]) -> String {
    let mut table = plain_table(&[]);
    for (name, value) in rows {
        table.add_row(vec![emphasised(name), Cell::new(text(value.as_bytes()))]);
    }
    lines(&mut table)
}

/// Columns without borders, as `ps` has them; wrapped to the terminal by nobody, so that lines can be searched.
pub(super) fn plain_table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    if !coloured() {
        table.force_no_tty();
    }
    if !head.is_empty() {
        table.set_header(head.iter().map(|word| emphasised(word)));
    }
    table
}

pub(super) fn lines(table: &mut Table) -> String {
    let mut out = String::new();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A path for people: bytes that a terminal would act on are escaped.
pub(super) fn path(bytes: &[u8]) -> String {
    if bytes.is_empty() { "(unknown)".to_owned() } else { text(bytes) }
}

pub(super) fn text(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_unseen(c) {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
        }
        shown.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    shown
}

/// Characters of no width, and those that turn lines around or break them: two names that look alike may not be.
fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// An error for a terminal. A name in it may hold anything; only lists, whose lines are indented, have more than one line.
pub(super) fn message(error: &str) -> String {
    const LISTED: &str = "\n  ";
    error.split(LISTED).map(|line| text(line.as_bytes())).collect::<Vec<_>>().join(LISTED)
}

pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    unreachable!("the loop ends at its last unit")
}

pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds @ 100..=5_999 => format!("{} min", seconds / 60),
        seconds @ 6_000..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// `2024-05-17 08:30:00.123 UTC`.
pub(super) fn utc(time: SystemTime) -> String {
    let milliseconds = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    };
    let (days, of_day) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    // Gregorian calendar from a day number; years begin in March, so that the leap day is the last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (second, millisecond) = (of_day / 1000, of_day % 1000);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}.{millisecond:03} UTC", second % 60)
}

fn coloured() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn emphasised(word: &str) -> Cell {
    if coloured() { Cell::new(word).add_attribute(Attribute::Bold) } else { Cell::new(word) }
}

pub(super) fn right(value: impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

fn state_cell(state: DraftState) -> Cell {
    let cell = Cell::new(state.as_str());
    if !coloured() {
        return cell;
    }
    match state {
        DraftState::Open => cell.fg(Color::Cyan),
        DraftState::Sealed => cell.fg(Color::Blue),
        DraftState::Committed => cell.fg(Color::Green),
        DraftState::Quarantined => cell.fg(Color::Red),
        DraftState::Discarded => cell.add_attribute(Attribute::Dim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{CommitKind, Owner};

    fn row() -> DraftRow {
        DraftRow {
            id: 3,
            state: DraftState::Quarantined,
            path: b"d/\xffa\n".to_vec(),
            stage: "s".to_owned(),
            ino: 1,
            kind: CommitKind::New,
            owner: Owner { uid: 1, gid: 2, pid: 3, command: "cp".to_owned() },
            bytes: 2048,
            begun_at: SystemTime::now() + Duration::from_secs(100),
            changed_at: SystemTime::now() + Duration::from_secs(100),
            reason: Some("killed".to_owned()),
            kept: true,
            below: None,
            moved_from: None,
            moved_alone: false,
            folder: None,
        }
    }

    #[test]
    fn json_has_the_promised_keys() {
        let object = draft_json(&row());
        for key in ["id", "path", "state", "bytes", "uid", "pid", "command", "age_seconds", "reason", "path_hex"] {
            assert!(object.contains_key(key), "{key}");
        }
        assert_eq!(object["path"], "d/\u{fffd}a\n");
        assert_eq!(object["path_hex"], "642fff610a");
        assert_eq!(object["age_seconds"], 0.0, "the clock jumped back");
        let plain = draft_json(&DraftRow { reason: None, path: b"x".to_vec(), ..row() });
        assert!(!plain.contains_key("reason") && !plain.contains_key("path_hex"));
    }

    #[test]
    fn tables_have_one_line_per_row() {
        let table = draft_table(&[row(), row()]);
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.contains("d/\\xffa\\n") && table.contains("2.0 KiB") && table.contains("killed"), "{table}");
        assert!(table.lines().all(|line| !line.ends_with(' ')) && table.starts_with("ID  STATE"), "{table}");
    }

    #[test]
    fn words_for_people() {
        assert_eq!((size(1023).as_str(), size(1536).as_str()), ("1023 B", "1.5 KiB"));
        assert!(size(u64::MAX).ends_with("TiB"));
        assert_eq!(
            (span(Duration::from_secs(99)), span(Duration::from_secs(7200))),
            ("99 s".to_owned(), "2 h".to_owned())
        );
        assert_eq!(utc(UNIX_EPOCH), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(utc(UNIX_EPOCH + Duration::from_millis(951_827_696_789)), "2000-02-29 12:34:56.789 UTC");
        assert_eq!(utc(UNIX_EPOCH - Duration::from_millis(1)), "1969-12-31 23:59:59.999 UTC");
        assert_eq!(text("ü\u{1b}[31m".as_bytes()), "ü\\u{1b}[31m");
        assert_eq!(text("a\u{202e}b\u{2028}c\u{200b}d".as_bytes()), "a\\u{202e}b\\u{2028}c\\u{200b}d");
        assert!(pairs(&[("export", "/a\u{1b}[2J\n\u{202e}b".to_owned())]).contains("/a\\u{1b}[2J\\n\\u{202e}b"));
        assert_eq!(message("a\nb: busy\n  being written: \u{1b}[c"), "a\\nb: busy\n  being written: \\u{1b}[c");
    }
}
