//! Which call fails, which one waits, and what was called.

use std::fmt;

use rustix::io::Errno;

use super::disk::{Disk, Realm};

/// A call of the file system above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Create,
    Read,
    Write,
    Flush,
    Fsync,
    Opendir,
    Readdir,
    Fsyncdir,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Fallocate,
    Lseek,
    CopyRange,
}

impl Op {
    /// Calls that change what is there, or what survives.
    pub fn changes(self) -> bool {
        use Op::*;
        matches!(
            self,
            Setattr
                | Mknod
                | Mkdir
                | Unlink
                | Rmdir
                | Symlink
                | Rename
                | Link
                | Create
                | Write
                | Fsync
                | Fsyncdir
                | Setxattr
                | Removexattr
                | Fallocate
                | CopyRange
        )
    }

    /// Calls that need room or the right to write.
    pub fn writes(self) -> bool {
        self.changes() || self == Op::Flush
    }
}

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing was done.
    Before,
    /// It was done: the answer was lost.
    After,
}

/// One call that fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub realm: Realm,
    /// How many calls of the realm, and of `op` if given, come before it.
    pub skip: u64,
    pub op: Option<Op>,
    pub errno: Errno,
    pub when: When,
}

/// Calls that fail one and all.
pub struct Refusal {
    pub realm: Realm,
    pub which: fn(Op) -> bool,
    pub errno: Errno,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub op: Op,
    pub path: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.op, self.path)
    }
}

/// The state of the disk right after a call that changed it.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Changes so far.
    pub number: u64,
    pub call: Call,
    pub disk: Disk,
}

/// All that is planned and was seen.
#[derive(Default)]
pub struct Plan {
    pub fault: Option<Fault>,
    /// With that call everything fails, until allowed again.
    pub dies: bool,
    /// The call that was failed.
    pub hit: Option<Call>,
    /// Every such call fails until allowed again.
    pub refused: Option<Refusal>,
    /// So many such calls at once, on paths that end so, wait until let go.
    pub held: Option<(Realm, Op, usize, &'static str)>,
    /// How many do.
    pub waiting: usize,
    /// Changes so far.
    pub changes: u64,
    pub calls: Option<Vec<Call>>,
    pub moments: Option<Vec<Moment>>,
}

impl Plan {
    /// Whether a call fails. `call` tells what it is, for those who ask.
    pub fn judge(&mut self, realm: Realm, op: Op, call: impl Fn() -> Call) -> Option<(When, Errno)> {
        if let Some(calls) = &mut self.calls
            && realm == Realm::Export
        {
            calls.push(call());
        }
        if let Some(refusal) = &self.refused
            && refusal.realm == realm
            && (refusal.which)(op)
        {
            return Some((When::Before, refusal.errno));
        }
        let fault =
            self.fault.as_mut().filter(|fault| fault.realm == realm && fault.op.is_none_or(|only| only == op))?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        let verdict = (fault.when, fault.errno);
        self.fault = None;
        self.hit = Some(call());
        if self.dies {
            self.refused = Some(Refusal { realm, which: |_| true, errno: verdict.1 });
        }
        Some(verdict)
    }
}
