//! Mounts by users other than root, and mounts right after another.

use std::process::{Command, Output, Stdio};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::common::mount::{bare, is_mounted, show, signal};
use crate::common::{Mount, eventually};

/// In a mount name space of its own, where the FUSE device is open to everybody as it is on ordinary machines.
const DEVICE: &str = r#"
cd "$1"
mknod fuse c 10 229
chmod 666 fuse
mount --bind fuse /dev/fuse
"#;

const SCRIPT: &str = r#"
set -eu
echo of another >src/.foreign
chmod 666 src/.foreign
exec setpriv --reuid 1000 --regid 1000 --clear-groups sh -eu -c '
  "$0" mount src mnt
  (echo one; ls src mnt >listing; echo two) >mnt/f
  cat mnt/f
  cat listing
  (echo new >mnt/.foreign) 2>refused && exit 9
  grep -q "Operation not permitted" refused
  cat mnt/.foreign
  until "$0" log mnt --json | grep uid; do :; done
  "$0" umount mnt
  cat src/f' "$2"
"#;

/// A script behind [`DEVICE`], with an export and a mount point of the user's, and where the program is.
fn run_as_user(script: &str) -> Output {
    // Not in the build folder, which may lie where that user cannot go.
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path();
    for name in ["src", "mnt", "state"] {
        std::fs::create_dir(top.join(name)).unwrap();
        std::os::unix::fs::chown(top.join(name), Some(1000), Some(1000)).unwrap();
    }
    std::os::unix::fs::chown(top, Some(1000), Some(1000)).unwrap();
    let program = top.join("commitfs");
    std::fs::copy(env!("CARGO_BIN_EXE_commitfs"), &program).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{DEVICE}{script}"), "sh"]).args([top, program.as_path()]);
    command.env("XDG_STATE_HOME", top.join("state")).output().unwrap()
}

/// What keeps an ordinary user from mounting: the device, and then the configuration.
const REFUSED: &str = r#"
mount --bind /dev/null /etc/fuse.conf
for mode in 600 666; do
  chmod $mode fuse
  setpriv --reuid 1000 --regid 1000 --clear-groups "$2" mount -o allow_other src mnt
done
"#;

#[test]
fn s52_what_keeps_an_ordinary_user_from_mounting_is_said() {
    let out = run_as_user(REFUSED);
    let complaints = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<_> = complaints.lines().filter(|line| line.starts_with("commitfs: ")).collect();
    assert_eq!(lines.len(), 2, "{}", show(&out));
    assert!(lines[0].contains("may not open /dev/fuse"), "{}", show(&out));
    assert!(lines[1].contains("user_allow_other in /etc/fuse.conf") && !lines[1].contains("\\n"), "{}", show(&out));
}

