//! What is counted while the mount works: atomics that exist from the start, so that a hot path adds one and goes on.
//!
//! Names are those that `/metrics` shows. No label holds a path, a user or a process: their number is not bounded.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

/// Seconds, from a local disk's cache to an NFS server in trouble.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Entries of a transaction of the journal; 256 is the most there can be.
const ENTRIES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Everything that is counted.
struct Metrics {
    registry: Registry,
    commits: IntCounterVec,
    commit_bytes: IntCounter,
    quarantined: IntCounter,
    phases: [Histogram; PHASES.len()],
    proofs: IntCounterVec,
    requests: [IntCounter; OPS.len()],
    errors: IntCounterVec,
    batch_entries: Histogram,
    batch_seconds: Histogram,
    verified: IntCounterVec,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $all:ident: $($variant:ident = $word:literal),* $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum $name {
            $($variant),*
        }

        const $all: &[&str] = &[$($word),*];
    };
}

words! {
    /// A step of a commit.
    Phase, PHASES:
    Fsync = "fsync",
    Journal = "journal",
    Rename = "rename",
    FolderSync = "folder_sync",
    Total = "total",
}

words! {
    /// A request of the kernel.
    Op, OPS:
    Lookup = "lookup",
    Forget = "forget",
    Getattr = "getattr",
    Setattr = "setattr",
    Readlink = "readlink",
    Mknod = "mknod",
    Mkdir = "mkdir",
    Unlink = "unlink",
    Rmdir = "rmdir",
    Symlink = "symlink",
    Rename = "rename",
    Link = "link",
    Open = "open",
    Create = "create",
    Read = "read",
    Write = "write",
    Flush = "flush",
    Release = "release",
    Fsync = "fsync",
    Opendir = "opendir",
    Readdir = "readdir",
    Readdirplus = "readdirplus",
    Releasedir = "releasedir",
    Fsyncdir = "fsyncdir",
    Statfs = "statfs",
    Setxattr = "setxattr",
    Getxattr = "getxattr",
    Listxattr = "listxattr",
    Removexattr = "removexattr",
    Access = "access",
    Ioctl = "ioctl",
    Fallocate = "fallocate",
    Lseek = "lseek",
    CopyFileRange = "copy_file_range",
    Getlk = "getlk",
    Setlk = "setlk",
}

impl Op {
    /// The word in labels.
    pub fn word(self) -> &'static str {
        OPS[self as usize]
    }
}

impl Metrics {
    fn new() -> Metrics {
        let registry = Registry::new();
        let requests = counters(&registry, "commitfs_fuse_requests_total", "Requests of the kernel.", &["op"]);
        let phases = HistogramVec::new(
            HistogramOpts::new("commitfs_commit_duration_seconds", "Time of a commit, by step and in total.")
                .buckets(SECONDS.to_vec()),
            &["phase"],
        )
        .expect("a valid name");
        register(&registry, &phases);
        let metrics = Metrics {
            commits: counters(
                &registry,
                "commitfs_commits_total",
                "Versions published, by how they came to be.",
                &["kind"],
            ),
            commit_bytes: counter(&registry, "commitfs_committed_bytes_total", "Bytes of the versions published."),
            quarantined: counter(&registry, "commitfs_quarantines_total", "Drafts that went to quarantine."),
            phases: std::array::from_fn(|i| phases.with_label_values(&[PHASES[i]])),
            proofs: counters(
                &registry,
                "commitfs_close_proofs_total",
                "Closes of writers, by whether they were proven to be the last one.",
                &["outcome"],
            ),
            requests: std::array::from_fn(|i| requests.with_label_values(&[OPS[i]])),
            errors: counters(&registry, "commitfs_errors_total", "Requests answered with an error.", &["op", "errno"]),
            batch_entries: histogram(
                &registry,
                "commitfs_journal_batch_entries",
                "Entries written in one transaction of the journal.",
                ENTRIES,
            ),
            batch_seconds: histogram(
                &registry,
                "commitfs_journal_write_seconds",
                "Time of one transaction of the journal.",
                SECONDS,
            ),
            verified: counters(
                &registry,
                "commitfs_verified_total",
                "Versions read again and compared with the journal, by settle and by commitfs verify, by what was found.",
                &["outcome"],
            ),
            registry,
        };
        // Series that exist from the start can be told from those that stopped.
        for kind in ["new", "overwrite", "append", "truncate"] {
            metrics.commits.with_label_values(&[kind]);
        }
        for outcome in ["last_close", "still_open", "unknown", "not_asked"] {
            metrics.proofs.with_label_values(&[outcome]);
        }
        for outcome in ["same", "gone", "different", "unreadable"] {
            metrics.verified.with_label_values(&[outcome]);
        }
        metrics
    }
}

fn register(registry: &Registry, metric: &(impl Collector + Clone + 'static)) {
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(name, help).expect("a valid name");
    register(registry, &counter);
    counter
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name");
    register(registry, &counters);
    counters
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let histogram = Histogram::with_opts(options).expect("a valid name");
    register(registry, &histogram);
    histogram
}

/// Where everything is registered, for whoever shows it.
pub fn registry() -> &'static Registry {
    &METRICS.registry
}

/// The kernel asks for something.
pub fn request(op: Op) {
    METRICS.requests[op as usize].inc();
}

/// A request was answered with an error.
pub fn error(op: Op, errno: &str) {
    METRICS.errors.with_label_values(&[op.word(), errno]).inc();
}

/// A version was published.
pub fn commit(kind: &str, bytes: u64, total: Duration) {
    METRICS.commits.with_label_values(&[kind]).inc();
    METRICS.commit_bytes.inc_by(bytes);
    phase(Phase::Total, total);
}

/// A step of a commit took this long.
pub fn phase(phase: Phase, took: Duration) {
    METRICS.phases[phase as usize].observe(took.as_secs_f64());
}

/// A draft went to quarantine.
pub fn quarantine() {
    METRICS.quarantined.inc();
}

/// A writer's close was judged: `last_close`, `still_open`, `unknown`; `not_asked` by the rules.
pub fn close_proof(outcome: &str) {
    METRICS.proofs.with_label_values(&[outcome]).inc();
}

/// A transaction of the journal.
pub fn journal_batch(entries: usize, took: Duration) {
    METRICS.batch_entries.observe(entries as f64);
    METRICS.batch_seconds.observe(took.as_secs_f64());
}

/// Versions were compared with the journal: `same`, `gone`, `different`, `unreadable`.
pub fn verified(outcome: &str, versions: u64) {
    METRICS.verified.with_label_values(&[outcome]).inc_by(versions);
}
