//! Who has a version open, so that its name is free when it is replaced.
//!
//! The NFS client of Linux renames in two steps over a name through which it has something open: first it moves the old
//! file out of the way, so that for a moment no host finds the name. A version that somebody reads is therefore opened
//! again through its name in the trash folder before the rename, each descriptor of it is exchanged for that one, and
//! calls that are under way on the old ones are waited for. Servers made with libfuse do the same, name by name, until they
//! have been told of a close.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::{Condvar, Mutex};

use super::Key;
use crate::sys::{Result, at};

/// Calls under way take about as long as the server's answer. A rename does not wait longer for them.
const LIMIT: Duration = Duration::from_millis(100);

/// An open file, and on NFS and FUSE the note that its inode is in use. Read at given offsets only and never locked: both belong
/// to the description, which may be exchanged.
#[derive(Debug)]
pub struct Content {
    // Closed before the note ends.
    file: File,
    using: OnceLock<Using>,
}

impl Content {
    /// An open file.
    pub fn new(file: File) -> Arc<Self> {
        Arc::new(Content { file, using: OnceLock::new() })
    }

    /// To be held during a call on the file that asks the server.
    pub fn using(&self) -> Option<Using> {
        self.using.get().map(|using| using.users.enter(using.key))
    }
}

impl Deref for Content {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl AsFd for Content {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// For so long after a call the client's own threads may still hold on to its name.
const ECHO: Duration = Duration::from_millis(20);

/// How free a name is that is about to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Nobody uses its inode.
    Free,
    /// Somebody did until now: the client may not be done with the answers.
    Left,
    /// A call is still under way on it.
    Busy,
}

/// Who uses the versions of an export on NFS or FUSE.
#[derive(Debug)]
pub(super) struct Users {
    of: DashMap<Key, Vec<User>>,
    last: AtomicU64,
    /// When a use of any inode ended last, in microseconds since `began`.
    left_at: AtomicU64,
    began: Instant,
    /// Renames that wait for users to leave.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    left: Condvar,
}

#[derive(Debug)]
struct User {
    number: u64,
    /// Its descriptor, if it stays open; a call that is under way otherwise.
    content: Weak<Content>,
}

/// An inode is in use while this lives.
#[derive(Debug)]
pub struct Using {
    users: Arc<Users>,
    key: Key,
    number: u64,
    /// Nothing was read or opened: the client is done when the call returns.
    quiet: bool,
}

impl Drop for Using {
    fn drop(&mut self) {
        if let Some(mut users) = self.users.of.get_mut(&self.key) {
            users.retain(|user| user.number != self.number);
        }
        self.users.of.remove_if(&self.key, |_, users| users.is_empty());
        if !self.quiet {
            self.users.left_at.store(self.users.now(), Ordering::Release);
        }
        if self.users.waiting.load(Ordering::Acquire) > 0 {
            drop(self.users.lock.lock());
            self.users.left.notify_all();
        }
    }
}

impl Default for Users {
    fn default() -> Self {
        Users {
            of: DashMap::new(),
            last: AtomicU64::new(0),
            left_at: AtomicU64::new(0),
            began: Instant::now(),
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            left: Condvar::new(),
        }
    }
}

impl Users {
    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// An inode is in use from now on.
    pub fn enter(self: &Arc<Self>, key: Key) -> Using {
        self.enter_as(key, false)
    }

    /// An inode is referred to from now on, by a descriptor that is good for its attributes only.
    pub fn refer(self: &Arc<Self>, key: Key) -> Using {
        self.enter_as(key, true)
    }

    fn enter_as(self: &Arc<Self>, key: Key, quiet: bool) -> Using {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        self.of.entry(key).or_default().push(User { number, content: Weak::new() });
        Using { users: self.clone(), key, number, quiet }
    }

