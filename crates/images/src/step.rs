//! What this crate wants done inside containers, and by whom.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::image::Config;

/// Runs the steps of builds. The worker has the real one, which contains them.
pub trait StepRunner: Send + Sync {
    /// Runs a command in a closed container over the step's layers, and gives its output (both
    /// streams, as it comes) to `log`. When it returns, nothing of the step runs any more, and
    /// the upper directory holds what the command left, and no mount points of the runner's own.
    ///
    /// # Errors
    /// When the command cannot be started or watched. A command that fails is an [`Exit`].
    fn run(&self, step: &RunStep, log: &mut dyn FnMut(&[u8])) -> Result<Exit, RunError>;

    /// Writes files into the tree of `layers` (bottom first) with `upper` on top. Links in the
    /// tree are followed as a process inside would follow them, and lead nowhere else.
    /// Parents that are missing are made as root's, with mode 0755. A folder that is there stays
    /// as it is; any other thing in the way of a file or link is replaced.
    ///
    /// # Errors
    /// When an entry cannot be written.
    fn write(
        &self,
        layers: &[PathBuf],
        draft: &StepDirs,
        entries: &[Entry],
    ) -> Result<(), RunError>;

    /// Copies files of one tree into the tree of `layers` (bottom first) with `upper` on top.
    /// Links are followed inside the tree that has them. What is copied keeps its links, modes
    /// and owners; what stands in the way is as in [`StepRunner::write`].
    ///
    /// # Errors
    /// When a source is missing, or something cannot be copied.
    fn copy(&self, layers: &[PathBuf], draft: &StepDirs, copy: &TreeCopy) -> Result<(), RunError>;
}

/// A copy out of another tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeCopy {
    /// What the tree is called in errors, as "the stage build".
    pub name: String,
    /// Its diff directories, bottom first. Never written.
    pub from: Vec<PathBuf>,
    /// Empty directories for mounting it. What is in them afterwards is thrown away.
    pub scratch: StepDirs,
    /// Absolute paths in it, without `.` and `..`; a part may be a pattern (see [`matches`]). Of a
    /// folder its entries are copied, not itself. A link is followed here, and here alone.
    ///
    /// [`matches`]: crate::matches
    pub sources: Vec<String>,
    /// Absolute path in the tree that is written, without `.` and `..`.
    pub destination: PathBuf,
    /// Whether a file goes into the destination, which is made a folder, even when there is none
    /// yet. Into a folder that is there it goes anyway.
    pub into_folder: bool,
    /// `user[:group]` of all that is copied; as it was when not given.
    pub owner: Option<String>,
    /// Mode of all files and folders that are copied; as it was when not given.
    pub mode: Option<u32>,
}

/// Something that a command finds at a path, and that is in no layer.
#[derive(Clone, PartialEq, Eq)]
pub enum StepMount {
    /// An empty memory file system.
    Tmpfs {
        /// Absolute path inside.
        target: PathBuf,
        /// Its size; the runner's own when not given.
        size_bytes: Option<u64>,
    },
    /// A small file that nobody else may see, root's own.
    File {
        /// Absolute path inside.
        target: PathBuf,
        /// The bytes.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
}

impl fmt::Debug for StepMount {
    /// Says where, not what: a file may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tmpfs { target, .. } => write!(f, "Tmpfs({})", target.display()),
            Self::File { target, .. } => write!(f, "File({})", target.display()),
        }
    }
}

/// Where a step's files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDirs {
    /// The writable layer, ids from 0. Empty at first.
    pub upper: PathBuf,
    /// An empty directory on the same file system, for an overlay that wants one. What is in it
    /// afterwards is thrown away.
    pub work: PathBuf,
}

/// A command in an image that is being built.
#[derive(Clone, PartialEq, Eq)]
pub struct RunStep {
    /// Diff directories, bottom first. Never written.
    pub layers: Vec<PathBuf>,
    /// Diff directories above the layers that are there for this command alone: files that are
    /// bound into the tree. Never written.
    pub bound: Vec<PathBuf>,
    /// Where the command's files go.
    pub dirs: StepDirs,
    /// Program and arguments; the program is looked for on the PATH of `env`.
    pub argv: Vec<String>,
    /// The whole environment. Later entries win. May hold secrets.
    pub env: Vec<(String, String)>,
    /// The folder it starts in; made by an earlier step.
    pub cwd: String,
    /// `user`, `user:group` or numbers, looked up inside; empty means root.
    pub user: String,
    /// What it finds beside the layers.
    pub mounts: Vec<StepMount>,
    /// Whether it reaches the network.
    pub network: bool,
    /// How long it may run.
    pub timeout: Option<Duration>,
}

impl RunStep {
    /// A Python program (its text, then its arguments) that fetches packages with pip, run as
    /// root and with the network. It finds the environment of the image whose `config` that is.
    pub(crate) fn of_python(
        program: &[&str],
        config: &Config,
        layers: Vec<PathBuf>,
        dirs: StepDirs,
        timeout: Duration,
    ) -> Self {
        let owned = |text: &str| text.to_owned();
        let set = [
            ("HOME", "/tmp"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
            ("PIP_NO_INPUT", "1"),
            ("PIP_ROOT_USER_ACTION", "ignore"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("TMPDIR", "/tmp"),
        ];
        let set = set.map(|(name, value)| (owned(name), owned(value)));
        Self {
            layers,
            bound: Vec::new(),
            dirs,
            argv: ["python3", "-c"].iter().chain(program).copied().map(owned).collect(),
            env: config.env.iter().cloned().chain(set).collect(),
            cwd: "/".to_owned(),
            user: String::new(),
            mounts: Vec::new(),
            network: true,
            timeout: Some(timeout),
        }
    }
}

impl fmt::Debug for RunStep {
    /// Names the variables, not their values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("RunStep")
            .field("argv", &self.argv)
            .field("env", &env)
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("mounts", &self.mounts)
            .field("network", &self.network)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It ran longer than it may.
    TimedOut,
    /// It needed more memory than it may have.
    OutOfMemory,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::TimedOut => f.write_str("its time being up"),
            Self::OutOfMemory => f.write_str("its memory being used up"),
        }
    }
}

/// Why a runner cannot do a step.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The build was stopped.
    #[error("the build was stopped")]
    Cancelled,
    /// The step asks for something that is not there or not allowed; the text is for the user.
    #[error("{0}")]
    Refused(String),
    /// The machinery failed.
    #[error("the container of the step fails")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Something to be written into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path in the tree, without `.` and `..`.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, for files and for folders that are made.
    pub mode: u32,
    /// `user[:group]`, names or numbers, names looked up inside; root when not given.
    pub owner: Option<String>,
    /// When `path` is a folder in the tree, the entry goes into it under this name.
    pub name_in_folder: Option<String>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A file with this content.
    File(Source),
    /// A symbolic link to this target.
    Link(String),
}

/// Where bytes are.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file of the host that nobody changes.
    File(PathBuf),
    /// In memory.
    Bytes(Arc<[u8]>),
}

impl Source {
    /// The first bytes, at most `max`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn start(&self, max: usize) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes[..bytes.len().min(max)].to_vec()),
            Self::File(path) => read_start(path, max),
        }
    }
}

fn read_start(path: &Path, max: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}
