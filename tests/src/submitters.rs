//! Clients that submit without end, by new sessions whenever one dies, and write down in a ledger what was answered with 250.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ClientConfig;

use crate::ledger::Ledger;
use crate::message;
use crate::smtp::{Client, base64};
use crate::stagepost::{HOST, PASSWORD, USER};

/// The envelope sender of all that is submitted.
pub const FROM: &str = "hello@sender.test";
/// How long a submitter waits when it can't log in, or has submitted enough.
const PAUSE: Duration = Duration::from_millis(20);

/// What submitters need, and what they leave.
pub struct Submitters {
    addresses: Vec<SocketAddr>,
    tls: Arc<ClientConfig>,
    /// The recipients of a submitter's messages by their number; each name is to be used once.
    recipients: fn(submitter: usize, number: usize) -> Vec<String>,
    /// Between two messages of a submitter.
    pub pause: Duration,
    /// Messages of a submitter in a round at most.
    pub messages_a_round: usize,
    round: AtomicUsize,
    over: AtomicBool,
    /// What was accepted, and what may have been.
    pub ledger: Ledger,
}

impl Submitters {
    /// They log in at these addresses as [`USER`], with STARTTLS.
    pub fn new(
        addresses: Vec<SocketAddr>,
        tls: &Arc<ClientConfig>,
        recipients: fn(usize, usize) -> Vec<String>,
    ) -> Self {
        Self {
            addresses,
            tls: Arc::clone(tls),
            recipients,
            pause: Duration::ZERO,
            messages_a_round: usize::MAX,
            round: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            ledger: Ledger::default(),
        }
    }

    /// So many submit while `disturb` runs.
    pub fn while_doing<T>(&self, submitters: usize, disturb: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            for submitter in 0..submitters {
                scope.spawn(move || self.submit(submitter));
            }
            let disturbed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(disturb));
            self.over.store(true, Ordering::Relaxed);
            disturbed.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        })
    }

    /// Another round begins.
    pub fn next_round(&self) {
        self.round.fetch_add(1, Ordering::Relaxed);
    }

    fn login(&self, place: usize) -> io::Result<Client> {
        let mut client = Client::try_connect(self.addresses[place % self.addresses.len()])?;
        client.try_reply()?;
        let auth = format!("AUTH PLAIN {}", base64(format!("\0{USER}\0{PASSWORD}").as_bytes()));
        for (line, code) in
            [("EHLO client.test", 250), ("STARTTLS", 220), ("EHLO client.test", 250), (&auth, 235)]
        {
            client.try_send(format!("{line}\r\n").as_bytes())?;
            let reply = client.try_reply()?;
            if reply.code != code {
                return Err(io::Error::other(format!("{line}: {reply:?}")));
            }
            if line == "STARTTLS" {
                client.try_handshake(&self.tls, HOST)?;
            }
        }
        Ok(client)
    }

    fn submit(&self, submitter: usize) {
        let mut session = None;
        let (mut place, mut number, mut round, mut left) = (submitter, 0, 0, self.messages_a_round);
        while !self.over.load(Ordering::Relaxed) {
            let current = self.round.load(Ordering::Relaxed);
            if current != round {
                (round, left) = (current, self.messages_a_round);
            }
            let client = if left == 0 { None } else { session.take().or_else(|| self.login(place).ok()) };
            let Some(mut client) = client else {
                place += 1;
                std::thread::sleep(PAUSE);
                continue;
            };
            left -= 1;
            number += 1;
            let recipients = (self.recipients)(submitter, number);
            let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
            let octets = message::text(FROM, recipients[0], &format!("mail-{submitter}-{number}"), "Hello.");
            match client.try_submit(FROM, &recipients, &octets) {
                Ok(reply) if reply.code == 250 => {
                    self.ledger.accepted(&recipients);
                    session = Some(client);
                }
                _ => self.ledger.doubtful(&recipients),
            }
            std::thread::sleep(self.pause);
        }
    }
}
