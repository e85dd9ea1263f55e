//! What the status of a domain is, from what was seen. Pure: time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::look::{Look, selector_of};
use crate::claim::Holder;
use crate::condition::{Holds, Verdict};
use crate::crd::{
    DmarcPolicy, DnsRecord, DomainKey, DomainKeyState, RecordState, SendingDomain, SendingDomainStatus,
    Unready,
};
use crate::dns::report::{Finding, Purpose, State};

const DKIM: &str = "DKIMPublished";
/// Conditions that make up Ready, in the order in which somebody has to act on them.
pub(crate) const REQUIRED: [&str; 6] =
    ["Claimed", "KeyReady", DKIM, "SPFAligned", "DMARCPublished", "ReturnPathReady"];
/// Conditions for information.
const FOR_INFORMATION: [&str; 3] = ["EgressReady", "MTASTSReady", "TLSRPTReady"];

fn condition(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Dkim { .. } => DKIM,
        Purpose::Spf => "SPFAligned",
        Purpose::Dmarc => "DMARCPublished",
        Purpose::ReturnPath => "ReturnPathReady",
        Purpose::SpfOfReports | Purpose::Reverse | Purpose::Ehlo => "EgressReady",
        Purpose::MtaSts => "MTASTSReady",
        Purpose::TlsReports => "TLSRPTReady",
    }
}

fn state(state: State) -> RecordState {
    match state {
        State::Found => RecordState::Found,
        State::Missing => RecordState::Missing,
        State::Mismatch => RecordState::Mismatch,
        State::Unknown => RecordState::Unknown,
    }
}

/// For how long a record stays what it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// While it can't be looked up.
    pub(crate) hold_secs: i64,
    /// While it is gone or another, having been there: one server of several may lack it for a while.
    pub(crate) doubt_secs: i64,
}

/// The records as the status has them.
pub(crate) fn records(
    domain: &SendingDomain,
    keys: &[DomainKey],
    look: &Look,
    before: &SendingDomainStatus,
    patience: Patience,
    now: &Time,
) -> Vec<DnsRecord> {
    // What is wanted anew was never there.
    let doubt_secs =
        if before.observed_generation == domain.metadata.generation { patience.doubt_secs } else { 0 };
    let patience = Patience { doubt_secs, ..patience };
    let signs = keys.iter().any(|key| key.state == DomainKeyState::Active);
    let needed = |selector: &str| {
        let key = keys.iter().find(|key| key.selector == selector);
        // While one key signs, those to come and those that were don't make the domain unready.
        key.is_some_and(|key| match key.state {
            DomainKeyState::Active => true,
            DomainKeyState::Retired => false,
            _ => !signs,
        })
    };
    let record = |record: &crate::dns::report::Record| {
        let condition = condition(&record.purpose);
        let mut finding = record.finding.clone();
        let mut required = REQUIRED.contains(&condition) && record.required;
        if let Some(selector) = selector_of(record) {
            required = needed(selector);
            finding = match look.everywhere.get(selector) {
                // All servers and the resolver have it, which were asked after this one look-up: it lets the key sign.
                Some(everywhere) if everywhere.state == State::Found => everywhere.clone(),
                everywhere => worse(finding, everywhere),
            };
        }
        if condition == "SPFAligned" {
            finding = worse(finding, Some(&look.report.return_path_alignment));
        }
        if condition == "DMARCPublished" && domain.spec.dmarc.policy == DmarcPolicy::Optional {
            required = false;
        }
        let seen = DnsRecord {
            r#type: record.record_type.to_string(),
            name: record.name.as_str().to_owned(),
            value: record.expected.clone(),
            purpose: record.purpose.to_string(),
            condition: condition.into(),
            required,
            observed: (!record.observed.is_empty()).then(|| record.observed.join("\n")),
            state: state(finding.state),
            message: finding.reason,
            checked_at: (finding.state != State::Unknown).then(|| now.clone()),
            doubted_since: None,
        };
        held(seen, &before.records, patience, now)
    };
    look.report.records.iter().map(record).collect()
}

