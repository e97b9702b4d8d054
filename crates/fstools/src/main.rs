//! `modal-sandbox-fs-tools <command as JSON>`: see the library.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match fstools::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told if this fails, too.
            let _ = writeln!(std::io::stderr(), "{}", failure.to_json());
            ExitCode::FAILURE
        }
    }
}
