//! Times of files that are written in place: what the kernel has, and how it gets the export's.
//!
//! A kernel that gathers writes keeps the times of a regular file by itself, from the writes that it gathers, and takes none
//! that an answer has. Files that are written in place it does not gather, so their times would never move. What it takes
//! is a time that somebody sets: so the daemon sets the export's through its own mount, and knows its own request.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use dashmap::DashMap;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::Fs;
use super::changes::{Changes, SetTime};
use crate::draft::Caller;
use crate::inode::Node;
use crate::sys::handle::Handle;
use crate::sys::stat::Time;
use crate::sys::{Errno, Result, Stat, at, stat};

/// How long an answer waits for the kernel to take a time. That waits for the file's lock, and whoever has it may be who has
/// asked: to `touch` another's file, or to set an extended attribute, the kernel asks for its mode.
const PATIENCE: Duration = Duration::from_millis(50);

/// How often a time is told that moves on meanwhile.
const ROUNDS: usize = 3;

/// What is being told.
#[derive(Default)]
pub(super) struct Tellers {
    /// Whoever tells a time of one of these nodes, one after the other.
    turns: [Mutex<()>; 16],
    /// By thread: the node, and the time that it sets.
    at_work: DashMap<u32, (u64, Time)>,
}

impl Fs {
    /// True if the kernel has another modification time of the node than the file, and takes none that an answer has.
    pub(super) fn has_news(&self, node: &Node, stat: &Stat) -> bool {
        // Only root reaches an inode by its number.
        self.options.gathers && self.options.act_as_caller && node.has_moved_on(stat)
    }

    /// Has the kernel take the modification time of a file that is written in place. Not from a session thread.
    pub(super) fn tell_time(self: &Arc<Self>, node: &Arc<Node>) {
        let (fs, node) = (self.clone(), node.clone());
        let (told, taken) = bounded::<()>(1);
        // A thread of its own: it may wait for whoever waits for all that others have in hand.
        let telling = std::thread::Builder::new().name("time".to_owned()).spawn(move || {
            if let Err(errno) = fs.set_time(&node) {
                tracing::debug!(node = node.id, %errno, "the kernel did not take a file's time");
            }
            drop(told);
        });
        match telling {
            // Told, or not in time: whoever asks next finds it.
            Ok(_) => drop(taken.recv_timeout(PATIENCE)),
            Err(error) => tracing::debug!(%error, "no thread to tell the kernel a time"),
        }
    }

    fn set_time(&self, node: &Node) -> Result<()> {
        let turn = &self.tellers.turns[node.id as usize % self.tellers.turns.len()];
        let Some(_turn) = turn.try_lock_for(PATIENCE) else { return Err(Errno::BUSY) };
        let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
        for _ in 0..ROUNDS {
            let stat = stat::fstat(self.nodes().fd(node)?)?;
            if !self.has_news(node, &stat) {
                break;
            }
            self.tellers.at_work.insert(tid, (node.id, stat.mtime));
            let set = self.set_through_mount(node.id, stat.mtime);
            self.tellers.at_work.remove(&tid);
            set?;
        }
        Ok(())
    }

    /// As an application would, but that it reaches the inode by its number: its name is not looked up, and it is not opened.
    fn set_through_mount(&self, node: u64, time: Time) -> Result<()> {
        // Not by path alone, which is none to open a handle with. So long as the daemon is asked for something by its mount,
        // that is busy anyway.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.options.mountpoint, flags, Mode::empty())?;
        let mounted = self.mount.get().map(|mount| rustix::fs::makedev(mount.dev.0, mount.dev.1));
        // Somebody has mounted over it, or it is mounted no more.
        if Some(at::device(root.as_fd())?) != mounted {
            return Err(Errno::NODEV);
        }
        at::set_mtime(Handle::of_fuse_node(node).open(&root, OFlags::PATH)?, time)
    }

    /// True if this is a time that the daemon has the kernel take: the export has it.
    pub(super) fn is_told(&self, caller: Caller, node: u64, changes: Changes) -> bool {
        let Some(time) = changes.mtime.and_then(SetTime::exact).filter(|_| changes.is_mtime_alone()) else {
            return false;
        };
        if self.tellers.at_work.get(&caller.tid).is_none_or(|telling| *telling != (node, time)) {
            return false;
        }
        if let Ok(node) = self.nodes().get(node) {
            node.note_told(time);
        }
        true
    }
}
