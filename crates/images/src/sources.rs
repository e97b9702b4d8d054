//! Where images come from besides this machine: registries, mirrors that stand for them, and
//! what opens private ones.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::reference::Reference;

/// Where Docker Hub answers; the name that images have is that of another machine.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// What a build shows to a registry. Never printed, logged or kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// A registry that is asked in another's place, before it: `docker.io=http://127.0.0.1:5000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    registry: String,
    base: String,
}

/// A text that names no mirror.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no mirror: {why}; a mirror is written like docker.io=http://127.0.0.1:5000")]
pub struct MirrorError {
    text: String,
    why: &'static str,
}

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let refuse = |why| MirrorError { text: hide_password(text), why };
        let (registry, base) = text.split_once('=').ok_or_else(|| refuse("it has no ="))?;
        // A registry is what can stand before an image's path.
        let name = format!("{registry}/a/b").parse::<Reference>();
        let name = name.ok().filter(|name| name.repository() == "a/b");
        let name = name.ok_or_else(|| refuse("before the = stands no registry"))?;
        let rest = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://"));
        let rest =
            rest.ok_or_else(|| refuse("its address begins with neither http:// nor https://"))?;
        if rest.contains(['@', '?', '#']) {
            return Err(refuse(
                "its address has more than host, port and path; credentials come \
                with a build",
            ));
        }
        let host = base.parse::<ureq::http::Uri>().ok().and_then(|uri| uri.host().map(str::len));
        if host.is_none_or(|len| len == 0) {
            return Err(refuse("its address is none"));
        }
        Ok(Self {
            registry: name.registry().to_owned(),
            base: base.trim_end_matches('/').to_owned(),
        })
    }
}

fn hide_password(text: &str) -> String {
    crate::debian::without_passwords(text).chars().take(200).collect()
}

/// Where images are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Asked before the registries that they stand for, in this order.
    pub mirrors: Vec<Mirror>,
}

/// One place to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://host[:port][/path]`.
    pub(crate) base: String,
    /// Whether what is sent there can be read on the way by nobody: by TLS, or because it stays
    /// on this machine.
    pub(crate) is_private: bool,
    /// Whether it is the registry of the image's name, and no mirror.
    pub(crate) is_registry: bool,
}

impl Endpoint {
    /// For texts: without the scheme where that is https.
    pub(crate) fn name(&self) -> &str {
        self.base.strip_prefix("https://").unwrap_or(&self.base)
    }
}

impl Sources {
    /// The places to ask for an image, in order; the last is its registry.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let registry = reference.registry();
        let mirrors = self.mirrors.iter().filter(|mirror| mirror.registry == registry);
        let mut endpoints: Vec<Endpoint> = mirrors
            .map(|mirror| Endpoint {
                base: mirror.base.clone(),
                is_private: is_private(&mirror.base),
                is_registry: false,
            })
            .collect();
        let host = if registry == "docker.io" { DOCKER_HUB_HOST } else { registry };
        // What runs on this machine needs no TLS; all others must have it.
        let scheme = if is_loopback(host) { "http" } else { "https" };
        let base = format!("{scheme}://{host}");
        endpoints.push(Endpoint { base, is_private: true, is_registry: true });
        endpoints
    }
}

/// Whether nobody on the way can read what is sent to an address.
pub(crate) fn is_private(url: &str) -> bool {
    let Ok(uri) = url.parse::<ureq::http::Uri>() else { return false };
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => true,
        (Some("http"), Some(host)) => is_loopback(host),
        _ => false,
    }
}

/// Whether a host, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    }
    let host = host.split(':').next().unwrap_or_default();
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_asked_first_and_the_registry_last() {
        let mirrors = ["docker.io=http://127.0.0.1:5000/", "ghcr.io=https://m.test/ghcr"];
        let sources =
            Sources { mirrors: mirrors.iter().map(|text| text.parse().unwrap()).collect() };
        let check = |name: &str, wanted: &[&str]| {
            let endpoints = sources.endpoints(&name.parse().unwrap());
            let bases: Vec<&str> = endpoints.iter().map(|it| it.base.as_str()).collect();
            assert_eq!(bases, wanted, "{name}");
            assert!(endpoints.last().unwrap().is_registry);
        };
        check("python", &["http://127.0.0.1:5000", "https://registry-1.docker.io"]);
        check("ghcr.io/a/b", &["https://m.test/ghcr", "https://ghcr.io"]);
        check("quay.io/a", &["https://quay.io"]);
        check("localhost:5000/a", &["http://localhost:5000"]);
        check("[::1]:5000/a", &["http://[::1]:5000"]);
        check("127.0.0.1.test/a", &["https://127.0.0.1.test"]);
    }

    #[test]
    fn bad_mirrors_are_refused_by_name_and_without_their_passwords() {
        let check = |text: &str, why: &str| {
            let error = text.parse::<Mirror>().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        };
        check("docker.io", "no =");
        check("=http://h.test", "no registry");
        check("a b=http://h.test", "no registry");
        check("docker.io/x=http://h.test", "no registry");
        check("docker.io=h.test:5000", "neither http://");
        check("docker.io=ftp://h.test", "neither http://");
        check("docker.io=http://", "is none");
        check("docker.io=https://me:secret@h.test", "credentials come");
    }

    #[test]
    fn passwords_are_not_printed() {
        let credentials = Credentials { username: "me".into(), password: "secret".into() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
