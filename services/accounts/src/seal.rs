//! Signing keys at rest: AES-256-GCM with a key from a file of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::secret::{from_hex, random_text, to_hex};

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
        source: io::Error,
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
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&Zeroizing::new(text), path),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = Zeroizing::new(runtime::random::<32>());
                let text = Zeroizing::new(to_hex(key.as_slice()));
                make_file(path, text.as_bytes()).map_err(file("make"))?;
                // Somebody else may have been quicker: what the file holds is the key.
                let text = Zeroizing::new(fs::read_to_string(path).map_err(file("read"))?);
                Self::parse(&text, path)
            }
            Err(error) => Err(file("read")(error)),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, SealError> {
        let key = from_hex(text.trim()).map(Zeroizing::new);
        Self::new(&key.unwrap_or_default(), path)
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

/// Puts a file in place whole or not at all, and never over another. It is on disk before anything is sealed with it:
/// a key that a power cut takes away takes all signing keys along.
fn make_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", random_text(8)));
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = made.write_all(content).and_then(|()| made.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&beside, path));
    fs::remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_name_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let seal = Seal::load_or_make(&path).unwrap();
        let sealed = seal.seal("s of example.com", b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let again = Seal::load_or_make(&path).unwrap();
        assert_eq!(*again.unseal("s of example.com", &sealed).unwrap(), b"secret");
        assert!(again.unseal("t of example.com", &sealed).is_err());
        let other = Seal::load_or_make(&folder.path().join("other")).unwrap();
        assert!(other.unseal("s of example.com", &sealed).is_err());
        fs::write(&path, "abc").unwrap();
        assert!(matches!(Seal::load_or_make(&path), Err(SealError::Malformed { .. })));
    }
}
