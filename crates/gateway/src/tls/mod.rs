//! TLS: the certificate that all of the server's ports show. The operator gives it, or it is
//! signed here by a CA of this server's own. Cryptography is ring's: it builds with a C compiler
//! alone and is in the tree already, where aws-lc would need cmake and minutes.

mod authority;
mod given;
mod own;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::ResolvesServerCert;
use tokio_rustls::TlsAcceptor;

/// TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} holds no {what} in PEM")]
    Content {
        /// Which.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
    },
    /// The certificate and its key cannot be used together.
    #[error("the key {key} does not go with the first certificate of {cert}: {source}")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The CA's key is damaged.
    #[error(
        "{path} is not the key of a CA: {source}. Remove the folder to make a new CA; clients must \
         then trust that one"
    )]
    AuthorityKey {
        /// The key's file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// A certificate cannot be signed.
    #[error("cannot sign a certificate for {names}: {source}")]
    Sign {
        /// For what.
        names: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The key that was made cannot be used.
    #[error("cannot use the key that was made: {0}")]
    Key(#[source] rustls::Error),
}

/// What a TLS listener offers in the handshake (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/2 and HTTP/1.1: the server's own port.
    Http,
    /// HTTP/2, for a tunnel whose program speaks it.
    Http2,
    /// HTTP/1.1, for all other tunnels.
    Http1,
}

impl Offer {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
        }
    }
}

/// The certificate that the server shows, with its key.
#[derive(Debug, Clone)]
pub struct Identity {
    resolver: Arc<dyn ResolvesServerCert>,
    ca: Option<PathBuf>,
}

impl Identity {
    /// A certificate (its chain, PEM) and key (PEM) of the operator's.
    pub fn given(cert: &Path, key: &Path) -> Result<Self, Error> {
        Ok(Self { resolver: Arc::new(given::Given::read(cert, key)?), ca: None })
    }

    /// A certificate for `names` (host names and addresses), signed by the CA in the folder `dir`,
    /// which is made once.
    pub fn own(dir: &Path, names: &[String]) -> Result<Self, Error> {
        let authority = authority::Authority::open(dir)?;
        let ca = Some(authority.certificate_path().to_owned());
        Ok(Self { resolver: Arc::new(own::Own::new(authority, names)?), ca })
    }

    /// The certificate of our own CA, if that signs.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// What takes handshakes with this certificate.
    pub fn acceptor(&self, offer: Offer) -> TlsAcceptor {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.resolver.clone());
        config.alpn_protocols = offer.protocols();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The one provider of cryptography. It is named at each use, not installed for the process:
/// a library's order of calls then decides nothing.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate as text (RFC 7468).
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let lines: String = text
        .as_bytes()
        .chunks(64)
        .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
        .collect();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}
