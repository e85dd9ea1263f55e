//! Making `DKIM-Signature` fields.

use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256, digest};

use crate::{
    body::BodyHash,
    fold::Folded,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, BodyHasher, header::fields};

    const TIME: u64 = 1_764_000_000;

    fn signer(domain: &str, selector: &str) -> Signer {
        let key = SigningKey::generate(Algorithm::Ed25519Sha256).unwrap();
        Signer::new(domain, selector, Arc::new(key)).unwrap()
    }

    fn no_body() -> BodyHash {
        BodyHasher::new().finish()
    }

    /// The example of RFC 8463 appendix A: key, message and signature as they stand there.
    #[test]
    fn the_ed25519_signature_of_rfc_8463_is_made_again() {
        let unsigned = b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n \
            d=football.example.com; i=@football.example.com;\r\n \
            q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n \
            subject : date : message-id : from : subject : date;\r\n \
            bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
        let message = b"From: Joe SixPack <joe@football.example.com>\r\n\
            To: Suzie Q <suzie@shopping.example.net>\r\n\
            Subject: Is dinner ready?\r\n\
            Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
            Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n";
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let mut der = hex("302e020100300506032b657004220420");
        der.extend(hex(seed));
        let key = SigningKey::from_pkcs8_der(Algorithm::Ed25519Sha256, &der).unwrap();
        assert_eq!(key.public_record(), "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");

        let mut input = Vec::new();
        fields(message).for_each(|field| canonicalise(&field.unwrap(), &mut input));
        digest_input(&mut input, unsigned);
        assert_eq!(
            key.sign_digest(&digest(&SHA256, &input)).unwrap(),
            "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
        );
    }

    fn hex(digits: &str) -> Vec<u8> {
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    #[test]
    fn the_field_says_who_signed_what_and_how() {
        let signer = signer("example.com", "s1");
        let field = sign(&signer, b"From: a@example.com\r\n", &no_body(), TIME, Some(TIME + 1)).unwrap();
        let field = String::from_utf8(field).unwrap();
        let (head, signature) = field.rsplit_once("b=").unwrap();
        assert_eq!(
            head,
            "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.com; s=s1;\r\n\
             \tt=1764000000; x=1764000001; h=From:From:Reply-To:To:Cc:Subject:Date:\r\n\
             \tMessage-ID:In-Reply-To:References:MIME-Version:Content-Type:\r\n\
             \tContent-Transfer-Encoding; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n\t"
        );
        assert_eq!(signature.replace("\r\n\t", "").len(), 88 + 2, "64 octets in base64, and CR LF");
    }

    #[test]
    fn no_line_is_longer_than_78_octets_unless_a_name_is() {
        let key = Arc::new(SigningKey::generate(Algorithm::RsaSha256).unwrap());
        let long = format!("{0}.{0}.example.com", "a".repeat(63));
        for (domain, longest) in
            [("example.com", 78), ("a-rather-long-name.of-a-department.example.com", 78), (&long, 143)]
        {
            let signer = Signer::new(domain, "selector2026", Arc::clone(&key)).unwrap();
            let header = b"From: a\r\nTo: b\r\nList-Unsubscribe: <c>\r\nList-Unsubscribe-Post: d\r\n";
            let field = sign(&signer, header, &no_body(), TIME, None).unwrap();
            let field = String::from_utf8(field).unwrap();
            assert_eq!(field.lines().map(str::len).max().unwrap(), longest, "{field}");
            assert!(field.ends_with("\r\n") && !field.contains("\r\n\r\n"), "{field}");
            assert!(field.lines().skip(1).all(|line| line.starts_with('\t') && line.len() > 1), "{field}");
        }
    }

    #[test]
    fn names_are_signed_in_lower_case() {
        let field = sign(&signer("Sender.TEST", "S1"), b"From: A@SENDER.TEST\r\n", &no_body(), TIME, None);
        let field = String::from_utf8(field.unwrap()).unwrap();
        assert!(field.contains(" d=sender.test;") && field.contains(" s=s1;"), "{field}");
    }

    #[test]
    fn names_that_could_break_the_field_are_refused() {
        let key = Arc::new(SigningKey::generate(Algorithm::Ed25519Sha256).unwrap());
        let long = [&*"a".repeat(63); 4].join(".");
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a;b",
            "a\r\nb",
            "-a",
            "a-",
            "a_b",
            "m\u{fc}nchen.test",
            &long,
        ] {
            let domain = Signer::new(name, "s", Arc::clone(&key));
            assert!(matches!(domain, Err(SignerError::Domain(_) | SignerError::TooLong { .. })), "{name:?}");
            let selector = Signer::new("example.com", name, Arc::clone(&key));
            assert!(
                matches!(selector, Err(SignerError::Selector(_) | SignerError::TooLong { .. })),
                "{name:?}"
            );
        }
        assert!(Signer::new("xn--mnchen-3ya.test", "2026.mail-1", key).is_ok());
    }

    #[test]
    fn what_cant_be_signed_is_refused_with_a_reason() {
        let signer = signer("example.com", "s");
        let refused = |header: &[u8]| sign(&signer, header, &no_body(), TIME, None).unwrap_err().to_string();
        assert_eq!(refused(b""), "cannot sign the message: it has no From field");
        assert_eq!(refused(b"To: a@b\r\n"), "cannot sign the message: it has no From field");
        assert_eq!(
            refused(b"From: a@b\r\nhello\r\n"),
            "cannot sign the message: line 2 of its header: no colon after the field's name"
        );
        assert_eq!(refused(b"From: a\0\r\n"), "cannot sign the message: line 1 of its header: a NUL");
        assert_eq!(
            refused(&vec![b'a'; HEADER_OCTETS_MAX + 1]),
            "cannot sign the message: its header has 1048577 octets, more than 1048576"
        );
        let from = b"From: a@b\r\n";
        assert!(matches!(sign(&signer, from, &no_body(), TIME, Some(TIME)), Err(SignError::Expiry)));
        assert!(matches!(sign_all(&[], from, &no_body(), TIME), Err(SignError::NoSigner)));
    }

    #[test]
    fn the_longest_header_is_signed() {
        let signer = signer("example.com", "s");
        for field in ["X-A: b\r\n", "To: b\r\n", "A:\r\n", " b\r\n"] {
            let mut header = b"From: a@b\r\nSubject:\r\n c\r\n".to_vec();
            while header.len() + field.len() <= HEADER_OCTETS_MAX {
                header.extend_from_slice(field.as_bytes());
            }
            assert!(sign(&signer, &header, &no_body(), TIME, None).is_ok(), "{field:?}");
        }
    }
}
