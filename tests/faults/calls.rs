//! Each call on the export fails once, with each error: before it was done, or after, when only its answer is lost.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;

use crate::common::checker::{self, Promise};
use crate::common::mount::signal;
use crate::common::{Agent, Mount, Row, eventually, poll};
use crate::faultfs::FaultFs;
use crate::faultfs::disk::Realm;
use crate::faultfs::plan::{Call, Fault, Op, When};
use crate::run::{How, Run};
use crate::scenarios::{Scenario, chosen};

const ERRNOS: &[(Errno, &str)] = &[
    (Errno::IO, "EIO"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::DQUOT, "EDQUOT"),
    (Errno::STALE, "ESTALE"),
    (Errno::INTR, "EINTR"),
    (Errno::ROFS, "EROFS"),
    (Errno::TIMEDOUT, "ETIMEDOUT"),
];

/// Calls whose answer can be lost: those that change names.
const NAMES: &[Op] = &[Op::Create, Op::Rename, Op::Link, Op::Unlink, Op::Mkdir, Op::Rmdir];

/// After so many cases everything is looked at, not only what was promised.
const ROUND: usize = 24;

fn full() -> bool {
    std::env::var_os("COMMITFS_TEST_FULL").is_some()
}

/// A daemon on which case after case is tried.
struct Bench<'a> {
    /// A writer and a reader who look at what each case has left.
    others: (Agent, Agent),
    m: Mount,
    fs: &'a FaultFs,
    /// Of all cases so far.
    known: BTreeMap<String, Promise>,
    cases: usize,
    /// What was failed, by kind of call.
    hits: BTreeMap<Op, usize>,
    wrong: Vec<String>,
}

