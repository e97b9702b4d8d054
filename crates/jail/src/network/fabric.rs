//! The fabric's life: opening, attaching containers, closing.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::netdevice::name_to_index;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::guests::Guest;
use super::heard::Heard;
use super::keeping::{Kept, Remains, choose_slot};
use super::link::{self, End, Mac};
use super::netlink::Netlink;
use super::opening::{anchor, check, choose_subnet, mtu, remove};
use super::pool::Pool;
use super::ranges::Subnet;
use super::reaper::Reaper;
use super::rules::{self, Ruleset};
use super::slot::{Hold, Slot};
use super::uplinks::Uplinks;
use super::watch::Watch;
use super::{Error, Policy, Result, at};
use crate::limits::SENDING_MS_MAX;

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
    pub(super) inner: Arc<Inner>,
    /// `None` once it is closed.
    threads: Mutex<Option<(Reaper, Watch)>>,
}

/// What the fabric, its attachments and its background thread share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) slot: Slot,
    pub(super) subnet: Subnet,
    pub(super) gateway: Ipv4Addr,
    mtu: u32,
    pub(super) netlink: Mutex<Netlink>,
    pub(super) uplinks: Mutex<Uplinks>,
    pool: Mutex<Pool>,
    /// What containers may reach. Held while nft runs, so that what a container may reach cannot
    /// be added after it was taken back.
    pub(super) guests: Mutex<HashMap<Ipv4Addr, Guest>>,
    /// What containers were told of names. Locked last, and never while nft runs.
    pub(super) heard: Mutex<HashMap<Ipv4Addr, Heard>>,
    pub(super) ruleset: Ruleset,
    pub(super) base_table: String,
    /// The slot is ours; `None` once it is closed.
    hold: Mutex<Option<Hold>>,
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
    pub(super) detach: Option<SyncSender<Ipv4Addr>>,
}

impl Fabric {
    /// Removes what killed servers left, then makes the table, the gateway and the background
    /// thread. The calling thread's network namespace is the host's.
    ///
    /// `keep` describes the containers of an earlier server of the same data that are still
    /// alive: the new table judges them from its first moment, and [`Fabric::adopt`] gives them
    /// back. Those whose interfaces are gone are passed over.
    ///
    /// # Errors
    /// A configuration that cannot be kept, a missing `nft`, or a step that the kernel refused;
    /// what was made until then is removed, unless a container is kept.
    pub fn open(config: &FabricConfig, keep: &[Kept]) -> Result<Self> {
        check(config)?;
        let _change = Hold::change(&config.table)?;
        let mut netlink = Netlink::open().map_err(Error::Netlink)?;
        let remains = Remains::look(config, &mut netlink)?;
        let (slot, hold, keep) = choose_slot(config, &remains, keep)?;
        let subnet = match keep.first() {
            Some(kept) => kept.subnet,
            None => choose_subnet(config, &mut netlink)?,
        };
        let share = slot.share(subnet).ok_or(Error::Subnet(subnet))?;
        let gateway = Ipv4Addr::from_bits(share.base().to_bits() + 1);
        let inherited = remains.sweep(config, &slot, &keep, &mut netlink)?;
        let uplinks = Uplinks::new(&slot.table, &config.interface_prefix, inherited);
        let mut pool = Pool::new(share);
        keep.iter().for_each(|kept| pool.reserve(kept.address));
        let ruleset = Ruleset {
            table: slot.table.clone(),
            ports: format!("{}*", slot.stem),
            all_ports: format!("{}*", config.interface_prefix),
            subnet,
            share,
            gateway,
            dns_port: config.dns_port,
        };
        let (guests, heard) = remains.guests(&slot, &keep);
        let mut inner = Inner {
            slot,
            subnet,
            gateway,
            mtu: 0,
            netlink: Mutex::new(netlink),
            uplinks: Mutex::new(uplinks),
            pool: Mutex::new(pool),
            guests: Mutex::new(guests),
            heard: Mutex::new(heard),
            ruleset,
            base_table: config.table.clone(),
            hold: Mutex::new(Some(hold)),
        };
        if let Err(error) = inner.furnish_host() {
            if keep.is_empty() {
                // The first error is the one to tell; the next opening sweeps what is left.
                let _ = inner.remove();
            }
            return Err(error);
        }
        let inner = Arc::new(inner);
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
        let guest = Guest::new(policy, inner.literal(policy)?);
        let detach = self.detachments()?;
        let address = lock(&inner.pool).take()?;
        let attachment = inner.attachment(address, detach);
        // From here on dropping the attachment undoes what was done.
        inner.admit_first(address, guest)?;
        let mut inside = std::thread::scope(|scope| {
            scope.spawn(|| enter(netns)).join().unwrap_or_else(|_| Err(Error::Closed))
        })?;
        inner.connect(&attachment, netns)?;
        inner.furnish(&attachment, &mut inside)?;
        inner.await_sending(&attachment.interface)?;
        Ok(attachment)
    }

