//! What the simulated processes do, and to what.

use proptest::prelude::*;

/// Simulated processes.
pub const PROCESSES: usize = 3;
/// Names they work on.
pub const NAMES: [&str; 5] = ["a", "b", "d/a", "d/c", "e.log"];

/// Whether files under a name are written in place.
pub fn is_in_place(name: usize) -> bool {
    NAMES[name].ends_with(".log")
}

/// How a file is opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Truncate,
    CreateTruncate,
    Append,
    CreateAppend,
    Patch,
    Exclusive,
}

impl How {
    /// In the words of an agent.
    pub fn flags(self) -> &'static str {
        match self {
            How::Truncate => "w|trunc",
            How::CreateTruncate => "w|creat|trunc",
            How::Append => "w|append",
            How::CreateAppend => "w|creat|append",
            How::Patch => "rw",
            How::Exclusive => "w|creat|excl",
        }
    }

    pub fn creates(self) -> bool {
        matches!(self, How::CreateTruncate | How::CreateAppend | How::Exclusive)
    }

    pub fn truncates(self) -> bool {
        matches!(self, How::Truncate | How::CreateTruncate)
    }

    pub fn appends(self) -> bool {
        matches!(self, How::Append | How::CreateAppend)
    }
}

/// One operation of one process; handles are chosen among those it has.
#[derive(Clone, Debug)]
pub enum Op {
    Open { p: usize, name: usize, how: How },
    Write { p: usize, handle: usize, at: u8, data: u8, len: u16 },
    Resize { p: usize, handle: usize, len: u16 },
    Sync { p: usize, handle: usize },
    Duplicate { p: usize, handle: usize },
    Close { p: usize, handle: usize },
    Unlink { p: usize, name: usize },
    Rename { p: usize, from: usize, to: usize },
    Exchange { p: usize, one: usize, other: usize },
    Link { p: usize, from: usize, to: usize },
    Truncate { p: usize, name: usize, len: u16 },
    Hold { p: usize, name: usize },
    Exit { p: usize },
    Kill { p: usize },
}

/// Where a write goes, unless it appends.
pub fn offset(at: u8) -> usize {
    usize::from(at) * 3
}

/// Sequences of operations, most of them ordinary writing.
pub fn sequence() -> impl Strategy<Value = Vec<Op>> {
    let p = || 0..PROCESSES;
    let name = || 0..NAMES.len();
    let how = prop_oneof![
        1 => Just(How::Truncate),
        3 => Just(How::CreateTruncate),
        1 => Just(How::Append),
        2 => Just(How::CreateAppend),
        2 => Just(How::Patch),
        1 => Just(How::Exclusive),
    ];
    let op = prop_oneof![
        10 => (p(), name(), how).prop_map(|(p, name, how)| Op::Open { p, name, how }),
        12 => (p(), 0..4_usize, any::<u8>(), any::<u8>(), 1..6000_u16)
            .prop_map(|(p, handle, at, data, len)| Op::Write { p, handle, at, data, len }),
        1 => (p(), 0..4_usize, 0..5000_u16).prop_map(|(p, handle, len)| Op::Resize { p, handle, len }),
        1 => (p(), 0..4_usize).prop_map(|(p, handle)| Op::Sync { p, handle }),
        2 => (p(), 0..4_usize).prop_map(|(p, handle)| Op::Duplicate { p, handle }),
        9 => (p(), 0..4_usize).prop_map(|(p, handle)| Op::Close { p, handle }),
        2 => (p(), name()).prop_map(|(p, name)| Op::Unlink { p, name }),
        3 => (p(), name(), name()).prop_map(|(p, from, to)| Op::Rename { p, from, to }),
        1 => (p(), name(), name()).prop_map(|(p, one, other)| Op::Exchange { p, one, other }),
        2 => (p(), name(), name()).prop_map(|(p, from, to)| Op::Link { p, from, to }),
        2 => (p(), name(), 0..5000_u16).prop_map(|(p, name, len)| Op::Truncate { p, name, len }),
        2 => (p(), name()).prop_map(|(p, name)| Op::Hold { p, name }),
        1 => p().prop_map(|p| Op::Exit { p }),
        1 => p().prop_map(|p| Op::Kill { p }),
    ];
    prop::collection::vec(op, 5..50)
}
