//! The binary: flags, and which role runs. It knows every crate, and none knows it.

mod admin;
mod calls;
mod config;
mod data;
mod reach;
mod roles;
mod shelf;
mod ways;

use std::process::ExitCode;

use clap::Parser;
use config::{Cli, Command};

fn main() -> ExitCode {
    // A container is built in a process of its own, without threads: this binary once more.
    if jail::is_child() {
        jail::child_main();
    }
    // A sandbox has a process beside it that outlives the server: this binary, too.
    if worker::supervisor::is_supervisor() {
        return worker::supervisor::main();
    }
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(serve) => roles::serve::run(serve),
        Command::Env(env) => roles::env::run(&env),
        Command::Doctor(doctor) => return roles::doctor::run(&doctor),
        Command::Ps(ps) => roles::ps::run(&ps),
        Command::Sandbox(sandbox) => match roles::sandbox::run(sandbox) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Image(image) => roles::image::run(&image),
        Command::Python(python) => roles::python::run(&python),
        Command::Client(client) => roles::client::run(&client),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// One line for whoever typed the command.
#[expect(clippy::print_stderr, reason = "this is the command's own voice")]
fn say_error(error: &anyhow::Error) {
    eprintln!("palisade: {error:#}");
}

/// A remark beside a command's answer.
#[expect(clippy::print_stderr, reason = "this is the command's own voice")]
fn say_aside(line: impl std::fmt::Display) {
    eprintln!("palisade: {line}");
}

/// Prints a line of a command's answer.
#[expect(clippy::print_stdout, reason = "this is the command's own voice")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