    /// Lets the container at `container` reach `ip` and `port` by TCP for `ttl`, at most
    /// [`EXTRA_SECONDS_MAX`](crate::limits::EXTRA_SECONDS_MAX), because one of its policy's names
    /// has that address. A connection that was opened in time goes on.
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

    /// Lets the addresses `ips` of `name` pass for the container at `container`, if its policy
    /// allows that name: for `ttl`, at most [`super::TTL_MAX`], and some minutes more. A connection
    /// that was opened in time goes on as long as the policy stands.
    ///
    /// # Errors
    /// If the container is not known, if its policy does not allow the name, if nobody may reach
    /// an address, or if `nft` fails (as it does when too many addresses pass already); then
    /// none is let through.
    pub fn admit_named(
        &self,
        container: Ipv4Addr,
        name: &str,
        ips: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<()> {
        self.inner.admit_named(container, name, ips, ttl)
    }

    /// Remembers that a container that may reach everything was told the addresses `ips` of
    /// `name`: a list with that name that comes later begins with them. Only for containers that
    /// are kept ([`Fabric::kept`]). Never blocks for long.
    pub fn hear(&self, container: Ipv4Addr, name: &str, ips: &[Ipv4Addr], ttl: Duration) {
        self.inner.hear(container, name, ips, ttl);
    }

    /// Ends all attachments and removes the table and the gateway: afterwards the host's
    /// network is as it was before [`Fabric::open`]. Where containers were left
    /// ([`Fabric::leave`]) it removes what is not theirs. Closing twice is fine.
    ///
    /// # Errors
    /// The first thing that could not be undone, also by earlier detachments.
    pub fn close(&self) -> Result<()> {
        let Some((reaper, watch)) = lock(&self.threads).take() else { return Ok(()) };
        let ended = watch.stop().and(reaper.stop());
        let _change = Hold::change(&self.inner.base_table)?;
        let removed = self.inner.remove_but_alone();
        lock(&self.inner.hold).take();
        removed.and(ended)
    }

    /// The way to the background thread that takes attachments back.
    pub(super) fn detachments(&self) -> Result<SyncSender<Ipv4Addr>> {
        match &*lock(&self.threads) {
            Some((reaper, _)) => Ok(reaper.jobs()),
            None => Err(Error::Closed),
        }
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
        self.slot.interface(address)
    }

    pub(super) fn attachment(&self, address: Ipv4Addr, detach: SyncSender<Ipv4Addr>) -> Attachment {
        let (gateway, interface) = (self.gateway, self.interface(address));
        Attachment { address, gateway, interface, detach: Some(detach) }
    }

    /// Makes the table, the gateway and the ways out.
    fn furnish_host(&mut self) -> Result<()> {
        self.put_in_place()?;
        let mut netlink = lock(&self.netlink);
        anchor(&self.slot, self.gateway, &mut netlink)?;
        let mut uplinks = lock(&self.uplinks);
        uplinks.look(&mut netlink)?;
        let mtu = mtu(&uplinks, &mut netlink)?;
        drop((netlink, uplinks));
        self.mtu = mtu;
        Ok(())
    }

    /// Removes everything.
    pub(super) fn remove(&self) -> Result<()> {
        let mut uplinks = lock(&self.uplinks);
        let mut netlink = lock(&self.netlink);
        remove(&self.slot, &self.base_table, &mut uplinks, &mut netlink)
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
