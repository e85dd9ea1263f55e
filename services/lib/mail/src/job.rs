//! Messages and the jobs that a message is cut into.

use std::fmt;
use std::sync::Arc;

use smtp::address::{Address, Domain, ForwardPath, Host, ReversePath};
use smtp::command::Notify;

use crate::{Disposition, JobId, QueueId, RecipientResult, Timestamp};

/// An account's opaque id, safe in a subject, a key or a path: letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// The id, when it is made of 1 to 64 letters, digits, `-` and `_`.
    pub fn new(text: &str) -> Option<Self> {
        let safe = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        ((1..=64).contains(&text.len()) && text.bytes().all(safe)).then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What the body was declared as at MAIL (RFC 6152).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyKind {
    /// No octet over 127.
    #[default]
    SevenBit,
    /// Octets over 127 occur, in lines.
    EightBitMime,
}

/// How much of the message a DSN gives back (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnContent {
    /// The whole message.
    Full,
    /// Only its header section.
    Headers,
}

/// What a message demands of the connection that carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsRequirement {
    /// TLS where it is offered, else in the clear (RFC 7435).
    #[default]
    Opportunistic,
    /// TLS, whatever the certificate.
    Encrypt,
    /// TLS with a certificate that names the host and is signed by a known authority.
    Verify,
}

/// What all jobs of a message share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Our name for it.
    pub queue_id: QueueId,
    /// Who submitted it.
    pub account: AccountId,
    /// The reverse-path as submitted: where DSNs go.
    pub original_reverse_path: ReversePath,
    /// The reverse-path that leaves.
    pub reverse_path: ReversePath,
    /// The domain of the `From:` field (an author domain of the account): whose keys sign.
    pub author_domain: Domain,
    /// RET of MAIL.
    pub ret: Option<ReturnContent>,
    /// ENVID of MAIL, decoded.
    pub envid: Option<String>,
    /// BODY of MAIL, or `EightBitMime` when octets over 127 were found.
    pub body_kind: BodyKind,
    /// Whether it needs SMTPUTF8 (RFC 6531): an address or a header field has octets over 127.
    pub smtputf8: bool,
    /// The Message-ID field, with its angle brackets.
    pub message_id: String,
    /// Octets of the header section including our fields, without the empty line.
    pub header_octets: u32,
    /// Octets of the whole message, lines ended by CRLF, not dot-stuffed.
    pub octets: u64,
    /// SHA-256 of the relaxed body (RFC 6376 section 3.4.4), taken as the body streamed in.
    pub body_hash: [u8; 32],
    /// What the connection must offer.
    pub tls: TlsRequirement,
    /// Labels that the sender gave, for events.
    pub tags: Vec<String>,
    /// Key and value pairs that the sender gave, for events.
    pub metadata: Vec<(String, String)>,
    /// Which egress addresses may carry it; none means the default pool.
    pub egress_pool: Option<String>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Not to be tried sooner.
    pub not_before: Option<Timestamp>,
    /// After this instant it is given up.
    pub expires_at: Timestamp,
    /// W3C `traceparent` of the transaction that brought it.
    pub trace_context: Option<String>,
}

/// One recipient with what the sender asked for it (RFC 3461) and what became of it so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Where it goes.
    pub address: Address,
    /// NOTIFY, none when not given.
    pub notify: Option<Notify>,
    /// ORCPT as `type;address`, decoded.
    pub orcpt: Option<String>,
    /// What the last attempt brought, when it was deferred.
    pub last: Option<Box<RecipientResult>>,
}

impl Recipient {
    /// A recipient of whom nothing special is asked.
    pub fn new(address: Address) -> Self {
        Self { address, notify: None, orcpt: None, last: None }
    }

    /// The same recipient as a forward-path.
    pub fn forward_path(&self) -> ForwardPath {
        ForwardPath::Mailbox(self.address.clone())
    }
}

/// What a job is there to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Bring the message to its recipients.
    Delivery {
        /// Those who are still to be served, all at one host.
        recipients: Vec<Recipient>,
    },
    /// Tell the sender what became of recipients; the message's content is there to be given back.
    Report {
        /// What is to be told: failed, expired, or delivered where success was asked for.
        results: Vec<RecipientResult>,
    },
}

/// One job as a worker leases it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// The message it belongs to.
    pub message: Arc<Message>,
    /// Delivery or report.
    pub kind: JobKind,
    /// Attempts that were made before this one and failed for a while; waiting for a limit isn't one.
    pub attempts: u32,
    /// When the job last failed for a while, and why it waited.
    pub deferred: Option<String>,
    /// The `DKIM-Signature` fields made at the first attempt, CRLF ended; none before it.
    pub signature: Option<Arc<str>>,
    /// Whether somebody else may have held this job before: a duplicate is possible and is counted.
    pub redelivered: bool,
}

