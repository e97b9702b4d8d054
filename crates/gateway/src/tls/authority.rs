//! The server's own CA: a key that only root can read, and the certificate that clients trust.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use super::Error;
use crate::limits::{CA_AGE_MAX, CA_DAYS_MAX, CERTIFICATE_DAYS_MAX};

/// Clocks of clients may be behind ours by this much.
const SKEW: Duration = Duration::days(1);

/// Signs the server's certificates.
#[derive(Debug)]
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

/// A certificate that was signed, and its key.
pub(super) struct Signed {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) until: OffsetDateTime,
}

impl Authority {
    /// The CA in a folder; what is missing is made.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let key = key(&dir.join("ca-key.pem"))?;
        let certificate = dir.join("ca.pem");
        let params = params(&key);
        if !is_current(&certificate, &key) {
            let signed = params
                .self_signed(&key)
                .map_err(|source| Error::Sign { names: "the server's own CA".into(), source })?;
            write(&certificate, 0o644, signed.pem().as_bytes())?;
        }
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Where the CA's certificate lies.
    pub(super) fn certificate_path(&self) -> &Path {
        &self.certificate
    }

    /// Signs a certificate for names, with a key of its own that is kept in memory alone.
    pub(super) fn sign(&self, names: &[String]) -> Result<Signed, Error> {
        let failed = |source| Error::Sign { names: names.join(", "), source };
        let mut params = CertificateParams::new(names).map_err(failed)?;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - SKEW;
        params.not_after = now + Duration::days(CERTIFICATE_DAYS_MAX);
        params.distinguished_name.push(DnType::CommonName, "Palisade");
        params.serial_number = Some(serial());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Signed { certificate: certificate.into(), key, until: params.not_after })
    }
}

/// What the CA is called and may do. The name goes with the key: signed again later, it verifies
/// what was signed before.
fn params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let id = hex::encode(&params.key_identifier(key)[..4]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Palisade CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(CA_DAYS_MAX);
    params.serial_number = Some(serial());
    params
}

/// A serial number that no other certificate has. Its first bit is zero: it is positive.
fn serial() -> SerialNumber {
    let mut bytes = rand::random::<[u8; 16]>();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn key(path: &Path) -> Result<KeyPair, Error> {
    match fs::read_to_string(path) {
        Ok(text) => KeyPair::from_pem(&text)
            .map_err(|source| Error::AuthorityKey { path: path.to_owned(), source }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = KeyPair::generate()
                .map_err(|source| Error::AuthorityKey { path: path.to_owned(), source })?;
            write(path, 0o600, key.serialize_pem().as_bytes())?;
            Ok(key)
        }
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Whether the certificate in a file is of this key, and not old.
fn is_current(path: &Path, key: &KeyPair) -> bool {
    let Ok(certificate) = CertificateDer::from_pem_file(path) else { return false };
    let age = fs::metadata(path).and_then(|meta| meta.modified()).map(|time| time.elapsed());
    // A file from the future is as good as one of today.
    let is_old = age.is_ok_and(|age| age.is_ok_and(|age| age > CA_AGE_MAX));
    let public = key.public_key_raw();
    !is_old && certificate.windows(public.len()).any(|part| part == public)
}

/// Writes a file whole or not at all.
fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), Error> {
    let draft = path.with_extension("draft");
    let write = || {
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}
