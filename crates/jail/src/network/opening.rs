//! The steps of opening a fabric, and their undoing.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use super::fabric::{FabricConfig, close_ipv6, index, inner_mac, outer_mac};
use super::link::{self, End};
use super::memory::Memory;
use super::netlink::Netlink;
use super::ranges::{self, Subnet};
use super::slot::Slot;
use super::uplinks::Uplinks;
use super::{Error, Result, at, rules};

/// Networks of this host that are tried in order when the configuration names none.
const SUBNETS: [[u8; 2]; 6] = [[10, 213], [10, 214], [10, 231], [172, 29], [172, 30], [192, 168]];
/// The smallest MTU that IPv4 hosts in practice agree on; below it something is misconfigured.
const MTU_MIN: u32 = 1_280;
const MTU_USUAL: u32 = 1_500;
/// Refuses what cannot be kept.
pub(super) fn check(config: &FabricConfig) -> Result<()> {
    let is_word = |text: &str, len: usize| {
        (1..=len).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    if !is_word(&config.table, 16) {
        return Err(Error::Table(config.table.clone()));
    }
    if !is_word(&config.interface_prefix, 5) {
        return Err(Error::Prefix(config.interface_prefix.clone()));
    }
    if config.dns_port == 0 {
        return Err(Error::DnsPort);
    }
    match config.subnet {
        Some(subnet) if subnet.bits() != 16 || !is_private(subnet) => Err(Error::Subnet(subnet)),
        _ => Ok(()),
    }
}

fn is_private(subnet: Subnet) -> bool {
    ranges::PRIVATE.iter().any(|range| range.contains(subnet.base()))
}

/// The configured subnet, or the first that no route of the host overlaps.
pub(super) fn choose_subnet(config: &FabricConfig, netlink: &mut Netlink) -> Result<Subnet> {
    let links = link::links(netlink).map_err(|e| Error::List("interfaces", e))?;
    let ours: Vec<_> = links
        .iter()
        .filter(|link| link.name.starts_with(&config.interface_prefix))
        .map(|link| link.index)
        .collect();
    let mut routes = link::routes(netlink).map_err(|e| Error::List("routes", e))?;
    routes.retain(|route| {
        route.to.bits() > 0 && !route.through.iter().any(|index| ours.contains(index))
    });
    let taken = |subnet: Subnet| routes.iter().find(|r| r.to.overlaps(subnet)).map(|r| r.to);
    if let Some(subnet) = config.subnet {
        return match taken(subnet) {
            Some(route) => Err(Error::Overlap(subnet, route)),
            None => Ok(subnet),
        };
    }
    let all = SUBNETS.iter().filter_map(|[a, b]| Subnet::new(Ipv4Addr::new(*a, *b, 0, 0), 16));
    all.into_iter().find(|subnet| taken(*subnet).is_none()).ok_or(Error::NoSubnet)
}

/// Makes the interface that holds the gateway's address as long as the fabric lives. It is there
/// where a container outlived the last server.
pub(super) fn anchor(slot: &Slot, gateway: Ipv4Addr, netlink: &mut Netlink) -> Result<()> {
    let [name, other] = &slot.anchors;
    let links = link::links(netlink).map_err(|e| Error::List("interfaces", e))?;
    if links.iter().any(|link| link.name == *name) {
        return Ok(());
    }
    let here = std::fs::File::open("/proc/thread-self/ns/net")
        .map_err(at("open the host's network namespace", name))?;
    let outer = End { name, mac: outer_mac(gateway) };
    let inner = End { name: other, mac: inner_mac(gateway) };
    link::make_veth(netlink, &outer, &inner, here.as_fd(), MTU_USUAL, slot.group)
        .map_err(at("make the gateway", name))?;
    for end in [name, other] {
        close_ipv6(end)?;
        link::set_up(netlink, end).map_err(at("set the gateway up", end))?;
    }
    let index = index(netlink, name)?;
    link::add_address(netlink, index, gateway).map_err(at("give the gateway its address", name))
}

/// The smallest MTU of the interfaces that lead out.
pub(super) fn mtu(uplinks: &Uplinks, netlink: &mut Netlink) -> Result<u32> {
    let names = uplinks.leading_out(netlink)?;
    let links = link::links(netlink).map_err(|e| Error::List("interfaces", e))?;
    let out = links.iter().filter(|link| names.contains(&link.name)).map(|link| link.mtu);
    Ok(out.min().unwrap_or(MTU_USUAL).clamp(MTU_MIN, MTU_USUAL))
}

/// Removes everything of a slot. Goes on after an error, and returns the first.
pub(super) fn remove(
    slot: &Slot,
    base_table: &str,
    uplinks: &mut Uplinks,
    netlink: &mut Netlink,
) -> Result<()> {
    let mut delete = |group| {
        link::delete_group(netlink, group)
            .map_err(at("delete the network's interfaces", &slot.stem))
    };
    let links = delete(slot.kept_group).and(delete(slot.group));
    let kept = uplinks_of_others(slot, base_table);
    let switched = kept.and_then(|kept| uplinks.restore(&kept));
    let table = rules::apply(&rules::deletion(&slot.table));
    links.and(switched).and(table)
}

/// What the other fabrics of this host need to be switched on.
fn uplinks_of_others(slot: &Slot, base_table: &str) -> Result<Vec<String>> {
    let is_other = |table: &String| {
        let number = table.strip_prefix(base_table);
        let is_fabric = number.is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()));
        is_fabric && *table != slot.table
    };
    let mut kept = Vec::new();
    for table in rules::tables()?.iter().filter(|table| is_other(table)) {
        kept.extend(Memory::read(table)?.uplinks);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_that_cannot_be_kept_are_refused_by_name() {
        let good = FabricConfig {
            table: "palisade".into(),
            interface_prefix: "pal".into(),
            subnet: None,
            dns_port: 5300,
        };
        let refusal = |config: FabricConfig| check(&config).expect_err("refused").to_string();
        assert!(check(&good).is_ok());
        let bad = FabricConfig { table: "a; flush ruleset".into(), ..good.clone() };
        assert!(refusal(bad).contains("table"));
        let bad = FabricConfig { interface_prefix: "palisade".into(), ..good.clone() };
        assert!(refusal(bad).contains("prefix"));
        for subnet in ["8.8.0.0/16", "10.0.0.0/8", "127.1.0.0/16"] {
            let bad = FabricConfig { subnet: subnet.parse().ok(), ..good.clone() };
            assert!(refusal(bad).contains("subnet"));
        }
    }
}
