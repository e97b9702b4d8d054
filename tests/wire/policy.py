"""What the server does with each field of the client's definitions, and why.

A path names a field. What is refused is refused with all that is below it; else each field below
is named, or `path.*` stands for all of them. `path=VALUE` decides for one value of an enum.
test_policy.py sends every field and looks.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """`kind` is honoured, harmless or refused; `why` is for readers. A refusal has `name` in it."""

    kind: str
    why: str
    name: str = ""


def honoured(why: str) -> Verdict:
    """It is kept."""
    return Verdict("honoured", why)


def harmless(why: str) -> Verdict:
    """It promises its author nothing that is not kept."""
    return Verdict("harmless", why)


def refused(name: str, why: str = "it cannot be kept here") -> Verdict:
    """The request fails, and `name` is in its error."""
    return Verdict("refused", why, name)


INTERPRETED = "the container's own program reads it"
ANSWERED = "a server tells it; nothing is asked for by it"
CLASSES = "classes are refused by `is_class`, and it says nothing without one"

FUNCTION = {
    "app_id": honoured("the function's app"),
    "existing_function_id": honoured("the id that was announced"),
    "schedule": refused("schedule"),
    "function_data": refused("function_data"),
    "function.module_name": honoured(INTERPRETED),
    "function.function_name": honoured("it is found by this name"),
    "function.implementation_name": honoured(INTERPRETED),
    "function.mount_ids": honoured("its files"),
    "function.image_id": honoured("its root"),
    "function.secret_ids": honoured("its environment"),
    "function.function_serialized": honoured(INTERPRETED),
    "function.class_serialized": harmless(CLASSES),
    "function.definition_type": honoured(INTERPRETED),
    "function.function_type": honoured("whether it yields"),
    "function.resources.memory_mb": honoured("what is reserved"),
    "function.resources.memory_mb_max": honoured("the container's limit"),
    "function.resources.milli_cpu": honoured("what is reserved"),
    "function.resources.milli_cpu_max": honoured("the container's limit"),
    "function.resources.ephemeral_disk_mb": honoured("the container's limit"),
    "function.resources.gpu_config": refused("gpu"),
    "function.resources.rdma": refused("rdma"),
    "function.resources.skip_num_threads_env_vars": harmless("no such variables are set"),
    "function.rate_limit": refused("rate_limit"),
    "function.webhook_config": refused("webhook_config"),
    "function.shared_volume_mounts": refused("network_file_systems"),
    "function.proxy_id": refused("proxy"),
    "function.retry_policy.retries": honoured("model::retry"),
    "function.retry_policy.backoff_coefficient": honoured("model::retry"),
    "function.retry_policy.initial_delay_ms": honoured("model::retry"),
    "function.retry_policy.max_delay_ms": honoured("model::retry"),
    "function.concurrency_limit": honoured("model::autoscale"),
    "function.timeout_secs": honoured("the deadline of an input"),
    "function.startup_timeout_secs": honoured("the deadline of a start"),
    "function.pty_info.*": harmless("it describes a terminal that `enabled` would ask for"),
    "function.pty_info.enabled": refused("pty"),
    "function.task_idle_timeout_secs": honoured("model::autoscale"),
    "function.warm_pool_size": honoured("model::autoscale"),
    "function._experimental_buffer_containers": honoured("model::autoscale"),
    "function.autoscaler_settings.min_containers": honoured("model::autoscale"),
    "function.autoscaler_settings.max_containers": honoured("model::autoscale"),
    "function.autoscaler_settings.buffer_containers": honoured("model::autoscale"),
    "function.autoscaler_settings.scaledown_window": honoured("model::autoscale"),
    "function.autoscaler_settings.scaleup_window": refused("scaleup_window"),
    "function.autoscaler_settings.scaledown_rate_limit": refused("scaledown_rate_limit"),
    "function.autoscaler_settings.target_concurrency": refused("target_concurrency"),
    "function.autoscaler_settings.target_concurrency_float": refused("target_concurrency_float"),
    "function._experimental_custom_scaling": refused("custom_scaling"),
    "function.cloud_provider": refused("cloud"),
    "function.cloud_provider_str": refused("cloud"),
    "function.scheduler_placement": refused("region"),
    "function.scheduler_placement.nonpreemptible": honoured("no container is preempted"),
    "function.routing_region": refused("routing_region"),
    "function.worker_id": refused("worker_id"),
    "function.web_url": harmless(ANSWERED),
    "function.web_url_info.*": harmless(ANSWERED),
    "function.custom_domain_info.*": harmless(ANSWERED),
    "function.runtime": refused("runtime"),
    "function.runtime_debug": refused("runtime_debug"),
    "function.runtime_perf_record": refused("runtime_perf_record"),
    "function.snapshot_debug": refused("snapshot_debug"),
    "function.app_name": honoured(INTERPRETED),
    "function.volume_mounts": refused("volumes"),
    "function.s3_mounts": refused("volumes"),
    "function.cloud_bucket_mounts": refused("volumes"),
    "function.max_concurrent_inputs": honoured("model::autoscale"),
    "function.target_concurrent_inputs": honoured("model::autoscale"),
    "function.batch_max_size": honoured("inputs given out together"),
    "function.batch_linger_ms": honoured("how long a batch waits to be full"),
    "function.is_builder_function": honoured("it runs to make an image, and is not called"),
    "function.is_auto_snapshot": harmless("no memory is saved: each start runs all of the code"),
    "function.checkpointing_enabled": harmless("the same; a saved start would only be quicker"),
    "function.is_checkpointing_function": refused("checkpoint"),
    "function.checkpoint": refused("checkpoint"),
    "function.is_class": refused("class"),
    "function.is_method": refused("class"),
    "function.method_definitions": refused("class"),
    "function.method_definitions_set": harmless("that the client knows of such definitions"),
    "function.class_parameter_info.*": harmless(CLASSES),
    "function.object_dependencies.object_id": harmless("each is named again where it is used"),
    "function.block_network": honoured("the container's network"),
    "function.network_access.network_access_type": honoured("the container's network"),
    "function.network_access.network_access_type=ALLOWLIST": refused("network_access"),
    "function.network_access.allowed_cidrs": refused("network_access"),
    "function.network_access.allowed_domains": refused("network_access"),
    "function.max_inputs": honoured("a container takes one input"),
    "function.single_use_containers": honoured("the same"),
    "function.i6pn_enabled": refused("i6pn"),
    "function._experimental_concurrent_cancellations": honoured(INTERPRETED),
    "function._experimental_task_templates_enabled": refused("task_templates"),
    "function._experimental_task_templates": refused("task_templates"),
    "function._experimental_group_size": refused("cluster"),
    "function._experimental_fabric_size": refused("cluster"),
    "function._experimental_enable_gpu_snapshot": refused("enable_gpu_snapshot"),
    "function.enable_gpu_snapshot": refused("enable_gpu_snapshot"),
    "function.untrusted": honoured("A6 of ARCHITECTURE.md"),
    "function.schedule": refused("schedule"),
    "function.function_schema.*": honoured("it is told to callers"),
    "function.experimental_options": refused("experimental_options"),
    "function.mount_client_dependencies": honoured("each container gets the client's own parts"),
    "function.flash_service_urls": refused("flash_service_urls"),
    "function.flash_service_label": refused("flash_service_label"),
    "function.supported_input_formats": honoured("it is told to callers"),
    "function.supported_output_formats": honoured("results of other formats are refused"),
    "function.http_config": refused("http_config"),
    "function.is_server": refused("http_config"),
    "function.is_sessioned": refused("is_sessioned"),
}

IMAGE = {
    "app_id": harmless("images are the workspace's"),
    "existing_image_id": harmless("the client itself says that it is ignored"),
    "build_function_id": refused("build_function", "without the rest; else it is honoured"),
    "force_build": honoured("it is built again"),
    "ignore_cache": honoured("it is built again"),
    "namespace": harmless("there is one namespace"),
    "builder_version": honoured("a part of the image's key"),
    "allow_global_deployment": harmless("no image is everybody's, with it or without it"),
    "image.base_images.image_id": honoured("its base"),
    "image.base_images.docker_tag": honoured("the name that FROM has for it"),
    "image.dockerfile_commands": honoured("its recipe"),
    "image.context_files.filename": honoured("files for COPY"),
    "image.context_files.data": honoured("files for COPY"),
    "image.context_mount_id": honoured("files for COPY"),
    "image.version": harmless("no release of the client sets it"),
    "image.secret_ids": honoured("the environment of its steps"),
    "image.gpu_config": refused("gpu"),
    "image.image_registry_config.registry_auth_type=REGISTRY_AUTH_TYPE_PUBLIC": honoured("none"),
    "image.image_registry_config": refused("image_registry_config", "not without its secret"),
    "image.image_registry_config.secret_id": honoured("the registry is asked with it"),
    "image.build_function": refused("build_function", "beside a recipe; alone it is honoured"),
    "image.build_function_def": refused("build_function"),
    "image.build_function_globals": refused("build_function_globals"),
    "image.runtime": refused("runtime"),
    "image.runtime_debug": refused("runtime"),
    "image.build_args": honoured("ARG of the recipe"),
    "image.volume_mounts": refused("volume_mounts"),
    "image.arch=ARCH_X86_64": honoured("it is what this machine is"),
    "image.arch": refused("arch"),
}

TERMINAL = "it describes the terminal that `enabled` asks for"

# Below `definition`, and beside it.
SANDBOX = {
    "app_id": honoured("the sandbox's app"),
    "ephemeral_secrets.contents": honoured("its environment"),
    "tags.tag_name": honoured("it is found by this label"),
    "tags.tag_value": refused("tags", "without a name; else it is honoured"),
    "cloud_bucket_mount_credentials": refused("volumes"),
    "secret_sources.secret_id": honoured("its environment"),
    "secret_sources.env.contents": honoured("its environment"),
    "definition.entrypoint_args": honoured("its program"),
    "definition.mount_ids": honoured("its files"),
    "definition.image_id": honoured("its root"),
    "definition.secret_ids": honoured("its environment"),
    "definition.resources.memory_mb": honoured("what is reserved"),
    "definition.resources.memory_mb_max": honoured("the container's limit"),
    "definition.resources.milli_cpu": honoured("what is reserved"),
    "definition.resources.milli_cpu_max": honoured("the container's limit"),
    "definition.resources.ephemeral_disk_mb": honoured("the container's limit"),
    "definition.resources.gpu_config": refused("gpu"),
    "definition.resources.rdma": refused("rdma"),
    "definition.resources.skip_num_threads_env_vars": harmless("no such variables are set"),
    "definition.cloud_provider": refused("cloud"),
    "definition.cloud_provider_str": refused("cloud"),
    "definition.timeout_secs": honoured("its deadline"),
    "definition.workdir": honoured("where its programs start"),
    "definition.nfs_mounts": refused("network_file_systems"),
    "definition.runtime_debug": refused("runtime_debug"),
    "definition.block_network": honoured("its network"),
    "definition.s3_mounts": refused("volumes"),
    "definition.cloud_bucket_mounts": refused("volumes"),
    "definition.volume_mounts": refused("volumes"),
    "definition.pty_info.*": harmless(TERMINAL),
    "definition.pty_info.enabled": honoured("its terminal"),
    "definition.scheduler_placement": refused("region"),
    "definition.scheduler_placement.nonpreemptible": honoured("no container is preempted"),
    "definition.worker_id": refused("worker_id"),
    "definition.open_ports.ports.port": honoured("its tunnels"),
    "definition.open_ports.ports.unencrypted": refused("open_ports", "without a port"),
    "definition.open_ports.ports.tunnel_type": refused("open_ports", "without a port"),
    "definition.i6pn_enabled": refused("i6pn"),
    "definition.network_access.network_access_type": honoured("its network"),
    "definition.network_access.allowed_cidrs": refused("network_access", "without ALLOWLIST"),
    "definition.network_access.allowed_domains": refused("network_access", "without ALLOWLIST"),
    "definition.proxy_id": refused("proxy"),
    "definition.enable_snapshot": refused("enable_snapshot"),
    "definition.snapshot_version": refused("snapshot_version"),
    "definition.runsc_runtime_version": refused("runsc_runtime_version"),
    "definition.runtime": refused("runtime"),
    "definition.verbose": harmless("it asks for lines in the log of the server's operator"),
    "definition.name": honoured("it is found by this name"),
    "definition.experimental_options": refused("experimental_options"),
    "definition.experimental_options_v2": refused("experimental_options"),
    "definition.preload_path_prefixes": harmless("files are there at once, with it or without it"),
    "definition.idle_timeout_secs": honoured("it ends when it is idle"),
    "definition.direct_sandbox_commands_enabled": harmless("commands go to the worker always"),
    "definition._restore_instance_type": refused("restore_instance_type"),
    "definition.custom_domain": refused("custom_domain"),
    "definition.include_oidc_identity_token": refused("include_oidc_identity_token"),
    "definition.include_x509_svid": refused("include_x509_svid"),
    "definition.readiness_probe.tcp_port": honoured("whether it is ready"),
    "definition.readiness_probe.exec_command.argv": honoured("whether it is ready"),
    "definition.readiness_probe.interval_ms": refused("readiness_probe", "without a check"),
    "definition.inbound_cidr_allowlist": honoured("who reaches its ports"),
    "definition.environment_variables.contents": honoured("its environment"),
    "definition.experimental_outbound_policy": refused("outbound_policy"),
    "definition.outbound_policy": refused("outbound_policy"),
}


def verdict(table: dict[str, Verdict], path: str, value: str) -> Verdict | None:
    """The verdict on a field with a value; None if nobody has decided."""
    for exact in (f"{path}={value}", path):
        if exact in table:
            return table[exact]
    names = path.split(".")
    for length in range(len(names) - 1, 0, -1):
        above = ".".join(names[:length])
        if f"{above}.*" in table:
            return table[f"{above}.*"]
        if above in table and table[above].kind == "refused":
            return table[above]
    return None
