//! Events as they happen, and again after every kind of interruption.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::common::http::{Server, Stream};
use crate::common::{Mount, Setup, eventually, poll, wait::LIMIT};

/// Small random numbers, different for each seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn kinds(stream: &mut Stream, n: usize) -> Vec<(String, String)> {
    (0..n).map(|_| stream.event()).map(|e| (e.event, e.data["path"].as_str().unwrap_or_default().to_owned())).collect()
}

#[test]
fn a_commit_is_told_as_it_happens() {
    let m = Mount::new();
    let mut stream = m.http().events("", &[]);
    let header =
        |name: &str| stream.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
    assert!(header("content-type").starts_with("text/event-stream"));
    assert_eq!((header("cache-control").as_str(), header("x-accel-buffering").as_str()), ("no-store", "no"));
    let first = stream.block().unwrap().unwrap();
    assert!(first.retry && first.id.is_some(), "{first:?}");
    let w = m.agent("W");
    w.put("f", "12 bytes....").unwrap();
    let begun = stream.event();
    assert_eq!((begun.event.as_str(), begun.id), ("begun", first.id.map(|id| id + 1)));
    let committed = loop {
        let event = stream.event();
        if event.event == "committed" {
            break event;
        }
    };
    assert_eq!((committed.data["path"].as_str(), committed.data["size"].as_u64()), (Some("f"), Some(12)));
    assert_eq!(committed.data["id"].as_i64(), committed.id);
    assert!(committed.data["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0));
}

#[test]
fn paths_and_kinds_are_chosen_and_the_past_is_replayed() {
    let m = Mount::new();
    let w = m.agent("W");
    w.mkdir("d").unwrap();
    for name in ["a", "d/b", "d/c.txt", "e.txt"] {
        w.put(name, "x").unwrap();
    }
    m.recorded();
    let committed = |path: &str| ("committed".to_owned(), path.to_owned());
    let server = m.http();
    let mut all = server.events("after=0&kind=committed", &[]);
    assert_eq!(kinds(&mut all, 4), ["a", "d/b", "d/c.txt", "e.txt"].map(committed));
    let mut some = server.events("after=0&path=d/*&kind=begun,committed", &[]);
    let mut found = kinds(&mut some, 4);
    found.retain(|(kind, _)| kind == "committed");
    assert_eq!(found, ["d/b", "d/c.txt"].map(committed));
    let mut texts = server.events("after=0&path=*.txt&kind=committed", &[]);
    assert_eq!(kinds(&mut texts, 2), ["d/c.txt", "e.txt"].map(committed));
    w.put("g", "x").unwrap();
    w.put("d/h.txt", "x").unwrap();
    assert_eq!(kinds(&mut texts, 1), ["d/h.txt"].map(committed));
    // The header wins over the query.
    let last = server.events("after=0", &[]).event().id.unwrap().to_string();
    assert_eq!(server.events("after=0", &[("last-event-id", &last)]).event().id, Some(2));
    let dead = m.agent("K");
    let fd = dead.open("k", "w|creat").unwrap();
    dead.write(fd, "x").unwrap();
    let mut quarantined = server.events("kind=quarantined", &[]);
    quarantined.block().unwrap();
    dead.kill(Signal::KILL);
    let event = quarantined.event();
    assert_eq!(event.data["path"], "k");
    assert!(event.data["detail"].as_str().unwrap().contains("signal 9"));
}

#[test]
fn an_idle_stream_ends_properly_with_the_daemon() {
    let mut m = Mount::new();
    let mut streams: Vec<Stream> = (0..3).map(|_| m.http().events("", &[])).collect();
    for stream in &mut streams {
        assert!(stream.block().unwrap().is_some());
    }
    m.agent("W").put("f", "x").unwrap();
    m.umount();
    for mut stream in streams {
        let mut last = None;
        // `Ok(None)` is the last chunk of a whole answer, not a connection cut off.
        while let Some(block) = stream.block().unwrap() {
            last = block.id.or(last);
        }
        assert!(last.is_some());
    }
}

#[test]
fn ids_that_are_not_kept_are_a_resync() {
    let mut m = Mount::new();
    let w = m.agent("W");
    for n in 0..10 {
        w.put(format!("f{n}").as_str(), "x").unwrap();
    }
    m.recorded();
    drop(w);
    m.umount();
    let db = rusqlite::Connection::open(m.state().join("journal.sqlite")).unwrap();
    db.execute("DELETE FROM events WHERE id <= 7", []).unwrap();
    drop(db);
    m.remount();
    for after in ["0", "3", "1000000", "9223372036854775807"] {
        let mut stream = m.http().events(&format!("after={after}"), &[]);
        let first = stream.event();
        assert_eq!((first.event.as_str(), first.id), ("resync", None), "after={after}");
        assert_eq!(first.data["oldest"], 8);
        assert_eq!(stream.event().id, Some(8), "after={after}");
    }
    let mut stream = m.http().events("after=7", &[]);
    assert_eq!(stream.event().id, Some(8), "event 7 was the last one seen: nothing is missing");
}

#[test]
fn history_is_bounded_and_who_comes_too_late_is_told() {
    const KEPT: i64 = 1000;
    let mut m = Setup::default().config("history = 1000\n").mount();
    let k = m.agent("K");
    let fd = k.open("kept", "w|creat").unwrap();
    k.write(fd, "content").unwrap();
    k.kill(Signal::KILL);
    let kept = m.quarantined("kept").id;
    let mut live = m.http().events("after=0", &[]);
    let w = m.agent("W");
    let newest = |m: &Mount| m.json(&["status"])["last_event"].as_i64().unwrap();
    let mut commits = 0;
    while newest(&m) < 2 * KEPT {
        for n in 0..50 {
            w.put(format!("f{n}").as_str(), "x").unwrap();
        }
        commits += 50;
    }
    eventually("all is in the journal", || m.json(&["status"])["commits"] == commits);
    let last = newest(&m);
    // Told to whoever asks for what is not there any more, once.
    let asked = |m: &Mount| {
        let mut late = m.http().events("after=0", &[]);
        let first = late.event();
        (first.event == "resync").then(|| (first.data["oldest"].as_i64().unwrap(), late))
    };
    eventually("the rest is pruned", || asked(&m).is_some_and(|(oldest, _)| oldest == last - KEPT + 1));
    let (oldest, mut late) = asked(&m).unwrap();
    for id in oldest..=last {
        assert_eq!(late.event().id, Some(id));
    }
    assert_eq!(m.http().events(&format!("after={}", oldest - 1), &[]).event().id, Some(oldest));
    for id in 1..=last {
        let event = live.event();
        assert_eq!(event.id, Some(id), "who was there missed nothing: {event:?}");
    }
    let past = m.cli_ok(&["events", "--after", "5", "--json"]);
    let mut lines = past.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(lines.next().unwrap()["kind"], "resync");
    assert_eq!(lines.next().unwrap()["id"], oldest);
    assert_eq!(lines.count() as i64, KEPT - 1);

    // Drafts go with their last event, except those that somebody must decide about.
    let page = m.http().get("/v1/commits?limit=1000").json();
    let remembered = page["items"].as_array().unwrap().len();
    assert!(remembered as i64 <= KEPT / 2 && remembered > 0, "{remembered} commits");
    assert_eq!(m.json(&["status"])["commits"], commits, "those that went are counted");
    assert_eq!(m.quarantine()[0].id, kept);
    drop((w, live, late));
    m.umount();
    m.remount();
    assert_eq!(asked(&m).unwrap().0, oldest, "after a restart as before");
    assert_eq!(m.http().post(&format!("/v1/quarantine/{kept}/publish")).status, 200);
    assert_eq!(m.raw_content("kept").unwrap(), b"content");
    crate::common::checker::check(&m);
}

/// A subscriber that takes some events, goes away, and comes again; returns the ids it has seen.
fn restless(server: &Server, seed: u64, last: &AtomicI64, newest: &AtomicI64, broken: &AtomicBool) {
    let mut dice = Dice(seed);
    let mut seen = 0;
    while !broken.load(Ordering::Relaxed) {
        let goal = newest.load(Ordering::Relaxed);
        if goal > 0 && seen >= goal {
            break;
        }
        let Server::Unix(path) = server else { unreachable!() };
        let up = std::os::unix::net::UnixStream::connect(path).is_ok();
        if !up {
            // The daemon is away, or its socket's path is too long for a plain address: then this test fails at its end.
            thread::yield_now();
            continue;
        }
        let id = seen.to_string();
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match dice.below(2) {
            0 => server.events(&format!("after={id}"), &[]),
            _ => server.events("", &[("last-event-id", &id)]),
        }));
        // The daemon went away between the look and the question.
        let Ok(mut stream) = asked else { continue };
        for _ in 0..dice.below(700) {
            match stream.block() {
                Ok(Some(block)) => {
                    let Some(id) = block.id else {
                        assert!(block.event.is_empty(), "{block:?}");
                        continue;
                    };
                    if id != seen + 1 {
                        broken.store(true, Ordering::Relaxed);
                    }
                    assert_eq!(id, seen + 1, "a gap or a repeat");
                    seen = id;
                    last.store(seen, Ordering::Relaxed);
                    let goal = newest.load(Ordering::Relaxed);
                    if goal > 0 && seen >= goal {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn ten_thousand_events_across_restarts_without_a_gap_or_a_repeat() {
    const EVENTS: i64 = 10_000;
    let mut m = Mount::new();
    // The address of a socket is at most 107 bytes; a short way there for the look whether it is up.
    let near = tempfile::tempdir().unwrap();
    let short = near.path().join("s");
    std::os::unix::fs::symlink(m.state(), &short).unwrap();
    let server = Server::Unix(short.join("http.sock"));
    let newest = AtomicI64::new(0);
    let broken = AtomicBool::new(false);
    let last: Vec<AtomicI64> = (0..4).map(|_| AtomicI64::new(0)).collect();
    thread::scope(|scope| {
        let subscribers: Vec<_> = last
            .iter()
            .enumerate()
            .map(|(n, last)| {
                let (server, newest, broken) = (&server, &newest, &broken);
                scope.spawn(move || restless(server, n as u64 + 1, last, newest, broken))
            })
            .collect();
        let now = |m: &Mount| m.json(&["status"])["last_event"].as_i64().unwrap();
        let mut restarts = 0;
        while now(&m) < EVENTS && !broken.load(Ordering::Relaxed) {
            let writers: Vec<_> = (0..3).map(|n| m.agent(&format!("W{n}"))).collect();
            thread::scope(|scope| {
                for (n, w) in writers.into_iter().enumerate() {
                    scope
                        .spawn(move || (0..300).for_each(|i| w.put(format!("f{n}-{}", i % 10).as_str(), "x").unwrap()));
                }
            });
            restarts += 1;
            if restarts % 2 == 0 {
                m.kill9();
            } else {
                m.umount();
            }
            m.remount();
        }
        assert!(restarts >= 3, "only {restarts} restarts");
        m.recorded();
        m.recorded();
        newest.store(now(&m), Ordering::Relaxed);
        let goal = newest.load(Ordering::Relaxed);
        // Whoever has all of them and waits for more is told that it was all.
        m.agent("W").put("the-last", "x").unwrap();
        let done = poll(LIMIT, || {
            let all = last.iter().all(|last| last.load(Ordering::Relaxed) >= goal);
            (all || broken.load(Ordering::Relaxed)).then_some(())
        });
        if done.is_none() {
            broken.store(true, Ordering::Relaxed);
        }
        for subscriber in subscribers {
            subscriber.join().unwrap();
        }
        assert!(done.is_some() && !broken.load(Ordering::Relaxed), "{last:?} of {goal}");
    });
    crate::common::checker::check(&m);
}

#[test]
fn one_that_does_not_read_is_dropped_and_resumes_without_a_gap() {
    let m = Mount::new();
    let w = m.agent("W");
    let mut deaf = m.http().events("after=0", &[]);
    assert!(deaf.block().unwrap().unwrap().retry);
    let before = memory(&m);
    // More than the ring, the socket and what lies between hold, with names that make events long.
    let name = "n".repeat(200);
    let newest = || m.json(&["status"])["last_event"].as_i64().unwrap();
    while newest() < 7000 {
        (0..300).for_each(|n| w.put(format!("{name}{}", n % 10).as_str(), "x").unwrap());
    }
    m.recorded();
    let goal = newest();
    let grown = memory(&m).saturating_sub(before);
    assert!(grown < 24 << 10, "{grown} KiB more: what one does not read is not kept for it");
    // It reads after all: what was on its way, in order, and then that it was too slow; or it was cut off meanwhile.
    let (mut seen, mut told) = (0, false);
    loop {
        match deaf.block() {
            Ok(Some(block)) if block.event == "resync" => {
                assert_eq!(block.data["oldest"], seen + 1, "{block:?}");
                told = true;
            }
            Ok(Some(block)) => {
                assert!(!told, "nothing comes after it: {block:?}");
                let Some(id) = block.id else { continue };
                assert_eq!(id, seen + 1);
                seen = id;
            }
            Ok(None) => break assert!(told, "an end without a word"),
            Err(error) => break assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
        }
    }
    assert!(seen > 0 && seen < goal, "{seen} of {goal}");
    let last = seen.to_string();
    let mut again = m.http().events("", &[("last-event-id", &last)]);
    for id in seen + 1..=goal {
        assert_eq!(again.event().id, Some(id));
    }
    w.put("on-it-goes", "x").unwrap();
    assert_eq!(again.event().id, Some(goal + 1));
}

/// A line of `/proc/PID/status` in KiB.
fn memory(m: &Mount) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", m.daemon_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Descriptors of the daemon on the journal.
fn on_the_journal(m: &Mount) -> usize {
    let table = std::fs::read_dir(format!("/proc/{}/fd", m.daemon_pid())).unwrap();
    let links = table.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("journal.sqlite")).count()
}

#[test]
fn a_thousand_idle_subscribers_cost_little_and_no_connection() {
    let m = Mount::new();
    let w = m.agent("W");
    w.put("f", "x").unwrap();
    m.recorded();
    let (before, connections) = (memory(&m), on_the_journal(&m));
    assert!(before < 30 << 10, "an idle daemon has {before} KiB");
    let mut streams: Vec<Stream> = (0..1000).map(|_| m.http().events("after=0", &[])).collect();
    for stream in &mut streams {
        assert_eq!(stream.event().id, Some(1));
    }
    // SQLite keeps the database's own descriptor for the next connection, because closing it would drop the writer's
    // locks; that of the log goes.
    eventually("the reading connection is closed", || on_the_journal(&m) <= connections + 1);
    let with = memory(&m);
    assert!(with - before.min(with) < 50 << 10, "{before} KiB before, {with} with 1000 subscribers");
    let status = m.http().get("/v1/status").json();
    assert_eq!(status["subscribers"], 1000);
    w.put("g", "x").unwrap();
    for stream in &mut streams {
        while stream.event().data["path"] != "g" {}
    }
    drop(streams);
    eventually("they are gone", || m.http().get("/v1/status").json()["subscribers"] == 0);
}
