//! The start of a program: its secrets are looked up here, so that a supervisor needs nobody.

use bytes::{BufMut, BytesMut};
use http::{Request, Response};
use http_body_util::Full;
use model::{SecretId, TaskId};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use wire::client::secret_source::Source;
use wire::client::{SecretSource, StringMap};
use wire::router::TaskExecStartRequest;

use super::known::{self, HEAD_BYTES};
use super::{Desk, Variables, forward};

/// Passes the start of a program on, with the values of its secrets.
pub(super) async fn pass(
    desk: &Desk,
    task: &TaskId,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let holder = desk.holder_of(task)?;
    let (parts, body) = request.into_parts();
    let mut start = decode(body).await?;
    super::check_task(task, &start.task_id)?;
    resolve(desk, task, &mut start).await?;
    let mut framed = BytesMut::with_capacity(HEAD_BYTES + start.encoded_len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(start.encoded_len()).unwrap_or(u32::MAX));
    start.encode(&mut framed).map_err(|error| Status::internal(error.to_string()))?;
    let body = Body::new(Full::new(framed.freeze()));
    forward::pass(&holder, Request::from_parts(parts, body)).await
}

async fn decode(body: Body) -> Result<TaskExecStartRequest, Status> {
    TaskExecStartRequest::decode(known::only_message(body).await?).map_err(|error| {
        Status::invalid_argument(format!("the request is not a valid message: {error}"))
    })
}

/// Puts values where secrets are named, in the order in which later ones win.
async fn resolve(
    desk: &Desk,
    task: &TaskId,
    start: &mut TaskExecStartRequest,
) -> Result<(), Status> {
    // Older clients name secrets in a list of their own.
    let listed = std::mem::take(&mut start.secret_ids).into_iter().map(Source::SecretId);
    let listed = listed.map(|source| SecretSource { source: Some(source) });
    start.secret_sources.splice(0..0, listed);
    let named = |source: &SecretSource| match &source.source {
        Some(Source::SecretId(id)) => Some(id.clone()),
        Some(Source::Env(_)) | None => None,
    };
    let ids: Vec<_> = start.secret_sources.iter().filter_map(named).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let unknown = |error| Status::not_found(format!("secret_sources: {error}"));
    let ids: Result<Vec<_>, _> = ids.iter().map(|id| SecretId::parse(id)).collect();
    let mut values = (desk.secrets)(task.clone(), ids.map_err(unknown)?).await?.into_iter();
    for source in &mut start.secret_sources {
        if let Some(Source::SecretId(id)) = &source.source {
            let variables: Variables = values
                .next()
                .ok_or_else(|| Status::not_found(format!("secret_sources: `{id}` not found")))?;
            let contents = variables.into_iter().collect();
            source.source = Some(Source::Env(StringMap { contents }));
        }
    }
    Ok(())
}
