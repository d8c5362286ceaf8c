//! The log: lines for people or JSON for collectors, on standard error, with a level that can change while it runs.
//!
//! Under systemd a line carries its priority the way `sd-daemon(3)` has it, and no time of its own.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;

use serde::Deserialize;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Which events are logged, in the syntax of `RUST_LOG`.
const FILTER: &str = "COMMITFS_LOG";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One object per line.
    Json,
}

impl LogFormat {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        }
    }
}

static FILTER_IN_FORCE: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sets the log of this process up. Only the first call counts.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
        LogFormat::Human if is_journald() => layer.with_ansi(false).event_format(ForJournald).boxed(),
        LogFormat::Human => layer.boxed(),
    };
    if tracing_subscriber::registry().with(filter).with(layer).try_init().is_ok() {
        drop(FILTER_IN_FORCE.set(handle));
    }
}

/// What is logged from now on: a level (`debug`) or directives in the syntax of `RUST_LOG`. Returns what is in force.
pub fn set_level(directives: &str) -> Result<String, String> {
    let handle = FILTER_IN_FORCE.get().ok_or("this process has no log of its own")?;
    let words_known = directives.split(',').all(|part| {
        let level = part.rsplit('=').next().unwrap_or_default().trim();
        matches!(level.to_ascii_lowercase().as_str(), "off" | "error" | "warn" | "info" | "debug" | "trace")
    });
    if !words_known {
        return Err(format!("{directives:?}: expected off, error, warn, info, debug or trace, or TARGET=LEVEL,…"));
    }
    let filter = EnvFilter::try_new(directives).map_err(|error| format!("{directives:?}: {error}"))?;
    let shown = filter.to_string();
    handle.reload(filter).map_err(|error| error.to_string())?;
    tracing::info!(level = shown, "log level changed");
    Ok(shown)
}

/// Standard error goes to the journal of systemd.
fn is_journald() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    stream.to_str() == Some(&format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A line with its priority in front, as `sd-daemon(3)` has it.
struct ForJournald;

/// The journal has the time.
struct NoTime;

impl FormatTime for NoTime {
    fn format_time(&self, _: &mut Writer<'_>) -> fmt::Result {
        Ok(())
    }
}

impl<S, N> FormatEvent<S, N> for ForJournald
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        let line: Format<Full, SystemTime> = Format::default();
        line.with_timer(NoTime).with_level(false).format_event(context, writer, event)
    }
}
