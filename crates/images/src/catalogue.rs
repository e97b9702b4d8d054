//! Which base images there are, and what each is made of.

use crate::recipe::Problem;

/// Minor versions of Python that a Debian suite has, and the suite. Debian has no others.
const PYTHONS: [(u8, Suite); 3] = [(11, Suite::Bookworm), (13, Suite::Trixie), (14, Suite::Sid)];

/// The minor version of Python that is taken where nothing says which.
pub(crate) const PYTHON_MINOR_DEFAULT: u8 = 11;

/// Whether Debian has that minor version of Python 3.
pub(crate) fn has_python(minor: u8) -> bool {
    PYTHONS.iter().any(|(known, _)| *known == minor)
}

/// A Debian suite that base images are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// What Debian changes every day.
    Sid,
}

impl Suite {
    /// As apt writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "bookworm" | "oldstable" => Some(Self::Bookworm),
            "trixie" | "stable" | "latest" => Some(Self::Trixie),
            "sid" | "unstable" => Some(Self::Sid),
            text => match text.split('.').next() {
                Some("12") => Some(Self::Bookworm),
                Some("13") => Some(Self::Trixie),
                _ => None,
            },
        }
    }
}

/// What a base image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseRecipe {
    /// Nothing.
    Scratch,
    /// A small Debian.
    Debian(Suite),
    /// A small Debian with the Python 3 of this minor version, as the official images have it.
    Python {
        /// 11 for Python 3.11.
        minor: u8,
        /// The suite that has it.
        suite: Suite,
    },
}

/// A base image that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// How it is made.
    pub recipe: BaseRecipe,
    /// What the user should know, where it is not exactly what was asked for.
    pub note: Option<String>,
}

/// Looks a base image up by its name, as in FROM.
///
/// # Errors
/// When there is no such image; the text says which there are.
pub fn find(reference: &str) -> Result<Found, Problem> {
    let name = reference.strip_prefix("docker.io/").unwrap_or(reference);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
    match name {
        "scratch" => Ok(Found { recipe: BaseRecipe::Scratch, note: None }),
        "debian" => {
            let suite = tag.strip_suffix("-slim").unwrap_or(tag);
            let suite = Suite::parse(suite).ok_or_else(|| unknown(reference))?;
            Ok(Found { recipe: BaseRecipe::Debian(suite), note: None })
        }
        "python" => find_python(reference, tag),
        _ => Err(unknown(reference)),
    }
}

/// `3.11[.12]-slim[-bookworm]`.
fn find_python(reference: &str, tag: &str) -> Result<Found, Problem> {
    let mut parts = tag.split('-');
    let version: Vec<&str> = parts.next().unwrap_or_default().split('.').collect();
    let (minor, patch) = match version.as_slice() {
        ["3", minor] => (minor.parse::<u8>(), None),
        ["3", minor, patch] => (minor.parse::<u8>(), Some(*patch)),
        _ => return Err(unknown(reference)),
    };
    let found = PYTHONS.iter().find(|(known, _)| minor.as_ref() == Ok(known));
    let (minor, suite) = *found.ok_or_else(|| unknown(reference))?;
    let asked = match (parts.next(), parts.next(), parts.next()) {
        (Some("slim"), None, None) => None,
        (Some("slim"), Some(suite), None) => Some(suite),
        _ => return Err(unknown(reference)),
    };
    let mut note = String::new();
    if let Some(patch) = patch {
        note = format!("3.{minor}.{patch} was asked for; the newest 3.{minor} of Debian is used");
    }
    if let Some(asked) = asked.filter(|asked| *asked != suite.name()) {
        let name = suite.name();
        let and = if note.is_empty() { "" } else { ", and " };
        note += &format!("{and}Debian has Python 3.{minor} in {name}, not in {asked}");
    }
    let note = (!note.is_empty()).then_some(note);
    Ok(Found { recipe: BaseRecipe::Python { minor, suite }, note })
}

