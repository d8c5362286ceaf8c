//! What applications do: each scenario prepares, and then acts, which is when calls fail.

use crate::common::content::version;
use crate::run::{How, Run};

/// Something that applications do.
pub struct Scenario {
    pub name: &'static str,
    /// Most of its calls are other scenarios' too.
    pub repeats: bool,
    pub prepare: fn(&mut Run),
    pub act: fn(&mut Run),
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "new", repeats: false, prepare: nothing, act: whole },
    Scenario { name: "overwrite", repeats: false, prepare: one_file, act: whole },
    Scenario { name: "append", repeats: false, prepare: one_file, act: append },
    Scenario { name: "patch", repeats: true, prepare: one_file, act: patch },
    Scenario { name: "late", repeats: false, prepare: nothing, act: late },
    Scenario { name: "late over", repeats: true, prepare: one_file, act: late },
    Scenario { name: "truncate", repeats: true, prepare: two_generations, act: truncate },
    Scenario { name: "rename", repeats: true, prepare: nothing, act: write_and_rename },
    Scenario { name: "rename over", repeats: false, prepare: one_file, act: write_and_rename },
    Scenario { name: "unlink", repeats: false, prepare: one_file, act: |run| run.unlink("f") },
    Scenario { name: "unlink and write", repeats: true, prepare: one_file, act: unlink_and_write },
    Scenario { name: "two files", repeats: true, prepare: one_file, act: two_files },
    Scenario { name: "new folder", repeats: true, prepare: nothing, act: new_folder },
    Scenario { name: "moved folder", repeats: true, prepare: an_empty_folder, act: moved_folder },
    Scenario { name: "rm -r", repeats: false, prepare: a_folder, act: remove_folder },
    Scenario { name: "restore", repeats: false, prepare: a_removed_file, act: restore },
];

/// Those that `COMMITFS_TEST_POINT` asks for: all of them without it.
pub fn chosen() -> impl Iterator<Item = &'static Scenario> {
    let only = std::env::var("COMMITFS_TEST_POINT").ok();
    SCENARIOS.iter().filter(move |scenario| only.as_deref().is_none_or(|only| only == scenario.name))
}

fn whole(run: &mut Run) {
    run.write("f", How::Whole);
}

fn append(run: &mut Run) {
    run.write("f", How::Append);
}

fn patch(run: &mut Run) {
    run.write("f", How::Patch);
}

fn late(run: &mut Run) {
    run.write("f", How::Late);
}

fn nothing(_run: &mut Run) {}

fn one_file(run: &mut Run) {
    assert!(run.write("f", How::Whole), "{:?}", run.failed);
}

fn two_generations(run: &mut Run) {
    one_file(run);
    assert!(run.write("f", How::Append), "{:?}", run.failed);
}

fn a_folder(run: &mut Run) {
    assert!(run.mkdir("d") && run.write("d/f", How::Whole), "{:?}", run.failed);
}

fn an_empty_folder(run: &mut Run) {
    assert!(run.mkdir("d"), "{:?}", run.failed);
}

fn a_removed_file(run: &mut Run) {
    one_file(run);
    let path = run.path("f");
    run.w.unlink(&path).unwrap();
    crate::common::eventually("the outbox has it", || removed(run).is_some());
    // It may come back.
    run.known.get_mut(&path).unwrap().closed = 0;
}

fn truncate(run: &mut Run) {
    let path = run.path("f");
    let first = version(&path, 1, 3, 3000).len() as u64;
    let promise = run.known.get_mut(&path).unwrap();
    promise.closed = 1;
    let all = promise.tried;
    run.tell(&path);
    if run.call(&format!("truncate {path}"), |w| w.truncate(&path, first)) {
        run.known.get_mut(&path).unwrap().tried = 1;
    } else {
        run.known.get_mut(&path).unwrap().tried = all;
    }
}

fn write_and_rename(run: &mut Run) {
    if run.write("f.tmp", How::Whole) {
        run.rename_tmp("f");
    }
}

fn unlink_and_write(run: &mut Run) {
    run.unlink("f");
    run.write("f", How::Whole);
}

fn two_files(run: &mut Run) {
    run.write("f", How::Whole);
    run.write("g", How::Late);
    run.write("g", How::Append);
}

fn new_folder(run: &mut Run) {
    if run.mkdir("d") && run.mkdir("d/e") {
        run.write("d/e/f", How::Whole);
        run.write("d/f", How::Whole);
    }
}

/// What is written in a folder that was moved is there after a cut, under its new name.
fn moved_folder(run: &mut Run) {
    let (old, new) = (run.path("d"), run.path("e"));
    if run.call(&format!("rename {old}"), |w| w.rename(&old, &new)) {
        run.write("e/f", How::Whole);
    }
}

fn remove_folder(run: &mut Run) {
    let path = run.path("d/f");
    run.unpromise(&path);
    let folder = run.m.mnt().join(run.path("d"));
    if run.command(&["rm", "-r", folder.to_str().unwrap()]) {
        *run.known.get_mut(&path).unwrap() = Default::default();
    }
}

/// The outbox row of this run's file.
fn removed(run: &Run) -> Option<i64> {
    let rows = run.m.json(&["trash", "ls"]);
    let path = run.path("f");
    rows.as_array()?.iter().find(|row| row["path"] == path.as_str())?["id"].as_i64()
}

fn restore(run: &mut Run) {
    let Some(id) = removed(run) else { return };
    let path = run.path("f");
    if run.command(&["trash", "restore", &id.to_string()]) {
        run.known.get_mut(&path).unwrap().closed = 1;
        run.tell(&path);
    }
}
