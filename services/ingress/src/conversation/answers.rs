//! The answers to a session's questions, with what each takes and gives back.

use limits::Limits;
use mail::Recipient;
use smtp::address::{ForwardPath, ReversePath};
use smtp::reply::Reply;
use smtp::server::{EnvelopeRecipient, Greeted, Question, Security, Verdict};
use spool::Spool;
use tokio::time::Instant;
use tracing::field::display;
use tracing::{Instrument as _, Span};
use zeroize::Zeroizing;

use super::{Conversation, Duplicates, Message, Transaction};
use crate::acceptance::{Client, Origin, Submission};
use crate::gate::LoginRefusal;
use crate::observer::Stage;
use crate::spans;

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
                let span =
                    self.state.transaction.as_ref().map_or_else(Span::none, |begun| begun.span.clone());
                let answer = match flaws {
                    Some(flaws) => Err(flaws.reply()),
                    None => Box::pin(self.accept(eight_bit).instrument(span.clone())).await,
                };
                self.state.transaction = None;
                self.doors.gate.metrics.answered(began.elapsed());
                match answer {
                    Ok(reply) => {
                        spans::answered(&span, &reply);
                        Verdict::YesWith(reply)
                    }
                    Err(reply) => self.refuse(Stage::Message, &span, reply),
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
            return self.refuse(Stage::Login, &Span::current(), Reply::new(535, (5, 7, 8), text));
        }
        match self.doors.gate.login(user, password, self.client).await {
            Ok(member) => {
                self.place.logged_in();
                Span::current().record("mail.account", display(member.account()));
                self.state.member = Some(member);
                Verdict::Yes
            }
            Err(LoginRefusal::Reply(reply)) => self.refuse(Stage::Login, &Span::current(), reply),
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
        let gate = &self.doors.gate;
        let span = spans::transaction(self.client, member, from, gate.trace_addresses);
        match gate.sender(member, from, announced).instrument(span.clone()).await {
            Ok(profile) => {
                let (tickets, duplicates) = (Vec::new(), Duplicates::None);
                self.state.transaction =
                    Some(Transaction { span, profile, tickets, announced, duplicates, message: None });
                Verdict::Yes
            }
            Err(reply) => self.refuse(Stage::Sender, &span, reply),
        }
    }

    async fn recipient(&mut self, to: &ForwardPath) -> Verdict {
        let Some(transaction) = &mut self.state.transaction else { return Verdict::Refuse(out_of_order()) };
        let envelope = self.session.transaction();
        if envelope.is_some_and(|envelope| envelope.recipients.iter().any(|known| known.to == *to)) {
            transaction.duplicates = Duplicates::Some;
            return Verdict::Yes;
        }
        let gate = &self.doors.gate;
        let taken = gate.recipient(&transaction.profile, to).instrument(transaction.span.clone()).await;
        spans::recipient(&transaction.span, to, gate.trace_addresses, taken.as_ref().err());
        match taken {
            Ok((ticket, own)) => {
                transaction.tickets.push(ticket);
                transaction.tickets.extend(own);
                Verdict::Yes
            }
            Err(reply) => {
                gate.refused(Stage::Recipient, self.state.member.as_ref(), self.client, &reply);
                Verdict::Refuse(reply)
            }
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
                let span = transaction.span.clone();
                self.state.transaction = None;
                self.refuse(Stage::Body, &span, reply)
            }
        }
    }

    async fn accept(&mut self, eight_bit: bool) -> Result<Reply, Reply> {
        let transaction = self.state.transaction.take();
        let (Some(transaction), Some(envelope)) = (transaction, self.session.transaction()) else {
            return Err(out_of_order());
        };
        let Transaction { span: _, profile, tickets, announced: _, duplicates, message } = transaction;
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

    /// `span`: what this is the end of; of a login it isn't the end.
    fn refuse(&self, stage: Stage, span: &Span, reply: Reply) -> Verdict {
        if stage != Stage::Login {
            spans::answered(span, &reply);
        }
        let member = self.state.member.as_ref();
        span.in_scope(|| self.doors.gate.refused(stage, member, self.client, &reply));
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
