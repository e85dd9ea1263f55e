//! Sink: takes mail as fast as it comes on many addresses, keeps none of it, and counts.
//!
//! Recipients are numbered `r<n>@...` by the load, so that lost and repeated ones are seen. On the control address a line
//! `stats` is answered with one line of JSON, and `reset` forgets all.
#![allow(clippy::unwrap_used, reason = "a benchmark's program ends with a panic when it can't go on")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use clap::Parser;
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    /// The first address to listen on.
    #[arg(long, default_value = "127.0.1.1")]
    address: Ipv4Addr,
    /// How many addresses, one after the other.
    #[arg(long, default_value_t = 10)]
    addresses: u32,
    /// The port.
    #[arg(long, default_value_t = 25)]
    port: u16,
    /// Where counts are asked for.
    #[arg(long, default_value = "127.0.0.1:9925")]
    control: SocketAddr,
}

/// Recipients with higher numbers aren't told apart.
const NUMBERS: usize = 1 << 24;

struct Counts {
    messages: AtomicU64,
    unsigned: AtomicU64,
    unique: AtomicU64,
    duplicates: AtomicU64,
    octets: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    open_max: AtomicU64,
    /// Microseconds since 1970 of the last delivery.
    last: AtomicU64,
    seen: Vec<AtomicU64>,
}

