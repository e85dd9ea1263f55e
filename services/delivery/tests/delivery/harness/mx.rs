//! A recipients' server that does what a test tells it, and remembers what it was told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the server does at a step.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// What a good server does.
    Usual,
    /// These octets, as they are.
    Say(String),
    /// The same, octet by octet.
    Dribble(String),
    /// The connection is closed.
    Close,
    /// Nothing at all.
    Silence,
}

/// Asked at each step: the number of the connection and of the step on it, and the command; `connect` and `.` are steps too.
type Script = dyn Fn(usize, &str) -> Act + Send + Sync;

/// What was seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Commands with the number of their connection.
    pub(crate) commands: Vec<(usize, String)>,
    /// Messages as their octets came, dots not taken off, the final dot not included.
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) connections: usize,
    pub(crate) handshakes: usize,
}

pub(crate) struct Mx {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// What EHLO lists, and what is done.
#[derive(Clone)]
pub(crate) struct Behaviour {
    extensions: Vec<&'static str>,
    script: Arc<Script>,
    tls: Option<TlsAcceptor>,
}

impl Behaviour {
    pub(crate) fn usual() -> Self {
        Self {
            extensions: vec![
                "PIPELINING",
                "SIZE 50000000",
                "8BITMIME",
                "SMTPUTF8",
                "DSN",
                "ENHANCEDSTATUSCODES",
            ],
            script: Arc::new(|_, _| Act::Usual),
            tls: None,
        }
    }

    pub(crate) fn without(mut self, extension: &str) -> Self {
        self.extensions.retain(|offered| !offered.starts_with(extension));
        self
    }

    pub(crate) fn offering(mut self, extension: &'static str) -> Self {
        self.extensions.push(extension);
        self
    }

    pub(crate) fn script(mut self, script: impl Fn(usize, &str) -> Act + Send + Sync + 'static) -> Self {
        self.script = Arc::new(script);
        self
    }

    /// STARTTLS, with a certificate that nobody signed.
    pub(crate) fn tls(mut self) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![String::from("other.test")]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        self.tls = Some(TlsAcceptor::from(Arc::new(config)));
        self.offering("STARTTLS")
    }
}

impl Mx {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = {
                    let mut seen = shared.lock().unwrap();
                    seen.connections += 1;
                    seen.connections - 1
                };
                let session = Session {
                    number,
                    seen: Arc::clone(&shared),
                    behaviour: behaviour.clone(),
                    secure: false,
                };
                tokio::spawn(session.serve(stream));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    pub(crate) fn messages(&self) -> Vec<Vec<u8>> {
        self.seen(|seen| seen.messages.clone())
    }

    /// The commands that begin with `verb`, on all connections.
    pub(crate) fn commands(&self, verb: &str) -> Vec<String> {
        let commands =
            |seen: &Seen| seen.commands.iter().map(|(_, command)| command.clone()).collect::<Vec<_>>();
        self.seen(commands).into_iter().filter(|command| command.starts_with(verb)).collect()
    }
}

struct Session {
    number: usize,
    seen: Arc<Mutex<Seen>>,
    behaviour: Behaviour,
    secure: bool,
}

impl Session {
    async fn serve(mut self, stream: tokio::net::TcpStream) {
        let mut stream = BufReader::new(stream);
        if !self.step(&mut stream, "connect", "220 mx ready\r\n").await {
            return;
        }
        if self.converse(&mut stream).await
            && let Some(acceptor) = self.behaviour.tls.clone()
            && let Ok(secured) = acceptor.accept(stream.into_inner()).await
        {
            self.secure = true;
            self.seen.lock().unwrap().handshakes += 1;
            self.converse(&mut BufReader::new(secured)).await;
        }
    }

    /// Ends with true when TLS is to begin.
    async fn converse(&self, stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>) -> bool {
        let mut accepted = 0;
        loop {
            let mut line = Vec::new();
            match stream.read_until(b'\n', &mut line).await {
                Ok(octets) if octets > 0 => {}
                _ => return false,
            }
            let command = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.seen.lock().unwrap().commands.push((self.number, command.clone()));
            let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let usual = match verb.as_str() {
                "EHLO" => self.ehlo(),
                "DATA" if accepted == 0 => String::from("554 5.5.1 no recipients\r\n"),
                "DATA" => String::from("354 go on\r\n"),
                "STARTTLS" => String::from("220 2.0.0 go on\r\n"),
                "QUIT" => String::from("221 2.0.0 bye\r\n"),
                _ => String::from("250 2.0.0 fine\r\n"),
            };
            if verb == "MAIL" {
                accepted = 0;
            }
            let act = (self.behaviour.script)(self.number, &command);
            let refuses = matches!(&act, Act::Say(text) if !text.starts_with('2'));
            if verb == "RCPT" && !refuses {
                accepted += 1;
            }
            if !self.act(stream, act, &usual).await || verb == "QUIT" {
                return false;
            }
            if verb == "STARTTLS" && !refuses {
                return true;
            }
            if verb == "DATA" && accepted > 0 && !refuses {
                let Some(message) = message(stream).await else { return false };
                self.seen.lock().unwrap().messages.push(message);
                if !self.step(stream, ".", "250 2.0.0 kept\r\n").await {
                    return false;
                }
            }
        }
    }

    fn ehlo(&self) -> String {
        let mut lines = vec![String::from("250-mx")];
        let offered = self.behaviour.extensions.iter().filter(|it| !(self.secure && **it == "STARTTLS"));
        lines.extend(offered.map(|extension| format!("250-{extension}")));
        lines.push(String::from("250 HELP"));
        lines.join("\r\n") + "\r\n"
    }

    async fn step(&self, stream: &mut (impl AsyncWrite + Unpin), step: &str, usual: &str) -> bool {
        self.act(stream, (self.behaviour.script)(self.number, step), usual).await
    }

    async fn act(&self, stream: &mut (impl AsyncWrite + Unpin), act: Act, usual: &str) -> bool {
        match act {
            Act::Usual => stream.write_all(usual.as_bytes()).await.is_ok(),
            Act::Say(text) => stream.write_all(text.as_bytes()).await.is_ok(),
            Act::Dribble(text) => {
                for octet in text.as_bytes() {
                    if stream.write_all(&[*octet]).await.is_err() || stream.flush().await.is_err() {
                        return false;
                    }
                    tokio::task::yield_now().await;
                }
                true
            }
            Act::Close => false,
            Act::Silence => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                false
            }
        }
    }
}

/// Octets up to the final dot.
async fn message(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut octets = b"\r\n".to_vec();
    while !octets.ends_with(b"\r\n.\r\n") {
        octets.push(stream.read_u8().await.ok()?);
    }
    octets.truncate(octets.len() - 3);
    octets.drain(..2);
    Some(octets)
}
