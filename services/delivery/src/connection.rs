//! A connection to a recipient's server: the shell around [`smtp::client`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use runtime::metrics::Lasting;
use runtime::telemetry::SpanMark;
use rustls::pki_types::ServerName;
use smtp::client::{Capabilities, Progress, ProtocolError, Session, Stage};
use smtp::reply::{Reply, ReplyReader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::Span;

use crate::approach::Means;
use crate::config::Timeouts;
use crate::stream::Stream;

const READ_OCTETS: usize = 2048;
/// A buffer that a large message has grown is given back.
const KEPT_OCTETS_MAX: usize = 128 * 1024;
const GOODBYE: Duration = Duration::from_secs(3);

/// The conversation came to an end that isn't its own. Nothing that hangs on it is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server gave no answer to {stage} within {} s", limit.as_secs())]
    Silent { stage: Stage, limit: Duration },
    #[error("the server took no more octets for {} s", .0.as_secs())]
    Stuck(Duration),
    #[error("the server broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("the server sent octets that nobody asked for")]
    Unasked,
}

/// How opening ended when it brought no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("no connection: {0}")]
    Unreachable(io::Error),
    #[error("no connection within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The server doesn't want us.
    #[error("refused: {0}")]
    Refused(Reply),
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

/// An open connection.
pub(crate) struct Connection {
    stream: Stream,
    reader: ReplyReader,
    input: BytesMut,
    pub(crate) out: Vec<u8>,
    session: Session,
    pub(crate) host: Arc<str>,
    pub(crate) address: SocketAddr,
    /// The span in which it was opened.
    pub(crate) opened: Option<SpanMark>,
    pub(crate) tls: Option<Arc<str>>,
    /// Our address.
    pub(crate) source: Option<IpAddr>,
    /// Messages that were tried on it.
    pub(crate) served: u32,
    /// RSET must come before the next message.
    pub(crate) needs_reset: bool,
    _counted: Lasting,
}

impl Connection {
    /// Connects, and talks until capabilities are known; nothing is encrypted yet.
    pub(crate) async fn open(
        address: SocketAddr,
        host: Arc<str>,
        means: Means<'_>,
    ) -> Result<Self, OpenError> {
        let timeouts = means.timeouts;
        let stream = match timeout(timeouts.connect, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(OpenError::Unreachable)?,
            Err(_) => return Err(OpenError::NoAnswer(timeouts.connect)),
        };
        // Commands leave in groups of our making; waiting for more would only cost time.
        stream.set_nodelay(true).map_err(OpenError::Unreachable)?;
        let source = stream.local_addr().ok().map(|address| address.ip());
        let mut connection = Self {
            stream: Stream::Clear(stream),
            reader: ReplyReader::new(),
            input: BytesMut::new(),
            out: Vec::new(),
            session: Session::new(means.name.clone()),
            host,
            address,
            opened: SpanMark::of(&Span::current()),
            tls: None,
            source,
            served: 0,
            needs_reset: false,
            _counted: means.metrics.connection(),
        };
        let greeting = connection.reply(Stage::Greeting, timeouts.greeting).await?;
        connection.session.take(greeting).map_err(Broken::Protocol)?;
        connection.converse(Stage::Hello, timeouts.command).await?;
        Ok(connection)
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        self.session.capabilities()
    }

