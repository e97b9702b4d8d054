//! Function definitions: what is asked for becomes a spec that is enforced, or is refused by name.

use model::limits::{CONTAINERS_MAX, SCALEDOWN_WINDOW_DEFAULT, TIMEOUT_DEFAULT, TIMEOUT_MAX};
use model::resources::{Capacity, MIB, ResourceWish};
use model::retry::RetryPolicy;
use model::spec::{Concurrency, FunctionSpec, Scaling};
use model::{ImageId, Millis, MountId, SecretId};
use wire::client as pb;

use super::refusal::Refusal;
use crate::limits::BATCH_MAX;

/// Refuses the first of these that is set.
pub(super) fn refuse_set<const N: usize>(
    unserved: [(bool, &'static str, &str); N],
) -> Result<(), Refusal> {
    match unserved.into_iter().find(|(set, ..)| *set) {
        Some((_, field, why)) => Err(Refusal::invalid(field, why)),
        None => Ok(()),
    }
}

/// Refuses every setting that this release cannot keep, by its name (A13). Which field is what is
/// listed in tests/wire/policy.py.
fn refuse_unserved(f: &pb::Function) -> Result<(), Refusal> {
    refuse_resources(f)?;
    refuse_kinds(f)?;
    refuse_places(f)?;
    refuse_scaling(f)?;
    refuse_experiments(f)
}

/// File systems that no container gets, and other things that it has not.
fn refuse_resources(f: &pb::Function) -> Result<(), Refusal> {
    refuse_devices(f.resources.as_ref())?;
    refuse_set([
        (!f.volume_mounts.is_empty(), "volumes", "volumes are not served yet"),
        (!f.cloud_bucket_mounts.is_empty(), "volumes", "cloud bucket mounts are not served yet"),
        (!f.s3_mounts.is_empty(), "volumes", "S3 mounts are not served"),
        (
            !f.shared_volume_mounts.is_empty(),
            "network_file_systems",
            "network file systems are not served: they are deprecated in the client",
        ),
        (f.proxy_id.is_some(), "proxy", "proxies with a fixed address are not served"),
        (f.i6pn_enabled, "i6pn", "a private IPv6 network between containers is not served"),
        (f.enable_gpu_snapshot, "enable_gpu_snapshot", "no worker has a GPU"),
        (f.experimental_enable_gpu_snapshot, "enable_gpu_snapshot", "no worker has a GPU"),
        (
            f.experimental_task_templates_enabled || !f.experimental_task_templates.is_empty(),
            "task_templates",
            "alternative resources are not served: name one set of them",
        ),
    ])
}

/// Devices that no container gets.
pub(super) fn refuse_devices(resources: Option<&pb::Resources>) -> Result<(), Refusal> {
    let gpu = resources.and_then(|resources| resources.gpu_config.as_ref());
    let gpu = gpu.is_some_and(|gpu| gpu.count > 0 || !gpu.gpu_type.is_empty() || gpu.r#type != 0);
    let rdma = resources.is_some_and(|resources| resources.rdma);
    refuse_set([
        (gpu, "gpu", "no worker has a GPU: leave `gpu` out"),
        (rdma, "rdma", "no worker has RDMA"),
    ])
}

/// Wishes for a place, where there is no choice.
pub(super) fn refuse_regions(placement: Option<&pb::SchedulerPlacement>) -> Result<(), Refusal> {
    let elsewhere = placement.is_some_and(|placement| {
        !placement.regions.is_empty()
            || placement.zone.is_some()
            || placement.lifecycle.is_some()
            || !placement.instance_types.is_empty()
    });
    let why = "there are no regions to choose from here: leave `region` out";
    refuse_set([(elsewhere, "region", why)])
}

/// Kinds of functions that are no plain functions.
fn refuse_kinds(f: &pb::Function) -> Result<(), Refusal> {
    let classes = "classes are not served yet: use functions";
    refuse_set([
        (f.webhook_config.is_some(), "webhook_config", "web endpoints are not served yet"),
        (f.is_class || f.is_method, "class", classes),
        (!f.method_definitions.is_empty(), "class", classes),
        (f.is_server || f.http_config.is_some(), "http_config", "servers are not served yet"),
        (!f.flash_service_urls.is_empty(), "flash_service_urls", "servers are not served yet"),
        (!f.flash_service_label.is_empty(), "flash_service_label", "servers are not served yet"),
        (f.is_checkpointing_function, "checkpoint", "checkpointing is not served"),
        (f.checkpoint.is_some(), "checkpoint", "checkpointing is not served"),
        (f.is_sessioned, "is_sessioned", "sessions are not served"),
        (f.experimental_group_size > 1, "cluster", "clusters of containers are not served"),
        (f.experimental_fabric_size > 1, "cluster", "clusters of containers are not served"),
        (
            f.pty_info.as_ref().is_some_and(|pty| pty.enabled),
            "pty",
            "interactive functions (`modal run -i`) are not served yet",
        ),
    ])
}

/// Where it runs, and on what, cannot be chosen.
fn refuse_places(f: &pb::Function) -> Result<(), Refusal> {
    refuse_set([
        (!f.runtime.is_empty(), "runtime", "the runtime cannot be chosen here"),
        (f.runtime_debug, "runtime_debug", "the runtime has no such output here"),
        (f.runtime_perf_record, "runtime_perf_record", "the runtime makes no profiles here"),
        (f.snapshot_debug, "snapshot_debug", "there are no snapshots of memory here"),
        (!f.routing_region.is_empty(), "routing_region", "there are no regions here"),
        (!f.worker_id.is_empty(), "worker_id", "the worker cannot be chosen here"),
        (
            !f.cloud_provider_str.is_empty() || f.cloud_provider.is_some_and(|cloud| cloud != 0),
            "cloud",
            "there is no cloud provider to choose here: leave `cloud` out",
        ),
    ])?;
    refuse_regions(f.scheduler_placement.as_ref())
}

/// Wishes for scaling that the scheduler does not know. The fields of the settings have a
/// presence, and some clients send zeros.
fn refuse_scaling(f: &pb::Function) -> Result<(), Refusal> {
    let settings = f.autoscaler_settings.unwrap_or_default();
    let set = |value: Option<u32>| value.is_some_and(|value| value > 0);
    let target = "a target for a server's requests is not served";
    refuse_set([
        (f.rate_limit.is_some(), "rate_limit", "rate limits are not served"),
        (f.experimental_custom_scaling, "custom_scaling", "scaling by own code is not served"),
        (
            set(settings.scaleup_window),
            "scaleup_window",
            "containers start as soon as inputs wait: leave `scaleup_window` out",
        ),
        (
            set(settings.scaledown_rate_limit),
            "scaledown_rate_limit",
            "idle containers end after `scaledown_window`: leave `scaledown_rate_limit` out",
        ),
        (set(settings.target_concurrency), "target_concurrency", target),
        (
            settings.target_concurrency_float.is_some_and(|value| value != 0.0),
            "target_concurrency_float",
            target,
        ),
    ])
}

fn refuse_experiments(f: &pb::Function) -> Result<(), Refusal> {
    match f.experimental_options.keys().next() {
        Some(name) => {
            let why = format!("the option `{name}` is not known here");
            Err(Refusal::invalid("experimental_options", why))
        }
        None => Ok(()),
    }
}

/// Whether the network is closed: either of two fields says so.
fn block_network(f: &pb::Function) -> Result<bool, Refusal> {
    use pb::network_access::NetworkAccessType as Access;
    let Some(access) = &f.network_access else { return Ok(f.block_network) };
    let listed = !access.allowed_cidrs.is_empty() || !access.allowed_domains.is_empty();
    match access.network_access_type() {
        Access::Blocked => Ok(true),
        Access::Unspecified | Access::Open if !listed => Ok(f.block_network),
        Access::Unspecified | Access::Open | Access::Allowlist => {
            let why = "allow lists are not served for functions yet: use block_network";
            Err(Refusal::invalid("network_access", why))
        }
    }
}

/// What is asked for; `largest` is the largest worker: nothing larger can be placed.
pub(super) fn resources(
    asked: Option<&pb::Resources>,
    largest: &Capacity,
) -> Result<ResourceWish, Refusal> {
    let asked = asked.cloned().unwrap_or_default();
    let some = |n: u32, unit: u64| (n > 0).then_some(u64::from(n) * unit);
    let wish = ResourceWish {
        cpu_request_millis: some(asked.milli_cpu, 1),
        cpu_limit_millis: some(asked.milli_cpu_max, 1),
        memory_request_bytes: some(asked.memory_mb, MIB),
        memory_limit_bytes: some(asked.memory_mb_max, MIB),
        disk_bytes: some(asked.ephemeral_disk_mb, MIB),
    };
    let reserved = wish.reservation();
    if largest.memory_bytes > 0 && reserved.memory_bytes > largest.memory_bytes {
        let why = format!(
            "{} MiB are asked for, but the largest worker has {} MiB for containers",
            reserved.memory_bytes / MIB,
            largest.memory_bytes / MIB
        );
        return Err(Refusal::invalid("memory", why));
    }
    if largest.cpu_millis > 0 && reserved.cpu_millis > largest.cpu_millis {
        let why = format!(
            "{} cores are asked for, but the largest worker has {}",
            reserved.cpu_millis as f64 / 1_000.0,
            largest.cpu_millis as f64 / 1_000.0
        );
        return Err(Refusal::invalid("cpu", why));
    }
    let disk_bytes = wish.disk_bytes.unwrap_or_default();
    if largest.disk_bytes > 0 && disk_bytes > largest.disk_bytes {
        let why = format!(
            "{} MiB are asked for, but the largest worker has a disk of {} MiB",
            disk_bytes / MIB,
            largest.disk_bytes / MIB
        );
        return Err(Refusal::invalid("ephemeral_disk", why));
    }
    Ok(wish)
}

fn retry(f: &pb::Function) -> Result<RetryPolicy, Refusal> {
    let Some(policy) = &f.retry_policy else { return Ok(RetryPolicy::default()) };
    let backoff_coefficient = f64::from(policy.backoff_coefficient);
    if !(0.0..=10.0).contains(&backoff_coefficient) {
        let why = format!("{backoff_coefficient} is not between 1 and 10");
        return Err(Refusal::invalid("retries.backoff_coefficient", why));
    }
    Ok(RetryPolicy {
        retries: policy.retries,
        initial_delay_ms: Millis(u64::from(policy.initial_delay_ms)),
        max_delay_ms: Millis(u64::from(policy.max_delay_ms)),
        backoff_coefficient,
    })
}

fn scaling(f: &pb::Function) -> Result<Scaling, Refusal> {
    let settings = f.autoscaler_settings.unwrap_or_default();
    // The older fields say the same; the newer ones win.
    let or_older = |new: Option<u32>, old: u32| new.or((old > 0).then_some(old));
    let max_containers = or_older(settings.max_containers, f.concurrency_limit);
    let min_containers = or_older(settings.min_containers, f.warm_pool_size).unwrap_or(0);
    let buffer_containers =
        or_older(settings.buffer_containers, f.experimental_buffer_containers).unwrap_or(0);
    let window = or_older(settings.scaledown_window, f.task_idle_timeout_secs);
    let max_containers = max_containers.unwrap_or(CONTAINERS_MAX);
    if max_containers == 0 || max_containers > CONTAINERS_MAX {
        let why = format!("{max_containers} is not between 1 and {CONTAINERS_MAX}");
        return Err(Refusal::invalid("max_containers", why));
    }
    if min_containers > max_containers {
        let why = format!("{min_containers} is more than max_containers ({max_containers})");
        return Err(Refusal::invalid("min_containers", why));
    }
    let scaledown_window_ms =
        window.map_or(SCALEDOWN_WINDOW_DEFAULT, |secs| Millis::from_secs(u64::from(secs)));
    Ok(Scaling { min_containers, max_containers, buffer_containers, scaledown_window_ms })
}

fn concurrency(f: &pb::Function) -> Result<Concurrency, Refusal> {
    if f.batch_max_size > BATCH_MAX {
        let why = format!("{} is more than {BATCH_MAX}", f.batch_max_size);
        return Err(Refusal::invalid("batch_max_size", why));
    }
    let max_inputs = f.max_concurrent_inputs.max(1);
    let target_inputs = match f.target_concurrent_inputs {
        0 => max_inputs,
        target => target.min(max_inputs),
    };
    Ok(Concurrency {
        max_inputs,
        target_inputs,
        batch_max: f.batch_max_size,
        batch_linger_ms: Millis(f.batch_linger_ms),
    })
}

fn timeout(field: &'static str, secs: u32, unset: Millis) -> Result<Millis, Refusal> {
    let timeout = if secs == 0 { unset } else { Millis::from_secs(u64::from(secs)) };
    if timeout > TIMEOUT_MAX {
        let why = format!("{secs} s is more than a day ({} s)", TIMEOUT_MAX.0 / 1_000);
        return Err(Refusal::invalid(field, why));
    }
    Ok(timeout)
}

/// Results must not be pickles where the definition lists formats without them.
fn restrict_output(f: &pb::Function) -> bool {
    let formats = &f.supported_output_formats;
    !formats.is_empty() && !formats.contains(&(pb::DataFormat::Pickle as i32))
}

/// The spec of a definition. `largest` is the largest worker: nothing larger can be placed.
pub(super) fn spec(f: &pb::Function, largest: &Capacity) -> Result<FunctionSpec, Refusal> {
    refuse_unserved(f)?;
    if f.function_name.is_empty() {
        return Err(Refusal::invalid("function_name", "it is missing"));
    }
    if f.max_inputs > 1 {
        let why = format!("{} is not served: only max_inputs=1 is", f.max_inputs);
        return Err(Refusal::invalid("max_inputs", why));
    }
    let disk_mb = f.resources.as_ref().map_or(0, |resources| resources.ephemeral_disk_mb);
    if f.is_builder_function && disk_mb > 0 {
        return Err(Refusal::invalid("ephemeral_disk", "it is not kept for builds: leave it out"));
    }
    let timeout_ms = timeout("timeout", f.timeout_secs, TIMEOUT_DEFAULT)?;
    let ids = |ids: &[String]| ids.iter().map(|id| MountId::parse(id)).collect::<Result<_, _>>();
    Ok(FunctionSpec {
        name: f.function_name.clone(),
        generator: f.function_type() == pb::function::FunctionType::Generator,
        restricted: f.untrusted,
        restrict_output: restrict_output(f),
        block_network: block_network(f)?,
        single_use: f.single_use_containers || f.max_inputs == 1 || f.is_builder_function,
        builds: f.is_builder_function,
        image: ImageId::parse(&f.image_id)?,
        mounts: ids(&f.mount_ids)?,
        secrets: f.secret_ids.iter().map(|id| SecretId::parse(id)).collect::<Result<_, _>>()?,
        resources: resources(f.resources.as_ref(), largest)?,
        timeout_ms,
        startup_timeout_ms: timeout("startup_timeout", f.startup_timeout_secs, timeout_ms)?,
        retry: retry(f)?,
        scaling: scaling(f)?,
        concurrency: concurrency(f)?,
    })
}
