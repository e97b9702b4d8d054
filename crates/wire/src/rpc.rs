//! One marker type per rpc, and a typed call over any transport.
//!
//! A marker ties together the name, the path and the message types of an rpc, so that a table can
//! route by it and a caller needs no generated client: `call::<AppCreate>(channel, metadata,
//! request)`.

use http_body::Body as HttpBody;
use prost::bytes::Bytes;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::StdError;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::limits::MESSAGE_BYTES_MAX;

/// A remote procedure, known by its type.
pub trait Rpc: Send + Sync + 'static {
    /// The name within its service, such as `AppCreate`.
    const NAME: &'static str;
    /// The path of its HTTP request: `/package.Service/Name`.
    const PATH: &'static str;
    /// What is sent.
    type Request: prost::Message + prost::Name + Default + Send + 'static;
    /// What is answered, once or many times.
    type Response: prost::Message + prost::Name + Default + Send + 'static;
}

/// One request, one response.
pub trait Unary: Rpc {}

/// One request, a stream of responses.
pub trait ServerStreaming: Rpc {}

/// A stream of requests, one response.
pub trait ClientStreaming: Rpc {}

/// The rpcs of [`crate::ROUTER_SERVICE`] that are declared here.
pub mod router {
    use super::{ClientStreaming, Rpc, ServerStreaming, Unary};
    use crate::router as messages;

    include!(concat!(env!("OUT_DIR"), "/markers_TaskCommandRouter.rs"));
}

/// The rpcs of [`crate::CLIENT_SERVICE`] that are declared here.
pub mod client {
    use super::{Rpc, ServerStreaming, Unary};
    use crate::client as messages;

    include!(concat!(env!("OUT_DIR"), "/markers_ModalClient.rs"));
}

/// Calls an rpc and waits for its response, which keeps the metadata of headers and trailers.
///
/// `service` is a `tonic::transport::Channel`, or anything else that takes gRPC requests over HTTP.
///
/// # Errors
/// The status that the other side answered; `Unavailable` if the transport fails.
pub async fn call<R: Unary>(
    service: impl GrpcService<
        Body,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError>> + Send + 'static,
        Error: Into<StdError>,
    >,
    metadata: MetadataMap,
    request: R::Request,
) -> Result<Response<R::Response>, Status> {
    let mut grpc = ready(service).await?;
    grpc.unary(with_metadata(metadata, request), PathAndQuery::from_static(R::PATH), codec::<R>())
        .await
}

/// Calls an rpc that answers with a stream. The stream ends with the status of the other side.
///
/// # Errors
/// As [`call`], for what happens before the first message.
pub async fn stream<R: ServerStreaming>(
    service: impl GrpcService<
        Body,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError>> + Send + 'static,
        Error: Into<StdError>,
    >,
    metadata: MetadataMap,
    request: R::Request,
) -> Result<Response<Streaming<R::Response>>, Status> {
    let mut grpc = ready(service).await?;
    let path = PathAndQuery::from_static(R::PATH);
    grpc.server_streaming(with_metadata(metadata, request), path, codec::<R>()).await
}

/// The HTTP status that a request hears which is not gRPC over HTTP/2; none if it is. A service
/// that answers nothing else cannot be called by the browser of a user who looks at a web page.
pub fn no_grpc<B>(request: &http::Request<B>) -> Option<http::StatusCode> {
    if request.version() != http::Version::HTTP_2 {
        return Some(http::StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    }
    if request.method() != http::Method::POST {
        return Some(http::StatusCode::METHOD_NOT_ALLOWED);
    }
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok());
    let rest = kind.and_then(|kind| kind.strip_prefix("application/grpc"));
    let grpc = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']));
    (!grpc).then_some(http::StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

fn codec<R: Rpc>() -> ProstCodec<R::Request, R::Response> {
    ProstCodec::default()
}

fn with_metadata<T>(metadata: MetadataMap, message: T) -> Request<T> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata;
    request
}

/// A client on top of `service`, once that can take a request.
async fn ready<S: GrpcService<Body, Error: Into<StdError>>>(service: S) -> Result<Grpc<S>, Status> {
    let mut grpc = Grpc::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await.map_err(|error| {
        let error: StdError = error.into();
        Status::unavailable(format!("the service takes no requests: {error}"))
    })?;
    Ok(grpc)
}