/// The release of uv that an image of uv's own stands for, as in a requirement: `==0.8.3`,
/// `==0.8.*`, or empty for the newest. `None` for any other image.
///
/// # Errors
/// For tags that say more than a release.
pub(crate) fn find_uv(reference: &str) -> Option<Result<String, Problem>> {
    let (name, tag) = reference.split_once([':', '@']).unwrap_or((reference, "latest"));
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    if !matches!(name, "ghcr.io/astral-sh/uv" | "astral/uv") {
        return None;
    }
    let parts: Vec<&str> = tag.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    Some(match (tag, parts.len()) {
        ("latest", _) => Ok(String::new()),
        (_, 2) if parts.iter().all(is_number) => Ok(format!("=={tag}.*")),
        (_, 3) if parts.iter().all(is_number) => Ok(format!("=={tag}")),
        _ => Err(Problem::Value {
            what: "the image",
            value: reference.chars().take(200).collect(),
            wanted: "no registry has it for this server; from its package there are \
                ghcr.io/astral-sh/uv:latest and releases, as ghcr.io/astral-sh/uv:0.8.3",
        }),
    })
}

fn unknown(reference: &str) -> Problem {
    Problem::Value {
        what: "the base image",
        value: reference.chars().take(200).collect(),
        wanted: "there are python:3.11-slim, python:3.13-slim, python:3.14-slim (Debian has no \
            other Python), debian:bookworm-slim, debian:trixie-slim and scratch; all \
            others come from a registry or an import",
    }
}

#[cfg(test)]
mod tests {
    use super::{BaseRecipe, Suite, find, find_uv};

    #[test]
    fn names_lead_to_recipes() {
        let check = |name: &str, recipe: BaseRecipe, note: Option<&str>| {
            let found = find(name).unwrap();
            assert_eq!(found.recipe, recipe, "{name}");
            match (found.note, note) {
                (None, None) => {}
                (Some(found), Some(part)) => assert!(found.contains(part), "{found}"),
                (found, wanted) => panic!("{name}: {found:?}, {wanted:?}"),
            }
        };
        let python = |minor, suite| BaseRecipe::Python { minor, suite };
        check("scratch", BaseRecipe::Scratch, None);
        check("debian:bookworm-slim", BaseRecipe::Debian(Suite::Bookworm), None);
        check("debian:13.1-slim", BaseRecipe::Debian(Suite::Trixie), None);
        check("docker.io/library/debian", BaseRecipe::Debian(Suite::Trixie), None);
        check("python:3.11-slim", python(11, Suite::Bookworm), None);
        check("docker.io/python:3.11-slim-bookworm", python(11, Suite::Bookworm), None);
        check("python:3.11.12-slim-bookworm", python(11, Suite::Bookworm), Some("3.11.12"));
        check("python:3.13.3-slim-bookworm", python(13, Suite::Trixie), Some("not in bookworm"));
        check("python:3.14-slim", python(14, Suite::Sid), None);
    }

    #[test]
    fn images_of_uv_stand_for_its_releases() {
        let check = |name: &str, wanted: &str| {
            assert_eq!(find_uv(name).unwrap().as_deref(), Ok(wanted), "{name}");
        };
        check("ghcr.io/astral-sh/uv:latest", "");
        check("ghcr.io/astral-sh/uv", "");
        check("ghcr.io/astral-sh/uv:0.8.3", "==0.8.3");
        check("docker.io/astral/uv:0.8", "==0.8.*");
        for tag in ["debian", "0.8.3-alpine", "0.8.", "1 --pre", "0.8.3;x", "sha256:00"] {
            let error = find_uv(&format!("ghcr.io/astral-sh/uv:{tag}")).unwrap().unwrap_err();
            assert!(error.to_string().contains("uv:0.8.3"), "{error}");
        }
        assert!(find_uv("ghcr.io/astral-sh/ruff").is_none());
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        for name in
            ["python:3.12-slim", "python:3.11", "python:3.11-alpine", "python:2.7-slim", "ubuntu"]
        {
            let error = find(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("python:3.11-slim"), "{error}");
        }
    }
}