    /// STARTTLS, the handshake, EHLO anew. The refusal of STARTTLS, if it was refused: then the connection goes on in the
    /// clear.
    pub(crate) async fn start_tls(
        mut self,
        connector: &TlsConnector,
        timeouts: &Timeouts,
    ) -> Result<(Self, Option<Reply>), OpenError> {
        self.session.start_tls();
        if self.converse(Stage::StartTls, timeouts.command).await? != Progress::StartTls {
            let refusal = self.session.starttls_refusal().cloned();
            return Ok((self, refusal));
        }
        // What follows the reply came in the clear and could pretend to have come under TLS (RFC 3207 section 4).
        if !self.input.is_empty() || !self.reader.is_between_replies() {
            return Err(Broken::Unasked.into());
        }
        let Stream::Clear(clear) = self.stream else { return Ok((self, None)) };
        let name = ServerName::try_from(self.host.to_string())
            .map_err(|error| OpenError::Handshake(error.to_string()))?;
        let stream = match timeout(timeouts.tls, connector.connect(name, clear)).await {
            Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
            Ok(Err(error)) => return Err(OpenError::Handshake(error.to_string())),
            Err(_) => {
                return Err(OpenError::Handshake(format!("no end within {} s", timeouts.tls.as_secs())));
            }
        };
        let mut connection = Self { tls: stream.tls().map(Into::into), stream, ..self };
        connection.session.after_tls();
        connection.converse(Stage::Hello, timeouts.command).await?;
        Ok((connection, None))
    }

    /// Forgets what a refused transaction left behind.
    pub(crate) async fn reset(&mut self, timeouts: &Timeouts) -> Result<(), OpenError> {
        self.session.reset();
        self.converse(Stage::Reset, timeouts.command).await?;
        self.needs_reset = false;
        Ok(())
    }

    /// Runs the session until it wants something else than a reply.
    async fn converse(&mut self, stage: Stage, limit: Duration) -> Result<Progress, OpenError> {
        loop {
            match self.session.next(&mut self.out) {
                Progress::Reply => {
                    let reply = self.reply(stage, limit).await?;
                    self.session.take(reply).map_err(Broken::Protocol)?;
                }
                Progress::Refused(reply) => return Err(OpenError::Refused(reply)),
                Progress::Closed => return Err(Broken::Closed.into()),
                progress => return Ok(progress),
            }
        }
    }

    /// Whether the server sent something that belongs to no command of ours.
    pub(crate) fn has_unasked_input(&self) -> bool {
        !self.input.is_empty() || !self.reader.is_between_replies()
    }

    /// Writes what is in `out`, then reads a reply to `stage`.
    pub(crate) async fn reply(&mut self, stage: Stage, limit: Duration) -> Result<Reply, Broken> {
        if !self.out.is_empty() {
            self.write(limit).await?;
        }
        loop {
            if !self.input.is_empty() {
                let (consumed, reply) = self.reader.push(&self.input);
                self.input.advance(consumed);
                if let Some(reply) = reply {
                    return Ok(reply.map_err(ProtocolError::from)?);
                }
            }
            self.input.reserve(READ_OCTETS);
            match timeout(limit, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(0)) => return Err(Broken::Closed),
                Ok(octets) => octets.map(|_| ())?,
                Err(_) => return Err(Broken::Silent { stage, limit }),
            }
        }
    }

    /// Writes what is in `out`; all of it has to be taken within `limit`.
    pub(crate) async fn write(&mut self, limit: Duration) -> Result<(), Broken> {
        let Self { stream, out, .. } = self;
        let writing = async {
            stream.write_all(out).await?;
            stream.flush().await
        };
        match timeout(limit, writing).await {
            Ok(written) => written?,
            Err(_) => return Err(Broken::Stuck(limit)),
        }
        self.out.clear();
        if self.out.capacity() > KEPT_OCTETS_MAX {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// A refusal that a server may have sent before it stopped taking octets.
    pub(crate) async fn last_words(&mut self) -> Option<Reply> {
        self.out.clear();
        self.reply(Stage::Message, GOODBYE).await.ok()
    }

    /// Ends when the server closes the connection or says something unasked.
    pub(crate) async fn disturbed(&mut self) {
        // Whatever comes, the connection isn't used for another message.
        let _ = self.stream.read_buf(&mut self.input).await;
    }

    /// QUIT, and a short wait for its reply.
    pub(crate) async fn quit(mut self) {
        self.out.clear();
        self.session.quit();
        if self.session.next(&mut self.out) == Progress::Reply {
            // The server owes nothing any more; whether it answers makes no difference.
            let _ = self.reply(Stage::Quit, GOODBYE).await;
        }
        let _ = timeout(GOODBYE, self.stream.shutdown()).await;
    }
}
