//! The network of containers that may reach the internet, and of build steps.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use jail::network::{Attachment, Fabric, FabricConfig, Policy};

/// The port of the resolver on the gateway's address; containers ask port 53 and are led there.
const DNS_PORT: u16 = 5_353;

/// The network cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's part.
    #[error(transparent)]
    Fabric(#[from] jail::network::Error),
    /// The resolver.
    #[error("the resolver for containers: {0}")]
    Resolver(#[source] std::io::Error),
    /// There was none at the start of the server.
    #[error("{0}")]
    Absent(String),
}

/// Whether containers can have a network, and it, if they can.
#[derive(Debug)]
pub struct Networks(Result<Inner, String>);

#[derive(Debug)]
struct Inner {
    fabric: Arc<Fabric>,
    resolver: Relay,
}

/// Passes questions on to the host's resolver, and its answers back.
#[derive(Debug)]
struct Relay(tokio::task::AbortHandle);

/// Bytes of one datagram.
const DATAGRAM_BYTES_MAX: usize = 4_096;

/// Questions that are under way at the same time.
const QUESTIONS_MAX: usize = 256;

impl Relay {
    async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let text = tokio::fs::read_to_string("/etc/resolv.conf").await?;
        let server =
            text.lines().find_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok());
        let server = SocketAddr::new(server.unwrap_or(Ipv4Addr::LOCALHOST.into()), 53);
        let socket = Arc::new(tokio::net::UdpSocket::bind(address).await?);
        let slots = Arc::new(tokio::sync::Semaphore::new(QUESTIONS_MAX));
        let work = tokio::spawn(async move {
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                let Ok((n, from)) = socket.recv_from(&mut datagram).await else { continue };
                let Ok(slot) = slots.clone().acquire_owned().await else { return };
                let (socket, question) = (socket.clone(), datagram[..n].to_vec());
                tokio::spawn(async move {
                    if let Ok(answer) = ask(server, &question).await {
                        let _ = socket.send_to(&answer, from).await;
                    }
                    drop(slot);
                });
            }
        });
        Ok(Self(work.abort_handle()))
    }

    fn close(&self) {
        self.0.abort();
    }
}

async fn ask(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM_BYTES_MAX];
    let most = std::time::Duration::from_secs(5);
    let n = tokio::time::timeout(most, socket.recv(&mut answer)).await??;
    answer.truncate(n);
    Ok(answer)
}

/// A container's place in the network. Dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Attached {
    attachment: Option<Attachment>,
}

impl Networks {
    /// Makes the network. Without one, blocked containers run all the same: whoever asks for more
    /// is told why there is none.
    pub async fn open() -> Self {
        Self(open().await.map_err(|error| crate::task::chain(&error)))
    }

    fn inner(&self) -> Result<&Inner, Error> {
        self.0.as_ref().map_err(|why| Error::Absent(why.clone()))
    }

    /// Why there is no network for containers, if there is none.
    pub fn missing(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// The address at which containers ask for names.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        self.0.as_ref().ok().map(|inner| inner.fabric.gateway())
    }

    /// Gives a network namespace its place. Blocks for some milliseconds.
    pub(crate) fn attach(&self, namespace: OwnedFd, policy: &Policy) -> Result<Attached, Error> {
        let inner = self.inner()?;
        let attachment = inner.fabric.attach(namespace.as_fd(), policy)?;
        Ok(Attached { attachment: Some(attachment) })
    }

    /// Takes everything back.
    pub async fn close(&self) {
        let Ok(inner) = self.inner() else { return };
        inner.resolver.close();
        let fabric = inner.fabric.clone();
        match tokio::task::spawn_blocking(move || fabric.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the network of containers stays behind"),
            Err(_) => tracing::error!("the network of containers may stay behind"),
        }
    }
}

async fn open() -> Result<Inner, Error> {
    let config = FabricConfig {
        table: "palisade".into(),
        interface_prefix: "pal".into(),
        subnet: None,
        dns_port: DNS_PORT,
    };
    let fabric = tokio::task::spawn_blocking(move || Fabric::open(&config))
        .await
        .map_err(|_| Error::Absent("the thread that opens the network died".into()))??;
    let fabric = Arc::new(fabric);
    let address = (IpAddr::V4(fabric.gateway()), DNS_PORT).into();
    let resolver = Relay::open(address).await.map_err(Error::Resolver)?;
    for obstacle in fabric.obstacles().unwrap_or_default() {
        tracing::warn!(%obstacle, "the host's firewall may keep containers from the internet");
    }
    Ok(Inner { fabric, resolver })
}

impl Drop for Attached {
    fn drop(&mut self) {
        let Some(attachment) = self.attachment.take() else { return };
        attachment.detach();
    }
}
