//! Interfaces, addresses, neighbours and routes, each one netlink request.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{Message, Netlink, Request, attributes};
use super::ranges::Subnet;

/// A device's hardware address.
pub(super) type Mac = [u8; 6];

/// `VETH_INFO_PEER` of linux/veth.h.
const VETH_INFO_PEER: u16 = 1;
/// Bytes of `ifinfomsg`, `ifaddrmsg`, `ndmsg` and `rtmsg`.
const LINK_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
/// `RTNH_F_ONLINK`: the gateway is on this link although no route says so.
const ONLINK: u32 = 4;

/// An interface as the host lists it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) group: u32,
    pub(super) is_veth: bool,
}

/// An IPv4 route as the host lists it.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) to: Subnet,
    pub(super) is_unicast: bool,
    /// The interfaces it leads through.
    pub(super) through: Vec<u32>,
}

/// One end of a veth.
#[derive(Debug)]
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
}

/// Makes a veth: `outer` in the socket's namespace and group, `inner` in `netns`; both down.
pub(super) fn make_veth(
    netlink: &mut Netlink,
    outer: &End<'_>,
    inner: &End<'_>,
    netns: BorrowedFd<'_>,
    mtu: u32,
    group: u32,
) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let peer = |info: Request| {
        info.nest(VETH_INFO_PEER, &link_body(0, 0, 0), |peer| {
            peer.with(libc::IFLA_IFNAME, &zero_ended(inner.name))
                .with(libc::IFLA_ADDRESS, &inner.mac)
                .with(libc::IFLA_MTU, &mtu.to_ne_bytes())
                .with(libc::IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes())
        })
    };
    let request = Request::new(libc::RTM_NEWLINK, flags, &link_body(0, 0, 0))
        .with(libc::IFLA_IFNAME, &zero_ended(outer.name))
        .with(libc::IFLA_ADDRESS, &outer.mac)
        .with(libc::IFLA_MTU, &mtu.to_ne_bytes())
        .with(libc::IFLA_GROUP, &group.to_ne_bytes())
        .nest(libc::IFLA_LINKINFO, &[], |info| {
            info.with(libc::IFLA_INFO_KIND, b"veth").nest(libc::IFLA_INFO_DATA, &[], peer)
        });
    netlink.ask(request)
}

/// Sets the interface up.
pub(super) fn set_up(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    let up = libc::IFF_UP.cast_unsigned();
    let request = Request::new(libc::RTM_NEWLINK, 0, &link_body(0, up, up))
        .with(libc::IFLA_IFNAME, &zero_ended(name));
    netlink.ask(request)
}

/// Whether the interface sends. The kernel notices in the background that the other end of a
/// veth came up, and until then drops what is to be sent (its queue is `noop`): a first packet
/// lost so costs a second.
pub(super) fn sends(netlink: &mut Netlink, name: &str) -> io::Result<bool> {
    let request = Request::new(libc::RTM_GETLINK, 0, &link_body(0, 0, 0))
        .with(libc::IFLA_IFNAME, &zero_ended(name));
    let link = netlink.get(request)?;
    let attributes = link.iter().flat_map(|link| link.attributes(LINK_BYTES));
    let mut queues = attributes.filter(|(kind, _)| *kind == libc::IFLA_QDISC);
    Ok(queues.any(|(_, queue)| text(queue) != "noop"))
}

/// Moves the interface to another group; none is fine.
pub(super) fn regroup(netlink: &mut Netlink, name: &str, group: u32) -> io::Result<()> {
    let request = Request::new(libc::RTM_NEWLINK, 0, &link_body(0, 0, 0))
        .with(libc::IFLA_IFNAME, &zero_ended(name))
        .with(libc::IFLA_GROUP, &group.to_ne_bytes());
    absent_is_fine(netlink.ask(request))
}

/// Deletes every interface of `group`, all after one wait of the kernel; none is fine.
pub(super) fn delete_group(netlink: &mut Netlink, group: u32) -> io::Result<()> {
    let request = Request::new(libc::RTM_DELLINK, 0, &link_body(0, 0, 0))
        .with(libc::IFLA_GROUP, &group.to_ne_bytes());
    absent_is_fine(netlink.ask(request))
}

