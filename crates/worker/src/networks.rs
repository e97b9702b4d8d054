//! The network of containers that may reach the internet, and of build steps.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use jail::network::{Attachment, Fabric, FabricConfig, Kept, Policy};

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

/// Where names are asked, and which containers are there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworksConfig {
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Containers of an earlier server of the same data that are alive. One that is not adopted
    /// is left as it is when this server ends.
    pub keep: Vec<Kept>,
}

impl Default for NetworksConfig {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), keep: Vec::new() }
    }
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
pub struct Attached {
    fabric: Arc<Fabric>,
    attachment: Option<Attachment>,
    /// Its right to ask for names ends before its address is somebody else's.
    registration: Option<Registration>,
}

impl Networks {
    /// Makes the network. Without one, blocked containers run all the same: whoever asks for more
    /// is told why there is none.
    pub async fn open(config: NetworksConfig) -> Self {
        Self(open(config).await.map_err(|error| crate::task::chain(&error)))
    }

    fn inner(&self) -> Result<&Inner, Error> {
        self.0.as_ref().map_err(|why| Error::Absent(why.clone()))
    }

    /// Why there is no network for containers, if there is none.
    pub fn missing(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// The address at which containers ask for names.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.0.as_ref().ok().map(|inner| inner.fabric.gateway())
    }

    /// Gives a network namespace its place, also while programs run in it. Blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// If there is no network, or a policy that cannot be kept.
    pub fn attach(&self, namespace: OwnedFd, policy: &Policy) -> Result<Attached, Error> {
        let inner = self.inner()?;
        let attachment = inner.fabric.attach(namespace.as_fd(), policy)?;
        inner.register(attachment, policy)
    }

    /// Takes over a container that outlived an earlier server; it is one of those that
    /// [`NetworksConfig::keep`] named. Blocks.
    ///
    /// # Errors
    /// If there is no network, or if the container's is gone.
    pub fn adopt(&self, kept: &Kept) -> Result<Attached, Error> {
        let inner = self.inner()?;
        let attachment = inner.fabric.adopt(kept)?;
        inner.register(attachment, &kept.policy)
    }

    /// Takes everything back, but for containers that were left ([`Attached::leave`]).
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

impl Inner {
    fn register(&self, attachment: Attachment, policy: &Policy) -> Result<Attached, Error> {
        let resolver = self.resolver.blocking_lock();
        let resolver = resolver.as_ref().ok_or_else(|| Error::Absent("it is closed".into()))?;
        let registration = Some(resolver.register(attachment.address, policy)?);
        let fabric = self.fabric.clone();
        Ok(Attached { fabric, attachment: Some(attachment), registration })
    }
}

impl Attached {
    /// Describes the place as data, for the server that comes after this one. From now on the
    /// container keeps its network if this server is killed. To be written down again after each
    /// change of the policy. Blocks for some milliseconds.
    ///
    /// # Errors
    /// If the container's interface is gone, or the firewall does not answer.
    pub fn kept(&self) -> Result<Kept, Error> {
        Ok(self.fabric.kept(self.attachment()?)?)
    }

    /// Judges the container by `policy` from now on: what it no longer allows is cut, also open
    /// connections. Blocks for some milliseconds.
    ///
    /// # Errors
    /// A policy that cannot be kept, or the firewall's; then the old policy stands.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<(), Error> {
        self.fabric.set_policy(self.attachment()?, policy)?;
        match &self.registration {
            Some(registration) => Ok(registration.set_policy(policy)?),
            None => Ok(()),
        }
    }

    /// Lets go of a container that lives on when the server ends, as if the server had been
    /// killed.
    ///
    /// # Errors
    /// As [`Attached::kept`]; then the container has no network any more.
    pub fn leave(mut self) -> Result<Kept, Error> {
        drop(self.registration.take());
        let attachment = self.attachment.take().ok_or_else(gone)?;
        Ok(self.fabric.leave(attachment)?)
    }

    fn attachment(&self) -> Result<&Attachment, Error> {
        self.attachment.as_ref().ok_or_else(gone)
    }
}

fn gone() -> Error {
    Error::Absent("the container has left the network".into())
}

async fn open(config: NetworksConfig) -> Result<Inner, Error> {
    let fabric_config = FabricConfig {
        table: "palisade".into(),
        interface_prefix: "pal".into(),
        subnet: None,
        dns_port: DNS_PORT,
    };
    let keep = config.keep;
    let fabric = tokio::task::spawn_blocking(move || Fabric::open(&fabric_config, &keep))
        .await
        .map_err(|_| Error::Absent("the thread that opens the network died".into()))??;
    let fabric = Arc::new(fabric);
    let resolver_config = ResolverConfig {
        listen: (IpAddr::V4(fabric.gateway()), DNS_PORT).into(),
        resolv_conf: config.resolv_conf,
    };
    let resolver = Resolver::start(resolver_config, fabric.clone()).await?;
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
