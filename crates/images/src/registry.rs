//! A client of registries: the pulling half of the OCI distribution specification 1.1, with the
//! tokens of Docker's.

mod answer;
mod blob;

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use blobs::Digest;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::limits::{
    ANSWER_BYTES_MAX, CONNECT_MAX, MANIFEST_BYTES_MAX, SILENCE_MAX, UNREACHABLE_HOSTS_MAX,
    UNREACHABLE_MAX,
};
use crate::manifest::{ACCEPTED, Descriptor, ManifestError};
use crate::reference::Reference;
use crate::sources::{Credentials, Endpoint, is_private};
use answer::Challenge;

pub(crate) use blob::BlobReader;

/// Why a registry gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached.
    #[error("it cannot be reached ({why})")]
    Unreachable {
        /// What failed.
        why: String,
    },
    /// It was reached and cannot answer now.
    #[error("it answers with {status}; try again later")]
    Busy {
        /// The HTTP status.
        status: u16,
    },
    /// It gives this to nobody, or not to who asks.
    #[error("{}", denied(*has_credentials))]
    Denied {
        /// Whether credentials were shown.
        has_credentials: bool,
    },
    /// It asks for a password over a connection that others can read.
    #[error("it asks for a password, and the connection to it is not encrypted; use https")]
    Open,
    /// It has no such image.
    #[error("it has no such image")]
    NotFound,
    /// It says something else.
    #[error("it answers with {status}{words}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words, if it says any.
        words: String,
    },
    /// It sends other bytes than were asked for.
    #[error("{what} sha256:{wanted} has other bytes than its name says (sha256:{found})")]
    Digest {
        /// What was asked for.
        what: &'static str,
        /// Its name.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// It sends more than there should be.
    #[error("{what} is larger than {max} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large it may be.
        max: u64,
    },
    /// What came cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

fn denied(has_credentials: bool) -> &'static str {
    if has_credentials {
        "the credentials of the secret do not open it there, or it has no such image"
    } else {
        "it is private there, or does not exist; pass secret= with REGISTRY_USERNAME and \
        REGISTRY_PASSWORD"
    }
}

impl RegistryError {
    /// Whether nothing is known of the image: another time it may be there.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }
}

/// Connections to registries, and which could not be reached.
#[derive(Debug)]
pub(crate) struct Registries {
    /// For https, and for nothing else.
    secure: Agent,
    /// For mirrors and registries that are said to have no TLS. Without the host's proxies: they
    /// are on this machine or near.
    plain: Agent,
    unreachable: Mutex<HashMap<String, (Instant, String)>>,
}

impl Registries {
    pub(crate) fn new() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(5)
                .timeout_resolve(Some(CONNECT_MAX))
                .timeout_connect(Some(CONNECT_MAX))
                .timeout_send_request(Some(SILENCE_MAX))
                .timeout_recv_response(Some(SILENCE_MAX))
                .timeout_per_read(Some(SILENCE_MAX))
                .user_agent(concat!("palisade/", env!("CARGO_PKG_VERSION")))
                .tls_config(tls.clone())
        };
        Self {
            secure: config().https_only(true).build().new_agent(),
            plain: config().proxy(None).build().new_agent(),
            unreachable: Mutex::default(),
        }
    }

    /// Begins to talk with one place about one image.
    pub(crate) fn session<'r>(
        &'r self,
        endpoint: Endpoint,
        reference: &Reference,
        credentials: Option<&'r Credentials>,
    ) -> Session<'r> {
        Session {
            registries: self,
            endpoint,
            repository: reference.repository().to_owned(),
            credentials,
            authorization: Mutex::default(),
        }
    }

    fn recent(&self, base: &str) -> Option<String> {
        let notes = lock(&self.unreachable);
        let (when, why) = notes.get(base)?;
        (when.elapsed() < UNREACHABLE_MAX).then(|| why.clone())
    }

    fn note(&self, base: &str, why: &str) {
        let mut notes = lock(&self.unreachable);
        notes.retain(|_, (when, _)| when.elapsed() < UNREACHABLE_MAX);
        if notes.len() < UNREACHABLE_HOSTS_MAX {
            notes.insert(base.to_owned(), (Instant::now(), why.to_owned()));
        }
    }
}

/// One place, one image, one caller.
#[derive(Debug)]
pub(crate) struct Session<'r> {
    registries: &'r Registries,
    endpoint: Endpoint,
    repository: String,
    credentials: Option<&'r Credentials>,
    /// What the place takes as proof; of this caller alone.
    authorization: Mutex<Option<String>>,
}