impl Bench<'_> {
    /// One case; false when the scenario was over before the fault's turn came.
    fn case(&mut self, scenario: &Scenario, fault: Fault, errno: &str) -> bool {
        self.cases += 1;
        let mut run = Run::new(&self.m, self.fs, &format!("c{}", self.cases));
        (scenario.prepare)(&mut run);
        self.fs.arm(fault);
        (scenario.act)(&mut run);
        let hit = self.fs.disarm();
        let what = format!("{}, {errno} {:?} {}", scenario.name, fault.when, show(hit.as_ref()));
        // Descriptors that a fork has too go with it.
        let Run { known, failed, mut wrong, w, folder, .. } = run;
        drop(w);
        // The kernel repeats what is answered ESTALE by itself, and finds it done.
        let repeated = fault.when == When::After && fault.errno == Errno::STALE;
        for (call, got) in &failed {
            if repeated && (*got == "EEXIST" || *got == "ENOENT") {
                continue;
            }
            if *got != errno && !(got.0.contains("(os error") && hit.is_some()) {
                wrong.push(format!("{call}: {got:?}"));
            }
        }
        if failed.is_empty() != hit.is_none() && hit.is_none() {
            wrong.push(format!("failed without a fault: {failed:?}"));
        }
        self.known.extend(known.clone());
        self.check(&folder, &known, &mut wrong);
        if !wrong.is_empty() {
            eprintln!("{what}: {failed:?}\n    {}", wrong.join("\n    "));
            self.wrong.push(format!("{what}: {failed:?}\n    {}", wrong.join("\n    ")));
        }
        if let Some(call) = &hit {
            *self.hits.entry(call.op).or_default() += 1;
        }
        if self.cases.is_multiple_of(ROUND) {
            self.check_all(&what);
        }
        hit.is_some()
    }

    /// What was promised is there, and every name can be written again and is seen by others.
    fn check(&mut self, folder: &str, known: &BTreeMap<String, Promise>, wrong: &mut Vec<String>) {
        assert!(!self.m.daemon_is_dead(), "the daemon died:\n{}", self.m.log());
        // A commit that comes at release is on its way still.
        let mut broken = Vec::new();
        poll(Duration::from_secs(5), || {
            broken = checker::broken_promises_below(&self.m, folder, known);
            broken.is_empty().then_some(())
        });
        // A close that was promised without proof is committed at release, whose error has nobody to go to: the draft is
        // in quarantine or waits for the next mount, which the journal tells.
        broken.retain(|what| {
            let path = what.split(": ").next().unwrap_or_default();
            !(what.ends_with("had succeeded") && self.was_promised(path))
        });
        wrong.extend(broken);
        let (w, r) = &self.others;
        for (path, promise) in known.iter().filter(|(path, _)| !path.ends_with(".tmp")) {
            let Some((folder, _)) = path.rsplit_once('/') else { continue };
            if w.stat(folder).is_err() {
                continue;
            }
            let generation = promise.tried + 1;
            let content = crate::common::content::version(path, generation, 1, 40);
            let before = self.known.insert(path.clone(), Promise { closed: generation, tried: generation });
            if let Err(errno) = w.put(path, &content) {
                self.known.extend(before.map(|before| (path.clone(), before)));
                wrong.push(format!("{path} cannot be written afterwards: {errno:?}"));
            } else if r.cat(path).as_ref() != Ok(&content) {
                wrong.push(format!("{path}: what was written afterwards is not seen: {:?}", r.stat(path)));
            }
        }
    }

    /// Whether a draft of the path was not published whose close had been promised.
    fn was_promised(&self, path: &str) -> bool {
        self.m.recorded();
        let db = rusqlite::Connection::open(self.m.state().join("journal.sqlite")).unwrap();
        let sql = "SELECT count(*) FROM drafts d JOIN events e ON e.draft_id = d.id
                   WHERE d.path = ?1 AND d.state IN ('sealed', 'quarantined') AND e.kind = 'sealed'";
        db.query_row(sql, [path.as_bytes()], |row| row.get::<_, i64>(0)).unwrap() > 0
    }

    /// Journal, staging, trash and export agree; after a restart, where an answer was lost, or something waits for it.
    fn check_all(&mut self, last: &str) {
        eventually("nothing is being published", || self.m.pending().iter().all(|row| row.reason.is_some()));
        self.m.recorded();
        let agree = || self.m.pending().is_empty() && checker::disagreements(&self.m).is_empty();
        if poll(Duration::from_secs(2), || agree().then_some(())).is_none() {
            self.m.kill9();
            self.m.remount();
            self.others = self.m.pair();
        }
        self.m.settled();
        eprintln!("{} cases, the last one {last}", self.cases);
        checker::check(&self.m);
        let broken = checker::broken_promises(&self.m, &self.known);
        assert!(broken.is_empty(), "after {last}:\n  {}", broken.join("\n  "));
    }

    fn end(mut self, scenario: &Scenario) -> BTreeMap<Op, usize> {
        self.check_all(scenario.name);
        let Bench { others, mut m, cases, hits, wrong, .. } = self;
        drop(others);
        m.umount();
        assert!(
            wrong.is_empty(),
            "{} of {} cases; again: COMMITFS_TEST_POINT='{}'\n  {}",
            wrong.len(),
            cases,
            scenario.name,
            wrong.join("\n  ")
        );
        hits
    }
}

fn show(call: Option<&Call>) -> String {
    call.map_or("nothing".to_owned(), Call::to_string)
}

fn bench(fs: &FaultFs) -> Bench<'_> {
    let m = fs.setup().mount();
    // The first commit makes what later ones find.
    let others = m.pair();
    others.0.put("first", &crate::common::content::version("first", 1, 1, 10)).unwrap();
    m.settled();
    let known = BTreeMap::from([("first".to_owned(), Promise { closed: 1, tried: 1 })]);
    Bench { others, m, fs, known, cases: 0, hits: BTreeMap::new(), wrong: Vec::new() }
}

/// Errors to try for the `n`-th call.
fn errnos(n: u64) -> impl Iterator<Item = &'static (Errno, &'static str)> {
    let (skip, take) = if full() { (0, ERRNOS.len()) } else { (n as usize % ERRNOS.len(), 1) };
    ERRNOS.iter().skip(skip).take(take)
}

/// From one call to the next: every day a few of the scenarios that repeat what others do.
fn stride(scenario: &Scenario) -> u64 {
    if full() || !scenario.repeats { 1 } else { 4 }
}

