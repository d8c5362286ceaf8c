//! What a name held, so that it can be told later whether it holds the same.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use crate::sys::handle::Handle;
use crate::sys::stat::{self, Time};
use crate::sys::{Errno, Result, Stat};

/// What a name held at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Held {
    /// Nothing.
    Nothing,
    /// This inode.
    Inode(Seen),
    /// Something else than at the promise, before a folder above it was renamed.
    Changed,
}

/// What tells an inode, and its content, from another one that has its number. No device: an export may have another
/// number after each mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Modification time, in seconds of the epoch and nanoseconds.
    pub mtime: (i64, u32),
    /// The file handle, which holds the generation; `None` where the export has none.
    pub handle: Option<String>,
}

impl Held {
    /// What `name` in `dir` holds, with its attributes.
    pub fn look(dir: impl AsFd, name: &OsStr) -> Result<(Held, Option<Stat>)> {
        let there = match stat::stat_at(&dir, name) {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok((Held::Nothing, None)),
            Err(other) => return Err(other),
        };
        let Time { sec, nsec } = there.mtime;
        // Should it be another inode's by now, then what is found later is another one than this: its number differs.
        let handle = Handle::at(dir, name).ok().map(|handle| handle.to_string());
        let seen = Seen { ino: there.ino, size: there.size, mtime: (sec, nsec), handle };
        Ok((Held::Inode(seen), Some(there)))
    }

    /// The inode's number.
    pub fn ino(&self) -> Option<u64> {
        match self {
            Held::Inode(seen) => Some(seen.ino),
            Held::Nothing | Held::Changed => None,
        }
    }

    /// Whether that is what the name holds `now`: the same inode with the same content, whatever became of its mode, owner,
    /// links and times.
    pub fn is_still(&self, now: &Held) -> bool {
        match (self, now) {
            (Held::Nothing, Held::Nothing) => true,
            (Held::Inode(then), Held::Inode(now)) => {
                let same_handle = then.handle.is_some() && then.handle == now.handle;
                // Where handles do not last, as those of a server in user space, the time tells.
                then.ino == now.ino && then.size == now.size && (same_handle || then.mtime == now.mtime)
            }
            _ => false,
        }
    }

    /// As it stands in the journal.
    pub(super) fn to_text(&self) -> String {
        // Numbers and text can always be said in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads that.
    pub(super) fn parse(text: &str) -> Option<Held> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_attributes_is_none_and_a_number_given_out_again_is() {
        let seen = Seen { ino: 7, size: 3, mtime: (1, 2), handle: Some("1.ab".to_owned()) };
        let then = Held::Inode(seen.clone());
        let is_still = |now: Seen| then.is_still(&Held::Inode(now));
        assert!(is_still(seen.clone()));
        assert!(is_still(Seen { mtime: (9, 9), ..seen.clone() }), "a time that was set");
        assert!(is_still(Seen { handle: None, ..seen.clone() }), "an export without handles");
        assert!(
            !is_still(Seen { mtime: (9, 9), handle: Some("1.ac".to_owned()), ..seen.clone() }),
            "another generation"
        );
        assert!(!is_still(Seen { mtime: (9, 9), handle: None, ..seen.clone() }));
        assert!(!is_still(Seen { size: 4, ..seen.clone() }), "other content");
        assert!(!is_still(Seen { ino: 8, ..seen.clone() }));
        assert!(
            !then.is_still(&Held::Nothing) && !Held::Nothing.is_still(&then) && Held::Nothing.is_still(&Held::Nothing)
        );
    }

    #[test]
    fn it_survives_the_way_through_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "content").unwrap();
        let folder = std::fs::File::open(dir.path()).unwrap();
        for name in ["f", "g"] {
            let (held, there) = Held::look(&folder, OsStr::new(name)).unwrap();
            assert_eq!((there.is_some(), Held::parse(&held.to_text())), (name == "f", Some(held)));
        }
    }
}
