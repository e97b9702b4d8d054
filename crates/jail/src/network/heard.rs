//! What one container's questions were answered with: which names have which addresses.
//!
//! It is kept whatever the policy is, so that a list that comes later finds the addresses of its
//! names among them, and lets the connections to those go on.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::lists::Address;
use super::policy::Outbound;
use crate::limits::HEARD_MAX;

/// Addresses and their names, up to [`HEARD_MAX`] of them: the one whose time ends first gives
/// way to a new one.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Until when new connections to an address of a name may be opened. A name is `None` where
    /// only a killed server knew it; such an address counts as allowed until the policy changes.
    until: HashMap<(Ipv4Addr, Option<String>), Instant>,
}

impl Heard {
    /// Remembers that `name` has the address `ip`.
    pub(super) fn insert(&mut self, ip: Ipv4Addr, name: Option<String>, until: Instant) {
        let known = (ip, name);
        if self.until.len() >= HEARD_MAX && !self.until.contains_key(&known) {
            let first = self.until.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(known, _)| known.clone()) {
                self.until.remove(&first);
            }
        }
        let end = self.until.entry(known).or_insert(until);
        *end = until.max(*end);
    }

    /// Forgets what a changed policy cannot judge.
    pub(super) fn forget_nameless(&mut self) {
        self.until.retain(|(_, name), _| name.is_some());
    }

    /// How long the address passes because of names that `outbound` allows.
    pub(super) fn remaining(&self, ip: Ipv4Addr, outbound: &Outbound) -> Duration {
        let own = self.until.iter().filter(|((known, _), _)| *known == ip);
        let allowed = own.filter(|((_, name), _)| allows(outbound, name.as_deref()));
        let until = allowed.map(|(_, until)| *until).max();
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// The addresses of names that `outbound` allows: those whose time goes on, and those to
    /// which only open connections may.
    pub(super) fn passing(&self, outbound: &Outbound) -> (Vec<Address<'_>>, Vec<Address<'_>>) {
        let now = Instant::now();
        let mut longest: HashMap<Ipv4Addr, Address<'_>> = HashMap::new();
        for ((ip, name), until) in &self.until {
            if !allows(outbound, name.as_deref()) {
                continue;
            }
            let seconds = until.saturating_duration_since(now).as_secs();
            let address = Address { ip: *ip, name: name.as_deref(), seconds };
            let known = longest.entry(*ip).or_insert(address);
            if known.seconds < seconds {
                *known = address;
            }
        }
        longest.into_values().partition(|address| address.seconds > 0)
    }
}

fn allows(outbound: &Outbound, name: Option<&str>) -> bool {
    name.is_none_or(|name| outbound.allows(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(domains: &[&str]) -> Outbound {
        let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        Outbound::List { cidrs: Vec::new(), domains }
    }

    #[test]
    fn an_address_passes_for_the_longest_of_its_allowed_names() {
        let mut heard = Heard::default();
        let (now, ip) = (Instant::now(), Ipv4Addr::new(192, 0, 2, 1));
        let old = Ipv4Addr::new(192, 0, 2, 2);
        let hour = now + Duration::from_secs(3_600);
        heard.insert(ip, Some("a.example".into()), now + Duration::from_secs(60));
        heard.insert(ip, Some("b.example".into()), hour);
        heard.insert(ip, Some("b.example".into()), now);
        heard.insert(old, Some("a.example".into()), now);
        heard.insert(Ipv4Addr::new(192, 0, 2, 3), None, hour);
        let left = |domains: &[&str]| heard.remaining(ip, &list(domains)).as_secs();
        assert!((58..=60).contains(&left(&["a.example"])));
        assert!((3_590..=3_600).contains(&left(&["*.example"])));
        assert_eq!(left(&["c.example"]), 0);
        let (named, past) = heard.passing(&list(&["a.example"]));
        assert_eq!((named.len(), past.len()), (2, 1));
        assert_eq!(past[0], Address { ip: old, name: Some("a.example"), seconds: 0 });
        heard.forget_nameless();
        assert_eq!(heard.passing(&list(&["a.example"])).0.len(), 1);
    }

    #[test]
    fn the_memory_is_bounded_and_loses_what_ends_first() {
        let mut heard = Heard::default();
        let now = Instant::now();
        for n in 0..=u32::try_from(HEARD_MAX).expect("a small number") {
            let until = now + Duration::from_secs(1_000 + u64::from(n));
            heard.insert(Ipv4Addr::from_bits(n), Some("a.example".into()), until);
        }
        assert_eq!(heard.until.len(), HEARD_MAX);
        assert!(heard.remaining(Ipv4Addr::from_bits(0), &Outbound::Open).is_zero());
        assert!(!heard.remaining(Ipv4Addr::from_bits(1), &Outbound::Open).is_zero());
    }
}
