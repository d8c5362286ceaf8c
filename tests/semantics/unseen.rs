//! Callers that the daemon cannot see: it runs in a pid name space of its own, as in a container, and they do not.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::mount::bare;
use crate::common::poll;
use crate::common::wait::LIMIT;

/// Mounts, and stores version after version in two writes each, until there is a file `stop`.
const INSIDE: &str = r#"
"$1" mount --state-dir "$2/state" "$2/src" "$2/mnt" || exit
i=0
while [ ! -e "$2/stop" ]; do
  i=$((i + 1))
  { printf '%01000d\n' $i; printf '%01000d\n' $i; } > "$2/mnt/f"
done
"$1" umount "$2/mnt"
"#;

/// A folder whose mounts are seen outside of the name space in which they are made.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let shared = Shared(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        run(Command::new("mount").arg("--bind").args([shared.path(), shared.path()]));
        run(Command::new("mount").arg("--make-shared").arg(shared.path()));
        for name in ["src", "mnt", "state"] {
            std::fs::create_dir(shared.path().join(name)).unwrap();
        }
        shared
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The mount in it is there only if something failed.
        for folder in [self.path().join("mnt"), self.path().to_owned()] {
            drop(Command::new("umount").arg("-l").arg(folder).stderr(Stdio::null()).status());
        }
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

fn errno(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap_or(0))
}

#[test]
fn s47_who_cannot_be_seen_reads_whole_versions_and_writes_none() {
    if bare() || std::env::var_os("COMMITFS_TEST_BACKING").is_some() {
        return;
    }
    let folder = Shared::new();
    let (top, mnt) = (folder.path(), folder.path().join("mnt"));
    let inside = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "shared", "sh", "-c", INSIDE, "sh"])
        .args([Path::new(env!("CARGO_BIN_EXE_commitfs")), top])
        .spawn()
        .unwrap();
    let mut inside = Ended(inside);
    let file = mnt.join("f");
    poll(LIMIT, || file.exists().then_some(())).expect("the writer inside has published nothing");
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2000 {
        let content = std::fs::read_to_string(&file).unwrap();
        let size = std::fs::metadata(&file).unwrap().len();
        let lines: Vec<&str> = content.lines().collect();
        assert!(lines.len() == 2 && lines[0] == lines[1] && size == 2002, "torn: {size} bytes, {content}");
        seen.insert(lines[0].to_owned());
    }
    assert!(seen.len() > 10, "only {} versions", seen.len());

    assert_eq!(errno(File::create_new(mnt.join("new"))), Some(libc::EPERM));
    assert_eq!(errno(File::create(&file)), Some(libc::EPERM), "an overwrite");
    assert_eq!(errno(OpenOptions::new().append(true).open(&file)), Some(libc::EPERM), "an append");
    let truncated =
        Command::new("python3").args(["-c", "import os, sys; os.truncate(sys.argv[1], 1)"]).arg(&file).output();
    assert!(String::from_utf8_lossy(&truncated.unwrap().stderr).contains("PermissionError"), "truncate");
    // What needs no draft works.
    std::fs::create_dir(mnt.join("folder")).unwrap();
    File::create(mnt.join("a.log")).unwrap().write_all(b"in place").unwrap();
    assert_eq!(std::fs::read(mnt.join("a.log")).unwrap(), b"in place");
    std::fs::rename(&file, mnt.join("folder/f")).unwrap();

    File::create(top.join("stop")).unwrap();
    assert!(inside.0.wait().unwrap().success());
    let log = std::fs::read_to_string(top.join("state/daemon.log")).unwrap();
    assert_eq!(log.matches("--pid=host").count(), 1, "said once, with the remedy: {log}");
}

#[test]
fn s47_a_daemon_that_cannot_see_its_callers_does_not_serve() {
    if bare() {
        return;
    }
    let top = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["src", "mnt"] {
        std::fs::create_dir(top.path().join(name)).unwrap();
    }
    let in_space = |more: &[&str], args: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork"])
            .args(more)
            .arg(env!("CARGO_BIN_EXE_commitfs"))
            .args(args)
            .current_dir(top.path());
        command.output().unwrap()
    };
    let out = in_space(&[], &["mount", "--state-dir", "state", "src", "mnt"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("/proc") && said.contains("--pid=host"), "{said}");
    let verdict = |more: &[&str]| {
        let report = in_space(more, &["doctor", "--json", "src"]).stdout;
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        let findings = report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["what"] == "processes").unwrap()["verdict"].clone()
    };
    assert_eq!((verdict(&[]), verdict(&["--mount-proc"])), ("blocker".into(), "warning".into()));
}
