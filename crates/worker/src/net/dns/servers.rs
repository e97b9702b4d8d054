//! The host's resolvers, as resolv.conf(5) names them.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use super::lock;
use crate::limits::{RESOLV_CONF_BYTES_MAX, SERVERS_MAX};

/// The list, read again when its file changes.
#[derive(Debug)]
pub(super) struct Servers {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// Time of change and size of the file that was read.
    stamp: Option<(SystemTime, u64)>,
    servers: Vec<SocketAddr>,
}

impl Servers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    /// The resolvers now.
    pub(super) async fn current(&self) -> Vec<SocketAddr> {
        // The file is small and local, and its facts are in the kernel's cache.
        let stamp = stamp(&self.path);
        let mut known = lock(&self.known);
        if known.servers.is_empty() || known.stamp != stamp {
            let servers = match read(&self.path) {
                Ok(text) => parse(&text),
                Err(error) => {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "read the host's resolvers");
                    parse("")
                }
            };
            *known = Known { stamp, servers };
        }
        known.servers.clone()
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(RESOLV_CONF_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The servers of a configuration; this host itself if it names none. An address may carry a
/// port as `[address]:port` or `address:port`, which resolv.conf(5) does not know.
fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        let plain = address.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, 53)));
        // A link-local address with its interface (fe80::1%eth0) is not understood, and left out.
        plain.or_else(|_| address.parse()).ok()
    };
    let servers: Vec<_> = text.lines().filter_map(server).take(SERVERS_MAX).collect();
    match servers.as_slice() {
        [] => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))],
        _ => servers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &[&str]) {
        let servers: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, want, "{text:?}");
    }

    #[test]
    fn configurations_are_read_as_the_manual_says() {
        check("", &["127.0.0.1:53"]);
        check("# nameserver 1.1.1.1\n;x\nsearch corp\n", &["127.0.0.1:53"]);
        check(
            "nameserver 10.0.0.2\nnameserver\t2001:db8::1 \n",
            &["10.0.0.2:53", "[2001:db8::1]:53"],
        );
        check("nameserver 127.0.0.1:5353", &["127.0.0.1:5353"]);
        check("nameserver nonsense\nnameserver 1.2.3.4\n", &["1.2.3.4:53"]);
        let many = "nameserver 1.1.1.1\n".repeat(9);
        assert_eq!(parse(&many).len(), SERVERS_MAX);
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("resolv.conf");
        let servers = Servers::new(path.clone());
        assert_eq!(servers.current().await, parse(""));
        std::fs::write(&path, "nameserver 192.0.2.1\n").expect("write");
        assert_eq!(servers.current().await, parse("nameserver 192.0.2.1"));
        std::fs::write(&path, "nameserver 192.0.2.17\n").expect("write");
        assert_eq!(servers.current().await, parse("nameserver 192.0.2.17"));
    }
}
