//! Pages of rows: what may be asked, and how to go on.
//!
//! A cursor is the position after which the next page begins. To its reader it is an opaque word.

use axum::Json;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::admin::control::{from_hex, to_hex};
use crate::admin::problem::{Answer, Problem};
use crate::journal::pages::{FolderMark, Order, Page, Wanted};
use crate::rules;

/// Rows of a page, if not said otherwise.
const PAGE: usize = 100;
/// Rows of a page at most.
const LARGEST: usize = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
    pub(super) path: Option<String>,
    pub(super) contains: Option<String>,
}

pub(super) struct Question {
    pub(super) position: i64,
    pub(super) limit: usize,
    pub(super) wanted: Wanted,
}

impl Asked {
    /// `beginning` is the position of the first page.
    pub(super) fn question(self, beginning: i64) -> Answer<Question> {
        let position = match &self.cursor {
            None => beginning,
            Some(asked) => asked
                .strip_prefix('c')
                .and_then(|digits| i64::from_str_radix(digits, 36).ok())
                // Digits are read that are not written: with a sign, with zeros in front.
                .filter(|position| cursor(*position) == *asked)
                .ok_or_else(no_cursor)?,
        };
        let limit = limit(self.limit)?;
        let glob = rules::matcher(self.path.as_deref())?;
        let contains = self.contains.map(String::into_bytes);
        Ok(Question { position, limit, wanted: Wanted { glob, contains } })
    }
}

/// A page as everybody gets it.
pub(super) fn page_json<T>(page: &Page<T>, json: impl Fn(&T) -> Map<String, Value>) -> Json<Value> {
    let items: Vec<Value> = page.rows.iter().map(|row| Value::Object(json(row))).collect();
    Json(json!({ "items": items, "next": page.next.map(cursor) }))
}

fn no_cursor() -> Problem {
    Problem::bad_request("cursor: is none that this server has given")
}

/// Rows of a page, as asked.
pub(super) fn limit(asked: Option<usize>) -> Answer<usize> {
    let limit = asked.unwrap_or(PAGE);
    match limit {
        1..=LARGEST => Ok(limit),
        _ => Err(Problem::bad_request(format!("limit: expected 1 to {LARGEST}"))),
    }
}

fn cursor(position: i64) -> String {
    let mut digits = Vec::new();
    let mut rest = position.max(0);
    while rest > 0 || digits.is_empty() {
        let digit = u32::try_from(rest % 36).unwrap_or(0);
        digits.extend(char::from_digit(digit, 36));
        rest /= 36;
    }
    digits.push('c');
    digits.iter().rev().collect()
}

/// The cursor of a page of folders.
pub(super) fn folder_cursor(mark: &FolderMark, order: Order) -> String {
    match order {
        Order::Name => format!("n{}", to_hex(&mark.name)),
        Order::Size => format!("s{:x}.{}", mark.rbytes, to_hex(&mark.name)),
    }
}

/// What [`folder_cursor`] gave; that of another order is none.
pub(super) fn folder_mark(cursor: &str, order: Order) -> Answer<FolderMark> {
    let parsed = match order {
        Order::Name => cursor.strip_prefix('n').and_then(from_hex).map(|name| FolderMark { rbytes: 0, name }),
        Order::Size => cursor.strip_prefix('s').and_then(|rest| rest.split_once('.')).and_then(|(bytes, name)| {
            Some(FolderMark { rbytes: u64::from_str_radix(bytes, 16).ok()?, name: from_hex(name)? })
        }),
    };
    parsed.filter(|mark| folder_cursor(mark, order) == cursor).ok_or_else(no_cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_the_position_it_was_made_of() {
        for position in [0, 1, 35, 36, 123_456_789, i64::MAX] {
            let asked = Asked { cursor: Some(cursor(position)), ..Asked::default() };
            assert_eq!(asked.question(7).unwrap().position, position);
        }
        for wrong in ["", "c", "7", "cx!", "c99999999999999999999", "c-5", "c+5", "c05", "cA"] {
            let asked = Asked { cursor: Some(wrong.to_owned()), ..Asked::default() };
            assert!(asked.question(7).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_of_folders_comes_back_as_its_mark() {
        for name in [&b"a"[..], b"\xff.b", b""] {
            let mark = FolderMark { rbytes: 36 << 40, name: name.to_vec() };
            assert_eq!(folder_mark(&folder_cursor(&mark, Order::Size), Order::Size).unwrap(), mark);
            let named = folder_mark(&folder_cursor(&mark, Order::Name), Order::Name).unwrap();
            assert_eq!(named.name, mark.name);
        }
        for wrong in ["", "s", "s1", "sx.61", "s1.6", "n6", "nxy", "c1", "s+1.61", "s01.61", "n6A"] {
            assert!(folder_mark(wrong, Order::Size).is_err(), "{wrong}");
            assert!(folder_mark(wrong, Order::Name).is_err() || wrong == "n", "{wrong}");
        }
    }
}
