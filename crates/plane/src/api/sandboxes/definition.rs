//! Definitions of sandboxes: what is asked for becomes a spec that is enforced, or is refused by
//! name. Which field is what is listed in tests/wire/policy.py.

use std::collections::BTreeMap;

use model::limits::TIMEOUT_MAX;
use model::resources::{Capacity, ResourceWish};
use model::sandbox::{Probe, ProbeCheck, Pty, SandboxSpec, SecretSource};
use model::{ImageId, Millis, MountId, SecretId};
use wire::client as pb;

use super::network;
use crate::Plane;
use crate::api::definition::{refuse_devices, refuse_regions, refuse_set, resources};
use crate::api::environments::check_name;
use crate::api::refusal::Refusal;
use crate::api::secrets::check_env;
use crate::limits::{
    SANDBOX_ARGS_BYTES_MAX, SANDBOX_SECRETS_MAX, SANDBOX_TAG_BYTES_MAX, SANDBOX_TAGS_MAX,
    SANDBOX_WORKDIR_BYTES_MAX,
};

/// Time between two tries of a probe where nothing is said; the client says 100 (modal 1.6.4).
const PROBE_INTERVAL_DEFAULT: Millis = Millis(100);

/// A terminal's size where nothing is said.
const PTY_DEFAULT: (u16, u16) = (24, 80);

/// The spec of a definition. `sources`: where variables come from, beside what the definition
/// itself says; later ones win.
pub(super) fn spec(
    s: &pb::Sandbox,
    sources: Vec<pb::SecretSource>,
    plane: &Plane,
) -> Result<SandboxSpec, Refusal> {
    refuse_unserved(s)?;
    check_args("entrypoint_args", &s.entrypoint_args)?;
    let network = network::rule(s)?;
    let ports = network::ports(s.open_ports_oneof.as_ref())?;
    let inbound = network::cidrs("inbound_cidr_allowlist", &s.inbound_cidr_allowlist)?;
    network::check_together(&network, &ports, &inbound)?;
    if !ports.is_empty() && plane.reach.get().is_none() {
        return Err(Refusal::invalid("open_ports", "this server opens no ports of sandboxes"));
    }
    let mounts = s.mount_ids.iter().map(|id| MountId::parse(id)).collect::<Result<_, _>>()?;
    Ok(SandboxSpec {
        name: s.name.clone().map(|name| check_sandbox_name(&name).map(|()| name)).transpose()?,
        image: ImageId::parse(&s.image_id)?,
        mounts,
        secrets: secrets(s, sources)?,
        entrypoint: s.entrypoint_args.clone(),
        workdir: workdir(s.workdir.as_deref())?,
        resources: wish(s.resources.as_ref(), &plane.fleet.largest())?,
        timeout_ms: timeout("timeout", s.timeout_secs)?,
        idle_timeout_ms: s
            .idle_timeout_secs
            .map(|secs| timeout("idle_timeout", secs))
            .transpose()?,
        network,
        ports,
        inbound,
        probe: s.readiness_probe.as_ref().map(probe).transpose()?,
        pty: s.pty_info.as_ref().filter(|pty| pty.enabled).map(pty).transpose()?,
    })
}

/// Refuses every setting that this release cannot keep, by its name (A13).
fn refuse_unserved(s: &pb::Sandbox) -> Result<(), Refusal> {
    refuse_devices(s.resources.as_ref())?;
    refuse_regions(s.scheduler_placement.as_ref())?;
    refuse_storage(s)?;
    refuse_places(s)?;
    refuse_identities(s)?;
    let options = s.experimental_options.keys().chain(s.experimental_options_v2.keys()).next();
    match options {
        Some(name) => {
            let why = format!("the option `{name}` is not known here");
            Err(Refusal::invalid("experimental_options", why))
        }
        None => Ok(()),
    }
}

/// File systems of others, and snapshots of memory.
fn refuse_storage(s: &pb::Sandbox) -> Result<(), Refusal> {
    let memory = "snapshots of a sandbox's memory are not served: use snapshot_filesystem()";
    refuse_set([
        (!s.volume_mounts.is_empty(), "volumes", "volumes are not served yet"),
        (!s.cloud_bucket_mounts.is_empty(), "volumes", "cloud bucket mounts are not served yet"),
        (!s.s3_mounts.is_empty(), "volumes", "S3 mounts are not served"),
        (
            !s.nfs_mounts.is_empty(),
            "network_file_systems",
            "network file systems are not served: they are deprecated in the client",
        ),
        (s.enable_snapshot, "enable_snapshot", memory),
        (s.snapshot_version.is_some(), "snapshot_version", memory),
        (!s.restore_instance_type.is_empty(), "restore_instance_type", memory),
    ])
}

