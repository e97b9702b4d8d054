//! A plane over a real store, and its protocol as a caller meets it.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::sync::Arc;
use std::time::Duration;

use model::resources::Defaults;
use model::*;
use plane::api::gate::{Caller, Task, User};
use plane::api::rows::client_rows;
use plane::{Api, Config, Plane, Transport};
use store::{Scope, Store, environments, tokens};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use wire::client::{self as pb, ObjectCreationType as Wish};
use wire::rpc::{self, Unary, client as names};

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) plane: Arc<Plane>,
    pub(crate) scope: Scope,
}

async fn plane_over(dir: &std::path::Path) -> Arc<Plane> {
    let store = Store::open(&dir.join("palisade.db")).await.unwrap();
    let blobs = blobs::Local::open(dir.join("blobs")).await.unwrap();
    let config = Config {
        gateway_url: "http://127.0.0.1:1".into(),
        blob_port_inside: 1,
        payload_bytes_max: 1 << 20,
        defaults: Defaults::default(),
        pythons: plane::Pythons::of(dir.join("pythons")),
        router_url: "https://127.0.0.1:1".into(),
        router_key: model::router_token::Key::new([5; 64]),
    };
    Plane::new(store, blobs, config)
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = plane_over(dir.path()).await;
        let scope = Scope { workspace: WorkspaceId::new([1; 16]) };
        let mut tx = plane.store.begin().await.unwrap();
        for n in [1, 2] {
            let workspace = WorkspaceId::new([n; 16]);
            let name = format!("w{n}");
            tokens::insert_workspace(&mut tx, &workspace, &name, Time(1)).await.unwrap();
            let environment = environments::Environment {
                id: EnvironmentId::new([n; 16]),
                name: "main".into(),
                created_at: Time(1),
            };
            environments::insert(&mut tx, &Scope { workspace }, &environment).await.unwrap();
        }
        tx.commit().await.unwrap();
        Self { dir, plane, scope }
    }

    /// The same store under another run of the server; what the first one does later is its own.
    pub(crate) async fn restarted(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["palisade.db", "palisade.db-wal"] {
            let from = self.dir.path().join(name);
            if from.exists() {
                std::fs::copy(from, dir.path().join(name)).unwrap();
            }
        }
        let plane = plane_over(dir.path()).await;
        Self { dir, plane, scope: self.scope.clone() }
    }

    pub(crate) fn api_as(&self, caller: Caller) -> Api {
        Api::new(self.plane.clone(), Arc::new([client_rows()]), Transport::Door(Box::new(caller)))
    }

    pub(crate) fn api(&self) -> Api {
        self.api_as(Caller::User(User { scope: self.scope.clone() }))
    }

    pub(crate) fn api_of_another(&self) -> Api {
        let scope = Scope { workspace: WorkspaceId::new([2; 16]) };
        self.api_as(Caller::User(User { scope }))
    }

    pub(crate) fn api_restricted(&self) -> Api {
        self.api_as(Caller::Restricted(Task {
            scope: self.scope.clone(),
            id: TaskId::new([1; 16]),
            app: AppId::new([1; 16]),
            function: FunctionId::new([1; 16]),
            restricted: true,
        }))
    }

    pub(crate) async fn queue(&self) -> Queue {
        let request = pb::QueueGetOrCreateRequest {
            object_creation_type: Wish::Ephemeral.into(),
            ..Default::default()
        };
        let answer = call::<names::QueueGetOrCreate>(&self.api(), None, request).await.unwrap();
        Queue { api: self.api(), id: answer.queue_id }
    }
}

/// Calls an rpc, with an idempotency key or none.
pub(crate) async fn call<R: Unary>(
    api: &Api,
    key: Option<&str>,
    request: R::Request,
) -> Result<R::Response, Status> {
    Ok(rpc::call::<R>(api.clone(), metadata(key), request).await?.into_inner())
}

pub(crate) fn metadata(key: Option<&str>) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    if let Some(key) = key {
        metadata.insert("x-idempotency-key", key.parse().unwrap());
    }
    metadata
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(text), "{status}");
}

/// A queue as its callers use it.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) api: Api,
    pub(crate) id: String,
}

impl Queue {
    pub(crate) async fn put_in(&self, partition: &str, texts: &[&str]) -> Result<(), Status> {
        let request = pb::QueuePutRequest {
            queue_id: self.id.clone(),
            values: texts.iter().map(|text| text.to_string().into()).collect(),
            partition_key: partition.to_owned().into(),
            partition_ttl_seconds: 60,
        };
        call::<names::QueuePut>(&self.api, None, request).await
    }

    pub(crate) async fn put(&self, texts: &[&str]) {
        self.put_in("", texts).await.unwrap();
    }

    pub(crate) fn get_request(
        &self,
        partition: &str,
        n: i32,
        wait: Duration,
    ) -> pb::QueueGetRequest {
        pb::QueueGetRequest {
            queue_id: self.id.clone(),
            timeout: wait.as_secs_f32(),
            n_values: n,
            partition_key: partition.to_owned().into(),
        }
    }

    pub(crate) async fn get(&self, key: Option<&str>, n: i32, wait: Duration) -> Vec<String> {
        let request = self.get_request("", n, wait);
        texts(call::<names::QueueGet>(&self.api, key, request).await.unwrap().values)
    }

    pub(crate) async fn get_now(&self, n: i32) -> Vec<String> {
        self.get(None, n, Duration::ZERO).await
    }

    /// What is in the queue, without taking it.
    pub(crate) async fn peek(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut last_entry_id = String::new();
        loop {
            let request = pb::QueueNextItemsRequest {
                queue_id: self.id.clone(),
                last_entry_id: last_entry_id.clone(),
                ..Default::default()
            };
            let answer = call::<names::QueueNextItems>(&self.api, None, request).await.unwrap();
            let Some(last) = answer.items.last() else { return found };
            last_entry_id = last.entry_id.clone();
            found.extend(texts(answer.items.into_iter().map(|item| item.value).collect()));
        }
    }

    pub(crate) async fn len(&self) -> i32 {
        let request = pb::QueueLenRequest { queue_id: self.id.clone(), ..Default::default() };
        call::<names::QueueLen>(&self.api, None, request).await.unwrap().len
    }
}

pub(crate) fn texts(values: Vec<bytes::Bytes>) -> Vec<String> {
    values.iter().map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
}
