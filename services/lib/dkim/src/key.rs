//! Signing keys and the DNS records that publish them.

use std::fmt;

use aws_lc_rs::{
    digest::Digest,
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    error::{KeyRejected, Unspecified},
    rsa::KeySize,
    signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// How a signature is made. SHA-1 is not among them (RFC 8301 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `rsa-sha256`: every verifier knows it.
    RsaSha256,
    /// `ed25519-sha256` (RFC 8463): small and fast, but not yet known to every verifier, so it goes beside an RSA
    /// signature and not instead of one.
    Ed25519Sha256,
}

impl Algorithm {
    /// The value of the `a=` tag.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot generate a key for {0}")]
    Generate(Algorithm),
    /// The octets are not an unencrypted PKCS#8 key of that algorithm; an RSA key has 2048 to 8192 bits.
    #[error("not a usable PKCS#8 private key for {algorithm}")]
    Rejected { algorithm: Algorithm, source: KeyRejected },
    #[error("cannot encode a key for {0}")]
    Encode(Algorithm),
}

/// A private key with its public record. Share it by `Arc`: it is made once and read by every thread.
pub struct SigningKey {
    pair: Pair,
    record: String,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// A new key; RSA keys have 2048 bits (RFC 8301 section 3.2) and take a good part of a second of CPU to find.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the system gives no random octets.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let failed = |_: Unspecified| KeyError::Generate(algorithm);
        Self::new(match algorithm {
            Algorithm::RsaSha256 => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?),
            Algorithm::Ed25519Sha256 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
        })
    }

    /// Reads an unencrypted PKCS#8 key (RFC 5208), as [`SigningKey::to_pkcs8_der`] and `openssl genpkey` write it.
    ///
    /// # Errors
    /// [`KeyError::Rejected`] when it is not one of that algorithm, or an RSA key under 2048 bits.
    pub fn from_pkcs8_der(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyError> {
        let rejected = |source: KeyRejected| KeyError::Rejected { algorithm, source };
        Self::new(match algorithm {
            Algorithm::RsaSha256 => Pair::Rsa(RsaKeyPair::from_pkcs8(der).map_err(rejected)?),
            Algorithm::Ed25519Sha256 => Pair::Ed25519(Ed25519KeyPair::from_pkcs8(der).map_err(rejected)?),
        })
    }

    fn new(pair: Pair) -> Result<Self, KeyError> {
        let record = match &pair {
            Pair::Rsa(pair) => {
                let public: PublicKeyX509Der<'_> = pair
                    .public_key()
                    .as_der()
                    .map_err(|_: Unspecified| KeyError::Encode(Algorithm::RsaSha256))?;
                format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(public.as_ref()))
            }
            Pair::Ed25519(pair) => {
                format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(pair.public_key().as_ref()))
            }
        };
        Ok(Self { pair, record })
    }

    /// The private key as unencrypted PKCS#8, wiped from memory when it is dropped.
    ///
    /// # Errors
    /// [`KeyError::Encode`] when the cryptographic library cannot write it.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let der: Result<Pkcs8V1Der<'_>, Unspecified> = match &self.pair {
            Pair::Rsa(pair) => pair.as_der(),
            Pair::Ed25519(pair) => pair.as_der(),
        };
        let der = der.map_err(|_| KeyError::Encode(self.algorithm()))?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Rsa(_) => Algorithm::RsaSha256,
            Pair::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }

    /// The text of the TXT record at `<selector>._domainkey.<domain>` (RFC 6376 section 3.6.1, RFC 8463 section 4).
    #[must_use]
    pub fn public_record(&self) -> String {
        self.record.clone()
    }

    /// Signs a SHA-256 digest; the signature is in base64. Ed25519 takes the digest as its message (RFC 8463
    /// section 3).
    pub(crate) fn sign_digest(&self, digest: &Digest) -> Result<String, Unspecified> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PKCS1_SHA256, digest, &mut signature)?;
                Ok(STANDARD.encode(signature))
            }
            Pair::Ed25519(pair) => Ok(STANDARD.encode(pair.try_sign(digest.as_ref())?)),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Cuts a TXT record's text into the strings of at most 255 octets that a zone file holds (RFC 1035 section 3.3.14);
/// readers join them again (RFC 6376 section 3.6.2.2).
#[must_use]
pub fn txt_chunks(record: &str) -> Vec<String> {
    let mut chunks = Vec::with_capacity(record.len().div_ceil(255));
    let mut rest = record;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(rest.floor_char_boundary(255));
        chunks.push(chunk.to_owned());
        rest = tail;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_after_a_trip_through_pkcs8() {
        for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
            let key = SigningKey::generate(algorithm).unwrap();
            let der = key.to_pkcs8_der().unwrap();
            let read = SigningKey::from_pkcs8_der(algorithm, &der).unwrap();
            assert_eq!(read.public_record(), key.public_record());
            assert_eq!(read.to_pkcs8_der().unwrap(), der);
            assert_eq!(read.algorithm(), algorithm);
        }
    }

    #[test]
    fn the_record_of_an_ed25519_key_holds_its_32_octets() {
        let record = SigningKey::generate(Algorithm::Ed25519Sha256).unwrap().public_record();
        let public = record.strip_prefix("v=DKIM1; k=ed25519; p=").unwrap();
        assert_eq!(STANDARD.decode(public).unwrap().len(), 32);
    }

    #[test]
    fn the_record_of_an_rsa_key_holds_a_subject_public_key_info() {
        let record = SigningKey::generate(Algorithm::RsaSha256).unwrap().public_record();
        let public = record.strip_prefix("v=DKIM1; k=rsa; p=").unwrap();
        let der = STANDARD.decode(public).unwrap();
        assert_eq!(der.len(), 294);
        assert_eq!(der[..4], [0x30, 0x82, 0x01, 0x22]);
    }

    #[test]
    fn a_key_of_the_other_algorithm_is_refused() {
        let der = SigningKey::generate(Algorithm::Ed25519Sha256).unwrap().to_pkcs8_der().unwrap();
        let error = SigningKey::from_pkcs8_der(Algorithm::RsaSha256, &der).unwrap_err();
        assert_eq!(error.to_string(), "not a usable PKCS#8 private key for rsa-sha256");
        assert!(SigningKey::from_pkcs8_der(Algorithm::Ed25519Sha256, b"").is_err());
    }

    #[test]
    fn the_private_key_is_not_in_the_debug_text() {
        let key = SigningKey::generate(Algorithm::Ed25519Sha256).unwrap();
        assert_eq!(format!("{key:?}"), format!("SigningKey {{ record: {:?}, .. }}", key.public_record()));
    }

    #[test]
    fn the_chunks_of_a_record_are_short_and_join_to_it() {
        let record = SigningKey::generate(Algorithm::RsaSha256).unwrap().public_record();
        let chunks = txt_chunks(&record);
        assert_eq!(chunks.iter().map(String::len).collect::<Vec<_>>(), [255, record.len() - 255]);
        assert_eq!(chunks.concat(), record);
        assert!(txt_chunks("").is_empty());
        assert_eq!(txt_chunks(&"ä".repeat(200)).iter().map(String::len).collect::<Vec<_>>(), [254, 146]);
    }
}
