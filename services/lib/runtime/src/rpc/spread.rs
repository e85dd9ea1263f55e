//! Calls spread over all addresses of a name, as a headless service of Kubernetes has them.
//!
//! ```text
//! name --resolved every few seconds--> addresses --a connection each--> links that live --in turn--> calls
//! ```
//!
//! A call goes only to a connection that stands. One that breaks is left at once, and a call that the peer surely didn't take
//! goes to the next; another fails, since it may have been carried out. So that it can be sent again, a request is read whole
//! first: it is one message, no stream.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::body::Body;

use super::CONNECT_TIMEOUT;
use crate::tls::ClientTls;

const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// While nobody is there.
const RESOLVE_SOON: Duration = Duration::from_millis(500);
const DIAL_PAUSE: Duration = Duration::from_millis(100);
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(2);
/// A peer that vanished without a word is noticed by these.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Connections to all addresses of a name. Cheap to clone; they end with the last clone.
#[derive(Clone)]
pub(super) struct Spread {
    shared: Arc<Shared>,
    _ends: Arc<DropGuard>,
}

struct Shared {
    target: Target,
    /// Connections that stand.
    links: watch::Sender<Vec<Link>>,
    turn: AtomicUsize,
    /// Why there is none, for whoever waits in vain.
    trouble: Mutex<String>,
}

#[derive(Clone)]
struct Link {
    address: SocketAddr,
    sender: SendRequest<Body>,
}

/// Who is called, and how.
struct Target {
    /// Scheme and authority.
    uri: Uri,
    host: String,
    port: u16,
    /// What TLS is spoken with, or why it can't be.
    tls: Option<Result<ClientTls, String>>,
}

impl Target {
    fn new(text: &str, tls: Option<Result<ClientTls, String>>) -> Self {
        // A `Server` was parsed before; what is no URI has no host, and is said to be unreachable.
        let uri: Uri = text.parse().unwrap_or_default();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        Self { host, port: uri.port_u16().unwrap_or_default(), uri, tls }
    }
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spread({})", self.shared.target.uri)
    }
}

impl Spread {
    /// Begins to resolve and connect, on the runtime that it is called in.
    pub(super) fn new(uri: &str, tls: Option<Result<ClientTls, String>>) -> Self {
        let target = Target::new(uri, tls);
        let (host, port) = (target.host.clone(), target.port);
        let resolve = move || {
            let host = host.clone();
            async move { Ok(lookup_host((host, port)).await?.collect()) }
        };
        Self::resolving(target, resolve)
    }

    fn resolving<F>(target: Target, resolve: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<HashSet<SocketAddr>>> + Send + 'static,
    {
        let trouble = Mutex::new(String::from("it isn't connected to yet"));
        let links = watch::Sender::default();
        let shared = Arc::new(Shared { target, links, turn: AtomicUsize::new(0), trouble });
        let ended = CancellationToken::new();
        let work = ended.clone().run_until_cancelled_owned(keep(Arc::clone(&shared), resolve));
        tokio::spawn(work);
        Self { shared, _ends: Arc::new(ended.drop_guard()) }
    }

    /// Calls one of those that are there; waits a moment when nobody is.
    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (head, body) = self.shared.addressed(request)?.into_parts();
        let body = body.collect().await?.to_bytes();
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        loop {
            let mut link = self.shared.pick(deadline).await?;
            let request = Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
            match link.sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(Body::new)),
                Err(mut error) => {
                    let untaken = error.take_message().is_some() || is_refused(error.error());
                    if !untaken || Instant::now() >= deadline {
                        return Err(broken(link.address, error.into_error()));
                    }
                    self.shared.leave(link.address);
                }
            }
        }
    }
}

