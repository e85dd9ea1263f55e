//! TLS of our own listeners: a certificate chain and key from files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const CHECK_EVERY: Duration = Duration::from_secs(10);

/// The certificate or the key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read or holds no PEM of the kind that is needed.
    #[error("can't read {what} from {path}: {source}")]
    Read {
        /// `certificate chain` or `private key`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("{path} holds no certificate")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// Certificate and key don't fit, or one of them is of an unknown kind.
    #[error("certificate {certificate} and key {key} can't be used together: {source}")]
    Unusable {
        /// The chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// A listener's TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<(Arc<ServerConfig>, [Option<SystemTime>; 2])>,
}

impl ServerTls {
    /// Reads a PEM chain (leaf first) and a PEM key.
    ///
    /// # Errors
    /// When a file can't be read, is no PEM, or both don't fit together; each names the path.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let times = modified(certificate, key);
        let config = read(certificate, key)?;
        let current = RwLock::new((config, times));
        Ok(Self(Arc::new(Inner { certificate: certificate.into(), key: key.into(), current })))
    }

    /// An acceptor with the files' newest usable content.
    pub fn acceptor(&self) -> TlsAcceptor {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current.0))
    }

    /// Looks at the files every 10 s, until `shutdown`, and takes over what changed; a change that can't be used is logged and
    /// the old certificate stays.
    pub async fn watch(self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(CHECK_EVERY)).await.is_some() {
            self.reload();
        }
    }

    fn reload(&self) {
        let (certificate, key) = (&self.0.certificate, &self.0.key);
        let times = modified(certificate, key);
        if self.0.current.read().unwrap_or_else(PoisonError::into_inner).1 == times {
            return;
        }
        let read = read(certificate, key);
        let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
        current.1 = times;
        match read {
            Ok(config) => {
                current.0 = config;
                tracing::info!(certificate = %certificate.display(), "took over a changed certificate");
            }
            Err(error) => tracing::error!(%error, "a changed certificate can't be used; the old one stays"),
        }
    }
}

fn modified(certificate: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [certificate, key].map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |what, path: &Path| {
        let path = path.to_path_buf();
        move |source| TlsError::Read { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed("certificate chain", certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: certificate.into() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(failed("private key", key))?;
    let unusable = |source| TlsError::Unusable { certificate: certificate.into(), key: key.into(), source };
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map(Arc::new)
        .map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (certificate, key)
    }

    #[test]
    fn a_changed_certificate_is_taken_over_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write_pair(folder.path(), "a.test");
        let tls = ServerTls::load(&certificate, &key).unwrap();
        let config = |tls: &ServerTls| Arc::as_ptr(&tls.0.current.read().unwrap().0);
        let first = config(&tls);
        tls.reload();
        assert_eq!(config(&tls), first);

        write_pair(folder.path(), "b.test");
        tls.0.current.write().unwrap().1 = [None, None];
        tls.reload();
        let second = config(&tls);
        assert_ne!(second, first);

        std::fs::write(&key, "nonsense").unwrap();
        tls.0.current.write().unwrap().1 = [None, None];
        tls.reload();
        assert_eq!(config(&tls), second);
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said_with_their_path() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write_pair(folder.path(), "a.test");
        let missing = ServerTls::load(&folder.path().join("none.pem"), &key).unwrap_err();
        assert!(missing.to_string().contains("none.pem"), "{missing}");
        let swapped = ServerTls::load(&key, &certificate).unwrap_err();
        assert!(swapped.to_string().contains("key.pem"), "{swapped}");
    }
}
