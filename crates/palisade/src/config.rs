//! Flags and settings: the only reader of the command line and the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Run code nobody trusts, on your own machine, driven by the official modal client.
///
/// An independent project: not made or endorsed by Modal Labs.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: control plane, gateway and one worker in one process.
    Serve(Serve),
    /// Print the settings with which the modal client finds the running local server.
    ///
    /// Use it as: eval "$(palisade env)"
    Env(Env),
    /// Say what this machine offers, what is missing, and how to get it.
    Doctor(Doctor),
    /// List the containers that live, those of functions and of sandboxes.
    Ps(Ps),
    /// Sandboxes: list them, read their output, end them.
    Sandbox(Sandbox),
    /// Images: those that were built, and those that come from elsewhere.
    Image(Image),
    /// Import Pythons for images that have none (the client's `add_python`).
    Python(Python),
    /// The client's own packages, on a machine that reaches no index.
    Client(Client),
}

/// The data folder, common to all commands.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataDir {
    /// Where everything is kept: the database, files, image layers.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/palisade",
        env = "PALISADE_DATA_DIR"
    )]
    pub(crate) data_dir: PathBuf,
}

/// `palisade serve`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Address and port. Port 0 takes a free one. Loopback addresses take plaintext and TLS, all
    /// others TLS alone.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Largest argument, result or file, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = plane::limits::PAYLOAD_BYTES_DEFAULT)]
    pub(crate) payload_bytes_max: u64,
    /// Memory of a container whose function says nothing, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1_024)]
    pub(crate) memory_mib: u64,
    /// Processes and threads of a container.
    #[arg(long, value_name = "N", default_value_t = 1_024)]
    pub(crate) pids: u64,
    /// Open files of a process in a container.
    #[arg(long, value_name = "N", default_value_t = 4_096)]
    pub(crate) open_files: u64,
    /// Disk space of a container whose function says nothing, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 8 * 1_024)]
    pub(crate) disk_mib: u64,
    /// Memory for all containers together, in MiB. Unset: all but a share for the host.
    #[arg(long, value_name = "MIB")]
    pub(crate) capacity_mib: Option<u64>,
    /// A registry to ask for images before the one in their name, as docker.io=http://HOST:PORT.
    /// May be given several times.
    #[arg(long = "registry-mirror", value_name = "REGISTRY=URL")]
    pub(crate) registry_mirrors: Vec<images::Mirror>,
    /// What to log, as in `debug` or `palisade=info,plane=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PALISADE_LOG")]
    pub(crate) log: String,
    /// Write the log as JSON, a line each.
    #[arg(long)]
    pub(crate) log_json: bool,
}

/// How clients reach the server.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// The name or address by which clients reach this machine: it stands in URLs and in the
    /// server's own certificate. Unset: the address of --listen, or this machine's host name.
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,
    /// The certificate to show (PEM, with its chain). Unset: one by a CA of this server's own.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM, without a password).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Ports of this machine for those of sandboxes, as 20000-20999. Unset: any that is free.
    #[arg(long, value_name = "LOW-HIGH")]
    pub(crate) tunnel_ports: Option<gateway::host_ports::PortRange>,
    /// Take plaintext beyond loopback, too: whoever sees the traffic has the token.
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// `palisade env`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Env {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Print JSON instead of shell lines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `palisade doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Print JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `palisade ps`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `palisade sandbox`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sandbox {
    #[command(subcommand)]
    pub(crate) command: SandboxCommand,
}

/// What to do with sandboxes.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SandboxCommand {
    /// List those that live, newest first.
    List {
        /// Ended ones, too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        data: DataDir,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Run a program in one that lives; the exit code is the program's.
    Exec(SandboxExec),
    /// Print what a sandbox's entrypoint has printed; of an ended one, too.
    Logs {
        /// The sandbox's id, or APP/NAME of one that lives.
        sandbox: String,
        /// Go on until it has ended.
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        data: DataDir,
    },
    /// End sandboxes. Prints the ids of those that have ended.
    Terminate {
        /// Their ids, or APP/NAME.
        sandboxes: Vec<String>,
        /// All that live.
        #[arg(long, conflicts_with = "sandboxes")]
        all: bool,
        #[command(flatten)]
        data: DataDir,
    },
}

/// `palisade sandbox exec`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SandboxExec {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// On a terminal of its own.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// The folder in which it runs. Unset: the sandbox's.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// A variable. May be given several times.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The sandbox's id, or APP/NAME.
    pub(crate) sandbox: String,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("a variable is given as NAME=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// `palisade image`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

/// What to do with images.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ImageCommand {
    /// List them, newest first.
    List {
        #[command(flatten)]
        data: DataDir,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Take images out of a folder (OCI image layout) or an archive (of one, or `docker save`).
    ///
    /// FROM finds them under their names, before any registry is asked.
    Import {
        /// The folder or archive.
        path: PathBuf,
        /// The image's name, instead of its own.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Take over what builds came to on the machine that exported them: their steps are not
        /// run again here. Only for what you exported yourself.
        #[arg(long)]
        steps: bool,
        #[command(flatten)]
        data: DataDir,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write images that were built to a new folder (OCI image layout), for another machine.
    Export {
        /// The folder.
        path: PathBuf,
        /// Ids of images; all where none is given.
        images: Vec<String>,
        #[command(flatten)]
        data: DataDir,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read every layer, and compare it with its name. The exit code says whether all are sound.
    Verify {
        #[command(flatten)]
        data: DataDir,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove layers that were not used for the longest time, until the rest fits.
    ///
    /// What runs, what functions of living apps need, and what has a name or was imported stays.
    /// Other images are built again when they are next asked for.
    Prune {
        /// How much may stay, as 20GiB or 500MiB.
        #[arg(long, value_name = "SIZE", value_parser = size_bytes)]
        keep: u64,
        #[command(flatten)]
        data: DataDir,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// `palisade client`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Client {
    #[command(subcommand)]
    pub(crate) command: ClientCommand,
}

/// What to do with the client's packages.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ClientCommand {
    /// Take wheels of the client and of what it requires out of a folder.
    ///
    /// Make it on another machine with the same Python as the images: pip download
    /// --only-binary :all: -d DIR modal==VERSION
    Import {
        /// The folder.
        path: PathBuf,
        #[command(flatten)]
        data: DataDir,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A size with its unit.
fn size_bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err("write a number and KiB, MiB, GiB or TiB, as 20GiB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number first, as 20GiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size_bytes("0"), Ok(0));
        assert_eq!(size_bytes("20GiB"), Ok(20 << 30));
        assert_eq!(size_bytes("5 MiB"), Ok(5 << 20));
        for wrong in ["", "GiB", "20GB", "-1", "99999999999999999999", "17179869184TiB"] {
            assert!(size_bytes(wrong).is_err(), "{wrong}");
        }
    }
}

/// `palisade python`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Python {
    #[command(subcommand)]
    pub(crate) command: PythonCommand,
}

/// What to do with Pythons.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum PythonCommand {
    /// Import an archive of python-build-standalone; the server may run.
    ///
    /// Its name says which Python it is, as in
    /// cpython-3.11.5+20230826-x86_64-unknown-linux-gnu-install_only.tar.gz
    Import {
        /// The archive.
        file: PathBuf,
        #[command(flatten)]
        data: DataDir,
    },
    /// List those that were imported, by the names of their archives.
    List {
        #[command(flatten)]
        data: DataDir,
    },
}
