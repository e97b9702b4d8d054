//! A detached app outlives its client for as long as it has work; how an app ends.

use model::link::Order;
use model::spec::FunctionSpec;
use plane::reconcile;
use store::apps;
use tonic::metadata::MetadataMap;
use wire::client as pb;
use wire::rpc::client as rpc;

use crate::bench::{Bench, spec, success};

/// Longer than a client may be silent.
const SILENCE_MS: u64 = 60_000;

impl Bench {
    async fn detached() -> Self {
        let bench = Self::new(spec()).await;
        let mut tx = bench.plane.store.begin().await.unwrap();
        let mut app = apps::get(&mut tx, &bench.scope, &bench.app).await.unwrap().unwrap();
        app.state = pb::AppState::Detached as i32;
        apps::publish(&mut tx, &app).await.unwrap();
        tx.commit().await.unwrap();
        bench
    }

    async fn is_stopped(&self) -> bool {
        let mut db = self.plane.store.read().await.unwrap();
        apps::get(&mut db, &self.scope, &self.app).await.unwrap().unwrap().stopped_at.is_some()
    }

    async fn disconnect(&self, reason: pb::AppDisconnectReason) {
        let request = pb::AppClientDisconnectRequest {
            app_id: self.app.to_string(),
            reason: reason as i32,
            ..Default::default()
        };
        let metadata = MetadataMap::new();
        let answer = wire::rpc::call::<rpc::AppClientDisconnect>(self.as_user(), metadata, request);
        answer.await.unwrap();
    }
}

/// The end of an app comes just after the last answer: a signal then would make the container's
/// program, which is leaving, say that it was interrupted.
#[tokio::test]
async fn a_container_that_had_its_only_input_leaves_by_itself_when_the_app_ends() {
    let mut bench = Bench::new(FunctionSpec { single_use: true, ..spec() }).await;
    bench.put(0..2).await;
    let (spent, busy) = (bench.container(true).await, bench.container(true).await);
    let done = bench.claim(&spent, 1).await.remove(0).id;
    bench.claim(&busy, 1).await;
    bench.plane.answer(&spent, vec![(done, 0, success("done"))]).await.unwrap();
    let app = {
        let mut db = bench.plane.store.read().await.unwrap();
        apps::get(&mut db, &bench.scope, &bench.app).await.unwrap().unwrap()
    };
    reconcile::stop_app(&bench.plane, &app, "it is a test").await.unwrap();
    let stopped = |bench: &mut Bench| match bench.orders.try_recv() {
        Ok(Order::Stop { task, .. }) => Some(task),
        _ => None,
    };
    assert_eq!(stopped(&mut bench), Some(busy));
    assert_eq!(stopped(&mut bench), None);
    bench.pass(2_100);
    reconcile::deadlines(&bench.plane, bench.plane.now()).await.unwrap();
    assert_eq!(stopped(&mut bench), Some(spent), "it had its time to leave");
}

#[tokio::test]
async fn it_ends_with_its_entry_point_if_nothing_is_left_to_do() {
    let bench = Bench::detached().await;
    bench.disconnect(pb::AppDisconnectReason::EntrypointCompleted).await;
    assert!(bench.is_stopped().await);
}

#[tokio::test]
async fn it_works_on_without_its_client_and_ends_with_the_last_input() {
    let bench = Bench::detached().await;
    let task = bench.container(false).await;
    bench.put(0..2).await;
    let first = bench.claim(&task, 1).await.remove(0).id;
    bench.disconnect(pb::AppDisconnectReason::EntrypointCompleted).await;
    bench.pass(5_000);
    reconcile::sweep(&bench.plane).await.unwrap();
    assert!(!bench.is_stopped().await, "one input runs, one waits");
    bench.plane.answer(&task, vec![(first, 0, success("done"))]).await.unwrap();
    let second = bench.claim(&task, 1).await.remove(0).id;
    bench.pass(SILENCE_MS);
    reconcile::sweep(&bench.plane).await.unwrap();
    assert!(!bench.is_stopped().await, "one runs still");
    bench.plane.answer(&task, vec![(second, 0, success("done"))]).await.unwrap();
    reconcile::sweep(&bench.plane).await.unwrap();
    assert!(bench.is_stopped().await);
}

#[tokio::test]
async fn it_stays_for_a_client_that_was_interrupted_or_lives() {
    let bench = Bench::detached().await;
    bench.disconnect(pb::AppDisconnectReason::KeyboardInterrupt).await;
    bench.pass(5_000);
    reconcile::sweep(&bench.plane).await.unwrap();
    assert!(!bench.is_stopped().await);
    bench.pass(SILENCE_MS);
    reconcile::sweep(&bench.plane).await.unwrap();
    assert!(bench.is_stopped().await, "nobody is there, and nothing is left to do");
}
