//! The host's own package settings, for build steps: where pip, uv, npm and apt take packages
//! from, through which proxy, and whose certificates they trust.
//!
//! A build on a host with a mirror or a proxy works only if its steps know them. They are laid
//! over a step's container as one folder of files and some environment variables, and are never
//! part of a layer or a log. Paths that a settings name get a place in that folder, so the only
//! mount point is ours. What carries a password stays out unless the operator shares it.

mod addresses;
mod pip;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::apt::{self, Mirrors};
use crate::stack::Stack;
use crate::tree::{Tree, TreeError};

pub(crate) use addresses::has_password;
use addresses::{addresses, is_loopback};

/// The folder inside a step's container that holds the files of [`Passthrough`]. A runner mounts
/// something of its own there, read-only, and takes the mount point away afterwards.
pub const SETTINGS_DIR: &str = "/run/palisade/packages";

/// Where distributions keep the certificates that the host trusts.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Variables that name a certificate bundle, in the order in which the host's are looked at.
const CA_NAMES: [&str; 6] = [
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
];

const PROXY_NAMES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// Variables of uv that say where packages are and how to reach them.
const UV_NAMES: [&str; 11] = [
    "UV_INDEX",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX_STRATEGY",
    "UV_NO_INDEX",
    "UV_HTTP_TIMEOUT",
    "UV_INSECURE_HOST",
    "UV_NATIVE_TLS",
    "UV_PYTHON_INSTALL_MIRROR",
    "UV_SYSTEM_CERTS",
];

const NPM_NAMES: [&str; 4] =
    ["npm_config_registry", "NPM_CONFIG_REGISTRY", "npm_config_proxy", "npm_config_https_proxy"];

/// Where the host's settings are read from.
#[derive(Clone)]
pub struct Host {
    /// The folder that is `/`; another one in tests.
    pub root: PathBuf,
    /// The home of the user whose settings count, below `root`.
    pub home: PathBuf,
    /// The environment of the server.
    pub env: BTreeMap<String, String>,
    /// Lines of `apt-config dump` that say how to reach archives.
    pub apt_options: Vec<String>,
}

impl Host {
    /// This process' host.
    #[must_use]
    pub fn this() -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let home = env.get("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        Self { root: PathBuf::from("/"), home, env, apt_options: apt::host_options() }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("root", &self.root).finish_non_exhaustive()
    }
}

/// What an operator allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Whether build steps get settings that carry passwords: addresses with user names in them,
    /// `~/.npmrc` and apt's `auth.conf`. Every step of every build can then read them.
    pub passwords: bool,
}

/// What a build step gets of the host's settings.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Passthrough {
    /// Environment variables, weaker than those of the image.
    pub env: Vec<(String, String)>,
    /// Files and their content, mode 0644. They lie below [`SETTINGS_DIR`], but for one on hosts
    /// with a mirror: it covers apt's sources, where the image has that very file. A step cannot
    /// rename another file over it then, as `sed -i` does.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Folders and files of the host, and where below [`SETTINGS_DIR`] they are mounted read-only.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Hosts and ports that the settings name, in order, each once. A step must reach them, also
    /// where they lie in a private network.
    pub hosts: Vec<(String, u16)>,
    /// Those on the host's own loopback, which a container cannot reach by itself: proxies as a
    /// rule. None of them is in `hosts`. The variables name them as the host does.
    pub loopback_proxies: Vec<(String, u16)>,
    /// Settings that were left out because they carry passwords, by name.
    pub left_out: Vec<String>,
}

impl Passthrough {
    /// Paths inside that a runner takes away after a step, if the step left them empty: mount
    /// points that were made for these settings. In order.
    #[must_use]
    pub fn mount_points(&self) -> [&'static str; 2] {
        [SETTINGS_DIR, "/run/palisade"]
    }

    /// The environment of a step: these settings, and over them what the step has itself.
    #[must_use]
    pub fn merge_env(&self, env: &[(String, String)]) -> Vec<(String, String)> {
        let is_free = |(name, _): &&(String, String)| !env.iter().any(|(known, _)| known == name);
        self.env.iter().filter(is_free).chain(env).cloned().collect()
    }
}

