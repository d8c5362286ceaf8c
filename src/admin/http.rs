//! The HTTP server: a socket in the state folder for its owner, TCP on request. Runs on a thread of its own.
//!
//! Connections are bounded, so are a request's header and its time to arrive. The socket has places of its own: whoever
//! fills those of the address, for which no token is needed to look, does not keep the owner out. At the end streams are
//! told, requests under way are answered, and what does not end by itself is cut off.

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
use super::events::{Hub, STUCK};
use super::guard::Policy;
pub(crate) use super::guard::TOKEN_MIN;
pub use super::guard::Token;
use super::store::Store;
use crate::journal::feed::Feed;

/// Name of the socket in the state folder.
pub const SOCKET: &str = "http.sock";

/// Connections at once, each way; more wait to be accepted.
const CONNECTIONS: usize = 4096;
/// Largest header of a request; also what a connection reads at once.
const HEADER: usize = 16 * 1024;
/// Time for a header to arrive, and for a connection to wait for its next request.
const HEADER_TIME: Duration = Duration::from_secs(60);
/// How long the end waits for answers under way.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// How long who asks over TCP may take nothing of an answer, or be out of reach, until the connection is cut off.
const UNREAD: Duration = Duration::from_secs(60);
/// Between two looks at what is idle or stuck.
const TICK: Duration = Duration::from_secs(5);

/// What to serve, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Serve TCP here too.
    pub listen: Option<SocketAddr>,
    /// What requests over TCP must show; without one they may only look.
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
    connections: usize,
    unread: Duration,
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
    let socket = state_dir.join(SOCKET);
    Ok(Listening { socket, unix, tcp, options, connections: CONNECTIONS, unread: UNREAD })
}

impl Listening {
    /// The address that TCP is served on, its port known.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Starts serving.
    pub fn serve(self, verbs: Arc<dyn Verbs>, feed: Arc<Feed>) -> io::Result<HttpServer> {
        let Listening { socket, unix, tcp, options, connections, unread } = self;
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
                let unix = Door::new(Listener::Unix(UnixListener::from_std(unix)?), connections);
                let tcp = tcp.map(TcpListener::from_std).transpose()?;
                let tcp = tcp.map(|tcp| Door::new(Listener::Tcp(tcp, unread), connections));
                serve(&unix, tcp.as_ref(), app, &store, &hub, stopped).await;
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
    unix: &Door,
    tcp: Option<&Door>,
    app: Router,
    store: &Store,
    hub: &Hub,
    mut stopped: watch::Receiver<bool>,
) {
    let (end, ended) = watch::channel(false);
    let tidy = async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            store.close_if_idle();
            hub.cut_off_the_stuck(STUCK);
        }
    };
    let beyond = async {
        match tcp {
            Some(tcp) => tcp.admit(&app, &ended).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = unix.admit(&app, &ended) => {}
        () = beyond => {}
        () = tidy => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    hub.stop();
    end.send_replace(true);
    let empty = async {
        unix.empty().await;
        if let Some(tcp) = tcp {
            tcp.empty().await;
        }
    };
    if tokio::time::timeout(LAST_ANSWERS, empty).await.is_err() {
        tracing::warn!("HTTP connections cut off at the end of the mount");
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, Duration),
}

/// A way in, with its places.
struct Door {
    listener: Listener,
    places: Arc<Semaphore>,
    connections: usize,
}

impl Door {
    fn new(listener: Listener, connections: usize) -> Door {
        Door { listener, places: Arc::new(Semaphore::new(connections)), connections }
    }

    /// Takes connections in until it is dropped.
    async fn admit(&self, app: &Router, ended: &watch::Receiver<bool>) {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            if let Err(error) = self.accept(app, ended, place).await {
                tracing::warn!(%error, "accepting an HTTP connection");
                // Out of descriptors, most likely: others will be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn accept(&self, app: &Router, ended: &watch::Receiver<bool>, place: OwnedSemaphorePermit) -> io::Result<()> {
        match &self.listener {
            Listener::Unix(unix) => {
                let (stream, _) = unix.accept().await?;
                tokio::spawn(converse(stream, Via::Unix, app.clone(), ended.clone(), place));
            }
            Listener::Tcp(tcp, unread) => {
                let (stream, _) = tcp.accept().await?;
                // Also of a peer that acknowledges, and leaves no room to send.
                let most = u32::try_from(unread.as_millis()).unwrap_or(u32::MAX);
                if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, most) {
                    tracing::debug!(%error, "TCP_USER_TIMEOUT");
                }
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                tokio::spawn(converse(stream, Via::Tcp, app.clone(), ended.clone(), place));
            }
        }
        Ok(())
    }

    /// Returns when everybody has left.
    async fn empty(&self) {
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        drop(self.places.acquire_many(all).await);
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::admin::control::tests::Stub;

    /// Asks, and reads a part of the answer; the connection stays.
    fn asked<S: io::Read + io::Write>(mut stream: S) -> S {
        stream.write_all(b"GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, *b"HTTP/1.1 200 OK");
        stream
    }

    #[test]
    fn who_fills_the_address_does_not_keep_the_owner_out() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { listen: Some(([127, 0, 0, 1], 0).into()), ..Options::default() };
        let mut listening = bind(dir.path(), options).unwrap();
        listening.connections = 2;
        let address = listening.address().unwrap();
        let server = listening.serve(Arc::new(Stub::default()), Feed::with_capacity(0, 3)).unwrap();
        let crowd: Vec<TcpStream> = (0..2).map(|_| asked(TcpStream::connect(address).unwrap())).collect();
        let owner = UnixStream::connect(dir.path().join(SOCKET)).unwrap();
        owner.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        asked(owner);
        drop(crowd);
        drop(server);
    }

    #[test]
    fn who_reads_nothing_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { listen: Some(([127, 0, 0, 1], 0).into()), ..Options::default() };
        let mut listening = bind(dir.path(), options).unwrap();
        (listening.connections, listening.unread) = (1, Duration::from_secs(1));
        let address = listening.address().unwrap();
        let server = listening.serve(Arc::new(Stub::default()), Feed::with_capacity(0, 3)).unwrap();
        let mut deaf = asked(TcpStream::connect(address).unwrap());
        // More answers than the buffers between take.
        deaf.set_nonblocking(true).unwrap();
        let mut requests = 0;
        while requests < 2000 && deaf.write_all(b"GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n").is_ok() {
            requests += 1;
        }
        let next = TcpStream::connect(address).unwrap();
        next.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        asked(next);
        drop((deaf, server));
    }
}
