//! A raw SMTP client: it sends the octets it is told to and reads replies, in the clear or under TLS.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::deadline::SOON;

/// A reply with all its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The text of each line, after the code and the space or dash.
    pub lines: Vec<String>,
}

impl Reply {
    /// All text in one line.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// The enhanced status code that the text begins with, such as `5.7.1`.
    pub fn enhanced(&self) -> Option<&str> {
        let first = self.lines.first()?.split(' ').next()?;
        let numbers: Vec<&str> = first.split('.').collect();
        let all = numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u16>().is_ok());
        all.then_some(first)
    }

    /// The queue id of `250 2.0.0 queued as ID`.
    ///
    /// # Panics
    /// When this isn't that reply.
    pub fn queue_id(&self) -> String {
        assert_eq!(self.code, 250, "not accepted: {self:?}");
        let text = self.text();
        let id = text.split(' ').find(|word| word.len() == 26);
        id.unwrap_or_else(|| panic!("no queue id in {text:?}")).to_owned()
    }

    /// Whether EHLO's reply lists this extension.
    pub fn offers(&self, keyword: &str) -> bool {
        let words = self.lines.iter().skip(1).filter_map(|line| line.split(' ').next());
        words.into_iter().any(|word| word.eq_ignore_ascii_case(keyword))
    }
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Only while a handshake is on its way.
    Gone,
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(stream) => &stream.sock,
            Self::Gone => panic!("the connection is gone"),
        }
    }
}

