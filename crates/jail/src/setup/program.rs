//! The last steps before the container's own program runs.

use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};

use crate::plan::{Plan, Process};
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
    #[error("executing {program}: {source}")]
    Execute { program: String, source: io::Error },
    #[error("argument or variable with a NUL byte: {0}")]
    Nul(#[from] NulError),
    /// What the forked process said.
    #[error("{0}")]
    Told(String),
}

impl Error {
    pub(super) fn other<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Step { step, source: source.into() }
    }
}

/// Becomes the program; returns only if that fails.
pub(super) fn execute(plan: &Plan, stdio: [OwnedFd; 3]) -> Error {
    match try_execute(plan, stdio) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_execute(plan: &Plan, stdio: [OwnedFd; 3]) -> Result<std::convert::Infallible, Error> {
    let process = &plan.process;
    rustix::process::setsid().map_err(Error::other("making a session"))?;
    let [stdin, stdout, stderr] = stdio;
    rustix::stdio::dup2_stdin(stdin).map_err(Error::other("setting stdin"))?;
    rustix::stdio::dup2_stdout(stdout).map_err(Error::other("setting stdout"))?;
    rustix::stdio::dup2_stderr(stderr).map_err(Error::other("setting stderr"))?;
    // Before the folder is changed: no descriptor of the host may serve as one.
    close_at_exec_from(3).map_err(Error::other("closing descriptors"))?;
    set_limits(plan)?;
    become_user(process).map_err(Error::other("becoming the program's user"))?;
    rustix::process::chdir(&process.cwd)
        .map_err(|e| Error::Folder { path: process.cwd.clone(), source: e.into() })?;
    reset_signals();
    run(process)
}

fn set_limits(plan: &Plan) -> Result<(), Error> {
    let limits = &plan.limits;
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
    Ok(())
}

fn run(process: &Process) -> Result<std::convert::Infallible, Error> {
    let argv: Result<Vec<_>, _> =
        process.argv.iter().map(|arg| CString::new(arg.as_str())).collect();
    let env = process.env.iter().map(|(key, value)| CString::new(format!("{key}={value}")));
    let (argv, env) = (argv?, env.collect::<Result<Vec<_>, _>>()?);
    let program = process.argv.first().map_or("", String::as_str);
    let mut failed = None;
    for path in candidates(process, program) {
        let Err(error) = nix::unistd::execve(CString::new(path)?.as_c_str(), &argv, &env);
        match error {
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
