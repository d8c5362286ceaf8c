//! The globs of rules.

use globset::{Glob, GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::RuleError;

/// Compiles a glob with the meaning it has in a rule: `*` and `?` never match a slash, `**/` is any number of folders.
/// Alternatives with and without a slash in one glob count as with one.
pub fn compile(glob: &str) -> Result<Glob, RuleError> {
    let refuse = |message: &str| Err(RuleError::Glob { glob: glob.to_owned(), message: message.to_owned() });
    if glob.is_empty() {
        return refuse("is empty");
    }
    if let Some(folder) = glob.strip_suffix('/') {
        return refuse(&format!("names a folder and would match no file; for all files below it, write {folder}/**"));
    }
    // Paths are matched as the mount has them: from its root, in one way of writing each.
    for part in glob.strip_prefix('/').unwrap_or(glob).split('/') {
        match part {
            "" => return refuse("would match no file: no path has two slashes in a row"),
            "." | ".." => {
                return refuse(&format!(
                    "would match no file: no path has {part:?} in it; write it from the mount's root on"
                ));
            }
            _ => {}
        }
    }
    let anchored = match glob.strip_prefix('/') {
        Some(rooted) => rooted.to_owned(),
        None if glob.contains('/') => glob.to_owned(),
        None => format!("**/{glob}"),
    };
    GlobBuilder::new(&anchored)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| RuleError::Glob { glob: glob.to_owned(), message: error.kind().to_string() })
}

/// What a search asks for by a glob as in a rule, if it does.
pub fn matcher(glob: Option<&str>) -> Result<Option<GlobMatcher>, RuleError> {
    Ok(glob.map(compile).transpose()?.map(|glob| glob.compile_matcher()))
}

/// A glob that is known to compile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl Pattern {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn compile(&self) -> Result<Glob, RuleError> {
        compile(&self.0)
    }
}

impl TryFrom<String> for Pattern {
    type Error = RuleError;

    fn try_from(glob: String) -> Result<Self, RuleError> {
        compile(&glob)?;
        Ok(Pattern(glob))
    }
}
