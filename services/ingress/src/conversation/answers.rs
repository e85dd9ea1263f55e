//! The answers to a session's questions, with what each takes and gives back.

use limits::Limits;
use mail::Recipient;
use smtp::address::{ForwardPath, ReversePath};
use smtp::reply::Reply;
use smtp::server::{EnvelopeRecipient, Greeted, Question, Security, Verdict};
use spool::Spool;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{Conversation, Duplicates, Message, Transaction};
use crate::acceptance::{Client, Origin, Submission};
use crate::gate::LoginRefusal;
use crate::observer::Stage;

impl<S: Spool, L: Limits> Conversation<S, L> {
    pub(super) async fn answer(&mut self, question: Question) -> Verdict {
        match question {
            Question::Authenticate { authcid, authzid, password, mechanism: _ } => {
                let password = Zeroizing::new(password);
                self.wire.wipe_consumed();
                // What this waits for needs room that an idle session shouldn't keep; so too below.
                Box::pin(self.login(authcid, authzid, password)).await
            }
            Question::Sender { from, params } => Box::pin(self.begin(&from, params.size)).await,
            Question::Recipient { to, params: _ } => self.recipient(&to).await,
            Question::Body => self.body().await,
            Question::Message { flaws, octets: _, eight_bit } => {
                let began = Instant::now();
                let answer = match flaws {
                    Some(flaws) => Err(flaws.reply()),
                    None => Box::pin(self.accept(eight_bit)).await,
                };
                self.state.transaction = None;
                self.doors.gate.metrics.answered(began.elapsed());
                match answer {
                    Ok(reply) => Verdict::YesWith(reply),
                    Err(reply) => self.refuse(Stage::Message, reply),
                }
            }
        }
    }

    async fn login(
        &mut self,
        user: String,
        acts_as: Option<String>,
        password: Zeroizing<Vec<u8>>,
    ) -> Verdict {
        if acts_as.is_some_and(|other| other != user) {
            let text = "nobody acts as another user here; leave the authorization identity empty";
            return self.refuse(Stage::Login, Reply::new(535, (5, 7, 8), text));
        }
        match self.doors.gate.login(user, password, self.client).await {
            Ok(member) => {
                self.place.logged_in();
                self.state.member = Some(member);
                Verdict::Yes
            }
            Err(LoginRefusal::Reply(reply)) => self.refuse(Stage::Login, reply),
            Err(LoginRefusal::Close(reply)) => {
                self.doors.gate.refused(Stage::Login, None, self.client, &reply);
                Verdict::CloseWith(reply)
            }
        }
    }

    async fn begin(&mut self, from: &ReversePath, announced: Option<u64>) -> Verdict {
        self.state.transaction = None;
        let messages_max = self.doors.messages_max;
        if messages_max > 0 && self.state.messages >= messages_max {
            let text = "this connection has carried as many messages as it may; connect again";
            return Verdict::CloseWith(Reply::new(421, (4, 7, 0), text));
        }
        let Some(member) = &self.state.member else {
            return Verdict::Refuse(Reply::new(530, (5, 7, 0), "authentication required"));
        };
        match self.doors.gate.sender(member, from, announced).await {
            Ok(profile) => {
                let (tickets, duplicates) = (Vec::new(), Duplicates::None);
                self.state.transaction =
                    Some(Transaction { profile, tickets, announced, duplicates, message: None });
                Verdict::Yes
            }
            Err(reply) => self.refuse(Stage::Sender, reply),
        }
    }

    async fn recipient(&mut self, to: &ForwardPath) -> Verdict {
        let Some(transaction) = &mut self.state.transaction else { return Verdict::Refuse(out_of_order()) };
        let envelope = self.session.transaction();
        if envelope.is_some_and(|envelope| envelope.recipients.iter().any(|known| known.to == *to)) {
            transaction.duplicates = Duplicates::Some;
            return Verdict::Yes;
        }
        match self.doors.gate.recipient(&transaction.profile, to).await {
            Ok(ticket) => {
                transaction.tickets.push(ticket);
                Verdict::Yes
            }
            Err(reply) => self.refuse(Stage::Recipient, reply),
        }
    }

    async fn body(&mut self) -> Verdict {
        let Some(transaction) = &mut self.state.transaction else { return Verdict::Refuse(out_of_order()) };
        match self.doors.gate.intake(transaction.announced).await {
            Ok(intake) => {
                let now = Instant::now();
                transaction.message = Some(Message { intake, began_at: now, moved_at: now });
                Verdict::Yes
            }
            Err(reply) => {
                self.state.transaction = None;
                self.refuse(Stage::Body, reply)
            }
        }
    }

    async fn accept(&mut self, eight_bit: bool) -> Result<Reply, Reply> {
        let transaction = self.state.transaction.take();
        let (Some(transaction), Some(envelope)) = (transaction, self.session.transaction()) else {
            return Err(out_of_order());
        };
        let Transaction { profile, tickets, announced: _, duplicates, message } = transaction;
        let Some(message) = message else { return Err(out_of_order()) };
        let (greeted, name) = self.session.greeted().unwrap_or((Greeted::Helo, ""));
        let submission = Submission {
            profile: &profile,
            reverse_path: envelope.from.clone(),
            params: &envelope.params,
            recipients: recipients(&envelope.recipients, duplicates),
            octets_over_127: eight_bit,
            received: message.intake.finish()?,
            receive: message.began_at.elapsed(),
            origin: Origin::Client(Client {
                address: self.client,
                name,
                greeted,
                tls: match self.session.security() {
                    Security::Plain => None,
                    Security::Tls => self.wire.stream().tls(),
                },
            }),
        };
        let accepted = self.doors.gate.accept(submission, tickets).await?;
        self.state.messages += 1;
        Ok(Reply::new(250, (2, 0, 0), format!("queued as {}", accepted.queue_id)))
    }

    fn refuse(&self, stage: Stage, reply: Reply) -> Verdict {
        self.doors.gate.refused(stage, self.state.member.as_ref(), self.client, &reply);
        Verdict::Refuse(reply)
    }
}

/// The envelope's recipients as jobs hold them. Who was named twice gets one copy, by the first naming's parameters.
fn recipients(envelope: &[EnvelopeRecipient], duplicates: Duplicates) -> Vec<Recipient> {
    let mut recipients: Vec<Recipient> = Vec::with_capacity(envelope.len());
    for EnvelopeRecipient { to, params } in envelope {
        let ForwardPath::Mailbox(address) = to else { continue };
        if duplicates == Duplicates::Some && recipients.iter().any(|known| known.address == *address) {
            continue;
        }
        let orcpt = params.orcpt.as_ref().map(ToString::to_string);
        recipients.push(Recipient { address: address.clone(), notify: params.notify, orcpt, last: None });
    }
    recipients
}

fn out_of_order() -> Reply {
    Reply::new(503, (5, 5, 1), "bad sequence of commands")
}
