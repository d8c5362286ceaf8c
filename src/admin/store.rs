//! The journal as HTTP reads it: one shared connection, opened when somebody asks and closed when nobody does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use parking_lot::Mutex;

use super::problem::{Answer, Problem};
use crate::journal::JournalError;
use crate::journal::read::Reader;

/// A connection that nobody has used for this long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// Reads on the runtime's blocking threads.
#[derive(Clone)]
pub(super) struct Store(Arc<Shared>);

struct Shared {
    state_dir: PathBuf,
    reader: Mutex<Option<(Reader, Instant)>>,
}

impl Store {
    pub(super) fn new(state_dir: PathBuf) -> Store {
        Store(Arc::new(Shared { state_dir, reader: Mutex::new(None) }))
    }

    /// Runs a query. An error closes the connection: the next request begins with a fresh one.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader) -> Result<T, JournalError> + Send + 'static,
    ) -> Answer<T> {
        let shared = Arc::clone(&self.0);
        let answered = blocking(move || {
            let mut slot = shared.reader.lock();
            let reader = match slot.take() {
                Some((reader, _)) => reader,
                None => Reader::open(&shared.state_dir)?,
            };
            let answer = query(&reader)?;
            *slot = Some((reader, Instant::now()));
            Ok::<T, JournalError>(answer)
        });
        Ok(answered.await??)
    }

    /// Closes the connection if nobody has needed it for a while.
    pub(super) fn close_if_idle(&self) {
        // Locked: in use.
        if let Some(mut slot) = self.0.reader.try_lock()
            && slot.as_ref().is_some_and(|(_, used)| used.elapsed() >= IDLE)
        {
            *slot = None;
        }
    }
}

/// Runs what may block off the thread that serves everybody.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a request's work ended badly");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the work of this request ended badly; see the log")
    })
}
