//! The firewall: one nftables table, put in place as a whole.
//!
//! Every packet of a container is judged twice, before and after the host's own address
//! translation (which may turn a closed destination into an open-looking one and back). A TCP
//! connection that a container was allowed to open goes on when the time of an extra destination
//! is over; nothing that somebody else opened lets a container send more than answers. Containers
//! with an allow list are judged by chains of their own ([`super::lists`]), and so are the answers
//! to them.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use super::ranges::{NEVER, PRIVATE, Subnet};
use super::{Error, Result};
use crate::limits::{FLOWS_MAX, NFT_MS_MAX};

/// What the table's text depends on.
#[derive(Debug)]
pub(super) struct Ruleset {
    pub(super) table: String,
    /// Pattern of this fabric's interfaces, as nft writes it: `pal0n*`.
    pub(super) ports: String,
    /// Pattern of the interfaces of all fabrics of this name: `pal*`.
    pub(super) all_ports: String,
    /// All addresses that fabrics of this host use.
    pub(super) subnet: Subnet,
    /// The addresses of this fabric's containers.
    pub(super) share: Subnet,
    pub(super) gateway: Ipv4Addr,
    pub(super) dns_port: u16,
}

impl Ruleset {
    /// The whole table as nft reads it; `uplinks` are the interfaces whose forwarding is switched
    /// on by us.
    pub(super) fn text(&self, uplinks: &[String]) -> String {
        let Self { table, ports, all_ports, share, gateway, dns_port, .. } = self;
        let never = list(NEVER.iter().chain([&self.subnet]));
        let private = list(PRIVATE);
        let uplinks = match uplinks {
            [] => String::new(),
            names => format!("elements = {{ {} }}", quoted(names)),
        };
        format!(
            r#"add table inet {table}
delete table inet {table}
table inet {table} {{
  set extra {{ type ipv4_addr . ipv4_addr . inet_service; flags timeout; size 65535; }}
  set uplinks {{ type ifname; {uplinks} }}
  set never {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {never} }}; }}
  set private {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {private} }}; }}
  set flows {{ type ipv4_addr; size 65535; flags dynamic; }}
  map lists {{ type ipv4_addr : verdict; }}
  map replies {{ type ipv4_addr : verdict; }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain outward {{
    meta nfproto ipv6 goto refuse
    fib daddr type local goto inward
    fib daddr type {{ broadcast, anycast, multicast, unspec }} goto refuse
    ip daddr @never goto refuse
    ip saddr vmap @lists
    ip saddr . ip daddr . tcp dport @extra accept
    meta l4proto tcp ct state established ct direction original accept
    ip daddr @private goto refuse
    accept
  }}
  chain inward {{
    ct state established,related ct direction reply accept
    ip daddr {gateway} udp dport {{ 53, {dns_port} }} accept
    ip daddr {gateway} tcp dport {{ 53, {dns_port} }} accept
    ip daddr @never goto refuse
    ip saddr . ip daddr . tcp dport @extra accept
    meta l4proto tcp ct state established ct direction original accept
    goto refuse
  }}
  chain before {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{ports}" ip saddr != {share} drop
    iifname "{ports}" fib saddr . iif oif missing drop
    iifname "{ports}" ct state new add @flows {{ ip saddr ct count over {FLOWS_MAX} }} goto refuse
    iifname "{ports}" goto outward
  }}
  chain ask {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{ports}" ip daddr {gateway} udp dport 53 dnat ip to {gateway}:{dns_port}
    iifname "{ports}" ip daddr {gateway} tcp dport 53 dnat ip to {gateway}:{dns_port}
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{ports}" goto outward
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{ports}" oifname "{all_ports}" goto refuse
    iifname "{ports}" goto outward
    oifname "{ports}" ct state != {{ established, related }} goto refuse
    oifname "{ports}" ip daddr vmap @replies
    oifname "{ports}" accept
    iifname @uplinks oifname != "{all_ports}" drop
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {share} oifname != "{all_ports}" masquerade
  }}
}}
"#
        )
    }
}