#[test]
fn each_call_that_fails_is_reported_and_spoils_nothing() {
    let mut hits: BTreeMap<Op, usize> = BTreeMap::new();
    for (offset, scenario) in chosen().enumerate() {
        let fs = FaultFs::new();
        let mut bench = bench(&fs);
        // Not the same ones of all scenarios.
        let mut skip = offset as u64 % stride(scenario);
        loop {
            let mut hit = false;
            for (errno, name) in errnos(skip + offset as u64) {
                let fault = Fault { realm: Realm::Export, skip, op: None, errno: *errno, when: When::Before };
                hit |= bench.case(scenario, fault, name);
            }
            if !hit {
                break;
            }
            skip += stride(scenario);
        }
        assert!(skip >= 5, "{}: {skip} calls", scenario.name);
        for (op, count) in bench.end(scenario) {
            *hits.entry(op).or_default() += count;
        }
    }
    eprintln!("failed: {hits:?}");
    if std::env::var_os("COMMITFS_TEST_POINT").is_none() {
        let wanted = [Op::Lookup, Op::Create, Op::Write, Op::Fsync, Op::Fsyncdir, Op::Rename, Op::Link, Op::Mkdir];
        let missed: Vec<_> = wanted.iter().filter(|op| !hits.contains_key(op)).collect();
        assert!(missed.is_empty(), "never failed: {missed:?}");
    }
}

#[test]
fn each_answer_that_is_lost_spoils_nothing() {
    for (offset, scenario) in chosen().enumerate() {
        let fs = FaultFs::new();
        let mut bench = bench(&fs);
        for op in NAMES {
            let mut skip = 0;
            loop {
                let mut hit = false;
                for (errno, name) in errnos(skip + offset as u64) {
                    let fault = Fault { realm: Realm::Export, skip, op: Some(*op), errno: *errno, when: When::After };
                    hit |= bench.case(scenario, fault, name);
                }
                if !hit {
                    break;
                }
                skip += 1;
            }
        }
        bench.end(scenario);
    }
}

/// What fails for somebody else before anything was written is not told to a name's writers.
#[test]
fn a_truncate_that_is_refused_spoils_nothing_for_who_writes() {
    let fs = FaultFs::new();
    let mut m = fs.setup().mount();
    let v = m.agent("V");
    let (mut refused, mut copies) = (0, 0);
    for skip in 0.. {
        // A new one each time: what a thread was refused it may ask for again within seconds.
        let a = m.agent("A");
        let name = format!("f{skip}");
        v.put(&name, "old content").unwrap();
        let fd = v.open(&name, "w").unwrap();
        // The kernel forgets the draft's attributes over it, and asks again.
        v.seek(fd, 0, "data").unwrap();
        let fault =
            Fault { realm: Realm::Export, skip, op: Some(Op::Getattr), errno: Errno::TIMEDOUT, when: When::Before };
        fs.arm(fault);
        let mut cut = Ok(());
        let calls = fs.calls(|| cut = a.truncate(&name, 3));
        let Some(hit) = fs.disarm() else {
            v.close(fd).unwrap();
            break;
        };
        // Once it has content of its own, its writers share that, and what fails with it.
        let copied = || m.log().matches("step=\"copy\"").count();
        let begun = copied() > copies || calls.iter().any(|call| call.op == Op::Create);
        copies = copied();
        refused += usize::from(cut.is_err() && !begun);
        let written = v.pwrite(fd, 0, b"new").and(v.close(fd));
        eprintln!("{name}: {hit} failed, truncate {cut:?}, begun {begun}, {written:?}");
        assert!(begun || written == Ok(()), "{name}, after {calls:#?}: {written:?}");
    }
    assert!(refused > 0, "no truncate was refused");
    // A staged file of which not even the number could be had is found by the sweep.
    m.kill9();
    m.remount();
    m.settled();
    checker::check(&m);
}