/// Where it runs, and on what, cannot be chosen.
fn refuse_places(s: &pb::Sandbox) -> Result<(), Refusal> {
    let set = |text: Option<&str>| text.is_some_and(|text| !text.is_empty());
    let runtime = "the runtime cannot be chosen here: leave `runtime` out";
    refuse_set([
        (
            !s.cloud_provider_str.is_empty() || s.cloud_provider != 0,
            "cloud",
            "there is no cloud provider to choose here: leave `cloud` out",
        ),
        (!s.worker_id.is_empty(), "worker_id", "the worker cannot be chosen here"),
        (set(s.runtime.as_deref()), "runtime", runtime),
        (set(s.runsc_runtime_version.as_deref()), "runsc_runtime_version", runtime),
        (s.runtime_debug, "runtime_debug", "the runtime has no such output here"),
    ])
}

/// Ways in and out, and words about who it is, that no sandbox has.
fn refuse_identities(s: &pb::Sandbox) -> Result<(), Refusal> {
    let policy = "requests are not changed on their way out: use outbound_cidr_allowlist and \
                  outbound_domain_allowlist";
    refuse_set([
        (s.i6pn_enabled, "i6pn", "a private IPv6 network between containers is not served"),
        (s.proxy_id.is_some(), "proxy", "proxies with a fixed address are not served"),
        (
            !s.custom_domain.is_empty(),
            "custom_domain",
            "ports are reached at the server's own name: leave `custom_domain` out",
        ),
        (
            s.include_oidc_identity_token,
            "include_oidc_identity_token",
            "a sandbox has no identity here: pass a secret that opens what it needs",
        ),
        (
            s.include_x509_svid,
            "include_x509_svid",
            "a sandbox has no identity here: pass a secret that opens what it needs",
        ),
        (s.experimental_outbound_policy.is_some(), "outbound_policy", policy),
        (s.outbound_policy.is_some(), "outbound_policy", policy),
    ])
}

/// Refuses arguments that no program can be given.
fn check_args(field: &'static str, args: &[String]) -> Result<(), Refusal> {
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(Refusal::invalid(field, "an argument has a zero character in it"));
    }
    let bytes: usize = args.iter().map(|arg| arg.len() + 1).sum();
    if bytes > SANDBOX_ARGS_BYTES_MAX {
        let why = format!(
            "the arguments have {bytes} bytes, of {SANDBOX_ARGS_BYTES_MAX} at most: send more \
             through a file or through stdin"
        );
        return Err(Refusal::invalid(field, why));
    }
    Ok(())
}

/// A name that the client takes for one, too: an app's id is none (modal 1.6.4).
pub(super) fn check_sandbox_name(name: &str) -> Result<(), Refusal> {
    check_name("name", name)?;
    let rest = name.strip_prefix("ap-").unwrap_or("");
    if rest.len() == model::ids::ID_CHARS && rest.bytes().all(|c| c.is_ascii_alphanumeric()) {
        return Err(Refusal::invalid("name", format!("`{name}` looks like the id of an app")));
    }
    Ok(())
}

fn workdir(path: Option<&str>) -> Result<Option<String>, Refusal> {
    let Some(path) = path else { return Ok(None) };
    let fits =
        path.starts_with('/') && !path.contains('\0') && path.len() <= SANDBOX_WORKDIR_BYTES_MAX;
    if !fits {
        let path: String = path.chars().take(80).collect();
        let why = format!("`{path}` is no absolute path: begin it with `/`");
        return Err(Refusal::invalid("workdir", why));
    }
    Ok(Some(path.to_owned()))
}

/// Resources; neither what is reserved nor the limit may be beyond the largest worker.
fn wish(asked: Option<&pb::Resources>, largest: &Capacity) -> Result<ResourceWish, Refusal> {
    let wish = resources(asked, largest)?;
    let limit = wish.memory_limit_bytes.unwrap_or(0);
    if largest.memory_bytes > 0 && limit > largest.memory_bytes {
        let why = format!(
            "the limit of {} MiB is beyond the largest worker, which has {} MiB for containers",
            limit >> 20,
            largest.memory_bytes >> 20
        );
        return Err(Refusal::invalid("memory", why));
    }
    Ok(wish)
}

