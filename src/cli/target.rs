//! From what the user names (a mount point, an export, nothing) to the folder with the journal.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{CliError, Place};
use crate::admin::control::Client;
use crate::commit::RESERVED;
use crate::config;
use crate::journal::{self, read::Reader};
use crate::sys::mountinfo;

/// One daemon's card in `EXPORT/.commitfs/hosts`. More may be in it.
#[derive(Deserialize)]
struct Card {
    host: String,
    state_dir: PathBuf,
    #[serde(default)]
    mountpoint: Option<PathBuf>,
}

/// The state folder of the mount that is meant.
pub(super) fn find(place: Place<'_>) -> Result<PathBuf, CliError> {
    match (place.state_dir, place.path) {
        (Some(dir), _) if dir.is_dir() => Ok(dir.to_owned()),
        (Some(dir), _) => Err(match fs::metadata(dir) {
            Ok(_) => CliError::Usage(format!("state folder {}: is not a folder", dir.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                CliError::Failure(format!("state folder {}: does not exist", dir.display()))
            }
            Err(error) => CliError::Failure(format!("state folder {}: {error}", dir.display())),
        }),
        (None, Some(path)) => find_at(path),
        (None, None) => find_only(),
    }
}

/// The state folder that a path belongs to, and the path relative to the mount, for a path that need not exist. One that is
/// on no mount is taken from the root of the only one unless the working folder has something where it begins.
pub(super) fn find_below(place: Place<'_>, path: &Path) -> Result<(PathBuf, Vec<u8>), CliError> {
    let full = resolve(path);
    let (dir, inside) = locate(place, &full)?;
    if inside.is_none() && is_unsaid(place) && path.is_relative() && begins_here(path) {
        return Err(off_every_mount(path, &full, &dir));
    }
    let inside = inside.map_or_else(|| below_root(path, &dir), Ok)?;
    Ok((dir, inside))
}

/// The same for a name that is to be changed. A symlink means itself, and what the working folder has is not taken for
/// something of the same name on the mount. Nor is a mount guessed: that there is no other is no sign that it is meant,
/// while the one that was meant may be unmounted.
pub(super) fn find_name(place: Place<'_>, path: &Path) -> Result<(PathBuf, Vec<u8>), CliError> {
    let full = resolve_name(path);
    let (dir, inside) = locate(place, &full)?;
    if inside.is_none() && is_unsaid(place) && path.is_relative() {
        return Err(off_every_mount(path, &full, &dir));
    }
    if inside.is_none() && path.is_relative() && fs::symlink_metadata(path).is_ok() {
        return Err(CliError::Usage(format!(
            "{}: could mean {}, which is not on the mount of state folder {}, or a path below the mount's root; \
             give an absolute path below the mount point",
            path.display(),
            full.display(),
            dir.display()
        )));
    }
    let inside = inside.map_or_else(|| below_root(path, &dir), Ok)?;
    Ok((dir, inside))
}

fn is_unsaid(place: Place<'_>) -> bool {
    place.state_dir.is_none() && place.path.is_none()
}

/// Whether the working folder has the first name of a relative path; it has itself.
fn begins_here(path: &Path) -> bool {
    let first = path.components().find(|part| *part != Component::CurDir);
    first.is_none_or(|first| fs::symlink_metadata(first.as_os_str()).is_ok())
}

/// `dir` is the state folder of the only mount.
fn off_every_mount(path: &Path, full: &Path, dir: &Path) -> CliError {
    let meta = Reader::open(dir).and_then(|reader| reader.meta());
    let mountpoint = meta.ok().and_then(|mut meta| meta.remove("mountpoint"));
    CliError::Usage(format!(
        "{}: {} is on no mount; give a path below a mount point, or, if it is one from the root of the mount that there is, \
         say so with --at {}",
        path.display(),
        full.display(),
        mountpoint.unwrap_or_else(|| "MOUNTPOINT".to_owned())
    ))
}

/// The state folder that is meant, and the path relative to the mount if it is on it.
fn locate(place: Place<'_>, full: &Path) -> Result<(PathBuf, Option<Vec<u8>>), CliError> {
    if is_unsaid(place) {
        for root in full.ancestors() {
            if let Some(dir) = config::mounted_state_dir(root).or_else(|| from_cards(root, None).ok().flatten()) {
                return Ok((dir, full.strip_prefix(root).ok().map(plain).transpose()?));
            }
        }
    }
    let dir = find(place)?;
    let meta = Reader::open(&dir)?.meta()?;
    let mut roots = ["mountpoint", "export"].into_iter().filter_map(|key| meta.get(key));
    let inside = roots.find_map(|root| full.strip_prefix(root).ok());
    Ok((dir, inside.map(plain).transpose()?))
}

/// A path that is not on the mount is one from its root, unless it begins at another.
fn below_root(path: &Path, dir: &Path) -> Result<Vec<u8>, CliError> {
    if path.is_relative() {
        return plain(path);
    }
    Err(CliError::Usage(format!("{}: is not on the mount of state folder {}", path.display(), dir.display())))
}

/// As the journal has it: names with one slash between them. What `..` means only a look at the folders could tell.
fn plain(path: &Path) -> Result<Vec<u8>, CliError> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(CliError::Usage(format!("{}: say it without '..'", path.display())));
    }
    let names: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    Ok(names.into_os_string().into_vec())
}

