//! An id of another workspace is not found, whatever it names and whoever asks.

use std::time::Duration;

use model::call::State;
use prost::Message;
use sha2::{Digest, Sha256};
use store::{apps, inputs, sandboxes};
use tonic::Code;
use wire::client as pb;
use wire::client::Function;

use crate::place::{IMAGE_NAME, Place, SANDBOX_NAME, Tenant, Who};
use crate::raw::{frame, pieces, request, send};

const AT_ONCE: Duration = Duration::from_secs(10);

/// Rows whose requests name nothing that somebody could own.
const NAME_NOTHING: &[&str] = &[
    "AuthTokenGet",
    "BlobCreate",
    "ClientHello",
    "ContainerHeartbeat",
    "ContainerHello",
    "EnvironmentCreate",
    "EnvironmentGetOrCreate",
    "EnvironmentList",
    "MountBatchedCheckExistence",
    "TokenInfoGet",
    "WorkspaceNameLookup",
];

pub(crate) type Case = (&'static str, Vec<u8>);

pub(crate) fn case(name: &'static str, request: impl Message) -> Case {
    (name, request.encode_to_vec())
}

/// Requests of a client, or of an open container, that name what is theirs.
pub(crate) fn foreign(ours: &Tenant, theirs: &Tenant) -> Vec<Case> {
    let cell = &theirs.cells[0];
    let (app_id, call) = (theirs.app.to_string(), cell.call.to_string());
    let environment_name = theirs.environment.clone();
    let function_id = cell.function.to_string();
    let mut cases = vec![
        case(
            "AppCreate",
            pb::AppCreateRequest {
                environment_name: environment_name.clone(),
                ..Default::default()
            },
        ),
        case(
            "AppGetOrCreate",
            pb::AppGetOrCreateRequest {
                app_name: format!("app-{environment_name}"),
                environment_name: environment_name.clone(),
                ..Default::default()
            },
        ),
        case("AppHeartbeat", pb::AppHeartbeatRequest { app_id: app_id.clone() }),
        case("AppPublish", pb::AppPublishRequest { app_id: app_id.clone(), ..Default::default() }),
        case(
            "AppPublish",
            pb::AppPublishRequest {
                app_id: ours.app.to_string(),
                function_ids: [("f".to_owned(), function_id.clone())].into(),
                ..Default::default()
            },
        ),
        case(
            "AppClientDisconnect",
            pb::AppClientDisconnectRequest { app_id: app_id.clone(), ..Default::default() },
        ),
        case("AppStop", pb::AppStopRequest { app_id: app_id.clone(), ..Default::default() }),
        case(
            "AppGetByDeploymentName",
            pb::AppGetByDeploymentNameRequest {
                name: format!("app-{environment_name}"),
                environment_name: environment_name.clone(),
            },
        ),
        case("AppGetLayout", pb::AppGetLayoutRequest { app_id: app_id.clone() }),
        case("AppList", pb::AppListRequest { environment_name: environment_name.clone() }),
        case("AppGetLogs", pb::AppGetLogsRequest { app_id, ..Default::default() }),
        case(
            "BlobGet",
            pb::BlobGetRequest { blob_id: theirs.blob.to_string(), ..Default::default() },
        ),
        case(
            "FunctionGet",
            pb::FunctionGetRequest {
                app_name: format!("app-{environment_name}"),
                object_tag: "theirs-open".into(),
                environment_name,
                ..Default::default()
            },
        ),
        case(
            "FunctionGetCurrentStats",
            pb::FunctionGetCurrentStatsRequest { function_id: function_id.clone() },
        ),
        case("FunctionMap", pb::FunctionMapRequest { function_id, ..Default::default() }),
        case(
            "FunctionPutInputs",
            pb::FunctionPutInputsRequest {
                function_call_id: call.clone(),
                inputs: vec![input(None)],
                ..Default::default()
            },
        ),
        case(
            "FunctionFinishInputs",
            pb::FunctionFinishInputsRequest {
                function_call_id: call.clone(),
                ..Default::default()
            },
        ),
        case(
            "FunctionGetOutputs",
            pb::FunctionGetOutputsRequest { function_call_id: call.clone(), ..Default::default() },
        ),
        case(
            "FunctionCallCancel",
            pb::FunctionCallCancelRequest {
                function_call_id: call.clone(),
                terminate_containers: true,
                ..Default::default()
            },
        ),
        case(
            "FunctionCallFromId",
            pb::FunctionCallFromIdRequest { function_call_id: call.clone() },
        ),
        case("FunctionCallGetDataOut", data(&call)),
        case("FunctionCallGetDataIn", data(&call)),
    ];
    cases.extend(foreign_parts(ours, theirs));
    cases.extend(foreign_names(ours, theirs));
    cases.extend(foreign_arguments(ours, theirs));
    cases.extend(crate::objects::foreign(theirs));
    cases.extend(crate::sandboxes::foreign(ours, theirs));
    cases
}

fn data(call: &str) -> pb::FunctionCallGetDataRequest {
    use pb::function_call_get_data_request::CallInfo;
    let call_info = Some(CallInfo::FunctionCallId(call.into()));
    pb::FunctionCallGetDataRequest { call_info, ..Default::default() }
}

fn input(blob: Option<String>) -> pb::FunctionPutInputsItem {
    let args_oneof = blob.map(pb::function_input::ArgsOneof::ArgsBlobId);
    let input = pb::FunctionInput { args_oneof, ..Default::default() };
    pb::FunctionPutInputsItem { idx: 7, input: Some(input), ..Default::default() }
}

/// Their blobs as arguments of our calls.
fn foreign_arguments(ours: &Tenant, theirs: &Tenant) -> Vec<Case> {
    let inputs = vec![input(Some(theirs.blob.to_string()))];
    vec![
        case(
            "FunctionMap",
            pb::FunctionMapRequest {
                function_id: ours.cells[0].function.to_string(),
                pipelined_inputs: inputs.clone(),
                ..Default::default()
            },
        ),
        case(
            "FunctionPutInputs",
            pb::FunctionPutInputsRequest {
                function_call_id: ours.cells[0].call.to_string(),
                inputs,
                ..Default::default()
            },
        ),
    ]
}

/// Their files, mounts, images, secrets and functions as parts of ours.
fn foreign_parts(ours: &Tenant, theirs: &Tenant) -> Vec<Case> {
    use pb::mount_put_file_request::DataOneof;
    let image_of = |image: pb::Image| {
        case(
            "ImageGetOrCreate",
            pb::ImageGetOrCreateRequest { image: Some(image), ..Default::default() },
        )
    };
    let base = pb::BaseImage { image_id: theirs.image.to_string(), ..Default::default() };
    let function = |app: &Tenant, existing: &str, change: &dyn Fn(&mut Function)| {
        let mut function = Function {
            function_name: "mine".into(),
            image_id: ours.image.to_string(),
            ..Default::default()
        };
        change(&mut function);
        case(
            "FunctionCreate",
            pb::FunctionCreateRequest {
                function: Some(function),
                app_id: app.app.to_string(),
                existing_function_id: existing.into(),
                ..Default::default()
            },
        )
    };
    let precreate = |app: &Tenant, existing: &str| {
        case(
            "FunctionPrecreate",
            pb::FunctionPrecreateRequest {
                app_id: app.app.to_string(),
                function_name: "mine".into(),
                existing_function_id: existing.into(),
                ..Default::default()
            },
        )
    };
    let existing = theirs.cells[0].function.as_str();
    vec![
        case(
            "MountPutFile",
            pb::MountPutFileRequest {
                sha256_hex: hex::encode(Sha256::digest("theirs")),
                data_oneof: Some(DataOneof::DataBlobId(theirs.blob.to_string())),
            },
        ),
        case(
            "MountGetOrCreate",
            pb::MountGetOrCreateRequest {
                files: vec![pb::MountFile {
                    filename: "/a".into(),
                    sha256_hex: theirs.file.clone(),
                    ..Default::default()
                }],
                ..Default::default()
            },
        ),
        image_of(pb::Image { base_images: vec![base], ..Default::default() }),
        image_of(pb::Image { context_mount_id: theirs.mount.to_string(), ..Default::default() }),
        image_of(pb::Image { secret_ids: vec![theirs.secret.to_string()], ..Default::default() }),
        case(
            "ImageJoinStreaming",
            pb::ImageJoinStreamingRequest {
                image_id: theirs.image.to_string(),
                ..Default::default()
            },
        ),
        case("ImageFromId", pb::ImageFromIdRequest { image_id: theirs.image.to_string() }),
        case("ImageDelete", pb::ImageDeleteRequest { image_id: theirs.image.to_string() }),
        case(
            "ImageBuildChainGet",
            pb::ImageBuildChainGetRequest { image_id: theirs.image.to_string() },
        ),
        case(
            "SecretGetOrCreate",
            pb::SecretGetOrCreateRequest {
                deployment_name: theirs.environment.clone(),
                ..Default::default()
            },
        ),
        case(
            "SecretGetOrCreate",
            pb::SecretGetOrCreateRequest {
                environment_name: theirs.environment.clone(),
                object_creation_type: pb::ObjectCreationType::CreateIfMissing as i32,
                deployment_name: "new".into(),
                ..Default::default()
            },
        ),
        case(
            "SecretGetOrCreate",
            pb::SecretGetOrCreateRequest {
                object_creation_type: pb::ObjectCreationType::AnonymousOwnedByApp as i32,
                app_id: theirs.app.to_string(),
                ..Default::default()
            },
        ),
        precreate(theirs, ""),
        precreate(ours, existing),
        function(theirs, "", &|_| {}),
        function(ours, existing, &|_| {}),
        function(ours, "", &|f| f.image_id = theirs.image.to_string()),
        function(ours, "", &|f| f.mount_ids = vec![theirs.mount.to_string()]),
        function(ours, "", &|f| f.secret_ids = vec![theirs.secret.to_string()]),
    ]
}

/// Names of images, and output of the past.
fn foreign_names(ours: &Tenant, theirs: &Tenant) -> Vec<Case> {
    let tag = format!("{}/{IMAGE_NAME}", theirs.environment);
    let publish = |image: &model::ImageId, tag: &str| pb::ImagePublishRequest {
        image_id: image.to_string(),
        tag: tag.to_owned(),
        ..Default::default()
    };
    let logs = |app_id: String, task_id: String| {
        let count = pb::AppCountLogsRequest {
            app_id: app_id.clone(),
            task_id: task_id.clone(),
            ..Default::default()
        };
        let fetch = pb::AppFetchLogsRequest { app_id, task_id, ..Default::default() };
        [case("AppCountLogs", count), case("AppFetchLogs", fetch)]
    };
    let mut cases = vec![
        case("ImageGetByTag", pb::ImageGetByTagRequest { tag: tag.clone(), ..Default::default() }),
        case("ImagePublish", publish(&theirs.image, "mine")),
        case("ImagePublish", publish(&ours.image, &tag)),
        case(
            "ImageListTags",
            pb::ImageListTagsRequest {
                environment_name: theirs.environment.clone(),
                ..Default::default()
            },
        ),
        case(
            "ImageTagRevisions",
            pb::ImageTagRevisionsRequest { tag: tag.clone(), ..Default::default() },
        ),
        case("ImageNameDelete", pb::ImageNameDeleteRequest { tag }),
    ];
    cases.extend(logs(theirs.app.to_string(), String::new()));
    cases.extend(logs(String::new(), theirs.image.to_string()));
    cases
}

/// Requests of a container that name what is theirs.
pub(crate) fn foreign_to_container(ours: &Tenant, theirs: &Tenant) -> Vec<Case> {
    use pb::function_call_put_data_request::CallInfo;
    let theirs = &theirs.cells[1];
    let blob = |id: &model::BlobId| pb::GenericResult {
        status: pb::generic_result::GenericStatus::Failure as i32,
        data_oneof: Some(pb::generic_result::DataOneof::DataBlobId(id.to_string())),
        ..Default::default()
    };
    let chunk = |call: &model::CallId, blob: &model::BlobId| {
        let data = pb::data_chunk::DataOneof::DataBlobId(blob.to_string());
        let chunk = pb::DataChunk { index: 1, data_oneof: Some(data), ..Default::default() };
        pb::FunctionCallPutDataRequest {
            call_info: Some(CallInfo::FunctionCallId(call.to_string())),
            data_chunks: vec![chunk],
        }
    };
    let own = &ours.cells[0];
    vec![
        case(
            "BlobGet",
            pb::BlobGetRequest { blob_id: theirs.result.to_string(), ..Default::default() },
        ),
        case(
            "TaskResult",
            pb::TaskResultRequest { result: Some(blob(&theirs.result)), ..Default::default() },
        ),
        case(
            "FunctionGetInputs",
            pb::FunctionGetInputsRequest {
                function_id: theirs.function.to_string(),
                ..Default::default()
            },
        ),
        case(
            "FunctionPutOutputs",
            pb::FunctionPutOutputsRequest {
                outputs: vec![pb::FunctionPutOutputsItem {
                    input_id: own.input.to_string(),
                    result: Some(blob(&theirs.result)),
                    ..Default::default()
                }],
                ..Default::default()
            },
        ),
        case("FunctionCallPutDataOut", chunk(&theirs.call, &own.result)),
        case("FunctionCallPutDataOut", chunk(&own.call, &theirs.result)),
        case("FunctionCallGetDataIn", data(theirs.call.as_str())),
        case(
            "FunctionGetDynamicConcurrency",
            pb::FunctionGetDynamicConcurrencyRequest {
                function_id: theirs.function.to_string(),
                ..Default::default()
            },
        ),
    ]
}

pub(crate) async fn ask(place: &Place, who: Who, case: &Case) -> crate::raw::Answered {
    let path = format!("/{}/{}", wire::CLIENT_SERVICE, case.0);
    let body = pieces(vec![frame(&case.1)]);
    let request = request(&path, &place.headers(who), body);
    let answer = send(place.api(who).await, request, AT_ONCE).await;
    answer.unwrap_or_else(|| panic!("{} as {who:?}: no answer", case.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_workspace_owns_is_not_found() {
    let place = Place::new().await;
    for who in [Who::User, Who::Task] {
        for case in foreign(&place.ours, &place.theirs) {
            let answer = ask(&place, who, &case).await;
            assert_eq!(answer.code, Code::NotFound, "{} as {who:?}: {answer:?}", case.0);
        }
    }
    for case in foreign_to_container(&place.ours, &place.theirs) {
        let answer = ask(&place, Who::Task, &case).await;
        assert_eq!(answer.code, Code::NotFound, "{}: {answer:?}", case.0);
    }
    // A file that they have sent is missing for us.
    let check = pb::MountBatchedCheckExistenceRequest {
        sha256_hex_hashes: vec![place.theirs.file.clone(), place.ours.file.clone()],
    };
    let answer = ask(&place, Who::User, &case("MountBatchedCheckExistence", check)).await;
    let missing = pb::MountBatchedCheckExistenceResponse::decode(answer.message.unwrap()).unwrap();
    assert_eq!(missing.missing_sha256_hex_hashes, [place.theirs.file.as_str()]);
    untouched(&place).await;
}

/// Nothing of theirs has ended through us.
async fn untouched(place: &Place) {
    let mut db = place.plane.store.read().await.unwrap();
    let theirs = &place.theirs;
    let app = apps::get(&mut db, &theirs.scope, &theirs.app).await.unwrap().unwrap();
    assert!(app.stopped_at.is_none());
    for cell in &theirs.cells {
        let input = inputs::open(&mut db, &cell.input).await.unwrap().unwrap();
        assert!(matches!(input.input.state, State::Running { .. }));
    }
    let sandbox = sandboxes::get_any(&mut db, &theirs.sandbox).await.unwrap().unwrap();
    assert_eq!((sandbox.end, sandbox.wanted_end), (None, None));
    assert_eq!(sandbox.name.as_deref(), Some(SANDBOX_NAME));
}

/// What is theirs would be found by them: the requests above fail for the id's sake alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_requests_are_answered_to_their_owner() {
    let place = Place::new().await;
    let endings = [
        "AppStop",
        "AppClientDisconnect",
        "ContainerStop",
        "FunctionCallCancel",
        "ImageDelete",
        "ImageNameDelete",
        "SandboxTerminate",
        "SandboxTerminateV2",
    ];
    let streams = [
        "AppGetLogs",
        "DictContents",
        "FunctionCallGetDataOut",
        "FunctionCallGetDataIn",
        "SandboxGetLogs",
    ];
    // They wait for a worker that takes orders: the one here does not.
    let waits = ["SandboxCreate", "SandboxCreateV2"];
    for case in foreign(&place.ours, &place.ours) {
        if [&endings[..], &streams[..], &waits[..]].concat().contains(&case.0) {
            continue;
        }
        let answer = ask(&place, Who::User, &case).await;
        let text = format!("{}: {answer:?}", case.0);
        // A function under the name of another one, a file that is no blob's.
        let otherwise = ["FunctionGet", "MountPutFile"].contains(&case.0);
        assert!(otherwise || answer.code != Code::NotFound, "{text}");
        assert_ne!(answer.code, Code::Internal, "{text}");
    }
}

#[tokio::test]
async fn every_served_rpc_is_among_these_cases() {
    let place = Place::new().await;
    let mut named: Vec<_> = foreign(&place.ours, &place.theirs).iter().map(|c| c.0).collect();
    named.extend(foreign_to_container(&place.ours, &place.theirs).iter().map(|c| c.0));
    named.extend(NAME_NOTHING);
    let rows = place.tables.iter().flat_map(|table| table.rows());
    for row in rows.filter(|row| row.declined().is_none()) {
        assert!(named.contains(&row.name), "{}: ask for what another workspace owns", row.name);
    }
}
