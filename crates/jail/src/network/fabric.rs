//! The fabric's life: opening, attaching containers, closing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::netdevice::name_to_index;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::link::{self, End, Mac};
use super::netlink::Netlink;
use super::opening::{anchor, check, choose_slot, choose_subnet, mtu, remove, sweep};
use super::pool::Pool;
use super::ranges::{self, Subnet};
use super::reaper::Reaper;
use super::rules::{self, Ruleset};
use super::slot::{Hold, Slot};
use super::uplinks::Uplinks;
use super::watch::Watch;
use super::{Error, Policy, Result, at};
use crate::limits::{EXTRA_SECONDS_AGAIN, EXTRA_SECONDS_MAX, EXTRAS_MAX, SENDING_MS_MAX};

/// What a fabric is called and where its addresses lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FabricConfig {
    /// Name of the nftables table; a second server on the same host gets a number appended.
    pub table: String,
    /// What the names of interfaces begin with.
    pub interface_prefix: String,
    /// A private /16 that no route of the host overlaps; `None` chooses one.
    pub subnet: Option<Subnet>,
    /// The port on the gateway's address where the resolver for containers listens, by UDP and
    /// TCP. Containers ask port 53 of the gateway and are led there.
    pub dns_port: u16,
}

/// Name of the interface inside.
const INSIDE: &str = "eth0";

/// The network of this server's containers.
#[derive(Debug)]
pub struct Fabric {
    inner: Arc<Inner>,
    /// `None` once it is closed.
    threads: Mutex<Option<(Reaper, Watch)>>,
}

/// What the fabric, its attachments and its background thread share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) slot: Slot,
    subnet: Subnet,
    gateway: Ipv4Addr,
    mtu: u32,
    netlink: Mutex<Netlink>,
    pub(super) uplinks: Mutex<Uplinks>,
    pool: Mutex<Pool>,
    /// Extra destinations by container. Held while nft runs, so that what a container may reach
    /// cannot be added after it was taken back.
    extras: Mutex<HashMap<Ipv4Addr, Extras>>,
    ruleset: Ruleset,
    base_table: String,
    _hold: Hold,
}

#[derive(Debug, Default)]
struct Extras {
    /// The ports of named hosts.
    ports: Vec<u16>,
    /// What the policy names by address.
    literal: Vec<(Ipv4Addr, u16)>,
    /// What names resolved to, for a time that may be over.
    resolved: Vec<(Ipv4Addr, u16)>,
}

/// One container's place in the network.
#[derive(Debug)]
pub struct Attachment {
    /// The container's address.
    pub address: Ipv4Addr,
    /// Where it sends everything, and asks for names (port 53).
    pub gateway: Ipv4Addr,
    /// The host's end.
    pub interface: String,
    detach: Option<std::sync::mpsc::SyncSender<Ipv4Addr>>,
}

impl Fabric {
    /// Removes what killed servers left, then makes the table, the gateway and the background
    /// thread. The calling thread's network namespace is the host's.
    ///
    /// # Errors
    /// A configuration that cannot be kept, a missing `nft`, or a step that the kernel refused;
    /// what was made until then is removed.
    pub fn open(config: &FabricConfig) -> Result<Self> {
        check(config)?;
        let _change = Hold::change(&config.table)?;
        let mut netlink = Netlink::open().map_err(Error::Netlink)?;
        let (slot, hold) = choose_slot(config)?;
        let inherited = sweep(config, &slot, &mut netlink)?;
        let subnet = choose_subnet(config, &mut netlink)?;
        let share = slot.share(subnet).ok_or(Error::Subnet(subnet))?;
        let gateway = Ipv4Addr::from_bits(share.base().to_bits() + 1);
        let mut uplinks = Uplinks::new(&slot.table, &config.interface_prefix, inherited);
        let ruleset = Ruleset {
            table: slot.table.clone(),
            ports: format!("{}*", slot.stem),
            all_ports: format!("{}*", config.interface_prefix),
            subnet,
            share,
            gateway,
            dns_port: config.dns_port,
        };
        let made = rules::apply(&ruleset.text(uplinks.switched()))
            .and_then(|()| anchor(&slot, gateway, &mut netlink))
            .and_then(|()| uplinks.look(&mut netlink))
            .and_then(|()| mtu(&uplinks, &mut netlink));
        let mtu = match made {
            Ok(mtu) => mtu,
            Err(error) => {
                // The first error is the one to tell; what is left is swept by the next opening.
                let _ = remove(&slot, &config.table, &mut uplinks, &mut netlink);
                return Err(error);
            }
        };
        let inner = Arc::new(Inner {
            slot,
            subnet,
            gateway,
            mtu,
            netlink: Mutex::new(netlink),
            uplinks: Mutex::new(uplinks),
            pool: Mutex::new(Pool::new(share)),
            extras: Mutex::default(),
            ruleset,
            base_table: config.table.clone(),
            _hold: hold,
        });
        let threads = (Reaper::start(&inner)?, Watch::start(&inner)?);
        Ok(Self { inner, threads: Mutex::new(Some(threads)) })
    }