#[test]
fn s52_an_ordinary_user_mounts_for_himself() {
    let out = run_as_user(SCRIPT);
    let (said, complaints) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}\n{complaints}");
    let mut lines = said.lines();
    assert_eq!([lines.next(), lines.next()], [Some("one"), Some("two")], "{said}");
    assert!(said.contains("mnt:\nf\n\nsrc:\n"), "hidden but for the family: {said}");
    assert!(said.contains("of another\n"), "what would change its owner is not written: {said}");
    assert!(said.contains(r#""uid":1000"#) || said.contains(r#""uid": 1000"#), "{said}");
    assert!(said.ends_with("one\ntwo\n") && !said.contains("src:\nf"), "{said}");
}

/// More files than the daemon may have open. Without root's rights they cannot be reached by handles.
const MANY: &str = r#"
exec setpriv --reuid 1000 --regid 1000 --clear-groups sh -eu -c '
  ulimit -n 600
  "$0" mount src mnt
  for n in $(seq 800); do echo new >mnt/f$n; done
  for n in $(seq 800); do : <>mnt/f$n; done
  "$0" umount mnt
  ls src | wc -l' "$2"
"#;

#[test]
fn s52_an_ordinary_user_writes_more_files_than_may_be_open() {
    let out = run_as_user(MANY);
    assert!(out.status.success() && out.stdout.ends_with(b"800\n"), "{}", show(&out));
}

/// A file system is mounted, served, and let go of again and again.
const IN_TURN: &str = r#"
set -eu
cd "$1"
for round in $(seq 20); do
  mount -t tmpfs export src
  "$2" mount --state-dir "$1/state/$round" src mnt
  echo "round $round" >mnt/f
  "$2" umount mnt
  cat src/f
  umount src
done
"#;

#[test]
fn s52_after_umount_nothing_holds_the_export() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["src", "mnt", "state"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", IN_TURN, "sh"]).arg(folder.path()).arg(env!("CARGO_BIN_EXE_commitfs"));
    let out = command.output().unwrap();
    assert!(out.status.success() && out.stdout.ends_with(b"round 20\n"), "{}", show(&out));
}

/// As mount(8) calls it, by its name in /sbin.
#[test]
fn s52_the_mount_helper_takes_the_flags_of_mount() {
    let m = Mount::setup().unmounted();
    let helper = m.home().join("mount.fuse.commitfs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_commitfs"), &helper).unwrap();
    let call = |flags: &[&str], options: &str| {
        let mut command = Command::new(&helper);
        command.args([m.export(), m.mnt()]).args(flags).args(["-o", &format!("state_dir={}", m.state().display())]);
        command.args(["-o", options, "-t", "fuse.commitfs"]).stdin(Stdio::null()).output().unwrap()
    };
    // -f: check, and mount nothing.
    for flags in [&["-f"][..], &["-f", "-n", "-v"], &["-fnv"]] {
        let out = call(flags, "rw,strictatime,_netdev");
        assert!(out.status.success() && !is_mounted(m.mnt()), "{flags:?}: {}", show(&out));
        let out = call(flags, "rw,no_such_option");
        assert_eq!(out.status.code(), Some(2), "{flags:?}: {}", show(&out));
    }
    // -s: what is unknown does no harm.
    let out = call(&["-f", "-s"], "rw,no_such_option");
    assert!(out.status.success(), "{}", show(&out));
    let out = call(&["-s"], "remount,ro");
    assert_eq!(out.status.code(), Some(2), "{}", show(&out));
    assert!(String::from_utf8_lossy(&out.stderr).contains("unmount it, and mount it anew"), "{}", show(&out));
    let out = call(&["-s", "-n"], "rw,strictatime,no_such_option");
    let served = is_mounted(m.mnt());
    let ended = m.cli_plain(&["umount".as_ref(), m.mnt().as_os_str()]);
    assert!(out.status.success() && served && ended.status.success(), "{}\n{}", show(&out), show(&ended));
}

#[test]
fn s52_of_stacked_mounts_the_upper_one_is_taken_away_first() {
    if bare() {
        return;
    }
    let mut lower = Mount::new();
    lower.agent("W").put("f", "lower").unwrap();
    lower.settled();
    let upper = Mount::setup().unmounted();
    let mut mount = Command::new(env!("CARGO_BIN_EXE_commitfs"));
    mount.arg("mount").arg("--state-dir").arg(upper.state()).args([upper.export(), lower.mnt()]);
    let out = mount.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}", show(&out));
    std::fs::write(lower.mnt().join("f"), "upper").unwrap();
    for force in [&["umount"][..], &["umount", "--force"]] {
        let out = lower.cli(force);
        assert_eq!(out.status.code(), Some(1), "{}", show(&out));
        assert!(String::from_utf8_lossy(&out.stderr).contains("another mount lies over it"), "{}", show(&out));
        assert_eq!(std::fs::read(lower.mnt().join("f")).unwrap(), b"upper");
    }
    let out = lower.cli_plain(&["umount".as_ref(), lower.mnt().as_os_str()]);
    assert!(out.status.success(), "{}", show(&out));
    assert_eq!(std::fs::read(lower.mnt().join("f")).unwrap(), b"lower");
    lower.umount();
    assert_eq!(upper.raw_content("f").unwrap(), b"upper");
}

