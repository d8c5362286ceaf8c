//! The agent's commands: thin names for system calls.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsFd, IntoRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, Access, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps,
    Uid, XattrFlags,
};

use crate::{Args, Outcome, jumble, rounds, serve_socket, sys, wire};

/// Runs one command.
pub fn run(verb: &str, args: &mut Args) -> Outcome {
    match verb {
        "hello" => Ok(vec![number(wire::FINGERPRINT), number(u64::from(std::process::id()))]),
        "open" | "write" | "pwrite" | "fill" | "read" | "pread" | "seek" | "ftruncate" | "fsync" | "fdatasync"
        | "close" | "dup" | "dup2" | "inherit" | "fallocate" | "copyrange" | "flock" | "lock" | "fchmod" | "fstat"
        | "futimens" | "syncfs" | "relist" | "appends" => by_descriptor(verb, args),
        "mmap" | "store" | "load" | "msync" | "munmap" => mapped(verb, args),
        "fork" | "dfork" | "thread" | "subreaper" | "run" | "exit" | "die" | "become" | "heed" | "umask" | "chdir"
        | "wait" => process(verb, args),
        "listen" | "connect" | "accept" | "sendfd" | "recvfd" => socket(verb, args),
        "rounds" => rounds::run(args),
        "jumble" => jumble::run(args),
        _ => by_path(verb, args),
    }
}

fn by_descriptor(verb: &str, args: &mut Args) -> Outcome {
    if verb == "open" {
        let (path, flags) = (args.bytes(), open_flags(&args.text()));
        let mode = Mode::from_raw_mode(u32::from_str_radix(&args.text(), 8).unwrap_or(0o644));
        return Ok(vec![number(fs::open(path.as_slice(), flags, mode)?.into_raw_fd())]);
    }
    let raw: RawFd = args.number();
    let fd = sys::fd(raw);
    match verb {
        "write" => Ok(vec![number(rustix::io::write(fd, &args.bytes())?)]),
        "pwrite" => {
            let offset = args.number();
            Ok(vec![number(rustix::io::pwrite(fd, &args.bytes(), offset)?)])
        }
        "fill" => {
            let (from, len, seed): (u64, u64, u64) = (args.number(), args.number(), args.number());
            fill(fd, from, len, seed)
        }
        "read" => {
            let mut data = vec![0; args.number()];
            let n = rustix::io::read(fd, &mut data[..])?;
            Ok(vec![data[..n].to_vec()])
        }
        "pread" => {
            let offset = args.number();
            let mut data = vec![0; args.number()];
            let n = rustix::io::pread(fd, &mut data[..], offset)?;
            Ok(vec![data[..n].to_vec()])
        }
        "seek" => {
            let offset: i64 = args.number();
            let at = u64::try_from(offset).unwrap_or(0);
            let to = match args.text().as_str() {
                "set" => fs::SeekFrom::Start(at),
                "cur" => fs::SeekFrom::Current(offset),
                "end" => fs::SeekFrom::End(offset),
                "data" => fs::SeekFrom::Data(at),
                _ => fs::SeekFrom::Hole(at),
            };
            Ok(vec![number(fs::seek(fd, to)?)])
        }
        "ftruncate" => done(fs::ftruncate(fd, args.number())),
        "fsync" => done(fs::fsync(fd)),
        "fdatasync" => done(fs::fdatasync(fd)),
        "syncfs" => done(fs::syncfs(fd)),
        "relist" => {
            // Through a duplicate: the same open folder, with the same position.
            let mut folder = fs::Dir::new(fd.try_clone_to_owned()?)?;
            folder.rewind();
            let mut names = Vec::new();
            for entry in folder {
                names.push(entry?.file_name().to_bytes().to_vec());
            }
            names.retain(|name| name != b"." && name != b"..");
            names.sort();
            Ok(names)
        }
        "close" => sys::close(raw).map(|()| Vec::new()),
        "dup" => Ok(vec![number(sys::dup(raw)?)]),
        "dup2" => Ok(vec![number(sys::dup2(raw, args.number())?)]),
        "inherit" => sys::clear_cloexec(raw).map(|()| Vec::new()),
        "fallocate" => {
            let mode = match args.text().as_str() {
                "keep" => FallocateFlags::KEEP_SIZE,
                "punch" => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                "zero" => FallocateFlags::ZERO_RANGE,
                _ => FallocateFlags::empty(),
            };
            done(fs::fallocate(fd, mode, args.number(), args.number()))
        }
        "copyrange" => {
            let (mut from, to): (u64, RawFd) = (args.number(), args.number());
            let mut at = args.number();
            let n = fs::copy_file_range(fd, Some(&mut from), sys::fd(to), Some(&mut at), args.number())?;
            Ok(vec![number(n)])
        }
        "flock" => {
            use fs::FlockOperation as F;
            done(fs::flock(
                fd,
                match args.text().as_str() {
                    "share" => F::NonBlockingLockShared,
                    "wait" => F::LockExclusive,
                    "unlock" => F::Unlock,
                    _ => F::NonBlockingLockExclusive,
                },
            ))
        }
        "lock" => {
            let (how, start, len) = (args.text(), args.number(), args.number());
            let found = sys::record_lock(raw, &how, start, len)?;
            Ok(found.into_iter().map(number).collect())
        }
        "fchmod" => done(fs::fchmod(fd, Mode::from_raw_mode(octal(args)))),
        "futimens" => done(fs::futimens(fd, &times(args))),
        "appends" => {
            let mut flags = fs::fcntl_getfl(fd)?;
            flags.set(OFlags::APPEND, args.text() == "on");
            done(fs::fcntl_setfl(fd, flags))
        }
        _ => fs::fstat(fd).map(|s| attributes(&s)).map_err(Error::from),
    }
}

