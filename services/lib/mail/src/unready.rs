//! Mail from a domain that isn't ready to send: what it lacks, and what becomes of its mail meanwhile.

use smtp::address::Domain;

use crate::Timestamp;

/// Most octets of what is told of each of reason and object, so that a reply stays a line or two.
const TOLD_OCTETS_MAX: usize = 240;

/// What a domain lacks, as whoever checks it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unready {
    reason: String,
    object: String,
    since: Timestamp,
}

impl Unready {
    /// `reason` names what is missing, `object` what tells more of it. Both may come from elsewhere: what is kept of them is a
    /// short line of ASCII, fit for replies, logs and reports.
    pub fn new(reason: &str, object: &str, since: Timestamp) -> Self {
        Self { reason: line(reason), object: line(object), since }
    }

    /// What is missing.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What tells more of it, as `SendingDomain shop/example`.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// Since when the domain isn't ready.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// One line for people, about mail from `domain`.
    pub fn describe(&self, domain: &Domain) -> String {
        let reason = if self.reason.is_empty() { "it isn't said why" } else { &self.reason };
        let object = if self.object.is_empty() { String::new() } else { format!(" ({})", self.object) };
        format!("{domain} isn't ready to send: {reason}{object}")
    }
}

/// Visible ASCII and single spaces, cut where it is long.
fn line(text: &str) -> String {
    let printable = |character: char| if character.is_ascii_graphic() { character } else { '?' };
    let words = text.split_whitespace().map(|word| word.chars().map(printable).collect::<String>());
    let mut line = words.collect::<Vec<_>>().join(" ");
    if line.len() > TOLD_OCTETS_MAX {
        line.truncate(TOLD_OCTETS_MAX - 3);
        line.push_str("...");
    }
    line
}

/// What becomes of mail from domains that aren't ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileUnready {
    /// New mail is put off, queued mail waits.
    Refuse,
    /// It is taken, and ends in the sandbox.
    Sandbox,
    /// As from one that is ready, until it hasn't been for so long; then as [`WhileUnready::Refuse`].
    Allow {
        /// In seconds.
        grace_secs: u64,
    },
}

/// How far mail from a domain comes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage<'a> {
    /// To its recipients.
    Free,
    /// No further, for now.
    Closed(&'a Unready),
    /// Into the sandbox.
    Sandbox(&'a Unready),
}

impl WhileUnready {
    /// What holds for mail from a domain at `now`; `unready` is none for one that is ready. Whether there is a key to sign with is
    /// another question, which is asked of all mail that leaves.
    pub fn passage(self, unready: Option<&Unready>, now: Timestamp) -> Passage<'_> {
        let Some(unready) = unready else { return Passage::Free };
        match self {
            Self::Sandbox => Passage::Sandbox(unready),
            Self::Allow { grace_secs } if now < unready.since.plus_secs(grace_secs) => Passage::Free,
            Self::Allow { .. } | Self::Refuse => Passage::Closed(unready),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: Timestamp = Timestamp(1_000_000);

    fn unready(reason: &str, object: &str) -> Unready {
        Unready::new(reason, object, SINCE)
    }

    #[test]
    fn what_becomes_of_mail_follows_from_readiness_setting_and_time() {
        let lacking = unready("TXT _dmarc.shop.test is missing", "SendingDomain shop/example");
        let allow = WhileUnready::Allow { grace_secs: 60 };
        let (free, closed, sandbox) = (Passage::Free, Passage::Closed(&lacking), Passage::Sandbox(&lacking));
        for (setting, after_millis, expected) in [
            (WhileUnready::Refuse, 0, closed),
            (WhileUnready::Refuse, 1_000_000_000, closed),
            (WhileUnready::Sandbox, 0, sandbox),
            (WhileUnready::Sandbox, 1_000_000_000, sandbox),
            (allow, 0, free),
            (allow, 59_999, free),
            (allow, 60_000, closed),
            (WhileUnready::Allow { grace_secs: 0 }, 0, closed),
            (WhileUnready::Allow { grace_secs: u64::MAX }, 1_000_000_000, free),
        ] {
            let now = SINCE.plus_millis(after_millis);
            assert_eq!(setting.passage(Some(&lacking), now), expected, "{setting:?} after {after_millis} ms");
            assert_eq!(setting.passage(None, now), free, "{setting:?}");
        }
        // Clocks differ: it may be before it began.
        assert_eq!(allow.passage(Some(&lacking), Timestamp(0)), free);
    }

    #[test]
    fn what_is_told_is_a_short_line_of_ascii_whatever_was_said() {
        let domain: Domain = "shop.test".parse().unwrap();
        let told = unready("TXT _dmarc.shop.test is missing", "SendingDomain shop/example").describe(&domain);
        assert_eq!(
            told,
            "shop.test isn't ready to send: TXT _dmarc.shop.test is missing (SendingDomain shop/example)"
        );
        let odd = unready("a\r\n250 2.0.0 all\tis   w\u{e4}ll\0\u{2028}", "").describe(&domain);
        assert_eq!(odd, "shop.test isn't ready to send: a 250 2.0.0 all is w?ll?");
        let long = unready(&"\u{e4} b".repeat(5000), &"c".repeat(5000));
        assert_eq!((long.reason().len(), long.object().len()), (TOLD_OCTETS_MAX, TOLD_OCTETS_MAX));
        assert!(long.reason().ends_with("...") && long.describe(&domain).is_ascii());
        assert_eq!(unready("", "").describe(&domain), "shop.test isn't ready to send: it isn't said why");
    }
}
