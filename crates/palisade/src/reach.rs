//! How clients reach the server: its port, the certificate that it shows, and its URL.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gateway::host_ports::HostPorts;
use gateway::tls::Identity;
use gateway::{Port, Speech};

use crate::config;
use crate::data::Data;

/// Names in each certificate of our own. The last address is one of those that the client takes
/// for its own machine (modal 1.6.4).
const NAMES: [&str; 4] = ["localhost", "127.0.0.1", "::1", "172.21.0.1"];

/// The server's port, and what clients must know of it.
#[derive(Debug)]
pub(crate) struct Reach {
    pub(crate) port: Port,
    pub(crate) speech: Speech,
    pub(crate) identity: Identity,
    /// Where ports of sandboxes are.
    pub(crate) host_ports: HostPorts,
    /// Without a slash at the end.
    pub(crate) url: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) ca_bundle: Option<PathBuf>,
}

impl Reach {
    /// Opens the port. Beyond loopback it takes TLS alone, unless the operator says otherwise.
    pub(crate) async fn open(
        listen: SocketAddr,
        flags: &config::Reach,
        data: &Data,
    ) -> Result<Self> {
        let host = host(listen.ip(), flags)?;
        let identity = identity(&host, listen.ip(), flags, data)?;
        let port = Port::open(listen).await?;
        let number = port.address().port();
        let is_loopback = listen.ip().is_loopback();
        if flags.insecure && !is_loopback {
            tracing::warn!(%listen, "--insecure: whoever sees the traffic has the token");
        }
        let (scheme, speech) = match is_loopback || flags.insecure {
            true => ("http", Speech::Both(identity.clone())),
            false => ("https", Speech::Tls(identity.clone())),
        };
        let url = format!("{scheme}://{}:{number}", bracketed(&host));
        let ca_file = identity.ca().map(Path::to_owned);
        let ca_bundle = ca_file.as_deref().map(bundle).transpose()?;
        let host_ports = HostPorts { address: listen.ip(), range: flags.tunnel_ports };
        Ok(Self { port, speech, identity, host_ports, url, ca_file, ca_bundle })
    }
}

/// How clients call this machine.
fn host(listen: IpAddr, flags: &config::Reach) -> Result<String> {
    match &flags.host {
        Some(host) => {
            let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
            if host.is_empty() || !(is_name || host.parse::<IpAddr>().is_ok()) {
                bail!("--host {host}: give a host name or an address alone, as example.org");
            }
            Ok(host.clone())
        }
        None if listen.is_unspecified() => Ok(own_name()),
        None => Ok(listen.to_string()),
    }
}

/// An address of IPv6 as it stands in a URL.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The machine's host name.
fn own_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn identity(host: &str, listen: IpAddr, flags: &config::Reach, data: &Data) -> Result<Identity> {
    if let (Some(cert), Some(key)) = (&flags.tls_cert, &flags.tls_key) {
        return Identity::given(cert, key).context("--tls-cert, --tls-key");
    }
    let mut names: Vec<String> = NAMES.map(str::to_owned).to_vec();
    names.extend([own_name(), host.to_owned()].into_iter().filter(|name| name.is_ascii()));
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    names.sort();
    names.dedup();
    Ok(Identity::own(&data.path("tls"), &names)?)
}

/// Writes the CAs that this machine trusts, and ours, into one file: a program that is led to it
/// by `SSL_CERT_FILE` still knows the others.
fn bundle(ca: &Path) -> Result<PathBuf> {
    let path = ca.with_file_name("bundle.pem");
    let ours = fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "a CA of this machine cannot be read");
    }
    let mut text = ours;
    for certificate in &system.certs {
        text.extend(gateway::tls::pem(certificate).as_bytes());
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