    /// An inode is in use while this file is open, or referred to if it cannot be read.
    pub fn add(self: &Arc<Self>, key: Key, content: &Arc<Content>, quiet: bool) {
        content.using.get_or_init(|| {
            let using = self.enter_as(key, quiet);
            if let Some(mut users) = self.of.get_mut(&key)
                && let Some(user) = users.iter_mut().find(|user| user.number == using.number)
            {
                user.content = Arc::downgrade(content);
            }
            using
        });
    }

    /// Exchanges the descriptors of an inode for one that `reopen` opens, if there are any, and waits for whoever uses
    /// the inode otherwise.
    pub fn lead_away(&self, key: Key, reopen: impl FnOnce() -> Result<OwnedFd>) -> Result<Name> {
        let (mut open, mut busy) = (Vec::new(), Vec::new());
        if let Some(users) = self.of.get(&key) {
            for user in users.iter() {
                match user.content.upgrade() {
                    Some(content) => open.push(content),
                    None => busy.push(user.number),
                }
            }
        }
        if !open.is_empty() {
            let other = reopen()?;
            open.iter().try_for_each(|content| at::exchange(&content.file, &other))?;
        }
        if !busy.is_empty() && !self.wait_for(key, &busy) {
            return Ok(Name::Busy);
        }
        let echoes = self.now().saturating_sub(self.left_at.load(Ordering::Acquire)) < ECHO.as_micros() as u64;
        Ok(if echoes || !open.is_empty() { Name::Left } else { Name::Free })
    }

    fn wait_for(&self, key: Key, numbers: &[u64]) -> bool {
        let until = Instant::now() + LIMIT;
        let gone = || {
            let users = self.of.get(&key);
            users.is_none_or(|users| !users.iter().any(|user| numbers.contains(&user.number)))
        };
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let mut guard = self.lock.lock();
        let mut done = gone();
        while !done && !self.left.wait_until(&mut guard, until).timed_out() {
            done = gone();
        }
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        done || gone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::stat;
    use std::ffi::OsStr;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    const KEY: Key = Key { dev: 1, ino: 2 };

    fn nobody() -> Result<OwnedFd> {
        unreachable!("nobody has it open")
    }

    #[test]
    fn a_file_that_is_led_away_is_the_same_file_by_its_other_name() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (name, aside) = (dir.path().join("name"), dir.path().join("aside"));
        std::fs::write(&name, "content").unwrap();
        let content = Content::new(File::open(&name).unwrap());
        let key = Key::of(&stat::fstat(&*content).unwrap());
        let users = Arc::new(Users::default());
        users.add(key, &content, false);
        std::fs::hard_link(&name, &aside).unwrap();
        let folder = File::open(dir.path()).unwrap();
        let reopen = || at::open_file(&folder, OsStr::new("aside"), rustix::fs::OFlags::RDONLY, 0);
        assert_eq!(users.lead_away(key, || reopen().map(OwnedFd::from)).unwrap(), Name::Left);
        let path = std::fs::read_link(format!("/proc/self/fd/{}", content.as_raw_fd())).unwrap();
        assert_eq!(path, std::fs::canonicalize(aside).unwrap());
        let mut read = [0; 7];
        content.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"content");
    }

    #[test]
    fn calls_under_way_are_waited_for_and_later_ones_are_not() {
        let users = Arc::new(Users::default());
        let (before, other) = (users.enter(KEY), users.enter(Key { ino: 3, ..KEY }));
        std::thread::scope(|scope| {
            let rename = scope.spawn(|| users.lead_away(KEY, nobody));
            while users.waiting.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            let later = users.enter(KEY);
            drop(before);
            assert_eq!(rename.join().unwrap().unwrap(), Name::Left);
            drop(later);
        });
        drop(other);
        while users.lead_away(KEY, nobody).unwrap() == Name::Left {
            std::thread::yield_now();
        }
        assert!(users.of.is_empty(), "{:?}", users.of);
    }

    #[test]
    fn a_call_that_does_not_end_holds_nobody_up_for_ever() {
        let users = Arc::new(Users::default());
        let stuck = users.enter(KEY);
        assert_eq!(users.lead_away(KEY, nobody).unwrap(), Name::Busy);
        drop(stuck);
    }
}
