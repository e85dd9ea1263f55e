//! TLS towards our own services and the web's servers: who is trusted, and who we say we are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::{HTTP1, HTTP2, TlsError, modified, read_pair, read_roots};

/// A client's TLS; files are read again for new connections when they have changed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Files,
    current: RwLock<(Arc<ClientConfig>, Vec<Option<SystemTime>>)>,
}

#[derive(Debug)]
struct Files {
    authorities: Option<PathBuf>,
    /// The web's are trusted beside them.
    web_too: bool,
    protocols: &'static [&'static [u8]],
    identity: Option<(PathBuf, PathBuf)>,
}

impl ClientTls {
    /// Trusts the authorities in a PEM file, or those that the web trusts; shows a certificate chain with its key where they are
    /// given (mutual TLS).
    ///
    /// # Errors
    /// When a file can't be read or used; each names the path.
    pub fn load(authorities: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let identity = identity.map(|(certificate, key)| (certificate.into(), key.into()));
        let web_too = authorities.is_none();
        Self::with(Files { authorities: authorities.map(Into::into), web_too, protocols: &[HTTP2], identity })
    }

    /// For the web's servers: trusts the authorities that the web trusts, and those in a PEM file beside them.
    ///
    /// # Errors
    /// When the file can't be read or used; it names the path.
    pub fn load_for_web(authorities: Option<&Path>) -> Result<Self, TlsError> {
        let authorities = authorities.map(Into::into);
        Self::with(Files { authorities, web_too: true, protocols: &[HTTP1], identity: None })
    }

    fn with(files: Files) -> Result<Self, TlsError> {
        let times = modified(&files.paths());
        let config = files.read()?;
        Ok(Self(Arc::new(Inner { files, current: RwLock::new((config, times)) })))
    }

    /// With the files' newest usable content.
    pub fn connector(&self) -> TlsConnector {
        let times = modified(&self.0.files.paths());
        let unchanged = self.0.current.read().unwrap_or_else(PoisonError::into_inner).1 == times;
        if !unchanged {
            let read = self.0.files.read();
            let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
            current.1 = times;
            match read {
                Ok(config) => current.0 = config,
                Err(error) => tracing::error!(%error, "changed TLS files can't be used; the old ones stay"),
            }
        }
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsConnector::from(Arc::clone(&current.0))
    }
}

impl Files {
    fn paths(&self) -> Vec<&Path> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.authorities.iter().chain(identity).map(PathBuf::as_path).collect()
    }

    fn read(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = match &self.authorities {
            Some(path) => read_roots(path)?,
            None => RootCertStore::empty(),
        };
        if self.web_too {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let unusable = |source| match &self.identity {
            Some((certificate, key)) => {
                TlsError::Unusable { certificate: certificate.clone(), key: key.clone(), source }
            }
            None => TlsError::Authorities {
                path: self.authorities.clone().unwrap_or_default(),
                cause: source.to_string(),
            },
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((certificate, key)) => {
                let (chain, private) = read_pair(certificate, key)?;
                builder.with_client_auth_cert(chain, private).map_err(unusable)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}
