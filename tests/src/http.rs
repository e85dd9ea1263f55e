//! The little HTTP that tests speak.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::deadline::SOON;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its header section, as it came.
    pub header: String,
    /// Its body.
    pub body: String,
}

/// Asks with this method, on a connection of its own.
///
/// # Panics
/// When there is no answer.
pub fn ask(method: &str, address: SocketAddr, target: &str) -> Answer {
    try_ask(method, address, target).unwrap_or_else(|error| panic!("{method} {target} of {address}: {error}"))
}

/// [`ask`], or why there is no answer.
///
/// # Errors
/// When the connection fails or the answer is none.
pub fn try_ask(method: &str, address: SocketAddr, target: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    // An answer to HTTP/1.0 isn't chunked and ends with the connection.
    write!(stream, "{method} {target} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets)?;
    let text = String::from_utf8_lossy(&octets);
    let no_answer = || std::io::Error::other(format!("no answer: {text:?}"));
    let (header, body) = text.split_once("\r\n\r\n").ok_or_else(no_answer)?;
    let status = header.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(no_answer)?;
    Ok(Answer { status, header: header.to_owned(), body: body.to_owned() })
}