/// Text that deletes the table, also if it is not there.
pub(super) fn deletion(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Text that lets `from` reach `to` until `seconds` have passed, or for good.
pub(super) fn admission(
    table: &str,
    from: Ipv4Addr,
    to: &[(Ipv4Addr, u16)],
    seconds: Option<u64>,
) -> String {
    let timeout = seconds.map(|seconds| format!(" timeout {seconds}s")).unwrap_or_default();
    let element = |(ip, port): &(Ipv4Addr, u16)| format!("{from} . {ip} . {port}{timeout}");
    let elements: Vec<_> = to.iter().map(element).collect();
    format!("add element inet {table} extra {{ {} }}\n", elements.join(", "))
}

/// Text that takes back what [`admission`] gave, also where its time has passed: an element
/// that is gone is added first, because deleting an absent one fails.
pub(super) fn withdrawal(table: &str, from: Ipv4Addr, to: &[(Ipv4Addr, u16)]) -> String {
    let add = admission(table, from, to, None);
    let delete = add.replacen("add", "delete", 1);
    add + &delete
}

/// Text that sets the names of the interfaces whose forwarding is switched on by us.
pub(super) fn uplinks(table: &str, names: &[String]) -> String {
    let mut text = format!("flush set inet {table} uplinks\n");
    if !names.is_empty() {
        text += &format!("add element inet {table} uplinks {{ {} }}\n", quoted(names));
    }
    text
}

/// Applies `text` as one transaction.
pub(super) fn apply(text: &str) -> Result<()> {
    run(&["-f", "-"], text).map(drop)
}

/// The names of the `inet` tables of this network namespace.
pub(super) fn tables() -> Result<Vec<String>> {
    let listing = list_json(&["-j", "list", "tables", "inet"])?;
    let name = |entry: &serde_json::Value| Some(entry.get("table")?.get("name")?.as_str()?.into());
    Ok(listing.iter().filter_map(name).collect())
}

/// Base chains of filters with policy *drop* on the way of forwarded or incoming packets.
pub(super) fn dropping_chains() -> Result<Vec<String>> {
    let listing = list_json(&["-j", "list", "chains"])?;
    let text = |chain: &serde_json::Value, key| Some(chain.get(key)?.as_str()?.to_owned());
    let dropping = |entry: &serde_json::Value| {
        let chain = entry.get("chain")?;
        let hook = text(chain, "hook")?;
        let is_on_the_way = hook == "forward" || hook == "input";
        let names = ["family", "table", "name"].map(|key| text(chain, key).unwrap_or_default());
        (is_on_the_way && text(chain, "policy")? == "drop").then(|| names.join(" "))
    };
    Ok(listing.iter().filter_map(dropping).collect())
}

pub(super) fn list_json(args: &[&str]) -> Result<Vec<serde_json::Value>> {
    let output = run(args, "")?;
    let listing: serde_json::Value =
        serde_json::from_slice(&output).map_err(|error| Error::Nft(error.to_string()))?;
    Ok(listing.get("nftables").and_then(|list| list.as_array().cloned()).unwrap_or_default())
}

/// Runs `nft` on `input` and returns what it printed. Files in memory stand in for pipes: none
/// can fill up, so that waiting with a time limit needs no second thread.
fn run(args: &[&str], input: &str) -> Result<Vec<u8>> {
    let io = |error: std::io::Error| Error::Nft(error.to_string());
    let mut stdin = memory_file().map_err(io)?;
    stdin.write_all(input.as_bytes()).and_then(|()| stdin.rewind()).map_err(io)?;
    let mut stdout = memory_file().map_err(io)?;
    let mut stderr = memory_file().map_err(io)?;
    let mut child = Command::new("nft")
        .args(args)
        .stdin(stdin)
        .stdout(stdout.try_clone().map_err(io)?)
        .stderr(stderr.try_clone().map_err(io)?)
        .spawn()
        .map_err(Error::NftMissing)?;
    let deadline = Instant::now() + Duration::from_millis(NFT_MS_MAX);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io)? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            child.wait().map_err(io)?;
            return Err(Error::Nft(format!("no answer within {NFT_MS_MAX} ms")));
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    if status.success() {
        return read_all(&mut stdout).map_err(io);
    }
    let said = read_all(&mut stderr).map_err(io)?;
    let text = String::from_utf8_lossy(&said).trim().to_owned();
    Err(Error::Nft(if text.is_empty() { status.to_string() } else { text }))
}

fn memory_file() -> std::io::Result<File> {
    Ok(rustix::fs::memfd_create("palisade-nft", MemfdFlags::CLOEXEC)?.into())
}

fn read_all(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn list<'a>(ranges: impl IntoIterator<Item = &'a Subnet>) -> String {
    let texts: Vec<_> = ranges.into_iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn quoted(names: &[String]) -> String {
    let texts: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    texts.join(", ")
}
