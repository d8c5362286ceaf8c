//! `fsck`, and what dead instances leave.

use crate::common::mount::show;
use crate::common::{Mount, checker, eventually};
use crate::{id, outbox, row_of, trash};

#[test]
fn fsck_finds_both_kinds_of_orphans_and_repairs_them_when_told() {
    let m = Mount::setup().options("retain=1h").mount();
    let w = m.agent("W");
    w.put("kept", "content").unwrap();
    w.put("living", "content").unwrap();
    w.put("gone", "content").unwrap();
    w.unlink("gone").unwrap();
    let fd = w.open("draft", "w|creat").unwrap();
    w.write(fd, "half").unwrap();
    w.kill(rustix::process::Signal::KILL);
    let draft = m.quarantined("draft");
    let row = row_of(&m, "gone");
    let folder = trash(&m)[0].parent().unwrap().to_owned();
    let stage = std::fs::read_dir(m.raw(".commitfs/stage")).unwrap().flatten().next().unwrap().path();
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    // An inode without a row, one that is not removed at all, a row without an inode; the same for drafts.
    std::fs::rename(m.raw("kept"), folder.join("7.0")).unwrap();
    std::fs::hard_link(m.raw("living"), folder.join("8.0")).unwrap();
    std::fs::remove_file(folder.join(row["stage"].as_str().unwrap())).unwrap();
    std::fs::write(stage.join("9.0"), "never published").unwrap();
    let story = m.json(&["show", &draft.id.to_string()]);
    std::fs::remove_file(stage.join(story["stage"].as_str().unwrap())).unwrap();
    let dry = m.cli(&["fsck", "--json"]);
    assert_eq!(dry.status.code(), Some(1), "{}", show(&dry));
    let found: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
    for key in
        ["trash_without_row", "trash_still_named", "rows_without_trash", "staged_without_row", "drafts_without_content"]
    {
        assert_eq!(found[key], 1, "{key} in {found}");
    }
    assert_eq!(trash(&m).len(), 2, "a dry run changes nothing");
    m.cli_ok(&["fsck", "--repair"]);
    assert!(m.cli_ok(&["fsck"]).contains("agree"));
    // Where it was is known from its commit; it can be restored.
    let rows = outbox(&m);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0]["path"], &rows[0]["stage"]), (&"kept".into(), &"7.0".into()));
    m.cli_ok(&["trash", "restore", &id(&rows[0])]);
    let r = m.agent("R");
    assert_eq!(r.cat("kept").unwrap(), b"content");
    assert_eq!(
        m.quarantine().iter().filter(|row| row.reason.as_deref() == Some("staged file without a row")).count(),
        1
    );
    m.cli_ok(&["refresh", "."]);
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn a_dead_instance_is_adopted_and_its_return_finds_out() {
    let mut m = Mount::setup().options("retain=1h").mount();
    let other = Mount::setup().export_of(&m).options("retain=1h,lease=1s,sweep=300ms").mount();
    let w = m.agent("W");
    w.put("gone", "published").unwrap();
    w.unlink("gone").unwrap();
    w.put("f", "old").unwrap();
    let fd = w.open("f", "w|trunc").unwrap();
    w.write(fd, "half of the new").unwrap();
    w.fsync(fd).unwrap();
    eventually("the draft's row is there", || m.pending().iter().any(|row| row.path == "f" && row.bytes > 0));
    assert!(outbox(&other).is_empty() && other.quarantine().is_empty(), "a living instance's things are its own");
    m.kill9();
    drop(w);
    let find =
        |m: &Mount| m.quarantine().into_iter().find(|row| row.reason.as_deref().is_some_and(|r| r.contains("is dead")));
    eventually("the other instance has the draft", || find(&other).is_some());
    eventually("and what was removed", || outbox(&other).iter().any(|row| row["bytes"] == 9));
    let row = find(&other).unwrap();
    let saved = other.home().join("saved");
    other.cli_ok(&["quarantine", "save", &row.id.to_string(), saved.to_str().unwrap()]);
    assert_eq!(std::fs::read(&saved).unwrap(), b"half of the new");
    m.remount();
    let mine = m.quarantined("f");
    assert!(mine.reason.as_deref().unwrap().contains("adopted by another instance"), "{mine:?}");
    assert_eq!(m.raw_content("f").unwrap(), b"old");
    eventually("rows without an inode are gone", || outbox(&m).is_empty());
    let w = m.agent("W");
    w.put("f", "new").unwrap();
    assert_eq!(m.raw_content("f").unwrap(), b"new");
    // Gone and come back in an orderly way, nothing is adopted.
    let fd = w.open("g", "w|creat").unwrap();
    w.write(fd, "x").unwrap();
    w.kill(rustix::process::Signal::KILL);
    m.quarantined("g");
    m.umount();
    other.recorded();
    other.cli_ok(&["fsck", "--repair"]);
    m.remount();
    assert!(m.quarantine().iter().any(|row| row.path == "g" && row.all["kept"] == true));
}
