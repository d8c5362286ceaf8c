//! Lengths of time as people write them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time as people write it: `0`, `90` (seconds), `250ms`, `60s`, `5m`, `2h`, `7d`; a hundred
/// years at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Span(pub Duration);

/// A hundred years in milliseconds: with more than that, no time from now on could be told.
const LONGEST: u64 = 36_500 * 86_400_000;

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a length of time: a number of seconds, or '250ms', '60s', '5m', '2h', '7d'")]
pub(super) enum Written {
    Seconds(u64),
    Text(String),
}

impl TryFrom<Written> for Span {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Seconds(seconds) => seconds.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let milliseconds = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => 0,
        };
        let total = number.parse::<u64>().ok().filter(|_| milliseconds > 0).map(|n| n.saturating_mul(milliseconds));
        match total {
            Some(total) if total > LONGEST => Err(format!("{text:?} is too long; 36500d is the most")),
            Some(total) => Ok(Span(Duration::from_millis(total))),
            None => Err(format!("{text:?} is no length of time; write 250ms, 60s, 5m, 2h or 7d")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            seconds if seconds % 1000 == 0 => write!(f, "{}s", seconds / 1000),
            milliseconds => write!(f, "{milliseconds}ms"),
        }
    }
}
