//! Signing keys at rest: AES-256-GCM with a key from a file of its own.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::secret::{from_hex, to_hex};

/// What is sealed can't be opened, or the sealing key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key's file can't be read or made.
    #[error("can't {attempt} the sealing key {path}: {source}")]
    File {
        /// `read` or `make`.
        attempt: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("the sealing key {path} must be 64 hexadecimal digits")]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
    /// It was sealed with another key, or is damaged.
    #[error(
        "the signing key {what} can't be unsealed: the sealing key isn't the one that sealed it, or the entry is damaged"
    )]
    Unsealable {
        /// Selector and domain.
        what: String,
    },
}

pub(crate) struct Seal(LessSafeKey);

impl Seal {
    pub(crate) fn load_or_make(path: &Path) -> Result<Self, SealError> {
        let file = |attempt| move |source| SealError::File { attempt, path: path.into(), source };
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut made) => {
                let key = Zeroizing::new(runtime::random::<32>());
                let text = Zeroizing::new(to_hex(key.as_slice()));
                made.write_all(text.as_bytes()).and_then(|()| made.sync_all()).map_err(file("make"))?;
                Self::new(key.as_slice(), path)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let text = Zeroizing::new(std::fs::read_to_string(path).map_err(file("read"))?);
                let key = from_hex(text.trim()).map(Zeroizing::new);
                Self::new(&key.unwrap_or_default(), path)
            }
            Err(error) => Err(file("make")(error)),
        }
    }

    fn new(key: &[u8], path: &Path) -> Result<Self, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, key);
        key.map(|key| Self(LessSafeKey::new(key))).map_err(|_| SealError::Malformed { path: path.into() })
    }

    /// Seals a key; `what` names it and must be the same when it is unsealed.
    pub(crate) fn seal(&self, what: &str, plain: &[u8]) -> Result<String, SealError> {
        let nonce = runtime::random::<NONCE_LEN>();
        let mut octets = plain.to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(what), &mut octets)
            .map_err(|_| SealError::Unsealable { what: what.into() })?;
        Ok(to_hex(&nonce) + &to_hex(&octets))
    }

    pub(crate) fn unseal(&self, what: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let wrong = || SealError::Unsealable { what: what.into() };
        let octets = from_hex(sealed).ok_or_else(wrong)?;
        let (nonce, body) = octets.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.0.open_in_place(nonce, Aad::from(what), &mut body).map_err(|_| wrong())?.len();
        body.truncate(length);
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_name_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let seal = Seal::load_or_make(&path).unwrap();
        let sealed = seal.seal("s of example.com", b"secret").unwrap();
        let again = Seal::load_or_make(&path).unwrap();
        assert_eq!(*again.unseal("s of example.com", &sealed).unwrap(), b"secret");
        assert!(again.unseal("t of example.com", &sealed).is_err());
        let other = Seal::load_or_make(&folder.path().join("other")).unwrap();
        assert!(other.unseal("s of example.com", &sealed).is_err());
        std::fs::write(&path, "abc").unwrap();
        assert!(matches!(Seal::load_or_make(&path), Err(SealError::Malformed { .. })));
    }
}
