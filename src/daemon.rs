//! The daemon: assembles the rooms, mounts, waits, and takes everything down again in order.

mod away;
mod belongs;
mod chore;
mod company;
mod guard;
mod history;
mod keeping;
mod lease;
mod leaving;
mod mounting;
mod postponed;
mod settle;
mod verbs;

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use self::away::Watch;
use self::guard::Guard;
use self::lease::Lease;
use self::mounting::Unserved;
use crate::admin::control;
use crate::admin::http;
use crate::commit::{self, Before, Committer, Decisions, RESERVED, Staging};
use crate::config::{Config, Freshness, ReadySignal};
use crate::folders::{Totals, TotalsOptions};
use crate::fs::{Fs, Options};
use crate::fuse::{Adapter, Wishes};
use crate::inode::NodeTable;
use crate::journal::{Entry, Journal, JournalError};
use crate::retention::Reaper;
use crate::sys::procfs::{MountId, Shows};
use crate::sys::{self, Errno, at, mount};

/// Why the daemon could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The export.
    #[error("source {}: {step}: {errno}", path.display())]
    Export {
        /// The source.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// Another export than this state's, or none.
    #[error(transparent)]
    Stranger(#[from] belongs::Stranger),
    /// Another host's state.
    #[error(transparent)]
    Elsewhere(#[from] belongs::Elsewhere),
    /// Callers come with numbers that nothing can be found by.
    #[error(
        "/proc does not show the processes of this pid name space: mount it there (mount -t proc proc /proc), or run in that \
         of the host (--pid=host of a container)"
    )]
    Proc,
    /// The mount.
    #[error("mounting {}: {}{}", path.display(), mounting::said(source), mounting::remedy(source))]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The HTTP server's socket or address.
    #[error("HTTP server {address}: {source}")]
    Http {
        /// The address, if there is one.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything else at start.
    #[error("{step}: {source}")]
    Start {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Descriptors kept back for open files, the journal, sockets and look-ups in progress.
const FD_RESERVE: u64 = 1024;

/// Descriptors that no application's file gets: what the threads need at once, closes above all.
const FD_WORK: u64 = 128;

/// The most descriptors that are held for nodes: each one keeps an inode in the kernel's memory.
const FD_MOST: u64 = 32_768;

/// What ends the daemon.
enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// The mount is gone: `umount`, or the control socket asked for it.
    Unmounted,
}

/// Mounts and serves until the mount goes away or a signal comes.
pub fn serve(config: Config, ready: ReadySignal) -> Result<(), ServeError> {
    if sys::procfs::shows() == Shows::Others {
        return Err(ServeError::Proc);
    }
    let guard = Guard::start();
    sys::memory::share_arenas();
    let source = config.source.clone();
    let export = |step| {
        let path = source.clone();
        move |errno| ServeError::Export { path, step, errno }
    };
    let start = |step| move |source| ServeError::Start { step, source };
    let fd_limit = mount::raise_descriptor_limit();
    mount::raise_size_limit().map_err(start("signal of the file size limit"))?;
    // Modes are the callers': each request says what their umask leaves.
    rustix::process::umask(rustix::fs::Mode::empty());
    let root = at::open_dir(rustix::fs::CWD, config.source.as_os_str()).map_err(export("opening"))?;
    let nfs = mount::is_nfs(&root).map_err(export("file system type"))?;
    let set_aside = mount::sets_aside(&root).map_err(export("file system type"))?;
    let journal = Journal::open(&config.state_dir)?;
    let listening = http::bind(&config.state_dir, config.admin.clone()).map_err(|source| ServeError::Http {
        address: config.admin.listen.map(|address| address.to_string()).unwrap_or_default(),
        source,
    })?;
    let address = listening.address();
    let instance = instance(&config.state_dir).map_err(start("instance id in the state folder"))?;
    belongs::check(&config.source, &root, &instance, &journal)?;
    belongs::check_host(&config.source, &root, &instance, &config.state_dir)?;
    let staging = Staging::open(&root, &instance).map_err(export("staging folder .commitfs"))?;
    let budget = (fd_limit.saturating_sub(FD_RESERVE) / 2).min(FD_MOST);
    let nodes = NodeTable::new(root, i64::try_from(budget).unwrap_or(i64::MAX)).map_err(export("root folder"))?;
    let nodes = Arc::new(nodes);
    let totals = TotalsOptions {
        on: config.totals && !config.read_only,
        recount: config.recount,
        set_aside,
        reserved: RESERVED,
    };
    let totals = Totals::new(totals, nodes.clone(), journal.clone());
    let rules = config.rules.clone();
    let postponed = commit::Waiting::default();
    let revalidate = nfs && config.freshness == Freshness::Open;
    let committer = Arc::new(Committer {
        nodes,
        staging,
        journal: journal.clone(),
        totals: totals.clone(),
        rules,
        postponed,
        decisions: Decisions::default(),
        revalidate,
        renaming_folders: parking_lot::RwLock::default(),
        stopping: AtomicBool::new(false),
    });
    let reaper = Reaper::new(committer.clone(), config.reaper);

    let is_root = rustix::process::geteuid().is_root();
    let options = Options {
        ttl: config.ttl,
        nfs,
        set_aside,
        revalidate,
        act_as_caller: is_root,
        kernel_checks: config.default_permissions,
        keeps_times: config.writeback && !nfs,
        gathers: config.writeback,
        passthrough: config.passthrough && !config.writeback && is_root,
        state_dir: config.state_dir.clone(),
        mountpoint: config.mountpoint.clone(),
        commit_workers: config.commit_workers,
        files: fd_limit.saturating_sub(FD_WORK),
    };
    let adopted = committer.staging.was_adopted().map_err(export("leases in .commitfs/hosts"))?;
    if adopted && let Err(errno) = committer.staging.is_back() {
        tracing::warn!(%errno, "cannot say that this instance is back");
    }
    let left_over = committer.left_over()?;
    let boot = journal.read(|reader| reader.meta())?.remove(BOOT);
    let before = Before { adopted, restarted: boot.as_deref() != Some(&*sys::procfs::boot()) };
    let markers = committer.staged_markers().map_err(export("listing the staging folder"))?;
    let fs = Fs::new(committer.clone(), reaper.clone(), options).map_err(start("threads"))?;
    let promised = left_over.iter().filter(|row| row.state == crate::journal::DraftState::Sealed);
    fs.recovery().begin(promised.flat_map(|row| [Some(row.path.clone()), row.moved_from.clone()]).flatten());
    for (key, value) in facts(&config, &instance) {
        journal.submit(Entry::Meta { key, value });
    }

    // Before anything can change.
    totals.start()?;

    let (end, ended) = bounded(4);
    watch_signals(end.clone()).map_err(start("signals"))?;
    let wishes = Wishes {
        writeback: config.writeback,
        passthrough: config.passthrough && is_root,
        acl: config.default_permissions,
    };
    if !nfs && config.freshness == Freshness::Open {
        company::watch(&fs).map_err(start("thread that looks for other instances"))?;
    }
    let session = mounting::session(Adapter::new(fs.clone(), wishes), &config)
        .map_err(|source| ServeError::Mount { path: config.mountpoint.clone(), source })?;
    let unserved = Unserved::at(&config.mountpoint);
    fs.connect(session.notifier(), MountId::of(&config.mountpoint));
    let unmounted = end.clone();
    std::thread::Builder::new()
        .name("session".to_owned())
        .spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "the session ended");
            }
            // Nobody listens any more if a signal came first.
            drop(unmounted.send(End::Unmounted));
        })
        .map_err(start("session thread"))?;
    let lease = Lease::announce(&fs, &config).map_err(start("lease in .commitfs/hosts"))?;
    recover_in_background(fs.clone(), left_over, markers, before).map_err(start("recovery thread"))?;
    let retrying = postponed::start(fs.clone()).map_err(start("thread for another attempt"))?;
    let daemon = Arc::new(Daemon { fs: fs.clone(), config, end, address, began: Instant::now() });
    let control = control::serve(&daemon.config.state_dir, daemon.clone()).map_err(start("control socket"))?;
    let http = listening.serve(daemon.clone(), Arc::clone(journal.feed())).map_err(start("HTTP server"))?;
    let settling = daemon.config.settle.map(|after| settle::start(committer.clone(), after));
    let history =
        history::start(journal.clone(), daemon.config.history, totals.is_on()).map_err(start("history thread"))?;
    if let Err(error) = guard.and_then(|guard| guard.of(&daemon.config.mountpoint)) {
        tracing::warn!(%error, "no guard: if the daemon is killed, its mount may have to be taken away by umount -f");
    }
    let settling = settling.transpose().map_err(start("verification thread"))?;
    tracing::info!(
        source = %daemon.config.source.display(), mountpoint = %daemon.config.mountpoint.display(), "serving"
    );
    unserved.serves();
    ready.ready();

    let watch = daemon.run_until(&ended).map_err(start("thread"))?;
    drop(settling);
    drop(history);
    drop(retrying);
    fs.stop();
    drop(control);
    reaper.stop();
    if let Err(error) = journal.flush() {
        tracing::error!(%error, "the journal cannot take what happened last");
    }
    // Streams of events end after the last one.
    drop(http);
    lease.withdraw();
    totals.stop();
    journal.close();
    drop(watch);
    tracing::info!("stopped");
    Ok(())
}

