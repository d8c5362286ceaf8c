//! The reaper: retries, dead letters, space.

use crate::common::mount::show;
use crate::common::{Immutable, Mount, SmallFs, checker, eventually};
use crate::{eventually_empty, id, outbox, row_of, trash};

#[test]
fn a_row_that_cannot_be_removed_ends_as_a_dead_letter_and_holds_nobody_up() {
    let m = Mount::setup().config("retain = '1h'\nreap_backoff = '2ms'\nreap_segment = 4\n").mount();
    let w = m.agent("W");
    for n in 0..20 {
        w.put(&format!("f{n}"), "x").unwrap();
        w.unlink(&format!("f{n}")).unwrap();
    }
    let stuck = row_of(&m, "f3");
    let path = trash(&m).into_iter().find(|path| path.ends_with(stuck["stage"].as_str().unwrap())).unwrap();
    let guard = Immutable::new(path);
    m.cli_ok(&["trash", "purge"]);
    eventually("the stuck row alone is left, dead", || {
        let rows = outbox(&m);
        rows.len() == 1 && rows[0]["state"] == "dead"
    });
    let row = &outbox(&m)[0];
    assert_eq!((&row["id"], &row["attempts"]), (&stuck["id"], &8.into()));
    assert!(row["reason"].as_str().unwrap().contains("not permitted"), "{row}");
    assert_eq!(m.json(&["status"])["outbox_dead"], 1);
    assert!(m.cli_ok(&["outbox", "ls"]).contains("dead"));
    let refused = m.cli(&["outbox", "drop", "999999"]);
    assert!(!refused.status.success());
    m.cli_ok(&["outbox", "drop", &id(row)]);
    assert_eq!(outbox(&m)[0]["state"], "dropped");
    m.cli_ok(&["outbox", "retry", &id(row)]);
    eventually("dead again", || outbox(&m)[0]["state"] == "dead");
    drop(guard);
    m.cli_ok(&["outbox", "retry"]);
    eventually_empty(&m);
    checker::check(&m);
}

#[test]
fn a_row_is_moved_only_by_the_command_for_its_state() {
    let m = Mount::setup().config("retain = '1h'\nreap_backoff = '2ms'\n").mount();
    let w = m.agent("W");
    for name in ["stuck", "kept"] {
        w.put(name, "x").unwrap();
        w.unlink(name).unwrap();
    }
    let (stuck, kept) = (row_of(&m, "stuck"), row_of(&m, "kept"));
    let path = trash(&m).into_iter().find(|path| path.ends_with(stuck["stage"].as_str().unwrap())).unwrap();
    let guard = Immutable::new(path);
    m.cli_ok(&["trash", "purge", &id(&stuck)]);
    eventually("it is dead", || row_of(&m, "stuck")["state"] == "dead");
    let refused = m.cli(&["trash", "purge", &id(&kept), &id(&stuck)]);
    assert!(refused.status.code() == Some(1) && show(&refused).contains("outbox retry"), "{}", show(&refused));
    assert_eq!(m.http().post(&format!("/v1/trash/{}/purge", stuck["id"])).status, 409);
    let refused = m.cli(&["outbox", "retry", &id(&stuck), &id(&kept)]);
    assert!(refused.status.code() == Some(1) && show(&refused).contains("trash purge"), "{}", show(&refused));
    assert_eq!(m.http().post(&format!("/v1/outbox/{}/retry", kept["id"])).status, 409);
    assert_eq!((&row_of(&m, "stuck")["attempts"], &row_of(&m, "kept")["state"]), (&8.into(), &"pending".into()));
    drop(guard);
    m.cli_ok(&["outbox", "retry", &id(&stuck)]);
    eventually("it is gone", || outbox(&m).iter().all(|row| row["path"] != "stuck"));
    m.cli_ok(&["trash", "restore", &id(&kept)]);
    assert_eq!(w.cat("kept").unwrap(), b"x");
    checker::check(&m);
}

