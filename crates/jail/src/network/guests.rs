//! What each container may reach: the fabric's memory of it, and the changes of the table.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::fabric::{Inner, lock};
use super::heard::Heard;
use super::lists::{Address, List};
use super::policy::{Outbound, Policy};
use super::{Error, Result, ranges, rules};
use crate::limits::{EXTRA_SECONDS_AGAIN, EXTRA_SECONDS_MAX, EXTRAS_MAX, NAMED_SECONDS_MORE};

/// One container.
#[derive(Debug, Default)]
pub(super) struct Guest {
    pub(super) policy: Policy,
    /// Of its connections to addresses that its list allows by name.
    pub(super) mark: u32,
    /// What the policy names by address.
    literal: Vec<(Ipv4Addr, u16)>,
    /// What named hosts resolved to, for a time that may be over.
    resolved: Vec<(Ipv4Addr, u16)>,
    pub(super) stay: Stay,
}

/// How long a container's place lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until its attachment is dropped, or the server ends.
    #[default]
    Short,
    /// A server that is killed leaves it to the next one.
    Kept,
    /// The same, and this server has not taken it over yet, or has let go of it.
    Alone,
}

impl Guest {
    pub(super) fn new(policy: &Policy, literal: Vec<(Ipv4Addr, u16)>) -> Self {
        let (policy, mark) = (policy.clone(), new_mark());
        Self { policy, mark, literal, ..Self::default() }
    }

    /// One that outlived its server.
    pub(super) fn kept(policy: &Policy, mark: u32) -> Self {
        let literal = policy.also.iter().filter_map(|(ip, port)| match ip {
            IpAddr::V4(ip) => Some((*ip, *port)),
            IpAddr::V6(_) => None,
        });
        let (literal, policy) = (literal.collect(), policy.clone());
        Self { policy, mark, literal, stay: Stay::Alone, ..Self::default() }
    }

    fn list<'a>(&'a self, table: &'a str, address: Ipv4Addr) -> Option<List<'a>> {
        List::of(&self.policy.outbound, table, address, self.mark)
    }

    /// Its part of a new table.
    fn text(&self, table: &str, address: Ipv4Addr, heard: &Heard) -> String {
        let mut text = String::new();
        for (to, seconds) in [(&self.literal, None), (&self.resolved, Some(EXTRA_SECONDS_AGAIN))] {
            if !to.is_empty() {
                text += &rules::admission(table, address, to, seconds);
            }
        }
        if let Some(list) = self.list(table, address) {
            text += &list.admission(heard, &self.policy.outbound);
        }
        text
    }

    /// Takes its part of a table back.
    fn withdrawal(&self, table: &str, address: Ipv4Addr) -> String {
        let mut text = String::new();
        let extras = [self.literal.as_slice(), &self.resolved].concat();
        if !extras.is_empty() {
            text += &rules::withdrawal(table, address, &extras);
        }
        if let Some(list) = self.list(table, address) {
            text += &list.withdrawal();
        }
        text
    }
}

/// A mark that no connection has yet, as far as chance allows; 0 is what others' have.
fn new_mark() -> u32 {
    let random = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([random[0], random[1], random[2], random[3]]).max(1)
}

impl Inner {
    /// The policy's literal destinations, checked.
    pub(super) fn literal(&self, policy: &Policy) -> Result<Vec<(Ipv4Addr, u16)>> {
        policy.check()?;
        let check = |(ip, port): &(IpAddr, u16)| match ip {
            IpAddr::V4(ip) => self.reachable(*ip).map(|()| (*ip, *port)),
            IpAddr::V6(_) => Err(Error::Ipv6(*ip)),
        };
        policy.also.iter().map(check).collect()
    }

    fn reachable(&self, ip: Ipv4Addr) -> Result<()> {
        if ranges::never(ip) || self.subnet.contains(ip) { Err(Error::Never(ip)) } else { Ok(()) }
    }

    /// Takes a container in. It is judged by its policy from then on.
    pub(super) fn admit_first(&self, container: Ipv4Addr, guest: Guest) -> Result<()> {
        let mut guests = lock(&self.guests);
        let text = guest.text(&self.slot.table, container, &Heard::default());
        if guest.policy.outbound != Outbound::Open {
            self.listen(container);
        }
        guests.insert(container, guest);
        if text.is_empty() { Ok(()) } else { rules::apply(&text) }
    }

