//! Which of the host's fabrics this one is: several servers may run on one machine, and each
//! must know its own interfaces and table from the others' and from what a killed one left.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::lists::number;
use super::ranges::Subnet;
use super::{Error, Result};
use crate::limits::{CHANGE_MS_MAX, SLOTS_MAX};

/// A name that one process of this network namespace holds at a time: an abstract socket
/// address, which the kernel frees when its holder is gone, however it went.
#[derive(Debug)]
pub(super) struct Hold {
    _socket: UnixDatagram,
}

impl Hold {
    /// Takes `name`; `None` if somebody has it.
    fn take(name: &str) -> io::Result<Option<Self>> {
        let address = SocketAddr::from_abstract_name(name)?;
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until no other server of this host opens or closes its fabric.
    pub(super) fn change(table: &str) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_millis(CHANGE_MS_MAX);
        loop {
            if let Some(hold) = Self::take(&format!("{table}/change")).map_err(Error::Hold)? {
                return Ok(hold);
            }
            if Instant::now() > deadline {
                return Err(Error::Busy);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The names and the addresses of one of [`SLOTS_MAX`] fabrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    number: u32,
    /// Its nftables table.
    pub(super) table: String,
    /// What its interfaces' names begin with.
    pub(super) stem: String,
    /// The interface that holds the gateway's address, and its other end.
    pub(super) anchors: [String; 2],
    /// Group of its interfaces, of those that are about to be deleted, and of those of containers
    /// that outlive their server.
    pub(super) group: u32,
    pub(super) dying_group: u32,
    pub(super) kept_group: u32,
}

/// Groups are a number that the administrator may use too; these spell "pal".
const GROUPS: u32 = 0x7061_6c00;

impl Slot {
    pub(super) fn new(table: &str, prefix: &str, number: u32) -> Self {
        let table = match number {
            0 => table.to_owned(),
            number => format!("{table}{number}"),
        };
        Self {
            number,
            table,
            stem: format!("{prefix}{number}n"),
            anchors: [format!("{prefix}{number}a"), format!("{prefix}{number}b")],
            group: GROUPS + 2 * number,
            dying_group: GROUPS + 2 * number + 1,
            kept_group: GROUPS + 2 * SLOTS_MAX + number,
        }
    }

    /// All slots of these names.
    pub(super) fn all(table: &str, prefix: &str) -> impl Iterator<Item = Self> {
        (0..SLOTS_MAX).map(move |number| Self::new(table, prefix, number))
    }

    /// Takes the slot; `None` if a living server has it.
    pub(super) fn take(&self) -> Result<Option<Hold>> {
        Hold::take(&format!("{}/fabric", self.table)).map_err(Error::Hold)
    }

    /// Whether the interface is one of this slot's.
    pub(super) fn owns(&self, interface: &str) -> bool {
        let number = interface.strip_prefix(&self.stem);
        let is_port =
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        is_port || self.anchors.iter().any(|anchor| anchor == interface)
    }

    /// The host's end of the container at `address`.
    pub(super) fn interface(&self, address: Ipv4Addr) -> String {
        format!("{}{}", self.stem, number(address))
    }

    /// This slot's share of the subnet: 4,096 addresses of a /16.
    pub(super) fn share(&self, subnet: Subnet) -> Option<Subnet> {
        let base = subnet.base().to_bits() + (self.number << 12);
        Subnet::new(Ipv4Addr::from_bits(base), 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_know_their_interfaces_and_addresses() {
        let slots: Vec<_> = Slot::all("palisade", "pal").collect();
        assert!(slots[1].owns("pal1n7") && slots[1].owns("pal1a"));
        for foreign in ["pal11n7", "pal1n", "pal1nx", "palo1", "pal0n7", "eth0", "pal1c"] {
            assert!(!slots[1].owns(foreign), "{foreign}");
        }
        assert_eq!((slots[0].table.as_str(), slots[3].table.as_str()), ("palisade", "palisade3"));
        let subnet = "10.213.0.0/16".parse().expect("subnet");
        let shares: Vec<_> = slots.iter().filter_map(|slot| slot.share(subnet)).collect();
        assert_eq!(shares[15].to_string(), "10.213.240.0/20");
        for (n, share) in shares.iter().enumerate() {
            assert!(shares[..n].iter().all(|other| !other.overlaps(*share)));
        }
    }

    #[test]
    fn a_hold_is_exclusive_and_ends_with_its_holder() {
        let name = format!("palisade-test-{}", std::process::id());
        let first = Hold::take(&name).expect("take");
        assert!(first.is_some());
        assert!(Hold::take(&name).expect("take").is_none());
        drop(first);
        assert!(Hold::take(&name).expect("take").is_some());
    }
}
