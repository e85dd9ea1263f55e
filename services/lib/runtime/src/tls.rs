//! TLS of our own listeners, of calls between services, and towards the web's servers: certificates and keys from files, read again when they change.

mod client;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use client::ClientTls;

const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How HTTP/2, and so gRPC, is named in ALPN.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The certificate or the key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read or holds no PEM of the kind that is needed.
    #[error("can't read {what} from {path}: {source}")]
    Read {
        /// `certificate chain`, `private key` or `certificate authorities`.
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
    /// The certificates of authorities can't be used.
    #[error("the certificate authorities in {path} can't be used: {cause}")]
    Authorities {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
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
    files: Files,
    current: RwLock<(Arc<ServerConfig>, Vec<Option<SystemTime>>)>,
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// Who signs the certificates that clients must show.
    client_authorities: Option<PathBuf>,
    protocols: &'static [&'static [u8]],
}

impl ServerTls {
    /// Reads a PEM chain (leaf first) and a PEM key.
    ///
    /// # Errors
    /// When a file can't be read, is no PEM, or both don't fit together; each names the path.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        Self::with(Files { certificate, key, client_authorities: None, protocols: &[] })
    }

    /// The same for gRPC. Where authorities are given (a PEM file), clients must show a certificate that one of them signed.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn load_for_services(
        certificate: &Path,
        key: &Path,
        client_authorities: Option<&Path>,
    ) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        let client_authorities = client_authorities.map(Into::into);
        Self::with(Files { certificate, key, client_authorities, protocols: &[HTTP2] })
    }

    fn with(files: Files) -> Result<Self, TlsError> {
        let times = modified(&files.paths());
        let config = files.read()?;
        Ok(Self(Arc::new(Inner { files, current: RwLock::new((config, times)) })))
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
        let times = modified(&self.0.files.paths());
        if self.0.current.read().unwrap_or_else(PoisonError::into_inner).1 == times {
            return;
        }
        let read = self.0.files.read();
        let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
        current.1 = times;
        match read {
            Ok(config) => {
                current.0 = config;
                let certificate = self.0.files.certificate.display();
                tracing::info!(%certificate, "took over a changed certificate");
            }
            Err(error) => tracing::error!(%error, "a changed certificate can't be used; the old one stays"),
        }
    }
}

impl Files {
    fn paths(&self) -> Vec<&Path> {
        [&self.certificate, &self.key]
            .into_iter()
            .chain(&self.client_authorities)
            .map(PathBuf::as_path)
            .collect()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let (chain, private) = read_pair(&self.certificate, &self.key)?;
        let provider = Arc::new(default_provider());
        let unusable = |source| TlsError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(read_roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Authorities {
                    path: path.clone(),
                    cause: error.to_string(),
                })?)
            }
        };
        let mut config = builder.with_single_cert(chain, private).map_err(unusable)?;
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn modified(paths: &[&Path]) -> Vec<Option<SystemTime>> {
    paths.iter().map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}

fn read_chain(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::Read { what, path: path.into(), source })?;
    if chain.is_empty() { Err(TlsError::Empty { path: path.into() }) } else { Ok(chain) }
}

fn read_pair(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = read_chain("certificate chain", certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Read {
        what: "private key",
        path: key.into(),
        source,
    })?;
    Ok((chain, private))
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain("certificate authorities", path)? {
        let failed =
            |error: rustls::Error| TlsError::Authorities { path: path.into(), cause: error.to_string() };
        roots.add(certificate).map_err(failed)?;
    }
    Ok(roots)
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
        tls.0.current.write().unwrap().1 = Vec::new();
        tls.reload();
        let second = config(&tls);
        assert_ne!(second, first);

        std::fs::write(&key, "nonsense").unwrap();
        tls.0.current.write().unwrap().1 = Vec::new();
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