    /// Lets addresses of named hosts pass on the ports that the policy has for them.
    pub(super) fn admit(
        &self,
        container: Ipv4Addr,
        to: &[(Ipv4Addr, u16)],
        ttl: Duration,
    ) -> Result<()> {
        let mut to = to.to_vec();
        to.sort_unstable();
        to.dedup();
        let mut guests = lock(&self.guests);
        let known = guests.get_mut(&container).ok_or(Error::Unknown(container))?;
        for (ip, port) in &to {
            self.reachable(*ip)?;
            if !known.policy.names.iter().any(|(_, named)| named == port) {
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

    /// Remembers from now on what the container is told of names.
    pub(super) fn listen(&self, container: Ipv4Addr) {
        lock(&self.heard).entry(container).or_default();
    }

    /// Remembers what a container was told, if its policy has changed or may.
    pub(super) fn hear(&self, container: Ipv4Addr, name: &str, ips: &[Ipv4Addr], ttl: Duration) {
        let until = Instant::now() + named_time(ttl);
        if let Some(heard) = lock(&self.heard).get_mut(&container) {
            ips.iter().for_each(|ip| heard.insert(*ip, Some(name.to_owned()), until));
        }
    }

    /// Lets the addresses of a name pass if the container's list allows it.
    pub(super) fn admit_named(
        &self,
        container: Ipv4Addr,
        name: &str,
        ips: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<()> {
        let guests = lock(&self.guests);
        let guest = guests.get(&container).ok_or(Error::Unknown(container))?;
        let outbound = &guest.policy.outbound;
        if !outbound.allows(name) {
            return Err(Error::NotAllowed(container, name.to_owned()));
        }
        let closed = |ip: &&Ipv4Addr| ranges::refused(**ip) || self.subnet.contains(**ip);
        if let Some(closed) = ips.iter().find(closed) {
            return Err(Error::Never(*closed));
        }
        if let Some(list) = guest.list(&self.slot.table, container) {
            let seconds = named_time(ttl).as_secs();
            let mut short = ips.to_vec();
            {
                let heard = lock(&self.heard);
                // Running nft for each answer would be slow: what passes for long enough stays.
                let left = |ip| heard.get(&container).map(|known| known.remaining(ip, outbound));
                let needed = ttl.clamp(Duration::from_secs(1), TTL_MAX);
                short.retain(|ip| left(*ip).is_none_or(|left| left < needed));
            }
            if !short.is_empty() {
                let address = |ip: &Ipv4Addr| Address { ip: *ip, name: Some(name), seconds };
                rules::apply(&list.named(&short.iter().map(address).collect::<Vec<_>>()))?;
            }
        }
        self.hear(container, name, ips, ttl);
        Ok(())
    }

    /// Judges the container by `policy` from now on, in one step.
    pub(super) fn replace(&self, container: Ipv4Addr, policy: &Policy) -> Result<()> {
        policy.check()?;
        // It fails where somebody has just emptied the firewall.
        self.try_replace(container, policy).or_else(|error| match error {
            Error::Nft(_) => self.put_in_place().and_then(|()| self.try_replace(container, policy)),
            other => Err(other),
        })
    }

    fn try_replace(&self, container: Ipv4Addr, policy: &Policy) -> Result<()> {
        let mut guests = lock(&self.guests);
        let guest = guests.get_mut(&container).ok_or(Error::Unknown(container))?;
        if policy.also != guest.policy.also || policy.names != guest.policy.names {
            return Err(Error::Fixed);
        }
        if *policy == guest.policy {
            return Ok(());
        }
        let (table, mark) = (&self.slot.table, new_mark());
        let mut heard = lock(&self.heard).get(&container).cloned().unwrap_or_default();
        heard.forget_nameless();
        let mut text = String::new();
        if let Some(old) = guest.list(table, container) {
            text += &old.withdrawal();
        }
        if let Some(new) = List::of(&policy.outbound, table, container, mark) {
            text += &new.admission(&heard, &policy.outbound);
        }
        rules::apply(&text)?;
        (guest.policy, guest.mark) = (policy.clone(), mark);
        lock(&self.heard).entry(container).or_default().forget_nameless();
        Ok(())
    }

    /// Takes back all that containers may reach, in one step.
    pub(super) fn withdraw(&self, containers: &[Ipv4Addr]) -> Result<()> {
        let mut text = String::new();
        for container in containers {
            lock(&self.heard).remove(container);
            if let Some(known) = lock(&self.guests).remove(container) {
                text += &known.withdrawal(&self.slot.table, *container);
            }
        }
        if text.is_empty() {
            return Ok(());
        }
        // It fails where somebody has just emptied the firewall.
        rules::apply(&text).or_else(|_| self.put_in_place())
    }

    /// Makes the table again if somebody has deleted it, with what containers may reach.
    pub(super) fn put_back(&self) -> Result<()> {
        if rules::tables()?.contains(&self.slot.table) {
            return Ok(());
        }
        self.put_in_place()
    }

    /// Makes the table, or makes it anew, in one step.
    pub(super) fn put_in_place(&self) -> Result<()> {
        let uplinks = lock(&self.uplinks);
        let guests = lock(&self.guests);
        let heard = lock(&self.heard);
        let mut text = self.ruleset.text(uplinks.switched());
        let nothing = Heard::default();
        for (container, guest) in guests.iter() {
            let heard = heard.get(container).unwrap_or(&nothing);
            text += &guest.text(&self.slot.table, *container, heard);
        }
        rules::apply(&text)
    }
}

/// The longest time to live of an allowed name's record. Whoever tells it to a container tells it
/// as no longer.
pub const TTL_MAX: Duration = Duration::from_secs(EXTRA_SECONDS_MAX - NAMED_SECONDS_MORE);

/// For how long an address passes whose record lives for `ttl`.
fn named_time(ttl: Duration) -> Duration {
    ttl.min(TTL_MAX) + Duration::from_secs(NAMED_SECONDS_MORE)
}

/// The memory of a killed server as this one's.
pub(super) fn heard_before(named: &[(Ipv4Addr, Option<String>, u64)]) -> Heard {
    let (mut heard, now) = (Heard::default(), Instant::now());
    for (ip, name, seconds) in named {
        heard.insert(*ip, name.clone(), now + Duration::from_secs(*seconds));
    }
    heard
}
