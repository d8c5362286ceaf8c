//! Changes that are made to the export without commitfs, and hosts without it.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::common::content::{newest, verify, version};
use crate::common::mount::peer_base;
use crate::common::{Agent, Errno, Mount, eventually};

#[test]
fn s53_a_draft_over_a_version_that_is_replaced_elsewhere_is_published_all_the_same() {
    let m = Mount::setup().options("retain=0").mount();
    let (w, v) = m.pair();
    let old = version("f", 1, 8, 100_000);
    for (number, truncates) in [false, true].into_iter().enumerate() {
        let (name, aside) = (format!("f{number}"), format!("g{number}"));
        w.put(&name, &old).unwrap();
        v.chmod(&name, 0o640).unwrap();
        let bare = File::open(m.raw(&name)).unwrap();
        let fd = w.open(&name, "rw").unwrap();
        let elsewhere = m.elsewhere();
        std::fs::write(elsewhere.join(&aside), "from elsewhere").unwrap();
        std::fs::rename(elsewhere.join(&aside), elsewhere.join(&name)).unwrap();
        // The client knows that the version has lost its last name.
        let links = statx(&bare, "", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS);
        if links.is_ok_and(|stat| stat.stx_nlink == 0) {
            if truncates {
                w.ftruncate(fd, 0).unwrap();
            }
            w.pwrite(fd, 0, "patched").unwrap();
            w.close(fd).unwrap();
            let new = if truncates { b"patched".to_vec() } else { [b"patched", &old[7..]].concat() };
            assert!(v.cat(&name).unwrap() == new, "whole, and the last to commit (truncates: {truncates})");
            assert_eq!(v.stat(&name).unwrap().mode & 0o777, 0o640);
        } else {
            // NFS 3 knows nothing of open files: what another host replaced is gone for who writes over it, who is told.
            assert_eq!(w.pwrite(fd, 0, "patched").and_then(|_| w.close(fd)).unwrap_err(), "ESTALE");
        }
    }
}

#[test]
fn s61_without_commitfs_a_host_sees_whole_files_and_the_newest_in_time() {
    let m = Mount::new();
    let plain = m.elsewhere();
    let w = m.agent("W");
    for generation in 1..=12 {
        for name in ["f", &format!("new{generation}")] {
            let whole = version(name, generation, 3, 20_000);
            let fd = w.open(name, "w|creat|trunc").unwrap();
            for piece in whole.chunks(whole.len() / 4) {
                w.write(fd, piece).unwrap();
                match std::fs::read(plain.join(name)) {
                    Ok(seen) => {
                        let headers = verify(&seen).unwrap_or_else(|why| panic!("{name} without commitfs: {why}"));
                        assert!(newest(&headers) < generation, "{name} is seen before it is closed");
                    }
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{name}: {error}"),
                }
            }
            w.close(fd).unwrap();
        }
    }
    let whole = version("f", 12, 3, 20_000);
    eventually("the newest version is seen", || std::fs::read(plain.join("f")).is_ok_and(|seen| seen == whole));
}

#[test]
fn s61_without_commitfs_a_listing_shows_new_names_at_once_and_makes_them_found() {
    let m = Mount::new();
    let plain = m.elsewhere();
    let w = m.agent("W");
    for round in 0..5 {
        let name = format!("new{round}");
        // As one polls for a file; it is remembered that it was not there.
        assert!(!plain.join(&name).exists());
        w.put(&name, "content").unwrap();
        eventually("committed", || m.raw_content(&name).is_some());
        let listed: Vec<_> = std::fs::read_dir(&plain).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(listed.iter().any(|found| *found == *name), "{name} is not in {listed:?}");
        assert_eq!(std::fs::read(plain.join(&name)).unwrap(), b"content", "round {round}: after the listing");
    }
    assert!(!plain.join("late").exists());
    w.put("late", "content").unwrap();
    eventually("and without a listing in time", || {
        std::fs::read(plain.join("late")).is_ok_and(|seen| seen == b"content")
    });
}

