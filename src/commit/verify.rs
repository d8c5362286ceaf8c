//! Is a version still what was published? Its content is read again, past the page cache where that is possible, and
//! compared with size and digest in the journal.

use std::fmt;
use std::fs::File;
use std::time::Duration;

use super::Committer;
use crate::inode::{Content, Key};
use crate::journal::Commit;
use crate::rules::{self, Mode};
use crate::sys::{Errno, direct, stat};

/// The journal keeps times in this unit.
const TICK: Duration = Duration::from_micros(1);

/// What was found under a commit's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was published.
    Same,
    /// Another inode, or none: it was replaced, renamed or removed since. Or other content under a name whose files are
    /// written in place, or that shares it with further names and was written to later.
    Gone,
    /// The inode that was published, with other content.
    Different(String),
    /// It cannot be read.
    Unreadable(Errno),
}

impl Verdict {
    /// The word in metrics and rows.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Gone => "gone",
            Verdict::Different(_) => "different",
            Verdict::Unreadable(_) => "unreadable",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Same | Verdict::Gone => f.write_str(self.word()),
            Verdict::Different(what) => f.write_str(what),
            Verdict::Unreadable(errno) => write!(f, "cannot be read: {errno}"),
        }
    }
}

/// Compares an open file with the commit of its path. What `hold` returns is kept during each call that asks for content.
/// `seen` is told of each piece read and ends the comparison by `false`: then there is no verdict.
pub fn compare<T>(
    file: &File,
    commit: &Commit,
    hold: impl Fn() -> T,
    seen: &mut dyn FnMut(usize) -> bool,
) -> Option<Verdict> {
    let found = match stat::fstat(file) {
        Ok(found) => found,
        Err(errno) => return Some(Verdict::Unreadable(errno)),
    };
    if found.ino != commit.ino {
        return Some(Verdict::Gone);
    }
    // The rule of another name may say that it is written in place, which is seen under all of them. What a disk or a server
    // loses does not come with a later time.
    let shared = found.nlink > 1 && found.mtime.to_system() > commit.mtime + TICK;
    let different = |what: String| if shared { Verdict::Gone } else { Verdict::Different(what) };
    if found.size != commit.size {
        return Some(different(format!("has {} bytes, {} were published", found.size, commit.size)));
    }
    // Without a digest the size is all there is; reading still shows that it can be read.
    let digest = match direct::digest(file, hold, seen) {
        Ok(Some((digest, bytes))) if bytes == commit.size => digest,
        Ok(Some((_, bytes))) => {
            return Some(different(format!("{bytes} bytes can be read, {} were published", commit.size)));
        }
        Ok(None) => return None,
        Err(errno) => return Some(Verdict::Unreadable(errno)),
    };
    Some(match &commit.digest {
        Some(published) if *published != digest => different(format!("has digest {digest}, {published} was published")),
        _ => Verdict::Same,
    })
}

impl Committer {
    /// Reads a commit's version again.
    pub fn verify(&self, commit: &Commit) -> Verdict {
        let opened = self.find_folder(&commit.path).and_then(|(found, name)| {
            let dir = self.nodes.fd(&found.folder)?;
            let key = Key { dev: found.folder.key.dev, ino: commit.ino };
            let _opening = self.nodes.using_inode(key);
            let file = Content::new(direct::open(&dir, name.as_ref())?);
            // Of another inode the content is not asked for.
            self.nodes.reads(key, &file);
            Ok(file)
        });
        match opened {
            Ok(file) => match compare(&file, commit, || file.using(), &mut |_| true).unwrap_or(Verdict::Same) {
                Verdict::Different(_) if self.is_in_place(commit) || self.is_reused(commit) => Verdict::Gone,
                verdict => verdict,
            },
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Verdict::Gone,
            Err(errno) => Verdict::Unreadable(errno),
        }
    }

    fn is_in_place(&self, commit: &Commit) -> bool {
        let is_database =
            || self.nodes.fd(self.nodes.root()).is_ok_and(|root| rules::is_database_at(root, &commit.path));
        self.rules.decide_for(&commit.path, is_database).mode == Mode::Direct
    }

    /// Whether the name has an inode of a later version with the same number.
    fn is_reused(&self, commit: &Commit) -> bool {
        self.journal.read(|reader| reader.is_reused(commit)).unwrap_or_else(|error| {
            tracing::error!(draft = commit.id, %error, "cannot tell whether its inode was published again");
            false
        })
    }
}
