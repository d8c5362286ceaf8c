//! The system calls of an agent, one method each.

use super::agent::{Agent, Attributes, Outcome};

/// Anything that names a file: text or raw bytes.
pub trait Bytes: AsRef<[u8]> + Copy {}
impl<T: AsRef<[u8]> + Copy> Bytes for T {}

macro_rules! tokens {
    ($verb:literal $(, $arg:expr)*) => { &[$verb.as_bytes() $(, $arg)*] };
}

fn unit(outcome: Outcome<Vec<Vec<u8>>>) -> Outcome<()> {
    outcome.map(drop)
}

fn number<T: std::str::FromStr>(outcome: Outcome<Vec<Vec<u8>>>) -> Outcome<T>
where
    T::Err: std::fmt::Debug,
{
    outcome.map(|t| std::str::from_utf8(&t[0]).unwrap().parse().unwrap())
}

fn bytes(outcome: Outcome<Vec<Vec<u8>>>) -> Outcome<Vec<u8>> {
    outcome.map(|mut t| t.swap_remove(0))
}

fn text(n: impl ToString) -> Vec<u8> {
    n.to_string().into_bytes()
}

/// By descriptor.
impl Agent {
    /// `how`: words joined by `|` from `r w rw creat excl trunc append sync direct cloexec nofollow dir path tmpfile`.
    #[track_caller]
    pub fn open(&self, path: impl Bytes, how: &str) -> Outcome<i32> {
        number(self.ask(tokens!("open", path.as_ref(), how.as_bytes())))
    }

    /// With permission bits.
    #[track_caller]
    pub fn open_mode(&self, path: impl Bytes, how: &str, mode: u32) -> Outcome<i32> {
        number(self.ask(tokens!("open", path.as_ref(), how.as_bytes(), format!("{mode:o}").as_bytes())))
    }

    #[track_caller]
    pub fn write(&self, fd: i32, data: impl Bytes) -> Outcome<usize> {
        number(self.ask(tokens!("write", &text(fd), data.as_ref())))
    }

    #[track_caller]
    pub fn pwrite(&self, fd: i32, at: u64, data: impl Bytes) -> Outcome<usize> {
        number(self.ask(tokens!("pwrite", &text(fd), &text(at), data.as_ref())))
    }

    /// Writes `len` bytes of the pattern of `seed` at `at`.
    #[track_caller]
    pub fn fill(&self, fd: i32, at: u64, len: u64, seed: u64) -> Outcome<u64> {
        number(self.ask(tokens!("fill", &text(fd), &text(at), &text(len), &text(seed))))
    }

    #[track_caller]
    pub fn read(&self, fd: i32, len: usize) -> Outcome<Vec<u8>> {
        bytes(self.ask(tokens!("read", &text(fd), &text(len))))
    }

    #[track_caller]
    pub fn pread(&self, fd: i32, at: u64, len: usize) -> Outcome<Vec<u8>> {
        bytes(self.ask(tokens!("pread", &text(fd), &text(at), &text(len))))
    }

    /// `whence`: `set cur end data hole`.
    #[track_caller]
    pub fn seek(&self, fd: i32, offset: i64, whence: &str) -> Outcome<u64> {
        number(self.ask(tokens!("seek", &text(fd), &text(offset), whence.as_bytes())))
    }

    #[track_caller]
    pub fn ftruncate(&self, fd: i32, len: u64) -> Outcome<()> {
        unit(self.ask(tokens!("ftruncate", &text(fd), &text(len))))
    }

    #[track_caller]
    pub fn fsync(&self, fd: i32) -> Outcome<()> {
        unit(self.ask(tokens!("fsync", &text(fd))))
    }

    #[track_caller]
    pub fn close(&self, fd: i32) -> Outcome<()> {
        unit(self.ask(tokens!("close", &text(fd))))
    }

    #[track_caller]
    pub fn dup(&self, fd: i32) -> Outcome<i32> {
        number(self.ask(tokens!("dup", &text(fd))))
    }

