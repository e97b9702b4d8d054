//! A certificate of the operator's.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Error, provider};

/// Shown to everyone, whatever name they ask for.
#[derive(Debug)]
pub(super) struct Given(Arc<CertifiedKey>);

impl Given {
    /// Reads and compares certificate and key.
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Self, Error> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
        };
        let none = |path: &Path, what| Error::Content { path: path.to_owned(), what };
        let chain = CertificateDer::pem_slice_iter(&read(cert)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| none(cert, "certificate"))?;
        if chain.is_empty() {
            return Err(none(cert, "certificate"));
        }
        let private = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|_| none(key, "private key without a password"))?;
        let pair = CertifiedKey::from_der(chain, private, &provider())
            .map_err(|source| Error::Pair { cert: cert.to_owned(), key: key.to_owned(), source })?;
        Ok(Self(Arc::new(pair)))
    }
}

impl ResolvesServerCert for Given {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
