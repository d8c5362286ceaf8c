//! Decisions about drafts in quarantine: made once, and refused with the reason.

use std::sync::Barrier;

use commitfs::admin::control::{Client, ClientError};
use rustix::process::Signal;

use crate::common::mount::show;
use crate::common::{Mount, Setup, checker};

/// Drafts of killed writers, in quarantine.
fn quarantined(m: &Mount, names: &[String]) -> Vec<i64> {
    let w = m.agent("killed");
    for name in names {
        let fd = w.open(name.as_str(), "w|creat|trunc").unwrap();
        w.write(fd, format!("new {name}").as_str()).unwrap();
    }
    w.kill(Signal::KILL);
    names.iter().map(|name| m.quarantined(name).id).collect()
}

#[test]
fn s42_each_decision_is_made_once_however_many_make_one_at_a_time() {
    const DRAFTS: usize = 24;
    let m = Setup::default().config("retain = '1h'\n").mount();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    let names: Vec<String> = (0..DRAFTS).map(|n| format!("d/f{n}")).collect();
    for name in &names {
        w.put(name.as_str(), "old").unwrap();
    }
    let ids = quarantined(&m, &names);
    for (n, (id, name)) in ids.iter().copied().zip(&names).enumerate() {
        // Of every third draft nobody wants anything but to publish it.
        let publishes = |who: usize| n.is_multiple_of(3) || who.is_multiple_of(2);
        let barrier = Barrier::new(4);
        let decide = |who: usize| {
            let mut client = Client::connect(m.state()).unwrap();
            barrier.wait();
            if publishes(who) { client.publish(id) } else { client.discard(id) }
        };
        let outcomes: Vec<Result<(), ClientError>> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..4).map(|who| scope.spawn(move || decide(who))).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let made: Vec<bool> = (0..4).filter(|&who| outcomes[who].is_ok()).map(publishes).collect();
        assert_eq!(made.len(), 1, "{name}: {outcomes:?}");
        let (state, content) =
            if made[0] { ("committed", format!("new {name}")) } else { ("discarded", "old".to_owned()) };
        for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert_eq!(refused.to_string(), format!("draft {id} is {state}, not quarantined"), "{name}");
            assert!(matches!(refused, ClientError::Refused { errno: 22, .. }), "{refused:?}");
        }
        let row = m.history().into_iter().find(|row| row.id == id).unwrap();
        assert_eq!((row.state.as_str(), w.cat(name.as_str()).unwrap()), (state, content.into_bytes()), "{name}");
    }
    assert!(!m.log().contains("illegal change"), "{}", m.log());
    checker::check(&m);
    checker::totals(&m);
}

#[test]
fn publishing_takes_the_place_of_a_file_only_and_says_what_is_there() {
    let m = Mount::new();
    let names = ["link".to_owned(), "folder".to_owned()];
    let ids = quarantined(&m, &names);
    let w = m.agent("W");
    w.symlink("elsewhere", "link").unwrap();
    w.mkdir("folder").unwrap();
    for (id, there) in ids.iter().zip(["link: is a symbolic link", "folder: is a folder"]) {
        let out = m.cli(&["quarantine", "publish", &id.to_string()]);
        assert_eq!(out.status.code(), Some(1), "{}", show(&out));
        assert!(String::from_utf8_lossy(&out.stderr).contains(there), "{}", show(&out));
    }
    w.unlink("link").unwrap();
    m.cli_ok(&["quarantine", "publish", &ids[0].to_string()]);
    assert_eq!(w.cat("link").unwrap(), b"new link");
}