impl Session<'_> {
    /// The place, for texts.
    pub(crate) fn place(&self) -> &str {
        self.endpoint.name()
    }

    /// Gets the manifest or index that a tag or digest (`sha256:…`) stands for.
    pub(crate) fn manifest(&self, wanted: &str) -> Result<(Digest, Vec<u8>), RegistryError> {
        if let Some(why) = self.registries.recent(&self.endpoint.base) {
            return Err(RegistryError::Unreachable { why: format!("{why}, a moment ago") });
        }
        let path = format!("manifests/{wanted}");
        let answer = match self.get(&path, &[(header::ACCEPT.as_str(), ACCEPTED)]) {
            Err(RegistryError::Unreachable { why }) => {
                self.registries.note(&self.endpoint.base, &why);
                return Err(RegistryError::Unreachable { why });
            }
            answer => answer?,
        };
        let bytes = read_all(answer, "its manifest", MANIFEST_BYTES_MAX)?;
        let found = Digest::of(&bytes);
        let by_digest = wanted.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
        match by_digest {
            Some(wanted) if wanted != found => {
                Err(RegistryError::Digest { what: "the manifest", wanted, found })
            }
            _ => Ok((found, bytes)),
        }
    }

    /// Gets a small blob whole.
    pub(crate) fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let answer = self.get(&format!("blobs/sha256:{}", blob.digest), &[])?;
        let bytes = read_all(answer, "its configuration", MANIFEST_BYTES_MAX)?;
        let (wanted, found) = (blob.digest, Digest::of(&bytes));
        if wanted == found {
            Ok(bytes)
        } else {
            Err(RegistryError::Digest { what: "the configuration", wanted, found })
        }
    }

    /// Asks, and proves who asks where that is wanted.
    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response<Body>, RegistryError> {
        let url = format!("{}/v2/{}/{path}", self.endpoint.base, self.repository);
        let shown = lock(&self.authorization).clone();
        let answer = self.send(&url, headers, shown.as_deref())?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return check(answer, self.credentials.is_some());
        }
        let challenge = answer::challenge(answer.headers());
        let fresh = self.authorize(challenge.as_ref())?;
        let answer = self.send(&url, headers, Some(&fresh))?;
        *lock(&self.authorization) = Some(fresh);
        check(answer, self.credentials.is_some())
    }

    fn send(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut request = self.agent(url).get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.call().map_err(|error| unreachable(&error))
    }

    fn agent(&self, url: &str) -> &Agent {
        let is_https = url.starts_with("https://");
        if is_https { &self.registries.secure } else { &self.registries.plain }
    }

    /// What to show after a challenge: the password itself, or a token for it.
    fn authorize(&self, challenge: Option<&Challenge>) -> Result<String, RegistryError> {
        let has_credentials = self.credentials.is_some();
        // Neither the password nor a token that was given for it.
        if has_credentials && !self.endpoint.is_private {
            return Err(RegistryError::Open);
        }
        match challenge {
            Some(Challenge::Basic) => match self.credentials {
                Some(credentials) => Ok(basic(credentials)),
                None => Err(RegistryError::Denied { has_credentials }),
            },
            Some(Challenge::Bearer { realm, service }) => self.token(realm, service.as_deref()),
            None => Err(RegistryError::Denied { has_credentials }),
        }
    }

    fn token(&self, realm: &str, service: Option<&str>) -> Result<String, RegistryError> {
        // A registry with TLS must not lead the server to an address of its own network.
        let is_encrypted = realm.starts_with("https://");
        let is_plain = !self.endpoint.base.starts_with("https://");
        let is_open = is_plain && (is_private(realm) || self.credentials.is_none());
        if !is_encrypted && !is_open {
            return Err(RegistryError::Open);
        }
        let mut request = self.agent(realm).get(realm);
        if let Some(service) = service {
            request = request.query("service", service);
        }
        request = request.query("scope", format!("repository:{}:pull", self.repository));
        if let Some(credentials) = self.credentials {
            request = request.header(header::AUTHORIZATION, basic(credentials));
        }
        let answer = request.call().map_err(|error| unreachable(&error))?;
        let answer = match answer.status() {
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let has_credentials = self.credentials.is_some();
                return Err(RegistryError::Denied { has_credentials });
            }
            _ => check(answer, self.credentials.is_some())?,
        };
        let bytes = read_all(answer, "its token", ANSWER_BYTES_MAX)?;
        Ok(format!("Bearer {}", answer::token(&bytes)?))
    }
}

fn basic(credentials: &Credentials) -> String {
    let Credentials { username, password } = credentials;
    format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
}

/// Turns refusals into errors.
fn check(answer: Response<Body>, has_credentials: bool) -> Result<Response<Body>, RegistryError> {
    let status = answer.status();
    match status {
        status if status.is_success() => Ok(answer),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(RegistryError::Denied { has_credentials })
        }
        StatusCode::NOT_FOUND => Err(RegistryError::NotFound),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(RegistryError::Busy { status: status.as_u16() })
        }
        status => {
            let bytes = read_all(answer, "its answer", ANSWER_BYTES_MAX).unwrap_or_default();
            Err(RegistryError::Refused { status: status.as_u16(), words: answer::words(&bytes) })
        }
    }
}

fn read_all(
    answer: Response<Body>,
    what: &'static str,
    max: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let read = answer.into_body().into_reader().take(max + 1).read_to_end(&mut bytes);
    read.map_err(|error| RegistryError::Unreachable { why: error.to_string() })?;
    if bytes.len() as u64 > max { Err(RegistryError::TooLarge { what, max }) } else { Ok(bytes) }
}

fn unreachable(error: &ureq::Error) -> RegistryError {
    RegistryError::Unreachable { why: error.to_string() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_open_nothing_over_a_wire_that_others_read() {
        let registries = Registries::new();
        let credentials = Credentials { username: "me".into(), password: "secret".into() };
        let base = "http://mirror.test".to_owned();
        let endpoint = Endpoint { base, is_private: false, is_registry: false };
        let session = registries.session(endpoint, &"a".parse().unwrap(), Some(&credentials));
        let realm = "https://auth.test/token".to_owned();
        for challenge in [Challenge::Basic, Challenge::Bearer { realm, service: None }] {
            let refused = session.authorize(Some(&challenge));
            assert!(matches!(refused, Err(RegistryError::Open)), "{challenge:?}: {refused:?}");
        }
    }
}
