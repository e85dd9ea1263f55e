//! Who may send what: the answers to a session's questions.
//!
//! ```text
//! AUTH      login      limits.login_wait, Directory.Authenticate
//! MAIL      sender     not suspended, a domain of the account that is ready to send, room in the store
//! RCPT      recipient  a host that mail can go to, quota
//! DATA      intake     room in the store, memory
//! .         accept     header, From domains; then Spool::accept  (module `acceptance`)
//! ```
//!
//! A no is a [`Reply`] that tells the client what to do about it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use limits::{Limits, Quota};
use mail::{Passage, Timestamp, WhileUnready};
use runtime::telemetry::TraceAddresses;
use smtp::address::{Domain, ForwardPath, Host, ReversePath};
use smtp::reply::Reply;
use spool::{AcceptError, Spool};
use tracing::Instrument as _;
use zeroize::Zeroizing;

use crate::Parts;
use crate::budget::Budget;
use crate::config::{Literals, Settings};
use crate::directory::{Directory, LoginError, Member, OwnLimit, Profile, ProfileError};
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::observer::{Observer, Refused, Stage};
use crate::spans;

/// What all sessions ask.
pub(crate) struct Gate<S, L> {
    pub(crate) spool: Arc<S>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) metrics: Metrics,
    pub(crate) trace_addresses: TraceAddresses,
    pub(crate) host_name: Domain,
    pub(crate) lifetime_secs: u64,
    limits: Arc<L>,
    budget: Arc<Budget>,
    header: mail::header::Limits,
    literals: Literals,
    while_unready: WhileUnready,
}

/// Why a login was refused.
pub(crate) enum LoginRefusal {
    /// The client may try again in this session.
    Reply(Reply),
    /// It has tried too often: the session ends.
    Close(Reply),
}

impl<S: Spool, L: Limits> Gate<S, L> {
    pub(crate) fn new(settings: &Settings, parts: Parts<S, L>) -> Arc<Self> {
        let Parts {
            spool,
            limits,
            directory,
            observer,
            metrics,
            trace_addresses,
            host_name,
            lifetime_secs,
            security: _,
        } = parts;
        Arc::new(Self {
            spool,
            directory: Directory::new(directory, settings.directory),
            observer,
            metrics,
            trace_addresses,
            host_name,
            lifetime_secs,
            limits,
            budget: Budget::new(settings.memory),
            header: settings.header,
            literals: settings.literals,
            while_unready: settings.while_unready,
        })
    }

    /// Whether this user may log in with this password.
    pub(crate) async fn login(
        &self,
        user: String,
        password: Zeroizing<Vec<u8>>,
        client: IpAddr,
    ) -> Result<Member, LoginRefusal> {
        if let Some(wait) = self.limits.login_wait(&user, client).await {
            let text = format!("too many failed logins; try again in {}", in_words(wait));
            return Err(LoginRefusal::Close(Reply::new(421, (4, 7, 0), text)));
        }
        let authenticated = self.directory.authenticate(user.clone(), password, client);
        match authenticated.instrument(spans::authenticate()).await {
            Ok(member) => {
                self.limits.login_succeeded(&user, client);
                self.metrics.logged_in();
                Ok(member)
            }
            Err(LoginError::Wrong) => {
                self.limits.login_failed(&user, client).await;
                let text = "user name and password don't fit; check both, or make a new password with \
                            `stagepost credential create`";
                Err(LoginRefusal::Reply(Reply::new(535, (5, 7, 8), text)))
            }
            Err(LoginError::Unavailable(cause)) => {
                self.limits.login_undecided(&user, client);
                tracing::warn!(%client, %cause, "a login could not be checked");
                let text = "logins can't be checked just now; try again later";
                Err(LoginRefusal::Reply(Reply::new(454, (4, 7, 0), text)))
            }
        }
    }

    /// Whether the account may begin a transaction with this reverse-path.
    pub(crate) async fn sender(
        &self,
        member: &Member,
        from: &ReversePath,
        announced: Option<u64>,
    ) -> Result<Arc<Profile>, Reply> {
        let profile = self.directory.profile(member).instrument(spans::authorize());
        let profile = profile.await.map_err(unknown_profile)?;
        self.may_send(&profile, from, announced)?;
        Ok(profile)
    }

    /// As [`Gate::sender`], of an account whose profile is known.
    pub(crate) fn may_send(
        &self,
        profile: &Profile,
        from: &ReversePath,
        announced: Option<u64>,
    ) -> Result<(), Reply> {
        if let Some(reason) = &profile.suspended {
            return Err(Reply::new(550, (5, 7, 1), suspended(reason)));
        }
        if let ReversePath::Mailbox(address) = from {
            self.may_send_from(profile, address.host())?;
        }
        self.room_for(announced.unwrap_or(0))
    }