#[test]
fn what_is_gone_already_counts_as_removed() {
    let m = Mount::setup().config("retain = '1h'\n").mount();
    let w = m.agent("W");
    w.put("f", "x").unwrap();
    w.unlink("f").unwrap();
    row_of(&m, "f");
    std::fs::remove_file(&trash(&m)[0]).unwrap();
    m.cli_ok(&["trash", "purge"]);
    eventually_empty(&m);
}

#[test]
fn a_write_without_room_has_what_is_kept_removed_and_goes_on() {
    let small = SmallFs::new(24);
    let m = Mount::setup().backing(small.path()).options("retain=1h,watermark=0").mount();
    let w = m.agent("W");
    for name in ["a", "b"] {
        let fd = w.open(name, "w|creat").unwrap();
        w.fill(fd, 0, 7 << 20, 1).unwrap();
        w.close(fd).unwrap();
        w.unlink(name).unwrap();
    }
    row_of(&m, "b");
    assert!(small.free() < 10 << 20, "{} bytes free: the kept files take no room?", small.free());
    let fd = w.open("c", "w|creat").unwrap();
    w.fill(fd, 0, 15 << 20, 2).unwrap();
    w.close(fd).unwrap();
    assert_eq!(w.stat("c").unwrap().size, 15 << 20);
    m.nothing_quarantined();
    assert!(m.log().contains("no space left: removed what was kept for later"), "{}", m.log());
    eventually("their rows are gone", || outbox(&m).iter().all(|row| row["bytes"].as_u64().unwrap() < 1 << 20));
    // Without anything to remove it fails as it always did.
    let fd = w.open("d", "w|creat").unwrap();
    let written = w.fill(fd, 0, 20 << 20, 3);
    let closed = w.close(fd);
    assert!(written.is_err() || closed.is_err());
    m.quarantined("d");
}

#[test]
fn a_folder_that_was_not_counted_makes_room_too() {
    let small = SmallFs::new(24);
    let m = Mount::setup().backing(small.path()).options("retain=1h,watermark=0,totals=false").mount();
    std::fs::create_dir(m.raw("tree")).unwrap();
    for name in ["tree/a", "tree/b"] {
        std::fs::write(m.raw(name), vec![1; 7 << 20]).unwrap();
    }
    m.cli_ok(&["rm", "-r", "tree"]);
    assert_eq!(row_of(&m, "tree")["bytes"], 0);
    let w = m.agent("W");
    let fd = w.open("new", "w|creat").unwrap();
    w.fill(fd, 0, 15 << 20, 2).unwrap();
    w.close(fd).unwrap();
    assert_eq!(w.stat("new").unwrap().size, 15 << 20);
    m.nothing_quarantined();
}

#[test]
fn a_removal_at_its_own_pace_hurries_when_a_write_finds_no_room() {
    let small = SmallFs::new(24);
    // After its first thousand files it would wait for a quarter of an hour.
    let m = Mount::setup().backing(small.path()).options("watermark=0,reap_rate=1").mount();
    std::fs::create_dir(m.raw("tree")).unwrap();
    for n in 0..3000 {
        std::fs::write(m.raw("tree").join(format!("f{n}")), [1; 4096]).unwrap();
    }
    m.cli_ok(&["rm", "-r", "tree", "--now"]);
    eventually("it is under way", || outbox(&m).iter().any(|row| row["reaped"].as_u64().unwrap() > 0));
    let w = m.agent("W");
    let fd = w.open("new", "w|creat").unwrap();
    w.fill(fd, 0, 17 << 20, 2).unwrap();
    w.close(fd).unwrap();
    eventually_empty(&m);
    m.nothing_quarantined();
}

#[test]
fn below_the_watermark_nothing_is_kept() {
    let small = SmallFs::new(24);
    let m = Mount::setup().backing(small.path()).options("retain=1h,watermark=60").mount();
    let w = m.agent("W");
    w.put("small", "x").unwrap();
    w.unlink("small").unwrap();
    row_of(&m, "small");
    let fd = w.open("large", "w|creat").unwrap();
    w.fill(fd, 0, 12 << 20, 1).unwrap();
    w.close(fd).unwrap();
    w.unlink("large").unwrap();
    eventually("what was kept is removed ahead of time", || trash(&m).is_empty());
    eventually_empty(&m);
}
