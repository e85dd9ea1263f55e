//! Making `DKIM-Signature` fields.

use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256, digest};

use crate::{
    body::BodyHash,
    header::{Field, HeaderFlaw, SignedFields, canonicalise},
    key::SigningKey,
};

/// The longest header section that is signed: 1 MiB. Whoever accepts messages keeps to less, so that nothing is
/// accepted that can't be signed.
pub const HEADER_OCTETS_MAX: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("cannot sign the message: its header has {0} octets, more than {HEADER_OCTETS_MAX}")]
    HeaderTooLong(usize),
    #[error("cannot sign the message: line {line} of its header: {flaw}")]
    Header { line: usize, flaw: HeaderFlaw },
    /// RFC 6376 section 5.4: From must be signed.
    #[error("cannot sign the message: it has no From field")]
    NoFrom,
    #[error("cannot sign the message: no signing key was given")]
    NoSigner,
    #[error("cannot sign the message: the signature would expire before it is made")]
    Expiry,
    #[error("cannot sign the message: the key for {domain} failed")]
    Key { domain: Arc<str> },
    /// The signing thread panicked on this message; it goes on with the next.
    #[error("cannot sign the message: the signer failed on it")]
    Panicked,
}

#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("{0:?} is not a domain name that can sign (letters, digits and hyphens; no final dot)")]
    Domain(String),
    #[error("{0:?} is not a selector (letters, digits and hyphens, in parts separated by dots)")]
    Selector(String),
    #[error("{selector}._domainkey.{domain} is longer than a domain name can be")]
    TooLong { domain: String, selector: String },
}

/// Who signs: the `d=` and `s=` tags and the key that `<selector>._domainkey.<domain>` publishes.
#[derive(Clone, Debug)]
pub struct Signer {
    domain: Arc<str>,
    selector: Arc<str>,
    key: Arc<SigningKey>,
}

impl Signer {
    /// `domain` is in ASCII (A-labels); both names are kept in lower case, as DNS compares them.
    ///
    /// # Errors
    /// [`SignerError`] when either isn't a name by RFC 6376 section 3.5, or both together are too long.
    pub fn new(domain: &str, selector: &str, key: Arc<SigningKey>) -> Result<Self, SignerError> {
        if !is_name(domain) {
            return Err(SignerError::Domain(domain.to_owned()));
        }
        if !is_name(selector) {
            return Err(SignerError::Selector(selector.to_owned()));
        }
        let (domain, selector) = (domain.to_ascii_lowercase(), selector.to_ascii_lowercase());
        if selector.len() + "._domainkey.".len() + domain.len() > 253 {
            return Err(SignerError::TooLong { domain, selector });
        }
        Ok(Self { domain: domain.into(), selector: selector.into(), key })
    }

    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    #[must_use]
    pub fn selector(&self) -> &str {
        &self.selector
    }

    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.key
    }
}