/// The kernel may know the draft for long: nobody else shall get it.
#[test]
fn a_truncate_that_comes_to_nothing_gives_the_name_back() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    let (a, v) = m.pair();
    a.put("f", "old").unwrap();
    let writes = a.open("f", "w").unwrap();
    let node = a.open("f", "path").unwrap();
    a.close(writes).unwrap();
    fs.refuse(Realm::Export, |op| op == Op::Create, Errno::IO);
    assert_eq!(a.truncate(&format!("/proc/self/fd/{node}"), 1).unwrap_err(), "EIO");
    fs.allow();
    v.put("f", "new").unwrap();
    assert_eq!(m.agent("R").cat("f").unwrap(), b"new");
    checker::check(&m);
}

#[test]
fn a_slow_call_delays_nobody_else() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    let (w, r) = m.pair();
    let v = m.agent("V");
    w.mkdir("slow").unwrap();
    w.put("slow/f", "old").unwrap();
    let fd = w.open("slow/f", "w|trunc").unwrap();
    w.write(fd, "new").unwrap();
    let held = fs.hold(Realm::Export, Op::Fsync);
    w.send(&["close", &fd.to_string()]);
    held.caught();
    // Others read, list, and make names.
    assert_eq!(v.stat("slow").unwrap().perm(), 0o755);
    v.mkdir("other").unwrap();
    assert!(v.lists(".", "other"));
    // Whoever asks before the close has returned finds a whole version, and afterwards the new one.
    r.send(&["cat", "slow/f"]);
    drop(held);
    w.answer().unwrap();
    let seen = r.answer().unwrap().concat();
    assert!(seen == b"old" || seen == b"new", "{seen:?}");
    assert_eq!(r.cat("slow/f").unwrap(), b"new");
    checker::check(&m);
}

/// A thread that tells the kernel of a name waits for the folder, whoever has that for the daemon, which is no more.
#[test]
fn nobody_waits_for_a_daemon_that_was_killed() {
    let fs = FaultFs::new();
    // R has the folder before it asks for anything.
    let mut m = fs.setup().options("ttl=1h").mount();
    let (w, r) = m.pair();
    let v = m.agent("V");
    w.mkdir("d").unwrap();
    let slow = w.open("d/slow", "w|creat").unwrap();
    w.write(slow, "new").unwrap();
    w.put("d/told", "old").unwrap();
    let told = v.open("d/told", "w|trunc").unwrap();
    r.stat(".").unwrap();
    r.stat("d").unwrap();
    let held = fs.hold(Realm::Export, Op::Fsync);
    w.send(&["close", &slow.to_string()]);
    held.caught();
    // It looks up with the folder locked, and waits for what is being published, whether the close was proven or not.
    r.send(&["open", "d/slow", "w|creat|excl"]);
    eventually("R waits for an answer", || waits_in(r.pid(), "request_wait_answer"));
    v.send(&["close", &told.to_string()]);
    eventually("a notice waits for R", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", m.daemon_pid())).unwrap();
        tasks.flatten().any(|task| waits_in(task.file_name().to_str().unwrap(), "fuse_reverse_inval_entry"))
    });
    signal(m.daemon_pid(), Signal::KILL);
    for agent in [&r, &w, &v] {
        let errno = agent.answer().unwrap_err();
        assert!(errno == "ECONNABORTED" || errno == "ENOTCONN", "{errno:?}");
    }
    assert_eq!(v.mkdir("e").unwrap_err(), "ENOTCONN");
    drop(held);
    m.kill9();
    m.remount();
    assert!(m.agent("N").lists("d", "told"));
    checker::check(&m);
}