    /// The gateway's address: the resolver for containers listens here.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.gateway
    }

    /// All addresses of containers and gateways on this host.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.inner.subnet
    }

    /// Chains of other tables that may drop what this one lets pass, as `family table chain`.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn obstacles(&self) -> Result<Vec<String>> {
        rules::dropping_chains()
    }

    /// Gives the container with network namespace `netns` an address, routes and what `policy`
    /// lets pass. Loopback comes up too, and IPv6 is switched off inside.
    ///
    /// # Errors
    /// A policy that cannot be kept, no free address, or a step that the kernel refused; what
    /// was made until then is removed.
    pub fn attach(&self, netns: BorrowedFd<'_>, policy: &Policy) -> Result<Attachment> {
        let inner = &self.inner;
        let also = inner.literal(policy)?;
        let detach = match &*lock(&self.threads) {
            Some((reaper, _)) => reaper.jobs(),
            None => return Err(Error::Closed),
        };
        let address = lock(&inner.pool).take()?;
        let interface = inner.interface(address);
        let attachment =
            Attachment { address, gateway: inner.gateway, interface, detach: Some(detach) };
        // From here on dropping the attachment undoes what was done.
        if !policy.also.is_empty() || !policy.names.is_empty() {
            inner.admit_first(address, policy, &also)?;
        }
        let mut inside = std::thread::scope(|scope| {
            scope.spawn(|| enter(netns)).join().unwrap_or_else(|_| Err(Error::Closed))
        })?;
        inner.connect(&attachment, netns)?;
        inner.furnish(&attachment, &mut inside)?;
        inner.await_sending(&attachment.interface)?;
        Ok(attachment)
    }

    /// Lets the container at `container` reach `ip` and `port` by TCP for `ttl`, at most
    /// [`EXTRA_SECONDS_MAX`], because one of its policy's names has that address. A connection
    /// that was opened in time goes on.
    ///
    /// # Errors
    /// As [`Fabric::allow_all`].
    pub fn allow(&self, container: Ipv4Addr, ip: Ipv4Addr, port: u16, ttl: Duration) -> Result<()> {
        self.allow_all(container, &[(ip, port)], ttl)
    }

    /// [`Fabric::allow`] for several destinations in one step.
    ///
    /// # Errors
    /// If the container or a port is not known, if nobody may reach an address, if the container
    /// has too many of them, or if `nft` fails; then none is let through.
    pub fn allow_all(
        &self,
        container: Ipv4Addr,
        to: &[(Ipv4Addr, u16)],
        ttl: Duration,
    ) -> Result<()> {
        self.inner.admit(container, to, ttl)
    }

    /// Ends all attachments and removes the table and the gateway: afterwards the host's
    /// network is as it was before [`Fabric::open`]. Closing twice is fine.
    ///
    /// # Errors
    /// The first thing that could not be undone, also by earlier detachments.
    pub fn close(&self) -> Result<()> {
        let Some((reaper, watch)) = lock(&self.threads).take() else { return Ok(()) };
        let ended = watch.stop().and(reaper.stop());
        let inner = &self.inner;
        let _change = Hold::change(&inner.base_table)?;
        let mut uplinks = lock(&inner.uplinks);
        let mut netlink = lock(&inner.netlink);
        remove(&inner.slot, &inner.base_table, &mut uplinks, &mut netlink).and(ended)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        // Whoever wants to know calls close.
        let _ = self.close();
    }
}

