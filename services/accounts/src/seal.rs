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
    /// Replicas can't make it each for itself.
    #[error(
        "the sealing key {path} isn't there. All replicas need the same one: make it once, with \
         `openssl rand -hex 32 > FILE`, and give the file to each"
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// No file is named.
    #[error(
        "replicas need a sealing key (--accounts-sealing-key FILE), the same for all: make it once, with \
         `openssl rand -hex 32 > FILE`, and give the file to each"
    )]
    Unnamed,
    /// Another key is in use.
    #[error("the sealing key {path} isn't the one that the other replicas seal with, or sealed with before")]
    Other {
        /// Which file.
        path: PathBuf,
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

/// What is sealed to tell one key from another, and its name.
const KNOWN: (&str, &[u8]) = ("the sealing key's check", b"stagepost accounts");

pub(crate) struct Seal {
    key: LessSafeKey,
    path: PathBuf,
}

impl Seal {
    /// The key in a file that must be there.
    pub(crate) fn load(path: &Path) -> Result<Self, SealError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&Zeroizing::new(text), path),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(SealError::Missing { path: path.into() })
            }
            Err(source) => Err(SealError::File { attempt: "read", path: path.into(), source }),
        }
    }

    pub(crate) fn load_or_make(path: &Path) -> Result<Self, SealError> {
        let file = |attempt| move |source| SealError::File { attempt, path: path.into(), source };
        match Self::load(path) {
            Err(SealError::Missing { .. }) => {
                let key = Zeroizing::new(runtime::random::<32>());
                let text = Zeroizing::new(to_hex(key.as_slice()));
                make_file(path, text.as_bytes()).map_err(file("make"))?;
                // Somebody else may have been quicker: what the file holds is the key.
                let text = Zeroizing::new(fs::read_to_string(path).map_err(file("read"))?);
                Self::parse(&text, path)
            }
            loaded => loaded,
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, SealError> {
        let key = from_hex(text.trim()).map(Zeroizing::new);
        Self::new(&key.unwrap_or_default(), path)
    }

    fn new(key: &[u8], path: &Path) -> Result<Self, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, key);
        let malformed = |_| SealError::Malformed { path: path.into() };
        key.map(|key| Self { key: LessSafeKey::new(key), path: path.into() }).map_err(malformed)
    }

    /// What [`Seal::check`] knows again.
    pub(crate) fn sealed_check(&self) -> Result<String, SealError> {
        let (what, text) = KNOWN;
        self.seal(what, text)
    }

    /// Fails when another key made it.
    pub(crate) fn check(&self, sealed: &str) -> Result<(), SealError> {
        match self.unseal(KNOWN.0, sealed) {
            Ok(_) => Ok(()),
            Err(_) => Err(SealError::Other { path: self.path.clone() }),
        }
    }

    /// Seals a key; `what` names it and must be the same when it is unsealed.
    pub(crate) fn seal(&self, what: &str, plain: &[u8]) -> Result<String, SealError> {
        let nonce = runtime::random::<NONCE_LEN>();
        let mut octets = plain.to_vec();
        self.key
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
        let length = self.key.open_in_place(nonce, Aad::from(what), &mut body).map_err(|_| wrong())?.len();
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
        let check = seal.sealed_check().unwrap();
        assert!(again.check(&check).is_ok());
        assert!(matches!(other.check(&check), Err(SealError::Other { .. })));
        let missing = Seal::load(&folder.path().join("none")).err().unwrap();
        assert!(missing.to_string().contains("openssl rand -hex 32"), "{missing}");
        fs::write(&path, "abc").unwrap();
        assert!(matches!(Seal::load_or_make(&path), Err(SealError::Malformed { .. })));
    }
}