/// The records of a domain whose keys are in another zone, but for the aliases that are looked at: the keys themselves, and
/// the aliases of selectors that wait for their turn.
pub(crate) fn behind_aliases(
    domain: &SendingDomain,
    published: &[(String, String, Option<String>)],
    look: &Look,
    now: &Time,
) -> Vec<DnsRecord> {
    let record = |(selector, target, key): &(String, String, Option<String>)| match key {
        Some(key) => {
            let finding = look.everywhere.get(selector);
            let seen = finding.map_or(RecordState::Unknown, |finding| state(finding.state));
            DnsRecord {
                r#type: "TXT".into(),
                name: target.clone(),
                value: key.clone(),
                purpose: format!("DKIM key {selector}, in the zone that the domain's alias leads to"),
                condition: DKIM.into(),
                required: false,
                observed: None,
                state: seen,
                message: finding.map(|finding| finding.reason.clone()).unwrap_or_default(),
                checked_at: (seen != RecordState::Unknown).then(|| now.clone()),
                doubted_since: None,
            }
        }
        None => DnsRecord {
            r#type: "CNAME".into(),
            name: format!("{selector}._domainkey.{}", domain.spec.domain),
            value: target.clone(),
            purpose: format!("DKIM alias {selector}: where the next key will be"),
            condition: DKIM.into(),
            required: false,
            observed: None,
            state: RecordState::Unknown,
            message: "publish it once, and keys can be replaced without you".into(),
            checked_at: None,
            doubted_since: None,
        },
    };
    published.iter().map(record).collect()
}

fn worse(one: Finding, other: Option<&Finding>) -> Finding {
    let badness = |finding: &Finding| match finding.state {
        State::Found => 0,
        State::Unknown => 1,
        State::Missing => 2,
        State::Mismatch => 3,
    };
    match other {
        Some(other) if badness(other) > badness(&one) => other.clone(),
        _ => one,
    }
}

/// Neither a look-up that failed changes anything for a time, nor one that misses what was there.
fn held(seen: DnsRecord, before: &[DnsRecord], patience: Patience, now: &Time) -> DnsRecord {
    if seen.state == RecordState::Found {
        return seen;
    }
    // What to publish can depend on what is there, so that the value may differ.
    let same =
        |old: &&DnsRecord| old.r#type == seen.r#type && old.name == seen.name && old.purpose == seen.purpose;
    let Some(old) = before.iter().find(same).filter(|old| old.state != RecordState::Unknown) else {
        return seen;
    };
    let within = |secs: i64, since: &Time| now.0.as_second() - since.0.as_second() < secs;
    match (seen.state, old.state) {
        (RecordState::Unknown, _)
            if old.checked_at.as_ref().is_some_and(|at| within(patience.hold_secs, at)) =>
        {
            old.clone()
        }
        (RecordState::Missing | RecordState::Mismatch, RecordState::Found) => {
            let since = old.doubted_since.as_ref().unwrap_or(now);
            let doubted = || DnsRecord { doubted_since: Some(since.clone()), ..old.clone() };
            if within(patience.doubt_secs, since) { doubted() } else { seen }
        }
        _ => seen,
    }
}

/// The most octets of what accounts is told that a domain lacks.
const UNREADY_OCTETS_MAX: usize = 512;

/// What accounts is told that the domain lacks, from what it was told before, and before it is told: that it wasn't is no lack.
pub(crate) fn unready(
    before: Option<&Unready>,
    keys: &[DomainKey],
    records: &[DnsRecord],
    circumstances: &Circumstances,
    now: &Time,
) -> Option<Unready> {
    let verdicts = verdicts(keys, records, circumstances);
    let (ready, parts) = verdicts.split_first()?;
    let signs = keys.iter().any(|key| key.state == DomainKeyState::Active);
    let mut reason = match ready.holds {
        Holds::True => return None,
        // Who isn't told that it lacks anything must have a key that signs.
        Holds::Unknown if signs || before.is_some() => return before.cloned(),
        Holds::Unknown => ready.message.clone(),
        Holds::False => match wanting(DKIM, records).filter(|_| is_first_wanting(DKIM, parts)) {
            // What is said of a key names servers, which may be others at each check.
            Some(record) => format!(
                "{} {} isn't at all servers of its zone yet as it should be; status.records has its value",
                record.r#type, record.name
            ),
            None => ready.message.clone(),
        },
    };
    reason.truncate(reason.floor_char_boundary(UNREADY_OCTETS_MAX));
    let since = before.map_or_else(|| now.clone(), |before| before.since.clone());
    Some(Unready { reason, since })
}

fn is_first_wanting(kind: &str, verdicts: &[Verdict]) -> bool {
    let wants = |verdict: &&Verdict| REQUIRED.contains(&verdict.kind) && verdict.holds == Holds::False;
    verdicts.iter().find(wants).is_some_and(|verdict| verdict.kind == kind)
}