/// Deletes one interface; none is fine.
pub(super) fn delete(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    let request = Request::new(libc::RTM_DELLINK, 0, &link_body(0, 0, 0))
        .with(libc::IFLA_IFNAME, &zero_ended(name));
    absent_is_fine(netlink.ask(request))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Gives the interface the single address `address`.
pub(super) fn add_address(netlink: &mut Netlink, index: u32, address: Ipv4Addr) -> io::Result<()> {
    let mut body = [0; 8];
    body[0] = family();
    body[1] = 32;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let request = Request::new(libc::RTM_NEWADDR, flags, &body)
        .with(libc::IFA_LOCAL, &address.octets())
        .with(libc::IFA_ADDRESS, &address.octets());
    netlink.ask(request)
}

/// Says for good at which hardware address `address` answers, so that nobody asks by ARP.
pub(super) fn add_neighbour(
    netlink: &mut Netlink,
    index: u32,
    address: Ipv4Addr,
    mac: Mac,
) -> io::Result<()> {
    let mut body = [0; 12];
    body[0] = family();
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let request = Request::new(libc::RTM_NEWNEIGH, flags, &body)
        .with(libc::NDA_DST, &address.octets())
        .with(libc::NDA_LLADDR, &mac);
    netlink.ask(request)
}

/// A route to `to` over the interface: direct, or through `gateway`, which is on the link.
pub(super) fn add_route(
    netlink: &mut Netlink,
    index: u32,
    to: Subnet,
    gateway: Option<Ipv4Addr>,
) -> io::Result<()> {
    let mut body = [0; ROUTE_BYTES];
    body[0] = family();
    body[1] = to.bits();
    body[4] = libc::RT_TABLE_MAIN;
    body[5] = libc::RTPROT_STATIC;
    body[6] = if gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    body[7] = libc::RTN_UNICAST;
    if gateway.is_some() {
        body[8..12].copy_from_slice(&ONLINK.to_ne_bytes());
    }
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = Request::new(libc::RTM_NEWROUTE, flags, &body)
        .with(libc::RTA_DST, &to.base().octets())
        .with(libc::RTA_OIF, &index.to_ne_bytes());
    if let Some(gateway) = gateway {
        request = request.with(libc::RTA_GATEWAY, &gateway.octets());
    }
    netlink.ask(request)
}

/// The interfaces of the socket's namespace.
pub(super) fn links(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let messages = netlink.dump(Request::new(libc::RTM_GETLINK, 0, &link_body(0, 0, 0)))?;
    Ok(messages.iter().filter_map(read_link).collect())
}

fn read_link(message: &Message) -> Option<Link> {
    let body = message.body(LINK_BYTES)?;
    let index = u32::from_ne_bytes(body[4..8].try_into().ok()?);
    let mut link = Link { index, name: String::new(), mtu: 0, group: 0, is_veth: false };
    for (kind, value) in message.attributes(LINK_BYTES) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu = number(value).unwrap_or_default(),
            libc::IFLA_GROUP => link.group = number(value).unwrap_or_default(),
            libc::IFLA_LINKINFO => {
                let mut info = attributes(value);
                let veth = |(kind, value)| kind == libc::IFLA_INFO_KIND && text(value) == "veth";
                link.is_veth = info.any(veth);
            }
            _ => {}
        }
    }
    Some(link)
}

/// The IPv4 routes of all tables of the socket's namespace, also those to its own addresses.
pub(super) fn routes(netlink: &mut Netlink) -> io::Result<Vec<Route>> {
    let mut body = [0; ROUTE_BYTES];
    body[0] = family();
    let messages = netlink.dump(Request::new(libc::RTM_GETROUTE, 0, &body))?;
    Ok(messages.iter().filter_map(read_route).collect())
}

fn read_route(message: &Message) -> Option<Route> {
    let body = message.body(ROUTE_BYTES)?;
    if body[0] != family() {
        return None;
    }
    let mut to = Ipv4Addr::UNSPECIFIED;
    let mut through = Vec::new();
    for (kind, value) in message.attributes(ROUTE_BYTES) {
        match kind {
            libc::RTA_DST => to = <[u8; 4]>::try_from(value).ok()?.into(),
            libc::RTA_OIF => through.extend(number(value)),
            libc::RTA_MULTIPATH => through.extend(next_hops(value)),
            _ => {}
        }
    }
    let is_unicast = body[7] == libc::RTN_UNICAST;
    Some(Route { to: Subnet::new(to, body[1])?, is_unicast, through })
}

/// The interfaces of `rtnexthop` entries: length (2), flags, hops, interface (4), attributes.
fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let index = number(bytes.get(4..8)?)?;
        bytes = bytes.get(len.max(8).next_multiple_of(4)..).unwrap_or_default();
        Some(index)
    })
}

fn link_body(index: u32, flags: u32, change: u32) -> [u8; LINK_BYTES] {
    let mut body = [0; LINK_BYTES];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

fn family() -> u8 {
    // AF_INET is 2 on every architecture of Linux.
    u8::try_from(libc::AF_INET).unwrap_or(2)
}

fn zero_ended(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interfaces vanish with their namespaces, also between a listing and what is done by it.
    #[test]
    fn an_interface_that_is_gone_needs_no_mark_and_no_deletion() {
        let mut netlink = Netlink::open().unwrap();
        let name = "palgone0";
        assert!(links(&mut netlink).unwrap().iter().all(|link| link.name != name));
        regroup(&mut netlink, name, 4_000_000_001).unwrap();
        delete(&mut netlink, name).unwrap();
        delete_group(&mut netlink, 4_000_000_001).unwrap();
    }
}
