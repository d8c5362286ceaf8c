//! Read-after-close between two processes that share nothing but a page of counters: tighter than any socket.

use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Args, Outcome, sys};

/// Counter: the last round whose close returned.
const CLOSED: usize = 0;
/// Counter: the last round that the reader has checked.
const CHECKED: usize = 1;
/// Counter: set when either side gave up.
const STOPPED: usize = 2;

/// `rounds write|read COUNTERS PATH COUNT HOW`: the writer publishes the number of each round at PATH, the reader opens
/// PATH at once after that close returned and must find that number. Answers what was wrong, nothing when all is well.
///
/// `rounds beside …` writes without waiting for anybody, beside others that write the same name; `rename` as HOW by way of a
/// name that all of them share, which another may have renamed already.
///
/// HOW names the way of writing: `plain`, `new` (a fresh name each round), `dup` (two closes, as shells do), `fork`
/// (a child that inherits the descriptor and is gone again), `append`, `patch`; `heir` and `thread`: a child, or another thread,
/// writes [`LONG`] bytes and closes while the opener closes its duplicate.
pub fn run(args: &mut Args) -> Outcome {
    let role = args.text();
    let file = OpenOptions::new().read(true).write(true).open(args.text())?;
    let counters = sys::counters(file.as_raw_fd())?;
    let (path, count, how) = (args.text(), args.number::<u64>(), args.text());
    let result = match role.as_str() {
        "write" => write_rounds(counters, &path, count, &how),
        "beside" => (1..=count).try_for_each(|round| write_beside(&path, round, &how)).map(|()| Vec::new()),
        _ => read_rounds(counters, &path, count, &how),
    };
    counters[STOPPED].store(1, Ordering::SeqCst);
    result.map(|wrong| wrong.into_iter().map(String::into_bytes).collect())
}

fn write_rounds(counters: &[AtomicU64; 8], path: &str, count: u64, how: &str) -> std::io::Result<Vec<String>> {
    for round in 1..=count {
        let name = name_of(path, round, how);
        write_one(&name, round, how).map_err(|e| Error::other(format!("round {round}: {e}")))?;
        counters[CLOSED].store(round, Ordering::SeqCst);
        if !wait_for(counters, CHECKED, round) {
            break;
        }
        if how == "new" {
            std::fs::remove_file(&name)?;
        }
    }
    Ok(Vec::new())
}

fn write_beside(path: &str, round: u64, how: &str) -> std::io::Result<()> {
    let said = |e: Error| Error::other(format!("round {round}: {e}"));
    if how != "rename" {
        return write_one(path, round, how).map_err(said);
    }
    let aside = format!("{path}.aside");
    write_one(&aside, round, "plain").map_err(said)?;
    match std::fs::rename(&aside, path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(said(error)),
        _ => Ok(()),
    }
}

fn write_one(name: &str, round: u64, how: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    match how {
        "append" => options.append(true).create(true),
        "patch" => options.create(true),
        _ => options.create(true).truncate(true),
    };
    let mut file = options.open(name)?;
    if ["heir", "thread"].contains(&how) {
        return close_at_once(file, round, how);
    }
    // In one call: others may append meanwhile.
    file.write_all(format!("{round:08}\n").as_bytes())?;
    match how {
        "dup" => {
            let twin = file.as_fd().try_clone_to_owned()?;
            close(file.into())?;
            return close(twin);
        }
        "fork" => {
            let pid = sys::fork()?;
            if pid == 0 {
                sys::exit_now(0);
            }
            close(file.into())?;
            return sys::wait(pid).map(drop);
        }
        _ => {}
    }
    close(file.into())
}

/// Bytes that `heir` and `thread` write.
const LONG: usize = 1 << 16;

fn close_at_once(file: File, round: u64, how: &str) -> std::io::Result<()> {
    // Both closes come at each distance from one another, within the time that a close takes.
    let (mine, others) = (round * 7919 % 120, round * 6607 % 120);
    let pause = |micros| {
        let until = Instant::now() + Duration::from_micros(micros);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    };
    let write = move |mut file: File| {
        pause(others);
        file.write_all(&[b'0' + (round % 10) as u8; LONG])?;
        close(file.into())
    };
    if how == "thread" {
        let twin = file.try_clone()?;
        let writing = std::thread::spawn(move || write(twin));
        pause(mine);
        close(file.into())?;
        return writing.join().map_err(|_| Error::other("the other thread panicked"))?;
    }
    let pid = sys::fork()?;
    if pid == 0 {
        sys::exit_now(write(file).is_err().into());
    }
    pause(mine);
    close(file.into())?;
    match sys::wait(pid)? {
        0 => Ok(()),
        status => Err(Error::other(format!("the child ended with {status}"))),
    }
}

fn close(file: std::os::fd::OwnedFd) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    sys::close(file.into_raw_fd())
}

fn read_rounds(counters: &[AtomicU64; 8], path: &str, count: u64, how: &str) -> std::io::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for round in 1..=count {
        if !wait_for(counters, CLOSED, round) {
            return Err(Error::other(format!("the writer stopped before round {round}")));
        }
        let name = name_of(path, round, how);
        let expected: String = match how {
            "append" => (1..=round).map(|r| format!("{r:08}\n")).collect(),
            _ => format!("{round:08}\n"),
        };
        let mut found = String::new();
        match File::open(&name).and_then(|mut f| f.read_to_string(&mut found)) {
            Err(error) => wrong.push(format!("round {round}: {error}")),
            Ok(_) if found != expected => {
                wrong.push(format!("round {round}: found {:?}, {} bytes", found.lines().last(), found.len()));
            }
            Ok(_) => {}
        }
        counters[CHECKED].store(round, Ordering::SeqCst);
        if wrong.len() >= 10 {
            break;
        }
    }
    Ok(wrong)
}

fn name_of(path: &str, round: u64, how: &str) -> String {
    if how == "new" { format!("{path}.{round}") } else { path.to_owned() }
}

/// Spins until a counter reaches `round`; false when the other side stopped.
fn wait_for(counters: &[AtomicU64; 8], which: usize, round: u64) -> bool {
    let mut spins = 0_u32;
    while counters[which].load(Ordering::SeqCst) < round {
        if counters[STOPPED].load(Ordering::SeqCst) != 0 && counters[which].load(Ordering::SeqCst) < round {
            return false;
        }
        spins += 1;
        if spins.is_multiple_of(200) {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
    true
}
