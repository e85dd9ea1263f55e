//! TLS towards recipients' servers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::cache::lock;

/// So long a host whose TLS is broken is spoken to in the clear at once.
const BROKEN_FOR: Duration = Duration::from_secs(300);
const BROKEN_HOSTS_MAX: usize = 10_000;

/// TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authorities' file can't be read.
    #[error("can't read certificates from {path} (--delivery-ca-file): {source}")]
    Authorities {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate in it can't be used.
    #[error("{path} (--delivery-ca-file) has a certificate that can't be used: {source}")]
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The cryptographic library refuses the protocol versions.
    #[error("can't set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// The client's side of TLS, with any certificate or with a verified one.
pub(crate) struct ClientTls {
    any: TlsConnector,
    verified: TlsConnector,
    /// Hosts whose handshake failed lately, and until when that counts.
    broken: Mutex<HashMap<Arc<str>, Instant>>,
}

/// What a server's certificate must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// Anything: it only has to be the key that signs the handshake (RFC 7435).
    Any,
    /// The host's, signed by a known authority.
    Verified,
}

impl ClientTls {
    pub(crate) fn new(authorities: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = authorities {
            add(&mut roots, path)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()
        };
        let verified = versions()?.with_root_certificates(roots).with_no_client_auth();
        let any = versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(Arc::clone(&provider))))
            .with_no_client_auth();
        Ok(Self { any: Arc::new(any).into(), verified: Arc::new(verified).into(), broken: Mutex::default() })
    }

    pub(crate) fn connector(&self, certificate: Certificate) -> &TlsConnector {
        match certificate {
            Certificate::Any => &self.any,
            Certificate::Verified => &self.verified,
        }
    }

    /// Remembers that a host's TLS is broken.
    pub(crate) fn mark_broken(&self, host: &Arc<str>) {
        let now = Instant::now();
        let mut broken = lock(&self.broken);
        if broken.len() >= BROKEN_HOSTS_MAX {
            broken.retain(|_, until| *until > now);
        }
        if broken.len() < BROKEN_HOSTS_MAX {
            broken.insert(Arc::clone(host), now + BROKEN_FOR);
        }
    }

    /// Whether a host's TLS was broken within the last minutes.
    pub(crate) fn is_broken(&self, host: &str) -> bool {
        lock(&self.broken).get(host).is_some_and(|until| *until > Instant::now())
    }
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let unreadable = |source| TlsError::Authorities { path: path.into(), source };
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots
            .add(certificate.map_err(unreadable)?)
            .map_err(|source| TlsError::Authority { path: path.into(), source })?;
    }
    Ok(())
}

/// Takes any certificate; the handshake's signature is still checked against it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
