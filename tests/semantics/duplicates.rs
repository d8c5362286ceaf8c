//! One process with several numbers of a draft, of one open and of several: which close is the last.

use std::thread;

use rustix::process::Signal;

use crate::common::{Agent, Mount, eventually};

/// Two opens of a new name, the first one duplicated, and something written: what is to be closed.
fn three_numbers(w: &Agent, name: &str) -> [i32; 3] {
    let first = w.open(name, "w|creat").unwrap();
    let duplicate = w.dup(first).unwrap();
    let second = w.open(name, "w").unwrap();
    w.write(first, "whole").unwrap();
    [first, duplicate, second]
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn s33_the_last_close_of_several_opens_and_a_duplicate_is_seen_at_once() {
    let m = Mount::new();
    let (w, r) = m.pair();
    for order in ORDERS {
        let numbers = three_numbers(&w, "f");
        for (nth, at) in order.into_iter().enumerate() {
            if nth > 0 {
                r.sees_nothing("f");
            }
            w.close(numbers[at]).unwrap();
        }
        assert_eq!(r.cat("f").unwrap(), b"whole", "closed in the order {order:?}");
        r.unlink("f").unwrap();
    }
}

#[test]
fn s35_what_was_closed_by_several_numbers_is_published_although_the_process_is_killed_then() {
    let m = Mount::new();
    let r = m.agent("R");
    for order in ORDERS {
        let w = m.agent("W");
        let numbers = three_numbers(&w, "f");
        order.into_iter().for_each(|at| w.close(numbers[at]).unwrap());
        w.kill(Signal::KILL);
        eventually("what was closed is there", || r.cat("f").is_ok_and(|data| data == b"whole"));
        r.unlink("f").unwrap();
    }
}

#[test]
fn s35_what_one_of_several_numbers_still_writes_is_not_published_when_the_process_is_killed() {
    let m = Mount::new();
    for order in ORDERS {
        let w = m.agent("W");
        let numbers = three_numbers(&w, "f");
        order.into_iter().take(2).for_each(|at| w.close(numbers[at]).unwrap());
        w.kill(Signal::KILL);
        m.settled();
        assert_eq!(m.raw_content("f"), None, "closed in the order {order:?}");
    }
}

/// At each moment the process has the draft open, by one number or another.
#[test]
fn s29_a_descriptor_that_a_thread_moves_from_number_to_number_is_open() {
    let m = Mount::new();
    let (w, r) = m.pair();
    let mut numbers = vec![w.open("f", "w|creat").unwrap()];
    w.write(numbers[0], "part").unwrap();
    // So many that to look at them takes a while.
    for n in 0..120 {
        let path = m.home().join(format!("other-{n}"));
        numbers.push(w.open(path.to_str().unwrap(), "w|creat").unwrap());
    }
    let mover = w.thread("mover");
    let (low, high) = (numbers[1], numbers.last().unwrap() + 100);
    w.close(low).unwrap();
    thread::scope(|scope| {
        let moving = scope.spawn(move || {
            let mut at = numbers[0];
            for to in [low, high].into_iter().cycle().take(200) {
                mover.dup2(at, to).unwrap();
                mover.close(at).unwrap();
                at = to;
            }
            at
        });
        // A duplicate of the number that stays behind, if it is there at this moment.
        while !moving.is_finished() {
            for number in [low, high] {
                if let Ok(duplicate) = w.dup(number) {
                    w.close(duplicate).unwrap();
                }
            }
            r.sees_nothing("f");
        }
        let at = moving.join().unwrap();
        w.write(at, " and the rest").unwrap();
        w.close(at).unwrap();
    });
    assert_eq!(r.cat("f").unwrap(), b"part and the rest");
}

/// As a daemon begins: who was forked forks again and ends, while its table has not been looked at yet.
#[cfg(feature = "failpoints")]
#[test]
fn s30_who_is_forked_while_others_are_looked_at_is_not_overlooked() {
    let mut m = crate::common::Setup::default().unmounted();
    m.hold_at("heirs_listed", 1);
    m.remount();
    let (w, r) = m.pair();
    let fd = w.open("f", "w|creat").unwrap();
    w.write(fd, "part").unwrap();
    let child = w.fork("child");
    let grandchild = thread::scope(|scope| {
        let closing = scope.spawn(move || w.close(fd).unwrap());
        let held = m.held();
        let grandchild = child.fork("grandchild");
        child.exit(0);
        drop(held);
        closing.join().unwrap();
        grandchild
    });
    r.sees_nothing("f");
    grandchild.write(fd, " and the rest").unwrap();
    grandchild.close(fd).unwrap();
    m.settled();
    assert_eq!(r.cat("f").unwrap(), b"part and the rest");
}

/// Of two descriptors that a parent had closed long before, a child closes one after the other, and the release of the first
/// comes late.
#[cfg(feature = "failpoints")]
#[test]
fn s33_the_last_close_of_two_inherited_descriptors_is_taken_for_that() {
    let limit = std::time::Duration::from_secs(2);
    let mut m = crate::common::Setup::default().env("COMMITFS_RELEASED_MS", &limit.as_millis().to_string()).unmounted();
    m.hold_at("release_begins", 1);
    m.remount();
    let (w, r) = m.pair();
    let (first, second) = (w.open("f", "w|creat").unwrap(), w.open("f", "w").unwrap());
    let child = w.fork("child");
    w.close(first).unwrap();
    w.close(second).unwrap();
    let closed = std::time::Instant::now();
    eventually("the closes are long ago", || closed.elapsed() > limit);
    child.write(first, "whole").unwrap();
    child.close(first).unwrap();
    let held = m.held();
    child.close(second).unwrap();
    // Where nothing proves it to be the last, it is promised.
    let is_promised = || m.pending().iter().any(|row| row.path == "f" && row.state == "sealed");
    assert!(m.raw_content("f").is_some() || is_promised(), "taken for open");
    drop(held);
    m.settled();
    assert_eq!(r.cat("f").unwrap(), b"whole");
}
