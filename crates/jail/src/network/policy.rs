//! What a container may reach.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::ranges::Subnet;
use super::{Error, Result};
use crate::limits::{EXTRAS_MAX, LISTED_MAX};

/// What a container with a network may reach. The default is every public address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Which public addresses pass.
    pub outbound: Outbound,
    /// Addresses and TCP ports that pass although they lie in a private range or are the host's
    /// own. IPv6, loopback, link-local, multicast and reserved addresses are errors: they stay
    /// closed whatever is asked. Not to be had together with a list.
    pub also: Vec<(IpAddr, u16)>,
    /// Host names and TCP ports whose addresses pass once somebody resolved them and called
    /// [`super::Fabric::allow_all`], which refuses a container the ports that are not named here.
    /// Not to be had together with a list.
    pub names: Vec<(String, u16)>,
}

/// Which public addresses a container may reach, by any protocol and port over IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outbound {
    /// All of them.
    #[default]
    Open,
    /// Those that one of the two lists allows; nothing if both are empty. What is closed to every
    /// container ([`super::ranges::refused`]) stays closed where a list covers it.
    List {
        /// Ranges of addresses.
        cidrs: Vec<Subnet>,
        /// Host names: their addresses pass once somebody resolved them and called
        /// [`super::Fabric::admit_named`]. `*.example.com` stands for every name below
        /// `example.com` and for itself. Case and a final dot do not matter.
        domains: Vec<String>,
    },
}

impl Policy {
    /// Nothing passes.
    #[must_use]
    pub fn blocked() -> Self {
        let outbound = Outbound::List { cidrs: Vec::new(), domains: Vec::new() };
        Self { outbound, ..Self::default() }
    }

    /// Refuses what cannot be kept on any host.
    ///
    /// # Errors
    /// More entries than their limit, extra destinations beside a list, or an entry of the list
    /// of names that is no host name.
    pub fn check(&self) -> Result<()> {
        if self.also.len() + self.names.len() > EXTRAS_MAX {
            return Err(Error::TooMany);
        }
        let Outbound::List { cidrs, domains } = &self.outbound else { return Ok(()) };
        if !self.also.is_empty() || !self.names.is_empty() {
            return Err(Error::Mixed);
        }
        if cidrs.len() > LISTED_MAX || domains.len() > LISTED_MAX {
            return Err(Error::TooLong);
        }
        match domains.iter().find(|domain| !is_domain(domain)) {
            Some(domain) => Err(Error::Domain(domain.clone())),
            None => Ok(()),
        }
    }
}

impl Outbound {
    /// Whether `name` may be resolved: always, unless a list without it says no.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        let Self::List { domains, .. } = self else { return true };
        let name = folded(name);
        domains.iter().any(|domain| {
            let domain = folded(domain);
            match domain.strip_prefix("*.") {
                Some(apex) => name == apex || is_below(&name, apex),
                None => name == domain,
            }
        })
    }

    /// Whether an allowed name may lie below `name`, so that it must not be said to be absent
    /// with all below it (RFC 8020).
    #[must_use]
    pub fn allows_below(&self, name: &str) -> bool {
        let Self::List { domains, .. } = self else { return true };
        let name = folded(name);
        let is_root = name.is_empty() && !domains.is_empty();
        let mut domains = domains.iter().map(|domain| folded(domain));
        is_root || domains.any(|domain| is_below(domain.trim_start_matches("*."), &name))
    }
}

fn is_below(name: &str, apex: &str) -> bool {
    name.strip_suffix(apex).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
}

/// The name as names are compared: ASCII without case (RFC 4343), without its final dot.
fn folded(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether an entry is a host name or `*.` and one.
fn is_domain(domain: &str) -> bool {
    let name = folded(domain);
    let name = name.strip_prefix("*.").unwrap_or(&name);
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_letter);
    name.len() <= 253 && name.split('.').all(is_label) && name.parse::<Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(domains: &[&str]) -> Outbound {
        let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        Outbound::List { cidrs: Vec::new(), domains }
    }

    #[test]
    fn names_match_their_entries_and_no_others() {
        let names = list(&["api.Example.com", "*.example.org."]);
        for allowed in [
            "api.example.com",
            "API.EXAMPLE.COM.",
            "example.org",
            "a.example.org",
            "a.b.Example.ORG.",
        ] {
            assert!(names.allows(allowed), "{allowed}");
        }
        let others = [
            "example.com",
            "x.api.example.com",
            "notexample.org",
            ".example.org",
            "example.org.evil",
        ];
        for other in others.into_iter().chain(["", ".", "org"]) {
            assert!(!names.allows(other), "{other}");
        }
        assert!(names.allows_below("example.com") && names.allows_below("ORG."));
        assert!(names.allows_below(".") && !list(&[]).allows_below("."));
        assert!(!names.allows_below("api.example.com") && !names.allows_below("net"));
        assert!(Outbound::Open.allows("anything.example"));
        assert!(!list(&[]).allows("anything.example"));
    }

    #[test]
    fn policies_that_cannot_be_kept_are_refused_by_what_is_wrong() {
        let check =
            |domains: &[&str]| Policy { outbound: list(domains), ..Policy::default() }.check();
        for good in
            ["example.com", "*.example.com", "EXAMPLE.com.", "xn--bcher-kva.example", "_x.test"]
        {
            check(&[good]).expect(good);
        }
        let long = "a".repeat(64);
        let bad =
            ["", "*", "*.", "a..b", "*.*.a", "a b", "a\"b", "bücher.example", "192.0.2.1", &long];
        for bad in bad {
            assert!(matches!(check(&[bad]), Err(Error::Domain(said)) if said == *bad), "{bad}");
        }
        let many = vec!["a.example"; LISTED_MAX + 1];
        assert!(matches!(check(&many), Err(Error::TooLong)));
        let mixed = Policy { names: vec![("a.example".into(), 80)], ..Policy::blocked() };
        assert!(matches!(mixed.check(), Err(Error::Mixed)));
    }

    #[test]
    fn a_policy_reads_back_as_it_was_written() {
        let cidrs = vec!["192.0.2.0/24".parse().expect("range")];
        let outbound = Outbound::List { cidrs, domains: vec!["*.example.com".into()] };
        let policy = Policy { outbound, ..Policy::default() };
        let text = serde_json::to_string(&policy).expect("write");
        assert!(text.contains("\"192.0.2.0/24\""), "{text}");
        assert_eq!(serde_json::from_str::<Policy>(&text).expect("read"), policy);
    }
}