/// What else there is to say than what DNS says.
pub(crate) struct Circumstances {
    /// Who has the domain, if it is another.
    pub(crate) rival: Option<Holder>,
    /// Why there are no keys, if there aren't.
    pub(crate) no_key: Option<String>,
    /// Why accounts doesn't know the domain, though it should: a reason and a message.
    pub(crate) untold: Option<(&'static str, String)>,
}

/// All conditions, Ready first.
pub(crate) fn verdicts(
    keys: &[DomainKey],
    records: &[DnsRecord],
    circumstances: &Circumstances,
) -> Vec<Verdict> {
    let mut verdicts = vec![claimed(circumstances), key_ready(keys, circumstances)];
    for kind in REQUIRED.into_iter().skip(2).chain(FOR_INFORMATION) {
        verdicts.push(published(kind, records));
    }
    let wanting = verdicts.iter().filter(|verdict| REQUIRED.contains(&verdict.kind));
    let first = wanting
        .clone()
        .find(|verdict| verdict.holds == Holds::False)
        .or_else(|| wanting.clone().find(|verdict| verdict.holds == Holds::Unknown));
    let signs = keys.iter().any(|key| key.state == DomainKeyState::Active);
    let ready = match (first, &circumstances.untold) {
        (Some(verdict), _) => Verdict { kind: "Ready", ..verdict.clone() },
        (None, Some((reason, message))) => Verdict::new("Ready", Holds::False, reason, message.clone()),
        (None, None) if !signs => {
            Verdict::new("Ready", Holds::False, "KeyNotActive", "the first key is about to sign")
        }
        (None, None) => {
            Verdict::new("Ready", Holds::True, "Complete", "mail from the domain is signed and passes")
        }
    };
    verdicts.insert(0, ready);
    verdicts
}

fn claimed(circumstances: &Circumstances) -> Verdict {
    match &circumstances.rival {
        Some(Holder { namespace, name }) => {
            let text = format!(
                "SendingDomain {namespace}/{name} has the domain: it is older; delete it or this one"
            );
            Verdict::new("Claimed", Holds::False, "DomainClaimed", text)
        }
        None => Verdict::new("Claimed", Holds::True, "Oldest", "no older object names the domain"),
    }
}

fn key_ready(keys: &[DomainKey], circumstances: &Circumstances) -> Verdict {
    if let Some(why) = &circumstances.no_key {
        return Verdict::new("KeyReady", Holds::False, "NoKey", why.clone());
    }
    let made: Vec<&str> = keys
        .iter()
        .filter(|key| !matches!(key.state, DomainKeyState::Generating | DomainKeyState::Retired))
        .map(|key| key.selector.as_str())
        .collect();
    if made.is_empty() {
        return Verdict::new("KeyReady", Holds::False, "Generating", "keys are being made");
    }
    Verdict::new("KeyReady", Holds::True, "Made", format!("keys: {}", made.join(", ")))
}

/// The records that decide whether a condition holds.
fn counted<'a>(kind: &str, records: &'a [DnsRecord]) -> impl Iterator<Item = &'a DnsRecord> + Clone {
    let always = !REQUIRED.contains(&kind);
    let counts = move |record: &&DnsRecord| record.condition == kind && (record.required || always);
    records.iter().filter(counts)
}

/// The record because of which a condition doesn't hold.
fn wanting<'a>(kind: &str, records: &'a [DnsRecord]) -> Option<&'a DnsRecord> {
    let first = |state| counted(kind, records).find(|record| record.state == state);
    first(RecordState::Mismatch).or_else(|| first(RecordState::Missing))
}

fn published(kind: &'static str, records: &[DnsRecord]) -> Verdict {
    let mut counted = counted(kind, records);
    let (holds, reason, record) = if let Some(record) = wanting(kind, records) {
        let reason = if record.state == RecordState::Mismatch { "RecordMismatch" } else { "RecordMissing" };
        (Holds::False, reason, record)
    } else if let Some(record) = counted.clone().find(|record| record.state == RecordState::Unknown) {
        (Holds::Unknown, "LookupFailed", record)
    } else if let Some(record) = counted.next() {
        (Holds::True, "RecordFound", record)
    } else {
        return match records.iter().find(|record| record.condition == kind) {
            Some(record) => Verdict::new(kind, Holds::True, "Optional", record.message.clone()),
            None => Verdict::new(kind, Holds::Unknown, "NotChecked", "DNS hasn't been asked yet"),
        };
    };
    Verdict::new(kind, holds, reason, record.message.clone())
}
