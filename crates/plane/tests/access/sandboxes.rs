//! Requests that name another workspace's sandboxes, and their containers.

use wire::client as pb;

use crate::place::{SANDBOX_NAME, Tenant};
use crate::scope::{Case, case};

/// What ends comes last: the owner's own requests must find what the others name.
pub(crate) fn foreign(ours: &Tenant, theirs: &Tenant) -> Vec<Case> {
    let mut cases = made_of(ours, theirs);
    cases.extend(lists(ours, theirs));
    cases.extend(containers(theirs));
    cases.extend(inside(theirs));
    cases.extend(of_one(theirs));
    cases
}

fn id(theirs: &Tenant) -> String {
    theirs.sandbox.to_string()
}

/// Their app, image, files and secrets as parts of ours.
fn made_of(ours: &Tenant, theirs: &Tenant) -> Vec<Case> {
    let definition = |change: &dyn Fn(&mut pb::Sandbox)| {
        let mut sandbox = pb::Sandbox {
            image_id: ours.image.to_string(),
            timeout_secs: 10,
            ..Default::default()
        };
        change(&mut sandbox);
        Some(sandbox)
    };
    let both = |app: &Tenant, change: &dyn Fn(&mut pb::Sandbox)| {
        let app_id = app.app.to_string();
        let older = pb::SandboxCreateRequest {
            app_id: app_id.clone(),
            definition: definition(change),
            ..Default::default()
        };
        let newer = pb::SandboxCreateV2Request {
            app_id,
            definition: definition(change),
            ..Default::default()
        };
        [case("SandboxCreate", older), case("SandboxCreateV2", newer)]
    };
    let secret = pb::secret_source::Source::SecretId(theirs.secret.to_string());
    let with_secret = pb::SandboxCreateV2Request {
        app_id: ours.app.to_string(),
        definition: definition(&|_| {}),
        secret_sources: vec![pb::SecretSource { source: Some(secret) }],
        ..Default::default()
    };
    let mut cases = vec![case("SandboxCreateV2", with_secret)];
    cases.extend(both(theirs, &|_| {}));
    cases.extend(both(ours, &|s| s.image_id = theirs.image.to_string()));
    cases.extend(both(ours, &|s| s.mount_ids = vec![theirs.mount.to_string()]));
    cases.extend(both(ours, &|s| s.secret_ids = vec![theirs.secret.to_string()]));
    cases
}

fn lists(ours: &Tenant, theirs: &Tenant) -> Vec<Case> {
    let environment_name = || theirs.environment.clone();
    let of_app = || pb::SandboxListRequest { app_id: theirs.app.to_string(), ..Default::default() };
    let of_environment =
        || pb::SandboxListRequest { environment_name: environment_name(), ..Default::default() };
    let named = || pb::SandboxGetFromNameRequest {
        sandbox_name: SANDBOX_NAME.into(),
        environment_name: environment_name(),
        app_name: format!("app-{}", theirs.environment),
        ..Default::default()
    };
    let logs = pb::AppFetchLogsRequest {
        app_id: ours.app.to_string(),
        sandbox_id: id(theirs),
        ..Default::default()
    };
    vec![
        case("SandboxList", of_app()),
        case("SandboxListV2", of_app()),
        case("SandboxList", of_environment()),
        case("SandboxListV2", of_environment()),
        case("SandboxGetFromName", named()),
        case("SandboxGetFromNameV2", named()),
        case("AppFetchLogs", logs),
        case(
            "TaskList",
            pb::TaskListRequest { environment_name: environment_name(), ..Default::default() },
        ),
    ]
}

/// Containers of sandboxes and of functions.
fn containers(theirs: &Tenant) -> Vec<Case> {
    use pb::sandbox_get_command_router_access_request::Target;
    let (sandbox, function) = (&theirs.sandbox_task, &theirs.cells[0].task);
    let access = |target| {
        let request = pb::SandboxGetCommandRouterAccessRequest { target: Some(target) };
        case("SandboxGetCommandRouterAccess", request)
    };
    let mut cases = vec![access(Target::SandboxId(id(theirs)))];
    for task in [sandbox, function] {
        let task_id = || task.to_string();
        cases.push(access(Target::TaskId(task_id())));
        cases.extend([
            case(
                "TaskGetCommandRouterAccess",
                pb::TaskGetCommandRouterAccessRequest { task_id: task_id() },
            ),
            case("AppGetLogs", pb::AppGetLogsRequest { task_id: task_id(), ..Default::default() }),
            case("TaskGetInfo", pb::TaskGetInfoRequest { task_id: task_id() }),
            case("ContainerStop", pb::ContainerStopRequest { task_id: task_id(), graceful: false }),
        ]);
    }
    cases
}