impl Counts {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            messages: zero(),
            unsigned: zero(),
            unique: zero(),
            duplicates: zero(),
            octets: zero(),
            connections: zero(),
            open: zero(),
            open_max: zero(),
            last: zero(),
            seen: (0..NUMBERS / 64).map(|_| zero()).collect(),
        }
    }

    fn reset(&self) {
        let Self { messages, unsigned, unique, duplicates, octets, connections, open, open_max, last, seen } =
            self;
        for count in [messages, unsigned, unique, duplicates, octets, connections, last] {
            count.store(0, Ordering::Relaxed);
        }
        open_max.store(open.load(Ordering::Relaxed), Ordering::Relaxed);
        for word in seen {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn take(&self, numbers: &[usize], signed: Signed, octets: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.octets.fetch_add(octets as u64, Ordering::Relaxed);
        if signed == Signed::No {
            self.unsigned.fetch_add(1, Ordering::Relaxed);
        }
        for number in numbers {
            let bit = 1 << (number % 64);
            let before = self.seen[(number % NUMBERS) / 64].fetch_or(bit, Ordering::Relaxed);
            let count = if before & bit == 0 { &self.unique } else { &self.duplicates };
            count.fetch_add(1, Ordering::Relaxed);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        self.last.fetch_max(u64::try_from(now).unwrap(), Ordering::Relaxed);
    }

    fn json(&self) -> serde_json::Value {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        json!({
            "messages": of(&self.messages),
            "unsigned": of(&self.unsigned),
            "unique": of(&self.unique),
            "duplicates": of(&self.duplicates),
            "octets": of(&self.octets),
            "connections": of(&self.connections),
            "open_max": of(&self.open_max),
            "last_unix": of(&self.last) as f64 / 1e6,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Signed {
    Yes,
    No,
}

fn main() {
    let arguments = Arguments::parse();
    let counts = Counts::new();
    let first = u32::from(arguments.address);
    let listeners: Vec<TcpListener> = (0..arguments.addresses)
        .map(|place| TcpListener::bind((Ipv4Addr::from(first + place), arguments.port)).unwrap())
        .collect();
    let control = TcpListener::bind(arguments.control).unwrap();
    std::thread::scope(|scope| {
        for listener in &listeners {
            let counts = &counts;
            scope.spawn(move || {
                for socket in listener.incoming().flatten() {
                    scope.spawn(move || {
                        counts.connections.fetch_add(1, Ordering::Relaxed);
                        let open = counts.open.fetch_add(1, Ordering::Relaxed) + 1;
                        counts.open_max.fetch_max(open, Ordering::Relaxed);
                        // The sender may hang up at any time.
                        let _ = receive(socket, counts);
                        counts.open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            });
        }
        for socket in control.incoming().flatten() {
            answer(&socket, &counts);
        }
    });
}

fn answer(socket: &TcpStream, counts: &Counts) {
    for line in BufReader::new(socket).lines().map_while(Result::ok) {
        if line == "reset" {
            counts.reset();
        }
        if writeln!(&mut &*socket, "{}", counts.json()).is_err() {
            return;
        }
    }
}

fn receive(mut socket: TcpStream, counts: &Counts) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.write_all(b"220 sink.test ESMTP\r\n")?;
    let mut buffer = Vec::with_capacity(1 << 16);
    let mut replies = Vec::new();
    let mut numbers = Vec::new();
    let mut piece = [0; 1 << 16];
    loop {
        let mut used = 0;
        while let Some(length) = line_length(&buffer[used..]) {
            let line = &buffer[used..used + length];
            used += length;
            if starts(line, b"DATA") {
                replies.extend_from_slice(b"354 go ahead\r\n");
                socket.write_all(&replies)?;
                replies.clear();
                buffer.drain(..used);
                used = 0;
                let (signed, octets) = content(&mut socket, &mut buffer, &mut piece)?;
                counts.take(&numbers, signed, octets);
                numbers.clear();
                replies.extend_from_slice(b"250 2.0.0 counted\r\n");
            } else if starts(line, b"EHLO") {
                replies.extend_from_slice(
                    b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 104857600\r\n",
                );
            } else if starts(line, b"QUIT") {
                replies.extend_from_slice(b"221 2.0.0 bye\r\n");
                return socket.write_all(&replies);
            } else {
                if starts(line, b"RCPT") {
                    numbers.extend(number(line));
                } else if starts(line, b"MAIL") || starts(line, b"RSET") {
                    numbers.clear();
                }
                replies.extend_from_slice(b"250 2.0.0 ok\r\n");
            }
        }
        buffer.drain(..used);
        if !replies.is_empty() {
            socket.write_all(&replies)?;
            replies.clear();
        }
        let count = socket.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&piece[..count]);
    }
}

/// Reads up to the final dot; what came after it stays in the buffer. Whether there is a signature, and the octets.
fn content(socket: &mut TcpStream, buffer: &mut Vec<u8>, piece: &mut [u8]) -> io::Result<(Signed, usize)> {
    let mut looked_at = 0;
    loop {
        let end = if buffer.starts_with(b".\r\n") {
            Some(3)
        } else {
            final_dot(&buffer[looked_at..]).map(|at| looked_at + at)
        };
        if let Some(end) = end {
            let signed = if has_signature(&buffer[..end]) { Signed::Yes } else { Signed::No };
            buffer.drain(..end);
            return Ok((signed, end));
        }
        looked_at = buffer.len().saturating_sub(4);
        let count = socket.read(piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&piece[..count]);
    }
}

/// Where the octets after `CRLF . CRLF` begin.
fn final_dot(octets: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = octets[from..].iter().position(|octet| *octet == b'.') {
        let at = from + at;
        if octets[..at].ends_with(b"\r\n") && octets[at + 1..].starts_with(b"\r\n") {
            return Some(at + 3);
        }
        from = at + 1;
    }
    None
}

fn has_signature(message: &[u8]) -> bool {
    let mut rest = message;
    while let Some(length) = line_length(rest) {
        if length <= 2 {
            return false;
        }
        if starts(rest, b"DKIM-Signature:") {
            return true;
        }
        rest = &rest[length..];
    }
    false
}

fn line_length(octets: &[u8]) -> Option<usize> {
    octets.iter().position(|octet| *octet == b'\n').map(|end| end + 1)
}

fn starts(line: &[u8], word: &[u8]) -> bool {
    line.len() >= word.len() && line[..word.len()].eq_ignore_ascii_case(word)
}

/// The number in `RCPT TO:<r123@d3.test>`.
fn number(line: &[u8]) -> Option<usize> {
    let start = line.iter().position(|octet| *octet == b'<')? + 2;
    let digits = line.get(start..)?;
    let end = digits.iter().position(|octet| !octet.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ends_and_signatures_are_found() {
        assert_eq!(number(b"RCPT TO:<r123@d3.test>\r\n"), Some(123));
        assert_eq!(number(b"RCPT TO:<postmaster@d3.test>\r\n"), None);
        assert_eq!(final_dot(b"a.b\r\n..\r\n.\r\nQUIT"), Some(12));
        assert_eq!(final_dot(b"a\r\n.\r"), None);
        assert!(
            has_signature(b"A: b\r\ndkim-signature: x\r\n\r\n")
                && !has_signature(b"A: b\r\n\r\nDKIM-Signature: x\r\n")
        );
    }

    #[test]
    fn a_number_that_comes_twice_is_a_duplicate() {
        let counts = Counts::new();
        counts.take(&[1, 64], Signed::Yes, 1);
        counts.take(&[1], Signed::No, 1);
        let json = counts.json();
        assert_eq!(
            (&json["unique"], &json["duplicates"], &json["unsigned"]),
            (&json!(2), &json!(1), &json!(1))
        );
    }
}
