//! The developer's commands: `cargo xtask <verb>`. Everything that CI does is one of them.
#![expect(clippy::print_stdout, reason = "a command line tool talks to the person at the prompt")]

mod bench;
mod bench_pull;
mod bench_sandboxes;
mod check;
mod debian;
mod demo;
mod fresh;
mod fuzz;
mod js;
mod kernel;
mod limits;
mod packages;
mod server;
mod suite;
mod tidy;
mod venv;
mod vm;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

const HELP: &str = "\
usage: cargo xtask <verb>

  demo     runs untrusted code in a restricted function, on a server of its own, and shows that
           nothing is left behind (root; installs what is missing)
  check    formatting, clippy and the rules of the house
  test     check, then all tests: Rust, the official client, attacks from inside containers,
           another kernel (root; installs what is missing). Arguments after `test` go to pytest.
  vm       the jail's tests and the client on Debian 12's own kernel (6.1) with control groups of
           version 2 alone, in a virtual machine; the last part of `test` (root)
  bench    times calls, and beside them what their parts cost (root; a release build);
           `bench pull` times pulling an image, beside skopeo with umoci and podman;
           `bench sandboxes` times sandboxes, beside crun, podman and runsc
  fresh    the two commands above (or the verbs named) on a machine with nothing: a Debian 12 root
           made for it, namespaces of its own, a clean clone of what is committed
  fuzz     feeds what reads strangers' bytes with bytes that nobody thought of, and says how often
           (root; a nightly compiler). Arguments: --minutes N for each target, names of targets
  tidy     the rules of the house alone
  help     this text";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let verb = arguments.first().map_or("help", String::as_str);
    let done = match verb {
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        "demo" => Workspace::find().and_then(|workspace| demo::run(&workspace)),
        "check" => Workspace::find().and_then(|workspace| check::run(&workspace)),
        "test" => Workspace::find().and_then(|w| suite::run(&w, &arguments[1..])),
        "vm" => Workspace::find().and_then(|workspace| vm::run(&workspace)),
        "bench" if arguments.get(1).is_some_and(|what| what == "pull") => {
            Workspace::find().and_then(|workspace| bench_pull::run(&workspace))
        }
        "bench" if arguments.get(1).is_some_and(|what| what == "sandboxes") => {
            Workspace::find().and_then(|workspace| bench_sandboxes::run(&workspace))
        }
        "bench" => Workspace::find().and_then(|workspace| bench::run(&workspace)),
        "fresh" => Workspace::find().and_then(|w| fresh::run(&w, &arguments[1..])),
        "fuzz" => Workspace::find().and_then(|w| fuzz::run(&w, &arguments[1..])),
        fresh::INSIDE if arguments.len() == 3 => {
            fresh::run_inside(std::path::Path::new(&arguments[1]), &arguments[2])
        }
        "tidy" => Workspace::find().and_then(|workspace| tidy::run(&workspace)),
        unknown => Err(anyhow::anyhow!("there is no verb `{unknown}`\n{HELP}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
