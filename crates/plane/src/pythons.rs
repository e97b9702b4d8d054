//! Pythons that the operator imported: trees of releases of python-build-standalone, which the
//! client's `add_python` lays into an image.
//!
//! ```text
//! DIR/<mount>/tree/python/…   the files of the release, as the client's recipe copies them
//! DIR/<mount>/sha256          the hash of the archive, in hex
//! ```
//! `<mount>` is the name under which the client asks for the tree as a mount (seen in the client
//! 1.6.4): `python-build-standalone.20230826.3.11.5-gnu`. `palisade python import` makes them.

use std::io;
use std::path::PathBuf;

/// How names of such mounts begin.
const PREFIX: &str = "python-build-standalone.";

/// The folder with the trees.
#[derive(Debug, Clone)]
pub struct Pythons(PathBuf);

/// Which Python a mount or an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The day of the release, as `20230826`.
    day: String,
    /// The version of Python, as `3.11.5`; `3.14.2t` for one without the lock.
    version: String,
}

impl Release {
    /// Reads the name of a mount. `None` when it is no Python's.
    #[must_use]
    pub fn of_mount(name: &str) -> Option<Self> {
        let (day, version) = name.strip_prefix(PREFIX)?.split_once('.')?;
        Self::new(day, version.strip_suffix("-gnu")?)
    }

    /// Reads the name of an archive of the releases, as
    /// `cpython-3.11.5+20230826-x86_64-unknown-linux-gnu-install_only.tar.gz`. `None` when it is
    /// none, or one for another machine.
    #[must_use]
    pub fn of_archive(name: &str) -> Option<Self> {
        let (version, rest) = name.strip_prefix("cpython-")?.split_once('+')?;
        let (day, rest) = rest.split_once('-')?;
        let (machine, rest) = rest.split_once("-unknown-linux-gnu-")?;
        let is_ours = machine == std::env::consts::ARCH;
        let is_tree = rest.contains("install_only");
        let is_free = rest.starts_with("freethreaded");
        let version = if is_free { format!("{version}t") } else { version.to_owned() };
        Self::new(day, &version).filter(|_| is_ours && is_tree)
    }

    fn new(day: &str, version: &str) -> Option<Self> {
        let is_day = day.len() == 8 && day.bytes().all(|b| b.is_ascii_digit());
        let numbers = version.strip_suffix('t').unwrap_or(version);
        let is_number =
            |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let is_version = numbers.split('.').count() == 3 && numbers.split('.').all(is_number);
        let release = Self { day: day.to_owned(), version: version.to_owned() };
        (is_day && is_version).then_some(release)
    }

    /// The name of its mount, which is the name of its folder, too.
    #[must_use]
    pub fn mount(&self) -> String {
        format!("{PREFIX}{}.{}-gnu", self.day, self.version)
    }

    /// The name of its archive.
    #[must_use]
    pub fn archive(&self) -> String {
        let (version, free) = match self.version.strip_suffix('t') {
            Some(version) => (version, "-freethreaded"),
            None => (self.version.as_str(), ""),
        };
        let (day, machine) = (&self.day, std::env::consts::ARCH);
        format!("cpython-{version}+{day}-{machine}-unknown-linux-gnu{free}-install_only.tar.gz")
    }
}

impl Pythons {
    /// Those in a folder, which may be missing.
    #[must_use]
    pub fn of(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The folder of a release, be it there or not.
    #[must_use]
    pub fn folder(&self, release: &Release) -> PathBuf {
        self.0.join(release.mount())
    }

    /// The hash of the archive of a release; `None` when it was not imported.
    ///
    /// # Errors
    /// When its note cannot be read.
    pub fn find(&self, release: &Release) -> io::Result<Option<String>> {
        match std::fs::read_to_string(self.folder(release).join("sha256")) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Release;

    #[test]
    fn archives_and_mounts_name_the_same_release() {
        let machine = std::env::consts::ARCH;
        let check = |mount: &str, archive: &str| {
            let archive = archive.replace("MACHINE", machine);
            let release = Release::of_mount(mount).unwrap();
            assert_eq!(Release::of_archive(&archive), Some(release.clone()), "{archive}");
            assert_eq!(release.mount(), mount);
            let named = Release::of_archive(&release.archive());
            assert_eq!(named, Some(release), "{archive}");
        };
        check(
            "python-build-standalone.20230826.3.11.5-gnu",
            "cpython-3.11.5+20230826-MACHINE-unknown-linux-gnu-install_only.tar.gz",
        );
        check(
            "python-build-standalone.20251209.3.14.2t-gnu",
            "cpython-3.14.2+20251209-MACHINE-unknown-linux-gnu-freethreaded-\
             install_only_stripped.tar.gz",
        );
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "python-build-standalone.20230826.3.11.5-musl",
            "python-build-standalone.2023.3.11.5-gnu",
            "python-build-standalone.20230826.3.11-gnu",
            "python-build-standalone.20230826.../../x-gnu",
            "modal-client-mount-1.6.4",
        ] {
            assert_eq!(Release::of_mount(name), None, "{name}");
        }
        for name in [
            "cpython-3.11.5+20230826-s390x-unknown-linux-gnu-install_only.tar.gz",
            "cpython-3.11.5+20230826-x86_64-unknown-linux-musl-install_only.tar.gz",
            "cpython-3.11.5+20230826-x86_64-unknown-linux-gnu-pgo+lto-full.tar.zst",
            "cpython-3.11.5-x86_64.tar.gz",
            "Python-3.11.5.tgz",
        ] {
            assert_eq!(Release::of_archive(name), None, "{name}");
        }
    }
}
