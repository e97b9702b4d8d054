//! What a client asks for: one JSON object with one key, the command.

use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

use crate::failure::Failure;
use crate::handles::Mode;
use crate::limits::{HANDLE_BYTES_MAX, TIMEOUT_SECS_MAX};
use crate::names;
use crate::positions::Span;
use crate::watch::EventType;

/// A command and its arguments. What may be missing stands for what older clients meant.
#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum Command {
    /// The file's bytes go to stdout.
    ReadFile { path: RemotePath },
    /// Stdin, until its end, becomes the file's content; parents are made.
    WriteFile { path: RemotePath },
    /// A JSON array of the folder's entries, sorted by their names.
    ListFiles { path: RemotePath },
    /// A JSON object; of a link itself, not of its target.
    Stat { path: RemotePath },
    /// Makes a folder, and those above it with `parents`; then one that is there is fine.
    MakeDirectory {
        path: RemotePath,
        #[serde(default)]
        parents: bool,
    },
    /// Removes a file, a link or an empty folder; with `recursive` one that is not empty.
    Remove {
        path: RemotePath,
        #[serde(default)]
        recursive: bool,
    },
    /// A line of JSON for each change, until the timeout or the end of stdin.
    Watch {
        path: RemotePath,
        #[serde(default)]
        recursive: bool,
        /// `None` is everything, an empty list nothing.
        #[serde(default)]
        filter: Option<Vec<EventType>>,
        #[serde(default, deserialize_with = "timeout")]
        timeout_secs: Option<f64>,
    },
    /// A JSON object with the names in a folder, sorted.
    ListNames { path: RemotePath },
    /// Opens a file and keeps it open, as `handle`.
    OpenFile { path: RemotePath, mode: Mode, handle: Handle },
    /// So many bytes from the open file's position on, or all that are left, go to stdout.
    ReadOn {
        handle: Handle,
        #[serde(default)]
        count: Option<u64>,
    },
    /// A line from the open file's position on goes to stdout.
    ReadLine { handle: Handle },
    /// Stdin, until its end, is written at the open file's position.
    WriteOn { handle: Handle },
    /// What was written to the open file is put on the disk.
    Flush { handle: Handle },
    /// Moves the open file's position.
    Seek { handle: Handle, offset: i64, whence: Whence },
    /// Takes bytes out of the open file.
    DeleteBytes { handle: Handle, span: Span },
    /// Puts stdin in the place of bytes of the open file.
    ReplaceBytes { handle: Handle, span: Span },
    /// Closes the open file.
    CloseFile { handle: Handle },
    /// Holds stdin open for those that connect to stdout: what `OpenFile` leaves behind.
    HoldFile,
}

/// From where a position is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub(crate) enum Whence {
    Start,
    Current,
    End,
}

/// The name of an open file: whoever opens it chooses one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handle(String);

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if text.is_empty() || text.len() > HANDLE_BYTES_MAX || !plain {
            return Err(D::Error::custom("a handle is letters, digits and `-`"));
        }
        Ok(Self(text))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("mode {text:?} is none of r, w, a and x, with + and b"))
        })
    }
}

impl Command {
    /// The path that it is about; one on an open file has none.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::ReadFile { path }
            | Self::WriteFile { path }
            | Self::ListFiles { path }
            | Self::Stat { path }
            | Self::MakeDirectory { path, .. }
            | Self::Remove { path, .. }
            | Self::Watch { path, .. }
            | Self::ListNames { path }
            | Self::OpenFile { path, .. } => Some(path),
            Self::ReadOn { .. }
            | Self::ReadLine { .. }
            | Self::WriteOn { .. }
            | Self::Flush { .. }
            | Self::Seek { .. }
            | Self::DeleteBytes { .. }
            | Self::ReplaceBytes { .. }
            | Self::CloseFile { .. }
            | Self::HoldFile => None,
        }
    }

    /// Reads a command.
    ///
    /// # Errors
    ///
    /// It is no JSON, an unknown command, or has a field that is unknown, missing or wrong.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(json).map_err(|error| Failure::command(error.to_string()))
    }
}

/// An absolute path in the sandbox, without NUL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RemotePath(PathBuf);

impl Deref for RemotePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for RemotePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As bytes: only so does serde_json let half surrogates through.
        deserializer.deserialize_bytes(PathVisitor)
    }
}

struct PathVisitor;

