//! `mount` and `umount`: starting a daemon and waiting until it serves, ending it and waiting until it has.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::daemon::connect;
use super::{CliError, Place, target};
use crate::admin::control::Client;
use crate::config::{self, Config, MountArgs, ReadySignal};
use crate::daemon::{self, ServeError};
use crate::journal;
use crate::journal::read::Reader;
use crate::log;
use crate::sys::procfs::MountId;
use crate::sys::{mount as kernel, process};

/// How long an unmounted daemon may take to end.
const END: Duration = Duration::from_secs(60);

pub(super) fn mount(args: &MountArgs) -> Result<(), CliError> {
    if args.daemonized {
        return serve_detached(args);
    }
    let config = Config::from_args(args)?;
    if args.fake {
        return Ok(());
    }
    refuse_taken_address(&config)?;
    if !args.foreground {
        return start(args, &config);
    }
    log::start(config.log_format);
    await_predecessor(&config.state_dir);
    let (ready, _nobody) = ReadySignal::nobody();
    daemon::serve(config, ready).map_err(|error| CliError::Failure(error.to_string()))
}

/// Before there is a state folder: what cannot be mounted leaves none behind. Where there is one, whoever has it may have the
/// address too, and the daemon says so.
fn refuse_taken_address(config: &Config) -> Result<(), CliError> {
    match config.admin.listen.filter(|_| !config.state_dir.exists()).map(TcpListener::bind) {
        Some(Err(source)) => {
            let address = config.admin.listen.map(|address| address.to_string()).unwrap_or_default();
            Err(CliError::Failure(ServeError::Http { address, source }.to_string()))
        }
        Some(Ok(_)) | None => Ok(()),
    }
}

/// An instance whose mount was taken away by the system's `umount`, which waits for nothing, is still ending: its state
/// folder is free in a moment. One that is mounted is not waited for.
fn await_predecessor(state_dir: &Path) {
    let deadline = Instant::now() + END;
    let is_ending = || {
        let meta = Reader::open(state_dir).and_then(|reader| reader.meta());
        let mountpoint = meta.ok().and_then(|mut meta| meta.remove("mountpoint"))?;
        Some(journal::is_in_use(state_dir) && !is_mount(Path::new(&mountpoint)).ok()?)
    };
    while is_ending() == Some(true) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The daemon's side of [`start`]: whatever goes wrong goes down the pipe.
fn serve_detached(args: &MountArgs) -> Result<(), CliError> {
    let (ready, failure) =
        ReadySignal::from_stdout().map_err(|error| CliError::Failure(format!("standard output: {error}")))?;
    let outcome = Config::from_args(args).map_err(CliError::from).and_then(|config| {
        config::detach(&config.state_dir)
            .map_err(|error| CliError::Failure(format!("state folder {}: {error}", config.state_dir.display())))?;
        log::start(config.log_format);
        await_predecessor(&config.state_dir);
        daemon::serve(config, ready).map_err(|error| CliError::Failure(error.to_string()))
    });
    outcome.map_err(|error| {
        tracing::error!(%error, "mount failed");
        failure.tell(&error.to_string());
        CliError::Told
    })
}

/// Starts this program again as a daemon and waits until it serves.
fn start(args: &MountArgs, config: &Config) -> Result<(), CliError> {
    let failed = |error: &io::Error| CliError::Failure(format!("starting the daemon: {error}"));
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut command = Command::new(program);
    command.args(["mount", "--foreground", "--daemonized"]);
    for list in &args.options {
        command.arg("-o").arg(list);
    }
    if args.sloppy {
        command.arg("--sloppy");
    }
    if let Some(file) = &args.config {
        command.arg("--config").arg(file);
    }
    if let Some(address) = &args.admin {
        command.arg("--admin").arg(address);
    }
    for host in &args.admin_host {
        command.arg("--admin-host").arg(host);
    }
    if let Some(after) = args.settle {
        command.arg("--settle").arg(after.to_string());
    }
    if let Some(format) = args.log_format {
        command.arg("--log-format").arg(format.as_str());
    }
    if let Some(file) = &args.admin_token_file {
        command.arg("--admin-token-file").arg(file);
    }
    command.arg("--state-dir").arg(&config.state_dir).arg("--").arg(&config.source).arg(&config.mountpoint);
    let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| failed(&error))?;

    let mut said = String::new();
    if let Some(pipe) = daemon.stdout.take() {
        let mut pipe = BufReader::new(pipe);
        pipe.read_line(&mut said).map_err(|error| failed(&error))?;
        if said == config::READY {
            return Ok(());
        }
        pipe.read_to_string(&mut said).map_err(|error| failed(&error))?;
    }
    let status = daemon.wait().map_err(|error| failed(&error))?;
    Err(CliError::Failure(match said.trim_end() {
        "" => format!(
            "the daemon ended before it served ({status}); see {}",
            config.state_dir.join(config::LOG).display()
        ),
        why => why.to_owned(),
    }))
}

