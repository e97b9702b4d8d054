//! Requests as they come from the network: frames of bytes, whole or broken.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use http::{Method, Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use plane::Api;
use tonic::Code;
use tower::Service;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) http_status: u16,
    pub(crate) code: Code,
    pub(crate) text: String,
    /// The first message, if there is one.
    pub(crate) message: Option<Bytes>,
}

/// One message in its frame.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

/// A request of HTTP/2, as every client sends it.
pub(crate) fn request<B>(path: &str, headers: &http::HeaderMap, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = path.parse().unwrap();
    *request.headers_mut() = headers.clone();
    request
}

/// A body of these pieces, and no more.
pub(crate) fn pieces(
    pieces: Vec<Bytes>,
) -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static> {
    StreamBody::new(futures::stream::iter(pieces.into_iter().map(|p| Ok(Frame::data(p)))))
}

/// A body of these pieces, that never ends.
pub(crate) fn endless(
    pieces: Vec<Bytes>,
) -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static> {
    use futures::StreamExt;
    let given = futures::stream::iter(pieces.into_iter().map(|p| Ok(Frame::data(p))));
    StreamBody::new(given.chain(futures::stream::pending()))
}

/// Sends a request and takes the whole answer; nothing if it does not come within `most`, or goes
/// on for longer.
pub(crate) async fn send<B>(mut api: Api, request: Request<B>, most: Duration) -> Option<Answered>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let work = async {
        let response = api.call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await;
        let trailers = body.as_ref().ok().and_then(|body| body.trailers().cloned());
        let trailers = trailers.unwrap_or_default();
        let find = |name: &str| {
            let value = parts.headers.get(name).or_else(|| trailers.get(name));
            value.and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let code = find("grpc-status").map_or(Code::Unknown, |n| Code::from_bytes(n.as_bytes()));
        let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
        Answered {
            http_status: parts.status.as_u16(),
            code,
            text: find("grpc-message").unwrap_or_default().replace("%20", " "),
            message: bytes.get(5..).map(Bytes::copy_from_slice),
        }
    };
    tokio::time::timeout(most, work).await.ok()
}
