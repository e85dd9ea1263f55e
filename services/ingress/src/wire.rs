//! A session's octets: read with deadlines, written in groups, and no buffer while nothing happens.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use zeroize::Zeroize as _;

use crate::stream::Stream;

/// Room for one read between messages, and within one.
const COMMAND_OCTETS: usize = 4 * 1024;
const BODY_OCTETS: usize = 64 * 1024;
/// After our last reply the client has this long to close, so that what it still sends doesn't make its system discard the reply.
const LINGER: Duration = Duration::from_secs(1);
/// How long a handshake may still take when the process ends.
const HANDSHAKE_AT_END_MAX: Duration = Duration::from_secs(3);
const LINGER_OCTETS_MAX: usize = 1024 * 1024;

/// A connection with its buffers.
pub(crate) struct Wire {
    stream: Stream,
    /// Read and not yet consumed from `start` on.
    input: Vec<u8>,
    start: usize,
    /// Replies that wait to be written together.
    pub(crate) out: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    draining: Drain,
    write_timeout: Duration,
}

/// The end of the process, from a session's view.
enum Drain {
    /// Boxed so that it can be polled again with each read: registering anew would take a lock each time.
    Awaited(Pin<Box<WaitForCancellationFutureOwned>>),
    Begun(Instant),
}

/// What reading brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Octets,
    /// The client closed.
    End,
    TimedOut,
    /// The process is ending. Said once; the caller decides whether to read on.
    Draining,
}

/// What is being read, for the size of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Command,
    Body,
}

impl Wire {
    pub(crate) fn new(stream: Stream, shutdown: CancellationToken, write_timeout: Duration) -> Self {
        let timer = Box::pin(sleep_until(Instant::now()));
        let draining = Drain::Awaited(Box::pin(shutdown.cancelled_owned()));
        Self { stream, input: Vec::new(), start: 0, out: Vec::new(), timer, draining, write_timeout }
    }

    /// The stream, for what TLS it has.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What was read and not consumed, and the buffer for replies.
    pub(crate) fn buffers(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.input[self.start..], &mut self.out)
    }

    /// So many octets of the input are done with.
    pub(crate) fn consume(&mut self, octets: usize) {
        self.start += octets;
        if self.start == self.input.len() {
            self.input.clear();
            self.start = 0;
        }
    }

    /// Overwrites what was consumed: a password was in it.
    pub(crate) fn wipe_consumed(&mut self) {
        if self.start == 0 {
            // All was consumed, and the vector is empty: the octets are in its spare room.
            self.input.spare_capacity_mut().zeroize();
        } else {
            self.input[..self.start].zeroize();
        }
    }

    /// When the process began to end, if it did.
    pub(crate) fn draining_since(&self) -> Option<Instant> {
        match self.draining {
            Drain::Awaited(_) => None,
            Drain::Begun(at) => Some(at),
        }
    }

    /// Writes the replies that wait, then reads once, until `deadline`.
    pub(crate) async fn read(&mut self, expect: Expect, deadline: Instant) -> io::Result<Reading> {
        self.flush().await?;
        if self.start > 0 {
            self.input.drain(..self.start);
            self.start = 0;
        }
        poll_fn(|cx| self.poll_read(cx, expect, deadline)).await
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        expect: Expect,
        deadline: Instant,
    ) -> Poll<io::Result<Reading>> {
        self.input.reserve(if expect == Expect::Body { BODY_OCTETS } else { COMMAND_OCTETS });
        match std::pin::pin!(self.stream.read_buf(&mut self.input)).poll(cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Reading::End)),
            Poll::Ready(read) => return Poll::Ready(read.map(|_| Reading::Octets)),
            Poll::Pending => self.idle(),
        }
        if let Drain::Awaited(shutdown) = &mut self.draining
            && shutdown.as_mut().poll(cx).is_ready()
        {
            self.draining = Drain::Begun(Instant::now());
            return Poll::Ready(Ok(Reading::Draining));
        }
        self.poll_deadline(cx, deadline).map(|()| Ok(Reading::TimedOut))
    }

    /// A thousand sessions that say nothing should cost next to nothing.
    fn idle(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        self.out = Vec::new();
    }

    /// The timer runs on from an earlier deadline and is set anew only when it fires: deadlines move with every command, timers
    /// are kept by the runtime under a lock.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Writes the replies that wait.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        };
        timeout(self.write_timeout, write).await??;
        self.out.clear();
        Ok(())
    }

    /// The same connection under TLS. What was read in the clear is forgotten (RFC 3207 section 4.2).
    pub(crate) async fn start_tls(mut self, acceptor: TlsAcceptor, limit: Duration) -> io::Result<Self> {
        self.flush().await?;
        (self.input, self.start) = (Vec::new(), 0);
        let Drain::Awaited(shutdown) = &mut self.draining else {
            return Err(io::Error::other("the process ends"));
        };
        // The handshake's own state is large and short-lived.
        let mut handshake = Box::pin(timeout(limit, self.stream.start_tls(acceptor)));
        self.stream = tokio::select! {
            handshake = &mut handshake => handshake??,
            // That the process ends can be said under TLS only.
            () = shutdown.as_mut() => timeout(HANDSHAKE_AT_END_MAX, handshake).await???,
        };
        Ok(self)
    }

    /// Writes the last replies and ends the connection.
    pub(crate) async fn close(mut self) -> io::Result<()> {
        self.flush().await?;
        timeout(LINGER, async {
            self.stream.shutdown().await?;
            let (mut discarded, mut buffer) = (0, vec![0; COMMAND_OCTETS]);
            while discarded < LINGER_OCTETS_MAX {
                match self.stream.read(&mut buffer).await? {
                    0 => break,
                    read => discarded += read,
                }
            }
            Ok(())
        })
        .await
        .unwrap_or(Ok(()))
    }
}
