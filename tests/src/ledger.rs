//! Accounts for every accepted recipient: delivered, bounced, or still queued, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::message;
use crate::mx::Received;

/// What was handed over. Each recipient address is to be used for one message only.
#[derive(Debug, Default)]
pub struct Ledger {
    accepted: Mutex<BTreeSet<String>>,
    doubtful: Mutex<BTreeSet<String>>,
}

/// What became of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Recipients whose message was answered with 250.
    pub accepted: usize,
    /// Of them, those who got it.
    pub delivered: usize,
    /// Those about whom the sender got a report of failure.
    pub bounced: usize,
    /// Those who are queued still.
    pub queued: usize,
    /// Those of whom there is no trace.
    pub lost: Vec<String>,
    /// Those who got it more than once, each with the number of copies beyond the first.
    pub duplicates: BTreeMap<String, usize>,
    /// Those who got mail that nobody handed over.
    pub unknown: Vec<String>,
    /// Those who got it and of whom the sender was told that they didn't.
    pub contradictory: Vec<String>,
}

impl Ledger {
    /// The message for these recipients was answered with 250.
    pub fn accepted(&self, recipients: &[&str]) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        for recipient in recipients {
            assert!(
                accepted.insert((*recipient).to_owned()),
                "{recipient} has two messages; the ledger can't tell them apart"
            );
        }
    }

    /// The answer never came: the message may exist or not.
    pub fn doubtful(&self, recipients: &[&str]) {
        let mut doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
        doubtful.extend(recipients.iter().map(|recipient| (*recipient).to_owned()));
    }

    /// The recipients whose message was answered with 250.
    pub fn recipients(&self) -> Vec<String> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How many recipients were accepted so far.
    pub fn count(&self) -> usize {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Adds up what was received, reports of failure among it, and what `queue list` says.
    pub fn balance(&self, received: &[Received], queue: &[Value]) -> Balance {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut copies: BTreeMap<String, usize> = BTreeMap::new();
        let mut bounced = BTreeSet::new();
        for message in received {
            if message.reverse_path().is_empty() {
                bounced.extend(failed_recipients(&message.octets));
            } else {
                for recipient in message.recipients() {
                    *copies.entry(recipient.to_owned()).or_default() += 1;
                }
            }
        }
        let queued = queued_recipients(queue);
        let known = |recipient: &&String| accepted.contains(*recipient) || doubtful.contains(*recipient);
        let kept = |recipient: &&String| {
            copies.contains_key(*recipient) || bounced.contains(*recipient) || queued.contains(*recipient)
        };
        Balance {
            accepted: accepted.len(),
            delivered: accepted.iter().filter(|recipient| copies.contains_key(*recipient)).count(),
            bounced: accepted.iter().filter(|recipient| bounced.contains(*recipient)).count(),
            queued: accepted.iter().filter(|recipient| queued.contains(*recipient)).count(),
            lost: accepted.iter().filter(|recipient| !kept(recipient)).cloned().collect(),
            duplicates: copies
                .iter()
                .filter(|(_, count)| **count > 1)
                .map(|(recipient, count)| (recipient.clone(), count - 1))
                .collect(),
            contradictory: bounced
                .iter()
                .filter(|recipient| copies.contains_key(*recipient))
                .cloned()
                .collect(),
            unknown: copies.keys().filter(|recipient| !known(recipient)).cloned().collect(),
        }
    }
}

/// The recipients that a report says have failed (RFC 3464 section 2.3).
pub fn failed_recipients(report: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(report).into_owned();
    let mut failed = Vec::new();
    let mut current = None;
    for line in text.lines() {
        if let Some((_, address)) =
            line.strip_prefix("Final-Recipient:").and_then(|value| value.split_once(';'))
        {
            current = Some(address.trim().trim_matches(['<', '>']).to_owned());
        } else if line
            .strip_prefix("Action:")
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("failed"))
        {
            failed.extend(current.take());
        }
    }
    failed
}

fn queued_recipients(jobs: &[Value]) -> BTreeSet<String> {
    let recipients = jobs.iter().filter_map(|job| job["to"].as_array()).flatten();
    recipients.filter_map(|recipient| recipient.as_str()).map(str::to_owned).collect()
}

/// Whether a report of failure about `recipient` is among these messages.
pub fn reported(received: &[Received], recipient: &str) -> bool {
    let reports = received.iter().filter(|message| message.reverse_path().is_empty());
    reports
        .into_iter()
        .any(|message| failed_recipients(&message.octets).iter().any(|failed| failed == recipient))
}

/// The values of a field in the machine-readable part of a report, such as `Status`.
pub fn report_values(report: &[u8], field: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(message::body(report)).into_owned();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case(field))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

impl Balance {
    /// Whether every accepted recipient is accounted for.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty() && self.unknown.is_empty()
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies: usize = self.duplicates.values().sum();
        write!(
            f,
            "accepted {}, delivered {}, bounced {}, queued {}, lost {}, duplicate copies {copies}",
            self.accepted,
            self.delivered,
            self.bounced,
            self.queued,
            self.lost.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_recipients_are_read_from_a_report() {
        let report =
            b"From: x\r\n\r\nFinal-Recipient: rfc822; a@d1.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n\
                       Final-Recipient: rfc822;b@d1.test\r\nAction: delayed\r\n";
        assert_eq!(failed_recipients(report), ["a@d1.test"]);
        assert_eq!(report_values(report, "status"), ["5.1.1"]);
    }
}