fn is_name(name: &str) -> bool {
    name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// Signs with one key. `header` is the raw header section: all fields, each ended by CR LF, without the empty line;
/// times are seconds since 1970. Returns the whole field, folded, CR LF included, to be put on top of the header.
///
/// # Errors
/// [`SignError`] says why the message can't be signed; trying again doesn't help.
pub fn sign(
    signer: &Signer,
    header: &[u8],
    body_hash: &BodyHash,
    timestamp: u64,
    expiry: Option<u64>,
) -> Result<Vec<u8>, SignError> {
    finish_all(prepare(std::slice::from_ref(signer), header, body_hash, timestamp, expiry)?)
}

/// Signs with each key and returns the fields one after the other. None covers another: a verifier that knows only
/// one of the algorithms, or a receiver that strips one, still finds the other intact.
///
/// # Errors
/// As [`sign`]; and [`SignError::NoSigner`] for no signers, because nothing may leave unsigned by mistake.
pub fn sign_all(
    signers: &[Signer],
    header: &[u8],
    body_hash: &BodyHash,
    timestamp: u64,
) -> Result<Vec<u8>, SignError> {
    finish_all(prepare(signers, header, body_hash, timestamp, None)?)
}

fn finish_all(unsigned: Vec<Unsigned>) -> Result<Vec<u8>, SignError> {
    let mut fields = Vec::new();
    for unsigned in unsigned {
        let field = unsigned.finish()?;
        if fields.is_empty() {
            fields = field;
        } else {
            fields.extend_from_slice(&field);
        }
    }
    Ok(fields)
}

/// The cheap half of signing: chooses and canonicalises the fields once for all signers, and hashes them.
///
/// # Errors
/// As [`sign_all`], but for the keys' own failures.
pub fn prepare(
    signers: &[Signer],
    header: &[u8],
    body_hash: &BodyHash,
    timestamp: u64,
    expiry: Option<u64>,
) -> Result<Vec<Unsigned>, SignError> {
    if signers.is_empty() {
        return Err(SignError::NoSigner);
    }
    if header.len() > HEADER_OCTETS_MAX {
        return Err(SignError::HeaderTooLong(header.len()));
    }
    if expiry.is_some_and(|expiry| expiry <= timestamp) {
        return Err(SignError::Expiry);
    }
    let fields = SignedFields::select(header).map_err(|(line, flaw)| SignError::Header { line, flaw })?;
    if !fields.has_from {
        return Err(SignError::NoFrom);
    }
    let SignedFields { names, canonical: mut input, .. } = fields;
    let body_hash = body_hash.to_base64();
    let shared = input.len();
    let prepared = signers.iter().map(|signer| {
        let field = compose(signer, &names, &body_hash, timestamp, expiry);
        input.truncate(shared);
        digest_input(&mut input, &field);
        Unsigned { field, digest: digest(&SHA256, &input), signer: signer.clone() }
    });
    Ok(prepared.collect())
}

/// A signature field that lacks its signature.
pub struct Unsigned {
    /// Up to and including `b=`.
    field: Vec<u8>,
    digest: Digest,
    signer: Signer,
}

impl Unsigned {
    /// The dear half of signing: about a millisecond of CPU for an RSA key, so it belongs on a thread of its own
    /// (see [`SigningPool`](crate::pool::SigningPool)).
    ///
    /// # Errors
    /// [`SignError::Key`] when the cryptographic library fails.
    pub fn finish(self) -> Result<Vec<u8>, SignError> {
        let Self { field, digest, signer } = self;
        let signature =
            signer.key.sign_digest(&digest).map_err(|_| SignError::Key { domain: signer.domain.clone() })?;
        let mut field = Folded::resume(field);
        field.base64(&signature);
        Ok(field.finish())
    }
}

/// Appends what the signature covers of its own field: canonical, the `b=` tag empty, no CR LF at the end
/// (RFC 6376 section 3.7).
fn digest_input(input: &mut Vec<u8>, field: &[u8]) {
    let (name, value) = field.split_at(NAME.len());
    canonicalise(&Field { name, value: &value[1..] }, input);
    input.truncate(input.len() - 2);
}

const NAME: &str = "DKIM-Signature";

/// The field up to and including `b=`, which is last so that the signature can simply be appended.
fn compose(signer: &Signer, names: &[&str], body_hash: &str, timestamp: u64, expiry: Option<u64>) -> Vec<u8> {
    let mut field = Folded::resume(Vec::with_capacity(1536));
    field.word("DKIM-Signature: v=1;");
    field.tag(&["a=", signer.key.algorithm().as_str(), ";"]);
    field.tag(&["c=relaxed/relaxed;"]);
    field.tag(&["d=", &signer.domain, ";"]);
    field.tag(&["s=", &signer.selector, ";"]);
    field.tag(&["t=", &timestamp.to_string(), ";"]);
    if let Some(expiry) = expiry {
        field.tag(&["x=", &expiry.to_string(), ";"]);
    }
    for (place, name) in names.iter().enumerate() {
        let after = if place + 1 == names.len() { ";" } else { ":" };
        if place == 0 {
            field.tag(&["h=", name, after]);
        } else {
            field.part(name, after);
        }
    }
    field.tag(&["bh=", body_hash, ";"]);
    field.tag(&["b="]);
    field.finish_unended()
}

/// Octets in a line, without its CR LF: the length that RFC 5322 section 2.1.1 recommends. A name that is longer
/// by itself stands on a line of its own.
const LINE_OCTETS: usize = 78;

/// Text in lines, folded only where RFC 6376 section 3.2 allows white space: between tags, after a colon of `h=`,
/// within base64.
struct Folded {
    text: Vec<u8>,
    column: usize,
}

impl Folded {
    fn resume(text: Vec<u8>) -> Self {
        let column = text.iter().rev().take_while(|octet| **octet != b'\n').count();
        Self { text, column }
    }

    fn word(&mut self, word: &str) {
        self.text.extend_from_slice(word.as_bytes());
        self.column += word.len();
    }

    fn fold(&mut self) {
        self.text.extend_from_slice(b"\r\n\t");
        self.column = 1;
    }

    /// A tag with its semicolon, after a space or a fold.
    fn tag(&mut self, parts: &[&str]) {
        let octets: usize = parts.iter().map(|part| part.len()).sum();
        if self.column + 1 + octets > LINE_OCTETS {
            self.fold();
        } else {
            self.word(" ");
        }
        parts.iter().for_each(|part| self.word(part));
    }

    /// A further part of a tag's value, after a fold if need be.
    fn part(&mut self, part: &str, after: &str) {
        if self.column + part.len() + after.len() > LINE_OCTETS {
            self.fold();
        }
        self.word(part);
        self.word(after);
    }

    fn base64(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            if self.column >= LINE_OCTETS {
                self.fold();
            }
            let (line, tail) = rest.split_at(rest.len().min(LINE_OCTETS - self.column));
            self.word(line);
            rest = tail;
        }
    }

    fn finish_unended(self) -> Vec<u8> {
        self.text
    }

    fn finish(mut self) -> Vec<u8> {
        self.text.extend_from_slice(b"\r\n");
        self.text
    }
}
