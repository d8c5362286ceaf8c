//! The laboratory from inside: the server, the cables to its clients, further exports.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::mount::show;
use crate::common::poll;

/// The server that all tests share.
pub struct Lab {
    version: String,
}

impl Lab {
    /// The laboratory that this test runs in.
    #[track_caller]
    pub fn enter() -> Lab {
        let version = std::env::var("LAB_NFS");
        Lab { version: version.expect("no NFS laboratory here: run scripts/nfs-lab faults") }
    }

    /// Whether clients speak version 3, which knows no open files.
    pub fn is_v3(&self) -> bool {
        self.version == "3"
    }

    /// The folder on the server that is exported.
    pub fn server(&self) -> PathBuf {
        PathBuf::from(std::env::var_os("LAB_SRV").unwrap())
    }

    /// A path of client A as the server has it.
    pub fn on_server(&self, path: &Path) -> PathBuf {
        self.server().join(path.strip_prefix(crate::common::mount::backing_base()).unwrap())
    }

    /// Renames that client A has asked the server for.
    pub fn renames(&self) -> u64 {
        self.count("RENAME")
    }

    /// Requests of this kind that client A has sent.
    pub fn count(&self, operation: &str) -> u64 {
        let counts = counts();
        counts.iter().find(|(name, _)| name == operation).unwrap_or_else(|| panic!("no {operation} in {counts:?}")).1
    }

    /// Requests that client A has sent, but those that it sends from time to time whatever is done, and what the daemon
    /// asks about the room that is left.
    pub fn requests(&self) -> u64 {
        let by_the_clock = ["STATFS", "FSSTAT", "FSINFO", "SEQUENCE", "RENEW", "TEST_STATEID", "NULL"];
        counts().iter().filter(|(name, _)| !by_the_clock.contains(&name.as_str())).map(|(_, count)| count).sum()
    }

    /// Ends the server and starts it again: replies that it had not sent yet are never sent, and what it remembered of
    /// its clients is gone.
    #[track_caller]
    pub fn restart_server(&self) {
        run("rpc.nfsd", &["0"]);
        run("rpc.nfsd", &["8"]);
        // Version 4 gives nobody anything until all clients have claimed again what they had. Client B, which may have
        // nothing to do for now, does so when it next asks.
        let peer = crate::common::mount::peer_base().unwrap();
        std::thread::spawn(move || rustix::fs::statvfs(peer));
    }

    /// Takes the server away from client A, until the guard is dropped.
    #[track_caller]
    pub fn cut(&self) -> Cut {
        run("ip", &["link", "set", "vA", "down"]);
        Cut(&["link", "set", "vA", "up"])
    }

    /// Client A's requests go on reaching the server, whose replies do not come back until the guard is dropped.
    #[track_caller]
    pub fn drop_replies(&self) -> Cut {
        std::fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1").unwrap();
        run("ip", &["route", "add", "blackhole", "10.77.1.2/32"]);
        Cut(&["route", "del", "blackhole", "10.77.1.2/32"])
    }

    /// Whether a socket of a server that has ended still tries to deliver its last reply to client A.
    pub fn is_still_sending(&self) -> bool {
        // Local and remote address and port, state: but for a connection that is only being made, SYN_RECV.
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        sockets.lines().any(|line| line.contains(":0801 02014D0A:") && line.split_whitespace().nth(3) != Some("03"))
    }

    /// A further export on a small file system of its own, mounted by client A.
    #[track_caller]
    pub fn export(&self, kind: Kind) -> Export {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 2;
        let name = format!("x{number}");
        let (image, folder) = (format!("/run/disk/{name}.img"), format!("/mnt/srv/{name}"));
        let point = format!("/mnt/A-{name}");
        for folder in [&folder, &point] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::File::create(&image).unwrap().set_len(kind.mebibytes << 20).unwrap();
        let features = if kind.quota { "^has_journal,quota" } else { "^has_journal" };
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", features, &image]);
        let options = if kind.quota { "loop,usrquota" } else { "loop" };
        run("mount", &["-o", options, &image, &folder]);
        run("chmod", &["1777", &folder]);
        let squash = if kind.squash { "root_squash" } else { "no_root_squash" };
        let export = format!("*:{folder}");
        run("exportfs", &["-i", "-o", &format!("rw,sync,{squash},no_subtree_check,fsid={number}"), &export]);
        let (source, version) = match self.is_v3() {
            true => (format!("10.77.1.1:{folder}"), "vers=3,nolock".to_owned()),
            false => (format!("10.77.1.1:/{name}"), format!("vers={}", self.version)),
        };
        mount_in("A", &format!("{version},hard"), &source, &point);
        Export { folder, point, export }
    }

