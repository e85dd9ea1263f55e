//! The client's side of a dialogue.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::PATIENCE;

trait Octets: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Octets for T {}

/// A connection, and what was read and not yet taken.
pub(crate) struct Client {
    stream: Box<dyn Octets>,
    read: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// The same connection after a TLS handshake.
    pub(crate) async fn start_tls(self, roots: rustls::RootCertStore) -> std::io::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "mail.sender.test".try_into().unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, self.stream).await?;
        Ok(Self { stream: Box::new(stream), read: Vec::new() })
    }

    pub(crate) async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// As [`Client::send`], to a server that may have closed.
    pub(crate) async fn try_send(&mut self, octets: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(octets.as_ref()).await
    }

    /// The next reply, its lines joined by ` / `; none when the server closed.
    pub(crate) async fn reply(&mut self) -> Option<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                return Some(lines.join(" / "));
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8(self.read[..end].to_vec()).unwrap();
                self.read.drain(..end + 2);
                return Some(line);
            }
            let mut buffer = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("the server answers");
            match read {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.read.extend_from_slice(&buffer[..read]),
            }
        }
    }

    /// Octets as they come; none when the server closed.
    pub(crate) async fn raw(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        let read =
            timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("the server answers or closes");
        let read = read.ok().filter(|read| *read > 0)?;
        buffer.truncate(read);
        Some(buffer)
    }

    /// Fails unless the next reply begins so.
    pub(crate) async fn expect(&mut self, start: &str) -> String {
        let reply = self.reply().await;
        let reply = reply.unwrap_or_else(|| panic!("closed where {start:?} was expected"));
        assert!(reply.starts_with(start), "expected {start:?}, got {reply:?}");
        reply
    }

    /// Fails unless the server has closed.
    pub(crate) async fn expect_end(&mut self) {
        assert_eq!(self.reply().await, None);
    }

    /// Plays a dialogue: `C: ` lines are sent, each `S: ` line is the start of one reply.
    pub(crate) async fn play(&mut self, dialogue: &str) {
        for line in dialogue.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            match line.split_at(3) {
                ("C: ", command) => self.send(format!("{command}\r\n")).await,
                ("S: ", reply) => drop(self.expect(reply).await),
                _ => panic!("neither C: nor S: in {line:?}"),
            }
        }
    }

    /// Logs in as the account that accounts knows at the start: `user` and `secret`.
    pub(crate) async fn login(&mut self) {
        self.play("C: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 2.7.0").await;
    }

    /// Sends a message with this envelope up to its final dot; says what the server says to that.
    pub(crate) async fn submit(&mut self, from: &str, to: &[&str], content: &str) -> String {
        self.send(format!("MAIL FROM:<{from}>\r\n")).await;
        self.expect("250 2.1.0").await;
        for to in to {
            self.send(format!("RCPT TO:<{to}>\r\n")).await;
            self.expect("250 2.1.5").await;
        }
        self.play("C: DATA\nS: 354").await;
        self.send(format!("{content}.\r\n")).await;
        self.reply().await.expect("the message is answered")
    }
}

/// A small message that is accepted.
pub(crate) const MESSAGE: &str = "From: <a@sender.test>\r\nSubject: hello\r\n\r\nHello.\r\n";
