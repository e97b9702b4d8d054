//! Snapshots become images of the sandbox's workspace.

use model::spec::ImageContent;
use model::{ImageId, Millis, TaskId};
use plane::snapshots::Snapshot;
use tonic::Code;
use wire::client as pb;
use wire::rpc::client as names;

use crate::bench::Bench;
use crate::world::{call, refused};

fn snapshot(name: &str, ttl: Option<Millis>) -> Snapshot {
    let layers = vec!["aa".repeat(32), "bb".repeat(32)];
    let content = ImageContent { layers, config: String::new(), python: Some((3, 11)) };
    Snapshot { name: name.into(), content, has_base: true, ttl }
}

fn from_id(id: &ImageId) -> pb::ImageFromIdRequest {
    pb::ImageFromIdRequest { image_id: id.to_string() }
}

async fn kept(bench: &Bench) -> Vec<String> {
    let mut db = bench.world.plane.store.read().await.unwrap();
    store::images::kept_layers(&mut db).await.unwrap()
}

#[tokio::test]
async fn a_snapshot_is_an_image_of_its_workspace_once() {
    let mut bench = Bench::new().await;
    let (_, start) = bench.create_plain().await;
    let (_, other) = bench.create_plain().await;
    let plane = &bench.world.plane;
    let first = plane.publish_snapshot(&start.task, snapshot("one", None)).await.unwrap().unwrap();
    let again = plane.publish_snapshot(&start.task, snapshot("one", None)).await.unwrap().unwrap();
    assert_eq!(first, again);
    assert_eq!(plane.find_snapshot(&start.task, "one").await.unwrap(), Some(first.clone()));
    assert_eq!(plane.find_snapshot(&start.task, "two").await.unwrap(), None);
    // The name is the sandbox's own: another may have the same.
    assert_eq!(plane.find_snapshot(&other.task, "one").await.unwrap(), None);
    let none = plane.publish_snapshot(&TaskId::new([7; 16]), snapshot("one", None)).await.unwrap();
    assert_eq!(none, None);

    let found = call::<names::ImageFromId>(&bench.api(), None, from_id(&first)).await.unwrap();
    assert_eq!(found.metadata.unwrap().python_version_info.as_deref(), Some("3.11"));
    let other = bench.world.api_of_another();
    let other = call::<names::ImageFromId>(&other, None, from_id(&first)).await;
    refused(other, Code::NotFound, "not found");
    let content = plane.image_for(&start.task, &first).await.unwrap().unwrap();
    assert_eq!(content, snapshot("one", None).content);
    assert_eq!(plane.image_for(&start.task, &ImageId::new([7; 16])).await.unwrap(), None);

    // A new sandbox starts with it, also after a restart.
    let request = bench.request_with(|sandbox| sandbox.image_id = first.to_string());
    let (_, next) = bench.create(request).await;
    assert_eq!(next.image, content);
    let after = Bench { world: bench.world.restarted().await, ..bench };
    call::<names::ImageFromId>(&after.api(), None, from_id(&first)).await.unwrap();
    assert!(kept(&after).await.contains(&"bb".repeat(32)), "no build would make it again");
}

#[tokio::test]
async fn a_snapshot_ends_with_its_time() {
    let mut bench = Bench::new().await;
    let (_, start) = bench.create_plain().await;
    let plane = &bench.world.plane;
    let short = snapshot("short", Some(Millis(1)));
    let short = plane.publish_snapshot(&start.task, short).await.unwrap().unwrap();
    let long =
        Snapshot { content: ImageContent::default(), ..snapshot("long", Some(Millis(60_000))) };
    let long = plane.publish_snapshot(&start.task, long).await.unwrap().unwrap();
    assert!(kept(&bench).await.contains(&"bb".repeat(32)));
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    plane::expiry::sweep(plane).await.unwrap();
    assert!(!kept(&bench).await.contains(&"bb".repeat(32)));
    assert_eq!(plane.image_for(&start.task, &short).await.unwrap(), None);
    assert!(plane.image_for(&start.task, &long).await.unwrap().is_some());
    let request = bench.request_with(|sandbox| sandbox.image_id = short.to_string());
    let refusal = call::<names::SandboxCreateV2>(&bench.api(), None, request).await;
    refused(refusal, Code::FailedPrecondition, "take another snapshot");
    // Its name is free again.
    let again = plane.publish_snapshot(&start.task, snapshot("short", None)).await.unwrap();
    assert_ne!(again, Some(short));
}