impl Visitor<'_> for PathVisitor {
    type Value = RemotePath;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an absolute path")
    }

    fn visit_bytes<E: serde::de::Error>(self, text: &[u8]) -> Result<RemotePath, E> {
        let name = names::unquoted(text).ok_or_else(|| E::custom("the path is no Unicode text"))?;
        if !name.starts_with(b"/") {
            return Err(E::custom("the path must be absolute: it must begin with `/`"));
        }
        if name.contains(&0) {
            return Err(E::custom("the path holds a NUL character, which no file's name can"));
        }
        Ok(RemotePath(OsString::from_vec(name).into()))
    }
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let seconds = Option::<f64>::deserialize(deserializer)?;
    if seconds.is_some_and(|seconds| !(0.0..=TIMEOUT_SECS_MAX).contains(&seconds)) {
        let what = format!("timeout_secs must lie between 0 and {TIMEOUT_SECS_MAX} seconds");
        return Err(D::Error::custom(what));
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(path: &str) -> RemotePath {
        RemotePath(path.into())
    }

    #[test]
    fn what_clients_send_is_understood() {
        for (json, command) in [
            (r#"{"ReadFile": {"path": "/a"}}"#, Command::ReadFile { path: path("/a") }),
            (
                r#"{"MakeDirectory": {"path": "/a", "parents": true}}"#,
                Command::MakeDirectory { path: path("/a"), parents: true },
            ),
            (
                r#"{"OpenFile":{"path":"/a","mode":"rb+","handle":"f-1"}}"#,
                Command::OpenFile {
                    path: path("/a"),
                    mode: Mode::parse("r+").expect("it is one"),
                    handle: Handle("f-1".into()),
                },
            ),
            (r#""HoldFile""#, Command::HoldFile),
            (r#"{"Remove":{"path":"/a"}}"#, Command::Remove { path: path("/a"), recursive: false }),
            (
                r#"{"Watch":{"path":"/a","recursive":true,"filter":["Modify","RenameTo"],
                    "timeout_secs":3}}"#,
                Command::Watch {
                    path: path("/a"),
                    recursive: true,
                    filter: Some(vec![EventType::Modify, EventType::RenameTo]),
                    timeout_secs: Some(3.0),
                },
            ),
            (
                r#"{"Watch":{"path":"/a","recursive":false,"filter":null,"timeout_secs":null}}"#,
                Command::Watch {
                    path: path("/a"),
                    recursive: false,
                    filter: None,
                    timeout_secs: None,
                },
            ),
        ] {
            assert_eq!(Command::parse(json.as_bytes()).expect(json), command);
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for (json, words) in [
            ("", "EOF"),
            ("null", "expected"),
            (r#"{"ReadFile":{"path":"/a"},"Stat":{"path":"/a"}}"#, "expected"),
            (r#"{"Chmod":{"path":"/a"}}"#, "unknown variant `Chmod`"),
            (r#"{"Stat":{}}"#, "missing field `path`"),
            (r#"{"Stat":{"path":"/a","follow":true}}"#, "unknown field `follow`"),
            (r#"{"Stat":{"path":["/a"]}}"#, "an absolute path"),
            (r#"{"Stat":{"path":"a"}}"#, "absolute"),
            (r#"{"Stat":{"path":""}}"#, "absolute"),
            (r#"{"Stat":{"path":"/a\u0000b"}}"#, "NUL"),
            (r#"{"Stat":{"path":"/\ud800"}}"#, "Unicode"),
            (r#"{"OpenFile":{"path":"/a","mode":"q","handle":"f"}}"#, "mode"),
            (r#"{"OpenFile":{"path":"/a","mode":"r","handle":"../f"}}"#, "handle"),
            (r#"{"CloseFile":{"handle":""}}"#, "handle"),
            (r#"{"Watch":{"path":"/a","filter":["Delete"]}}"#, "unknown variant `Delete`"),
            (r#"{"Watch":{"path":"/a","timeout_secs":-1}}"#, "timeout_secs"),
            (r#"{"Watch":{"path":"/a","timeout_secs":1e300}}"#, "timeout_secs"),
        ] {
            let failure = Command::parse(json.as_bytes()).expect_err(json).to_json();
            assert!(failure.contains(words), "{json}: {failure}");
            assert!(failure.contains(r#""error_kind":"InvalidCommand""#), "{failure}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(json in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Err(failure) = Command::parse(&json) {
                serde_json::from_str::<serde_json::Value>(&failure.to_json()).expect("no JSON");
            }
        }

        #[test]
        fn no_text_that_looks_like_a_command_is_too_strange(
            command in "(ReadFile|WriteFile|ListFiles|Stat|MakeDirectory|Remove|Watch|[A-Z]{0,4})",
            field in "(path|parents|recursive|filter|timeout_secs|[a-z]{0,4})",
            value in concat!(
                r#"("/?(\\u[0-9a-fd]{0,4}|[^"]){0,20}"|\[.{0,9}\]"#,
                "|-?[0-9]{1,40}(e[0-9]{1,4})?|.{0,9})",
            ),
        ) {
            let json = format!(r#"{{"{command}":{{"path":"/a","{field}":{value}}}}}"#);
            if let Err(failure) = Command::parse(json.as_bytes()) {
                serde_json::from_str::<serde_json::Value>(&failure.to_json()).expect("no JSON");
            }
        }
    }
}
