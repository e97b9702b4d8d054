//! Names of images as Docker writes them: `[registry/]repository[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use blobs::Digest;

/// The registry of a name that says none.
const DOCKER_HUB: &str = "docker.io";

/// Bytes of registry and repository together, as registries have it.
const NAME_BYTES_MAX: usize = 255;

/// Bytes of a tag, as registries have it.
const TAG_BYTES_MAX: usize = 128;

/// The name of an image, whole: written out it is the same for all ways to write it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no name of an image: {why}")]
pub struct ReferenceError {
    name: String,
    why: &'static str,
}

impl Reference {
    /// Host and, where it is said, port of the registry: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The image's path in the registry, as `library/python`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; "latest" where neither tag nor digest is said.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, which wins over the tag.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry is asked for: the digest, else the tag.
    #[must_use]
    pub(crate) fn wanted(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@sha256:{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|why| {
            let name = text.chars().take(NAME_BYTES_MAX).collect();
            ReferenceError { name, why }
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    // A colon after the last slash begins a tag; one before it, a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag has up to 128 letters, digits, dots, dashes and underscores, and does \
            not begin with a dot or dash");
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_host_like(first) => (first, path),
        _ => (DOCKER_HUB, name),
    };
    if !is_host(registry) {
        return Err("its registry is no host name with an optional port");
    }
    // Host names are the same in large and small letters.
    let registry = match registry.to_ascii_lowercase() {
        name if matches!(name.as_str(), "index.docker.io" | "registry-1.docker.io") => {
            DOCKER_HUB.to_owned()
        }
        registry => registry,
    };
    let repository = match (registry.as_str(), path.contains('/')) {
        (DOCKER_HUB, false) => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
        return Err("it has more than 255 characters");
    }
    if !repository.split('/').all(is_component) {
        return Err("its path has small letters and digits, with single dots, up to two \
            underscores or dashes between them");
    }
    let tag = tag.map(str::to_owned);
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(Reference { registry, repository, tag, digest })
}

fn parse_digest(text: &str) -> Result<Digest, &'static str> {
    let hex = text.strip_prefix("sha256:");
    hex.and_then(|hex| hex.parse().ok()).ok_or("its digest is not sha256: and 64 small hex digits")
}

/// Whether the first part of a name is its registry: Docker's rule, but for hosts that have
/// nothing of a host's name but a large letter, which would be another name once written out.
fn is_host_like(part: &str) -> bool {
    part.eq_ignore_ascii_case("localhost") || part.contains(['.', ':'])
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => match port.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_address = text.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok();
    (is_address || (!text.starts_with('[') && host.split('.').all(is_label)))
        && port.is_none_or(is_port)
}

/// `[a-z0-9]+` with `.`, `_`, `__` or dashes between.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|byte| is_word(*byte))
        || !bytes.last().is_some_and(|byte| is_word(*byte))
    {
        return false;
    }
    text.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit()).all(
        |between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'),
    )
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.as_bytes().first().is_some_and(|byte| is_word(*byte))
        && text.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Reference;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_written_out() {
        let check = |text: &str, wanted: &str| {
            let parsed = text.parse::<Reference>().unwrap();
            assert_eq!(parsed.to_string(), wanted, "{text}");
            assert_eq!(wanted.parse::<Reference>().unwrap(), parsed, "{text}");
        };
        check("python", "docker.io/library/python:latest");
        check("python:3.11-slim", "docker.io/library/python:3.11-slim");
        check("index.docker.io/python", "docker.io/library/python:latest");
        check("me/it", "docker.io/me/it:latest");
        check("docker.io/me/it:v1", "docker.io/me/it:v1");
        check("localhost/it", "localhost/it:latest");
        check("INDEX.Docker.io/python", "docker.io/library/python:latest");
        check("LocalHost/it", "localhost/it:latest");
        check("localhost:5000/a/b/c__d-e.f:1", "localhost:5000/a/b/c__d-e.f:1");
        check("GHCR.io/astral-sh/uv:0.9", "ghcr.io/astral-sh/uv:0.9");
        check("[::1]:5000/x", "[::1]:5000/x:latest");
        check("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest");
        check(&format!("a@sha256:{HEX}"), &format!("docker.io/library/a@sha256:{HEX}"));
        check(&format!("a:1@sha256:{HEX}"), &format!("docker.io/library/a:1@sha256:{HEX}"));
    }

    #[test]
    fn what_names_no_image_is_refused_by_its_part() {
        let check = |text: &str, why: &str| {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        };
        let long = format!("a/{}", "b".repeat(250));
        let tag = format!("a:{}", "b".repeat(129));
        for text in
            ["", "/", "a//b", "UPPER", "a/Up", "a/../b", "a_-b", "a/.b", "a b", "x..y/z", "dOo/k"]
        {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        check("a/b-", "its path");
        check(&long, "255");
        check(&tag, "tag");
        check("a:-x", "tag");
        check("a:", "tag");
        check("a@md5:00", "digest");
        check("a@sha256:00", "digest");
        check("-x.test/a", "registry");
        check("h.test:99999/a", "registry");
        check("[::1/a", "registry");
        check("user@h.test/a", "digest");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_written_the_same_again(text in ".{0,80}") {
            if let Ok(parsed) = text.parse::<Reference>() {
                prop_assert_eq!(parsed.to_string().parse::<Reference>().unwrap(), parsed);
            }
        }

        #[test]
        fn names_go_round(
            host in "[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,3}(/[a-z0-9]{1,5}){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{host}/{path}:{tag}");
            let parsed = text.parse::<Reference>().unwrap();
            let wanted = match host.as_str() {
                "docker.io" if !path.contains('/') => format!("docker.io/library/{path}:{tag}"),
                _ => text,
            };
            prop_assert_eq!(parsed.to_string(), wanted);
        }
    }
}
