//! The kernel's table of mounts, `/proc/PID/mountinfo` as proc_pid_mountinfo(5) has it:
//! `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG…] - TYPE SOURCE OPTIONS`. Nothing is asked of a mount itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// A mount; what cannot be read of its line is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(&'a [u8]);

/// The mounts of a table: of several on one point the last is on top.
pub fn lines(table: &[u8]) -> impl DoubleEndedIterator<Item = Line<'_>> {
    table.split(|&byte| byte == b'\n').map(Line)
}

impl<'a> Line<'a> {
    fn fields(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|&byte| byte == b' ')
    }

    /// What stands behind the tags.
    fn behind(self, at: usize) -> Option<&'a [u8]> {
        self.fields().skip(5).skip_while(|field| *field != b"-").nth(1 + at)
    }

    /// Its id in the name space of the table.
    pub fn id(self) -> Option<u64> {
        std::str::from_utf8(self.fields().next()?).ok()?.parse().ok()
    }

    /// Major and minor number, the same in every name space.
    pub fn device(self) -> Option<(u32, u32)> {
        let (major, minor) = std::str::from_utf8(self.fields().nth(2)?).ok()?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// Whether all of its file system is mounted, and not a part.
    pub fn is_whole(self) -> bool {
        self.fields().nth(3) == Some(b"/")
    }

    /// Where it is.
    pub fn point(self) -> Option<PathBuf> {
        self.fields().nth(4).map(path)
    }

    /// Its type.
    pub fn kind(self) -> Option<&'a [u8]> {
        self.behind(0)
    }

    /// What is mounted.
    pub fn source(self) -> Option<PathBuf> {
        self.behind(1).map(path)
    }

    /// Options of its file system.
    pub fn options(self) -> Option<&'a [u8]> {
        self.behind(2)
    }
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

/// Blanks, tabs, newlines and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_is_read_with_and_without_tags() {
        let table = b"40 1 0:50 / /mnt/a\\040b\\134c rw,nosuid shared:1 master:2 - fuse.commitfs /e\\0111 rw,x\n\
                      41 40 8:1 /part /mnt/- rw - ext4 /dev/- ro\n";
        let found: Vec<Line<'_>> = lines(table).collect();
        let [first, second, end] = found[..] else { panic!("{found:?}") };
        assert_eq!((first.id(), first.device(), first.is_whole()), (Some(40), Some((0, 50)), true));
        assert_eq!(first.point().as_deref(), Some(Path::new("/mnt/a b\\c")));
        assert_eq!((first.kind(), first.options()), (Some(&b"fuse.commitfs"[..]), Some(&b"rw,x"[..])));
        assert_eq!(first.source().as_deref(), Some(Path::new("/e\t1")));
        assert_eq!((second.is_whole(), second.kind(), second.options()), (false, Some(&b"ext4"[..]), Some(&b"ro"[..])));
        assert_eq!((end.id(), end.device(), end.point(), end.kind()), (None, None, None, None));
        assert_eq!(unescape(br"a\040b\134c\9"), br"a b\c\9");
    }
}
