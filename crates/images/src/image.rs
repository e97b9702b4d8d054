//! An image: layers, and how to start a process over them.

use std::collections::BTreeMap;

use blobs::Digest;
use serde::{Deserialize, Serialize};

/// The search path of an image that names none, as Docker has it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image. Plain data: whoever holds it can start containers where its layers are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Diff directories by digest, bottom first.
    pub layers: Vec<Digest>,
    /// How to start a process.
    pub config: Config,
    /// The minor version of the Python that is first on the search path, as (3, 11), where the
    /// base image says it.
    pub python: Option<(u8, u8)>,
}

/// How processes of an image start unless their caller says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Environment variables in the order in which they were first set.
    pub env: Vec<(String, String)>,
    /// Absolute path; empty means `/`.
    pub workdir: String,
    /// Put before the command. Empty when the image has none.
    pub entrypoint: Vec<String>,
    /// The command, or the arguments of the entrypoint. Empty when the image has none.
    pub cmd: Vec<String>,
    /// What runs commands that are one string. Empty means `/bin/sh -c`.
    pub shell: Vec<String>,
    /// `user`, `user:group`, `uid` or `uid:gid`; empty means root.
    pub user: String,
    /// Free key and value pairs.
    pub labels: BTreeMap<String, String>,
    /// Ports that the image says it listens on, as written ("80/tcp"). Opens nothing.
    pub exposed: Vec<String>,
    /// Paths that the image says hold data. Mounts nothing.
    pub volumes: Vec<String>,
    /// The signal that asks the image's process to end; empty means SIGTERM.
    pub stop_signal: String,
    /// Whether its programs are linked to musl instead of glibc, as in Alpine.
    pub is_musl: bool,
}

impl Config {
    /// Sets one environment variable, in its old place when it has one.
    pub fn set_env(&mut self, name: &str, value: String) {
        match self.env.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.env.push((name.to_owned(), value)),
        }
    }

    /// The value of one environment variable.
    #[must_use]
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The argv of a command that is one string.
    #[must_use]
    pub fn shell_argv(&self, command: &str) -> Vec<String> {
        let mut argv = match self.shell.as_slice() {
            [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            shell => shell.to_vec(),
        };
        argv.push(command.to_owned());
        argv
    }

    /// The folder in which processes start.
    #[must_use]
    pub fn workdir(&self) -> &str {
        if self.workdir.is_empty() { "/" } else { &self.workdir }
    }
}
