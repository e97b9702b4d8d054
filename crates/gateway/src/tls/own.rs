//! A certificate that our own CA signs, and signs again before it ends.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};

use super::authority::Authority;
use super::{Error, provider};
use crate::limits::CERTIFICATE_DAYS_LEFT_MIN;

/// Shown to everyone, whatever name they ask for.
#[derive(Debug)]
pub(super) struct Own {
    authority: Authority,
    names: Vec<String>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    pair: Arc<CertifiedKey>,
    until: OffsetDateTime,
}

impl Own {
    /// Signs the first certificate.
    pub(super) fn new(authority: Authority, names: &[String]) -> Result<Self, Error> {
        let current = Mutex::new(sign(&authority, names)?);
        Ok(Self { authority, names: names.to_vec(), current })
    }
}

fn sign(authority: &Authority, names: &[String]) -> Result<Current, Error> {
    let signed = authority.sign(names)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.key.serialize_der()));
    let pair =
        CertifiedKey::from_der(vec![signed.certificate], key, &provider()).map_err(Error::Key)?;
    Ok(Current { pair: Arc::new(pair), until: signed.until })
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let left = current.until - OffsetDateTime::now_utc();
        if left < Duration::days(CERTIFICATE_DAYS_LEFT_MIN) {
            match sign(&self.authority, &self.names) {
                Ok(next) => *current = next,
                Err(error) => tracing::error!(%error, "the certificate cannot be renewed"),
            }
        }
        Some(current.pair.clone())
    }
}