impl Job {
    /// The number of the attempt that is made or comes next, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempts.saturating_add(1)
    }

    /// The host that all recipients of the job share; for a report, that of the reverse-path, if there is
    /// one.
    pub fn destination(&self) -> Option<&Host> {
        match &self.kind {
            JobKind::Delivery { recipients } => recipients.first().map(|recipient| recipient.address.host()),
            JobKind::Report { .. } => match &self.message.original_reverse_path {
                ReversePath::Null => None,
                ReversePath::Mailbox(address) => Some(address.host()),
            },
        }
    }

    /// Groups recipients into jobs: one a host, at most `recipients_max` each, in order of first appearance.
    pub fn group(recipients: Vec<Recipient>, recipients_max: usize) -> Vec<Vec<Recipient>> {
        let mut groups: Vec<Vec<Recipient>> = Vec::new();
        let mut open: std::collections::HashMap<Host, usize> = std::collections::HashMap::new();
        for recipient in recipients {
            let host = recipient.address.host().clone();
            match open.get(&host) {
                Some(place) if groups[*place].len() < recipients_max => groups[*place].push(recipient),
                _ => {
                    open.insert(host, groups.len());
                    groups.push(vec![recipient]);
                }
            }
        }
        groups
    }
}

impl RecipientResult {
    /// Whether we are to tell the sender of this result (RFC 3461 section 4.1): failures unless NOTIFY says
    /// otherwise, successes only where NOTIFY asks and the next hop won't tell itself (section 5.2.1).
    pub fn wants_report(&self) -> bool {
        match (&self.recipient.notify, self.disposition) {
            (Some(notify), Disposition::Delivered { relayed: true }) => notify.success(),
            (_, Disposition::Delivered { .. }) => false,
            (Some(notify), Disposition::Bounced | Disposition::Expired) => notify.failure(),
            (None, Disposition::Bounced | Disposition::Expired) => true,
            (_, Disposition::Deferred | Disposition::Dropped) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use smtp::address::Utf8;
    use smtp::reply::EnhancedCode;

    use super::*;

    fn recipient(address: &str) -> Recipient {
        Recipient::new(Address::parse(address, Utf8::Refused).unwrap())
    }

    #[test]
    fn recipients_of_a_host_share_jobs_of_bounded_size() {
        let addresses = ["a@d1.test", "b@d2.test", "c@D1.test", "d@d1.test", "e@d2.test"];
        let groups = Job::group(addresses.iter().map(|address| recipient(address)).collect(), 2);
        let groups: Vec<Vec<String>> =
            groups.iter().map(|group| group.iter().map(|one| one.address.to_string()).collect()).collect();
        assert_eq!(
            groups,
            [vec!["a@d1.test", "c@d1.test"], vec!["b@d2.test", "e@d2.test"], vec!["d@d1.test"]]
        );
    }

    #[test]
    fn the_sender_is_told_what_notify_asks_and_once() {
        let failure = Notify::NEVER.with_failure();
        let success = Notify::NEVER.with_success();
        let relayed = Disposition::Delivered { relayed: true };
        let passed_on = Disposition::Delivered { relayed: false };
        for (notify, disposition, told) in [
            (None, Disposition::Bounced, true),
            (None, Disposition::Expired, true),
            (None, relayed, false),
            (Some(Notify::NEVER), Disposition::Bounced, false),
            (Some(success), Disposition::Bounced, false),
            (Some(failure), Disposition::Expired, true),
            (Some(failure), relayed, false),
            (Some(success), relayed, true),
            (Some(success), passed_on, false),
            (None, Disposition::Dropped, false),
            (Some(Notify::NEVER.with_delay()), Disposition::Deferred, false),
        ] {
            let result = RecipientResult {
                recipient: Recipient { notify, ..recipient("a@d1.test") },
                disposition,
                status: EnhancedCode::new(5, 0, 0),
                remote: None,
                reason: String::new(),
                at: Timestamp(0),
            };
            assert_eq!(result.wants_report(), told, "{notify:?} {disposition:?}");
        }
    }

    #[test]
    fn an_account_id_is_safe_in_paths_and_subjects() {
        assert!(AccountId::new("acc_1-Z").is_some());
        for text in ["", "a/b", "a.b", "a b", "é", &"x".repeat(65)] {
            assert_eq!(AccountId::new(text), None, "{text}");
        }
    }
}