/// Programs and files inside, as older clients reach them.
fn inside(theirs: &Tenant) -> Vec<Case> {
    use pb::container_filesystem_exec_request::FileExecRequestOneof::FileLsRequest;
    let task_id = || theirs.sandbox_task.to_string();
    let exec_id = || format!("{}:p-1", task_id());
    let list = pb::ContainerFileLsRequest { path: "/".into() };
    vec![
        case(
            "ContainerExec",
            pb::ContainerExecRequest {
                task_id: task_id(),
                command: vec!["true".into()],
                ..Default::default()
            },
        ),
        case(
            "ContainerExecGetOutput",
            pb::ContainerExecGetOutputRequest {
                exec_id: exec_id(),
                file_descriptor: pb::FileDescriptor::Stdout.into(),
                ..Default::default()
            },
        ),
        case(
            "ContainerExecPutInput",
            pb::ContainerExecPutInputRequest { exec_id: exec_id(), input: None },
        ),
        case(
            "ContainerExecWait",
            pb::ContainerExecWaitRequest { exec_id: exec_id(), timeout: 0.0 },
        ),
        case(
            "ContainerFilesystemExec",
            pb::ContainerFilesystemExecRequest {
                task_id: task_id(),
                file_exec_request_oneof: Some(FileLsRequest(list)),
            },
        ),
        case(
            "ContainerFilesystemExecGetOutput",
            pb::ContainerFilesystemExecGetOutputRequest { exec_id: exec_id(), timeout: 0.0 },
        ),
    ]
}

/// Each rpc that names one sandbox, in both forms.
fn of_one(theirs: &Tenant) -> Vec<Case> {
    let sandbox_id = || id(theirs);
    let token =
        || pb::SandboxCreateConnectTokenRequest { sandbox_id: sandbox_id(), ..Default::default() };
    let tunnels = || pb::SandboxGetTunnelsRequest { sandbox_id: sandbox_id(), timeout: 0.0 };
    let get = || pb::SandboxTagsGetRequest { sandbox_id: sandbox_id() };
    let set = || pb::SandboxTagsSetRequest { sandbox_id: sandbox_id(), ..Default::default() };
    let task = || pb::SandboxGetTaskIdRequest { sandbox_id: sandbox_id(), ..Default::default() };
    let end = || pb::SandboxTerminateRequest { sandbox_id: sandbox_id() };
    let wait = || pb::SandboxWaitRequest { sandbox_id: sandbox_id(), timeout: 0.0 };
    let name = "mine".to_owned();
    vec![
        case("SandboxWait", wait()),
        case("SandboxWaitV2", wait()),
        case("SandboxCreateConnectToken", token()),
        case("SandboxCreateConnectTokenV2", token()),
        case("SandboxGetTunnels", tunnels()),
        case("SandboxGetTunnelsV2", tunnels()),
        case("SandboxTagsGet", get()),
        case("SandboxTagsGetV2", get()),
        case("SandboxTagsSet", set()),
        case("SandboxTagsSetV2", set()),
        case("SandboxGetTaskId", task()),
        case("SandboxGetTaskIdV2", task()),
        case("SandboxSetName", pb::SandboxSetNameRequest { sandbox_id: sandbox_id(), name }),
        case(
            "SandboxGetLogs",
            pb::SandboxGetLogsRequest { sandbox_id: sandbox_id(), ..Default::default() },
        ),
        case(
            "SandboxStdinWrite",
            pb::SandboxStdinWriteRequest { sandbox_id: sandbox_id(), ..Default::default() },
        ),
        case(
            "SandboxSnapshotFs",
            pb::SandboxSnapshotFsRequest { sandbox_id: sandbox_id(), timeout: 1.0 },
        ),
        case("SandboxTerminate", end()),
        case("SandboxTerminateV2", end()),
    ]
}