impl Attachment {
    /// Takes the container off the network; the interface is gone soon, and for certain when
    /// [`Fabric::close`] returns. Dropping does the same.
    pub fn detach(self) {
        drop(self);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(jobs) = self.detach.take() {
            // Fails only when the fabric is closed, and then there is nothing left to detach.
            let _ = jobs.send(self.address);
        }
    }
}

impl Inner {
    pub(super) fn interface(&self, address: Ipv4Addr) -> String {
        format!("{}{}", self.slot.stem, address.to_bits() & 0xfff)
    }

    /// The policy's literal destinations, checked.
    fn literal(&self, policy: &Policy) -> Result<Vec<(Ipv4Addr, u16)>> {
        if policy.also.len() + policy.names.len() > EXTRAS_MAX {
            return Err(Error::TooMany);
        }
        let check = |(ip, port): &(IpAddr, u16)| match ip {
            IpAddr::V4(ip) => self.reachable(*ip).map(|()| (*ip, *port)),
            IpAddr::V6(_) => Err(Error::Ipv6(*ip)),
        };
        policy.also.iter().map(check).collect()
    }

    fn reachable(&self, ip: Ipv4Addr) -> Result<()> {
        if ranges::never(ip) || self.subnet.contains(ip) { Err(Error::Never(ip)) } else { Ok(()) }
    }

    fn admit_first(
        &self,
        container: Ipv4Addr,
        policy: &Policy,
        also: &[(Ipv4Addr, u16)],
    ) -> Result<()> {
        let mut extras = lock(&self.extras);
        let ports = policy.names.iter().map(|(_, port)| *port).collect();
        extras.insert(container, Extras { ports, literal: also.to_vec(), resolved: Vec::new() });
        if also.is_empty() {
            return Ok(());
        }
        rules::apply(&rules::admission(&self.slot.table, container, also, None))
    }

    fn admit(&self, container: Ipv4Addr, to: &[(Ipv4Addr, u16)], ttl: Duration) -> Result<()> {
        let mut to = to.to_vec();
        to.sort_unstable();
        to.dedup();
        let mut extras = lock(&self.extras);
        let known = extras.get_mut(&container).ok_or(Error::Unknown(container))?;
        for (ip, port) in &to {
            self.reachable(*ip)?;
            if !known.ports.contains(port) {
                return Err(Error::NotNamed(container, *port));
            }
        }
        // What passes for good needs no time.
        to.retain(|to| !known.literal.contains(to));
        let (old, new): (Vec<_>, Vec<_>) =
            to.iter().copied().partition(|to| known.resolved.contains(to));
        if to.is_empty() {
            return Ok(());
        }
        if known.literal.len() + known.resolved.len() + new.len() > EXTRAS_MAX {
            return Err(Error::TooMany);
        }
        let table = &self.slot.table;
        let seconds = ttl.as_secs().clamp(1, EXTRA_SECONDS_MAX);
        let mut text = String::new();
        if !old.is_empty() {
            // Adding an element that is there does not prolong it.
            text += &rules::withdrawal(table, container, &old);
        }
        text += &rules::admission(table, container, &to, Some(seconds));
        known.resolved.extend(new);
        rules::apply(&text)
    }

    /// Takes back all extra destinations of a container.
    pub(super) fn withdraw(&self, container: Ipv4Addr) -> Result<()> {
        let Some(known) = lock(&self.extras).remove(&container) else { return Ok(()) };
        let all = [known.literal, known.resolved].concat();
        if all.is_empty() {
            return Ok(());
        }
        let text = rules::withdrawal(&self.slot.table, container, &all);
        // It fails where somebody has just emptied the firewall.
        rules::apply(&text).or_else(|_| self.put_back().and_then(|()| rules::apply(&text)))
    }

