//! One connection: the shell around [`smtp::server::Session`].
//!
//! ```text
//! wire.read --octets--> session.advance --Question--> gate --Verdict--> session.answer
//!     ^                     |    '--body octets--> intake
//!     '----wire.out---------'
//! ```

mod answers;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use limits::Limits;
use smtp::reply::Reply;
use smtp::server::{Question, Session, Step};
use spool::Spool;
use tokio::time::Instant;
use tracing::Span;

use crate::admission::Place;
use crate::config::Times;
use crate::directory::{Member, Profile};
use crate::intake::Intake;
use crate::listener::Doors;
use crate::wire::{Expect, Reading, Wire};

/// A client's connection.
pub(crate) struct Conversation<S: Spool, L: Limits> {
    doors: Arc<Doors<S, L>>,
    session: Session,
    wire: Wire,
    client: IpAddr,
    place: Place,
    state: State<L::Ticket>,
}

struct State<T> {
    member: Option<Member>,
    transaction: Option<Transaction<T>>,
    connected_at: Instant,
    /// When the last command was completed.
    progress_at: Instant,
    messages: u64,
}

/// What the session's transaction has taken so far.
struct Transaction<T> {
    span: Span,
    profile: Arc<Profile>,
    tickets: Vec<T>,
    announced: Option<u64>,
    duplicates: Duplicates,
    message: Option<Message>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Duplicates {
    None,
    /// A recipient was named twice; it gets the message once.
    Some,
}

struct Message {
    intake: Intake,
    began_at: Instant,
    /// When octets last came.
    moved_at: Instant,
}

/// What follows a read.
enum Next {
    Advance,
    /// The last reply.
    Say(Reply),
    /// The client is gone.
    Leave,
}

impl Message {
    /// Whoever sends at the least rate has time enough; whoever only keeps the connection busy has not.
    fn deadline(&self, times: &Times) -> Instant {
        let earned = Duration::from_secs(self.intake.octets() / times.octets_per_sec_min);
        (self.began_at + times.message + earned).min(self.moved_at + times.command)
    }
}

impl<S: Spool, L: Limits> Conversation<S, L> {
    pub(crate) fn new(
        doors: Arc<Doors<S, L>>,
        session: Session,
        wire: Wire,
        client: IpAddr,
        place: Place,
    ) -> Self {
        let now = Instant::now();
        let state =
            State { member: None, transaction: None, connected_at: now, progress_at: now, messages: 0 };
        Self { doors, session, wire, client, place, state }
    }

    /// Serves the client until either side ends it.
    pub(crate) async fn run(mut self) -> std::io::Result<()> {
        self.session.greeting(&mut self.wire.out);
        loop {
            match self.advance().await {
                Step::Read => match self.read().await? {
                    Next::Advance => {}
                    Next::Leave => return Ok(()),
                    Next::Say(last) => {
                        last.write_to(&mut self.wire.out);
                        return self.wire.close().await;
                    }
                },
                Step::Ask(question) => {
                    self.flush_before(&question).await?;
                    let verdict = self.answer(question).await;
                    self.session.answer(verdict, &mut self.wire.out);
                }
                Step::Reset => self.state.transaction = None,
                Step::Close => return self.wire.close().await,
                Step::StartTls => {
                    let Some(tls) = &self.doors.tls else { return self.wire.close().await };
                    let acceptor = tls.acceptor();
                    self.wire = self.wire.start_tls(acceptor, self.doors.times.tls).await?;
                    self.session = self.session.after_tls();
                    self.state.member = None;
                    self.state.transaction = None;
                    self.state.progress_at = Instant::now();
                }
            }
        }
    }

    /// Lets the session do what it can with what was read.
    async fn advance(&mut self) -> Step {
        let (input, out) = self.wire.buffers();
        let waiting = out.len();
        let mut message =
            self.state.transaction.as_mut().and_then(|transaction| transaction.message.as_mut());
        let (consumed, step) = self.session.advance(input, out, &mut |octets| {
            if let Some(message) = &mut message {
                message.intake.push(octets);
            }
        });
        if out.len() > waiting || !matches!(step, Step::Read) {
            self.state.progress_at = Instant::now();
        }
        self.wire.consume(consumed);
        if consumed > 0
            && let Some(message) = message
        {
            message.moved_at = Instant::now();
            message.intake.pay().await;
        }
        step
    }

    /// Replies that are due shouldn't wait for what takes time: a password's check and the store's disk.
    async fn flush_before(&mut self, question: &Question) -> std::io::Result<()> {
        match question {
            Question::Authenticate { .. } | Question::Message { .. } => self.wire.flush().await,
            Question::Sender { .. } | Question::Recipient { .. } | Question::Body => Ok(()),
        }
    }

    /// Reads once.
    async fn read(&mut self) -> std::io::Result<Next> {
        let expect = if self.session.is_in_body() { Expect::Body } else { Expect::Command };
        let draining = self.wire.draining_since().is_some();
        if draining && expect == Expect::Command {
            return Ok(Next::Say(self.draining()));
        }
        let deadline = self.deadline(expect);
        Ok(match self.wire.read(expect, deadline).await? {
            // Once the process is seen to end, the next turn closes, or goes on with the message until a nearer deadline.
            Reading::Octets | Reading::Draining => Next::Advance,
            Reading::End => Next::Leave,
            Reading::TimedOut if draining => Next::Say(self.draining()),
            Reading::TimedOut if expect == Expect::Body => {
                Next::Say(Reply::new(421, (4, 4, 2), "the message came too slowly; connect again"))
            }
            Reading::TimedOut => {
                Next::Say(Reply::new(421, (4, 4, 2), "nothing was said for too long; connect again"))
            }
        })
    }

    fn draining(&self) -> Reply {
        Reply::new(421, (4, 3, 2), format!("{} is going down; connect again", self.doors.gate.host_name))
    }

    fn deadline(&self, expect: Expect) -> Instant {
        let times = &self.doors.times;
        let message = self.state.transaction.as_ref().and_then(|transaction| transaction.message.as_ref());
        let deadline = match message {
            Some(message) if expect == Expect::Body => message.deadline(times),
            _ => self.state.progress_at + times.command,
        };
        let login = self.state.member.is_none().then(|| self.state.connected_at + times.login);
        let drain = self.wire.draining_since().map(|since| since + times.drain);
        [login, drain].into_iter().flatten().fold(deadline, Instant::min)
    }
}
