//! Markers, and typed calls through them against a service in the same process.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use prost::Message as _;
use prost::bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::{Service, http, tokio_stream};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use wire::client::{AppCreateRequest, AppCreateResponse, DictContentsRequest, DictEntry};
use wire::rpc::{self, ClientStreaming, Rpc, ServerStreaming, Unary, client, router};

#[test]
fn a_marker_knows_its_name_and_path() {
    fn unary<R: Unary>() -> (&'static str, &'static str) {
        (R::NAME, R::PATH)
    }
    fn streaming<R: ServerStreaming>() -> (&'static str, &'static str) {
        (R::NAME, R::PATH)
    }
    fn sending<R: ClientStreaming>() -> (&'static str, &'static str) {
        (R::NAME, R::PATH)
    }
    assert_eq!(
        sending::<router::TaskExecStdinWriteStream>(),
        (
            "TaskExecStdinWriteStream",
            "/modal.task_command_router.TaskCommandRouter/TaskExecStdinWriteStream"
        )
    );
    assert_eq!(unary::<client::AppCreate>(), ("AppCreate", "/modal.client.ModalClient/AppCreate"));
    assert_eq!(
        streaming::<client::AppGetLogs>(),
        ("AppGetLogs", "/modal.client.ModalClient/AppGetLogs")
    );
}

#[test]
fn declared_rpcs_are_among_the_names() {
    let names: BTreeSet<_> = wire::names::CLIENT.iter().collect();
    assert_eq!(names.len(), wire::names::CLIENT.len(), "a name is listed twice");
    let strangers: Vec<_> = client::DECLARED.iter().filter(|name| !names.contains(name)).collect();
    assert!(strangers.is_empty(), "not in names::CLIENT: {strangers:?}");
    assert!(client::DECLARED.contains(&"FunctionMap"));
    let router: BTreeSet<_> = wire::names::ROUTER.iter().collect();
    assert_eq!(router.len(), wire::names::ROUTER.len(), "a name is listed twice");
    let declared = rpc::router::DECLARED;
    let strangers: Vec<_> = declared.iter().filter(|name| !router.contains(name)).collect();
    assert!(strangers.is_empty(), "not in names::ROUTER: {strangers:?}");
    assert!(declared.contains(&"TaskExecStart"));
}

#[test]
fn payloads_are_not_copied_when_decoded() {
    let chunk = wire::client::DataChunk {
        data_oneof: Some(wire::client::data_chunk::DataOneof::Data(vec![7; 4_096].into())),
        ..Default::default()
    };
    let encoded = Bytes::from(chunk.encode_to_vec());
    let decoded = wire::client::DataChunk::decode(encoded.clone()).expect("it decodes");
    let Some(wire::client::data_chunk::DataOneof::Data(data)) = decoded.data_oneof else {
        panic!("the data is gone");
    };
    assert!(encoded.as_ptr_range().contains(&data.as_ptr()));
}

/// A server in this process that creates apps and reads dicts.
#[derive(Clone)]
struct Server;

struct CreateApp;

impl UnaryService<AppCreateRequest> for CreateApp {
    type Response = AppCreateResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AppCreateResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<AppCreateRequest>) -> Self::Future {
        Box::pin(async move {
            if request.get_ref().description.is_empty() {
                return Err(Status::invalid_argument("an app needs a description"));
            }
            let token = request.metadata().get("x-modal-token-id").cloned();
            let app_id = format!("ap-{}", request.get_ref().description);
            let mut response = Response::new(AppCreateResponse { app_id, ..Default::default() });
            if let Some(token) = token {
                response.metadata_mut().insert("x-seen", token);
            }
            Ok(response)
        })
    }
}

struct ReadDict;

type Entries = tokio_stream::Iter<std::vec::IntoIter<Result<DictEntry, Status>>>;

impl ServerStreamingService<DictContentsRequest> for ReadDict {
    type Response = DictEntry;
    type ResponseStream = Entries;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Entries>, Status>> + Send>>;

    fn call(&mut self, _: Request<DictContentsRequest>) -> Self::Future {
        let entry = |key: &'static [u8]| DictEntry { key: key.into(), value: Bytes::new() };
        let entries = vec![Ok(entry(b"a")), Ok(entry(b"b")), Err(Status::data_loss("torn"))];
        Box::pin(async { Ok(Response::new(tokio_stream::iter(entries))) })
    }
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                path if path == client::AppCreate::PATH => {
                    let codec = ProstCodec::<AppCreateResponse, AppCreateRequest>::default();
                    Grpc::new(codec).unary(CreateApp, request).await
                }
                path if path == client::DictContents::PATH => {
                    let codec = ProstCodec::<DictEntry, DictContentsRequest>::default();
                    Grpc::new(codec).server_streaming(ReadDict, request).await
                }
                path => Status::unimplemented(path.to_owned()).into_http(),
            })
        })
    }
}

#[tokio::test]
async fn a_call_carries_message_and_metadata() {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-modal-token-id", "ak-1".parse().expect("ascii"));
    let request = AppCreateRequest { description: "hello".into(), ..Default::default() };
    let response = rpc::call::<client::AppCreate>(Server, metadata, request).await.expect("an app");
    assert_eq!(response.metadata().get("x-seen").expect("it was sent"), "ak-1");
    assert_eq!(response.into_inner().app_id, "ap-hello");
}

#[tokio::test]
async fn a_call_brings_back_the_status() {
    let nothing = AppCreateRequest::default();
    let refused = rpc::call::<client::AppCreate>(Server, MetadataMap::new(), nothing).await;
    let refused = refused.expect_err("no description");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "an app needs a description");

    let missing =
        rpc::call::<client::AppList>(Server, MetadataMap::new(), Default::default()).await;
    assert_eq!(missing.expect_err("not served").code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_stream_ends_with_its_status() {
    let response =
        rpc::stream::<client::DictContents>(Server, MetadataMap::new(), Default::default());
    let mut entries = response.await.expect("a stream").into_inner();
    for key in ["a", "b"] {
        let entry = entries.message().await.expect("no error yet").expect("an entry");
        assert_eq!(entry.key, key);
    }
    assert_eq!(entries.message().await.expect_err("torn").code(), Code::DataLoss);
}
