//! What goes wrong, as clients read it: a kind, a message, and a detail for their debug logs.

use std::io;

use rustix::io::Errno;

use crate::command::Command;
use crate::names::quoted;

/// The kinds of failures. Clients have exceptions for the first seven; of others they show the
/// message alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    NotFound,
    IsDirectory,
    NotDirectory,
    PermissionDenied,
    PathAlreadyExists,
    DirectoryNotEmpty,
    FileTooLarge,
    /// What lies there is of a kind that cannot be read or written.
    NotAFile,
    /// The disk, or the share of it that the sandbox has, is full.
    NoSpace,
    /// The path cannot be one, or leads in circles.
    InvalidPath,
    /// Something is mounted there.
    Busy,
    InvalidCommand,
    /// What is asked for does not fit the open file.
    Invalid,
    /// The handle is of no open file.
    NotOpen,
    /// No further file can be held open.
    TooMany,
    Io,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::IsDirectory => "IsDirectory",
            Self::NotDirectory => "NotDirectory",
            Self::PermissionDenied => "PermissionDenied",
            Self::PathAlreadyExists => "PathAlreadyExists",
            Self::DirectoryNotEmpty => "DirectoryNotEmpty",
            Self::FileTooLarge => "FileTooLarge",
            Self::NotAFile => "NotAFile",
            Self::NoSpace => "NoSpace",
            Self::InvalidPath => "InvalidPath",
            Self::Busy => "Busy",
            Self::InvalidCommand => "InvalidCommand",
            Self::Invalid => "Invalid",
            Self::NotOpen => "NotOpen",
            Self::TooMany => "TooMany",
            Self::Io => "Io",
        }
    }

    /// Whether clients show the path behind the message of such a failure of `command`. Of other
    /// failures they show the message alone: then the path must stand in it.
    fn is_shown_with_path(self, command: &Command) -> bool {
        use Kind::{
            DirectoryNotEmpty, FileTooLarge, IsDirectory, NotDirectory, NotFound,
            PathAlreadyExists, PermissionDenied,
        };
        let shown: &[Self] = match command {
            Command::ReadFile { .. } => &[NotFound, IsDirectory, PermissionDenied, FileTooLarge],
            Command::WriteFile { .. } => &[NotDirectory, IsDirectory, PermissionDenied],
            Command::ListFiles { .. } | Command::Stat { .. } => {
                &[NotFound, NotDirectory, PermissionDenied]
            }
            Command::MakeDirectory { .. } => {
                &[NotFound, PathAlreadyExists, NotDirectory, PermissionDenied]
            }
            Command::Remove { .. } => &[NotFound, DirectoryNotEmpty, PermissionDenied],
            Command::Watch { .. } => &[NotFound, PermissionDenied],
            _ => &[],
        };
        shown.contains(&self)
    }
}

/// Why a command was not done.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    detail: String,
}

impl Failure {
    /// A failure with a message of its own.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), detail: String::new() }
    }

    /// There is no command that could be done.
    pub(crate) fn command(what: impl Into<String>) -> Self {
        let message = format!("the command is not understood: {}", what.into());
        Self::new(Kind::InvalidCommand, message)
    }

    /// What the kernel says.
    pub(crate) fn of(error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        let (kind, message) = match errno {
            Some(Errno::NOENT) => (Kind::NotFound, "no such file or directory"),
            Some(Errno::ISDIR) => (Kind::IsDirectory, "this is a directory, not a file"),
            Some(Errno::NOTDIR) => {
                (Kind::NotDirectory, "this, or a folder in its path, is not a directory")
            }
            Some(Errno::ACCESS | Errno::PERM) => (Kind::PermissionDenied, "permission denied"),
            Some(Errno::ROFS) => (Kind::PermissionDenied, "the file system is read-only"),
            Some(Errno::EXIST) => (Kind::PathAlreadyExists, "the path exists already"),
            Some(Errno::NOTEMPTY) => {
                (Kind::DirectoryNotEmpty, "the directory is not empty; remove it with `recursive`")
            }
            Some(Errno::FBIG) => (Kind::FileTooLarge, "the file is too large"),
            Some(Errno::NOSPC | Errno::DQUOT) => {
                (Kind::NoSpace, "no space is left on the disk of the sandbox")
            }
            Some(Errno::NAMETOOLONG) => (Kind::InvalidPath, "the path is too long"),
            Some(Errno::LOOP) => (Kind::InvalidPath, "links in the path lead in circles"),
            Some(Errno::BUSY) => (Kind::Busy, "something is mounted there, or uses it"),
            _ => (Kind::Io, "the kernel refuses this"),
        };
        let message = match kind {
            Kind::Io => format!("{message} ({error})"),
            _ => message.to_owned(),
        };
        Self { kind, message, detail: error.to_string() }
    }

    /// The same failure, with words before its message.
    pub(crate) fn before(mut self, words: &str) -> Self {
        self.message = format!("{words}: {}", self.message);
        self
    }

    /// The failure as the client of `command` will show it: with the path exactly once.
    pub(crate) fn said_to_client(mut self, command: &Command) -> Self {
        let Some(path) = command.path() else { return self };
        if !self.kind.is_shown_with_path(command) {
            self.message = format!("{}: {}", self.message, path.display());
        }
        if !self.detail.is_empty() {
            self.detail = format!("{}: {}", self.detail, path.display());
        }
        self
    }

    /// The line for stderr.
    #[must_use]
    pub fn to_json(&self) -> String {
        format!(
            r#"{{"error_kind":"{}","message":{},"detail":{}}}"#,
            self.kind.name(),
            quoted(self.message.as_bytes()),
            quoted(self.detail.as_bytes()),
        )
    }
}
