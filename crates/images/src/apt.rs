//! What the host's apt is set to: from where it takes Debian packages, and how it reaches them.
//! Read when it is needed and never written into an image.

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::tree::{Tree, TreeError};

/// Where Debian's own images take packages from, and what ours name inside.
pub(crate) const DEFAULT_MAIN: &str = "http://deb.debian.org/debian";
/// The same for security updates.
pub(crate) const DEFAULT_SECURITY: &str = "http://deb.debian.org/debian-security";

/// Where Debian's images, and ours, name their archive.
pub(crate) const SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";

/// The keys of Debian's archive inside an image.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Options of apt that say how to reach an archive. Others (hooks, what to install) stay out.
const OPTION_STARTS: [&str; 6] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::ForceIPv",
    "Acquire::ftp::Proxy",
];

/// Options that name files of the host (a client's certificate and key): not for containers.
const OPTION_ENDS: [&str; 3] = ["::SslCert", "::SslKey", "::CAPath"];

/// One line or stanza of apt's sources.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AptSource {
    pub(crate) uris: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) components: Vec<String>,
    signed_by: String,
}

impl fmt::Debug for AptSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address may hold a password.
        f.debug_struct("AptSource").field("suites", &self.suites).finish_non_exhaustive()
    }
}

/// From where Debian packages come on this host.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Mirrors {
    pub(crate) main: String,
    pub(crate) security: String,
    /// Components that the host takes; official images have `main` alone.
    pub(crate) components: Vec<String>,
}

impl fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_default = self.is_default();
        f.debug_struct("Mirrors").field("is_default", &is_default).finish_non_exhaustive()
    }
}

impl Default for Mirrors {
    fn default() -> Self {
        Self {
            main: DEFAULT_MAIN.to_owned(),
            security: DEFAULT_SECURITY.to_owned(),
            components: vec!["main".to_owned()],
        }
    }
}

impl Mirrors {
    /// The mirrors of the host whose root is `root`; Debian's own where it names none.
    pub(crate) fn read(root: &Path) -> Result<Self, TreeError> {
        let tree = Tree::open(root)?;
        let mut texts = vec![("sources.list".to_owned(), tree.read("/etc/apt/sources.list")?)];
        let mut names = names_in(&root.join("etc/apt/sources.list.d"));
        names.sort_unstable();
        for name in names {
            let text = tree.read(&format!("/etc/apt/sources.list.d/{name}"))?;
            texts.push((name, text));
        }
        let mut sources = Vec::new();
        for (name, text) in texts {
            let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
            if name.ends_with(".sources") {
                sources.extend(parse_stanzas(&text));
            } else if name.ends_with(".list") {
                sources.extend(parse_lines(&text));
            }
        }
        Ok(Self::of(&sources))
    }

    fn of(sources: &[AptSource]) -> Self {
        let mut mirrors = Self::default();
        let pick = |wanted: fn(&str) -> bool| {
            let usable = |source: &&AptSource| source.is_debian() && source.has_suite(wanted);
            sources.iter().find(usable)
        };
        if let Some(main) = pick(is_release) {
            mirrors.main.clone_from(&main.uris[0]);
            mirrors.components.clone_from(&main.components);
        }
        match pick(|suite| suite.ends_with("-security")) {
            Some(security) => mirrors.security.clone_from(&security.uris[0]),
            // A mirror of everything usually has security updates beside the rest; a host that
            // names a mirror and no security archive cannot be asked for more.
            None if !mirrors.is_default() => mirrors.security.clear(),
            None => {}
        }
        mirrors
    }

    /// Whether these are what images name anyway.
    pub(crate) fn is_default(&self) -> bool {
        self.main.trim_end_matches('/') == DEFAULT_MAIN
            && matches!(self.security.trim_end_matches('/'), "" | DEFAULT_SECURITY)
    }

    /// One-line sources of a suite, with these components.
    pub(crate) fn lines(&self, suite: &str, components: &str) -> Vec<String> {
        let mut lines = vec![format!("deb {} {suite} {components}", self.main)];
        // Debian's unstable has neither updates nor a security archive.
        if suite != "sid" {
            lines.push(format!("deb {} {suite}-updates {components}", self.main));
            if !self.security.is_empty() {
                lines.push(format!("deb {} {suite}-security {components}", self.security));
            }
        }
        lines
    }
}

impl Mirrors {
    /// The same sources in stanzas of fields.
    pub(crate) fn stanzas(&self, suite: &str, components: &str) -> String {
        let stanza = |line: String| {
            let mut words = line.split(' ').skip(1);
            let (uri, suite) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            format!(
                "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\n\
                 Signed-By: {KEYRING}\n"
            )
        };
        let stanzas: Vec<String> = self.lines(suite, components).into_iter().map(stanza).collect();
        stanzas.join("\n")
    }
}

impl AptSource {
    /// Debian's own archive, as far as its key and components tell: other archives of the same
    /// suite name bring a key of their own.
    fn is_debian(&self) -> bool {
        let is_usable = |uri: &String| uri.starts_with("http://") || uri.starts_with("https://");
        let key_fits = self.signed_by.is_empty() || self.signed_by.contains("debian-archive");
        key_fits
            && self.uris.first().is_some_and(is_usable)
            && self.components.iter().any(|component| component == "main")
    }

