//! `palisade doctor`: what this machine offers.

use std::process::ExitCode;

use crate::config::Doctor;
use crate::say;

/// Runs the command.
pub(crate) fn run(_: &Doctor) -> ExitCode {
    let host = jail::host::read();
    say(format!("{host:#?}"));
    ExitCode::SUCCESS
}
