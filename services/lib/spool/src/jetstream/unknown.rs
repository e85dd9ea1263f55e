//! Fields that a later version wrote into a record: they stay with the job while this version carries it on, so that the later
//! one finds them again. What must not be carried out without being understood is said in a way that makes a record unreadable.

use std::collections::BTreeMap;

/// The greatest numbers of fields that this version knows.
const JOB: u64 = 6;
const MESSAGE: u64 = 21;
const STATE: u64 = 12;
const RECIPIENT: u64 = 4;
/// Fields of a job, of its state, and of what a recipient and a result hold, that are messages themselves.
const JOB_MESSAGE: u64 = 1;
const JOB_STATE: u64 = 2;
const STATE_RECIPIENT: u64 = 3;
const STATE_RESULT: u64 = 4;
const RESULT_RECIPIENT: u64 = 1;
const RECIPIENT_ADDRESS: u64 = 1;

/// Octets of fields that this version doesn't know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    job: Vec<u8>,
    message: Vec<u8>,
    state: Vec<u8>,
    /// By the recipient's address.
    recipients: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Unknown {
    /// What there is of it in a record (`stagepost.spool.v1.Job`); none in most.
    pub(super) fn of(record: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        for field in fields(record) {
            match field.number {
                JOB_MESSAGE => keep(&mut found.message, field.content, MESSAGE),
                JOB_STATE => found.look_at_state(field.content),
                number if number > JOB => found.job.extend_from_slice(field.whole),
                _ => {}
            }
        }
        (found != Self::default()).then_some(found)
    }

    fn look_at_state(&mut self, state: &[u8]) {
        keep(&mut self.state, state, STATE);
        for field in fields(state) {
            match field.number {
                STATE_RECIPIENT => self.look_at_recipient(field.content),
                STATE_RESULT => {
                    let recipients = fields(field.content).filter(|field| field.number == RESULT_RECIPIENT);
                    recipients.for_each(|field| self.look_at_recipient(field.content));
                }
                _ => {}
            }
        }
    }

    fn look_at_recipient(&mut self, recipient: &[u8]) {
        let mut unknown = Vec::new();
        keep(&mut unknown, recipient, RECIPIENT);
        if !unknown.is_empty() {
            self.recipients.insert(address(recipient).to_vec(), unknown);
        }
    }

    /// What a report of the job takes over: all but what is the job's own state.
    pub(super) fn for_report(&self) -> Self {
        Self { state: Vec::new(), ..self.clone() }
    }

    /// The record with these fields in it.
    pub(super) fn added_to(&self, record: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(record.len() + self.message.len() + self.state.len() + 64);
        for field in fields(record) {
            match field.number {
                JOB_MESSAGE => write(&mut whole, JOB_MESSAGE, &[field.content, &self.message]),
                JOB_STATE => {
                    let state = self.added_to_state(field.content);
                    write(&mut whole, JOB_STATE, &[&state, &self.state]);
                }
                _ => whole.extend_from_slice(field.whole),
            }
        }
        whole.extend_from_slice(&self.job);
        whole
    }

    fn added_to_state(&self, state: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(state.len());
        for field in fields(state) {
            match field.number {
                STATE_RECIPIENT => {
                    write(&mut whole, STATE_RECIPIENT, &[field.content, self.of_recipient(field.content)]);
                }
                STATE_RESULT => {
                    let mut result = Vec::with_capacity(field.content.len());
                    for inner in fields(field.content) {
                        match inner.number {
                            RESULT_RECIPIENT => {
                                let unknown = self.of_recipient(inner.content);
                                write(&mut result, RESULT_RECIPIENT, &[inner.content, unknown]);
                            }
                            _ => result.extend_from_slice(inner.whole),
                        }
                    }
                    write(&mut whole, STATE_RESULT, &[&result]);
                }
                _ => whole.extend_from_slice(field.whole),
            }
        }
        whole
    }

    fn of_recipient(&self, recipient: &[u8]) -> &[u8] {
        self.recipients.get(address(recipient)).map_or(&[], Vec::as_slice)
    }
}

/// Adds the fields of a message whose numbers are above `known`.
fn keep(kept: &mut Vec<u8>, message: &[u8], known: u64) {
    fields(message)
        .filter(|field| field.number > known)
        .for_each(|field| kept.extend_from_slice(field.whole));
}

fn address(recipient: &[u8]) -> &[u8] {
    fields(recipient).find(|field| field.number == RECIPIENT_ADDRESS).map_or(&[], |field| field.content)
}

/// A field as it is encoded (protobuf.dev, "Encoding").
struct Field<'a> {
    number: u64,
    whole: &'a [u8],
    /// Empty for what has no length of its own.
    content: &'a [u8],
}

/// The fields of an encoded message, as far as they can be told apart.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let field = first(rest)?;
        rest = &rest[field.whole.len()..];
        Some(field)
    })
}

