//! The network of containers that may reach the internet, and of build steps.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use jail::network::{Attachment, Fabric, FabricConfig, Policy};

use crate::net::dns::{Registration, Resolver, ResolverConfig};

/// The port of the resolver on the gateway's address; containers ask port 53 and are led there.
const DNS_PORT: u16 = 61_053;

/// The network cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's part.
    #[error(transparent)]
    Fabric(#[from] jail::network::Error),
    /// The resolver.
    #[error("the resolver for containers: {0}")]
    Resolver(#[from] crate::net::dns::Error),
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
    resolver: tokio::sync::Mutex<Option<Resolver>>,
}

/// A container's place in the network. Dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Attached {
    attachment: Option<Attachment>,
    /// Its right to ask for names ends before its address is somebody else's.
    registration: Option<Registration>,
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
        let resolver = inner.resolver.blocking_lock();
        let resolver = resolver.as_ref().ok_or_else(|| Error::Absent("it is closed".into()))?;
        let registration = Some(resolver.register(attachment.address, &policy.names)?);
        Ok(Attached { attachment: Some(attachment), registration })
    }

    /// Takes everything back.
    pub async fn close(&self) {
        let Ok(inner) = self.inner() else { return };
        if let Some(resolver) = inner.resolver.lock().await.take() {
            resolver.stop().await;
        }
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
    let config = ResolverConfig {
        listen: (IpAddr::V4(fabric.gateway()), DNS_PORT).into(),
        resolv_conf: "/etc/resolv.conf".into(),
    };
    let admit = {
        let fabric = fabric.clone();
        move |container: Ipv4Addr, to: &[(Ipv4Addr, u16)], ttl: Duration| {
            let admitted = fabric.allow_all(container, to, ttl);
            if let Err(error) = &admitted {
                tracing::debug!(%error, "the addresses of a named host are not let through");
            }
            admitted.is_ok()
        }
    };
    let resolver = Resolver::start(config, Box::new(admit)).await?;
    for obstacle in fabric.obstacles().unwrap_or_default() {
        tracing::warn!(%obstacle, "the host's firewall may keep containers from the internet");
    }
    Ok(Inner { fabric, resolver: tokio::sync::Mutex::new(Some(resolver)) })
}

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.registration.take());
        if let Some(attachment) = self.attachment.take() {
            attachment.detach();
        }
    }
}
