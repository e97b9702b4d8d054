//! Chunks that stream beside a call: what a generator yields on its way to the caller.

use futures::Stream;
use model::output::Payload;
use model::{BlobId, CallId};
use store::calls::{self, Chunk, Direction};
use store::{Hint, inputs};
use wire::client as pb;

use super::containers::restricts_output;
use super::gate::{Cx, Known, Member, Task};
use super::outcome::is_pickle_free;
use super::poll::Poll;
use super::refusal::Refusal;
use crate::Plane;
use crate::limits::{CHUNK_BYTES_MIN, CHUNKS_PER_REQUEST_MAX, POLL_MAX, TASK_PAYLOADS_MAX};

/// Chunks in one look at the store.
const CHUNKS_PER_LOOK: u32 = 64;

fn call_id(info: Option<&str>) -> Result<CallId, Refusal> {
    let id = info.ok_or_else(|| Refusal::invalid("function_call_id", "it is missing"))?;
    Ok(CallId::parse(id)?)
}

/// Takes chunks from a container that holds, or held, an input of the call.
pub(super) async fn put_out(
    cx: Cx<Task>,
    req: pb::FunctionCallPutDataRequest,
) -> Result<(), Refusal> {
    use pb::function_call_put_data_request::CallInfo;
    let id = match &req.call_info {
        Some(CallInfo::FunctionCallId(id)) => call_id(Some(id))?,
        Some(CallInfo::AttemptToken(_)) | None => call_id(None)?,
    };
    if req.data_chunks.len() > CHUNKS_PER_REQUEST_MAX {
        let text = format!("more than {CHUNKS_PER_REQUEST_MAX} chunks in one request");
        return Err(Refusal::Exhausted(text));
    }
    if restricts_output(&cx).await?
        && !req.data_chunks.iter().all(|chunk| is_pickle_free(chunk.data_format))
    {
        let why = "the function may not yield pickles (restricted output), but it did";
        return Err(Refusal::invalid("data_chunks.data_format", why));
    }
    let mut tx = cx.plane.store.begin().await?;
    if !inputs::task_has_call(&mut tx, &cx.caller.id, &id).await? {
        return Err(Refusal::not_found("function call", &id));
    }
    charge(&cx, &req.data_chunks)?;
    for chunk in req.data_chunks {
        let data = match chunk.data_oneof {
            Some(pb::data_chunk::DataOneof::Data(bytes)) => Payload::Inline(bytes),
            Some(pb::data_chunk::DataOneof::DataBlobId(blob)) => {
                Payload::Blob(own_blob(&cx, &mut tx, &blob).await?)
            }
            None => Payload::empty(),
        };
        let chunk = Chunk { index: chunk.index, data_format: chunk.data_format, data };
        calls::put_chunk(&mut tx, &id, Direction::Out, &chunk).await?;
    }
    tx.ring(Hint::Data(id));
    tx.commit().await?;
    Ok(())
}

/// Counts chunks towards what the container may stream: as much as it may keep in blobs.
fn charge(cx: &Cx<Task>, chunks: &[pb::DataChunk]) -> Result<(), Refusal> {
    let inline = |chunk: &pb::DataChunk| match &chunk.data_oneof {
        Some(pb::data_chunk::DataOneof::Data(bytes)) => bytes.len() as u64,
        Some(pb::data_chunk::DataOneof::DataBlobId(_)) | None => 0,
    };
    let bytes = chunks.iter().map(|chunk| inline(chunk).max(CHUNK_BYTES_MIN)).sum();
    let most = cx.plane.config.payload_bytes_max.saturating_mul(TASK_PAYLOADS_MAX);
    if cx.plane.streamed.add(&cx.caller.id, bytes, most) {
        return Ok(());
    }
    let text = format!("this container has streamed all of the {most} bytes that it may");
    Err(Refusal::Exhausted(text))
}