struct Daemon {
    fs: Arc<Fs>,
    config: Config,
    end: Sender<End>,
    /// Of HTTP over TCP.
    address: Option<SocketAddr>,
    began: Instant,
}

impl Daemon {
    /// Waits for the end. The mount is gone then, and the rest is looked after: it may have to do without the export.
    fn run_until(self: &Arc<Self>, ended: &Receiver<End>) -> std::io::Result<Watch> {
        let why = ended.recv();
        let watch = Watch::start(self.clone())?;
        match why {
            Ok(End::Unmounted) | Err(_) => {}
            Ok(End::Signal) => {
                tracing::info!("signal: committing what is complete");
                let unmounted = if self.settle_releases() { self.unmount_now(true) } else { self.take_away() };
                if let Err(errno) = unmounted {
                    tracing::error!(%errno, "cannot unmount");
                }
            }
        }
        Ok(watch)
    }
}

/// Key in `meta`: the start of the machine in which the journal was last written.
const BOOT: &str = "boot";

/// What the command line finds in the journal with the daemon down.
fn facts(config: &Config, instance: &str) -> [(&'static str, String); 5] {
    [
        ("export", config.source.to_string_lossy().into_owned()),
        ("mountpoint", config.mountpoint.to_string_lossy().into_owned()),
        ("instance", instance.to_owned()),
        (BOOT, sys::procfs::boot()),
        ("rules", config.rules_toml.clone()),
    ]
}

fn watch_signals(end: Sender<End>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if end.send(End::Signal).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn recover_in_background(
    fs: Arc<Fs>,
    left_over: Vec<crate::journal::DraftRow>,
    markers: Vec<String>,
    before: Before,
) -> std::io::Result<()> {
    std::thread::Builder::new().name("recovery".to_owned()).spawn(move || {
        let (done, published, kept) = fs.committer().recover(left_over, &markers, before);
        if done != crate::commit::Recovered::default() {
            tracing::warn!(?done, "recovered what an earlier daemon left");
        }
        fs.recovered();
        fs.announce_published(&published);
        fs.committer().keep_all(kept);
        // What was staged or taken out by a daemon that could not write it down has no row yet.
        match fs.reaper().sweep(true) {
            Ok(swept) if swept.is_clean() => {}
            Ok(swept) => tracing::warn!(?swept, "staging and journal did not agree"),
            Err(error) => tracing::error!(%error, "cannot compare staging and journal"),
        }
        if before.adopted
            && let Err(errno) = fs.committer().staging.settle_adoption()
        {
            tracing::warn!(%errno, "cannot remove the mark of an adoption");
        }
        if let Err(error) = fs.reaper().start() {
            tracing::error!(%error, "no thread for the reaper: nothing is removed");
        }
    })?;
    Ok(())
}

/// The name of this state folder among all that use the export: made once, kept with the state.
fn instance(state_dir: &Path) -> std::io::Result<String> {
    let file = state_dir.join("instance");
    match std::fs::read_to_string(&file) {
        Ok(instance) => {
            let instance = instance.trim();
            if instance.len() != 16 || instance.bytes().any(|byte| !byte.is_ascii_hexdigit()) {
                return Err(std::io::Error::other(format!(
                    "{} is damaged: 16 hexadecimal digits are expected, the name of this state's folder in \
                     EXPORT/.commitfs/stage; without the file another one begins",
                    file.display()
                )));
            }
            return Ok(instance.to_owned());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let random = std::fs::File::open("/dev/urandom").and_then(|mut source| {
        let mut bytes = [0; 8];
        std::io::Read::read_exact(&mut source, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    })?;
    let instance = format!("{random:016x}");
    let temporary = state_dir.join("instance.new");
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    writeln!(out, "{instance}")?;
    out.sync_all()?;
    std::fs::rename(&temporary, &file)?;
    std::fs::File::open(state_dir)?.sync_all()?;
    Ok(instance)
}
