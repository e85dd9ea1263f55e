//! gRPC between services and from commands: over a Unix socket or TCP, always with a service token.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::service::{Interceptor, InterceptorLayer, Routes};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::telemetry::{TRACEPARENT, current_traceparent, server_span};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TOKEN_FIELD: &str = "authorization";

/// A client's channel with the service token attached; cheap to clone, reconnects by itself.
pub type Client = InterceptedService<Channel, AttachToken>;

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A socket in the file system: `unix:/path`.
    Unix(PathBuf),
    /// HTTP/2 without TLS: `http://host:port`.
    Tcp(String),
}

/// The text names no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no server: expected unix:/path/to/socket or http://host:port")]
pub struct ParseServerError(String);

impl FromStr for Server {
    type Err = ParseServerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseServerError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let authority = text.strip_prefix("http://").ok_or_else(wrong)?;
        Endpoint::from_shared(text.to_owned()).map_err(|_| wrong())?;
        let port =
            authority.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        port.map(|_| Self::Tcp(text.to_owned())).ok_or_else(wrong)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(uri) => f.write_str(uri),
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
        source: std::io::Error,
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

/// A client of a server that need not be there yet: the connection is made with the first call and made again when it breaks.
pub fn connect(server: &Server, token: &Token) -> Client {
    let channel = match server {
        Server::Unix(path) => {
            let path = Arc::new(path.clone());
            // The URI is never looked up: the connector knows where to go.
            Endpoint::from_static("http://stagepost")
                .connect_timeout(CONNECT_TIMEOUT)
                .connect_with_connector_lazy(tower::service_fn(move |_| {
                    let path = Arc::clone(&path);
                    async move { UnixStream::connect(path.as_path()).await.map(TokioIo::new) }
                }))
        }
        Server::Tcp(uri) => Endpoint::from_shared(uri.clone())
            .unwrap_or_else(|_| Endpoint::from_static("http://invalid.invalid"))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy(),
    };
    InterceptedService::new(channel, AttachToken(token.field()))
}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// In the file system; the socket is removed when the listener is dropped.
    Unix(UnixListener, SocketFile),
    /// TCP.
    Tcp(TcpListener),
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
    pub async fn bind_unix(path: &Path) -> std::io::Result<Self> {
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
            server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_socket_or_an_address_with_a_port() {
        for text in ["unix:/run/stagepost.sock", "http://accounts:8081", "http://[::1]:8081"] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), text);
        }
        for text in ["", "unix:", "accounts:8081", "http://accounts", "https://accounts:8081", "http://a b:1"]
        {
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
