//! The file tool of sandboxes. A client runs it in the sandbox like any other program, with one
//! argument, a command as JSON; the answer is on stdout, and a failure is JSON on stderr and exit
//! code 1. What clients send and understand was read in the Python client 1.6.4 and the JavaScript
//! client 0.11.1. Those on open files the server sends for clients until 1.4.3.
//!
//! It is linked statically and needs nothing of the image: no libc, no shell, no user database.
//! Paths are those that the sandbox sees, because it runs inside.

mod command;
mod failure;
mod files;
mod folders;
mod handles;
mod info;
mod limits;
mod names;
mod owners;
mod positions;
mod stream;
mod watch;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use command::Command;
pub use failure::Failure;

/// Where clients look for this program in a sandbox.
pub const PATH: &str = "/__modal/.bin/modal-sandbox-fs-tools";

/// Does what `arguments` (without the program's name) ask for. It talks through the process's
/// stdin and stdout; the caller writes [`Failure::to_json`] to stderr and ends with code 1.
///
/// # Errors
///
/// The arguments are no single command, or what was asked for cannot be done.
pub fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let command = match arguments {
        [argument] => Command::parse(argument.as_bytes())?,
        _ => {
            let what = format!("expected one argument, a command as JSON; got {}", arguments.len());
            return Err(Failure::command(what));
        }
    };
    let done = match &command {
        Command::ReadFile { path } => files::read(path),
        Command::WriteFile { path } => files::write(path),
        Command::ListFiles { path } => info::list(path),
        Command::Stat { path } => info::stat(path),
        Command::MakeDirectory { path, parents } => folders::make(path, *parents),
        Command::Remove { path, recursive } => folders::remove(path, *recursive),
        Command::Watch { path, recursive, filter, timeout_secs } => {
            let wanted = watch::Wanted { recursive: *recursive, filter: filter.as_deref() };
            watch::run(path, wanted, *timeout_secs)
        }
        Command::ListNames { path } => info::list_names(path),
        Command::OpenFile { path, mode, handle } => handles::open(path, *mode, handle),
        Command::ReadOn { handle, count } => positions::read(handle, *count),
        Command::ReadLine { handle } => positions::read_line(handle),
        Command::WriteOn { handle } => positions::write(handle),
        Command::Flush { handle } => positions::flush(handle),
        Command::Seek { handle, offset, whence } => positions::seek(handle, *offset, *whence),
        Command::DeleteBytes { handle, span } => positions::delete(handle, *span),
        Command::ReplaceBytes { handle, span } => positions::replace(handle, *span),
        Command::CloseFile { handle } => handles::close(handle),
        Command::HoldFile => handles::hold(),
    };
    done.map_err(|failure| failure.said_to_client(&command))
}
