//! Accepting connections, and ending them when the process ends.

use std::future::poll_fn;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use limits::Limits;
use runtime::tls::ServerTls;
use smtp::server::{Security, Session};
use spool::Spool;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::admission::{Admission, Place};
use crate::config::Times;
use crate::conversation::Conversation;
use crate::gate::Gate;
use crate::spans;
use crate::stream::Stream;
use crate::wire::Wire;

/// When the system has no descriptor or memory for a connection, the next is accepted after this pause.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Such a state is logged at most once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// What a session may take beyond the time for draining, for its last replies.
const GRACE: Duration = Duration::from_secs(3);

/// What all sessions share.
pub(crate) struct Doors<S, L> {
    pub(crate) gate: Arc<Gate<S, L>>,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) times: Times,
    pub(crate) messages_max: u64,
    pub(crate) admission: Arc<Admission>,
    /// For clients that may log in under TLS only, and for those that may always.
    pub(crate) distant: Arc<smtp::server::Settings>,
    pub(crate) nearby: Arc<smtp::server::Settings>,
}

/// What the first octets on a port are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Smtp,
    Tls,
}

/// Serves one port until `closing`, then waits for the sessions to end.
pub(crate) async fn serve<S: Spool, L: Limits>(
    doors: Arc<Doors<S, L>>,
    listener: TcpListener,
    opening: Opening,
    closing: CancellationToken,
) {
    let mut sessions = JoinSet::new();
    let mut complained_at: Option<Instant> = None;
    loop {
        while sessions.try_join_next().is_some() {}
        match closing.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, peer))) => admit(&doors, &mut sessions, stream, peer, opening, &closing),
            // The client was gone before it was accepted.
            Some(Err(error)) if is_the_clients(error.kind()) => {}
            Some(Err(error)) => {
                if complained_at.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                    tracing::error!(%error, "connections can't be accepted");
                    complained_at = Some(Instant::now());
                }
                closing.run_until_cancelled(sleep(BACK_OFF)).await;
            }
        }
    }
    // Who has come already and wasn't accepted yet is told, too.
    while let Some(Ok((stream, _))) = accepted_now(&listener).await {
        turn_away(
            stream,
            opening,
            &format!("421 4.3.2 {} is going down; connect again", doors.gate.host_name),
        );
    }
    drop(listener);
    let ended = async { while sessions.join_next().await.is_some() {} };
    if timeout(doors.times.drain + GRACE, ended).await.is_err() {
        tracing::warn!(sessions = sessions.len(), "sessions were cut off that didn't end in time");
        sessions.shutdown().await;
    }
}

/// A connection that waits to be accepted, if there is one.
async fn accepted_now(listener: &TcpListener) -> Option<std::io::Result<(TcpStream, SocketAddr)>> {
    poll_fn(|context| match listener.poll_accept(context) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn is_the_clients(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

fn admit<S: Spool, L: Limits>(
    doors: &Arc<Doors<S, L>>,
    sessions: &mut JoinSet<()>,
    stream: TcpStream,
    peer: SocketAddr,
    opening: Opening,
    shutdown: &CancellationToken,
) {
    let place = match doors.admission.admit(peer.ip()) {
        Ok(place) => place,
        Err(crowded) => {
            doors.gate.metrics.turned_away(crowded);
            return turn_away(stream, opening, &format!("421 4.7.0 {}; try again later", crowded.as_str()));
        }
    };
    let session = open(Arc::clone(doors), stream, peer, opening, place, shutdown.child_token());
    sessions.spawn(async move {
        if let Err(error) = session.await {
            tracing::debug!(client = %peer.ip(), %error, "connection lost");
        }
    });
}

/// Costs no task and no wait: the reply fits the socket's empty buffer or is not sent.
fn turn_away(stream: TcpStream, opening: Opening, reply: &str) {
    if opening == Opening::Smtp
        && let Ok(mut stream) = stream.into_std()
    {
        // A client that doesn't learn why it was turned away sees a closed connection, which says the same.
        let _ = stream.write(format!("{reply}\r\n").as_bytes());
    }
}

async fn open<S: Spool, L: Limits>(
    doors: Arc<Doors<S, L>>,
    stream: TcpStream,
    peer: SocketAddr,
    opening: Opening,
    place: Place,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let _counted = doors.gate.metrics.session();
    stream.set_nodelay(true)?;
    let client = peer.ip().to_canonical();
    let settings = if client.is_loopback() { &doors.nearby } else { &doors.distant };
    let mut wire = Wire::new(Stream::Plain(stream), shutdown, doors.times.command);
    let security = match (opening, &doors.tls) {
        (Opening::Smtp, _) => Security::Plain,
        (Opening::Tls, Some(tls)) => {
            wire = wire.start_tls(tls.acceptor(), doors.times.tls).await?;
            Security::Tls
        }
        (Opening::Tls, None) => return Ok(()),
    };
    let session = Session::new(Arc::clone(settings), security);
    Conversation::new(doors, session, wire, client, place).run().instrument(spans::session(client)).await
}