/// A mount of commitfs, as the kernel lists it; its daemon may be gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    export: PathBuf,
}

/// Every mount of commitfs that this process can see, one per mount point.
pub(super) fn mounts() -> Result<Vec<Mount>, CliError> {
    let mountinfo = fs::read("/proc/self/mountinfo")
        .map_err(|error| CliError::Failure(format!("/proc/self/mountinfo: {error}")))?;
    let mut mounts = mounts_in(&mountinfo);
    mounts.dedup_by(|one, other| one.point == other.point);
    Ok(mounts)
}

/// Resolves what can be resolved: the last component may be missing, or the mount of a daemon that is gone.
pub(super) fn resolve(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(canonical) = fs::canonicalize(&full) {
        return canonical;
    }
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => full,
    }
}

/// The same without following the last component; `..` is no name.
fn resolve_name(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => resolve(&full),
    }
}

fn find_at(path: &Path) -> Result<PathBuf, CliError> {
    let full = resolve(path);
    if let Some(dir) = config::mounted_state_dir(&full) {
        return Ok(dir);
    }
    // A mount whose daemon is gone still tells its export, which others may have mounted elsewhere.
    let mount = mounts()?.into_iter().find(|mount| mount.point == full);
    let is_mounted_there = |dir: &PathBuf| {
        let meta = Reader::open(dir).and_then(|reader| reader.meta());
        mount.is_none() || meta.is_ok_and(|meta| meta.get("mountpoint").map(Path::new) == Some(&full))
    };
    let there = mount.as_ref().map(|mount| mount.point.as_path());
    for export in mount.iter().map(|mount| &mount.export).chain([&full]) {
        if let Some(dir) = from_cards(export, there)? {
            return Ok(dir);
        }
        let default = config::default_state_dir(export).filter(|dir| dir.join(journal::FILE).exists());
        if let Some(dir) = default.filter(is_mounted_there) {
            return Ok(dir);
        }
    }
    // A mount point that is not mounted is remembered by its journal only.
    let mut remembering = known().into_iter().filter(|(_, mountpoint)| mountpoint.as_deref() == Some(&full));
    match (remembering.next(), remembering.next()) {
        (Some((dir, _)), None) => Ok(dir),
        (Some((one, _)), Some((other, _))) => Err(CliError::Failure(format!(
            "{}: was mounted with more than one state folder; choose with --state-dir {} or {}",
            path.display(),
            one.display(),
            other.display()
        ))),
        (None, _) => Err(CliError::Failure(match fs::symlink_metadata(&full) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => format!("{}: {error}", path.display()),
            _ => format!(
                "{}: is no commitfs mount, and no export that this host has a journal of; {}",
                path.display(),
                candidates()
            ),
        })),
    }
}

fn find_only() -> Result<PathBuf, CliError> {
    match mounts()?.as_slice() {
        [only] => find_at(&only.point),
        [] => Err(CliError::Usage(format!("nothing is mounted; {}", candidates()))),
        several => {
            let names: Vec<_> = several.iter().map(|mount| mount.point.display().to_string()).collect();
            Err(CliError::Usage(format!("several are mounted; name one: {}", names.join(", "))))
        }
    }
}

/// The cards of this host's daemons on an export, of the one `there` or of all. `None` where there are none, or this user
/// may not look.
fn from_cards(export: &Path, there: Option<&Path>) -> Result<Option<PathBuf>, CliError> {
    let Ok(listing) = fs::read_dir(export.join(RESERVED).join("hosts")) else { return Ok(None) };
    let here = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        // Beside the cards there are marks of those that were adopted.
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| serde_json::from_slice::<Card>(&fs::read(path).ok()?).ok())
        .filter(|card| card.host == here.trim_end() && card.state_dir.join(journal::FILE).exists())
        .filter(|card| there.is_none() || card.mountpoint.as_deref() == there)
        .map(|card| card.state_dir)
        .collect();
    dirs.sort();
    dirs.dedup();
    if dirs.len() > 1 {
        let running: Vec<_> = dirs.iter().filter(|dir| Client::connect(dir).is_ok()).cloned().collect();
        if running.len() == 1 {
            dirs = running;
        }
    }
    match dirs.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        several => {
            let names: Vec<_> = several.iter().map(|dir| dir.display().to_string()).collect();
            let export = export.display();
            Err(CliError::Failure(format!("{export}: has several; choose with --state-dir {}", names.join(" or "))))
        }
    }
}

