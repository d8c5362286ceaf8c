//! Threads for work that must not sit on a session thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use parking_lot::Mutex;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads on one queue. The queue has no bound of its own: each job stands for a request that the
/// kernel counts.
pub(super) struct Pool {
    queue: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts `count` threads.
    pub(super) fn start(name: &str, count: usize) -> std::io::Result<Self> {
        let (queue, jobs) = unbounded::<Job>();
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let jobs = jobs.clone();
            threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                for job in jobs {
                    // A reply dropped by the unwinding answers EIO; the thread is still good for other jobs.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a job has panicked");
                    }
                }
            })?);
        }
        Ok(Pool { queue: Mutex::new(Some(queue)), threads: Mutex::new(threads) })
    }

    /// Queues a job; after [`Pool::finish`] it runs at once, here.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let queue = self.queue.lock().clone();
        match queue {
            Some(queue) => {
                if let Err(returned) = queue.send(Box::new(job)) {
                    (returned.0)();
                }
            }
            None => job(),
        }
    }

    /// As [`Pool::run`], for a job that waits for what session threads answer: after the end it gets a thread of its own.
    pub(super) fn run_apart(&self, job: impl FnOnce() + Send + 'static) {
        let is_over = self.queue.lock().is_none();
        if !is_over {
            return self.run(job);
        }
        // Without a thread the job is dropped, which answers EIO.
        if let Err(error) = std::thread::Builder::new().name("late".to_owned()).spawn(job) {
            tracing::error!(%error, "no thread for a job at the end of the mount");
        }
    }

    /// Waits for every job that is queued, then ends the threads.
    pub(super) fn finish(&self) {
        *self.queue.lock() = None;
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread has panicked");
            }
        }
    }
}
