//! Rpcs that are not served, and why. The client shows the reason to whoever called, after
//! "… is not served: ".

use super::table::RpcTable;

/// Reasons, each with the rpcs of the client's service that it holds for.
#[rustfmt::skip]
const CLIENT: &[(&str, &[&str])] = &[
    ("only the newest deployment of an app is kept: deploy the version that you want again", &[
        "AppDeploymentHistory", "AppPromote", "AppRollback", "AppRollover",
    ]),
    ("an app's tags can be set when it is deployed, not later", &[
        "AppGetTags", "AppSetTags",
    ]),
    ("it belongs to clients older than 1.0: use a newer one", &[
        "AppDeploy", "AppGetObjects", "AppLookup", "AppSetObjects", "FunctionBlobGet",
        "FunctionGetSerialized",
    ]),
    ("statistics over time are not kept", &[
        "AppGetInfo", "AppGetLifecycle", "AppGetTimeRangeStats", "FunctionGetMetrics",
        "FunctionGetTimeRangeStats", "MetricsGetInfo", "SandboxGetResourceUsage",
        "SandboxGetStats", "SandboxGetStatsV2", "SandboxGetTimeRangeStats",
    ]),
    ("there is no input plane beside the control plane: calls go through FunctionMap", &[
        "AttemptAwait", "AttemptRetry", "AttemptStart", "FunctionAsyncInvoke", "MapAwait",
        "MapCheckInputs", "MapStartOrContinue",
    ]),
    ("the server retries failed inputs by itself", &[
        "FunctionRetryInputs",
    ]),
    ("there is no audit log yet", &[
        "AuditLogCount", "AuditLogList", "AuditLogPlan", "AuditLogSettingsGet",
    ]),
    ("classes are not served yet: use functions", &[
        "ClassCreate", "ClassGet", "FunctionBindParams", "FunctionListVariants",
    ]),
    ("suggestions for mistyped names are not served", &[
        "CliCommandSuggest", "ObjectSuggest",
    ]),
    ("clusters of containers are not served", &[
        "ClusterGet", "ClusterList", "ClusterReservationList", "TaskClusterHello",
    ]),
    ("snapshots of a container's memory are not served", &[
        "ContainerCheckpoint",
    ]),
    ("commands run at the command router: use a newer client", &[
        "FunctionStartPtyShell",
    ]),
    ("a container's output is taken from its streams", &[
        "ContainerLog",
    ]),
    ("what a container works on is not told", &[
        "TaskCurrentInputs",
    ]),
    ("web endpoints and servers are not served yet", &[
        "ContainerServerLifecycleReady", "CurlGetAuthToken", "DomainCertificateVerify",
        "DomainCreate", "DomainList", "EndpointCreate", "EndpointGetByName", "EndpointGetInfo",
        "EndpointGetLibrary", "EndpointGetLifecycle", "EndpointList", "EndpointStop",
        "FlashContainerDeregister", "FlashContainerList", "FlashContainerRegister",
        "FlashSetTargetSlotsMetrics", "FunctionGetFlashAuthToken", "ServerCountRequests",
        "ServerGetMetrics", "ServerGetTimeRangeStats", "ServerRequestFetch",
        "WebhookTokenCreate", "WebhookTokenDelete", "WebhookTokenEnvironmentAdd",
        "WebhookTokenEnvironmentList", "WebhookTokenEnvironmentRemove", "WebhookTokenList",
        "WebhookTokenListForEnvironment", "WebhookTokenUpdate",
    ]),
    ("environments can be made, but not changed or deleted yet", &[
        "EnvironmentDelete", "EnvironmentUpdate",
    ]),
    ("there is no bill and no budget on your own machine", &[
        "EnvironmentBillingSummary", "EnvironmentGetBudget", "EnvironmentSetBudget",
        "WorkspaceBillingRates", "WorkspaceBillingReport", "WorkspaceBillingSummary",
    ]),
    ("there are no members and no roles: whoever holds the server's token may do everything", &[
        "EnvironmentGetManaged", "EnvironmentGetRoles", "EnvironmentRoleSet",
        "EnvironmentSetDefaultMemberRole", "EnvironmentSetManaged", "ServiceUserCreate",
        "ServiceUserDelete", "ServiceUserInfo", "ServiceUserList", "UserGroupEnvironmentSet",
        "WorkspaceMembersList",
    ]),
    ("the server makes its one token by itself: `palisade env` prints it", &[
        "TokenDelete", "TokenDisable", "TokenEnable", "TokenFlowCreate", "TokenFlowWait",
        "TokensList",
    ]),
    ("the workspace's settings are the operator's: see `palisade serve --help`", &[
        "WorkspaceDashboardUrlGet", "WorkspaceSetDefaultEnvironment",
        "WorkspaceSetDefaultEnvironmentSettings", "WorkspaceSetImageBuilderVersion",
        "WorkspaceSettings",
    ]),
    ("calls cannot be listed or looked into yet: get their results by `FunctionCall.from_id`", &[
        "FunctionCallCount", "FunctionCallFetch", "FunctionCallGetInfo", "FunctionCallList",
        "FunctionGetCallGraph",
    ]),
    ("functions are found by the names of app and function", &[
        "FunctionGetById",
    ]),
    ("scaling is part of a function's definition: change it there and deploy again", &[
        "FunctionGetSchedulingParams", "FunctionUpdateSchedulingParams",
    ]),
    ("persistent sandboxes are not served: leave `persistent` out, and name the sandbox", &[
        "PersistentSandboxCreate", "PersistentSandboxGet", "PersistentSandboxResume",
        "PersistentSandboxTerminate", "PersistentSandboxTunnelsList",
    ]),
    ("containers beside a sandbox are not served: run the program in the sandbox, by exec", &[
        "SandboxContainerCreateV2",
    ]),
    ("snapshots of a sandbox's memory are not served: use snapshot_filesystem()", &[
        "SandboxRestore", "SandboxRestoreV2", "SandboxSnapshot", "SandboxSnapshotGet",
        "SandboxSnapshotWait",
    ]),
    ("sandboxes leave no snapshot when they end: call snapshot_filesystem() before", &[
        "SandboxGetExitSnapshot", "SandboxGetExitSnapshotV2",
    ]),
    ("a snapshot of files is waited for: use snapshot_filesystem()", &[
        "SandboxSnapshotFsAsync", "SandboxSnapshotFsAsyncGet",
    ]),
    ("requests are not changed on their way out: use allow lists of addresses and names", &[
        "SandboxSetOutboundPolicy", "SandboxSetOutboundPolicyV2",
    ]),
    ("whether a sandbox is ready is asked at the command router: use a newer client", &[
        "SandboxWaitUntilReady",
    ]),
    ("tunnels are not served yet", &[
        "TunnelStart", "TunnelStop",
    ]),
    ("proxies with a fixed address are not served", &[
        "ProxyAddIp", "ProxyCreate", "ProxyDelete", "ProxyGet", "ProxyGetOrCreate", "ProxyList",
        "ProxyRemoveIp",
    ]),
    ("volumes are not served yet", &[
        "ContainerReloadVolumes", "VolumeCommit", "VolumeCopyFiles", "VolumeCopyFiles2",
        "VolumeDelete", "VolumeGetById", "VolumeGetFile", "VolumeGetFile2", "VolumeGetOrCreate",
        "VolumeHeartbeat", "VolumeList", "VolumeListFiles", "VolumeListFiles2",
        "VolumePutFiles", "VolumePutFiles2", "VolumeReload", "VolumeRemoveFile",
        "VolumeRemoveFile2", "VolumeRename",
    ]),
    ("network file systems are not served: the client has deprecated them", &[
        "SharedVolumeDelete", "SharedVolumeGetFile", "SharedVolumeGetOrCreate",
        "SharedVolumeHeartbeat", "SharedVolumeList", "SharedVolumeListFiles",
        "SharedVolumeListFilesStream", "SharedVolumePutFile", "SharedVolumeRemoveFile",
    ]),
    ("there are no templates here", &[
        "TemplateList",
    ]),
];

/// Adds the declined rpcs of the client's service to its table.
pub(super) fn client(table: RpcTable) -> RpcTable {
    CLIENT.iter().fold(table, |table, (reason, names)| table.declined(reason, names))
}