    #[track_caller]
    pub fn dup2(&self, fd: i32, onto: i32) -> Outcome<i32> {
        number(self.ask(tokens!("dup2", &text(fd), &text(onto))))
    }

    /// `mode`: `plain keep punch zero`.
    #[track_caller]
    pub fn fallocate(&self, fd: i32, mode: &str, at: u64, len: u64) -> Outcome<()> {
        unit(self.ask(tokens!("fallocate", &text(fd), mode.as_bytes(), &text(at), &text(len))))
    }

    #[track_caller]
    pub fn copy_range(&self, from: i32, from_at: u64, to: i32, to_at: u64, len: u64) -> Outcome<u64> {
        number(self.ask(tokens!("copyrange", &text(from), &text(from_at), &text(to), &text(to_at), &text(len))))
    }

    /// Record lock; `how` is one of `read write unlock`, then `,wait` and `,ofd` as wanted; a length of 0 reaches to the
    /// end.
    #[track_caller]
    pub fn lock(&self, fd: i32, how: &str, start: u64, len: u64) -> Outcome<()> {
        unit(self.ask(tokens!("lock", &text(fd), how.as_bytes(), &text(start), &text(len))))
    }

    /// Type (0 shared, 1 exclusive), start, length and process of the lock that is in the way of an exclusive one.
    #[track_caller]
    pub fn test_lock(&self, fd: i32, start: u64, len: u64) -> Outcome<Vec<i64>> {
        let found = self.ask(tokens!("lock", &text(fd), b"test", &text(start), &text(len)))?;
        Ok(found.iter().map(|n| std::str::from_utf8(n).unwrap().parse().unwrap()).collect())
    }

    /// Asks for a lock and does not wait for the answer.
    pub fn send_lock(&self, fd: i32, how: &str, start: u64, len: u64) {
        self.send(tokens!("lock", &text(fd), how.as_bytes(), &text(start), &text(len)));
    }

    /// `share`, `wait` (exclusive), `unlock`.
    #[track_caller]
    pub fn flock_how(&self, fd: i32, how: &str) -> Outcome<()> {
        unit(self.ask(tokens!("flock", &text(fd), how.as_bytes())))
    }

    #[track_caller]
    pub fn flock(&self, fd: i32) -> Outcome<()> {
        unit(self.ask(tokens!("flock", &text(fd))))
    }

    #[track_caller]
    pub fn fchmod(&self, fd: i32, mode: u32) -> Outcome<()> {
        unit(self.ask(tokens!("fchmod", &text(fd), format!("{mode:o}").as_bytes())))
    }

    #[track_caller]
    pub fn fstat(&self, fd: i32) -> Outcome<Attributes> {
        self.attributes(tokens!("fstat", &text(fd)))
    }

    #[track_caller]
    pub fn futimens(&self, fd: i32, atime: i64, mtime: i64) -> Outcome<()> {
        unit(self.ask(tokens!("futimens", &text(fd), &text(atime), &text(mtime))))
    }

    /// Sets `O_APPEND` on an open descriptor, or takes it away.
    #[track_caller]
    pub fn appends(&self, fd: i32, yes: bool) -> Outcome<()> {
        unit(self.ask(tokens!("appends", &text(fd), if yes { b"on" } else { b"off" })))
    }

    /// `mode`: `shared private ro` (read-only and shared). Returns the mapping's number.
    #[track_caller]
    pub fn mmap(&self, fd: i32, at: u64, len: usize, mode: &str) -> Outcome<usize> {
        number(self.ask(tokens!("mmap", &text(fd), &text(at), &text(len), mode.as_bytes())))
    }

