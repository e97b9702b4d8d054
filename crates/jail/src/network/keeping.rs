//! Containers that outlive their server: how their places are described, left alone, and taken
//! over by the next server of the same data.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::fabric::{Attachment, Fabric, FabricConfig, Inner, index, lock};
use super::guests::{Guest, Stay, heard_before};
use super::heard::Heard;
use super::link::{self, Link};
use super::lists::number;
use super::memory::Memory;
use super::netlink::Netlink;
use super::policy::Policy;
use super::ranges::Subnet;
use super::reaper::reap;
use super::slot::{Hold, Slot};
use super::{Error, Result, at, rules};

/// A container's place in the network as data, for whoever opens the next fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The container's address.
    pub address: Ipv4Addr,
    /// What it may reach.
    pub policy: Policy,
    /// The host's end, by name and number.
    interface: String,
    index: u32,
    /// The firewall table, and so the slot.
    table: String,
    pub(super) subnet: Subnet,
    /// Of its connections to addresses that its list allows by name.
    mark: u32,
}

impl Fabric {
    /// Describes the container's place. From now on it outlives this server if that is killed:
    /// its interface and its rules stay until its network namespace ends, or until a fabric is
    /// opened for the same slot without this description. To be described again after each
    /// change of the policy.
    ///
    /// # Errors
    /// If the container's interface is gone.
    pub fn kept(&self, attachment: &Attachment) -> Result<Kept> {
        let inner = &self.inner;
        let address = attachment.address;
        let interface = &attachment.interface;
        let index = {
            let mut netlink = lock(&inner.netlink);
            link::regroup(&mut netlink, interface, inner.slot.kept_group)
                .map_err(at("mark as to be kept", interface))?;
            index(&netlink, interface)?
        };
        inner.listen(address);
        let mut guests = lock(&inner.guests);
        let guest = guests.get_mut(&address).ok_or(Error::Unknown(address))?;
        if guest.stay == Stay::Short {
            guest.stay = Stay::Kept;
        }
        Ok(Kept {
            address,
            policy: guest.policy.clone(),
            interface: interface.clone(),
            index,
            table: inner.slot.table.clone(),
            subnet: inner.subnet,
            mark: guest.mark,
        })
    }

    /// Takes over a container that this fabric was opened with.
    ///
    /// # Errors
    /// If its interface was gone then, or if it was taken over already.
    pub fn adopt(&self, kept: &Kept) -> Result<Attachment> {
        let detach = self.detachments()?;
        let gone = || Error::Gone(kept.interface.clone());
        let mut guests = lock(&self.inner.guests);
        let guest = guests.get_mut(&kept.address).ok_or_else(gone)?;
        let is_it = self.inner.slot.table == kept.table && guest.mark == kept.mark;
        if guest.stay != Stay::Alone || !is_it {
            return Err(gone());
        }
        guest.stay = Stay::Kept;
        Ok(self.inner.attachment(kept.address, detach))
    }

    /// Judges the container by `policy` from now on: what it no longer allows is cut, also open
    /// connections; what it still allows goes on. After an error the old policy stands.
    ///
    /// # Errors
    /// A policy that cannot be kept, one with other extra destinations than before, a container
    /// that is not known, or a failure of `nft`.
    pub fn set_policy(&self, attachment: &Attachment, policy: &Policy) -> Result<()> {
        self.inner.replace(attachment.address, policy)
    }

    /// Lets go of a container that lives on: [`Fabric::close`] leaves what is the container's,
    /// as if this server had been killed. So it does with one that was never adopted.
    ///
    /// # Errors
    /// As [`Fabric::kept`]; then the container is detached.
    pub fn leave(&self, mut attachment: Attachment) -> Result<Kept> {
        let kept = self.kept(&attachment)?;
        if let Some(guest) = lock(&self.inner.guests).get_mut(&kept.address) {
            guest.stay = Stay::Alone;
        }
        attachment.detach = None;
        Ok(kept)
    }
}

impl Inner {
    /// Removes everything but what belongs to containers that are alone and alive.
    pub(super) fn remove_but_alone(&self) -> Result<()> {
        let all: Vec<(Ipv4Addr, Stay)> =
            lock(&self.guests).iter().map(|(address, guest)| (*address, guest.stay)).collect();
        let links = match all.iter().any(|(_, stay)| *stay == Stay::Alone) {
            true => {
                link::links(&mut lock(&self.netlink)).map_err(|e| Error::List("interfaces", e))?
            }
            false => Vec::new(),
        };
        let is_alive =
            |address: Ipv4Addr| links.iter().any(|link| link.name == self.interface(address));
        let is_left =
            |(address, stay): &&(Ipv4Addr, Stay)| *stay == Stay::Alone && is_alive(*address);
        let others: Vec<_> =
            all.iter().filter(|guest| !is_left(guest)).map(|(address, _)| *address).collect();
        if others.len() == all.len() {
            return self.remove();
        }
        reap(self, &others, &mut lock(&self.netlink))
    }
}

