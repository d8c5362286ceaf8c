//! Named crash points of the commit protocol, compiled in only with the `failpoints` feature.
//!
//! `COMMITFS_FAILPOINT=NAME[:N]` kills the process with SIGKILL at the N-th pass (default the first) of point NAME;
//! `NAME:N:stop` stops it with SIGSTOP instead, until it gets SIGCONT; `NAME:N:hold` holds only the thread that comes there,
//! until somebody has opened the FIFO `COMMITFS_HOLD` for writing and closed it again.
//! `docs/JOURNAL.md` lists the points next to the state each leaves behind.

/// Marks a step of the protocol; without the feature it compiles to nothing.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

/// Makes something durable by an expression; or pretends to, if `COMMITFS_SKIP_SYNC` names it: then a suite of power cuts
/// must find the damage. Without the feature it is the expression.
#[macro_export]
macro_rules! unless_skipped {
    ($what:literal, $sync:expr) => {{
        #[cfg(feature = "failpoints")]
        let synced = if $crate::failpoint::is_skipped($what) { Ok(()) } else { $sync };
        #[cfg(not(feature = "failpoints"))]
        let synced = $sync;
        synced
    }};
}

/// Whether `COMMITFS_SKIP_SYNC` names this.
#[cfg(feature = "failpoints")]
pub fn is_skipped(what: &str) -> bool {
    std::env::var("COMMITFS_SKIP_SYNC").is_ok_and(|skipped| skipped == what)
}

/// Whether the journal may lie on a file system that is refused otherwise: one that fails on purpose.
#[cfg(feature = "failpoints")]
pub fn anywhere() -> bool {
    std::env::var_os("COMMITFS_STATE_ANYWHERE").is_some()
}

/// Kills, stops or holds if point `name` is armed and its turn has come.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use signal_hook::consts::{SIGKILL, SIGSTOP};
    use signal_hook::low_level::raise;

    static ARMED: OnceLock<Option<(String, AtomicU64, Option<i32>)>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let spec = std::env::var("COMMITFS_FAILPOINT").ok()?;
        let mut words = spec.split(':');
        let name = words.next()?.to_owned();
        let nth = words.next().map_or(1, |nth| nth.parse().expect("COMMITFS_FAILPOINT=NAME:N"));
        let signal = match words.next() {
            Some("hold") => None,
            Some("stop") => Some(SIGSTOP),
            _ => Some(SIGKILL),
        };
        Some((name, AtomicU64::new(nth), signal))
    });
    if let Some((armed, left, signal)) = armed
        && armed == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        match signal {
            // To this thread, which takes it before it goes on; one to the process may be taken by another thread, later.
            Some(signal) => raise(*signal).expect("a signal to oneself"),
            None => {
                let fifo = std::env::var_os("COMMITFS_HOLD").expect("COMMITFS_HOLD=FIFO");
                std::fs::read(fifo).expect("a FIFO that is opened and closed");
            }
        }
    }
}

/// How long something waits that a test wants to come later than by default, or sooner: `variable` says so in milliseconds.
#[cfg(feature = "failpoints")]
pub fn pause(variable: &str, default: std::time::Duration) -> std::time::Duration {
    match std::env::var(variable) {
        Ok(text) => std::time::Duration::from_millis(text.parse().expect("milliseconds")),
        Err(_) => default,
    }
}

/// By default, always.
#[cfg(not(feature = "failpoints"))]
pub fn pause(_: &str, default: std::time::Duration) -> std::time::Duration {
    default
}
