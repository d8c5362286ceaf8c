//! The HTTP server: a socket in the state folder for its owner, TCP on request. Runs on a thread of its own.
//!
//! Connections are bounded, so are a request's header and its time to arrive. At the end streams are told, requests under
//! way are answered, and what does not end by itself is cut off.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt as _;

use super::api;
use super::control::{self, Verbs};
use super::events::Hub;
use super::guard::Policy;
pub(crate) use super::guard::TOKEN_MIN;
pub use super::guard::Token;
use super::store::Store;
use crate::journal::feed::Feed;

/// Name of the socket in the state folder.
pub const SOCKET: &str = "http.sock";

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 4096;
/// Largest header of a request; also what a connection reads at once.
const HEADER: usize = 16 * 1024;
/// Time for a header to arrive, and for a connection to wait for its next request.
const HEADER_TIME: Duration = Duration::from_secs(60);
/// How long the end waits for answers under way.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Between two looks at what is idle or stuck.
const TICK: Duration = Duration::from_secs(5);

/// What to serve, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Serve TCP here too.
    pub listen: Option<SocketAddr>,
    /// What requests over TCP must show.
    pub token: Option<Token>,
    /// Host names besides `localhost` and plain addresses.
    pub hosts: Vec<String>,
}

/// Bound and not served yet: a mount that cannot have its address is refused before it is one.
#[derive(Debug)]
pub struct Listening {
    socket: PathBuf,
    unix: StdUnixListener,
    tcp: Option<StdTcpListener>,
    options: Options,
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct HttpServer {
    socket: PathBuf,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// Over the socket: by its owner.
    Unix,
    /// By anybody who can reach the address.
    Tcp,
}

/// Known to each request of a connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) via: Via,
    /// Cuts it off.
    pub(super) cut: Arc<Notify>,
}

/// Binds the socket, and the address if there is one. The caller has the state folder to itself.
pub fn bind(state_dir: &Path, options: Options) -> io::Result<Listening> {
    let unix = control::bind(state_dir, SOCKET)?;
    unix.set_nonblocking(true)?;
    let tcp = options.listen.map(StdTcpListener::bind).transpose()?;
    if let Some(tcp) = &tcp {
        tcp.set_nonblocking(true)?;
    }
    Ok(Listening { socket: state_dir.join(SOCKET), unix, tcp, options })
}

impl Listening {
    /// The address that TCP is served on, its port known.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Starts serving.
    pub fn serve(self, verbs: Arc<dyn Verbs>, feed: Arc<Feed>) -> io::Result<HttpServer> {
        let Listening { socket, unix, tcp, options } = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(2)
            .thread_keep_alive(Duration::from_secs(5))
            .thread_name("admin-read")
            .thread_stack_size(1 << 20)
            .build()?;
        let state_dir = socket.parent().map(Path::to_owned).unwrap_or_default();
        let (stop, stopped) = watch::channel(false);
        let policy = Policy { token: options.token, hosts: options.hosts };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let served = runtime.block_on(async {
                let store = Store::new(state_dir);
                let hub = Hub::start(feed, store.clone());
                let app = api::router(Arc::new(policy), verbs, store.clone(), Arc::clone(&hub));
                let unix = UnixListener::from_std(unix)?;
                let tcp = tcp.map(TcpListener::from_std).transpose()?;
                serve(unix, tcp, app, &store, &hub, stopped).await;
                Ok::<(), io::Error>(())
            });
            if let Err(error) = served {
                tracing::error!(%error, "HTTP is not served");
            }
            runtime.shutdown_timeout(LAST_ANSWERS);
        })?;
        Ok(HttpServer { socket, stop, thread: Some(thread) })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that serves HTTP has panicked");
        }
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::warn!(%error, socket = %self.socket.display(), "cannot remove the HTTP socket");
        }
    }
}

async fn serve(
    unix: UnixListener,
    tcp: Option<TcpListener>,
    app: Router,
    store: &Store,
    hub: &Hub,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (end, ended) = watch::channel(false);
    let mut tick = tokio::time::interval(TICK);
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let accepted = loop {
            tokio::select! {
                accepted = unix.accept() => break accepted.map(|(stream, _)| Stream::Unix(stream)),
                accepted = accept(tcp.as_ref()) => break accepted.map(Stream::Tcp),
                _ = stopped.wait_for(|stop| *stop) => break Err(io::ErrorKind::Interrupted.into()),
                _ = tick.tick() => {
                    store.close_if_idle();
                    hub.cut_off_the_stuck();
                }
            }
        };
        match accepted {
            Ok(Stream::Unix(stream)) => {
                tokio::spawn(converse(stream, Via::Unix, app.clone(), ended.clone(), place));
            }
            Ok(Stream::Tcp(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                tokio::spawn(converse(stream, Via::Tcp, app.clone(), ended.clone(), place));
            }
            Err(_) if *stopped.borrow() => break,
            Err(error) => {
                tracing::warn!(%error, "accepting an HTTP connection");
                // Out of descriptors, most likely: others will be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    hub.stop();
    end.send_replace(true);
    let all = places.acquire_many(CONNECTIONS as u32);
    if tokio::time::timeout(LAST_ANSWERS, all).await.is_err() {
        tracing::warn!("HTTP connections cut off at the end of the mount");
    }
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

/// Never, where there is no address.
async fn accept(tcp: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match tcp {
        Some(tcp) => tcp.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    via: Via,
    app: Router,
    mut ended: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let known = Connection { via, cut: Arc::new(Notify::new()) };
    let cut = Arc::clone(&known.cut);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(known.clone());
        app.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut ending = false;
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "HTTP connection");
                }
                return;
            }
            _ = ended.wait_for(|end| *end), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = cut.notified() => return,
        }
    }
}
