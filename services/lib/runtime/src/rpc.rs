//! gRPC between services and from commands: over a Unix socket, TCP or TLS, always with a service token.

mod spread;
mod transport;

pub use transport::Transport;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::Uri;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::service::{Interceptor, InterceptorLayer, Routes};
use tonic::{Request, Status};

use crate::telemetry::{TRACEPARENT, current_traceparent, server_span};
use crate::tls::{ClientTls, ServerTls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const ACCEPTED_MAX: usize = 64;
const TOKEN_FIELD: &str = "authorization";

/// A client's channel with the service token attached; cheap to clone, reconnects by itself.
pub type Client = InterceptedService<Transport, AttachToken>;

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A socket in the file system: `unix:/path`.
    Unix(PathBuf),
    /// HTTP/2 without TLS: `http://host:port`.
    Tcp(String),
    /// HTTP/2 over TLS: `https://host:port`.
    Tls(String),
}

/// The text names no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no server: expected unix:/path/to/socket, http://host:port or https://host:port")]
pub struct ParseServerError(String);

impl FromStr for Server {
    type Err = ParseServerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseServerError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let whole = uri.port_u16().is_some() && uri.host().is_some_and(|host| !host.is_empty());
        let bare = uri.path().trim_end_matches('/').is_empty() && uri.query().is_none();
        match uri.scheme_str() {
            Some("http") if whole && bare => Ok(Self::Tcp(text.to_owned())),
            Some("https") if whole && bare => Ok(Self::Tls(text.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(uri) | Self::Tls(uri) => f.write_str(uri),
        }
    }
}

/// The secret that services and commands show each other.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The token's file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It can't be read or made.
    #[error("can't {attempt} the service token {path}: {source}")]
    File {
        /// `read` or `make`.
        attempt: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds nothing, or what can't travel in a header field.
    #[error("the service token {path} must be one line of 16 or more visible ASCII characters")]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

impl Token {
    /// The token in a file; white space around it doesn't count.
    ///
    /// # Errors
    /// When the file can't be read or holds no token.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let file = |source| TokenError::File { attempt: "read", path: path.into(), source };
        let mut text = String::new();
        File::open(path).map_err(file)?.read_to_string(&mut text).map_err(file)?;
        let token = text.trim();
        if token.len() < 16 || !token.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(TokenError::Malformed { path: path.into() });
        }
        Ok(Self(token.into()))
    }

    /// The token in a file, which is made with a new one, readable by its owner only, when it isn't there.
    ///
    /// # Errors
    /// As [`Token::load`], or when it can't be made.
    pub fn load_or_make(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::File { attempt: "make", path: path.into(), source };
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match made {
            Ok(mut file) => {
                let token: String =
                    crate::random::<20>().iter().map(|octet| format!("{octet:02x}")).collect();
                file.write_all(token.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Ok(Self(token.into()))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(failed(error)),
        }
    }

    fn field(&self) -> MetadataValue<Ascii> {
        let text = format!("Bearer {}", self.0);
        MetadataValue::try_from(text).unwrap_or_else(|_| MetadataValue::from_static(""))
    }
}

/// Adds the token and the current span's context to each call.
#[derive(Clone, Debug)]
pub struct AttachToken(MetadataValue<Ascii>);

impl Interceptor for AttachToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(TOKEN_FIELD, self.0.clone());
        if let Some(traceparent) = current_traceparent().and_then(|text| text.parse().ok()) {
            request.metadata_mut().insert(TRACEPARENT, traceparent);
        }
        Ok(request)
    }
}

/// A client of a server that need not be there yet: connections are made and made again by themselves. A name with several
/// addresses is a server with several replicas: calls are spread over those that are there. With `https`, the authorities are
/// trusted that the web trusts. To be called inside a runtime.
pub fn connect(server: &Server, token: &Token) -> Client {
    let tls = ClientTls::load(None, None).map_err(|error| error.to_string());
    InterceptedService::new(Transport::new(server, tls), AttachToken(token.field()))
}

