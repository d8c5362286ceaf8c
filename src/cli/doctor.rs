//! `doctor`: is this machine, this export, this state folder fit for a mount? Whatever can be tried is tried for real.

mod export;
mod machine;
mod probe;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{CliError, print, print_json, rows};
use crate::config;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// As it should be.
    Good,
    /// Works, and could be better; or cannot be told.
    Note,
    /// Works, and will surprise.
    Warning,
    /// Does not work.
    Blocker,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Warning => "warning",
            Verdict::Blocker => "blocker",
        }
    }
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// Why it matters, and what to do; empty when all is well.
    why: &'static str,
    remedy: String,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Good, found: found.into(), why: "", remedy: String::new() }
    }

    fn of(
        what: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        why: &'static str,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { what, verdict, found: found.into(), why, remedy: remedy.into() }
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "verdict": self.verdict.word(),
            "found": self.found,
            "why": (!self.why.is_empty()).then_some(self.why),
            "remedy": (!self.remedy.is_empty()).then_some(&self.remedy),
        })
    }
}

pub(super) fn doctor(source: &Path, state_dir: Option<&Path>, json: bool) -> Result<(), CliError> {
    let state_dir = state_dir.map(Path::to_owned).or_else(|| {
        let canonical = std::fs::canonicalize(source).ok()?;
        config::mounted_state_dir(&canonical).or_else(|| config::default_state_dir(&canonical))
    });
    let findings = examine(source, state_dir);
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good);
    if json {
        let findings: Vec<Value> = findings.iter().map(Finding::json).collect();
        print_json(&json!({ "verdict": worst.word(), "findings": findings }))?;
    } else {
        print(&text(&findings))?;
    }
    if worst == Verdict::Blocker { Err(CliError::Told) } else { Ok(()) }
}

fn examine(source: &Path, state_dir: Option<PathBuf>) -> Vec<Finding> {
    let mut findings = machine::examine();
    findings.extend(state_dir.as_deref().map(machine::state_folder));
    findings.extend(export::examine(source));
    findings
}

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let found = rows::text(finding.found.as_bytes());
        out.push_str(&format!("{:<8} {}: {found}\n", finding.verdict.word(), finding.what));
        for line in [finding.why, &finding.remedy].into_iter().filter(|line| !line.is_empty()) {
            out.push_str(&format!("         {line}\n"));
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (blockers, warnings) = (count(Verdict::Blocker), count(Verdict::Warning));
    out.push_str(&format!("{blockers} blockers, {warnings} warnings, {} looked at\n", findings.len()));
    out
}