fn first(octets: &[u8]) -> Option<Field<'_>> {
    let (key, mut end) = varint(octets)?;
    let mut content: &[u8] = &[];
    match key & 7 {
        0 => end += varint(&octets[end..])?.1,
        1 => end += 8,
        2 => {
            let (length, octets_of_length) = varint(&octets[end..])?;
            let begin = end + octets_of_length;
            end = begin.checked_add(usize::try_from(length).ok()?)?;
            content = octets.get(begin..end)?;
        }
        5 => end += 4,
        _ => return None,
    }
    Some(Field { number: key >> 3, whole: octets.get(..end)?, content })
}

/// A number, and how many octets it takes.
fn varint(octets: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (place, octet) in octets.iter().enumerate().take(10) {
        number |= u64::from(octet & 0x7f) << (7 * place);
        if octet & 0x80 == 0 {
            return Some((number, place + 1));
        }
    }
    None
}

/// Writes a field that has a length.
fn write(to: &mut Vec<u8>, number: u64, content: &[&[u8]]) {
    write_varint(to, number << 3 | 2);
    write_varint(to, content.iter().map(|part| part.len() as u64).sum());
    content.iter().for_each(|part| to.extend_from_slice(part));
}

fn write_varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::spool::v1 as wire;

    use super::*;

    fn recipient(address: &str) -> wire::Recipient {
        let result = wire::Result {
            recipient: None,
            disposition: 3,
            status: "4.2.0".into(),
            remote: Some(wire::Remote {
                host: Some("mx".into()),
                code: 450,
                enhanced: Some("4.2.0".into()),
                text: "later".into(),
            }),
            reason: "later".into(),
            at_ms: 5,
        };
        wire::Recipient {
            address: address.into(),
            notify: Some(7),
            orcpt: Some("rfc822;x".into()),
            last: Some(Box::new(result)),
        }
    }

    /// Every field is there: who adds one must say so above.
    fn job() -> wire::Job {
        let message = wire::Message {
            queue_id: vec![1; 16].into(),
            account_id: "a".into(),
            original_reverse_path: "a@b.example".into(),
            reverse_path: "a@b.example".into(),
            author_domain: "b.example".into(),
            ret: 1,
            envid: Some("e".into()),
            eight_bit: true,
            smtputf8: true,
            message_id: "m".into(),
            header_octets: 1,
            octets: 1 << 40,
            body_hash: vec![2; 32].into(),
            tls: 2,
            tags: vec!["t".into()],
            metadata: vec![wire::Pair { key: "k".into(), value: "v".into() }],
            egress_pool: Some("p".into()),
            accepted_at_ms: 1,
            not_before_ms: Some(2),
            expires_at_ms: 3,
            trace_context: Some("c".into()),
        };
        let result = wire::Result {
            recipient: Some(Box::new(recipient("c@d.example"))),
            disposition: 4,
            ..*recipient("").last.unwrap()
        };
        let state = wire::State {
            number: 1,
            report: Some(2),
            recipients: vec![recipient("a@b.example"), recipient("b@b.example")],
            results: vec![result],
            attempts: 4,
            reason: Some("r".into()),
            due_at_ms: Some(5),
            signature: Some("s".into()),
            reports: 6,
            host: "h".into(),
            hold: Some("o".into()),
            answered: true,
        };
        wire::Job {
            message: Some(message),
            state: Some(state),
            content: Some(vec![b'x'; 300].into()),
            chunk_octets: 7,
            predecessor: Some(wire::Place { stream: "s".into(), sequence: 8 }),
            written_at_ms: 9,
        }
    }

    /// Fields of every form, with numbers that nobody has.
    fn added() -> Unknown {
        let text = |number: u64, text: &str| {
            let mut octets = Vec::new();
            write(&mut octets, number, &[text.as_bytes()]);
            octets
        };
        let mut number = Vec::new();
        write_varint(&mut number, 500 << 3);
        write_varint(&mut number, u64::MAX);
        let fixed = [&[0xf9, 0x3f][..], &[1; 8], &[0xfd, 0x3f], &[2; 4]].concat();
        Unknown {
            job: [text(7, "job"), number].concat(),
            message: [text(22, "message"), fixed].concat(),
            state: text(13, "state"),
            recipients: [("a@b.example", "one"), ("c@d.example", "another")]
                .map(|(address, field)| (address.as_bytes().to_vec(), text(5, field)))
                .into(),
        }
    }

    #[test]
    fn all_that_this_version_writes_is_known() {
        let octets = job().encode_to_vec();
        assert_eq!(Unknown::of(&octets), None);
        assert_eq!(Unknown::default().added_to(&octets), octets);
    }

    #[test]
    fn what_is_unknown_is_found_again_and_changes_nothing_else() {
        let whole = added().added_to(&job().encode_to_vec());
        assert_eq!(wire::Job::decode(&*whole).unwrap(), job());
        assert_eq!(Unknown::of(&whole), Some(added()));
        let report = added().for_report();
        assert_eq!((report.state.len(), report.recipients.len()), (0, 2));
    }

    #[test]
    fn octets_that_are_no_record_hold_nothing() {
        for octets in [&b"\xff\xff\xff"[..], b"\x0a\xff\xff\xff\xff\x7f", b"\x0b", b"\x09\x01", b""] {
            assert_eq!(Unknown::of(octets), None, "{octets:?}");
        }
    }
}
