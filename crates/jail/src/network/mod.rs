//! Networks of containers that may reach the internet.
//!
//! A [`Fabric`] is one firewall table, one gateway address and up to
//! [`crate::limits::ATTACHED_MAX`] containers, each on its own veth with one /32 address: there
//! is no bridge, so containers do not meet below IP, and above it the table refuses them each
//! other. What a container may reach
//! is everything that is public, by IPv4; closed are this host (all of its addresses, but for
//! names asked of the gateway), link-local and metadata addresses, private and special ranges,
//! other containers and all of IPv6. What is closed is refused at once, not left to time out.
//! A container that is not attached has nothing but its loopback.
//!
//! A [`Policy`] may narrow the public addresses to a list of ranges and of host names, and may be
//! changed while the container runs: what it no longer allows is cut. Connections to addresses
//! that a list allows by name carry a connection mark (`ct mark`).
//!
//! A container may outlive its server: [`Fabric::kept`] describes its place, and a fabric that is
//! opened with that description has it again, with connections and all. Until then the kernel
//! keeps the rules, and other servers leave them alone.
//!
//! What cannot be helped from here: tables of others on the same host are asked as well, and a
//! packet that one of them drops is lost. A host whose forward policy is *drop* (as container
//! engines set it) or whose input policy is needs rules that let the interfaces
//! `<prefix><slot>n*` through; [`Fabric::obstacles`] names such chains. Nothing of the host's own
//! firewall is changed. When somebody empties the whole firewall, our table is put back at once;
//! whoever changes the table itself is obeyed.
//!
//! Interfaces whose names begin with the configured prefix, and link groups from 0x70616c00 to
//! 0x70616c2f, are taken to be ours.

pub mod ranges;

mod fabric;
mod guests;
mod heard;
mod keeping;
mod link;
mod lists;
mod memory;
mod netlink;
mod opening;
mod policy;
mod pool;
mod reaper;
mod rules;
mod slot;
mod survey;
mod uplinks;
mod watch;

use std::io;
use std::net::{IpAddr, Ipv4Addr};

pub use fabric::{Attachment, Fabric, FabricConfig};
pub use guests::TTL_MAX;
pub use keeping::Kept;
pub use policy::{Outbound, Policy};
pub use ranges::Subnet;
pub use survey::{Survey, survey};

/// Why a fabric or an attachment could not be made or undone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("network table {0:?} is not a word of up to 16 lower-case letters")]
    Table(String),
    #[error("network interface prefix {0:?} is not a word of up to 5 lower-case letters")]
    Prefix(String),
    #[error("network subnet {0} is not a private range of 16 bits such as 10.213.0.0/16")]
    Subnet(Subnet),
    #[error("network subnet {0} overlaps the host's route to {1}: choose another")]
    Overlap(Subnet, Subnet),
    #[error("no private /16 range is free of the host's routes: set the network's subnet")]
    NoSubnet,
    #[error("network dns port 0 is no port")]
    DnsPort,
    #[error(
        "all {} networks of this host are in use by servers or by containers that outlived theirs",
        crate::limits::SLOTS_MAX
    )]
    NoSlot,
    #[error("another server on this host is opening or closing its network and does not finish")]
    Busy,
    #[error("take this network's name on the host")]
    Hold(#[source] io::Error),
    #[error("run nft (is the package nftables installed?)")]
    NftMissing(#[source] io::Error),
    #[error("nft: {0}")]
    Nft(String),
    #[error("open a netlink socket")]
    Netlink(#[source] io::Error),
    #[error("list the host's {0}")]
    List(&'static str, #[source] io::Error),
    #[error("set {0}")]
    Sysctl(String, #[source] io::Error),
    #[error("start the network's background thread")]
    Thread(#[source] io::Error),
    #[error("all {} addresses of the network are in use", crate::limits::ATTACHED_MAX)]
    NoAddress,
    #[error("network policy lets {0} pass, which is an ipv6 address: ipv6 is closed")]
    Ipv6(IpAddr),
    #[error("network policy lets {0} pass, which no container may reach")]
    Never(Ipv4Addr),
    #[error("network policy names more than {} extra destinations", crate::limits::EXTRAS_MAX)]
    TooMany,
    #[error("network policy lists more than {} ranges or host names", crate::limits::LISTED_MAX)]
    TooLong,
    #[error("network policy has an allow list and extra destinations: only one of them goes")]
    Mixed,
    #[error(
        "network policy lists {0:?}, which is neither a host name nor `*.` and a host name \
        (other letters than ascii are written as xn--…, addresses as a range)"
    )]
    Domain(String),
    #[error("the extra destinations of a network policy cannot be changed")]
    Fixed,
    #[error("the policy of the container at {0} does not allow the name {1:?}")]
    NotAllowed(Ipv4Addr, String),
    #[error("the network of the container behind {0} is gone")]
    Gone(String),
    #[error("no container with a network has the address {0}")]
    Unknown(Ipv4Addr),
    #[error("the policy of the container at {0} names no host with port {1}")]
    NotNamed(Ipv4Addr, u16),
    #[error("enter the container's network namespace")]
    Enter(#[source] rustix::io::Errno),
    #[error("{step} ({interface})")]
    Link { step: &'static str, interface: String, source: io::Error },
    #[error("interface {0} does not begin to send")]
    NotSending(String),
    #[error("the network is closed")]
    Closed,
}

/// What this module's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the step and the interface of a failed request.
fn at(step: &'static str, interface: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Link { step, interface: interface.to_owned(), source }
}
