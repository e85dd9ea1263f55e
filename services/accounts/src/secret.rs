//! Secrets that we make, ids, and passwords that people choose.

use std::fmt::Write as _;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use aws_lc_rs::digest;

/// Letters and digits that can't be taken for one another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// `length` characters of 5 random bits each.
pub(crate) fn random_text(length: usize) -> String {
    (0..length)
        .map(|_| {
            let [octet] = runtime::random::<1>();
            char::from(ALPHABET[usize::from(octet & 31)])
        })
        .collect()
}

/// A secret of 160 bits.
pub(crate) fn new_secret() -> String {
    format!("sp_{}", random_text(32))
}

/// SHA-256 in hexadecimal.
pub(crate) fn fingerprint(secret: &[u8]) -> String {
    to_hex(digest::digest(&digest::SHA256, secret).as_ref())
}

/// argon2id with the default cost, as a PHC string. Takes tens of milliseconds and 19 MiB.
pub(crate) fn hash_password(password: &[u8]) -> Result<String, String> {
    Argon2::default().hash_password(password).map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// Compares at the cost that the hash names.
pub(crate) fn is_password(password: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

pub(crate) fn to_hex(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets {
        let _ = write!(text, "{octet:02x}");
    }
    text
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_comes_back() {
        assert_eq!(from_hex(&to_hex(&[0, 15, 255])).unwrap(), [0, 15, 255]);
        assert_eq!((from_hex("abc"), from_hex("zz")), (None, None));
    }

    #[test]
    fn a_password_is_told_from_another() {
        let hash = hash_password(b"correct").unwrap();
        assert!(
            is_password(b"correct", &hash) && !is_password(b"wrong", &hash) && !is_password(b"correct", "x")
        );
    }

    #[test]
    fn secrets_carry_160_bits() {
        assert_eq!(new_secret().len(), 3 + 160 / 5);
        assert_ne!(new_secret(), new_secret());
    }
}
