//! Reading a file as it is stored, past the page cache: by direct I/O where the file system has it, with its cached pages
//! dropped first otherwise.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Advice, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::retry_on_intr;
use xxhash_rust::xxh3::Xxh3;

use super::{Errno, Result, at, digest};

/// Bytes read at once; a multiple of every block size.
const PIECE: usize = 1 << 20;
/// Alignment that every file system is content with.
const BLOCK: usize = 4096;

/// Opens a regular file below `root`, through no symlink, for direct reading where that is possible. What else has the name
/// is not opened, because that alone may do something to a device or wait: `EISDIR` for a folder, `ELOOP` for a symlink,
/// `ENXIO` for anything else.
pub fn open(root: impl AsFd, path: &Path) -> Result<File> {
    match open_once(root.as_fd(), path) {
        // Replaced on the server in between; a look-up of the name alone would have gone on with the new file.
        Err(Errno::STALE) => open_once(root.as_fd(), path),
        other => other,
    }
}

fn open_once(root: BorrowedFd<'_>, path: &Path) -> Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let found = retry_on_intr(|| rustix::fs::openat2(root, path, flags, Mode::empty(), resolve))?;
    match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        FileType::Symlink => return Err(Errno::LOOP),
        _ => return Err(Errno::NXIO),
    }
    match at::reopen(&found, OFlags::RDONLY | OFlags::DIRECT) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => at::reopen(&found, OFlags::RDONLY),
        other => other,
    }
}

/// Drops what the page cache has of a file, but for what is not written out yet.
pub fn drop_pages(file: impl AsFd) -> Result<()> {
    match rustix::fs::fadvise(file, 0, None, Advice::DontNeed) {
        // A file system without a cache has nothing to drop.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

/// Digest and length of a file from [`open`]. What `hold` returns is kept during each call that asks for content. `seen`
/// is told of each piece and ends the reading by `false`: then there is no digest.
pub fn digest<T>(
    file: &File,
    hold: impl Fn() -> T,
    seen: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<(String, u64)>> {
    drop_pages(file)?;
    let mut hasher = Xxh3::new();
    let mut room = vec![0; PIECE + BLOCK];
    let begin = room.as_ptr().align_offset(BLOCK).min(BLOCK);
    let piece = &mut room[begin..begin + PIECE];
    let mut offset = 0;
    let mut is_direct = true;
    loop {
        let held = hold();
        let read = retry_on_intr(|| rustix::io::pread(file, &mut *piece, offset));
        drop(held);
        let n = match read {
            // It opened, and does not read, or the file's end is in the middle of a block. Opened anew, because the server
            // of a FUSE file system may have opened its own file as this one was, and is not told of a changed flag.
            Err(Errno::INVAL) if is_direct => {
                is_direct = false;
                at::exchange(file, &at::reopen(file, OFlags::RDONLY)?.into())?;
                continue;
            }
            other => other?,
        };
        if n == 0 {
            return Ok(Some((digest::word(&hasher), offset)));
        }
        hasher.update(&piece[..n]);
        offset += n as u64;
        if !seen(n) {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn reads_the_same_as_everybody_else() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let root = File::open(dir.path()).unwrap();
        for len in [0, 1, 4096, 5000, (1 << 20) + 1] {
            let content: Vec<u8> = (0..len).map(|at| (at * 7 % 251) as u8).collect();
            File::create(dir.path().join("f")).unwrap().write_all(&content).unwrap();
            let file = open(&root, Path::new("f")).unwrap();
            let (found, bytes) = digest(&file, || (), &mut |_| true).unwrap().unwrap();
            let plain = File::open(dir.path().join("f")).unwrap();
            assert_eq!((found, bytes), (digest::of(&plain).unwrap(), len as u64));
        }
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        assert_eq!(open(&root, Path::new("link")).unwrap_err(), Errno::LOOP);
        assert!(open(&root, Path::new("../f")).is_err());
    }
    #[test]
    fn nothing_but_a_regular_file_is_opened() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let made = std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap();
        assert!(made.success());
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for (name, errno) in [("fifo", Errno::NXIO), ("folder", Errno::ISDIR), ("socket", Errno::NXIO)] {
            assert_eq!(open(&root, Path::new(name)).unwrap_err(), errno, "{name}");
        }
    }
}