/// A blob that this container made itself.
pub(super) async fn own_blob(
    cx: &Cx<Task>,
    db: &mut store::Db,
    id: &str,
) -> Result<BlobId, Refusal> {
    let unknown = || Refusal::not_found("blob", id);
    let blob = store::blobs::get(db, cx.scope(), &BlobId::parse(id)?).await?;
    let blob = blob.ok_or_else(unknown)?;
    let own = blob.task.as_ref() == Some(&cx.caller.id);
    if own && blob.sha256.is_some() { Ok(blob.id) } else { Err(unknown()) }
}

/// Streams chunks towards the caller.
pub(super) async fn get_out(
    cx: Cx<Member>,
    req: pb::FunctionCallGetDataRequest,
) -> Result<impl Stream<Item = Result<pb::DataChunk, Refusal>> + use<>, Refusal> {
    let (id, after) = read(&req)?;
    let call = calls::get(&mut *cx.plane.store.read().await?, cx.scope(), &id).await?;
    call.ok_or_else(|| Refusal::not_found("function call", &id))?;
    Ok(follow(cx.plane, id, Direction::Out, after))
}

/// Streams chunks towards the container: its own calls alone.
pub(super) async fn get_in(
    cx: Cx<Known>,
    req: pb::FunctionCallGetDataRequest,
) -> Result<impl Stream<Item = Result<pb::DataChunk, Refusal>> + use<>, Refusal> {
    let (id, after) = read(&req)?;
    let mut db = cx.plane.store.read().await?;
    let found = match cx.caller.task() {
        Some(task) => inputs::task_has_call(&mut db, &task.id, &id).await?,
        None => calls::get(&mut db, cx.scope(), &id).await?.is_some(),
    };
    drop(db);
    if !found {
        return Err(Refusal::not_found("function call", &id));
    }
    Ok(follow(cx.plane, id, Direction::In, after))
}

fn read(req: &pb::FunctionCallGetDataRequest) -> Result<(CallId, u64), Refusal> {
    use pb::function_call_get_data_request::CallInfo;
    let id = match &req.call_info {
        Some(CallInfo::FunctionCallId(id)) => call_id(Some(id))?,
        Some(CallInfo::AttemptToken(_)) | None => call_id(None)?,
    };
    Ok((id, req.last_index))
}

struct Follow {
    plane: std::sync::Arc<Plane>,
    id: CallId,
    direction: Direction,
    after: u64,
    ready: std::collections::VecDeque<Chunk>,
    poll: Poll,
}

fn follow(
    plane: std::sync::Arc<Plane>,
    id: CallId,
    direction: Direction,
    after: u64,
) -> impl Stream<Item = Result<pb::DataChunk, Refusal>> + use<> {
    let poll = Poll::begin(&plane, Hint::Data(id.clone()), POLL_MAX);
    let ready = std::collections::VecDeque::new();
    let follow = Follow { plane, id, direction, after, ready, poll };
    futures::stream::unfold(follow, |mut follow| async move {
        follow.next().await.map(|item| (item, follow))
    })
}

impl Follow {
    async fn next(&mut self) -> Option<Result<pb::DataChunk, Refusal>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.after = chunk.index;
                return Some(Ok(message(chunk)));
            }
            match self.look().await {
                Ok(chunks) if !chunks.is_empty() => {
                    self.ready = chunks.into();
                    continue;
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error.into())),
            }
            if !self.poll.again(&self.plane).await {
                return None;
            }
        }
    }

    async fn look(&self) -> Result<Vec<Chunk>, store::Error> {
        let mut db = self.plane.store.read().await?;
        calls::chunks(&mut db, &self.id, self.direction, self.after, CHUNKS_PER_LOOK).await
    }
}

fn message(chunk: Chunk) -> pb::DataChunk {
    let data = match chunk.data {
        Payload::Inline(bytes) => pb::data_chunk::DataOneof::Data(bytes),
        Payload::Blob(id) => pb::data_chunk::DataOneof::DataBlobId(id.into()),
    };
    pb::DataChunk { data_format: chunk.data_format, index: chunk.index, data_oneof: Some(data) }
}
