//! A mounted export in folders of its own, which goes away again whatever happens to the test.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, mpsc};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::agent::Agent;
use super::wait::{LIMIT, eventually, poll};

/// `statfs` of a FUSE file system.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// A mount that lives longer than this is taken for hung: its daemon is killed, so that everybody waiting for it fails.
const HUNG: Duration = Duration::from_secs(600);

/// How to mount.
#[derive(Clone, Default)]
pub struct Setup {
    config: Option<String>,
    options: Option<String>,
    env: Vec<(String, String)>,
    over_itself: bool,
    backing: Option<PathBuf>,
    state: Option<PathBuf>,
    bind: Option<PathBuf>,
    limit: Option<String>,
    admin: bool,
}

impl Setup {
    /// HTTP is served on a loopback address too, to those who show [`TOKEN`](super::http::TOKEN). Without this,
    /// `admin = '127.0.0.1:0'` in the configuration makes an address that only looks.
    pub fn admin(mut self) -> Self {
        self.admin = true;
        self
    }

    /// The daemon is started with this limit of open descriptors.
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.limit = Some(format!("-n {limit}"));
        self
    }

    /// The daemon is started with this limit of the size of files, in units of 512 bytes.
    pub fn file_size(mut self, limit: u32) -> Self {
        self.limit = Some(format!("-f {limit}"));
        self
    }

    /// The lines of a configuration file.
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    /// `-o OPTIONS`.
    pub fn options(mut self, options: &str) -> Self {
        self.options = Some(options.to_owned());
        self
    }

    /// The daemon's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The export's own path is the mount point.
    pub fn over_itself(mut self) -> Self {
        self.over_itself = true;
        self
    }

    /// The export lies below this folder.
    pub fn backing(mut self, folder: &Path) -> Self {
        self.backing = Some(folder.to_owned());
        self
    }

    /// The state lies below this folder.
    pub fn state(mut self, folder: &Path) -> Self {
        self.state = Some(folder.to_owned());
        self
    }

    /// The export is that of another mount, as on a second host: a bind mount of it, or of what the second client of an
    /// NFS server has there.
    pub fn export_of(mut self, first: &Mount) -> Self {
        self.bind = Some(first.elsewhere());
        self
    }

    /// Makes the folders and mounts.
    #[track_caller]
    pub fn mount(self) -> Mount {
        let mut mount = self.unmounted();
        mount.remount();
        mount
    }

    /// Makes the folders only.
    #[track_caller]
    pub fn unmounted(mut self) -> Mount {
        sweep_once();
        let name = format!("m{}-{}", std::process::id(), MOUNTS.fetch_add(1, Ordering::Relaxed));
        let home = state_base().join(&name);
        let export = match &self.backing {
            Some(folder) => folder.join(&name),
            None => backing_base().join(&name).join("export"),
        };
        let state = self.state.as_ref().map_or_else(|| home.join("state"), |folder| folder.join(&name));
        for folder in [&home, &export, &state] {
            std::fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        }
        let mnt = match (bare(), self.over_itself) {
            (true, _) | (_, true) => export.clone(),
            _ => home.join("mnt"),
        };
        std::fs::create_dir_all(&mnt).unwrap();
        if let Some(first) = &self.bind {
            rustix::mount::mount_bind(first, &export).unwrap();
        }
        let raw = File::open(&export).unwrap();
        if self.admin {
            let token = home.join("token");
            std::fs::write(&token, super::http::TOKEN).unwrap();
            std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
            let served = format!("admin = '127.0.0.1:0'\nadmin_token_file = '{}'\n", token.display());
            // Before the rules, which are tables.
            self.config = Some(served + self.config.as_deref().unwrap_or_default());
        }
        if let Some(config) = &self.config {
            std::fs::write(home.join("config.toml"), config).unwrap();
        }
        Mount {
            setup: self,
            home,
            export,
            mnt,
            state,
            raw,
            daemon: None,
            watch: None,
            expect_clean: true,
            hung: HUNG,
            agents: AtomicU32::new(0),
        }
    }
}

static MOUNTS: AtomicU32 = AtomicU32::new(0);

/// Whether the suite runs without commitfs, on the bare folder.
pub fn bare() -> bool {
    std::env::var_os("COMMITFS_TEST_BARE").is_some()
}

/// Where exports go.
pub fn backing_base() -> PathBuf {
    base("COMMITFS_TEST_BACKING")
}

/// Where a second NFS client has mounted what [`backing_base`] is on, if there is one.
pub fn peer_base() -> Option<PathBuf> {
    std::env::var_os("COMMITFS_TEST_PEER").map(PathBuf::from)
}

/// Where everything else goes.
pub fn state_base() -> PathBuf {
    base("COMMITFS_TEST_STATE")
}

