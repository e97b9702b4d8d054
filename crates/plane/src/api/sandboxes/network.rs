//! What a sandbox may reach, and who may reach it.

use ipnet::IpNet;
use model::allowed;
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

/// Ranges of addresses.
pub(super) fn cidrs(field: &'static str, texts: &[String]) -> Result<Vec<IpNet>, Refusal> {
    check_number(field, texts.len())?;
    texts
        .iter()
        .map(|text| allowed::range(text).map_err(|why| Refusal::invalid(field, why)))
        .collect()
}

fn check_number(field: &'static str, number: usize) -> Result<(), Refusal> {
    if number > SANDBOX_ALLOWED_MAX {
        let why = format!("{number} entries are more than {SANDBOX_ALLOWED_MAX}");
        return Err(Refusal::invalid(field, why));
    }
    Ok(())
}

/// Host names.
fn domains(texts: &[String]) -> Result<Vec<String>, Refusal> {
    let field = "outbound_domain_allowlist";
    check_number(field, texts.len())?;
    texts
        .iter()
        .map(|text| allowed::domain(text).map_err(|why| Refusal::invalid(field, why)))
        .collect()
}