    /// Makes the table again if somebody has deleted it, with what containers may reach.
    pub(super) fn put_back(&self) -> Result<()> {
        let table = &self.slot.table;
        if rules::tables()?.contains(table) {
            return Ok(());
        }
        let uplinks = lock(&self.uplinks);
        let extras = lock(&self.extras);
        let mut text = self.ruleset.text(uplinks.switched());
        for (container, known) in extras.iter() {
            let again = Some(EXTRA_SECONDS_AGAIN);
            for (to, seconds) in [(&known.literal, None), (&known.resolved, again)] {
                if !to.is_empty() {
                    text += &rules::admission(table, *container, to, seconds);
                }
            }
        }
        rules::apply(&text)
    }

    /// The address may be given to another container.
    pub(super) fn release(&self, address: Ipv4Addr) {
        lock(&self.pool).give_back(address);
    }

    /// Makes the veth and the host's side of it.
    fn connect(&self, attachment: &Attachment, netns: BorrowedFd<'_>) -> Result<()> {
        let Attachment { address, interface, .. } = attachment;
        let outer = End { name: interface, mac: outer_mac(*address) };
        let inner = End { name: INSIDE, mac: inner_mac(*address) };
        let mut netlink = lock(&self.netlink);
        link::make_veth(&mut netlink, &outer, &inner, netns, self.mtu, self.slot.group)
            .map_err(at("make the veth", interface))?;
        let index = index(&netlink, interface)?;
        close_ipv6(interface)?;
        let forwarding = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
        std::fs::write(&forwarding, "1").map_err(|e| Error::Sysctl(forwarding, e))?;
        link::set_up(&mut netlink, interface).map_err(at("set the veth up", interface))?;
        let only = Subnet::new(*address, 32).ok_or(Error::NoAddress)?;
        link::add_route(&mut netlink, index, only, None)
            .map_err(at("route to the container", interface))?;
        link::add_neighbour(&mut netlink, index, *address, inner.mac)
            .map_err(at("set the container's hardware address", interface))
    }

    /// Waits until the host's side sends.
    fn await_sending(&self, interface: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_millis(SENDING_MS_MAX);
        while !link::sends(&mut lock(&self.netlink), interface).map_err(at("look at", interface))? {
            if Instant::now() > deadline {
                return Err(Error::NotSending(interface.to_owned()));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Furnishes the container's side; `inside` is a socket of its network namespace.
    fn furnish(&self, attachment: &Attachment, inside: &mut Netlink) -> Result<()> {
        let Attachment { address, gateway, .. } = attachment;
        let index = index(inside, INSIDE)?;
        link::add_address(inside, index, *address).map_err(at("give the address", INSIDE))?;
        for name in ["lo", INSIDE] {
            link::set_up(inside, name).map_err(at("set up inside", name))?;
        }
        link::add_neighbour(inside, index, *gateway, outer_mac(*address))
            .map_err(at("set the gateway's hardware address", INSIDE))?;
        let everything = Subnet::new(Ipv4Addr::UNSPECIFIED, 0).ok_or(Error::NoAddress)?;
        link::add_route(inside, index, everything, Some(*gateway))
            .map_err(at("route to the gateway", INSIDE))
    }
}

/// Enters the namespace with the calling thread (which must end afterwards), closes IPv6 there
/// and returns a socket of it.
fn enter(netns: BorrowedFd<'_>) -> Result<Netlink> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(Error::Enter)?;
    close_ipv6("all")?;
    Netlink::open().map_err(Error::Netlink)
}

/// Switches IPv6 off; a kernel without it has no such file.
pub(super) fn close_ipv6(interface: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    match std::fs::write(&path, "1") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Sysctl(path, error))
        }
        _ => Ok(()),
    }
}

pub(super) fn index(netlink: &Netlink, interface: &str) -> Result<u32> {
    name_to_index(netlink, interface).map_err(|e| at("find", interface)(e.into()))
}

/// Locally administered addresses that spell the container's.
pub(super) fn outer_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x70, a, b, c, d]
}

pub(super) fn inner_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x06, 0x70, a, b, c, d]
}

/// Locks; a thread that panicked while it held the lock left the value whole, because every
/// change under these locks is a single step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