/// State folders in the default place, with the mount point each remembers.
fn known() -> Vec<(PathBuf, Option<PathBuf>)> {
    let Some(listing) = config::state_base().and_then(|base| fs::read_dir(base).ok()) else { return Vec::new() };
    let mut known: Vec<_> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| dir.join(journal::FILE).exists())
        .map(|dir| {
            let meta = Reader::open(&dir).and_then(|reader| reader.meta()).unwrap_or_default();
            (dir, meta.get("mountpoint").map(PathBuf::from))
        })
        .collect();
    known.sort();
    known
}

fn candidates() -> String {
    let known = known();
    if known.is_empty() {
        return "name a mount point or an export, or give --state-dir DIR".to_owned();
    }
    let names: Vec<_> = known
        .iter()
        .map(|(dir, mountpoint)| match mountpoint {
            Some(mountpoint) => format!("--state-dir {} (was mounted at {})", dir.display(), mountpoint.display()),
            None => format!("--state-dir {}", dir.display()),
        })
        .collect();
    format!("candidates: {}", names.join(", "))
}

fn mounts_in(table: &[u8]) -> Vec<Mount> {
    let ours = mountinfo::lines(table).filter(|line| line.kind() == Some(b"fuse.commitfs"));
    let mount = |line: mountinfo::Line<'_>| Some(Mount { point: line.point()?, export: line.source()? });
    let mut found: Vec<Mount> = ours.filter_map(mount).collect();
    found.sort();
    found
}

/// Type and options of the mount that a folder lies on.
pub(super) fn mount_of(folder: &Path) -> Option<(String, String)> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let mut best: Option<(usize, String, String)> = None;
    for line in mountinfo::lines(&table) {
        let Some(point) = line.point().filter(|point| folder.starts_with(point)) else { continue };
        let depth = point.components().count();
        // Of several at one point the last one is on top.
        if best.as_ref().is_some_and(|(deepest, ..)| depth < *deepest) {
            continue;
        }
        let (Some(kind), Some(options)) = (line.kind(), line.options()) else { continue };
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        best = Some((depth, text(kind), text(options)));
    }
    best.map(|(_, kind, options)| (kind, options))
}

/// Mount points inside a folder.
pub(super) fn mount_points_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = mountinfo::lines(&table).filter_map(mountinfo::Line::point);
    let mut below: Vec<PathBuf> = points.filter(|point| point != folder && point.starts_with(folder)).collect();
    below.sort();
    below.dedup();
    below
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Entry, Journal};

    #[test]
    fn mountinfo() {
        let text = b"22 1 0:20 / /proc rw - proc proc rw\n\
                     40 1 0:50 / /mnt/a\\040b\\134c rw,nosuid shared:1 - fuse.commitfs /e\\0111 rw\n\
                     42 1 0:52 / /mnt/y rw - fuse.sshfs commitfs rw\n";
        assert_eq!(mounts_in(text), [Mount { point: "/mnt/a b\\c".into(), export: "/e\t1".into() }]);
    }

    #[test]
    fn an_export_is_found_by_its_card() {
        let dir = tempfile::tempdir().unwrap();
        let (export, state) = (dir.path().join("export"), dir.path().join("state"));
        let hosts = export.join(RESERVED).join("hosts");
        fs::create_dir_all(&hosts).unwrap();
        let journal = Journal::open(&state).unwrap();
        journal.submit(Entry::Meta { key: "mountpoint", value: "/nowhere/mnt".to_owned() });
        journal.submit(Entry::Meta { key: "export", value: resolve(&export).display().to_string() });
        journal.close();
        let here = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        for (name, host) in [("a", here.trim_end()), ("b", "elsewhere.invalid")] {
            let card = serde_json::json!({ "instance": name, "host": host, "state_dir": state, "pid": 1 });
            fs::write(hosts.join(format!("{name}.json")), card.to_string()).unwrap();
        }
        fs::write(hosts.join("c.json"), "half a ca").unwrap();
        let nothing = Place { path: None, state_dir: None };
        assert_eq!(find(Place { path: Some(&export), ..nothing }).unwrap(), state);
        let (found, inside) = find_below(nothing, &export.join("d/new")).unwrap();
        assert_eq!((found, inside), (state.clone(), b"d/new".to_vec()));
        let by_state = Place { state_dir: Some(&state), ..nothing };
        assert_eq!(find_below(by_state, Path::new("/nowhere/mnt/x")).unwrap().1, b"x");
        for path in ["d/x", "d//x/", "./d/./x", "/nowhere/mnt//d/x/"] {
            assert_eq!(find_below(by_state, Path::new(path)).unwrap().1, b"d/x", "{path}");
        }
        assert_eq!(find_below(by_state, Path::new(".")).unwrap().1, b"");
        for path in ["/else/x", "d/../x", "../x", "/nowhere/mnt/../x", "/nowhere/mnt/d/../../x"] {
            assert!(matches!(find_below(by_state, Path::new(path)), Err(CliError::Usage(_))), "{path}");
        }
        let error = find(Place { path: Some(dir.path()), ..nothing }).unwrap_err();
        assert!(error.to_string().contains("is no commitfs mount"), "{error}");
    }
}
