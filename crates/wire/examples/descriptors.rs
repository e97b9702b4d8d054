//! Writes what this crate declares to standard output: the descriptor set, or with the argument
//! `names` the names of all rpcs, one `service/name` a line. The conformance test in tests/wire
//! reads both.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    match std::env::args().nth(1).as_deref() {
        None => out.write_all(wire::FILE_DESCRIPTOR_SET),
        Some("names") => {
            for (service, names) in [
                (wire::CLIENT_SERVICE, wire::names::CLIENT),
                (wire::ROUTER_SERVICE, wire::names::ROUTER),
            ] {
                for name in names {
                    writeln!(out, "{service}/{name}")?;
                }
            }
            Ok(())
        }
        Some(other) => {
            Err(io::Error::other(format!("unknown argument {other}: say nothing, or `names`")))
        }
    }
}