/// What earlier and other servers have on this host.
#[derive(Debug)]
pub(super) struct Remains {
    links: Vec<Link>,
    tables: HashMap<String, Memory>,
}

impl Remains {
    /// Looks at the tables and interfaces of the calling thread's network namespace.
    pub(super) fn look(config: &FabricConfig, netlink: &mut Netlink) -> Result<Self> {
        let links = link::links(netlink).map_err(|e| Error::List("interfaces", e))?;
        let present = rules::tables()?;
        let slots = Slot::all(&config.table, &config.interface_prefix);
        let tables = slots.map(|slot| slot.table).filter(|table| present.contains(table));
        let read = |table: String| Ok((table.clone(), Memory::read(&table)?));
        Ok(Self { links, tables: tables.map(read).collect::<Result<_>>()? })
    }

    /// Whether a container that outlives its server lives in the slot.
    fn is_lived_in(&self, slot: &Slot) -> bool {
        self.links.iter().any(|link| link.group == slot.kept_group && slot.owns(&link.name))
    }

    /// Whether the container of that description is still there, in that slot.
    fn is_alive(&self, slot: &Slot, kept: &Kept) -> bool {
        let is_in_share = slot.share(kept.subnet).is_some_and(|share| share.contains(kept.address));
        let mut links = self.links.iter();
        slot.table == kept.table
            && is_in_share
            && slot.interface(kept.address) == kept.interface
            && links.any(|link| link.name == kept.interface && link.index == kept.index)
    }

    /// Removes what killed servers left: all in our slot but `keep`, and all in others but where
    /// a container lives on. Returns the interfaces whose forwarding a server of these names,
    /// living or not, has switched on.
    pub(super) fn sweep(
        &self,
        config: &FabricConfig,
        ours: &Slot,
        keep: &[Kept],
        netlink: &mut Netlink,
    ) -> Result<Vec<String>> {
        let mut switched: Vec<String> =
            self.tables.values().flat_map(|memory| memory.uplinks.clone()).collect();
        for slot in Slot::all(&config.table, &config.interface_prefix) {
            let has_table = self.tables.contains_key(&slot.table);
            let owns = |link: &&Link| link.is_veth && slot.owns(&link.name);
            let mut owned: Vec<_> = self.links.iter().filter(owns).collect();
            let is_ours = slot == *ours;
            let is_left = (has_table || !owned.is_empty()) && !self.is_lived_in(&slot);
            let is_dead = !is_ours && is_left && slot.take()?.is_some();
            if is_ours && !keep.is_empty() {
                let is_kept = |name: &str| keep.iter().any(|kept| kept.interface == name);
                owned.retain(|link| !is_kept(&link.name) && !slot.anchors.contains(&link.name));
            }
            if is_ours || is_dead {
                for link in owned {
                    link::regroup(netlink, &link.name, slot.dying_group)
                        .map_err(at("mark a left-over interface", &link.name))?;
                }
                link::delete_group(netlink, slot.dying_group)
                    .map_err(at("delete left-over interfaces", &slot.stem))?;
            }
            if is_dead && has_table {
                rules::apply(&rules::deletion(&slot.table))?;
            }
        }
        switched.sort();
        switched.dedup();
        Ok(switched)
    }

    /// The kept containers of our slot, and what they were told of names.
    pub(super) fn guests(
        &self,
        slot: &Slot,
        keep: &[Kept],
    ) -> (HashMap<Ipv4Addr, Guest>, HashMap<Ipv4Addr, Heard>) {
        let memory = self.tables.get(&slot.table);
        let guest = |kept: &Kept| (kept.address, Guest::kept(&kept.policy, kept.mark));
        let heard = |kept: &Kept| {
            let named = memory.and_then(|memory| memory.named.get(&number(kept.address)));
            (kept.address, heard_before(named.map(Vec::as_slice).unwrap_or_default()))
        };
        (keep.iter().map(guest).collect(), keep.iter().map(heard).collect())
    }
}

/// The slot of the containers to keep, and those of them that are alive; without any the first
/// slot that no living server has and in which no container lives on.
pub(super) fn choose_slot(
    config: &FabricConfig,
    remains: &Remains,
    keep: &[Kept],
) -> Result<(Slot, Hold, Vec<Kept>)> {
    let slots = || Slot::all(&config.table, &config.interface_prefix);
    for slot in slots() {
        let mut alive: Vec<_> =
            keep.iter().filter(|kept| remains.is_alive(&slot, kept)).cloned().collect();
        let subnet = alive.first().map(|kept| kept.subnet);
        alive.retain(|kept| Some(kept.subnet) == subnet);
        // Where a living server has the slot, the interfaces are its own.
        if let (false, Some(hold)) = (alive.is_empty(), slot.take()?) {
            return Ok((slot, hold, alive));
        }
    }
    for slot in slots().filter(|slot| !remains.is_lived_in(slot)) {
        if let Some(hold) = slot.take()? {
            return Ok((slot, hold, Vec::new()));
        }
    }
    Err(Error::NoSlot)
}
