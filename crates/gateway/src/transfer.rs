//! Blob transfer: the bytes of large arguments, results and files. The token in the URL is the
//! permission; a container's door serves that container's own blobs alone.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use http::{StatusCode, header};
use plane::Plane;
use plane::api::refusal::Refusal;
use plane::blobs::Door;
use tokio_util::io::ReaderStream;

/// What the routes share.
#[derive(Clone)]
pub(crate) struct Blobs {
    pub(crate) plane: Arc<Plane>,
    pub(crate) door: Door,
}

/// Bytes that are read from the disk at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// A refusal as HTTP says it. The client shows the status and the text.
fn refuse(refusal: Refusal) -> Response {
    let text = refusal.to_string();
    let status = match refusal {
        Refusal::NotFound(_) => StatusCode::NOT_FOUND,
        Refusal::Invalid { .. } => StatusCode::BAD_REQUEST,
        Refusal::Exists(_) | Refusal::Conflict(_) => StatusCode::CONFLICT,
        Refusal::Exhausted(_) => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::Unauthenticated(_) | Refusal::Denied(_) => StatusCode::FORBIDDEN,
        Refusal::Unserved(_) => StatusCode::NOT_IMPLEMENTED,
        Refusal::TooLate(_) => StatusCode::REQUEST_TIMEOUT,
        Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Passed(_) => StatusCode::BAD_GATEWAY,
        Refusal::Internal(source) => {
            tracing::error!(error = %source, "a blob could not be transferred");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    (status, text).into_response()
}

/// Takes a blob's bytes. The client compares the `ETag` with the body's MD5 (modal 1.6.4).
pub(crate) async fn upload(
    State(blobs): State<Blobs>,
    Path(token): Path<String>,
    body: Body,
) -> Response {
    let stream = Box::pin(body.into_data_stream().map_err(std::io::Error::other));
    match blobs.plane.upload(&token, &blobs.door, stream).await {
        Ok(uploaded) => {
            ([(header::ETAG, format!("\"{}\"", uploaded.md5_hex))], StatusCode::OK).into_response()
        }
        Err(refusal) => refuse(refusal),
    }
}

/// Gives a blob's bytes.
pub(crate) async fn download(State(blobs): State<Blobs>, Path(token): Path<String>) -> Response {
    match blobs.plane.download(&token, &blobs.door).await {
        Ok((size_bytes, file)) => {
            let headers = [
                (header::CONTENT_LENGTH, size_bytes.to_string()),
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            ];
            let body = Body::from_stream(ReaderStream::with_capacity(file, CHUNK_BYTES));
            (headers, body).into_response()
        }
        Err(refusal) => refuse(refusal),
    }
}
