//! Trees as people make them: unpacked by tar, cloned by git. They stay until the run ends: ext4 without a journal looks at
//! every inode that was freed in the last minutes before it makes a new one, whoever makes it.

use std::io::{Error, Result};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Turn;
use crate::contender::Kind;

/// Files per second. The careful discipline extracts, then makes the whole tree durable, which is weaker than what
/// commitfs promises of each file.
pub fn untar(turn: &Turn<'_>) -> Result<f64> {
    let tar = turn.sources.tar.as_deref().ok_or_else(|| Error::other("nothing to unpack"))?;
    let mut command = Command::new("tar");
    command.arg("-xf").arg(tar).arg("-C");
    let (elapsed, name) = timed(turn, "untar", command)?;
    Ok(count(&turn.contender.backing.join(name))? as f64 / elapsed)
}

/// Clones per second, without links to the repository's objects.
pub fn clone(turn: &Turn<'_>) -> Result<f64> {
    let repository = turn.sources.repository.as_deref().ok_or_else(|| Error::other("nothing to clone"))?;
    let mut command = Command::new("git");
    // Git's own careful discipline covers its objects and references, not the files of the work tree.
    if turn.contender.kind == Kind::Careful {
        command.args(["-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync"]);
    }
    command.args(["clone", "-q", "--no-hardlinks"]).arg(repository);
    Ok(1.0 / timed(turn, "clone", command)?.0)
}

/// Runs the command with a new folder as its last argument; for the careful discipline the tree is then made durable.
fn timed(turn: &Turn<'_>, what: &str, mut command: Command) -> Result<(f64, String)> {
    let name = format!("{what}-{}", turn.round);
    let folder = turn.contender.root.join(&name);
    std::fs::create_dir(&folder)?;
    let begin = Instant::now();
    let status = command.arg(&folder).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if turn.contender.kind == Kind::Careful {
        super::settle(&folder)?;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    if !status.success() {
        return Err(Error::other(format!("{} failed: {status}", command.get_program().display())));
    }
    Ok((elapsed, name))
}

fn count(folder: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}
