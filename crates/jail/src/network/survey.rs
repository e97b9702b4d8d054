//! What a fabric would find on this host, read without changing anything.

use super::fabric::FabricConfig;
use super::netlink::Netlink;
use super::opening::{check, choose_subnet};
use super::ranges::Subnet;
use super::{Error, Result, rules};

/// What a fabric would find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The subnet that it would take: the configured one, or the first that no route overlaps.
    pub subnet: Subnet,
    /// Chains of other tables that may drop what its table lets pass, as `family table chain`.
    pub obstacles: Vec<String>,
}

/// Reads the routes and the firewall of the calling thread's network namespace. Fabrics of
/// running servers are not touched, and count as ours.
///
/// # Errors
/// A configuration that cannot be kept here, a missing `nft`, or a list that the kernel refused.
pub fn survey(config: &FabricConfig) -> Result<Survey> {
    check(config)?;
    let mut netlink = Netlink::open().map_err(Error::Netlink)?;
    let subnet = choose_subnet(config, &mut netlink)?;
    Ok(Survey { subnet, obstacles: rules::dropping_chains()? })
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_look_changes_nothing() {
        let look = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let config = FabricConfig {
                table: "palisade".into(),
                interface_prefix: "pal".into(),
                subnet: None,
                dns_port: 5_353,
            };
            let found = survey(&config).expect("a survey");
            assert_eq!(found.subnet.bits(), 16);
            assert_eq!(found.obstacles, Vec::<String>::new());
            assert_eq!(rules::tables().expect("tables"), Vec::<String>::new());
            let bad = FabricConfig { dns_port: 0, ..config };
            assert!(survey(&bad).is_err());
        };
        std::thread::spawn(look).join().expect("no assertion failed");
    }
}