#[test]
fn s52_a_mount_that_is_gone_does_not_have_its_successor_taken_away() {
    if bare() {
        return;
    }
    let mut first = Mount::new();
    first.expect_mess();
    first.kill9();
    let second = Mount::setup().unmounted();
    let mut mount = Command::new(env!("CARGO_BIN_EXE_commitfs"));
    mount.arg("mount").arg("--state-dir").arg(second.state()).args([second.export(), first.mnt()]);
    let out = mount.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}", show(&out));
    let refused: Vec<Output> =
        [&["umount"][..], &["umount", "--force"]].iter().map(|umount| first.cli(umount)).collect();
    let still = is_mounted(first.mnt());
    let ended = second.cli(&["umount"]);
    for out in refused {
        assert_eq!(out.status.code(), Some(1), "{}", show(&out));
        assert!(String::from_utf8_lossy(&out.stderr).contains("is mounted with state folder"), "{}", show(&out));
    }
    assert!(still && ended.status.success(), "{}", show(&ended));
}

/// The system's `umount` waits for nothing; whoever mounts again at once does.
#[test]
fn s52_a_mount_waits_for_the_end_of_the_one_before() {
    if bare() {
        return;
    }
    let mut m = Mount::new();
    m.umount();
    std::fs::write(m.raw("f"), "content").unwrap();
    let mut first =
        Command::new(env!("CARGO_BIN_EXE_commitfs")).args(m.mount_args()).stdin(Stdio::null()).spawn().unwrap();
    let is_there = || std::fs::read(m.mnt().join("f")).is_ok_and(|data| data == b"content");
    eventually("the first one serves", is_there);
    signal(first.id(), Signal::STOP);
    unmount(m.mnt(), UnmountFlags::empty()).unwrap();
    assert!(!is_mounted(m.mnt()));
    m.start();
    let call = format!("/proc/{}/syscall", m.daemon_pid());
    let sleep = libc::SYS_clock_nanosleep.to_string();
    eventually("the second one waits, or has given up", || {
        let now = std::fs::read_to_string(&call).unwrap_or_default();
        m.daemon_is_dead() || now.split_whitespace().next() == Some(&sleep)
    });
    signal(first.id(), Signal::CONT);
    assert!(first.wait().unwrap().success());
    let is_there = || std::fs::read(m.mnt().join("f")).is_ok_and(|data| data == b"content");
    eventually("the second one serves", is_there);
}

/// An empty folder where the export's file system is not mounted: recovery would take what is not there for published.
#[test]
fn s52_an_export_without_what_the_journal_knows_of_is_refused() {
    if bare() {
        return;
    }
    let mut m = Mount::new();
    let w = m.agent("W");
    let fd = w.open("new", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    m.recorded();
    m.kill9();
    drop(w);
    let (stage, away) = (m.raw(".commitfs"), m.raw("away"));
    std::fs::rename(&stage, &away).unwrap();
    m.start();
    assert_eq!(m.daemon_ended().code(), Some(1));
    assert!(m.log().contains("not the export that this state folder knows"), "{}", m.log());
    std::fs::remove_dir_all(&stage).ok();
    std::fs::rename(&away, &stage).unwrap();
    m.remount();
    assert!(m.quarantined("new").reason.is_some());
    assert_eq!(m.commits_of("new"), 0);
}

#[test]
fn s52_a_state_folder_with_a_damaged_name_is_refused() {
    if bare() {
        return;
    }
    let mut m = Mount::new();
    m.umount();
    let instance = m.state().join("instance");
    let name = std::fs::read(&instance).unwrap();
    for damaged in ["../../etc\n", "", "0123\n"] {
        std::fs::write(&instance, damaged).unwrap();
        m.start();
        assert_eq!(m.daemon_ended().code(), Some(1), "{damaged:?}");
        assert!(m.log().contains("16 hexadecimal digits"), "{}", m.log());
    }
    std::fs::write(&instance, name).unwrap();
    m.remount();
}
