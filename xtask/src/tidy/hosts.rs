//! No file names a package index or a mirror of the machine that it was written on.
//!
//! The list of such hosts is the machine's own: what its settings of pip, apt, npm and cargo say.
//! To it come the indexes that these programs use when no settings say otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Finding;
use super::tree::TextFile;

/// Files of settings; directories stand for the files in them. `~/` is the home directory.
const SETTINGS: &[&str] = &[
    "/etc/pip.conf",
    "~/.pip/pip.conf",
    "~/.config/pip/pip.conf",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/apt.conf.d",
    "/etc/npmrc",
    "~/.npmrc",
    "~/.cargo/config.toml",
    "~/.cargo/config",
];

/// Beginnings of the names of variables that are settings.
const VARIABLES: &[&str] = &["PIP_", "UV_", "npm_config_", "NPM_CONFIG_", "CARGO_", "HTTP", "http"];

/// Debian's own name for whatever mirror is near: the default of every Debian system, which
/// the images that are made without any settings need as well.
const EVERYBODYS: &[&str] = &["localhost", "127.0.0.1", "deb.debian.org"];

/// Beginnings and ends of the names that are everybody's default; composed, since this file is
/// checked too.
const DEFAULTS: &[[&str; 2]] = &[["py", "pi.org"], ["python", "hosted.org"], ["npm", "js.org"]];

/// The hosts in this machine's settings, and the defaults.
pub(super) fn of_this_machine() -> BTreeSet<String> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let mut hosts: BTreeSet<String> = DEFAULTS.iter().map(|parts| parts.concat()).collect();
    for place in SETTINGS {
        let path = match place.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => PathBuf::from(place),
        };
        read(&path, &mut hosts);
    }
    for (name, value) in std::env::vars() {
        if VARIABLES.iter().any(|beginning| name.starts_with(beginning)) {
            hosts.extend(in_text(&value));
        }
    }
    hosts
}

fn read(path: &Path, hosts: &mut BTreeSet<String>) {
    if let Ok(text) = fs::read_to_string(path) {
        hosts.extend(in_text(&text));
    } else if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
            read(&entry.path(), hosts);
        }
    }
}

/// The hosts of all addresses in `text`, without users, passwords and ports.
fn in_text(text: &str) -> Vec<String> {
    let mut hosts = Vec::new();
    for address in text.split("://").skip(1) {
        let end = |c: char| !(c.is_alphanumeric() || "-._~%:@".contains(c));
        let authority = address.split(end).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default().trim_matches('.').to_lowercase();
        if host.contains('.') && !EVERYBODYS.contains(&host.as_str()) {
            hosts.push(host);
        }
    }
    hosts
}

/// The lines of `file` that name one of `hosts`.
pub(super) fn named(file: &TextFile, hosts: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        let line = line.to_lowercase();
        if let Some(host) = hosts.iter().find(|host| line.contains(host.as_str())) {
            let what = format!(
                "names {host}, a package index or a mirror: read the machine's settings instead"
            );
            findings.push(Finding::new(format!("{}:{number}", file.path), what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_users_ports_and_paths() {
        let text = "a=https://user:pass%40x@index.example.test:8443/simple\n\
            URIs: http://mirror.example.test/debian http://deb.debian.org/debian\n\
            proxy http://localhost:3128 file:///opt/x";
        assert_eq!(in_text(text), ["index.example.test", "mirror.example.test"]);
    }

    #[test]
    fn the_defaults_are_always_there() {
        let hosts = of_this_machine();
        for parts in DEFAULTS {
            assert!(hosts.contains(&parts.concat()), "{hosts:?}");
        }
    }

    #[test]
    fn a_file_that_names_a_host_is_found() {
        let file = TextFile {
            path: "x.rs".into(),
            text: "one\nlet url = \"https://Index.Example.test/\";\n".into(),
        };
        let hosts = BTreeSet::from(["index.example.test".to_owned()]);
        let findings = named(&file, &hosts);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "x.rs:2");
        assert!(named(&file, &BTreeSet::from(["other.example.test".to_owned()])).is_empty());
    }
}
