//! What a sandbox may reach, and who may reach it.

use std::net::IpAddr;

use ipnet::IpNet;
use model::sandbox::{NetworkRule, OpenPort, TunnelKind};
use wire::client as pb;

use crate::api::refusal::Refusal;
use crate::limits::{SANDBOX_ALLOWED_MAX, SANDBOX_PORTS_MAX};

/// What a definition says about the way out. Settings that contradict each other are refused.
pub(super) fn rule(s: &pb::Sandbox) -> Result<NetworkRule, Refusal> {
    use pb::network_access::NetworkAccessType as Access;
    let access = s.network_access.clone().unwrap_or_default();
    let listed = !access.allowed_cidrs.is_empty() || !access.allowed_domains.is_empty();
    let refuse = |why: &str| Err(Refusal::invalid("network_access", why));
    match (access.network_access_type(), listed) {
        (Access::Blocked, true) => {
            refuse("the network cannot be blocked and have an allow list: choose one")
        }
        (Access::Open | Access::Unspecified, true) => {
            refuse("an allow list is there, but its type is not ALLOWLIST")
        }
        (Access::Allowlist, _) if s.block_network => {
            refuse("block_network and an allow list contradict each other: choose one")
        }
        (Access::Blocked, false) => Ok(NetworkRule::Blocked),
        (Access::Open | Access::Unspecified, false) if s.block_network => Ok(NetworkRule::Blocked),
        (Access::Open | Access::Unspecified, false) => Ok(NetworkRule::Open),
        (Access::Allowlist, _) => Ok(NetworkRule::Listed {
            cidrs: cidrs("outbound_cidr_allowlist", &access.allowed_cidrs)?,
            domains: domains(&access.allowed_domains)?,
        }),
    }
}

/// What has no network cannot be reached.
pub(super) fn check_together(
    rule: &NetworkRule,
    ports: &[OpenPort],
    inbound: &[IpNet],
) -> Result<(), Refusal> {
    let blocked = *rule == NetworkRule::Blocked;
    if blocked && !ports.is_empty() {
        let why = "a sandbox with block_network cannot have open ports: choose one";
        return Err(Refusal::invalid("open_ports", why));
    }
    if blocked && !inbound.is_empty() {
        let why = "nobody reaches a sandbox with block_network: leave the list out";
        return Err(Refusal::invalid("inbound_cidr_allowlist", why));
    }
    Ok(())
}

/// A port's number.
pub(super) fn port(field: &'static str, number: u32) -> Result<u16, Refusal> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Refusal::invalid(field, format!("port {number} is not between 1 and 65535"))),
    }
}

/// Ports that are reached from outside.
pub(super) fn ports(asked: Option<&pb::sandbox::OpenPortsOneof>) -> Result<Vec<OpenPort>, Refusal> {
    let Some(pb::sandbox::OpenPortsOneof::OpenPorts(specs)) = asked else { return Ok(Vec::new()) };
    if specs.ports.len() > SANDBOX_PORTS_MAX {
        let why = format!("{} are more than {SANDBOX_PORTS_MAX}", specs.ports.len());
        return Err(Refusal::invalid("open_ports", why));
    }
    let mut ports = Vec::<OpenPort>::new();
    for spec in &specs.ports {
        let number = port("open_ports", spec.port)?;
        let kind = match (spec.unencrypted, spec.tunnel_type()) {
            (true, pb::TunnelType::Unspecified) => TunnelKind::Plain,
            (false, pb::TunnelType::Unspecified) => TunnelKind::Encrypted,
            (false, pb::TunnelType::H2) => TunnelKind::Http2,
            (true, pb::TunnelType::H2) => {
                let why = format!("port {number} cannot be both unencrypted and for HTTP/2");
                return Err(Refusal::invalid("open_ports", why));
            }
        };
        if ports.iter().any(|other| other.port == number) {
            return Err(Refusal::invalid("open_ports", format!("port {number} is there twice")));
        }
        ports.push(OpenPort { port: number, kind });
    }
    Ok(ports)
}

/// Ranges of addresses. One that is written with an address inside it would be read by some as
/// that address, by others as the range: it is refused.
pub(super) fn cidrs(field: &'static str, texts: &[String]) -> Result<Vec<IpNet>, Refusal> {
    check_number(field, texts.len())?;
    texts.iter().map(|text| cidr(text).map_err(|why| Refusal::invalid(field, why))).collect()
}

