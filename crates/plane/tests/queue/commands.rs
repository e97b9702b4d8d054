//! Who may run commands in the container of a function.

use model::link::{End, Report};
use model::router_token::{Key, verify};
use model::{SecretId, TaskId, WorkspaceId};
use plane::Api;
use plane::api::gate::{Caller, User};
use store::Scope;
use tonic::Code;
use tonic::metadata::MetadataMap;
use wire::client as pb;
use wire::rpc::client as rpc;

use crate::bench::{Bench, spec};

/// What a caller is answered, by either of the two rpcs: the same token, or the same refusal.
async fn access(api: &Api, task: &TaskId) -> Result<String, (Code, String)> {
    use pb::sandbox_get_command_router_access_request::Target;
    let request = pb::TaskGetCommandRouterAccessRequest { task_id: task.to_string() };
    let one = wire::rpc::call::<rpc::TaskGetCommandRouterAccess>(
        api.clone(),
        MetadataMap::new(),
        request,
    );
    let target = Some(Target::TaskId(task.to_string()));
    let request = pb::SandboxGetCommandRouterAccessRequest { target };
    let other = wire::rpc::call::<rpc::SandboxGetCommandRouterAccess>(
        api.clone(),
        MetadataMap::new(),
        request,
    );
    let told = |status: tonic::Status| (status.code(), status.message().to_owned());
    let one = one.await.map(|answer| answer.into_inner().jwt).map_err(told);
    let other = other.await.map(|answer| answer.into_inner().jwt).map_err(told);
    assert_eq!(one, other);
    one
}

#[tokio::test]
async fn clients_of_its_workspace_may_and_no_container() {
    let bench = Bench::new(spec()).await;
    let task = bench.container(false).await;
    let token = access(&bench.as_user(), &task).await.unwrap();
    let opened = verify(&Key::new([5; 64]), &token, bench.plane.now());
    assert_eq!(opened, Ok(task.clone()));
    let inside = bench.plane.identify_task(&task).await.unwrap();
    let Caller::Task(itself) = inside.clone() else { panic!("{inside:?}") };
    let restricted = Caller::Restricted(itself);
    let stranger = User { scope: Scope { workspace: WorkspaceId::new([2; 16]) } };
    for (caller, code, text) in [
        (inside, Code::PermissionDenied, format!("`{task}` is a container of a function")),
        (restricted, Code::Unauthenticated, "restricted".to_owned()),
        (Caller::User(stranger), Code::NotFound, format!("container `{task}` not found")),
    ] {
        let refused = access(&bench.api(caller), &task).await.unwrap_err();
        assert_eq!((refused.0, refused.1.contains(&text)), (code, true), "{refused:?}");
    }
}

#[tokio::test]
async fn an_ended_container_takes_none() {
    let bench = Bench::new(spec()).await;
    let task = bench.container(false).await;
    let unknown = [SecretId::new([9; 16])];
    let found = bench.plane.secrets_for(&task, &unknown).await.unwrap();
    assert_eq!(found, Some(Err(unknown[0].clone())));
    let end = End::Exit { code: 0 };
    plane::reports::take(&bench.plane, &[Report::Ended { task: task.clone(), end }]).await;
    let (code, text) = access(&bench.as_user(), &task).await.unwrap_err();
    assert_eq!(code, Code::NotFound);
    assert!(text.contains("has ended"), "{text}");
    assert_eq!(bench.plane.secrets_for(&task, &unknown).await.unwrap(), None);
}