/// Writes `len` bytes of the pattern, in blocks, so that the test need not send them.
fn fill(fd: impl AsFd, from: u64, len: u64, seed: u64) -> Outcome {
    let end = from + len;
    let mut at = from;
    while at < end {
        let block: Vec<u8> = (at..end.min(at + 65536)).map(|i| wire::pattern(seed, i)).collect();
        at += rustix::io::pwrite(&fd, &block, at)? as u64;
    }
    Ok(vec![number(len)])
}

fn mapped(verb: &str, args: &mut Args) -> Outcome {
    if verb == "mmap" {
        let (raw, offset, len): (RawFd, i64, usize) = (args.number(), args.number(), args.number());
        let mode = args.text();
        return Ok(vec![number(sys::map(raw, offset, len, mode != "ro", mode != "private")?)]);
    }
    let id = args.number();
    match verb {
        "store" => {
            let at = args.number();
            sys::store(id, at, &args.bytes()).map(|()| Vec::new())
        }
        "load" => Ok(vec![sys::load(id, args.number(), args.number())?]),
        "msync" => sys::msync(id).map(|()| Vec::new()),
        _ => sys::unmap(id).map(|()| Vec::new()),
    }
}

fn process(verb: &str, args: &mut Args) -> Outcome {
    match verb {
        "fork" | "dfork" => {
            let name = args.text();
            let pid = sys::fork()?;
            if pid == 0 {
                // A double fork leaves a grandchild whose parent is gone, as daemons do.
                if verb == "dfork" && !matches!(sys::fork(), Ok(0)) {
                    sys::exit_now(0);
                }
                serve_socket(&name, args.control());
                sys::exit_now(0);
            }
            if verb == "dfork" {
                sys::wait(pid)?;
            }
            Ok(vec![number(pid)])
        }
        "subreaper" => {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
            Ok(Vec::new())
        }
        "thread" => {
            let name = args.text();
            std::thread::spawn(move || serve_socket(&name, None));
            Ok(Vec::new())
        }
        "run" => {
            let shell = args.text();
            let out = std::process::Command::new(shell).arg("-c").arg(OsStr::from_bytes(&args.bytes())).output()?;
            let status = out.status.code().map_or_else(|| format!("{}", out.status), |code| code.to_string());
            Ok(vec![status.into_bytes(), out.stdout, out.stderr])
        }
        "exit" => sys::exit_now(args.number()),
        "die" => sys::kill_self(args.number()).map(|()| Vec::new()),
        "become" => sys::become_user(args.number(), args.number()).map(|()| Vec::new()),
        "umask" => {
            rustix::process::umask(Mode::from_raw_mode(octal(args)));
            Ok(Vec::new())
        }
        "wait" => Ok(vec![number(sys::wait(args.number())?)]),
        "heed" => sys::heed(args.number()).map(|()| Vec::new()),
        _ => std::env::set_current_dir(path(args)).map(|()| Vec::new()),
    }
}

