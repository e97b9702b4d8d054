//! Ways to a running sandbox: command router, ports, tokens, standard input, lists of containers.

use bytes::Bytes;
use model::link::{End, Report};
use model::sandbox::{OpenPort, TunnelKind};
use model::{SecretId, TaskId};
use plane::limits::SANDBOX_END_TOLD_MAX;
use plane::sandboxes::{Opening, Unreached};
use tonic::Code;
use wire::client as pb;
use wire::client::generic_result::GenericStatus as Status;
use wire::rpc::client as names;

use crate::bench::{AT_ONCE, Bench, ended};
use crate::world::{call, refused};

fn port(port: u32, unencrypted: bool, h2: bool) -> pb::PortSpec {
    let tunnel_type = h2.then_some(pb::TunnelType::H2 as i32);
    pb::PortSpec { port, unencrypted, tunnel_type }
}

fn with_ports(bench: &Bench, ports: Vec<pb::PortSpec>) -> pb::SandboxCreateV2Request {
    bench.request_with(|sandbox| {
        let ports = pb::sandbox::OpenPortsOneof::OpenPorts(pb::PortSpecs { ports });
        sandbox.open_ports_oneof = Some(ports);
        sandbox.inbound_cidr_allowlist = vec!["192.0.2.0/24".into()];
    })
}

async fn tunnels(bench: &Bench, id: &str) -> Vec<pb::TunnelData> {
    let request = pb::SandboxGetTunnelsRequest { sandbox_id: id.into(), timeout: 5.0 };
    let answer = call::<names::SandboxGetTunnelsV2>(&bench.api(), None, request).await.unwrap();
    assert_eq!(answer.result, None);
    answer.tunnels
}

#[tokio::test]
async fn ports_are_opened_told_kept_and_closed() {
    let mut bench = Bench::new().await;
    let specs = vec![port(80, false, false), port(81, true, false), port(82, false, true)];
    let request = with_ports(&bench, specs);
    let (id, start) = bench.create(request).await;
    let found = tunnels(&bench, &id).await;
    let said = |tunnel: &pb::TunnelData| {
        let open = tunnel.unencrypted_port.unwrap_or(0);
        (tunnel.container_port, tunnel.host.clone(), tunnel.port, open)
    };
    let host = || "127.0.0.1".to_owned();
    let want = [(80, host(), 40_000, 0), (81, String::new(), 0, 40_001), (82, host(), 40_002, 0)];
    assert_eq!(found.iter().map(said).collect::<Vec<_>>(), want);
    assert_eq!(found[1].unencrypted_host.as_deref(), Some("127.0.0.1"));
    // After a restart they are where they were.
    bench.reach.opened.lock().unwrap().clear();
    bench.join(8, std::slice::from_ref(&start.task)).await;
    let opened = bench.reach.opened.lock().unwrap().clone();
    let first = Opening {
        task: start.task.clone(),
        port: Some(OpenPort { port: 80, kind: TunnelKind::Encrypted }),
        inbound: vec!["192.0.2.0/24".parse().unwrap()],
        host_port: Some(40_000),
    };
    assert_eq!((opened.len(), &opened[0]), (3, &first));
    assert_eq!(tunnels(&bench, &id).await, found);
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    assert_eq!(*bench.reach.closed.lock().unwrap(), [start.task]);
    let request = pb::SandboxGetTunnelsRequest { sandbox_id: id, timeout: 0.0 };
    let answer = call::<names::SandboxGetTunnelsV2>(&bench.api(), None, request).await;
    refused(answer, Code::FailedPrecondition, "has ended");
}

#[tokio::test]
async fn a_port_that_cannot_be_opened_ends_the_sandbox() {
    let mut bench = Bench::new().await;
    let request = with_ports(&bench, vec![port(666, false, false)]);
    let (id, start) = bench.create(request).await;
    bench.next_stop(&start.task).await;
    let request = pb::SandboxGetTunnelsRequest { sandbox_id: id.clone(), timeout: 0.0 };
    let answer = call::<names::SandboxGetTunnelsV2>(&bench.api(), None, request).await.unwrap();
    assert_eq!(answer.result.unwrap().status(), Status::Timeout);
    bench.report(ended(&start.task, End::Stopped)).await;
    assert_eq!(bench.ended(&id).await, Some((Status::InitFailure, 1)));
}