/// A connection to a server under test.
pub struct Client {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects; the greeting isn't read yet.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("can't connect to {address}: {error}"))
    }

    /// [`Client::connect`] where the server may be away.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, SOON)?)
    }

    fn over(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SOON * 4))?;
        Ok(Self { stream: Stream::Clear(socket), buffer: Vec::new() })
    }

    /// [`Client::connect`] from an address of this machine, as another client has one.
    pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let connect = || -> io::Result<TcpStream> {
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &SocketAddr::from((source, 0)))?;
            rustix::net::connect(&socket, &address)?;
            Ok(socket.into())
        };
        let socket =
            connect().unwrap_or_else(|error| panic!("can't connect from {source} to {address}: {error}"));
        Self::over(socket).expect("a socket can be set up")
    }

    /// Connects and shakes hands at once, as on port 465.
    pub fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        let mut client = Self::connect(address);
        client.handshake(config, name);
        client
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) {
        self.try_send(octets).expect("the server takes what is sent");
    }

    /// [`Client::send`] where the server may have gone.
    pub fn try_send(&mut self, octets: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Clear(socket) => socket.write_all(octets),
            Stream::Tls(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sends a line; CRLF is added.
    pub fn line(&mut self, line: &str) {
        self.send(format!("{line}\r\n").as_bytes());
    }

    /// Reads one reply.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    /// [`Client::reply`] where the server may close or die: then an error.
    pub fn try_reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.read_line()?;
            let text = String::from_utf8_lossy(&line).into_owned();
            let code = text.get(..3).and_then(|digits| digits.parse().ok());
            let (Some(code), dash) = (code, text.as_bytes().get(3).copied()) else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("not a reply line: {text:?}"),
                ));
            };
            lines.push(text.get(4..).unwrap_or_default().to_owned());
            if dash != Some(b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Reads one line without its CRLF; a line that ends otherwise is an error.
    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|octet| *octet == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                if line.pop() != Some(b'\r') {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a reply line ends with a bare LF",
                    ));
                }
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; 4096];
        let count = match &mut self.stream {
            Stream::Clear(socket) => socket.read(&mut piece)?,
            Stream::Tls(stream) => stream.read(&mut piece)?,
            Stream::Gone => 0,
        };
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(())
    }

    /// Sends a line and reads the reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.line(line);
        self.reply()
    }

    /// [`Client::command`], where another code than `code` is a panic.
    pub fn expect(&mut self, line: &str, code: u16) -> Reply {
        let reply = self.command(line);
        assert_eq!(reply.code, code, "{line}: {reply:?}");
        reply
    }

    /// Whether the server closes the connection, with nothing sent before, within the deadline.
    pub fn closed(&mut self, within: Duration) -> bool {
        self.stream.socket().set_read_timeout(Some(within)).expect("sockets have timeouts");
        let closed = match self.fill() {
            Ok(()) => false,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        };
        self.stream.socket().set_read_timeout(Some(SOON * 4)).expect("sockets have timeouts");
        closed
    }

    /// Nothing comes for this long.
    pub fn silent(&mut self, during: Duration) -> bool {
        self.stream.socket().set_read_timeout(Some(during)).expect("sockets have timeouts");
        let timed_out = self.buffer.is_empty()
            && self.fill().is_err_and(|error| {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            });
        self.stream.socket().set_read_timeout(Some(SOON * 4)).expect("sockets have timeouts");
        timed_out
    }

    /// Sends no more, still reads.
    pub fn shut_down_writing(&mut self) {
        let _ = self.stream.socket().shutdown(Shutdown::Write);
    }

    /// Shakes hands on the connection as it is.
    pub fn handshake(&mut self, config: &Arc<ClientConfig>, name: &str) {
        self.try_handshake(config, name).unwrap_or_else(|error| panic!("TLS handshake: {error}"));
    }

    /// [`Client::handshake`] where it may fail; the connection is of no use then.
    pub fn try_handshake(&mut self, config: &Arc<ClientConfig>, name: &str) -> io::Result<()> {
        assert!(self.buffer.is_empty(), "octets came before the handshake: {:?}", self.buffer);
        let Stream::Clear(mut socket) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            panic!("TLS is on already");
        };
        let name = ServerName::try_from(name.to_owned()).expect("a name that TLS can ask for");
        let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(connection, socket)));
        Ok(())
    }

    /// Reads the greeting, says EHLO, STARTTLS, shakes hands, says EHLO again: its reply.
    pub fn start_tls(&mut self, config: &Arc<ClientConfig>, name: &str) -> Reply {
        assert_eq!(self.reply().code, 220);
        self.expect("EHLO client.test", 250);
        self.expect("STARTTLS", 220);
        self.handshake(config, name);
        self.expect("EHLO client.test", 250)
    }

    /// AUTH PLAIN with an initial response.
    pub fn auth_plain(&mut self, user: &str, password: &str) -> Reply {
        let response = base64(format!("\0{user}\0{password}").as_bytes());
        self.command(&format!("AUTH PLAIN {response}"))
    }

    /// One transaction in four steps, waiting for each reply; the last reply is given.
    ///
    /// # Panics
    /// When MAIL, RCPT or DATA is refused. `octets` are dot-stuffed here.
    pub fn submit(&mut self, reverse_path: &str, recipients: &[&str], octets: &[u8]) -> Reply {
        self.try_submit(reverse_path, recipients, octets)
            .unwrap_or_else(|error| panic!("not submitted: {error}"))
    }

    /// [`Client::submit`] where the server may die or refuse: an error, except for the reply to the final dot.
    pub fn try_submit(
        &mut self,
        reverse_path: &str,
        recipients: &[&str],
        octets: &[u8],
    ) -> io::Result<Reply> {
        let mut steps = vec![format!("MAIL FROM:<{reverse_path}> BODY=8BITMIME")];
        steps.extend(recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")));
        for step in steps {
            self.try_send(format!("{step}\r\n").as_bytes())?;
            let reply = self.try_reply()?;
            if reply.code != 250 {
                return Err(io::Error::other(format!("{step}: {reply:?}")));
            }
        }
        self.try_send(b"DATA\r\n")?;
        let reply = self.try_reply()?;
        if reply.code != 354 {
            return Err(io::Error::other(format!("DATA: {reply:?}")));
        }
        self.try_send(&stuffed(octets))?;
        self.try_reply()
    }

    /// One transaction whose MAIL and RCPT lines are given as they are to be sent; the last reply is given.
    ///
    /// # Panics
    /// When MAIL, RCPT or DATA is refused. `octets` are dot-stuffed here.
    pub fn transaction(&mut self, mail: &str, recipients: &[&str], octets: &[u8]) -> Reply {
        self.expect(mail, 250);
        for recipient in recipients {
            self.expect(recipient, 250);
        }
        self.expect("DATA", 354);
        self.send(&stuffed(octets));
        self.reply()
    }

    /// Plays a dialogue written as text, a line a step:
    ///
    /// ```text
    /// S: 220 *                 a reply: its code, then nothing or a pattern for all its text in one line (`*`: anything)
    /// C: EHLO client.test      sent with CRLF; lines without an `S:` between them go out in one write
    /// S: 250
    /// C+ a\n.\r\n              sent as it is: \r \n \t \0 \\ and \xHH are octets
    /// S: closed                the server closes the connection
    /// ```
    ///
    /// # Panics
    /// With the step and what came, when they don't fit.
    pub fn dialogue(&mut self, text: &str) {
        let mut pending = Vec::new();
        for step in text.lines().map(str::trim).filter(|step| !step.is_empty()) {
            let (kind, rest) = step.split_at_checked(2).unwrap_or((step, ""));
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            match kind {
                "C:" => {
                    pending.extend_from_slice(&octets(rest));
                    pending.extend_from_slice(b"\r\n");
                }
                "C+" => pending.extend_from_slice(&octets(rest)),
                "S:" => {
                    self.send(&std::mem::take(&mut pending));
                    self.check(step, rest);
                }
                _ => panic!("not a step of a dialogue: {step}"),
            }
        }
        self.send(&pending);
    }

    fn check(&mut self, step: &str, expected: &str) {
        if expected == "closed" {
            assert!(self.buffer.is_empty() && self.closed(SOON), "{step}: the connection stays open");
            return;
        }
        let reply = self.try_reply().unwrap_or_else(|error| panic!("{step}: {error}"));
        let (code, pattern) = expected.split_once(' ').unwrap_or((expected, "*"));
        let fits = reply.code.to_string() == code && matches(pattern, &reply.text());
        assert!(fits, "{step}: came {} {}", reply.code, reply.text());
    }
}