impl fmt::Debug for Passthrough {
    /// Names things; values may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        let files: Vec<&PathBuf> = self.files.iter().map(|(path, _)| path).collect();
        f.debug_struct("Passthrough")
            .field("env", &env)
            .field("files", &files)
            .field("binds", &self.binds)
            .field("left_out", &self.left_out)
            .finish_non_exhaustive()
    }
}

/// What apt's settings in an image look like, from its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageApt {
    /// The suite of Debian that the image is of.
    pub suite: String,
    /// Whether it names Debian's archive in `/etc/apt/sources.list.d/debian.sources`, as Debian's
    /// images do, and not in `/etc/apt/sources.list`.
    pub has_stanzas: bool,
}

/// Looks at an image's layers (bottom first). `None` for an image that is not of Debian.
///
/// # Errors
/// When a layer cannot be opened or its files not be read.
pub fn image_apt(layers: &[PathBuf]) -> io::Result<Option<ImageApt>> {
    let stack = Stack::open(layers)?;
    let text = |path| -> io::Result<String> {
        let bytes = stack.read(path)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let suite = suite_of(&text("/usr/lib/os-release")?, &text("/etc/debian_version")?);
    let sources = stack.find(apt::SOURCES)?;
    let has_stanzas = sources.is_some_and(|found| found.kind == FileType::RegularFile);
    Ok(suite.map(|suite| ImageApt { suite, has_stanzas }))
}

fn suite_of(release: &str, version: &str) -> Option<String> {
    let field = |name: &str| {
        release.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_matches('"').to_owned()))
    };
    if field("ID=").as_deref() != Some("debian") {
        return None;
    }
    // Unstable calls itself by the name of the next release, and says so only here.
    if version.trim().ends_with("/sid") {
        return Some("sid".to_owned());
    }
    field("VERSION_CODENAME=")
}

/// Collects the host's settings for a step in an image (`None`: it is not of Debian, and gets no
/// sources for apt).
///
/// # Errors
/// When a settings file is there and cannot be read.
pub fn collect(
    host: &Host,
    image: Option<&ImageApt>,
    sharing: Sharing,
) -> Result<Passthrough, TreeError> {
    let tree = Tree::open(&host.root)?;
    let mut collector = Collector { host, sharing, tree, out: Passthrough::default() };
    collector.take_proxies();
    let pip = pip::Settings::read(&collector)?;
    collector.take_pip(&pip);
    collector.take_uv(&pip);
    collector.take_npm()?;
    let has_bundle = collector.take_certificates(&pip)?;
    collector.take_apt(image, has_bundle)?;
    let mut out = collector.out;
    let mut seen = std::collections::BTreeSet::new();
    out.hosts.retain(|host| seen.insert(host.clone()));
    let hosts = std::mem::take(&mut out.hosts);
    (out.loopback_proxies, out.hosts) = hosts.into_iter().partition(|(host, _)| is_loopback(host));
    Ok(out)
}

/// The settings as they are found.
struct Collector<'h> {
    host: &'h Host,
    sharing: Sharing,
    tree: Tree,
    out: Passthrough,
}