    /// Whether mail may come from this host, in the envelope and in the header.
    pub(crate) fn may_send_from(&self, profile: &Profile, host: &Host) -> Result<(), Reply> {
        let Host::Domain(domain) = host else {
            let text = "senders at address literals aren't allowed here";
            return Err(Reply::new(550, (5, 7, 1), text));
        };
        let Some(own) = profile.sender(domain) else {
            let text = format!(
                "{domain} is not a domain of this account; add it with `stagepost domain add {domain}`"
            );
            return Err(Reply::new(550, (5, 7, 1), text));
        };
        let now = Timestamp(runtime::clock::now_millis());
        match self.while_unready.passage(own.unready.as_ref(), now) {
            Passage::Free | Passage::Sandbox(_) => Ok(()),
            // An application with a queue of its own loses nothing.
            Passage::Closed(unready) => Err(Reply::new(451, (4, 7, 1), unready.describe(domain))),
        }
    }

    /// Whether mail may go there; the tickets are the recipient's places in the account's quota, and in the credential's if that has
    /// one.
    pub(crate) async fn recipient(
        &self,
        profile: &Profile,
        to: &ForwardPath,
    ) -> Result<(L::Ticket, Option<L::Ticket>), Reply> {
        match to {
            ForwardPath::Postmaster => {
                let text = "there are no mailboxes here; write <postmaster@> and a domain";
                return Err(Reply::new(550, (5, 1, 1), text));
            }
            ForwardPath::Mailbox(address) => match (address.host(), self.literals) {
                (Host::Literal(_), Literals::Refuse) => {
                    let text = "mail to address literals isn't taken here; write the recipient's domain";
                    return Err(Reply::new(550, (5, 1, 2), text));
                }
                (Host::Literal(_), Literals::Allow) | (Host::Domain(_), _) => {}
            },
        }
        let own = match &profile.own_limit {
            None => None,
            Some(OwnLimit { counted_as, recipients_per_day }) => {
                let whose = "this credential's limit for today";
                Some(self.place(counted_as, Some(*recipients_per_day), whose).await?)
            }
        };
        let place = self.place(profile.account.as_str(), profile.recipients_per_day, "today's quota");
        Ok((place.await?, own))
    }

    /// A recipient's place among those that are counted under a name.
    async fn place(&self, counted_as: &str, per_day: Option<u64>, which: &str) -> Result<L::Ticket, Reply> {
        match self.limits.take_quota(counted_as, per_day, 1).await {
            Quota::Taken(ticket) => Ok(ticket),
            Quota::Exhausted { resets_in } => {
                self.metrics.quota_used_up();
                let (quota, wait) = (per_day.unwrap_or_default(), in_words(resets_in));
                let text = format!("{which} of {quota} recipients is used up; it begins anew in {wait}");
                Err(Reply::new(452, (4, 2, 2), text))
            }
        }
    }

    /// A buffer for a message, if it may begin.
    pub(crate) async fn intake(&self, announced: Option<u64>) -> Result<Intake, Reply> {
        self.room_for(announced.unwrap_or(0))?;
        let mut intake = Intake::new(self.header, &self.budget, announced);
        intake.pay().await;
        intake.refusal().map_or(Ok(intake), Err)
    }

    /// Tells the observer what a client is told, and counts it.
    pub(crate) fn refused(&self, stage: Stage, member: Option<&Member>, client: IpAddr, reply: &Reply) {
        self.metrics.refused(stage, reply);
        let account = member.map(Member::account);
        self.observer.refused(&Refused { stage, account, client: Some(client), reply });
    }

    fn room_for(&self, octets: u64) -> Result<(), Reply> {
        self.spool.room_for(octets).map_err(|error| not_kept(&error))
    }
}

/// What a client is told when the store doesn't take its message; the cause is for the log, which the store writes.
pub(crate) fn not_kept(error: &AcceptError) -> Reply {
    match error {
        AcceptError::Full(_) => Reply::new(452, (4, 3, 1), "no room for new mail; try again later"),
        AcceptError::Unavailable(_) => {
            Reply::new(451, (4, 3, 0), "the message could not be stored; try again later")
        }
    }
}

fn unknown_profile(error: ProfileError) -> Reply {
    match error {
        ProfileError::Gone => Reply::new(550, (5, 7, 1), "this login was revoked; log in with another"),
        ProfileError::Unavailable(_) => Reply::new(
            451,
            (4, 3, 0),
            "what this account may send can't be looked up just now; try again later",
        ),
    }
}

fn suspended(reason: &str) -> String {
    if reason.is_empty() {
        String::from("this account is suspended")
    } else {
        format!("this account is suspended: {reason}")
    }
}

/// `45 s`, `5 min`, `7 h 20 min`; rounded up, so that who waits so long comes not too early.
fn in_words(wait: Duration) -> String {
    let secs = wait.as_millis().div_ceil(1000);
    match (secs, secs.div_ceil(60)) {
        (0..120, _) => format!("{} s", secs.max(1)),
        (_, minutes @ 0..120) => format!("{minutes} min"),
        (_, minutes) => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_in_words_and_never_too_short() {
        for (millis, words) in [
            (0, "1 s"),
            (1001, "2 s"),
            (119_000, "119 s"),
            (120_001, "3 min"),
            (7_199_000, "2 h 0 min"),
            (26_400_000, "7 h 20 min"),
        ] {
            assert_eq!(in_words(Duration::from_millis(millis)), words);
        }
    }
}
