//! A scripted receiver: it takes mail as told, records every octet, and misbehaves where a script says so.
//!
//! A script is a closure from a [`Step`] of the conversation to an [`Answer`]; [`Answer::Usual`] is what a good receiver
//! does. It may be replaced while the receiver runs.
//!
//! ```no_run
//! use tests::lab::Lab;
//! use tests::mx::{Answer, Step};
//! let lab = Lab::new();
//! let mx = lab.mx("d1.test");
//! // Greylisting: the first attempt of every recipient is put off.
//! mx.script(|step| match step {
//!     Step::Command { connection: 0, line, .. } if line.starts_with("RCPT") => Answer::reply("450 4.2.0 greylisted"),
//!     _ => Answer::Usual,
//! });
//! mx.extensions(&["PIPELINING"]);                     // no 8BITMIME, no SIZE, ...
//! mx.tls(tests::mx::Tls::Garbage);                    // STARTTLS is offered, then comes nonsense
//! ```

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::address::MX_PORT;
use crate::deadline::{SOON, until};

/// Where a conversation stands when the receiver asks its script.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step<'a> {
    /// Somebody connected; the usual answer is a greeting.
    Connect {
        /// How many connections there were before.
        connection: usize,
    },
    /// A command line came, without its CRLF.
    Command {
        /// How many connections there were before.
        connection: usize,
        /// The line; octets that aren't UTF-8 are replaced.
        line: &'a str,
        /// Whether TLS is on.
        tls: bool,
    },
    /// A whole message came, up to the final dot.
    Dot {
        /// How many connections there were before.
        connection: usize,
        /// How many final dots there were before, on all connections.
        count: usize,
        /// The message; it counts as received when the answer is [`Answer::Usual`], begins with 2, or is one of those that
        /// keep it ([`Answer::KeepAndClose`], [`Answer::KeepAndReply`]).
        message: &'a Received,
    },
}

/// What the receiver does at a step.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What a good receiver does.
    Usual,
    /// These lines, joined by CRLF, and a last CRLF.
    Reply(String),
    /// These pieces of octets, each sent by itself, with a pause after each.
    Pieces(Vec<Vec<u8>>, Duration),
    /// The usual answer, so much later.
    Late(Duration),
    /// Closes without a word. A message at the dot is not kept.
    Close,
    /// Keeps the message, closes without a word.
    KeepAndClose,
    /// Keeps the message and answers this, whatever it says.
    KeepAndReply(String),
    /// Answers this and closes.
    ReplyAndClose(String),
    /// Says nothing more until the other side goes.
    Silence,
}

impl Answer {
    /// A reply.
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.into())
    }

    /// A reply octet by octet.
    pub fn octet_by_octet(text: &str, pause: Duration) -> Self {
        Self::Pieces(text.bytes().map(|octet| vec![octet]).collect(), pause)
    }
}

/// What happens at STARTTLS.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// It isn't offered.
    #[default]
    None,
    /// A handshake with this configuration.
    Works(Arc<ServerConfig>),
    /// 220, then the connection is closed.
    Closes,
    /// 220, then octets that aren't TLS.
    Garbage,
    /// 454.
    Refused,
    /// 220, then nothing.
    Hangs,
    /// 220, then the alert of a server that knows no version above TLS 1.0.
    TooOld,
}

/// A message that was received.
#[derive(Clone, Debug)]
pub struct Received {
    /// The connection that it came by, counted from 0.
    pub connection: usize,
    /// The name in EHLO or HELO.
    pub helo: String,
    /// The MAIL command as it came.
    pub mail: String,
    /// The RCPT commands that were answered with 250, as they came.
    pub rcpt: Vec<String>,
    /// The message, without stuffed dots.
    pub octets: Vec<u8>,
    /// The octets from after DATA up to the end of the final dot's line, as they came.
    pub wire: Vec<u8>,
    /// Whether it came under TLS.
    pub tls: bool,
    /// When the final dot came.
    pub at: Instant,
}

/// The path between the angle brackets of a MAIL or RCPT command.
fn path(command: &str) -> &str {
    let start = command.find('<').map_or(0, |at| at + 1);
    let end = command.rfind('>').unwrap_or(command.len());
    command.get(start..end).unwrap_or_default()
}