#[tokio::test]
async fn access_to_the_command_router_is_for_one_container() {
    use pb::sandbox_get_command_router_access_request::Target;
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    let request = |target| pb::SandboxGetCommandRouterAccessRequest { target: Some(target) };
    let api = bench.api();
    let ask = async |target| {
        call::<names::SandboxGetCommandRouterAccess>(&api, None, request(target)).await
    };
    let key = model::router_token::Key::new([5; 64]);
    let now = bench.world.plane.now();
    for target in [Target::SandboxId(id.clone()), Target::TaskId(start.task.to_string())] {
        let access = ask(target).await.unwrap();
        assert_eq!(access.url, "https://127.0.0.1:1");
        assert_eq!(model::router_token::verify(&key, &access.jwt, now), Ok(start.task.clone()));
    }
    let unknown = TaskId::new([0; 16]).to_string();
    refused(ask(Target::TaskId(unknown)).await, Code::NotFound, "container");
    let theirs = bench.world.api_of_another();
    let asked = request(Target::SandboxId(id.clone()));
    let answer = call::<names::SandboxGetCommandRouterAccess>(&theirs, None, asked).await;
    refused(answer, Code::NotFound, &id);
    let restricted = bench.world.api_restricted();
    let asked = request(Target::SandboxId(id));
    let answer = call::<names::SandboxGetCommandRouterAccess>(&restricted, None, asked).await;
    refused(answer, Code::Unauthenticated, "restricted");
}

#[tokio::test]
async fn tokens_to_connect_die_with_their_sandbox() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    let request = pb::SandboxCreateConnectTokenRequest {
        sandbox_id: id.clone(),
        user_metadata: "who".into(),
        port: Some(9_000),
    };
    let api = bench.api();
    let made =
        call::<names::SandboxCreateConnectTokenV2>(&api, None, request.clone()).await.unwrap();
    assert_eq!(made.url, "http://127.0.0.1:40000");
    assert_eq!(bench.reach.opened.lock().unwrap()[0].port, None);
    let plane = bench.world.plane.clone();
    let opened = plane.resolve_connect_token(&made.token).await.unwrap().unwrap();
    assert_eq!((&opened.task, opened.port, &*opened.user_metadata), (&start.task, 9_000, "who"));
    assert_eq!(opened.expires_at, start.deadline);
    assert!(plane.resolve_connect_token("another").await.unwrap().is_none());
    let bad = pb::SandboxCreateConnectTokenRequest {
        user_metadata: "a\r\nb: c".into(),
        ..request.clone()
    };
    let answer = call::<names::SandboxCreateConnectTokenV2>(&api, None, bad).await;
    refused(answer, Code::InvalidArgument, "user_metadata");
    let bad = pb::SandboxCreateConnectTokenRequest { port: Some(70_000), ..request.clone() };
    let answer = call::<names::SandboxCreateConnectTokenV2>(&api, None, bad).await;
    refused(answer, Code::InvalidArgument, "70000");
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    assert!(plane.resolve_connect_token(&made.token).await.unwrap().is_none());
    let answer = call::<names::SandboxCreateConnectTokenV2>(&api, None, request).await;
    refused(answer, Code::FailedPrecondition, "has ended");
}

#[tokio::test]
async fn standard_input_is_handed_on() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    let api = bench.api();
    let write = async |index, input: &'static [u8], eof| {
        let input = Bytes::from_static(input);
        let request = pb::SandboxStdinWriteRequest { sandbox_id: id.clone(), input, index, eof };
        call::<names::SandboxStdinWrite>(&api, None, request).await
    };
    write(1, b"hello", false).await.unwrap();
    write(2, b"", true).await.unwrap();
    refused(write(3, b"late", false).await, Code::FailedPrecondition, "stdin is closed");
    let written = bench.reach.written.lock().unwrap().clone();
    assert_eq!((&written[0].task, &written[0].data[..]), (&start.task, &b"hello"[..]));
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    refused(write(4, b"", false).await, Code::FailedPrecondition, "has ended");
}

/// Clients send again what was not written for now: with another code it would be lost.
#[tokio::test]
async fn input_that_is_not_taken_yet_is_to_be_sent_again() {
    let mut bench = Bench::new().await;
    let (api, request) = (bench.api(), bench.request());
    let create =
        tokio::spawn(async move { call::<names::SandboxCreateV2>(&api, None, request).await });
    let start = bench.next_start().await;
    let api = bench.api();
    let write = async |index| {
        let sandbox_id = start.sandbox.to_string();
        let request = pb::SandboxStdinWriteRequest { sandbox_id, index, ..Default::default() };
        call::<names::SandboxStdinWrite>(&api, None, request).await
    };
    refused(write(1).await, Code::Unavailable, "is being started");
    bench.report(Report::Started { task: start.task.clone() }).await;
    create.await.unwrap().unwrap();
    let exec_id = format!("{}:p-1", start.task);
    let put = async || {
        let exec_id = exec_id.clone();
        let request = pb::ContainerExecPutInputRequest { exec_id, input: None };
        call::<names::ContainerExecPutInput>(&api, None, request).await
    };
    for (why, code) in [
        (Unreached::Later("found again".into()), Code::Unavailable),
        (Unreached::Closed("stdin is closed".into()), Code::FailedPrecondition),
    ] {
        *bench.reach.unreached.lock().unwrap() = Some(why.clone());
        refused(write(1).await, code, &why.to_string());
        refused(put().await, code, &why.to_string());
    }
    *bench.reach.unreached.lock().unwrap() = None;
    write(1).await.unwrap();
    put().await.unwrap();
}