    /// The shared export once more, mounted by client B with these options, by which caches go.
    #[track_caller]
    pub fn plain(&self, options: &str) -> Plain {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let point = format!("/mnt/B-plain{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir_all(&point).unwrap();
        let (source, version) = match self.is_v3() {
            true => ("10.77.2.1:/mnt/srv/x", "vers=3,nolock".to_owned()),
            false => ("10.77.2.1:/x", format!("vers={}", self.version)),
        };
        mount_in("B", &format!("{version},hard,nosharecache,{options}"), source, &point);
        Plain { point }
    }
}

/// How many requests of each kind client A has sent for the shared export.
fn counts() -> Vec<(String, u64)> {
    let stats = std::fs::read_to_string("/proc/self/mountstats").unwrap();
    let at = format!(" mounted on {} ", crate::common::mount::backing_base().display());
    let mine = stats.split("device ").find(|mount| mount.contains(&at)).unwrap();
    let (_, operations) = mine.split_once("per-op statistics").unwrap();
    let rows = operations.lines().filter_map(|line| {
        let (name, numbers) = line.trim().split_once(": ")?;
        Some((name.to_owned(), numbers.split(' ').next()?.parse().ok()?))
    });
    rows.collect()
}

#[track_caller]
fn mount_in(client: &str, options: &str, source: &str, point: &str) {
    let (net, uts) = (format!("--net=/run/netns/{client}"), format!("--uts=/run/uts/{client}"));
    run("nsenter", &[&net, &uts, "mount", "-t", "nfs", "-o", options, source, point]);
}

/// A further mount of the shared export by client B; it lasts as long as this.
pub struct Plain {
    point: String,
}

impl Plain {
    /// A path below the export, as client B has it here.
    pub fn at(&self, shared: &Path) -> PathBuf {
        Path::new(&self.point).join(shared.strip_prefix(crate::common::mount::peer_base().unwrap()).unwrap())
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        if poll(std::time::Duration::from_secs(10), || attempt("umount", &[&self.point]).ok()).is_none() {
            eprintln!("{} stays mounted", self.point);
        }
    }
}

/// What an export is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    pub mebibytes: u64,
    pub squash: bool,
    pub quota: bool,
}

/// A further export; declare it before the mounts that use it.
pub struct Export {
    folder: String,
    point: String,
    export: String,
}

impl Export {
    /// As client A has it.
    pub fn path(&self) -> &Path {
        Path::new(&self.point)
    }

    /// As the server has it.
    pub fn on_server(&self) -> &Path {
        Path::new(&self.folder)
    }

    /// Bytes that the server has left.
    pub fn free(&self) -> u64 {
        let s = rustix::fs::statfs(self.on_server()).unwrap();
        s.f_bavail * s.f_bsize as u64
    }

    /// Lets a user have so many bytes and no more.
    #[track_caller]
    pub fn limit(&self, uid: u32, kibibytes: u64) {
        run("setquota", &["-u", &uid.to_string(), "0", &kibibytes.to_string(), "0", "0", &self.folder]);
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let undo: [&[&str]; 3] =
            [&["umount", &self.point], &["exportfs", "-u", &self.export], &["umount", &self.folder]];
        for call in undo {
            let done = poll(std::time::Duration::from_secs(10), || attempt(call[0], &call[1..]).ok());
            if done.is_none() {
                eprintln!("{call:?} does not work");
            }
        }
    }
}

/// A cable that is cut while this lives: words for `ip` that mend it.
pub struct Cut(&'static [&'static str]);

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(why) = attempt("ip", self.0) {
            eprintln!("{why}");
        }
    }
}

#[track_caller]
pub fn run(program: &str, arguments: &[&str]) {
    attempt(program, arguments).unwrap_or_else(|why| panic!("{why}"));
}

fn attempt(program: &str, arguments: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if out.status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {}", show(&out))) }
}
