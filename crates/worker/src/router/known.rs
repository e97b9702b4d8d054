//! Requests that make or change something, read whole: what they hold beyond what is declared here
//! could not be enforced, so it is refused by name (A13).

use bytes::{Buf, Bytes};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use tonic::Status;
use tonic::body::Body;

use crate::limits::EXEC_REQUEST_BYTES_MAX;

/// The head of a message: whether it is compressed, and its length.
pub(super) const HEAD_BYTES: usize = 5;

/// A request of the rpc `name`, once all of its fields are known.
///
/// # Errors
/// A refusal that names the fields that are not.
pub(super) async fn check(name: &str, request: Request<Body>) -> Result<Request<Body>, Status> {
    let (parts, body) = request.into_parts();
    let whole = whole(body).await?;
    let message = format!("modal.task_command_router.{name}Request");
    let unknown = wire::unknown::fields(&message, message_of(whole.clone())?)
        .map_err(|error| Status::invalid_argument(format!("request: {error}")))?;
    if !unknown.is_empty() {
        return Err(Status::invalid_argument(format!(
            "request: this server does not know {}, so it cannot enforce it: use a client of a \
             release that the server knows, or leave it out",
            unknown.join(", ")
        )));
    }
    Ok(Request::from_parts(parts, Body::new(Full::new(whole))))
}

/// The only message of a body.
///
/// # Errors
/// When it is too long, or none.
pub(super) async fn only_message(body: Body) -> Result<Bytes, Status> {
    message_of(whole(body).await?)
}

async fn whole(body: Body) -> Result<Bytes, Status> {
    let large = || {
        Status::invalid_argument(format!(
            "the request has more than {} MiB: send less in its arguments and variables",
            EXEC_REQUEST_BYTES_MAX >> 20
        ))
    };
    let body = Limited::new(body, EXEC_REQUEST_BYTES_MAX).collect().await.map_err(|_| large())?;
    Ok(body.to_bytes())
}

fn message_of(mut body: Bytes) -> Result<Bytes, Status> {
    let incomplete = || Status::invalid_argument("the request is not one whole message");
    if body.len() < HEAD_BYTES {
        return Err(incomplete());
    }
    if body.get_u8() != 0 {
        return Err(Status::unimplemented("compressed messages are not served"));
    }
    if usize::try_from(body.get_u32()).ok() != Some(body.len()) {
        return Err(incomplete());
    }
    Ok(body)
}