/// Whether the peer says that it took no notice of the request: it was ending (RFC 9113, section 6.8), or refused (8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let reason = cause.reason();
        let ending = cause.is_go_away() && reason == Some(h2::Reason::NO_ERROR);
        cause.is_remote() && (ending || reason == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// A call that may have arrived.
fn broken(address: SocketAddr, error: hyper::Error) -> Status {
    let text = format!("the call to {address} broke: {error}");
    let status = Status::from_error(Box::new(error));
    match status.code() {
        tonic::Code::Unknown => Status::unavailable(text),
        _ => status,
    }
}

impl Shared {
    /// With the scheme and authority that HTTP/2 wants.
    fn addressed(&self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let (mut head, body) = request.into_parts();
        let mut uri = self.target.uri.clone().into_parts();
        uri.path_and_query = head.uri.path_and_query().cloned();
        head.uri = Uri::from_parts(uri).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Request::from_parts(head, body))
    }

    async fn pick(&self, deadline: Instant) -> Result<Link, Status> {
        let mut links = self.links.subscribe();
        let found = timeout_at(deadline, links.wait_for(|links| !links.is_empty())).await;
        let Ok(Ok(links)) = found else {
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Err(Status::unavailable(format!("{} can't be reached: {trouble}", self.target.uri)));
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % links.len();
        Ok(links[turn].clone())
    }

    fn join(&self, link: Link) {
        self.links.send_modify(|links| links.push(link));
    }

    fn leave(&self, address: SocketAddr) {
        self.links.send_if_modified(|links| {
            let before = links.len();
            links.retain(|link| link.address != address);
            links.len() != before
        });
    }

    fn note(&self, trouble: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Keeps a connection to each address that the name has.
async fn keep<F>(shared: Arc<Shared>, resolve: impl Fn() -> F + Send)
where
    F: Future<Output = io::Result<HashSet<SocketAddr>>> + Send,
{
    let mut members = Members(HashMap::new());
    loop {
        match resolve().await {
            Ok(found) => {
                members.0.retain(|address, task| {
                    let stays = found.contains(address);
                    if !stays {
                        task.abort();
                        shared.leave(*address);
                    }
                    stays
                });
                for address in found {
                    let begin = || tokio::spawn(stay_connected(Arc::clone(&shared), address)).abort_handle();
                    members.0.entry(address).or_insert_with(begin);
                }
            }
            // The addresses that are known stay: the name server may be what is missing.
            Err(error) => shared.note(format!("{} can't be resolved: {error}", shared.target.host)),
        }
        let pause = if shared.links.borrow().is_empty() { RESOLVE_SOON } else { RESOLVE_EVERY };
        sleep(pause).await;
    }
}

/// The tasks of addresses; dropped, they end.
struct Members(HashMap<SocketAddr, AbortHandle>);

impl Drop for Members {
    fn drop(&mut self) {
        self.0.values().for_each(AbortHandle::abort);
    }
}

async fn stay_connected(shared: Arc<Shared>, address: SocketAddr) {
    let mut pause = DIAL_PAUSE;
    loop {
        let dialled = timeout(CONNECT_TIMEOUT, dial(&shared.target, address)).await;
        match dialled.unwrap_or_else(|_| Err(String::from("no answer in time"))) {
            Ok((sender, connection)) => {
                pause = DIAL_PAUSE;
                shared.join(Link { address, sender });
                // It ends when the peer goes, or when nobody sends any more.
                let ended = connection.await;
                shared.leave(address);
                let cause = ended.unwrap_or_else(|error| error.to_string());
                tracing::debug!(%address, cause, "a connection between services ended");
                shared.note(format!("{address}: {cause}"));
            }
            Err(cause) => {
                shared.note(format!("{address}: {cause}"));
                pause = (pause * 2).min(DIAL_PAUSE_MAX);
            }
        }
        sleep(pause).await;
    }
}

/// How a connection ended.
type Connection = JoinHandle<String>;

async fn dial(target: &Target, address: SocketAddr) -> Result<(SendRequest<Body>, Connection), String> {
    let failed = |error: io::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    match &target.tls {
        None => handshake(stream).await,
        Some(tls) => {
            let tls = tls.as_ref().map_err(Clone::clone)?;
            let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
            handshake(tls.connector().connect(name, stream).await.map_err(failed)?).await
        }
    }
}

async fn handshake<S>(stream: S) -> Result<(SendRequest<Body>, Connection), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_WITHIN)
        .keep_alive_while_idle(true);
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // On its own, so that calls under way end well when the address goes away.
    let connection = tokio::spawn(async move {
        let ended = connection.await;
        ended.map_or_else(|error| error.to_string(), |()| String::from("the connection was closed"))
    });
    Ok((sender, connection))
}

#[cfg(test)]
mod tests;
