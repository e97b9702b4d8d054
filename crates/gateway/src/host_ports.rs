//! Ports of the host by which sandboxes are reached: taken at once, kept across restarts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use model::TaskId;
use model::sandbox::TunnelKind;
use tokio::net::TcpListener;

use crate::visits::Sandbox;

/// A port of the host could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such sandbox was begun, or it has ended.
    #[error("the sandbox {0} has ended")]
    Ended(TaskId),
    /// The port it had cannot be had again, or no port at all.
    #[error("cannot listen on {address} for {purpose} of a sandbox: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For what.
        purpose: Purpose,
        /// Why.
        source: io::Error,
    },
    /// Every port that may be used is in use.
    #[error("all ports of --tunnel-ports {0} are in use: end sandboxes, or give more")]
    Full(PortRange),
}

/// What a port of the host is for. A sandbox has one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A tunnel to a port inside.
    Tunnel(TunnelKind, u16),
    /// Requests that carry a connect token.
    Connect,
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tunnel(_, port) => write!(f, "port {port}"),
            Self::Connect => f.write_str("the connect tokens"),
        }
    }
}

/// Ports from one to another, both included. Written as `20000-20999`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    low: u16,
    high: u16,
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once('-').and_then(|(low, high)| {
            let (low, high) = (low.parse().ok()?, high.parse().ok()?);
            (0 < low && low <= high).then_some(Self { low, high })
        });
        range.ok_or_else(|| "write the first and the last port, as 20000-20999".to_owned())
    }
}

/// Where ports of the host are taken from.
#[derive(Debug, Clone, Copy)]
pub struct HostPorts {
    /// The address to listen at.
    pub address: IpAddr,
    /// The ports that may be used; none: any that is free.
    pub range: Option<PortRange>,
}

impl HostPorts {
    /// Takes a port for a sandbox: the one that it had `before`, or a free one. The listener is
    /// missing where the sandbox has this port already.
    pub(crate) async fn take(
        &self,
        sandbox: &Sandbox,
        purpose: Purpose,
        before: Option<u16>,
    ) -> Result<(u16, Option<TcpListener>), Error> {
        let mut taken = sandbox.ports.lock().await;
        if let Some((_, port)) = taken.iter().find(|one| one.0 == purpose) {
            return Ok((*port, None));
        }
        let failed = |port, source| {
            let address = SocketAddr::new(self.address, port);
            Error::Listen { address, purpose, source }
        };
        let listener = self.listen(before, failed).await?;
        let port = listener.local_addr().map_err(|source| failed(0, source))?.port();
        taken.push((purpose, port));
        Ok((port, Some(listener)))
    }

    async fn listen(
        &self,
        before: Option<u16>,
        failed: impl Fn(u16, io::Error) -> Error,
    ) -> Result<TcpListener, Error> {
        let bind = |port| TcpListener::bind((self.address, port));
        let (None, Some(range)) = (before, self.range) else {
            let port = before.unwrap_or(0);
            return bind(port).await.map_err(|source| failed(port, source));
        };
        for port in range.low..=range.high {
            match bind(port).await {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(failed(port, error)),
            }
        }
        Err(Error::Full(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!("20000-20999".parse(), Ok(PortRange { low: 20_000, high: 20_999 }));
        assert_eq!("1-1".parse(), Ok(PortRange { low: 1, high: 1 }));
        for wrong in ["", "-", "5", "0-5", "9-5", "1-70000", "a-b", "1-2-3"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }
}
