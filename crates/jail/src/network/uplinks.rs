//! Forwarding on the interfaces that lead out.
//!
//! The kernel forwards a packet if the interface on which it *arrives* has `forwarding` on.
//! The global switch (`ip_forward`) would open every interface of the host, so it stays as it
//! is; the interfaces that lead somewhere are switched on one by one, and the table drops what
//! arrives there for anybody but our containers, which is what the host did before.
//!
//! The table's set `uplinks` is the memory of what was switched on: it outlives a killed server.

use std::io::{self, ErrorKind};

use super::netlink::Netlink;
use super::{Error, Result, link, rules};

/// The interfaces that we switched on.
#[derive(Debug)]
pub(super) struct Uplinks {
    table: String,
    /// What the names of all fabrics' interfaces begin with.
    prefix: String,
    switched: Vec<String>,
}

impl Uplinks {
    /// `inherited`: interfaces that other fabrics of this host have switched on, or that an
    /// earlier run of this one has.
    pub(super) fn new(table: &str, prefix: &str, inherited: Vec<String>) -> Self {
        Self { table: table.to_owned(), prefix: prefix.to_owned(), switched: inherited }
    }

    pub(super) fn switched(&self) -> &[String] {
        &self.switched
    }

    /// Looks at the host's interfaces: switches new ones on, forgets those that are gone, and
    /// forgets all if the host forwards by its own will.
    pub(super) fn look(&mut self, netlink: &mut Netlink) -> Result<()> {
        let wanted = if host_forwards()? { Vec::new() } else { self.wanted(netlink)? };
        if wanted == self.switched {
            return Ok(());
        }
        rules::apply(&rules::uplinks(&self.table, &wanted))?;
        for name in wanted.iter().filter(|name| !self.switched.contains(name)) {
            write(name, "1")?;
        }
        self.switched = wanted;
        Ok(())
    }

    /// The interfaces with a route that are, or are to be, switched on by us; sorted.
    fn wanted(&self, netlink: &mut Netlink) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for name in self.leading_out(netlink)? {
            if self.switched.contains(&name) || read(&name)?.is_some_and(|on| !on) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The interfaces of others with a route.
    pub(super) fn leading_out(&self, netlink: &mut Netlink) -> Result<Vec<String>> {
        let routes = link::routes(netlink).map_err(|e| Error::List("routes", e))?;
        let links = link::links(netlink).map_err(|e| Error::List("interfaces", e))?;
        let routed = |link: &link::Link| {
            routes.iter().any(|route| route.is_unicast && route.through.contains(&link.index))
        };
        let is_others =
            |link: &link::Link| link.name != "lo" && !link.name.starts_with(&self.prefix);
        let out = links.into_iter().filter(|link| is_others(link) && routed(link));
        Ok(out.map(|link| link.name).collect())
    }

    /// Switches off what we switched on, but for `kept` (what other fabrics need), unless the
    /// host has begun to forward by its own will.
    pub(super) fn restore(&mut self, kept: &[String]) -> Result<()> {
        let names = std::mem::take(&mut self.switched);
        if host_forwards()? {
            return Ok(());
        }
        names.iter().filter(|name| !kept.contains(name)).try_for_each(|name| write(name, "0"))
    }
}

/// Whether the global switch is on.
fn host_forwards() -> Result<bool> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let text = std::fs::read_to_string(path).map_err(|e| Error::Sysctl(path.to_owned(), e))?;
    Ok(text.trim() != "0")
}

fn read(interface: &str) -> Result<Option<bool>> {
    let path = path(interface);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim() != "0")),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(Error::Sysctl(path, error)),
    }
}

fn write(interface: &str, value: &str) -> Result<()> {
    let path = path(interface);
    match std::fs::write(&path, value) {
        Err(error) if !is_gone(&error) => Err(Error::Sysctl(path, error)),
        _ => Ok(()),
    }
}

/// The interface has disappeared since it was listed.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

fn path(interface: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/forwarding")
}