    fn has_suite(&self, wanted: fn(&str) -> bool) -> bool {
        self.suites.iter().any(|suite| wanted(suite))
    }
}

fn is_release(suite: &str) -> bool {
    let known = ["bullseye", "bookworm", "trixie", "forky", "duke", "sid"];
    let moving = ["oldstable", "stable", "testing", "unstable"];
    known.contains(&suite) || moving.contains(&suite)
}

/// `deb [options] uri suite components`, one a line.
fn parse_lines(text: &str) -> Vec<AptSource> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<AptSource> {
    let line = line.split('#').next()?.trim().strip_prefix("deb ")?.trim_start();
    let (options, line) = match line.strip_prefix('[') {
        Some(line) => line.split_once(']')?,
        None => ("", line),
    };
    let mut words = line.split_whitespace().map(str::to_owned);
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    Some(AptSource {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: signed_by.unwrap_or_default().to_owned(),
    })
}

/// Stanzas of fields (sources.list(5), "DEB822-STYLE FORMAT").
fn parse_stanzas(text: &str) -> Vec<AptSource> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanzas = lines.split(|line| line.trim().is_empty());
    stanzas.filter_map(parse_stanza).collect()
}

fn parse_stanza(lines: &[&str]) -> Option<AptSource> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        match line.split_once(':') {
            Some((name, value)) if !line.starts_with([' ', '\t']) => {
                fields.push((name.trim().to_lowercase(), value.trim().to_owned()));
            }
            _ => fields.last_mut()?.1.push_str(line),
        }
    }
    let field = |name| fields.iter().find(|(known, _)| known == name).map(|(_, v)| v.as_str());
    let words = |name| -> Vec<String> {
        field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let is_off = matches!(field("enabled"), Some("no" | "false" | "0" | "off"));
    let has_debs = words("types").iter().any(|kind| kind == "deb");
    (has_debs && !is_off).then(|| AptSource {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").unwrap_or_default().to_owned(),
    })
}

/// The options of the host's apt that say how to reach an archive, as `Name "value";` lines.
/// None where there is no apt.
pub(crate) fn host_options() -> Vec<String> {
    let output = Command::new("apt-config").arg("dump").env_remove("APT_CONFIG").output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| is_wanted(line))
            .map(str::to_owned)
            .collect(),
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn is_wanted(line: &str) -> bool {
    let Some((name, value)) = line.split_once(' ') else { return false };
    let is_set = value != "\"\";";
    is_set
        && OPTION_STARTS.iter().any(|start| name.starts_with(start))
        && !OPTION_ENDS.iter().any(|end| name.ends_with(end))
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Mirrors, is_wanted, parse_lines, parse_stanzas};

    const STANZAS: &str = "\
Types: deb deb-src
# a comment
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://mirror.test/security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: trixie
Components: main
";

    #[test]
    fn stanzas_name_the_hosts_mirrors() {
        let mirrors = Mirrors::of(&parse_stanzas(STANZAS));
        assert_eq!(mirrors.main, "http://mirror.test/debian");
        assert_eq!(mirrors.components, ["main", "contrib"]);
        assert_eq!(
            mirrors.lines("trixie", "main"),
            [
                "deb http://mirror.test/debian trixie main",
                "deb http://mirror.test/debian trixie-updates main",
                "deb https://mirror.test/security trixie-security main",
            ]
        );
        assert_eq!(mirrors.lines("sid", "main"), ["deb http://mirror.test/debian sid main"]);
        let again = Mirrors::of(&parse_stanzas(&mirrors.stanzas("trixie", "main contrib")));
        assert_eq!(again, mirrors);
    }

    #[test]
    fn one_line_sources_name_them_too() {
        let text = "# deb http://no.test x main\n\
            deb [arch=amd64 signed-by=/etc/other.gpg] http://other.test/apt bookworm main\n\
            deb [trusted=yes] http://m.test/d stable main non-free # c\n";
        let mirrors = Mirrors::of(&parse_lines(text));
        assert_eq!(mirrors.main, "http://m.test/d");
        assert_eq!(mirrors.security, "");
        assert_eq!(mirrors.lines("bookworm", "main").len(), 2);
    }

    #[test]
    fn a_host_without_debian_sources_gets_debians_own() {
        let foreign =
            parse_lines("deb http://archive.test/ubuntu noble main\ndeb cdrom:[x] y main");
        for sources in [&[][..], &foreign] {
            assert!(Mirrors::of(sources).is_default());
        }
        let text = "deb https://u:secret@m.test/d stable main";
        assert!(!format!("{:?}", Mirrors::of(&parse_lines(text))).contains("secret"));
    }

    #[test]
    fn only_options_that_reach_archives_are_taken() {
        assert!(is_wanted("Acquire::Check-Valid-Until \"false\";"));
        assert!(is_wanted("Acquire::http::Proxy \"http://p.test:1\";"));
        assert!(!is_wanted("Acquire::http::Proxy \"\";"));
        assert!(!is_wanted("Acquire::https::SslKey \"/etc/key\";"));
        assert!(!is_wanted("DPkg::Post-Invoke:: \"rm -rf /\";"));
        assert!(!is_wanted("Acquire::Languages \"none\";"));
    }
}