fn base(variable: &str) -> PathBuf {
    let base = std::env::var_os(variable).map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    std::fs::create_dir_all(&base).unwrap();
    base.canonicalize().unwrap()
}

/// Unmounts and removes what a test process that was killed has left behind.
fn sweep_once() {
    static SWEEP: Once = Once::new();
    SWEEP.call_once(|| {
        for base in [state_base(), backing_base()] {
            for (point, _) in mounts().into_iter().rev() {
                if point.starts_with(&base) && is_abandoned(&point, &base) {
                    let _ = unmount(&point, UnmountFlags::DETACH);
                }
            }
            for entry in std::fs::read_dir(&base).into_iter().flatten().flatten() {
                if is_abandoned(&entry.path(), &base) {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        }
    });
}

/// `m4711-3`: made by process 4711, which is gone.
fn is_abandoned(path: &Path, base: &Path) -> bool {
    let first = path.strip_prefix(base).ok().and_then(|rest| rest.iter().next()).and_then(|name| name.to_str());
    let pid = first.and_then(|name| name.strip_prefix('m')?.split_once('-')?.0.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Mount points and their types, outermost first.
pub fn mounts() -> Vec<(PathBuf, String)> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let rows = table.lines().filter_map(|line| {
        let point = line.split(' ').nth(4)?.replace("\\040", " ");
        let kind = line.split(" - ").nth(1)?.split(' ').next()?;
        Some((PathBuf::from(point), kind.to_owned()))
    });
    rows.collect()
}

/// A served export; dropping it unmounts, and fails the test if that was not clean.
pub struct Mount {
    setup: Setup,
    home: PathBuf,
    export: PathBuf,
    mnt: PathBuf,
    state: PathBuf,
    /// The export's root, opened before anything was mounted over it.
    raw: File,
    daemon: Option<Child>,
    watch: Option<mpsc::Sender<()>>,
    expect_clean: bool,
    hung: Duration,
    agents: AtomicU32,
}

impl Mount {
    /// For a test that is to take longer than others.
    pub fn lives_for(&mut self, limit: Duration) {
        self.hung = limit;
    }

    /// The export as the second NFS client has it, or as it is where there is none.
    pub fn elsewhere(&self) -> PathBuf {
        let export = self.raw("").read_link().unwrap();
        match peer_base() {
            Some(peer) => peer.join(export.strip_prefix(backing_base()).unwrap()),
            None => export,
        }
    }

    /// Mounts a fresh, empty export with default settings.
    #[track_caller]
    pub fn new() -> Mount {
        Setup::default().mount()
    }

    pub fn setup() -> Setup {
        Setup::default()
    }

    /// The mount point.
    pub fn mnt(&self) -> &Path {
        &self.mnt
    }

    /// Whether HTTP over TCP asks for [`TOKEN`](super::http::TOKEN).
    pub fn has_token(&self) -> bool {
        self.setup.admin
    }

    /// The export by its own path; inside the mount when it is mounted over itself.
    pub fn export(&self) -> &Path {
        &self.export
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A local folder for whatever the test needs besides.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The raw export, never through the mount, also when that lies over it.
    pub fn raw(&self, path: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.raw.as_raw_fd()));
        if path.is_empty() { root } else { root.join(path) }
    }

    /// Does something to the export's file system that needs it to be out of use; the daemon must have ended.
    pub fn without_export(&mut self, change: impl FnOnce()) {
        self.raw = File::open("/dev/null").unwrap();
        change();
        self.raw = File::open(&self.export).unwrap();
    }

    /// What a host without commitfs finds under a name.
    pub fn raw_content(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.raw(path)).ok()
    }

    /// A new application in the mount's root folder.
    #[track_caller]
    pub fn agent(&self, name: &str) -> Agent {
        Agent::start(name, &self.mnt)
    }

    /// A writer and an outsider.
    #[track_caller]
    pub fn pair(&self) -> (Agent, Agent) {
        (self.agent("W"), self.agent("R"))
    }

    fn log_path(&self) -> PathBuf {
        self.home.join("daemon.log")
    }

    /// What the daemon has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The arguments of `commitfs mount`.
    pub fn mount_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> =
            vec!["mount".into(), "-f".into(), "--state-dir".into(), self.state.clone().into()];
        if self.setup.config.is_some() {
            args.extend(["--config".into(), self.home.join("config.toml").into()]);
        }
        // What a test asks for by itself comes last, and counts.
        let from_outside = std::env::var("COMMITFS_TEST_OPTIONS").ok();
        for options in from_outside.iter().chain(&self.setup.options) {
            args.extend(["-o".into(), options.into()]);
        }
        args.extend([self.export.clone().into(), self.mnt.clone().into()]);
        args
    }

    /// Starts the daemon and waits until it serves.
    #[track_caller]
    pub fn remount(&mut self) {
        if bare() {
            return;
        }
        self.start();
        let served = poll(LIMIT, || {
            let daemon = self.daemon.as_mut().unwrap();
            if let Some(status) = daemon.try_wait().unwrap() {
                return Some(Err(status));
            }
            (is_served(&self.mnt) && self.is_listening()).then_some(Ok(()))
        });
        match served {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!("the daemon ended with {status} instead of serving:\n{}", self.log()),
            None => panic!("the daemon does not serve:\n{}", self.log()),
        }
    }

    /// Whether commands find the daemon.
    fn is_listening(&self) -> bool {
        UnixStream::connect(self.state.join("control.sock")).is_ok()
    }

    /// Starts the daemon and does not wait for it.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(Path::new("/dev/fuse").exists(), "no /dev/fuse: these tests need a kernel with FUSE");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let program = env!("CARGO_BIN_EXE_commitfs");
        let mut command = match &self.setup.limit {
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit $0; exec \"$@\"", limit, program]);
                shell
            }
            None => Command::new(program),
        };
        command.args(self.mount_args()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.envs(self.setup.env.iter().map(|(n, v)| (n, v)));
        let daemon = command.spawn().unwrap();
        let pid = daemon.id();
        self.daemon = Some(daemon);
        let (watch, ended) = mpsc::channel();
        self.watch = Some(watch);
        let hung = self.hung;
        std::thread::spawn(move || {
            if ended.recv_timeout(hung) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("the mount served by {pid} seems to hang: killing its daemon");
                signal(pid, Signal::KILL);
            }
        });
    }

    /// For the next start of the daemon.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.setup.env.retain(|(n, _)| n != name);
        if !value.is_empty() {
            self.setup.env.push((name.to_owned(), value.to_owned()));
        }
    }

    /// `-o OPTIONS` for the next start of the daemon.
    pub fn set_options(&mut self, options: &str) {
        self.setup.options = Some(options.to_owned());
    }

    /// Descriptors that the daemon has.
    #[track_caller]
    pub fn files_open(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.daemon_pid())).unwrap().count()
    }

    /// The most memory that the daemon has ever had resident, in bytes.
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon_pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon").id()
    }

    /// Until recovery has compared staging and journal, as each start does in the background. The reaper follows it;
    /// that no thread is at recovery would not tell, it may not have begun.
    #[track_caller]
    pub fn recovered(&self) {
        eventually("recovery has ended", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.daemon_pid())).unwrap();
            let name = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            tasks.flatten().any(|task| name(&task).trim() == "reaper")
        });
    }

    /// Kills the daemon as a crash would, and clears the dead mount away.
    #[track_caller]
    pub fn kill9(&mut self) {
        signal(self.daemon_pid(), Signal::KILL);
        if unmount(&self.mnt, UnmountFlags::DETACH).is_err() {
            eprintln!("the mount of a killed daemon was gone already");
        }
        self.daemon_ended();
    }

    /// Asks the daemon to end; returns how it did. The mount must be gone then.
    #[track_caller]
    pub fn terminate(&mut self, with: Signal) -> ExitStatus {
        signal(self.daemon_pid(), with);
        self.daemon_ended()
    }

    /// Waits for the daemon's end and clears a dead mount away.
    #[track_caller]
    pub fn daemon_ended(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("a daemon");
        let ended = poll(LIMIT, || daemon.try_wait().unwrap());
        self.watch = None;
        let Some(status) = ended else {
            let _ = daemon.kill();
            let _ = daemon.wait();
            self.detach();
            panic!("the daemon does not end:\n{}", self.log());
        };
        self.detach();
        status
    }

    /// Whether a daemon was started and not ended by the test.
    pub fn is_up(&self) -> bool {
        self.daemon.is_some()
    }

    /// Whether the daemon has ended by itself.
    pub fn daemon_is_dead(&mut self) -> bool {
        self.daemon.as_mut().is_none_or(|d| d.try_wait().unwrap().is_some())
    }

    /// `commitfs umount`; the daemon must end well.
    #[track_caller]
    pub fn umount(&mut self) {
        if bare() {
            return;
        }
        let out = self.cli_plain(&["umount".as_ref(), self.mnt.as_os_str()]);
        assert!(out.status.success(), "umount: {}\n{}", show(&out), self.log());
        let status = self.daemon_ended();
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.log());
    }

    fn detach(&self) {
        while is_mounted(&self.mnt) {
            if unmount(&self.mnt, UnmountFlags::DETACH).is_err() {
                let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(&self.mnt).status();
                break;
            }
        }
    }

    /// The test leaves a mess on purpose; do not complain when the mount does not end well.
    pub fn expect_mess(&mut self) {
        self.expect_clean = false;
    }

    /// `commitfs ARGS --state-dir STATE`.
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut all: Vec<&std::ffi::OsStr> = args.iter().map(|a| std::ffi::OsStr::from_bytes(a.as_bytes())).collect();
        all.extend(["--state-dir".as_ref(), self.state.as_os_str()]);
        self.cli_plain(&all)
    }

    /// `commitfs ARGS`.
    pub fn cli_plain(&self, args: &[&std::ffi::OsStr]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_commitfs")).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// A command that must succeed; its output.
    #[track_caller]
    pub fn cli_ok(&self, args: &[&str]) -> String {
        let out = self.cli(args);
        assert!(out.status.success(), "commitfs {args:?}: {}\n{}", show(&out), self.log());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

/// A command's end, for a failure's report.
pub fn show(out: &Output) -> String {
    let (o, e) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    format!("{}\n{o}{e}", out.status)
}

/// Sends a signal to a process started here.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

pub fn is_mounted(point: &Path) -> bool {
    mounts().iter().any(|(p, kind)| p == point && kind.starts_with("fuse"))
}

fn is_served(point: &Path) -> bool {
    is_mounted(point) && rustix::fs::statfs(point).is_ok_and(|s| s.f_type == FUSE_MAGIC)
}

impl Drop for Mount {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        let mut clean = true;
        if self.daemon.is_some() {
            clean = self.end();
        }
        self.watch = None;
        let failed = panicking || (!clean && self.expect_clean);
        if failed {
            self.report();
        }
        if self.setup.bind.is_some() {
            let _ = unmount(&self.export, UnmountFlags::DETACH);
        }
        if !(failed && std::env::var_os("COMMITFS_TEST_KEEP").is_some()) {
            for folder in [&self.home, &self.export, &self.state] {
                let _ = std::fs::remove_dir_all(folder);
            }
            let _ = self.export.parent().map(std::fs::remove_dir);
        }
        assert!(panicking || !failed, "the mount did not end well, see above");
    }
}

impl Mount {
    /// Ends the daemon by ever harder means; true when the gentle one was enough.
    fn end(&mut self) -> bool {
        let pid = self.daemon_pid();
        let mut umount = Command::new(env!("CARGO_BIN_EXE_commitfs"));
        umount.arg("umount").arg(&self.mnt).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut asked = umount.spawn().ok();
        let mut clean = None;
        for (how, patience) in [(None, 30), (Some(Signal::TERM), 10), (Some(Signal::KILL), 10)] {
            if let Some(with) = how {
                eprintln!("the daemon {pid} is still there; sending it {with:?}");
                signal(pid, with);
            }
            let daemon = self.daemon.as_mut().unwrap();
            if let Some(status) = poll(Duration::from_secs(patience), || daemon.try_wait().unwrap()) {
                clean = Some(how.is_none() && status.success());
                if clean == Some(false) {
                    eprintln!("the daemon {pid} ended with {status}");
                }
                break;
            }
        }
        let left = is_mounted(&self.mnt);
        self.detach();
        if let Some(asked) = asked.as_mut() {
            let ended = poll(Duration::from_secs(10), || asked.try_wait().ok().flatten());
            if ended.is_none() {
                let _ = asked.kill();
                let _ = asked.wait();
            }
            if !ended.is_some_and(|s| s.success()) {
                eprintln!("`commitfs umount` did not succeed: {ended:?}");
                clean = Some(false);
            }
        }
        if left {
            eprintln!("{} was still mounted after its daemon had ended", self.mnt.display());
        }
        clean == Some(true) && !left
    }

    /// All that helps to see what happened, and how to see it again.
    fn report(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        eprintln!("--- log of the daemon of {} (last lines)\n{tail}", self.mnt.display());
        for verb in [&["pending"][..], &["quarantine", "ls"], &["log"]] {
            if !bare() {
                eprintln!("--- commitfs {}\n{}", verb.join(" "), show(&self.cli(verb)));
            }
        }
        let mut again = String::new();
        for (variable, value) in std::env::vars().filter(|(n, _)| n.starts_with("COMMITFS_")) {
            again.push_str(&format!("{variable}={value} "));
        }
        let exe = std::env::current_exe().unwrap_or_default();
        let target = exe.file_stem().and_then(|s| s.to_str()).and_then(|s| s.rsplit_once('-')).map_or("", |(n, _)| n);
        eprintln!("--- again: {again}COMMITFS_TEST_KEEP=1 cargo test --test {target} -- --exact {name} --nocapture");
    }
}