fn socket(verb: &str, args: &mut Args) -> Outcome {
    match verb {
        "listen" => {
            Ok(vec![number(UnixListener::bind_addr(&SocketAddr::from_abstract_name(args.bytes())?)?.into_raw_fd())])
        }
        "connect" => {
            let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(args.bytes())?)?;
            Ok(vec![number(stream.into_raw_fd())])
        }
        "accept" => {
            let listener = UnixListener::from(sys::own(args.number()));
            Ok(vec![number(listener.accept()?.0.into_raw_fd())])
        }
        "sendfd" => sys::send_fd(args.number(), args.number()).map(|()| Vec::new()),
        _ => Ok(vec![number(sys::receive_fd(args.number())?)]),
    }
}

fn by_path(verb: &str, args: &mut Args) -> Outcome {
    let path = path(args);
    match verb {
        "stat" => fs::stat(&path).map(|s| attributes(&s)).map_err(Error::from),
        "lstat" => fs::lstat(&path).map(|s| attributes(&s)).map_err(Error::from),
        "list" => {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&path)? {
                names.push(entry?.file_name().into_vec());
            }
            names.sort();
            Ok(names)
        }
        "cat" => {
            let mut data = Vec::new();
            File::open(&path)?.read_to_end(&mut data)?;
            Ok(vec![data])
        }
        // The two ways ordinary programs write a file; close's error counts.
        "put" | "append" => {
            let how = if verb == "put" { OFlags::TRUNC } else { OFlags::APPEND };
            let file = fs::open(&path, OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | how, 0o644.into())?;
            let mut file = File::from(file);
            file.write_all(&args.bytes())?;
            sys::close(file.into_raw_fd()).map(|()| Vec::new())
        }
        "truncate" => {
            let len: i64 = args.number();
            let how = std::ffi::CString::new(path.into_os_string().into_vec())?;
            truncate(&how, len)
        }
        "rename" => {
            let to = self::path(args);
            let flags = match args.text().as_str() {
                "noreplace" => RenameFlags::NOREPLACE,
                "exchange" => RenameFlags::EXCHANGE,
                _ => RenameFlags::empty(),
            };
            done(fs::renameat_with(CWD, &path, CWD, &to, flags))
        }
        "link" => done(fs::link(&path, self::path(args))),
        "symlink" => done(fs::symlink(&path, self::path(args))),
        "readlink" => Ok(vec![fs::readlink(&path, Vec::new())?.into_bytes()]),
        "unlink" => done(fs::unlink(&path)),
        "mkdir" => done(fs::mkdir(&path, 0o755.into())),
        "rmdir" => done(fs::rmdir(&path)),
        "mkfifo" => done(fs::mknodat(CWD, &path, FileType::Fifo, 0o644.into(), 0)),
        "mknod" => done(fs::mknodat(CWD, &path, FileType::RegularFile, 0o644.into(), 0)),
        "chmod" => done(fs::chmod(&path, Mode::from_raw_mode(octal(args)))),
        "chown" => {
            let (uid, gid) = (args.number(), args.number());
            done(fs::chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
        }
        "utimens" => done(fs::utimensat(CWD, &path, &times(args), AtFlags::empty())),
        "setxattr" => {
            let name = args.text();
            done(fs::setxattr(&path, name, &args.bytes(), XattrFlags::empty()))
        }
        "getxattr" => {
            let mut value = vec![0; 65536];
            let n = fs::getxattr(&path, args.text(), &mut value[..])?;
            Ok(vec![value[..n].to_vec()])
        }
        "listxattr" => {
            let mut names = vec![0_u8; 65536];
            let n = fs::listxattr(&path, &mut names[..])?;
            Ok(names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
        }
        "removexattr" => done(fs::removexattr(&path, args.text())),
        "access" => {
            let mode = args.text();
            let wanted = [('r', Access::READ_OK), ('w', Access::WRITE_OK), ('x', Access::EXEC_OK)];
            let access = wanted.iter().filter(|(c, _)| mode.contains(*c)).fold(Access::EXISTS, |a, (_, b)| a | *b);
            done(fs::access(&path, access))
        }
        "statfs" => {
            let s = fs::statfs(&path)?;
            Ok(vec![number(s.f_type), number(s.f_blocks), number(s.f_bavail)])
        }
        _ => Err(Error::other(format!("unknown command {verb}"))),
    }
}

/// truncate(2) by path: one system call, no descriptor.
fn truncate(path: &std::ffi::CStr, len: i64) -> Outcome {
    sys::truncate(path, len).map(|()| Vec::new())
}

fn open_flags(words: &str) -> OFlags {
    words.split('|').fold(OFlags::empty(), |flags, word| {
        flags
            | match word {
                "w" => OFlags::WRONLY,
                "rw" => OFlags::RDWR,
                "creat" => OFlags::CREATE,
                "excl" => OFlags::EXCL,
                "trunc" => OFlags::TRUNC,
                "append" => OFlags::APPEND,
                "sync" => OFlags::SYNC,
                "direct" => OFlags::DIRECT,
                "cloexec" => OFlags::CLOEXEC,
                "nofollow" => OFlags::NOFOLLOW,
                "dir" => OFlags::DIRECTORY,
                "path" => OFlags::PATH,
                "tmpfile" => OFlags::TMPFILE,
                _ => OFlags::RDONLY,
            }
    })
}

/// `ino size mode nlink uid gid mtime blocks dev`, mode octal, mtime in nanoseconds.
fn attributes(s: &Stat) -> Vec<Vec<u8>> {
    let mtime = i128::from(s.st_mtime) * 1_000_000_000 + i128::from(s.st_mtime_nsec);
    vec![
        number(s.st_ino),
        number(s.st_size),
        format!("{:o}", s.st_mode).into_bytes(),
        number(s.st_nlink),
        number(s.st_uid),
        number(s.st_gid),
        number(mtime),
        number(s.st_blocks),
        number(s.st_dev),
    ]
}

fn times(args: &mut Args) -> Timestamps {
    let mut one = || {
        let nanos: i64 = args.number();
        Timespec { tv_sec: nanos.div_euclid(1_000_000_000), tv_nsec: nanos.rem_euclid(1_000_000_000) }
    };
    Timestamps { last_access: one(), last_modification: one() }
}

fn octal(args: &mut Args) -> u32 {
    u32::from_str_radix(&args.text(), 8).unwrap_or(0)
}

fn path(args: &mut Args) -> PathBuf {
    Path::new(OsStr::from_bytes(&args.bytes())).to_owned()
}

fn number(value: impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn done(result: rustix::io::Result<()>) -> Outcome {
    result.map(|()| Vec::new()).map_err(Error::from)
}
