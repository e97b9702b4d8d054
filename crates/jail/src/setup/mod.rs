//! The re-executed process: it builds a container and becomes nothing else.
//!
//! A process with threads cannot fork safely, so the caller executes its own binary once more.
//! That process (`builder`) has one thread; it clones the container's first process (`init`) as
//! the caller's own child, gives it its root and ends. `init` puts up the walls (`mounts` and
//! what is in it), waits for the order to start, forks the program and stays as its reaper;
//! where the plan says so, it starts further programs (`execs`).

mod builder;
mod execs;
mod init;
mod mounts;
mod program;

use std::io;
use std::path::PathBuf;

/// argv[0] of the re-executed process. A container sees it in /proc/1/cmdline.
pub(crate) const MARK: &str = "init-of-container";

/// Why a container could not be built; only its text leaves the process.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("receiving the plan: {0}")]
    Plan(#[source] io::Error),
    #[error("{step}: {source}")]
    Step { step: &'static str, source: io::Error },
    #[error("opening {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("`binds`: the file system of {path} cannot map ids: {source}")]
    Map { path: PathBuf, source: io::Error },
    #[error("mounting {what}: {source}")]
    Mount { what: String, source: io::Error },
    #[error("making the mount point {path} in the container's root: {source}")]
    Target { path: PathBuf, source: io::Error },
    #[error("{0} of the container's root is no folder")]
    NoFolder(PathBuf),
    #[error(transparent)]
    Overlay(#[from] crate::overlay::Error),
}

impl Error {
    /// For `map_err`: names the step that failed.
    fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Step { step, source: source.into() }
    }
}

/// Whether this process was re-executed to build a container: then the embedding binary calls
/// [`child_main`] before anything else, above all before it starts a thread.
pub fn is_child() -> bool {
    std::env::args_os().next().is_some_and(|name| name == MARK)
}

/// Builds the container that the parent process asks for.
pub fn child_main() -> ! {
    builder::main()
}

/// Ends this process.
#[expect(clippy::exit, reason = "the end of a process that nothing returns to")]
fn end(code: i32) -> ! {
    std::process::exit(code)
}