fn timeout(field: &'static str, secs: u32) -> Result<Millis, Refusal> {
    let timeout = Millis::from_secs(u64::from(secs));
    if timeout.0 == 0 || timeout > TIMEOUT_MAX {
        let most = TIMEOUT_MAX.0 / 1_000;
        let why = format!("{secs} s is not between 1 s and a day ({most} s)");
        return Err(Refusal::invalid(field, why));
    }
    Ok(timeout)
}

fn probe(probe: &pb::Probe) -> Result<Probe, Refusal> {
    use pb::probe::ProbeOneof as Check;
    let check = match &probe.probe_oneof {
        Some(Check::TcpPort(port)) => ProbeCheck::Tcp(network::port("readiness_probe", *port)?),
        Some(Check::ExecCommand(command)) => {
            check_args("readiness_probe", &command.argv)?;
            if command.argv.first().is_none_or(String::is_empty) {
                return Err(Refusal::invalid("readiness_probe", "its command is empty"));
            }
            ProbeCheck::Exec(command.argv.clone())
        }
        None => {
            let why = "it says neither a port nor a command: use Probe.with_tcp or Probe.with_exec";
            return Err(Refusal::invalid("readiness_probe", why));
        }
    };
    let interval_ms = match probe.interval_ms {
        Some(0) => {
            return Err(Refusal::invalid("readiness_probe", "interval_ms must be 1 or more"));
        }
        Some(ms) => Millis(u64::from(ms)),
        None => PROBE_INTERVAL_DEFAULT,
    };
    Ok(Probe { check, interval_ms })
}

fn pty(pty: &pb::PtyInfo) -> Result<Pty, Refusal> {
    let size = |value: u32, unset: u16| match value {
        0 => Ok(unset),
        value => u16::try_from(value)
            .map_err(|_| Refusal::invalid("pty", format!("{value} rows or columns are too many"))),
    };
    let env: BTreeMap<_, _> = [
        ("TERM", &pty.env_term),
        ("COLORTERM", &pty.env_colorterm),
        ("TERM_PROGRAM", &pty.env_term_program),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name.to_owned(), value.clone()))
    .collect();
    check_env(&env)?;
    Ok(Pty {
        rows: size(pty.winsz_rows, PTY_DEFAULT.0)?,
        columns: size(pty.winsz_cols, PTY_DEFAULT.1)?,
        env: env.into_iter().collect(),
    })
}

/// Where variables come from: kept secrets that are named only in the definition come first, since
/// the sources have an order.
fn secrets(s: &pb::Sandbox, sources: Vec<pb::SecretSource>) -> Result<Vec<SecretSource>, Refusal> {
    use pb::secret_source::Source;
    let mut ordered = Vec::new();
    for source in sources {
        match source.source {
            Some(Source::SecretId(id)) => {
                ordered.push(SecretSource::Named(SecretId::parse(&id)?));
            }
            Some(Source::Env(env)) => {
                check_env(&env.contents)?;
                ordered.push(SecretSource::Inline(env.contents.into_iter().collect()));
            }
            None => return Err(Refusal::invalid("secret_sources", "one of them says nothing")),
        }
    }
    let mut all = Vec::new();
    if let Some(env) = &s.environment_variables {
        check_env(&env.contents)?;
        all.push(SecretSource::Inline(env.contents.clone().into_iter().collect()));
    }
    for id in &s.secret_ids {
        let named = SecretSource::Named(SecretId::parse(id)?);
        if !ordered.contains(&named) {
            all.push(named);
        }
    }
    all.append(&mut ordered);
    if all.len() > SANDBOX_SECRETS_MAX {
        let why = format!("{} are more than {SANDBOX_SECRETS_MAX}", all.len());
        return Err(Refusal::invalid("secrets", why));
    }
    Ok(all)
}

/// Labels. Of two with one name the later one holds.
pub(super) fn tags(tags: &[pb::SandboxTag]) -> Result<BTreeMap<String, String>, Refusal> {
    let mut kept = BTreeMap::new();
    for tag in tags {
        let (name, value) = (&tag.tag_name, &tag.tag_value);
        if name.is_empty() || name.len().max(value.len()) > SANDBOX_TAG_BYTES_MAX {
            let name: String = name.chars().take(80).collect();
            let why = format!(
                "`{name}` and its value must have {SANDBOX_TAG_BYTES_MAX} bytes at most, and the \
                 name at least one"
            );
            return Err(Refusal::invalid("tags", why));
        }
        kept.insert(name.clone(), value.clone());
    }
    if kept.len() > SANDBOX_TAGS_MAX {
        let why = format!("{} are more than {SANDBOX_TAGS_MAX}", kept.len());
        return Err(Refusal::invalid("tags", why));
    }
    Ok(kept)
}
