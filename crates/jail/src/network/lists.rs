//! The table's part for a container with an allow list: a chain for what it sends, one for what
//! comes back, and sets of its ranges and of the addresses that its names have.
//!
//! Every packet is judged, in both directions, so that a changed list cuts what it no longer
//! allows. A connection to an address that was allowed by name carries a mark; it goes on when
//! the address has left the set, as long as the list stands, because a new list has a new mark.

use std::net::Ipv4Addr;

use super::heard::Heard;
use super::policy::Outbound;
use super::ranges::{Subnet, merged};
use super::rules::list;
use crate::limits::{HEARD_MAX, NAMED_MAX};

/// Bytes of an element's comment (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT_BYTES_MAX: usize = 128;

/// What distinguishes one container's list in one table.
#[derive(Clone, Copy, Debug)]
pub(super) struct List<'a> {
    pub(super) table: &'a str,
    pub(super) container: Ipv4Addr,
    /// Of its connections.
    pub(super) mark: u32,
    pub(super) cidrs: &'a [Subnet],
    pub(super) domains: &'a [String],
}

impl<'a> List<'a> {
    /// The list of `outbound`, if it is one.
    pub(super) fn of(
        outbound: &'a Outbound,
        table: &'a str,
        container: Ipv4Addr,
        mark: u32,
    ) -> Option<Self> {
        match outbound {
            Outbound::Open => None,
            Outbound::List { cidrs, domains } => {
                Some(Self { table, container, mark, cidrs, domains })
            }
        }
    }

    /// Text that judges the container by this list from now on. `heard`: what its names resolved
    /// to so far.
    pub(super) fn admission(&self, heard: &Heard, outbound: &Outbound) -> String {
        let Self { table, container, mark, .. } = self;
        let n = number(*container);
        let mut text = String::new();
        let mut out = vec!["ip daddr @private goto refuse".to_owned()];
        let mut back = vec!["ct original ip daddr @private goto refuse".to_owned()];
        let ranges = list(&merged(self.cidrs));
        if !ranges.is_empty() {
            text += &format!(
                "add set inet {table} ranges{n} \
                    {{ type ipv4_addr; flags interval; elements = {{ {ranges} }}; }}\n"
            );
            out.push(format!("ip daddr @ranges{n} accept"));
            back.push(format!("ct original ip daddr @ranges{n} accept"));
        }
        if !self.domains.is_empty() {
            text += &format!(
                "add set inet {table} named{n} \
                    {{ type ipv4_addr; flags timeout; size {NAMED_MAX}; }}\n\
                 add set inet {table} past{n} {{ type ipv4_addr; size {HEARD_MAX}; }}\n"
            );
            out.extend([
                format!("ip daddr @named{n} ct mark set {mark} accept"),
                format!("ct state established ct mark {mark} accept"),
                format!("ct state established ip daddr @past{n} ct mark set {mark} accept"),
            ]);
            back.extend([
                format!("ct mark {mark} accept"),
                format!("ct original ip daddr @named{n} accept"),
                format!("ct original ip daddr @past{n} accept"),
            ]);
        }
        for (chain, rules) in [("out", out), ("back", back)] {
            text += &format!("add chain inet {table} {chain}{n}\n");
            for rule in rules.iter().map(String::as_str).chain(["goto refuse"]) {
                text += &format!("add rule inet {table} {chain}{n} {rule}\n");
            }
        }
        text += &format!(
            "add element inet {table} lists {{ {container} : goto out{n} }}\n\
             add element inet {table} replies {{ {container} : goto back{n} }}\n"
        );
        if !self.domains.is_empty() {
            let (named, past) = heard.passing(outbound);
            text += &self.named(&named);
            text += &self.elements("past", &past.iter().map(element).collect::<Vec<_>>());
        }
        text
    }

    /// Text that takes back what [`List::admission`] gave.
    pub(super) fn withdrawal(&self) -> String {
        let Self { table, container, .. } = self;
        let n = number(*container);
        let mut text = format!(
            "delete element inet {table} lists {{ {container} }}\n\
             delete element inet {table} replies {{ {container} }}\n"
        );
        for chain in ["out", "back"] {
            text += &format!("flush chain inet {table} {chain}{n}\n");
            text += &format!("delete chain inet {table} {chain}{n}\n");
        }
        let sets = [
            (self.cidrs.is_empty(), "ranges"),
            (self.domains.is_empty(), "named"),
            (self.domains.is_empty(), "past"),
        ];
        for (_, set) in sets.iter().filter(|(is_absent, _)| !is_absent) {
            text += &format!("delete set inet {table} {set}{n}\n");
        }
        text
    }

    /// Text that lets addresses of allowed names pass, each for its seconds from now.
    pub(super) fn named(&self, addresses: &[Address<'_>]) -> String {
        let plain: Vec<_> = addresses.iter().map(|address| address.ip.to_string()).collect();
        let timed = addresses.iter().map(|address| {
            let Address { ip, name, seconds } = address;
            format!("{ip} timeout {seconds}s{}", comment(*name))
        });
        // Adding an element that is there does not prolong it; deleting an absent one fails.
        let mut text = self.elements("named", &plain);
        text += &text.replacen("add", "delete", 1);
        text + &self.elements("named", &timed.collect::<Vec<_>>())
    }

    fn elements(&self, set: &str, elements: &[String]) -> String {
        if elements.is_empty() {
            return String::new();
        }
        let (table, n) = (self.table, number(self.container));
        format!("add element inet {table} {set}{n} {{ {} }}\n", elements.join(", "))
    }
}

/// An address that passes because a name has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address<'a> {
    pub(super) ip: Ipv4Addr,
    pub(super) name: Option<&'a str>,
    /// For how long new connections may be opened.
    pub(super) seconds: u64,
}

/// What tells a container's chains and sets from those of others.
pub(super) fn number(container: Ipv4Addr) -> u32 {
    container.to_bits() & 0xfff
}

fn element(address: &Address<'_>) -> String {
    format!("{}{}", address.ip, comment(address.name))
}

/// The name as a comment, by which a restarted server knows whose the address is. A name that
/// does not fit is left out: labels below a `*.` are whatever the container asked for.
fn comment(name: Option<&str>) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name {
        Some(name) if name.len() <= COMMENT_BYTES_MAX && name.bytes().all(is_plain) => {
            format!(" comment \"{name}\"")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_plain_is_no_comment() {
        assert_eq!(comment(Some("a-b_c.example")), " comment \"a-b_c.example\"");
        for bad in ["a\" }; flush ruleset", "a b", "ä", &"a".repeat(129)] {
            assert_eq!(comment(Some(bad)), "", "{bad}");
        }
        assert_eq!(comment(None), "");
    }
}