    #[track_caller]
    pub fn store(&self, map: usize, at: usize, data: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("store", &text(map), &text(at), data.as_ref())))
    }

    #[track_caller]
    pub fn load(&self, map: usize, at: usize, len: usize) -> Outcome<Vec<u8>> {
        bytes(self.ask(tokens!("load", &text(map), &text(at), &text(len))))
    }

    #[track_caller]
    pub fn msync(&self, map: usize) -> Outcome<()> {
        unit(self.ask(tokens!("msync", &text(map))))
    }

    #[track_caller]
    pub fn munmap(&self, map: usize) -> Outcome<()> {
        unit(self.ask(tokens!("munmap", &text(map))))
    }

    #[track_caller]
    pub fn listen(&self, name: &str) -> Outcome<i32> {
        number(self.ask(&["listen", name]))
    }

    #[track_caller]
    pub fn connect(&self, name: &str) -> Outcome<i32> {
        number(self.ask(&["connect", name]))
    }

    #[track_caller]
    pub fn accept(&self, listener: i32) -> Outcome<i32> {
        number(self.ask(tokens!("accept", &text(listener))))
    }

    #[track_caller]
    pub fn send_fd(&self, socket: i32, fd: i32) -> Outcome<()> {
        unit(self.ask(tokens!("sendfd", &text(socket), &text(fd))))
    }

    #[track_caller]
    pub fn receive_fd(&self, socket: i32) -> Outcome<i32> {
        number(self.ask(tokens!("recvfd", &text(socket))))
    }
}

/// By path.
impl Agent {
    #[track_caller]
    pub fn stat(&self, path: impl Bytes) -> Outcome<Attributes> {
        self.attributes(tokens!("stat", path.as_ref()))
    }

    #[track_caller]
    pub fn lstat(&self, path: impl Bytes) -> Outcome<Attributes> {
        self.attributes(tokens!("lstat", path.as_ref()))
    }

    /// Sorted names, without `.` and `..`.
    #[track_caller]
    pub fn list(&self, path: impl Bytes) -> Outcome<Vec<Vec<u8>>> {
        self.ask(tokens!("list", path.as_ref()))
    }

    /// As `list`, through a descriptor that is open already, from the start.
    #[track_caller]
    pub fn relist(&self, fd: i32) -> Outcome<Vec<Vec<u8>>> {
        self.ask(tokens!("relist", &text(fd)))
    }

    #[track_caller]
    pub fn lists(&self, folder: impl Bytes, name: impl Bytes) -> bool {
        self.list(folder).unwrap().iter().any(|n| n == name.as_ref())
    }

    /// Opens, reads to the end, closes.
    #[track_caller]
    pub fn cat(&self, path: impl Bytes) -> Outcome<Vec<u8>> {
        bytes(self.ask(tokens!("cat", path.as_ref())))
    }

