//! From HTTP to rows: who calls is settled and the gate passed before the body is read.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};

use super::gate::{Caller, Meta, RESTRICTED};
use super::identity;
use super::intake::{self, Intake};
use super::receipt;
use super::table::{Answer, Row, RpcTable};
use crate::Plane;
use crate::blobs::Door;
use crate::limits::MESSAGE_BYTES_MAX;

/// Passes messages through as bytes: rows decode for themselves.
#[derive(Debug, Clone, Copy, Default)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

/// How a request came in.
#[derive(Debug, Clone)]
pub enum Transport {
    /// Through the server's port: the headers say who it is.
    Port,
    /// Through a container's own socket: the socket says who it is, headers are not looked at.
    Door(Box<Caller>),
}

impl Transport {
    /// What blobs may pass through it.
    pub fn blob_door(&self) -> Door {
        let Self::Door(caller) = self else { return Door::Port };
        match caller.as_ref() {
            // Whoever has no identity gets the narrowest door there is: one that fits nobody.
            Caller::Nobody(_) => Door::Restricted(model::TaskId::new([0; 16])),
            Caller::User(user) => Door::Workspace(user.scope.workspace.clone()),
            Caller::Task(task) => Door::Workspace(task.scope.workspace.clone()),
            Caller::Restricted(task) => Door::Restricted(task.id.clone()),
        }
    }
}

/// The protocol as a service of HTTP requests.
#[derive(Debug, Clone)]
pub struct Api {
    plane: Arc<Plane>,
    tables: Arc<[RpcTable]>,
    transport: Transport,
    intake: Intake,
}

impl Api {
    /// The service as it is met through one transport.
    pub fn new(plane: Arc<Plane>, tables: Arc<[RpcTable]>, transport: Transport) -> Self {
        let intake = Intake::new(&transport);
        Self { plane, tables, transport, intake }
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        if let Some(status) = wire::rpc::no_grpc(&request) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            return response;
        }
        let caller = match self.transport {
            Transport::Port => self.plane.identify(request.headers()).await,
            Transport::Door(caller) => Ok(*caller),
        };
        let caller = match caller {
            Ok(caller) => caller,
            Err(refusal) => return Status::from(refusal).into_http(),
        };
        let path = request.uri().path();
        let Some(row) = self.tables.iter().find_map(|table| table.row(path)) else {
            return unknown(&caller, path).into_http();
        };
        if let Err(refusal) = row.admits(caller.clone()) {
            return Status::from(refusal).into_http();
        }
        let turn = match self.intake.turn().await {
            Ok(turn) => turn,
            Err(status) => return status.into_http(),
        };
        let meta = meta(&request, &caller);
        let call = Call { row, plane: self.plane, caller, meta };
        intake::hold(serve(call, &self.intake, request).await, turn)
    }
}

/// What is said of a path that no row has.
fn unknown(caller: &Caller, path: &str) -> Status {
    match caller {
        Caller::Nobody(why) => Status::unauthenticated(*why),
        Caller::Restricted(_) => Status::unauthenticated(RESTRICTED),
        Caller::User(_) | Caller::Task(_) => {
            let path: String = path.chars().take(200).collect();
            Status::unimplemented(format!("this server does not know the rpc {path}"))
        }
    }
}

fn meta<B>(request: &Request<B>, caller: &Caller) -> Meta {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let client_version = text("x-modal-client-version").unwrap_or_default();
    // Whoever asks in TLS goes on in TLS. A container's requests name a host, too, but its client
    // knows that its socket is none.
    let uri = request.uri();
    let by_loopback = matches!(caller, Caller::User(_))
        && uri.scheme_str() == Some("http")
        && uri.host().is_some_and(identity::is_loopback_name);
    let is_python = text("x-modal-python-version").is_some();
    // A container's keys are its own: it cannot fetch an answer that was given to somebody else.
    let whose = match caller {
        Caller::Nobody(_) | Caller::User(_) => String::new(),
        Caller::Task(task) | Caller::Restricted(task) => format!("{}:", task.id),
    };
    Meta {
        client_version: client_version.to_owned(),
        takes_plain_router: by_loopback && is_python && identity::takes_http_router(client_version),
        idempotency_key: text("x-idempotency-key")
            .filter(|key| !key.is_empty() && key.len() <= 128)
            .map(|key| format!("{whose}{key}")),
    }
}