impl Collector<'_> {
    fn env(&self, name: &str) -> Option<&str> {
        self.host.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn has_env(&self, name: &str) -> bool {
        self.out.env.iter().any(|(known, _)| known == name)
    }

    /// Passes a variable on, unless it carries a password that is not shared.
    fn put(&mut self, name: &str, value: &str) {
        if has_password(value) && !self.sharing.passwords {
            self.out.left_out.push(name.to_owned());
            return;
        }
        self.out.hosts.extend(addresses(value));
        self.out.env.push((name.to_owned(), value.to_owned()));
    }

    fn take_proxies(&mut self) {
        for name in PROXY_NAMES {
            let Some(value) = self.env(name).map(str::to_owned) else { continue };
            if name.to_lowercase() == "no_proxy" {
                self.out.env.push((name.to_owned(), value));
                continue;
            }
            // A proxy may be written without its scheme.
            let full = if value.contains("://") { value } else { format!("http://{value}") };
            self.put(name, &full);
        }
    }

    fn take_pip(&mut self, pip: &pip::Settings) {
        for (name, value) in pip.variables() {
            let value = if name == "PIP_FIND_LINKS" {
                self.move_paths(&value, char::is_whitespace, " ")
            } else {
                value
            };
            if !value.is_empty() {
                self.put(&name, &value);
            }
        }
        for name in ["PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_INPUT"] {
            if let Some(value) = self.env(name).map(str::to_owned) {
                self.put(name, &value);
            }
        }
    }

    fn take_uv(&mut self, pip: &pip::Settings) {
        for name in UV_NAMES {
            if let Some(value) = self.env(name).map(str::to_owned) {
                self.put(name, &value);
            }
        }
        if let Some(value) = self.env("UV_FIND_LINKS").map(str::to_owned) {
            let value = self.move_paths(&value, |c| c == ',', ",");
            self.put("UV_FIND_LINKS", &value);
        }
        // uv reads nothing of pip's; a host that only set pip means both.
        let has_index = self.has_env("UV_INDEX_URL") || self.has_env("UV_DEFAULT_INDEX");
        for (name, from) in [
            ("UV_INDEX_URL", "index-url"),
            ("UV_EXTRA_INDEX_URL", "extra-index-url"),
            ("UV_HTTP_TIMEOUT", "timeout"),
        ] {
            let Some(value) = pip.get(from).map(str::to_owned) else { continue };
            let is_set = self.has_env(name) || (has_index && name == "UV_INDEX_URL");
            if !is_set {
                self.put(name, &value);
            }
        }
    }

    fn take_npm(&mut self) -> Result<(), TreeError> {
        for name in NPM_NAMES {
            if let Some(value) = self.env(name).map(str::to_owned) {
                self.put(name, &value);
            }
        }
        let path = self.home_path(".npmrc");
        let Some(bytes) = self.tree.read(&path)? else { return Ok(()) };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if self.sharing.passwords {
            self.out.hosts.extend(addresses(&text));
            self.put_file("npmrc", bytes, "NPM_CONFIG_USERCONFIG");
            return Ok(());
        }
        let registry = text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == "registry").then(|| value.trim().to_owned())
        });
        if let Some(registry) = registry.filter(|_| !self.has_env("npm_config_registry")) {
            self.put("npm_config_registry", &registry);
        }
        if text.contains("_auth") || text.contains("_password") {
            self.out.left_out.push("~/.npmrc".to_owned());
        }
        Ok(())
    }

    /// Without the host's certificates, a proxy or mirror that they vouch for looks to pip as if
    /// it had no packages. They get a path of their own: a mount over the image's bundle would
    /// break the packages that write it.
    fn take_certificates(&mut self, pip: &pip::Settings) -> Result<bool, TreeError> {
        let named = CA_NAMES.iter().find_map(|name| self.env(name));
        let named = named.or_else(|| pip.get("cert")).map(str::to_owned);
        for path in named.iter().map(String::as_str).chain(CA_BUNDLES) {
            let Some(bytes) = self.tree.read(path)? else { continue };
            let inside = Path::new(SETTINGS_DIR).join("ca-certificates.crt");
            for name in CA_NAMES {
                self.out.env.push((name.to_owned(), inside.to_string_lossy().into_owned()));
            }
            self.out.files.push((inside, bytes));
            return Ok(true);
        }
        Ok(false)
    }

    fn take_apt(&mut self, image: Option<&ImageApt>, has_bundle: bool) -> Result<(), TreeError> {
        let mirrors = Mirrors::read(&self.host.root)?;
        let mut options = Vec::new();
        for option in &self.host.apt_options {
            if has_password(option) && !self.sharing.passwords {
                let name = option.split(' ').next().unwrap_or_default();
                self.out.left_out.push(format!("apt's {name}"));
                continue;
            }
            self.out.hosts.extend(addresses(option));
            options.push(option.clone());
        }
        if has_bundle {
            let bundle = Path::new(SETTINGS_DIR).join("ca-certificates.crt");
            options.push(format!("Acquire::https::CAInfo \"{}\";", bundle.display()));
        }
        self.take_apt_sources(image, &mirrors, &mut options);
        self.take_apt_passwords(&mut options)?;
        if !options.is_empty() {
            self.put_file("apt.conf", (options.join("\n") + "\n").into_bytes(), "APT_CONFIG");
        }
        Ok(())
    }

    /// A host with a mirror has it in place of what images name. Sources that steps add
    /// themselves are read as ever: apt has one folder for them, so the file in it that names
    /// Debian's archive is covered, and not the folder replaced.
    fn take_apt_sources(
        &mut self,
        image: Option<&ImageApt>,
        mirrors: &Mirrors,
        options: &mut Vec<String>,
    ) {
        let Some(image) = image else { return };
        let components = mirrors.components.join(" ");
        let lines = mirrors.lines(&image.suite, &components).join("\n") + "\n";
        if has_password(&lines) && !self.sharing.passwords {
            self.out.left_out.push("apt's sources".to_owned());
            return;
        }
        self.out.hosts.extend(addresses(&lines));
        if mirrors.is_default() {
            return;
        }
        if image.has_stanzas {
            let stanzas = mirrors.stanzas(&image.suite, &components);
            self.out.files.push((apt::SOURCES.into(), stanzas.into_bytes()));
        } else {
            let path = Path::new(SETTINGS_DIR).join("sources.list");
            options.push(format!("Dir::Etc::sourcelist \"{}\";", path.display()));
            self.out.files.push((path, lines.into_bytes()));
        }
    }

    fn take_apt_passwords(&mut self, options: &mut Vec<String>) -> Result<(), TreeError> {
        let Some(bytes) = self.tree.read("/etc/apt/auth.conf")? else { return Ok(()) };
        if !self.sharing.passwords {
            self.out.left_out.push("/etc/apt/auth.conf".to_owned());
            return Ok(());
        }
        let path = Path::new(SETTINGS_DIR).join("apt-auth.conf");
        options.push(format!("Dir::Etc::netrc \"{}\";", path.display()));
        self.out.files.push((path, bytes));
        Ok(())
    }

    /// Gives paths of the host in a list a place inside. Paths that are not there are left out:
    /// tools fail on some of them and warn about others.
    fn move_paths(&mut self, list: &str, is_end: fn(char) -> bool, glue: &str) -> String {
        let mut moved = Vec::new();
        for item in list.split(is_end).filter(|item| !item.is_empty()) {
            let path = item.strip_prefix("file://").unwrap_or(item);
            if !path.starts_with('/') {
                // A relative path of the server's folder means nothing inside.
                if item.contains("://") {
                    moved.push(item.to_owned());
                }
                continue;
            }
            let host = self.host.root.join(path.trim_start_matches('/'));
            if !host.exists() {
                continue;
            }
            let known = self.out.binds.iter().find(|(known, _)| *known == host);
            let inside = match known {
                Some((_, inside)) => inside.clone(),
                None => {
                    let name = format!("paths/{}", self.out.binds.len());
                    let inside = Path::new(SETTINGS_DIR).join(name);
                    self.out.binds.push((host, inside.clone()));
                    inside
                }
            };
            moved.push(inside.to_string_lossy().into_owned());
        }
        moved.join(glue)
    }

    fn put_file(&mut self, name: &str, bytes: Vec<u8>, variable: &str) {
        let path = Path::new(SETTINGS_DIR).join(name);
        self.out.env.push((variable.to_owned(), path.to_string_lossy().into_owned()));
        self.out.files.push((path, bytes));
    }

    fn home_path(&self, name: &str) -> String {
        self.host.home.join(name).to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests;
