//! The log: lines for people or JSON for collectors, on standard error, with a level that can change while it runs.
//!
//! Under systemd a line carries its priority the way `sd-daemon(3)` has it, and no time of its own.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;

use serde::Deserialize;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
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
    let asked = EnvFilter::try_from_env(FILTER);
    let wrong = asked.as_ref().err().filter(|_| std::env::var_os(FILTER).is_some()).map(ToString::to_string);
    let (filter, handle) = reload::Layer::new(asked.unwrap_or_else(|_| EnvFilter::new("info")));
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
        LogFormat::Human if is_journald() => layer.with_ansi(false).event_format(ForJournald).boxed(),
        LogFormat::Human => layer.boxed(),
    };
    if tracing_subscriber::registry().with(filter).with(MootReplies).with(layer).try_init().is_ok() {
        drop(FILTER_IN_FORCE.set(handle));
        if let Some(error) = wrong {
            tracing::warn!(error, "{FILTER} is not understood, and ignored");
        }
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

/// Keeps back, unless somebody looks closely (`debug`), what the FUSE library calls an error although nothing is wrong: an
/// answer that nobody waits for any more, because its process was killed with the request on its way.
struct MootReplies;

impl<S: Subscriber> Layer<S> for MootReplies {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() != Level::ERROR || LevelFilter::current() >= LevelFilter::DEBUG {
            return true;
        }
        let mut words = Words::default();
        event.record(&mut words);
        !words.is_moot()
    }
}

/// What a library says by way of the `log` crate.
#[derive(Default)]
struct Words {
    target: String,
    message: String,
}

impl Words {
    /// `ENOENT` is the kernel's word for a request that it has given up.
    fn is_moot(&self) -> bool {
        self.target == "fuser::reply"
            && self.message.starts_with("Failed to send FUSE reply: ")
            && self.message.ends_with("(os error 2)")
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            value.clone_into(&mut self.target);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

/// A line with its priority in front, as `sd-daemon(3)` has it.
struct ForJournald;

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
        // The journal has the time.
        Format::default().without_time().with_level(false).format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Counts what comes through.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Heard {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut words = Words::default();
            event.record(&mut words);
            self.0.lock().unwrap().push(words.message);
        }
    }

    #[test]
    fn of_answers_that_could_not_be_sent_only_those_that_somebody_waited_for_are_errors() {
        let heard = Heard::default();
        let log = tracing_subscriber::registry().with(EnvFilter::new("info")).with(MootReplies).with(heard.clone());
        let reply = |errno: i32| format!("Failed to send FUSE reply: {}", Error::from_raw_os_error(errno));
        tracing::subscriber::with_default(log, || {
            tracing::error!(log.target = "fuser::reply", "{}", reply(2));
            tracing::error!(log.target = "fuser::reply", "{}", reply(22));
            tracing::error!(log.target = "fuser::session", "{}", reply(2));
            tracing::error!("cannot do it: {}", Error::from_raw_os_error(2));
        });
        let (moot, heard) = (reply(2), heard.0.lock().unwrap());
        assert_eq!(heard.len(), 3, "{heard:?}");
        assert!(heard[0] == reply(22) && heard[1] == moot, "{heard:?}");
    }
}