fn cidr(text: &str) -> Result<IpNet, String> {
    let shown: String = text.chars().take(80).collect();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(format!("`{shown}` has no length: write {}", IpNet::from(address)));
    }
    // The standard library's addresses: `010.0.0.0` is none of them, since some read it as 8.0.0.0.
    let range = text.split_once('/').and_then(|(address, length)| {
        let digits = (1..=3).contains(&length.len()) && length.bytes().all(|c| c.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits)?;
        IpNet::new(address.parse().ok()?, length).ok()
    });
    let range = range.ok_or_else(|| {
        format!("`{shown}` is no range of addresses: write it like 203.0.113.0/24")
    })?;
    if range.addr() != range.network() {
        return Err(format!("`{shown}` has bits beyond its length: write {}", range.trunc()));
    }
    Ok(range)
}

fn check_number(field: &'static str, number: usize) -> Result<(), Refusal> {
    if number > SANDBOX_ALLOWED_MAX {
        let why = format!("{number} entries are more than {SANDBOX_ALLOWED_MAX}");
        return Err(Refusal::invalid(field, why));
    }
    Ok(())
}

/// Names, in lower case and without a dot at the end.
fn domains(texts: &[String]) -> Result<Vec<String>, Refusal> {
    let field = "outbound_domain_allowlist";
    check_number(field, texts.len())?;
    texts.iter().map(|text| domain(text).map_err(|why| Refusal::invalid(field, why))).collect()
}

fn domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let shown: String = text.chars().take(80).collect();
    if name == "*" {
        return Err("`*` would allow every name: leave the list out instead".into());
    }
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    if labels.contains('*') {
        return Err(format!("`{shown}`: `*` may stand at the front only, as in *.example.com"));
    }
    let fits = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if labels.parse::<IpAddr>().is_ok() {
        return Err(format!("`{shown}` is an address: put it into outbound_cidr_allowlist"));
    }
    if labels.len() > 253 || !labels.split('.').all(fits) {
        return Err(format!(
            "`{shown}` is no name: letters, digits and dashes between dots, and xn-- for others"
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        for (text, want) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("203.0.113.7/32", Ok("203.0.113.7/32")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("2001:db8::/32", Ok("2001:db8::/32")),
            ("10.1.0.0/8", Err("write 10.0.0.0/8")),
            ("2001:db8::1/32", Err("write 2001:db8::/32")),
            ("1.2.3.4", Err("write 1.2.3.4/32")),
            ("::1", Err("write ::1/128")),
            ("10.0.0.0/33", Err("no range")),
            ("10.0.0/8", Err("no range")),
            ("010.0.0.0/8", Err("no range")),
            ("10.0.0.0/+8", Err("no range")),
            ("10.0.0.0/8/8", Err("no range")),
            ("", Err("no range")),
            ("a\0b", Err("no range")),
        ] {
            match (cidr(text), want) {
                (Ok(range), Ok(want)) => assert_eq!(range.to_string(), want),
                (Err(why), Err(want)) => assert!(why.contains(want), "{text}: {why}"),
                (got, want) => panic!("{text}: {got:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn names_are_read_strictly() {
        let long = "a".repeat(64);
        for (text, want) in [
            ("example.com", Ok("example.com")),
            ("Example.COM.", Ok("example.com")),
            ("*.example.com", Ok("*.example.com")),
            ("_dmarc.x-y.org", Ok("_dmarc.x-y.org")),
            ("localhost", Ok("localhost")),
            ("*", Err("leave the list out")),
            ("*.", Err("leave the list out")),
            ("a.*.com", Err("front only")),
            ("*.*.com", Err("front only")),
            ("*a.com", Err("front only")),
            ("a..com", Err("no name")),
            (".com", Err("no name")),
            ("-a.com", Err("no name")),
            ("a b.com", Err("no name")),
            ("bücher.de", Err("no name")),
            ("https://a.com", Err("no name")),
            ("a.com:443", Err("no name")),
            (long.as_str(), Err("no name")),
            ("1.2.3.4", Err("is an address")),
            ("", Err("no name")),
        ] {
            match (domain(text), want) {
                (Ok(name), Ok(want)) => assert_eq!(name, want),
                (Err(why), Err(want)) => assert!(why.contains(want), "{text}: {why}"),
                (got, want) => panic!("{text}: {got:?} instead of {want:?}"),
            }
        }
    }
}