/// The same, with authorities and a certificate of our own for `https`.
pub fn connect_tls(server: &Server, token: &Token, tls: &ClientTls) -> Client {
    InterceptedService::new(Transport::new(server, Ok(tls.clone())), AttachToken(token.field()))
}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// In the file system; the socket is removed when the listener is dropped.
    Unix(UnixListener, SocketFile),
    /// TCP.
    Tcp(TcpListener),
    /// TCP with TLS.
    Tls(TcpListener, ServerTls),
}

/// Removes a socket's file when dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds a Unix socket for its owner only. A file left by a process that is gone is replaced; one that answers is not.
    ///
    /// # Errors
    /// `AddrInUse` when another process serves it, else what the system says.
    pub async fn bind_unix(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(ErrorKind::AddrInUse.into());
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::Unix(listener, SocketFile(path.into())))
    }

    /// Binds a TCP address.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind_tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// With TLS, where it is TCP: a socket in the file system needs none.
    #[must_use]
    pub fn with_tls(self, tls: ServerTls) -> Self {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => Self::Tls(listener, tls),
            Self::Unix(..) => self,
        }
    }

    /// The address of a TCP listener.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

/// Serves `routes` to callers that show the token, until `shutdown`; calls in progress are finished. A call goes on with its
/// caller's trace.
///
/// # Errors
/// When the transport fails.
pub async fn serve(
    listener: Listener,
    routes: Routes,
    token: &Token,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let wanted = token.field();
    let check = move |request: Request<()>| -> Result<Request<()>, Status> {
        let shown = request.metadata().get(TOKEN_FIELD).map_or(&[][..], |value| value.as_bytes());
        match verify_slices_are_equal(shown, wanted.as_bytes()) {
            Ok(()) => Ok(request),
            Err(_) => Err(Status::unauthenticated("the service token is missing or wrong; see --token-file")),
        }
    };
    let server = tonic::transport::Server::builder()
        .trace_fn(|request| {
            let traceparent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
            server_span(request.uri().path(), traceparent)
        })
        .layer(InterceptorLayer::new(check))
        .add_routes(routes);
    let ended = shutdown.cancelled_owned();
    match listener {
        Listener::Unix(listener, _file) => {
            server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), ended).await
        }
        Listener::Tcp(listener) => {
            let incoming = TcpListenerStream::new(listener).map(without_delay);
            server.serve_with_incoming_shutdown(incoming, ended).await
        }
        Listener::Tls(listener, tls) => {
            let mut tasks = JoinSet::new();
            tasks.spawn(tls.clone().watch(CancellationToken::new()));
            let (sender, incoming) = mpsc::channel(ACCEPTED_MAX);
            tasks.spawn(accept_tls(listener, tls, sender));
            server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), ended).await
        }
    }
}

/// Answers are small and wanted at once.
fn without_delay(accepted: io::Result<TcpStream>) -> io::Result<TcpStream> {
    let stream = accepted?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Hands on connections whose handshake is done, several at a time so that a slow one holds up nobody.
async fn accept_tls(
    listener: TcpListener,
    tls: ServerTls,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let stream = match listener.accept().await.and_then(|(stream, _)| without_delay(Ok(stream))) {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: it passes.
                tracing::warn!(%error, "can't accept a connection of a service");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, ready) = (tls.acceptor(), ready.clone());
        handshakes.spawn(async move {
            match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake of a service failed"),
                Err(_) => tracing::debug!("a TLS handshake of a service took too long"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_socket_or_an_address_with_a_port() {
        for text in ["unix:/run/stagepost.sock", "http://accounts:8081", "http://[::1]:8081", "https://a:1"] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "unix:",
            "accounts:8081",
            "http://accounts",
            "ftp://accounts:8081",
            "http://a b:1",
            "http://a:1/x",
        ] {
            assert!(text.parse::<Server>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let made = Token::load_or_make(&path).unwrap();
        assert_eq!(Token::load_or_make(&path).unwrap().0, made.0);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(Token::load(&path), Err(TokenError::Malformed { .. })));
        assert!(!format!("{made:?}").contains(&*made.0));
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_not_taken_over_and_a_dead_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::bind_unix(&path).await.unwrap();
        assert_eq!(Listener::bind_unix(&path).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
    }
}
