//! All calls that open, change, move and remove files, on a handful of names that other processes use at the same time.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, IntoRawFd};

use rustix::fs::{self, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::{Args, Outcome, sys};

/// Two of them are written in place by the built-in rules.
const NAMES: [&str; 5] = ["a", "b", "c.log", "d/e", "d/f.log"];

/// What may come of any of the calls, depending on what the others have just done.
const EXPECTED: [Errno; 3] = [Errno::NOENT, Errno::EXIST, Errno::BUSY];

/// `jumble CALLS SEED`: so many calls in the working directory. Answers which ones failed with what, and how often, if that
/// was another error than [`EXPECTED`].
pub fn run(args: &mut Args) -> Outcome {
    let (calls, seed) = (args.number::<u64>(), args.number::<u64>());
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut failed: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..calls {
        if let Err((call, errno)) = one(&mut dice)
            && !EXPECTED.contains(&errno)
        {
            *failed.entry(format!("{call} {}", crate::errno_name(&errno.into()))).or_default() += 1;
        }
    }
    Ok(failed.into_iter().map(|(what, times)| format!("{times} {what}").into_bytes()).collect())
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

type Failure = (&'static str, Errno);

fn one(dice: &mut Dice) -> Result<(), Failure> {
    let (name, other) = (NAMES[dice.roll(NAMES.len())], NAMES[dice.roll(NAMES.len())]);
    let said = |call: &'static str| move |errno| (call, errno);
    let size = dice.roll(5000) as u64;
    match dice.roll(17) {
        0 => write(dice, name, OFlags::WRONLY | OFlags::TRUNC),
        1 => write(dice, name, OFlags::WRONLY | OFlags::TRUNC | OFlags::CREATE),
        2 => write(dice, name, OFlags::RDWR),
        3 => write(dice, name, OFlags::WRONLY | OFlags::APPEND),
        4 => write(dice, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL),
        5 => change(name, OFlags::RDWR, |fd| fs::ftruncate(fd, size).map_err(said("ftruncate"))),
        6 => change(name, OFlags::RDWR | OFlags::CREATE, |fd| {
            rustix::io::write(fd, b"synced").map_err(said("write"))?;
            fs::fsync(fd).map_err(said("fsync"))
        }),
        7 => {
            let path = std::ffi::CString::new(name).expect("no zero byte");
            sys::truncate(&path, size.cast_signed()).map_err(|error| ("truncate", errno_of(&error)))
        }
        8 => fs::link(name, other).map_err(said("link")),
        9 => match fs::renameat_with(CWD, name, CWD, other, RenameFlags::EXCHANGE) {
            // NFS cannot.
            Err(Errno::INVAL) => Ok(()),
            exchanged => exchanged.map_err(said("exchange")),
        },
        10 => fs::unlink(name).map_err(said("unlink")),
        11 => fs::rename(name, other).map_err(said("rename")),
        12 => change(name, OFlags::RDONLY, |fd| {
            let mut data = [0; 10_000];
            rustix::io::read(fd, &mut data).map(drop).map_err(said("read"))
        }),
        13 => fs::stat(name).map(drop).map_err(said("stat")),
        14 => fs::open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .and_then(|folder| fs::Dir::new(folder)?.try_for_each(|entry| entry.map(drop)))
            .map_err(said("list")),
        15 => fs::chmod(name, Mode::from_raw_mode(0o600)).map_err(said("chmod")),
        _ => {
            let time = Timespec { tv_sec: size.cast_signed(), tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            fs::utimensat(CWD, name, &times, fs::AtFlags::empty()).map_err(said("utimens"))
        }
    }
}

fn write(dice: &mut Dice, name: &str, flags: OFlags) -> Result<(), Failure> {
    let data = vec![b'x'; 1 + dice.roll(9000)];
    change(name, flags, |fd| rustix::io::write(fd, &data).map(drop).map_err(|errno| ("write", errno)))
}

fn change(
    name: &str,
    flags: OFlags,
    call: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let how = if flags.contains(OFlags::CREATE) { "open to create" } else { "open" };
    let fd = fs::open(name, flags, Mode::from_raw_mode(0o644)).map_err(|errno| (how, errno))?;
    let called = call(fd.as_fd());
    let closed = sys::close(fd.into_raw_fd());
    called?;
    closed.map_err(|error| ("close", errno_of(&error)))
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