pub(super) fn umount(place: Place<'_>, force: bool) -> Result<(), CliError> {
    let state_dir = match (target::find(place), place.path) {
        (Ok(dir), _) => dir,
        // A mount that nobody remembers can still be taken away.
        (Err(_), Some(path)) if is_mount(&target::resolve(path))? => return take_away(&target::resolve(path), force),
        (Err(error), _) => return Err(error),
    };
    let Some(mut client) = connect(&state_dir)? else {
        let mountpoint = mountpoint_of(place, &state_dir)?;
        if !is_mount(&mountpoint)? {
            return Err(CliError::Failure(format!("{}: is not mounted", mountpoint.display())));
        }
        // The journal remembers where it was mounted. Since then somebody else may have mounted there.
        if let Some(there) =
            config::mounted_state_dir(&mountpoint).filter(|there| *there != target::resolve(&state_dir))
        {
            return Err(CliError::Failure(format!(
                "{}: is mounted with state folder {} now; to take that away, say commitfs umount {}",
                mountpoint.display(),
                there.display(),
                mountpoint.display()
            )));
        }
        return take_away(&mountpoint, force);
    };
    let status = match client.status() {
        // It is being killed.
        Err(error) if force => {
            tracing::debug!(%error, "the daemon does not answer");
            return take_away(&mountpoint_of(place, &state_dir)?, force);
        }
        status => status?,
    };
    let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let mountpoint = status["mountpoint"].as_str().map(PathBuf::from);
    // The one on top, or the daemon refuses. What lies below it stays, and is no sign that it has not gone.
    let on_top = || mountpoint.as_deref().and_then(MountId::of);
    let mounted = on_top();
    client.unmount(force)?;
    drop(client);
    let deadline = Instant::now() + END;
    while pid.is_some_and(process::is_there)
        || Client::connect(&state_dir).is_ok()
        || (mounted.is_some() && on_top() == mounted)
    {
        if Instant::now() > deadline {
            return Err(CliError::Failure(format!(
                "unmounted, but the daemon has not ended after {} s; see {}",
                END.as_secs(),
                state_dir.join(config::LOG).display()
            )));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn mountpoint_of(place: Place<'_>, state_dir: &Path) -> Result<PathBuf, CliError> {
    // The journal may be gone, and the mount can be taken away all the same.
    let meta = Reader::open(state_dir).and_then(|reader| reader.meta());
    let remembered = meta.ok().and_then(|mut meta| meta.remove("mountpoint")).map(PathBuf::from);
    let named = place.path.map(target::resolve);
    // An export names its mount too.
    match (named, remembered) {
        (Some(named), Some(remembered)) => Ok(if is_mount(&named)? { named } else { remembered }),
        (Some(path), None) | (None, Some(path)) => Ok(path),
        (None, None) => Err(CliError::Usage("name the mount point".to_owned())),
    }
}

fn is_mount(path: &Path) -> Result<bool, CliError> {
    Ok(target::mounts()?.iter().any(|mount| mount.point == path))
}

/// Unmounts without a daemon: by the system call for root, by fusermount3 otherwise.
fn take_away(mountpoint: &Path, force: bool) -> Result<(), CliError> {
    let outcome = if force { kernel::detach(mountpoint) } else { kernel::unmount(mountpoint) };
    match outcome {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => fusermount(mountpoint, force),
        Err(Errno::BUSY) => Err(CliError::Failure(format!(
            "{}: is in use; end the processes that use it, or give --force",
            mountpoint.display()
        ))),
        Err(errno) => Err(CliError::Failure(format!("{}: {errno}", mountpoint.display()))),
    }
}

fn fusermount(mountpoint: &Path, force: bool) -> Result<(), CliError> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if force {
        command.arg("-z");
    }
    match command.arg("--").arg(mountpoint).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CliError::Failure(format!("{}: fusermount3 failed ({status})", mountpoint.display()))),
        Err(error) => Err(CliError::Failure(format!("fusermount3: {error}; install fuse3, or unmount as root"))),
    }
}