struct Call<'a> {
    row: &'a Row,
    plane: Arc<Plane>,
    caller: Caller,
    meta: Meta,
}

impl UnaryService<Bytes> for Call<'_> {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let Answer::Unary(handler) = &self.row.answer else { return wrong_kind() };
        let body = request.into_inner();
        let work = handler(self.plane.clone(), self.caller.clone(), self.meta.clone(), body);
        Box::pin(async move {
            let (message, receipt) = work.await?;
            let mut answer = tonic::Response::new(message);
            receipt::enclose(&mut answer, receipt);
            Ok(answer)
        })
    }
}

impl ServerStreamingService<Bytes> for Call<'_> {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let Answer::Stream(handler) = &self.row.answer else { return wrong_kind() };
        let body = request.into_inner();
        let work = handler(self.plane.clone(), self.caller.clone(), self.meta.clone(), body);
        Box::pin(async move {
            let stream = work.await?.map(|item| item.map_err(Status::from)).boxed();
            Ok(tonic::Response::new(stream))
        })
    }
}

/// `serve` chooses by the row's kind, so that this is not reached.
fn wrong_kind<T: Send + 'static>() -> BoxFuture<'static, Result<T, Status>> {
    Box::pin(async { Err(Status::internal("the row answers in another way")) })
}

async fn serve(call: Call<'_>, intake: &Intake, request: Request<Body>) -> Response<Body> {
    let mut grpc = Grpc::new(BytesCodec)
        .max_decoding_message_size(intake.message_bytes_max())
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (parts, body) = request.into_parts();
    // The room is given back when the handler is done with the message.
    let (body, _room) = intake.weigh(body);
    let request = Request::from_parts(parts, body);
    match call.row.answer {
        Answer::Unary(_) => receipt::tie(grpc.unary(call, request).await),
        Answer::Stream(_) => grpc.server_streaming(call, request).await,
        Answer::Declined(reason) => {
            Status::unimplemented(format!("{} is not served: {reason}", call.row.name)).into_http()
        }
    }
}

impl<B> tower::Service<Request<B>> for Api
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { Ok(api.answer(request.map(Body::new)).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::{Task, User};
    use super::*;

    fn takes_plain_router(uri: &str, python: bool, version: &str) -> bool {
        of(&user(), uri, python, version)
    }

    fn scope() -> store::Scope {
        store::Scope { workspace: model::WorkspaceId::new([1; 16]) }
    }

    fn user() -> Caller {
        Caller::User(User { scope: scope() })
    }

    fn of(caller: &Caller, uri: &str, python: bool, version: &str) -> bool {
        let mut request = Request::post(uri).header("x-modal-client-version", version);
        if python {
            request = request.header("x-modal-python-version", "3.11.2");
        }
        meta(&request.body(()).unwrap(), caller).takes_plain_router
    }

    /// Whoever is told of a plaintext router that does not take one cannot work at all.
    #[test]
    fn a_plain_router_is_for_new_python_clients_on_loopback() {
        for host in ["127.0.0.1:50051", "localhost:1", "[::1]:50051"] {
            assert!(takes_plain_router(&format!("http://{host}/x"), true, "1.6.4"), "{host}");
        }
        for host in ["127.0.0.2:50051", "palisade.example:443", "10.0.0.1:1", "localhost.example:1"]
        {
            assert!(!takes_plain_router(&format!("http://{host}/x"), true, "1.6.4"), "{host}");
        }
        for (version, takes) in [("1.4.3", false), ("1.5.0", true), ("2.0.0", true), ("", false)] {
            assert_eq!(
                takes_plain_router("http://127.0.0.1:1/x", true, version),
                takes,
                "{version}"
            );
        }
        assert!(!takes_plain_router("http://127.0.0.1:1/x", false, "1.6.4"));
        assert!(!takes_plain_router("https://127.0.0.1:1/x", true, "1.6.4"));
        assert!(!takes_plain_router("/x", true, "1.6.4"));
        let task = Caller::Task(Task {
            scope: scope(),
            id: model::TaskId::new([1; 16]),
            app: model::AppId::new([1; 16]),
            function: model::FunctionId::new([1; 16]),
            restricted: false,
        });
        assert!(!of(&task, "http://127.0.0.1:50051/x", true, "1.6.4"));
    }
}
