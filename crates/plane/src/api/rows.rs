//! Every rpc of the client's services: who may call it, and what answers. What is not here is
//! refused. The review of any change of access is a diff of this file.

use wire::rpc::client::*;

use super::gate::{ANY_TASK, ANYBODY, KNOWN, MEMBER, USER};
use super::table::RpcTable;
use super::{
    apps, blobs, calls, chunks, containers, declines, dicts, environments, functions, identity,
    image_names, images, logs, mounts, past_logs, queues, sandboxes, secrets, tasks,
};

/// The rows of the client's service.
#[rustfmt::skip]
pub fn client_rows() -> RpcTable {
    declines::client(RpcTable::new(wire::CLIENT_SERVICE)
        // Who is who
        .unary (ClientHello,                  ANYBODY,   identity::client_hello)
        .unary (WorkspaceNameLookup,          USER,      identity::workspace_name)
        .unary (TokenInfoGet,                 USER,      identity::token_info)
        .unary (AuthTokenGet,                 MEMBER,    identity::auth_token)
        // Environments
        .definition(EnvironmentGetOrCreate,   MEMBER,    environments::get_or_create)
        .unary (EnvironmentList,              MEMBER,    environments::list)
        .definition(EnvironmentCreate,        MEMBER,    environments::create)
        // Apps
        .definition(AppCreate,                MEMBER,    apps::create)
        .definition(AppGetOrCreate,           MEMBER,    apps::get_or_create)
        .unary (AppHeartbeat,                 MEMBER,    apps::heartbeat)
        .definition(AppPublish,               MEMBER,    apps::publish)
        .unary (AppClientDisconnect,          MEMBER,    apps::client_disconnect)
        .unary (AppStop,                      MEMBER,    apps::stop)
        .unary (AppGetByDeploymentName,       MEMBER,    apps::by_deployment_name)
        .unary (AppGetLayout,                 MEMBER,    apps::get_layout)
        .unary (AppList,                      MEMBER,    apps::list)
        .stream(AppGetLogs,                   MEMBER,    logs::get_logs)
        // Files, payloads, images, secrets
        .unary (MountBatchedCheckExistence,   MEMBER,    mounts::check_existence)
        .unary (MountPutFile,                 MEMBER,    mounts::put_file)
        .definition(MountGetOrCreate,         MEMBER,    mounts::get_or_create)
        .unary (BlobCreate,                   KNOWN,     blobs::create) // restricted: its outputs
        .unary (BlobGet,                      KNOWN,     blobs::get)    // restricted: its own
        .definition(ImageGetOrCreate,         MEMBER,    images::get_or_create)
        .stream(ImageJoinStreaming,           MEMBER,    images::join)
        .unary (ImageFromId,                  MEMBER,    images::from_id)
        .unary (ImageDelete,                  MEMBER,    images::delete)
        .unary (ImageBuildChainGet,           MEMBER,    images::build_chain)
        .unary (ImageGetByTag,                MEMBER,    image_names::get)
        .definition(ImagePublish,             MEMBER,    image_names::publish)
        .unary (ImageListTags,                MEMBER,    image_names::list)
        .unary (ImageTagRevisions,            MEMBER,    image_names::publications)
        .unary (ImageNameDelete,              MEMBER,    image_names::delete)
        .unary (AppFetchLogs,                 MEMBER,    past_logs::fetch)
        .unary (AppCountLogs,                 MEMBER,    past_logs::count)
        .definition(SecretGetOrCreate,        MEMBER,    secrets::get_or_create)
        .definition(SecretUpdate,             MEMBER,    secrets::update)
        .unary (SecretDelete,                 MEMBER,    secrets::delete)
        .unary (SecretList,                   MEMBER,    secrets::list)
        .unary (SecretGetInfo,                MEMBER,    secrets::get_info)
        // Queues
        .definition(QueueGetOrCreate,         MEMBER,    queues::get_or_create)
        .unary (QueueGetById,                 MEMBER,    queues::get_by_id)
        .unary (QueueHeartbeat,               MEMBER,    queues::heartbeat)
        .unary (QueueList,                    MEMBER,    queues::list)
        .unary (QueueDelete,                  MEMBER,    queues::delete)
        .unary (QueuePut,                     MEMBER,    queues::put)
        .receipt(QueueGet,                    MEMBER,    queues::get)
        .unary (QueueNextItems,               MEMBER,    queues::next_items)
        .unary (QueueLen,                     MEMBER,    queues::len)
        .unary (QueueClear,                   MEMBER,    queues::clear)
        // Dicts
        .definition(DictGetOrCreate,          MEMBER,    dicts::get_or_create)
        .unary (DictGetById,                  MEMBER,    dicts::get_by_id)
        .unary (DictHeartbeat,                MEMBER,    dicts::heartbeat)
        .unary (DictList,                     MEMBER,    dicts::list)
        .unary (DictDelete,                   MEMBER,    dicts::delete)
        .unary (DictGet,                      MEMBER,    dicts::get)
        .unary (DictContains,                 MEMBER,    dicts::contains)
        .unary (DictUpdate,                   MEMBER,    dicts::update)
        .unary (DictPop,                      MEMBER,    dicts::pop)
        .unary (DictLen,                      MEMBER,    dicts::len)
        .unary (DictClear,                    MEMBER,    dicts::clear)
        .stream(DictContents,                 MEMBER,    dicts::contents)
        // Sandboxes. A sandbox itself has no identity, and so reaches none of them.
        .definition(SandboxCreateV2,          MEMBER,    sandboxes::create_v2)
        .unary (SandboxWaitV2,                MEMBER,    sandboxes::wait)
        .unary (SandboxListV2,                MEMBER,    sandboxes::list)
        .definition(SandboxTagsSetV2,         MEMBER,    sandboxes::set_tags)
        .unary (SandboxTagsGetV2,             MEMBER,    sandboxes::get_tags)
        .unary (SandboxTerminateV2,           MEMBER,    sandboxes::terminate)
        .unary (SandboxGetTaskIdV2,           MEMBER,    sandboxes::task_id)
        .unary (SandboxGetFromNameV2,         MEMBER,    sandboxes::from_name)
        .definition(SandboxSetName,           MEMBER,    sandboxes::set_name)
        .unary (SandboxGetCommandRouterAccess, MEMBER,   sandboxes::router_access)
        .unary (TaskGetCommandRouterAccess,   MEMBER,    sandboxes::task_router_access)
        .unary (SandboxGetTunnelsV2,          MEMBER,    sandboxes::tunnels)
        .definition(SandboxCreateConnectTokenV2, MEMBER, sandboxes::connect_token)
        // The same for older clients
        .definition(SandboxCreate,            MEMBER,    sandboxes::create)
        .unary (SandboxWait,                  MEMBER,    sandboxes::wait)
        .unary (SandboxList,                  MEMBER,    sandboxes::list)
        .definition(SandboxTagsSet,           MEMBER,    sandboxes::set_tags)
        .unary (SandboxTagsGet,               MEMBER,    sandboxes::get_tags)
        .unary (SandboxTerminate,             MEMBER,    sandboxes::terminate)
        .unary (SandboxGetTaskId,             MEMBER,    sandboxes::task_id)
        .unary (SandboxGetFromName,           MEMBER,    sandboxes::from_name)
        .unary (SandboxGetTunnels,            MEMBER,    sandboxes::tunnels)
        .definition(SandboxCreateConnectToken, MEMBER,   sandboxes::connect_token)
        .stream(SandboxGetLogs,               MEMBER,    sandboxes::get_logs)
        .unary (SandboxStdinWrite,            MEMBER,    sandboxes::write_stdin)
        .definition(SandboxSnapshotFs,        MEMBER,    sandboxes::snapshot_fs)
        // Programs and files in sandboxes, for clients that know no command router
        .definition(ContainerExec,            MEMBER,    sandboxes::exec)
        .stream(ContainerExecGetOutput,       MEMBER,    sandboxes::exec_output)
        .unary (ContainerExecPutInput,        MEMBER,    sandboxes::exec_put_input)
        .unary (ContainerExecWait,            MEMBER,    sandboxes::exec_wait)
        .definition(ContainerFilesystemExec,  MEMBER,    sandboxes::filesystem_exec)
        .stream(ContainerFilesystemExecGetOutput, MEMBER, sandboxes::filesystem_output)
        // Containers of both kinds
        .unary (TaskList,                     MEMBER,    tasks::list)
        .unary (TaskGetInfo,                  MEMBER,    tasks::info)
        .unary (ContainerStop,                MEMBER,    tasks::stop)
        // Functions
        .definition(FunctionPrecreate,        MEMBER,    functions::precreate)
        .definition(FunctionCreate,           MEMBER,    functions::create)
        .unary (FunctionGet,                  MEMBER,    functions::get)
        .unary (FunctionGetCurrentStats,      MEMBER,    functions::current_stats)
        // Calls, from the caller's side
        .unary (FunctionMap,                  MEMBER,    calls::map)
        .unary (FunctionPutInputs,            MEMBER,    calls::put_inputs)
        .unary (FunctionFinishInputs,         MEMBER,    calls::finish_inputs)
        .unary (FunctionGetOutputs,           MEMBER,    calls::get_outputs)
        .unary (FunctionCallCancel,           MEMBER,    calls::cancel)
        .unary (FunctionCallFromId,           MEMBER,    calls::from_id)
        .stream(FunctionCallGetDataOut,       MEMBER,    chunks::get_out)
        // Calls, from the container's side
        .unary (ContainerHello,               ANY_TASK,  containers::hello)
        .unary (ContainerHeartbeat,           ANY_TASK,  containers::heartbeat)
        .unary (TaskResult,                   ANY_TASK,  containers::task_result)
        .receipt(FunctionGetInputs,           ANY_TASK,  containers::get_inputs)
        .unary (FunctionPutOutputs,           ANY_TASK,  containers::put_outputs)
        .unary (FunctionCallPutDataOut,       ANY_TASK,  chunks::put_out)
        .stream(FunctionCallGetDataIn,        KNOWN,     chunks::get_in) // restricted: its own
        .unary (FunctionGetDynamicConcurrency, ANY_TASK, containers::dynamic_concurrency))
}
