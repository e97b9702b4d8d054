//! The last steps before one of the container's own programs runs.

use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::message::Failure;
use crate::plan::{Limits, Plan, Process};
use crate::seccomp;
use crate::sys::process::{close_at_exec_from, reset_signals};

/// Why the program does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{step}: {source}")]
    Step { step: &'static str, source: io::Error },
    #[error("changing to the folder {path} (`process.cwd`): {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("the program {0} is not in the PATH of its environment")]
    NotFound(String),
    #[error(
        "executing {0}: it is there, but the interpreter that its first line or its header names \
         is not"
    )]
    NoInterpreter(String),
    #[error("executing {program}: {source}")]
    Execute { program: String, source: io::Error },
    #[error("argument or variable with a NUL byte: {0}")]
    Nul(#[from] NulError),
    /// What the forked process said.
    #[error("{0}")]
    Told(String),
}

impl Error {
    /// Which kind of failure the caller is told.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::NotFound(_) => Failure::NotFound,
            Self::Execute { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Failure::NotFound,
                _ => Failure::NotExecutable,
            },
            Self::NoInterpreter(_) => Failure::NotExecutable,
            Self::Folder { .. } => Failure::NoFolder,
            Self::Step { .. } | Self::Nul(_) | Self::Told(_) => Failure::Other,
        }
    }

    pub(super) fn other<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Step { step, source: source.into() }
    }
}

/// What a program's standard streams are.
pub(super) enum Streams {
    /// stdin, stdout, stderr.
    Three([OwnedFd; 3]),
    /// All three are this terminal, which becomes the program's controlling one.
    Terminal(OwnedFd),
}

/// Becomes `process`; returns only if that fails.
pub(super) fn execute(plan: &Plan, process: &Process, streams: Streams) -> Error {
    match try_execute(plan, process, streams) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_execute(plan: &Plan, process: &Process, streams: Streams) -> Result<Infallible, Error> {
    rustix::process::setsid().map_err(Error::other("making a session"))?;
    let [stdin, stdout, stderr] = match &streams {
        Streams::Three([stdin, stdout, stderr]) => [stdin, stdout, stderr],
        Streams::Terminal(terminal) => {
            take_terminal(terminal, process).map_err(Error::other("taking the terminal"))?;
            [terminal; 3]
        }
    };
    rustix::stdio::dup2_stdin(stdin).map_err(Error::other("setting stdin"))?;
    rustix::stdio::dup2_stdout(stdout).map_err(Error::other("setting stdout"))?;
    rustix::stdio::dup2_stderr(stderr).map_err(Error::other("setting stderr"))?;
    // Before the folder is changed: no descriptor of the host may serve as one.
    close_at_exec_from(3).map_err(Error::other("closing descriptors"))?;
    set_limits(&plan.limits)?;
    become_user(process).map_err(Error::other("becoming the program's user"))?;
    rustix::process::chdir(&process.cwd)
        .map_err(|e| Error::Folder { path: process.cwd.clone(), source: e.into() })?;
    reset_signals();
    if plan.takes_execs {
        // The first process' own filter lets through more.
        seccomp::enter().map_err(Error::other("loading the syscall filter"))?;
    }
    run(process)
}

/// Makes `terminal` the controlling one of this session, and the program's user its owner.
fn take_terminal(terminal: &OwnedFd, process: &Process) -> io::Result<()> {
    rustix::process::ioctl_tiocsctty(terminal)?;
    Ok(rustix::fs::fchown(terminal, Some(Uid::from_raw(process.uid)), None)?)
}

fn set_limits(limits: &Limits) -> Result<(), Error> {
    let failed = Error::other::<rustix::io::Errno>;
    // The kernel takes 1 as "no dump, and no handler either", where 0 would still start a
    // handler of the host, as its root, on a crash inside (fs/coredump.c).
    set(Resource::Core, 1).map_err(failed("setting the core size limit"))?;
    set(Resource::Nofile, limits.open_files).map_err(failed("setting `limits.open_files`"))?;
    if let Some(bytes) = limits.file_size_bytes {
        set(Resource::Fsize, bytes).map_err(failed("setting `limits.file_size_bytes`"))?;
    }
    Ok(())
}

/// Sets both limits of `resource` to `wanted`, or to the hard limit that the host has set.
fn set(resource: Resource, wanted: u64) -> rustix::io::Result<()> {
    let hard = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Some(wanted.min(hard));
    setrlimit(resource, Rlimit { current: limit, maximum: limit })
}

fn become_user(process: &Process) -> io::Result<()> {
    let groups: Vec<Gid> = process.groups.iter().map(|&id| Gid::from_raw(id)).collect();
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // A change of credentials can make this process visible to others of that user (where
    // fs.suid_dumpable is 1), and its executable is the host's until the exec.
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn run(process: &Process) -> Result<Infallible, Error> {
    let argv: Result<Vec<_>, _> =
        process.argv.iter().map(|arg| CString::new(arg.as_str())).collect();
    let env = process.env.iter().map(|(key, value)| CString::new(format!("{key}={value}")));
    let (argv, env) = (argv?, env.collect::<Result<Vec<_>, _>>()?);
    let program = process.argv.first().map_or("", String::as_str);
    let mut failed = None;
    for path in candidates(process, program) {
        let Err(error) = nix::unistd::execve(CString::new(path.as_str())?.as_c_str(), &argv, &env);
        match error {
            nix::errno::Errno::ENOENT if std::fs::metadata(&path).is_ok() => {
                return Err(Error::NoInterpreter(path));
            }
            nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => {}
            // As shells do: a later folder may hold one that can be executed.
            other => failed = failed.or(Some(other)),
        }
    }
    match failed {
        None if program.contains('/') => {
            let source = io::Error::from_raw_os_error(libc::ENOENT);
            Err(Error::Execute { program: program.to_owned(), source })
        }
        None => Err(Error::NotFound(program.to_owned())),
        Some(error) => Err(Error::Execute { program: program.to_owned(), source: error.into() }),
    }
}

fn candidates(process: &Process, program: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = process.env.iter().rev().find(|(key, _)| key == "PATH").map(|(_, value)| value);
    let folders = path.map_or("/usr/local/bin:/usr/bin:/bin", String::as_str).split(':');
    let folders = folders.map(|folder| if folder.is_empty() { "." } else { folder });
    folders.map(|folder| format!("{folder}/{program}")).collect()
}