impl Received {
    /// The reverse-path, empty for the null sender.
    pub fn reverse_path(&self) -> &str {
        path(&self.mail)
    }

    /// The forward-paths.
    pub fn recipients(&self) -> Vec<&str> {
        self.rcpt.iter().map(|command| path(command)).collect()
    }

    /// The message as text, octets that aren't UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.octets).into_owned()
    }
}

type Script = Arc<dyn Fn(&Step<'_>) -> Answer + Send + Sync>;

struct Manners {
    script: Script,
    extensions: Vec<String>,
    tls: Tls,
}

#[derive(Default)]
struct Record {
    messages: Vec<Received>,
    commands: Vec<(usize, String)>,
}

struct Shared {
    name: String,
    manners: Mutex<Manners>,
    record: Mutex<Record>,
    connections: AtomicUsize,
    open: AtomicUsize,
    open_max: AtomicUsize,
    dots: AtomicUsize,
    stopping: AtomicBool,
}

/// A running receiver; it takes no more connections once dropped.
pub struct Mx {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Mx {
    /// A receiver on this address, port [`MX_PORT`].
    pub fn start(name: &str, address: Ipv4Addr) -> Self {
        Self::start_on(name, SocketAddr::from((address, MX_PORT)))
    }

    /// A receiver on this address and port.
    pub fn start_on(name: &str, address: SocketAddr) -> Self {
        let listener =
            TcpListener::bind(address).unwrap_or_else(|error| panic!("can't bind {address}: {error}"));
        let usual = Manners {
            script: Arc::new(|_| Answer::Usual),
            extensions: ["PIPELINING", "8BITMIME", "SIZE 52428800", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8"]
                .map(str::to_owned)
                .to_vec(),
            tls: Tls::None,
        };
        let shared = Arc::new(Shared {
            name: name.into(),
            manners: Mutex::new(usual),
            record: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            open_max: AtomicUsize::new(0),
            dots: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the script.
    pub fn script(&self, script: impl Fn(&Step<'_>) -> Answer + Send + Sync + 'static) {
        lock(&self.shared.manners).script = Arc::new(script);
    }

    /// Every command from now on gets the usual answer.
    pub fn behave(&self) {
        self.script(|_| Answer::Usual);
    }

    /// Replaces what EHLO offers, STARTTLS apart.
    pub fn extensions(&self, extensions: &[&str]) {
        lock(&self.shared.manners).extensions =
            extensions.iter().map(|extension| (*extension).to_owned()).collect();
    }

    /// Replaces what happens at STARTTLS.
    pub fn tls(&self, tls: Tls) {
        lock(&self.shared.manners).tls = tls;
    }

    /// All messages so far.
    pub fn messages(&self) -> Vec<Received> {
        lock(&self.shared.record).messages.clone()
    }

    /// How many messages so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.record).messages.len()
    }

    /// Waits until there are at least `count` messages, and gives all.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        self.wait_for_within(count, SOON)
    }

    /// [`Mx::wait_for`] with a deadline of one's own.
    pub fn wait_for_within(&self, count: usize, within: Duration) -> Vec<Received> {
        let what = format!("{count} messages at {}", self.shared.name);
        until(&what, within, || (self.count() >= count).then(|| self.messages()))
    }

    /// All command lines so far, each with its connection.
    pub fn commands(&self) -> Vec<(usize, String)> {
        lock(&self.shared.record).commands.clone()
    }

    /// The command lines that begin with this word.
    pub fn commands_of(&self, verb: &str) -> Vec<String> {
        let commands = self.commands().into_iter().map(|(_, line)| line);
        commands.filter(|line| line.to_uppercase().starts_with(verb)).collect()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The most connections that were open at a time.
    pub fn connections_at_once(&self) -> usize {
        self.shared.open_max.load(Ordering::Relaxed)
    }
}

impl Drop for Mx {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // The accepting thread wakes up by a last connection.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for socket in listener.incoming() {
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
            shared.open_max.fetch_max(open, Ordering::Relaxed);
            // The other side may go at any moment; that's its right.
            let _ = Conversation::new(socket, connection, &shared).run();
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
    Gone,
}

struct Conversation<'a> {
    stream: Stream,
    connection: usize,
    shared: &'a Shared,
    buffer: Vec<u8>,
    helo: String,
    mail: Option<String>,
    rcpt: Vec<String>,
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl<'a> Conversation<'a> {
    fn new(socket: TcpStream, connection: usize, shared: &'a Shared) -> Self {
        let _ = socket.set_nodelay(true);
        let (stream, buffer) = (Stream::Clear(socket), Vec::new());
        Self { stream, connection, shared, buffer, helo: String::new(), mail: None, rcpt: Vec::new() }
    }

    fn run(mut self) -> io::Result<()> {
        let greeting = format!("220 {} ESMTP", self.shared.name);
        self.perform(self.ask(&Step::Connect { connection: self.connection }), &greeting)?;
        loop {
            let line = self.line()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            lock(&self.shared.record).commands.push((self.connection, line.clone()));
            self.command(&line)?;
        }
    }

    fn ask(&self, step: &Step<'_>) -> Answer {
        // Scripts may take their time, so they aren't called under the lock.
        let script = Arc::clone(&lock(&self.shared.manners).script);
        script(step)
    }

    fn command(&mut self, line: &str) -> io::Result<()> {
        let tls = matches!(self.stream, Stream::Tls(_));
        let answer = self.ask(&Step::Command { connection: self.connection, line, tls });
        let upper = line.to_uppercase();
        let usual = self.usual(line, &upper);
        let code = self.perform(answer, &usual)?;
        match code {
            Some(2) if upper.starts_with("MAIL ") => {
                self.mail = Some(line.to_owned());
                self.rcpt.clear();
            }
            Some(2) if upper.starts_with("RCPT ") => self.rcpt.push(line.to_owned()),
            Some(2) if upper.starts_with("EHLO ") || upper.starts_with("HELO ") => {
                self.helo = line[5..].to_owned();
                self.mail = None;
            }
            Some(2) if upper == "RSET" => self.mail = None,
            Some(2) if upper == "QUIT" => return Err(gone()),
            Some(2) if upper == "STARTTLS" => return self.start_tls(),
            Some(3) if upper == "DATA" => return self.data(),
            _ => {}
        }
        Ok(())
    }

    /// The reply of a good receiver.
    fn usual(&self, line: &str, upper: &str) -> String {
        let manners = lock(&self.shared.manners);
        match upper.split(' ').next().unwrap_or_default() {
            "EHLO" => {
                let mut lines = vec![self.shared.name.clone()];
                lines.extend(manners.extensions.iter().cloned());
                if !matches!(manners.tls, Tls::None) && !matches!(self.stream, Stream::Tls(_)) {
                    lines.push("STARTTLS".into());
                }
                let last = lines.len() - 1;
                let lines = lines.iter().enumerate();
                let lines =
                    lines.map(|(at, text)| format!("250{}{text}", if at == last { ' ' } else { '-' }));
                lines.collect::<Vec<_>>().join("\r\n")
            }
            "HELO" | "RSET" | "NOOP" => "250 2.0.0 ok".into(),
            "MAIL" => "250 2.1.0 sender ok".into(),
            "RCPT" if self.mail.is_none() => "503 5.5.1 MAIL first".into(),
            "RCPT" => format!("250 2.1.5 <{}> ok", path(line)),
            "DATA" if self.rcpt.is_empty() => "503 5.5.1 RCPT first".into(),
            "DATA" => "354 go ahead".into(),
            "STARTTLS" => match manners.tls {
                Tls::None => "502 5.5.1 not offered".into(),
                Tls::Refused => "454 4.7.0 TLS not available".into(),
                _ => "220 2.0.0 go ahead".into(),
            },
            "QUIT" => "221 2.0.0 bye".into(),
            _ => "500 5.5.2 unknown command".into(),
        }
    }

    /// Does what the script says; the first digit of what was answered, if that can be told.
    fn perform(&mut self, answer: Answer, usual: &str) -> io::Result<Option<u8>> {
        let digit = |text: &str| text.bytes().next().filter(u8::is_ascii_digit).map(|digit| digit - b'0');
        match answer {
            Answer::Usual => {
                self.write(format!("{usual}\r\n").as_bytes())?;
                Ok(digit(usual))
            }
            Answer::Late(pause) => {
                std::thread::sleep(pause);
                self.perform(Answer::Usual, usual)
            }
            Answer::Reply(text) | Answer::KeepAndReply(text) => {
                self.write(format!("{text}\r\n").as_bytes())?;
                Ok(digit(&text))
            }
            Answer::Pieces(pieces, pause) => {
                for piece in &pieces {
                    self.write(piece)?;
                    std::thread::sleep(pause);
                }
                Ok(digit(&String::from_utf8_lossy(&pieces.concat())))
            }
            Answer::ReplyAndClose(text) => {
                self.write(format!("{text}\r\n").as_bytes())?;
                Err(gone())
            }
            Answer::Close | Answer::KeepAndClose => Err(gone()),
            Answer::Silence => {
                while self.fill().is_ok() {}
                Err(gone())
            }
        }
    }

    fn data(&mut self) -> io::Result<()> {
        let mut wire = Vec::new();
        loop {
            let line = self.raw_line()?;
            let last = line == b".\r\n" && (wire.is_empty() || wire.ends_with(b"\r\n"));
            wire.extend_from_slice(&line);
            if last {
                break;
            }
        }
        let message = Received {
            connection: self.connection,
            helo: self.helo.clone(),
            mail: self.mail.take().unwrap_or_default(),
            rcpt: std::mem::take(&mut self.rcpt),
            octets: unstuffed(&wire),
            wire,
            tls: matches!(self.stream, Stream::Tls(_)),
            at: Instant::now(),
        };
        let count = self.shared.dots.fetch_add(1, Ordering::Relaxed);
        let answer = self.ask(&Step::Dot { connection: self.connection, count, message: &message });
        let kept = match &answer {
            Answer::Usual | Answer::Late(_) | Answer::KeepAndClose | Answer::KeepAndReply(_) => true,
            Answer::Reply(text) | Answer::ReplyAndClose(text) => text.starts_with('2'),
            Answer::Pieces(pieces, _) => pieces.concat().starts_with(b"2"),
            Answer::Close | Answer::Silence => false,
        };
        if kept {
            // Before the reply: whoever saw the reply finds the message here.
            lock(&self.shared.record).messages.push(message);
        }
        self.perform(answer, "250 2.0.0 kept").map(|_| ())
    }

    fn start_tls(&mut self) -> io::Result<()> {
        let tls = lock(&self.shared.manners).tls.clone();
        match tls {
            Tls::Works(config) => {
                let Stream::Clear(mut socket) = std::mem::replace(&mut self.stream, Stream::Gone) else {
                    return Err(gone());
                };
                let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
                while connection.is_handshaking() {
                    connection.complete_io(&mut socket)?;
                }
                self.stream = Stream::Tls(Box::new(StreamOwned::new(connection, socket)));
                self.buffer.clear();
                self.helo.clear();
                self.mail = None;
                Ok(())
            }
            Tls::Garbage => {
                self.fill()?;
                self.write(b"this is no TLS, whatever you may think\r\n\r\n")?;
                Err(gone())
            }
            Tls::TooOld => {
                self.fill()?;
                // A fatal alert, protocol_version, in a record of TLS 1.0.
                self.write(&[21, 3, 1, 0, 2, 2, 70])?;
                Err(gone())
            }
            Tls::Hangs => self.perform(Answer::Silence, "").map(|_| ()),
            Tls::Closes => Err(gone()),
            Tls::None | Tls::Refused => Ok(()),
        }
    }

    /// A line without its line end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = self.raw_line()?;
        while matches!(line.last(), Some(b'\r' | b'\n')) {
            line.pop();
        }
        Ok(line)
    }

    /// All up to and with the next LF.
    fn raw_line(&mut self) -> io::Result<Vec<u8>> {
        let mut looked_at = 0;
        loop {
            if let Some(end) = self.buffer[looked_at..].iter().position(|octet| *octet == b'\n') {
                return Ok(self.buffer.drain(..=looked_at + end).collect());
            }
            looked_at = self.buffer.len();
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; 16384];
        let count = match &mut self.stream {
            Stream::Clear(socket) => socket.read(&mut piece)?,
            Stream::Tls(stream) => stream.read(&mut piece)?,
            Stream::Gone => 0,
        };
        if count == 0 {
            return Err(gone());
        }
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(())
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Clear(socket) => socket.write_all(octets),
            Stream::Tls(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
            Stream::Gone => Err(gone()),
        }
    }
}

/// The message of what came after DATA: without the final dot, and one dot less where a line begins with one. Only CRLF
/// ends a line (RFC 5321 section 2.3.8).
fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let content = wire.strip_suffix(b".\r\n").unwrap_or(wire);
    let mut out = Vec::with_capacity(content.len());
    for (at, octet) in content.iter().enumerate() {
        let line_begins = at == 0 || content[..at].ends_with(b"\r\n");
        if *octet != b'.' || !line_begins {
            out.push(*octet);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::fresh;
    use crate::certs::Authority;
    use crate::smtp::Client;

    #[test]
    fn a_message_is_recorded_octet_by_octet() {
        let mx = Mx::start("mx.d1.test", fresh());
        let mut client = Client::connect(mx.address());
        client.dialogue("S: 220 mx.d1.test*\nC: EHLO client.test\nS: 250 *8BITMIME*\nC: MAIL FROM:<a@sender.test> BODY=8BITMIME\nC: RCPT TO:<b@d1.test>\nS: 250\nS: 250\nC: DATA\nS: 354");
        client.send(b"..\r\n\xff\n.\n.\r\nX\r\n.\r\n");
        assert_eq!(client.reply().code, 250);
        let received = mx.wait_for(1).remove(0);
        assert_eq!(received.wire, b"..\r\n\xff\n.\n.\r\nX\r\n.\r\n");
        // A bare LF ends no line, so the dots after it are neither final nor stuffed.
        assert_eq!(received.octets, b".\r\n\xff\n.\n.\r\nX\r\n");
        assert_eq!((received.reverse_path(), received.recipients()), ("a@sender.test", vec!["b@d1.test"]));
    }

    #[test]
    fn a_script_decides_each_step() {
        let mx = Mx::start("mx.d1.test", fresh());
        mx.script(|step| match step {
            Step::Command { line, .. } if line.contains("late@") => Answer::reply("450 4.2.0 later"),
            Step::Command { line, .. } if *line == "DATA" => {
                Answer::octet_by_octet("354 go\r\n", Duration::ZERO)
            }
            Step::Dot { .. } => Answer::KeepAndClose,
            _ => Answer::Usual,
        });
        let mut client = Client::connect(mx.address());
        client.dialogue("S: 220\nC: EHLO c.test\nS: 250\nC: MAIL FROM:<>\nS: 250\nC: RCPT TO:<late@d1.test>\nS: 450 4.2.0 later\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354 go\nC: x\nC: .\nS: closed");
        let received = mx.wait_for(1).remove(0);
        assert_eq!((received.reverse_path(), received.recipients()), ("", vec!["b@d1.test"]));
        assert_eq!((mx.connections(), mx.commands_of("RCPT").len()), (1, 2));
    }

    #[test]
    fn tls_works_and_fails_as_told() {
        let authority = Authority::new();
        let mx = Mx::start("mx.d1.test", fresh());
        mx.tls(Tls::Works(authority.issue(&["mx.d1.test"]).server()));
        let mut client = Client::connect(mx.address());
        let reply = client.start_tls(&authority.client(), "mx.d1.test");
        assert!(!reply.offers("STARTTLS") && reply.offers("8BITMIME"));
        client.submit("a@sender.test", &["b@d1.test"], b"Subject: x\r\n\r\n");
        assert!(mx.wait_for(1)[0].tls);
        for tls in [
            Tls::Closes,
            Tls::Garbage,
            Tls::TooOld,
            Tls::Works(authority.issue_expired(&["mx.d1.test"]).server()),
        ] {
            mx.tls(tls);
            let mut client = Client::connect(mx.address());
            client.dialogue("S: 220\nC: EHLO c.test\nS: 250 *STARTTLS*\nC: STARTTLS\nS: 220");
            assert!(client.try_handshake(&authority.client(), "mx.d1.test").is_err());
        }
    }
}