/// A sandbox that is being cleared away is no program that never was.
#[tokio::test]
async fn an_end_that_is_not_written_down_yet_is_asked_for_again() {
    let mut bench = Bench::new().await;
    let (_, start) = bench.create_plain().await;
    let api = bench.api();
    let wait = async || {
        let exec_id = format!("{}:p-1", start.task);
        let request = pb::ContainerExecWaitRequest { exec_id, timeout: 0.0 };
        call::<names::ContainerExecWait>(&api, None, request).await
    };
    let says = |text: &str| {
        *bench.reach.router.lock().unwrap() = Some(tonic::Status::not_found(text));
    };
    says("exec_id: no program was started as `p-1` in this sandbox");
    let begun = std::time::Instant::now();
    refused(wait().await, Code::NotFound, "p-1");
    assert!(begun.elapsed() < SANDBOX_END_TOLD_MAX);
    says("the sandbox has ended: nothing more can be done in it");
    refused(wait().await, Code::Unavailable, "is being cleared away");
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    refused(wait().await, Code::FailedPrecondition, "what is known of its programs");
}

#[tokio::test]
async fn containers_are_listed_looked_at_and_stopped() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    let task_id = start.task.to_string();
    let api = bench.api();
    let list = pb::TaskListRequest::default();
    let tasks = call::<names::TaskList>(&api, None, list.clone()).await.unwrap().tasks;
    assert_eq!((tasks.len(), &tasks[0].task_id), (1, &task_id));
    let theirs = bench.world.api_of_another();
    assert!(call::<names::TaskList>(&theirs, None, list).await.unwrap().tasks.is_empty());
    let get = pb::TaskGetInfoRequest { task_id: task_id.clone() };
    let info = call::<names::TaskGetInfo>(&api, None, get.clone()).await.unwrap();
    assert_eq!((info.app_id, info.info.unwrap().sandbox_id), (bench.app.clone(), id));
    let answer = call::<names::TaskGetInfo>(&theirs, None, get).await;
    refused(answer, Code::NotFound, &task_id);
    let stop = pb::ContainerStopRequest { task_id: task_id.clone(), graceful: false };
    let answer = call::<names::ContainerStop>(&theirs, None, stop.clone()).await;
    refused(answer, Code::NotFound, &task_id);
    call::<names::ContainerStop>(&api, None, stop).await.unwrap();
    bench.next_stop(&start.task).await;
}

#[tokio::test]
async fn a_wait_is_answered_at_the_end() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    let (api, request) = (bench.api(), pb::SandboxWaitRequest { sandbox_id: id, timeout: 30.0 });
    let asked =
        tokio::spawn(async move { call::<names::SandboxWaitV2>(&api, None, request).await });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    bench.report(Report::Ended { task: start.task, end: End::Exit { code: 4 } }).await;
    let answer = tokio::time::timeout(AT_ONCE, asked).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.result.unwrap().exitcode, 4);
    assert_eq!(answer.metadata.unwrap().app_id, bench.app);
}

#[tokio::test]
async fn secrets_are_the_workspaces_and_for_the_living() {
    let mut bench = Bench::new().await;
    let (_, start) = bench.create_plain().await;
    let make = pb::SecretGetOrCreateRequest {
        deployment_name: "mine".into(),
        object_creation_type: pb::ObjectCreationType::CreateIfMissing as i32,
        env_dict: [("KEY".to_owned(), "value".to_owned())].into(),
        ..Default::default()
    };
    let secret = async |api| {
        let made = call::<names::SecretGetOrCreate>(&api, None, make.clone()).await.unwrap();
        SecretId::parse(&made.secret_id).unwrap()
    };
    let ours = secret(bench.api()).await;
    let theirs = secret(bench.world.api_of_another()).await;
    let plane = bench.world.plane.clone();
    let found = plane.secrets_for(&start.task, std::slice::from_ref(&ours)).await.unwrap();
    assert_eq!(found, Some(Ok(vec![("KEY".to_owned(), "value".to_owned())])));
    let found = plane.secrets_for(&start.task, &[ours.clone(), theirs.clone()]).await.unwrap();
    assert_eq!(found, Some(Err(theirs)));
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    assert_eq!(plane.secrets_for(&start.task, &[ours]).await.unwrap(), None);
}