#[test]
fn s53_a_change_made_without_commitfs_is_seen_by_the_next_open() {
    let m = Mount::new();
    let (w, r) = m.pair();
    w.put("f", "here").unwrap();
    assert_eq!(r.cat("f").unwrap(), b"here");
    let held = r.open("f", "r").unwrap();
    std::fs::write(m.raw("g"), "made elsewhere").unwrap();
    assert_eq!(r.cat("g").unwrap(), b"made elsewhere");
    std::fs::rename(m.raw("g"), m.raw("f")).unwrap();
    assert_eq!(r.cat("f").unwrap(), b"made elsewhere");
    assert_eq!(r.stat("f").unwrap().size, 14);
    assert_eq!(r.pread(held, 0, 100).unwrap(), b"here");
    let mut file = std::fs::File::options().append(true).open(m.raw("f")).unwrap();
    std::io::Write::write_all(&mut file, b" and appended in place").unwrap();
    drop(file);
    let grown = b"made elsewhere and appended in place";
    eventually("what was written in place elsewhere is seen", || r.cat("f").unwrap() == grown);
    // What the kernel keeps of a name on a local export, it keeps for the mount's ttl.
    eventually("its new size is seen", || r.stat("f").unwrap().size == 36);
    std::fs::remove_file(m.raw("f")).unwrap();
    eventually("its removal is seen", || r.stat("f").is_err());
    std::fs::create_dir(m.raw("f")).unwrap();
    eventually("the folder is seen", || r.stat("f").is_ok_and(|stat| stat.is_dir()));
}

#[test]
fn s53_a_name_that_is_replaced_elsewhere_all_the_time_can_be_looked_at_read_and_stored() {
    let m = Mount::setup().options("ttl=0s").mount();
    let (root, user) = m.pair();
    user.call(&["become", "1234", "2345"]).unwrap();
    let elsewhere = m.elsewhere();
    let replace = |number: u64, generation: u64| {
        let aside = elsewhere.join(format!("aside{number}"));
        std::fs::write(&aside, version("f", generation, 1, 100)).unwrap();
        // The kernel asks for the access list of a file that others may use.
        std::fs::set_permissions(&aside, Permissions::from_mode(0o666)).unwrap();
        std::fs::rename(&aside, elsewhere.join("f")).unwrap();
    };
    let use_it = |agent: &Agent, round: u64| {
        verify(&agent.cat("f")?).map_err(|why| Errno(format!("torn: {why}")))?;
        agent.stat("f")?;
        if round.is_multiple_of(10) { agent.put("f", &version("f", round, 1, 100)) } else { Ok(()) }
    };
    replace(0, 0);
    eventually("the name is there", || user.stat("f").is_ok());
    let done = AtomicBool::new(false);
    let rounds = if peer_base().is_some() { 200 } else { 1000 };
    let failed: Vec<Errno> = std::thread::scope(|scope| {
        for number in [1, 2] {
            let (replace, done) = (&replace, &done);
            scope.spawn(move || {
                (0..500_000).take_while(|_| !done.load(Ordering::Relaxed)).for_each(|n| replace(number, n))
            });
        }
        let failed = (0..rounds).flat_map(|round| [&root, &user].map(|agent| use_it(agent, round).err()));
        let failed = failed.flatten().collect();
        done.store(true, Ordering::Relaxed);
        failed
    });
    // On NFS the server removes what a client without commitfs replaces, whoever is about to open or read it: then what is
    // seen is whole, or nothing is.
    let gone = |errno: &Errno| peer_base().is_some() && ["ESTALE", "ENOENT", "EIO"].contains(&errno.0.as_str());
    assert!(failed.iter().all(gone), "{} of {} rounds: {failed:?}", failed.len(), 2 * rounds);
}