/// Whoever ends the daemon by its name or its command line spares the guard, which keeps nothing of the export busy.
#[test]
fn the_guard_goes_by_a_name_of_its_own_and_ends_with_the_daemon() {
    let mut m = Mount::new();
    let daemon = m.daemon_pid();
    let children = std::fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
    let guard = children.trim().to_owned();
    let of_guard = |what: &str| std::fs::read(format!("/proc/{guard}/{what}")).unwrap_or_default();
    assert_eq!(of_guard("comm"), b"cfs-guard\n", "children: {children:?}");
    let arguments = of_guard("cmdline");
    assert_eq!(arguments.split(|byte| *byte == 0).find(|word| !word.is_empty()), Some(&b"cfs-guard"[..]));
    assert!(!String::from_utf8_lossy(&arguments).contains("mount"), "{arguments:?}");
    assert_eq!(std::fs::read_link(format!("/proc/{guard}/cwd")).unwrap(), std::path::Path::new("/"));
    // It stands a moment after the mount serves.
    eventually("it has the connection's file, and no other", || {
        let descriptors = std::fs::read_dir(format!("/proc/{guard}/fd")).unwrap();
        let mut open: Vec<_> = descriptors.flat_map(|fd| std::fs::read_link(fd.unwrap().path())).collect();
        open.retain(|path| path != std::path::Path::new("/dev/null") && !path.to_string_lossy().starts_with("socket:"));
        open.len() == 1 && open[0].ends_with("abort")
    });
    m.kill9();
    // Nobody may be there to wait for it.
    eventually("it has ended", || {
        let status = String::from_utf8_lossy(&of_guard("status")).into_owned();
        status.is_empty() || status.contains("State:\tZ")
    });
    m.remount();
}

/// A writer with too many descriptors to look for a duplicate among them: its closes return without proof.
pub fn unproven(m: &Mount) -> Agent {
    let w = m.agent("W");
    for _ in 0..600 {
        w.open("/dev/null", "r").unwrap();
    }
    w
}

/// Closes a version of `name` without proof while such calls fail; they go on failing.
fn close_in_vain(m: &Mount, fs: &FaultFs, w: &Agent, name: &str, refused: fn(Op) -> bool) {
    let fd = w.open(name, "w|creat|trunc").unwrap();
    w.write(fd, "closed").unwrap();
    fs.refuse(Realm::Export, refused, Errno::IO);
    w.close(fd).unwrap();
    let postponed = |row: &Row| row.path == name && row.reason.as_deref().is_some_and(|why| why.contains("failed"));
    eventually("its commit has failed", || m.pending().iter().any(postponed));
}

/// How often something was postponed.
fn postponed(m: &Mount) -> i64 {
    let db = rusqlite::Connection::open(m.state().join("journal.sqlite")).unwrap();
    db.query_row("SELECT count(*) FROM events WHERE kind = 'postponed'", [], |row| row.get(0)).unwrap()
}

fn is_rename(op: Op) -> bool {
    op == Op::Rename
}

/// A close without proof has returned; then the export fails, and works again.
#[test]
fn what_was_closed_before_the_export_failed_is_published_when_it_works_again() {
    let fs = FaultFs::new();
    let m = fs.setup().env("COMMITFS_RETRY_MS", "50").mount();
    let w = unproven(&m);
    w.put("old", "old").unwrap();
    for name in ["old", "new"] {
        close_in_vain(&m, &fs, &w, name, is_rename);
        fs.allow();
        eventually("it is published", || m.agent("R").cat(name).as_deref() == Ok(b"closed"));
    }
    // After the rename: the first folder that is synced is the staging folder, for the promise.
    for name in ["old", "newer"] {
        let fd = w.open(name, "w|creat|trunc").unwrap();
        w.write(fd, "again").unwrap();
        let fault =
            Fault { realm: Realm::Export, skip: 1, op: Some(Op::Fsyncdir), errno: Errno::IO, when: When::Before };
        fs.arm(fault);
        w.close(fd).unwrap();
        eventually("it is there", || m.agent("R").cat(name).as_deref() == Ok(b"again"));
        m.settled();
        assert!(fs.disarm().is_some(), "{name}: no folder was synced");
    }
    assert_eq!((m.commits().get("old"), m.commits().get("newer")), (Some(&3), Some(&1)));
    assert_eq!(postponed(&m), 4);
    checker::check(&m);
    assert_eq!(checker::unrecorded(&m), Vec::<String>::new());
}