/// Whether text fits a pattern in which `*` is any run of characters.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let Some((last, middle)) = parts.split_last() else { return true };
    for part in middle {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// The octets of a text with escapes.
fn octets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes().iter().copied();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            out.push(octet);
            continue;
        }
        out.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.unwrap_or(b'?') as char);
                let digits: String = digits.into_iter().collect();
                u8::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("\\x{digits} in {text:?}"))
            }
            other => panic!("unknown escape {other:?} in {text:?}"),
        });
    }
    out
}

/// Dot-stuffed, with the final dot. A message without a final CRLF gets one, as SMTP has no other way to end it.
pub fn stuffed(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + 64);
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// Base64 with padding (RFC 4648 section 4).
pub fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in octets.chunks(3) {
        let value = three.iter().fold(0_u32, |value, octet| (value << 8) | u32::from(*octet))
            << (8 * (3 - three.len()));
        for place in 0..4_usize {
            if place > three.len() {
                out.push('=');
            } else {
                let six = (value >> (18 - 6 * place)) & 63;
                let _ = write!(out, "{}", ALPHABET[six as usize] as char);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_the_standard() {
        let table = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (octets, text) in table {
            assert_eq!(base64(octets.as_bytes()), text);
        }
    }

    #[test]
    fn patterns_fit_or_do_not() {
        assert!(
            matches("*", "") && matches("a*", "abc") && matches("*c", "abc") && matches("a*b*c", "axbxc")
        );
        assert!(
            matches("abc", "abc") && !matches("a", "ab") && !matches("a*c", "ab") && !matches("*b*", "ac")
        );
    }

    #[test]
    fn stuffing_adds_a_dot_to_lines_that_begin_with_one() {
        assert_eq!(stuffed(b".\r\na\r\n..b"), b"..\r\na\r\n...b\r\n.\r\n");
        assert_eq!(stuffed(b""), b".\r\n");
    }

    #[test]
    fn escapes_are_octets() {
        assert_eq!(octets(r"a\r\n\x00\xff\\"), b"a\r\n\x00\xff\\");
    }
}
