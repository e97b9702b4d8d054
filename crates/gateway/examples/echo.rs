//! A unary gRPC echo behind the same port as the real server: what one call costs at least.
//! Prints its port, and serves until its standard input ends.

use std::convert::Infallible;
use std::io::{Read, Write};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use gateway::{Port, Speech};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

/// The largest message that is echoed.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Sends the framed message back as it came, then the status.
async fn echo(body: Body) -> Response {
    let message = axum::body::to_bytes(body, MESSAGE_BYTES_MAX).await.unwrap_or_default();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = [Frame::data(message), Frame::trailers(trailers)];
    let frames = futures::stream::iter(frames.map(Ok::<_, Infallible>));
    let mut response = Response::new(Body::new(StreamBody::new(frames).boxed()));
    let kind = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = Port::open(([127, 0, 0, 1], 0).into()).await?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", port.address().port())?;
    stdout.flush()?;
    drop(stdout);
    let ended = tokio::task::spawn_blocking(|| {
        let mut rest = Vec::new();
        // Whatever comes, the end is what counts.
        let _ = std::io::stdin().lock().read_to_end(&mut rest);
    });
    let closed = async move {
        let _ = ended.await;
    };
    port.serve(Router::new().fallback(echo), &Speech::Plaintext, closed).await;
    Ok(())
}