/// Without an event of it: a rename or a link over the name leaves none.
#[test]
fn what_was_closed_before_the_export_failed_replaces_nothing_newer() {
    let fs = FaultFs::new();
    let mut m = fs.setup().env("COMMITFS_RETRY_MS", "50").mount();
    m.expect_mess();
    let (w, v) = (unproven(&m), m.agent("V"));
    v.put("other", "newer").unwrap();
    close_in_vain(&m, &fs, &w, "linked", is_rename);
    v.link("other", "linked").unwrap();
    fs.allow();
    assert!(m.quarantined("linked").reason.unwrap().contains("changed after its close"));
    assert_eq!(v.cat("linked").unwrap(), b"newer");
    v.put("unlinked", "old").unwrap();
    close_in_vain(&m, &fs, &w, "unlinked", is_rename);
    v.unlink("unlinked").unwrap();
    fs.allow();
    assert!(m.quarantined("unlinked").reason.unwrap().contains("changed after its close"));
    assert_eq!(v.stat("unlinked").unwrap_err(), "ENOENT");
    checker::check(&m);
}

/// He has begun over what the name held, and would replace what comes late without having seen it.
#[test]
fn what_was_closed_before_the_export_failed_is_not_published_under_who_writes_there() {
    let fs = FaultFs::new();
    let mut m = fs.setup().env("COMMITFS_RETRY_MS", "50").mount();
    m.expect_mess();
    let (w, v) = (unproven(&m), m.agent("V"));
    for writes in [true, false] {
        let name = if writes { "written" } else { "unwritten" };
        v.put(name, "old").unwrap();
        m.settled();
        close_in_vain(&m, &fs, &w, name, is_rename);
        let fd = v.open(name, "w|append").unwrap();
        fs.allow();
        poll(Duration::from_secs(1), || (m.raw_content(name).unwrap() == b"closed").then_some(()));
        assert_eq!(m.raw_content(name).unwrap(), b"old");
        if writes {
            v.write(fd, " and appended").unwrap();
        }
        v.close(fd).unwrap();
        if writes {
            assert!(m.quarantined(name).reason.unwrap().contains("changed after its close"));
            assert_eq!(v.cat(name).unwrap(), b"old and appended");
        } else {
            eventually("it is published after all", || v.cat(name).as_deref() == Ok(b"closed"));
        }
    }
    checker::check(&m);
}

/// A close without proof has returned; then the export fails.
#[test]
fn what_was_closed_before_the_export_failed_is_published_by_the_next_mount() {
    let fs = FaultFs::new();
    let mut m = fs.setup().env("COMMITFS_RETRY_MS", "3600000").mount();
    let w = unproven(&m);
    for name in ["kept", "overtaken"] {
        w.put(name, "old").unwrap();
        close_in_vain(&m, &fs, &w, name, is_rename);
        fs.allow();
        assert_eq!(m.agent("R").cat(name).unwrap(), b"old");
    }
    m.agent("V").put("overtaken", "newer").unwrap();
    m.kill9();
    m.remount();
    let r = m.agent("R");
    assert_eq!(r.cat("kept").unwrap(), b"closed");
    assert_eq!(r.cat("overtaken").unwrap(), b"newer");
    assert!(m.quarantined("overtaken").reason.unwrap().contains("changed after its close"));
    assert!(m.pending().is_empty());
}

/// Whether a task sleeps in this function of the kernel.
fn waits_in(task: impl Display, function: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{task}/wchan")).is_ok_and(|place| place == function)
}

#[test]
fn the_suite_writes_in_every_way() {
    let fs = FaultFs::new();
    let m = fs.setup().mount();
    let calls = fs.calls(|| {
        let mut run = Run::new(&m, &fs, "c");
        for how in [How::Whole, How::Append, How::Patch, How::Late] {
            assert!(run.write("f", how), "{how:?}: {:?}", run.failed);
        }
    });
    for op in [Op::Create, Op::Write, Op::Fsync, Op::Rename, Op::Fsyncdir, Op::Link] {
        assert!(calls.iter().any(|call| call.op == op), "no {op:?} in {calls:#?}");
    }
    eventually("four commits", || m.commits().get("c/f") == Some(&4));
}
