//! A certificate of the operator's. Its files are read again when they change: whoever renews it
//! need not end the server, and so what runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Error, provider};
use crate::limits::CERTIFICATE_LOOK_EVERY;

/// Shown to everyone, whatever name they ask for.
#[derive(Debug)]
pub(super) struct Given {
    cert: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    pair: Arc<CertifiedKey>,
    changed: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Given {
    /// Reads and compares certificate and key.
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Self, Error> {
        // Looked at first: what changes while it is read is read again.
        let changed = [changed(cert), changed(key)];
        let pair = Arc::new(pair(cert, key)?);
        let current = Mutex::new(Current { pair, changed, looked: Instant::now() });
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), current })
    }

    /// Looks whether the files have changed. One that was written before the other, or is gone,
    /// changes nothing yet.
    fn look(&self, current: &mut Current) {
        if current.looked.elapsed() < CERTIFICATE_LOOK_EVERY {
            return;
        }
        current.looked = Instant::now();
        let changed = [changed(&self.cert), changed(&self.key)];
        if changed == current.changed {
            return;
        }
        current.changed = changed;
        match pair(&self.cert, &self.key) {
            Ok(pair) => {
                tracing::info!(cert = %self.cert.display(), "the certificate was read again");
                current.pair = Arc::new(pair);
            }
            Err(error) => tracing::warn!(%error, "the certificate from before is shown still"),
        }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn pair(cert: &Path, key: &Path) -> Result<CertifiedKey, Error> {
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
    CertifiedKey::from_der(chain, private, &provider()).map_err(|source| Error::Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    })
}

impl ResolvesServerCert for Given {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut current);
        Some(current.pair.clone())
    }
}