    /// Opens with O_CREAT|O_TRUNC, writes, closes.
    #[track_caller]
    pub fn put(&self, path: impl Bytes, data: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("put", path.as_ref(), data.as_ref())))
    }

    /// Opens with O_CREAT|O_APPEND, writes, closes.
    #[track_caller]
    pub fn append(&self, path: impl Bytes, data: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("append", path.as_ref(), data.as_ref())))
    }

    #[track_caller]
    pub fn truncate(&self, path: impl Bytes, len: u64) -> Outcome<()> {
        unit(self.ask(tokens!("truncate", path.as_ref(), &text(len))))
    }

    #[track_caller]
    pub fn rename(&self, from: impl Bytes, to: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("rename", from.as_ref(), to.as_ref())))
    }

    /// `how`: `noreplace exchange`.
    #[track_caller]
    pub fn rename_with(&self, from: impl Bytes, to: impl Bytes, how: &str) -> Outcome<()> {
        unit(self.ask(tokens!("rename", from.as_ref(), to.as_ref(), how.as_bytes())))
    }

    #[track_caller]
    pub fn link(&self, from: impl Bytes, to: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("link", from.as_ref(), to.as_ref())))
    }

    #[track_caller]
    pub fn symlink(&self, target: impl Bytes, path: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("symlink", target.as_ref(), path.as_ref())))
    }

    #[track_caller]
    pub fn readlink(&self, path: impl Bytes) -> Outcome<Vec<u8>> {
        bytes(self.ask(tokens!("readlink", path.as_ref())))
    }

    #[track_caller]
    pub fn unlink(&self, path: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("unlink", path.as_ref())))
    }

    #[track_caller]
    pub fn mkdir(&self, path: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("mkdir", path.as_ref())))
    }

    #[track_caller]
    pub fn rmdir(&self, path: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("rmdir", path.as_ref())))
    }

    #[track_caller]
    pub fn chmod(&self, path: impl Bytes, mode: u32) -> Outcome<()> {
        unit(self.ask(tokens!("chmod", path.as_ref(), format!("{mode:o}").as_bytes())))
    }

    #[track_caller]
    pub fn chown(&self, path: impl Bytes, uid: u32, gid: u32) -> Outcome<()> {
        unit(self.ask(tokens!("chown", path.as_ref(), &text(uid), &text(gid))))
    }

    #[track_caller]
    pub fn utimens(&self, path: impl Bytes, atime: i64, mtime: i64) -> Outcome<()> {
        unit(self.ask(tokens!("utimens", path.as_ref(), &text(atime), &text(mtime))))
    }

    #[track_caller]
    pub fn set_xattr(&self, path: impl Bytes, name: &str, value: impl Bytes) -> Outcome<()> {
        unit(self.ask(tokens!("setxattr", path.as_ref(), name.as_bytes(), value.as_ref())))
    }

    #[track_caller]
    pub fn xattr(&self, path: impl Bytes, name: &str) -> Outcome<Vec<u8>> {
        bytes(self.ask(tokens!("getxattr", path.as_ref(), name.as_bytes())))
    }

    #[track_caller]
    pub fn xattrs(&self, path: impl Bytes) -> Outcome<Vec<Vec<u8>>> {
        self.ask(tokens!("listxattr", path.as_ref()))
    }

    /// Any other command that takes only words.
    #[track_caller]
    pub fn call(&self, words: &[&str]) -> Outcome<()> {
        unit(self.ask(words))
    }

    /// Runs a script in a shell that is a child of this agent, in its working directory: status, output, complaints.
    #[track_caller]
    pub fn run(&self, shell: &str, script: &str) -> Outcome<(String, String, String)> {
        let out = self.ask(&["run", shell, script])?;
        let mut texts = out.iter().map(|t| String::from_utf8_lossy(t).into_owned());
        Ok((texts.next().unwrap(), texts.next().unwrap(), texts.next().unwrap()))
    }

    /// Runs a script that must succeed; returns its output.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let (status, out, complaints) = self.run("/bin/sh", script).unwrap();
        assert_eq!(status, "0", "`{script}` failed:\n{out}{complaints}");
        out
    }
}

/// What a name shows: content and the attributes that must belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub data: Vec<u8>,
    pub ino: u64,
    pub size: u64,
    pub mode: u32,
    pub mtime: i128,
}

impl Agent {
    /// Looks at a name by all routes: stat, open, fstat, read, list.
    #[track_caller]
    pub fn shown(&self, path: &str) -> Shown {
        let by_path = self.stat(path).unwrap();
        let fd = self.open(path, "r").unwrap();
        let by_fd = self.fstat(fd).unwrap();
        let data = self.pread(fd, 0, 1 << 20).unwrap();
        self.close(fd).unwrap();
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        assert!(self.lists(folder, name), "{path} is not listed");
        assert_eq!(
            (by_path.ino, by_path.size, by_path.mtime),
            (by_fd.ino, by_fd.size, by_fd.mtime),
            "stat and fstat of {path}"
        );
        assert_eq!(data.len() as u64, by_fd.size, "bytes and size of {path}");
        Shown { data, ino: by_path.ino, size: by_path.size, mode: by_path.mode, mtime: by_path.mtime }
    }

    /// The name is not there by any route.
    #[track_caller]
    pub fn sees_nothing(&self, path: &str) {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        assert!(!self.lists(folder, name), "{path} is listed");
        assert_eq!(self.stat(path).unwrap_err(), "ENOENT");
        assert_eq!(self.open(path, "r").unwrap_err(), "ENOENT");
        assert_eq!(self.cat(path).unwrap_err(), "ENOENT");
        assert!(!self.lists(folder, name), "{path} is listed");
    }
}
