//! Calling functions: clients put inputs and take outputs.

use std::sync::Arc;
use std::time::Duration;

use model::output::Payload;
use model::{AppId, CallId, FunctionId, InputId};
use store::calls::{self, Call};
use store::functions::Function;
use store::inputs::{self, Carried};
use store::outcomes::{self, DoneInput, Wanted};
use store::{Hint, Tx, apps};
use wire::client as pb;

use super::gate::{Cx, Member};
use super::logs::place;
use super::outcome::{carried, generic_result, inline_bytes};
use super::poll::Poll;
use super::refusal::Refusal;
use crate::limits::{
    INPUTS_OUTSTANDING_MAX, INPUTS_PER_REQUEST_MAX, INPUTS_QUEUED_MAX, OUTPUT_BYTES_MAX,
    OUTPUTS_MAX, POLL_MAX,
};
use crate::submission::Submitted;

/// Inputs of a request, checked: an index and what is carried.
fn read_inputs(items: Vec<pb::FunctionPutInputsItem>) -> Result<Vec<(u32, Carried)>, Refusal> {
    if items.len() > INPUTS_PER_REQUEST_MAX {
        let text = format!("more than {INPUTS_PER_REQUEST_MAX} inputs in one request: send fewer");
        return Err(Refusal::Exhausted(text));
    }
    items
        .into_iter()
        .map(|item| {
            let index = u32::try_from(item.idx)
                .map_err(|_| Refusal::invalid("inputs.idx", "it is negative"))?;
            let input = item.input.ok_or_else(|| {
                Refusal::invalid("inputs.input", "it is missing: send one per item")
            })?;
            Ok((index, carried(input)?))
        })
        .collect()
}

/// A blob that an input names must be the caller's, and be there.
async fn check_blobs(
    cx: &Cx<Member>,
    tx: &mut Tx,
    wanted: &[(u32, Carried)],
) -> Result<(), Refusal> {
    for (_, carried) in wanted {
        let Payload::Blob(id) = &carried.args else { continue };
        let blob = store::blobs::get(tx, cx.scope(), id).await?;
        if blob.is_none_or(|blob| blob.sha256.is_none()) {
            return Err(Refusal::not_found("blob", id));
        }
    }
    Ok(())
}

/// A call takes no inputs once it is cancelled, or its app has ended: nobody would ever run them.
async fn check_open(cx: &Cx<Member>, tx: &mut Tx, call: &Call) -> Result<(), Refusal> {
    if call.cancelled_at.is_some() {
        return Err(Refusal::Conflict(format!("call `{}` was cancelled", call.id)));
    }
    let app = apps::get(tx, cx.scope(), &call.app).await?;
    if app.is_none_or(|app| app.stopped_at.is_some()) {
        return Err(ended(&call.app));
    }
    Ok(())
}

fn ended(app: &AppId) -> Refusal {
    Refusal::Conflict(format!("app `{app}` has ended: start it again"))
}

async fn check_room(
    cx: &Cx<Member>,
    tx: &mut Tx,
    function: &FunctionId,
    more: usize,
) -> Result<(), Refusal> {
    let (now, backlog) = (cx.now(), &cx.plane.backlog);
    let queued = match backlog.waiting(function, now) {
        Some(queued) => queued,
        None => {
            let queued = u64::from(inputs::counts(tx, function, now).await?.0);
            backlog.set(function, queued, now);
            queued
        }
    };
    if queued + more as u64 > u64::from(INPUTS_QUEUED_MAX) {
        let text = format!("{queued} inputs of the function wait already: try again later");
        return Err(Refusal::Exhausted(text));
    }
    backlog.add(function, more as u64);
    Ok(())
}

fn put_items(wanted: &[u32], ids: Vec<InputId>) -> Vec<pb::FunctionPutInputsResponseItem> {
    let item = |(index, id): (&u32, InputId)| pb::FunctionPutInputsResponseItem {
        idx: i32::try_from(*index).unwrap_or(i32::MAX),
        input_jwt: id.to_string(),
        input_id: id.into(),
    };
    wanted.iter().zip(ids).map(item).collect()
}

/// A new call, which counts `more` inputs already, or the one that was made with the same
/// idempotency key, which counts none of them. It takes inputs.
async fn call_of(
    cx: &Cx<Member>,
    tx: &mut Tx,
    req: &pb::FunctionMapRequest,
    more: u32,
) -> Result<(Call, u32), Refusal> {
    let id = FunctionId::parse(&req.function_id)?;
    let function = cx.plane.functions.get(tx, &id).await?;
    let own = |function: &Arc<Function>| {
        function.workspace == cx.scope().workspace && function.spec.is_some()
    };
    let function = function.filter(own);
    let function = function.ok_or_else(|| Refusal::not_found("function", &req.function_id))?;
    let call = Call {
        id: CallId::new(cx.plane.bits()),
        workspace: cx.scope().workspace.clone(),
        app: function.app.clone(),
        function: function.id.clone(),
        kind: req.function_call_type,
        invocation: req.function_call_invocation_type,
        created_at: cx.now(),
        input_count: more,
        done_count: 0,
        cancelled_at: None,
    };
    if calls::insert(tx, &call, cx.replay_key()).await? {
        return Ok((call, more));
    }
    let known = match cx.replay_key() {
        Some(key) => calls::by_key(tx, cx.scope(), key).await?,
        None => None,
    };
    let known = known.ok_or_else(|| ended(&function.app))?;
    if known.function != function.id {
        let text = "the idempotency key was used for a call of another function";
        return Err(Refusal::Conflict(text.into()));
    }
    check_open(cx, tx, &known).await?;
    Ok((known, 0))
}

/// Begins a call; its first inputs may come with it.
pub(super) async fn map(
    cx: Cx<Member>,
    mut req: pb::FunctionMapRequest,
) -> Result<pb::FunctionMapResponse, Refusal> {
    let wanted = read_inputs(std::mem::take(&mut req.pipelined_inputs))?;
    let indexes: Vec<u32> = wanted.iter().map(|(index, _)| *index).collect();
    let mut tx = cx.plane.store.begin().await?;
    let more = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    let (call, counted) = call_of(&cx, &mut tx, &req, more).await?;
    check_room(&cx, &mut tx, &call.function, wanted.len()).await?;
    check_blobs(&cx, &mut tx, &wanted).await?;
    let submitted = match wanted.is_empty() {
        true => None,
        false => Some(cx.plane.submit(&mut tx, &call, wanted, counted, cx.now()).await?),
    };
    tx.commit().await?;
    let ids = submitted.map(Submitted::deliver).unwrap_or_default();
    Ok(pb::FunctionMapResponse {
        function_call_jwt: call.id.to_string(),
        function_call_id: call.id.into(),
        pipelined_inputs: put_items(&indexes, ids),
        retry_policy: None,
        // Retries are the server's: they also cover spawned calls.
        sync_client_retries_enabled: false,
        max_inputs_outstanding: INPUTS_OUTSTANDING_MAX,
    })
}

/// Finds a call of the caller's.
async fn find(cx: &Cx<Member>, db: &mut store::Db, id: &str) -> Result<Call, Refusal> {
    let call = calls::get(db, cx.scope(), &CallId::parse(id)?).await?;
    call.ok_or_else(|| Refusal::not_found("function call", id))
}

/// Adds inputs to a call. An index that is there already stays as it is.
pub(super) async fn put_inputs(
    cx: Cx<Member>,
    req: pb::FunctionPutInputsRequest,
) -> Result<pb::FunctionPutInputsResponse, Refusal> {
    let wanted = read_inputs(req.inputs)?;
    let indexes: Vec<u32> = wanted.iter().map(|(index, _)| *index).collect();
    let mut tx = cx.plane.store.begin().await?;
    let call = find(&cx, &mut tx, &req.function_call_id).await?;
    check_open(&cx, &mut tx, &call).await?;
    check_room(&cx, &mut tx, &call.function, wanted.len()).await?;
    check_blobs(&cx, &mut tx, &wanted).await?;
    let submitted = cx.plane.submit(&mut tx, &call, wanted, 0, cx.now()).await?;
    tx.commit().await?;
    Ok(pb::FunctionPutInputsResponse { inputs: put_items(&indexes, submitted.deliver()) })
}

/// Says that no further input will come. Nothing waits for that word here.
pub(super) async fn finish_inputs(
    cx: Cx<Member>,
    req: pb::FunctionFinishInputsRequest,
) -> Result<(), Refusal> {
    find(&cx, &mut *cx.plane.store.read().await?, &req.function_call_id).await?;
    Ok(())
}

fn output(done: DoneInput) -> pb::FunctionGetOutputsItem {
    pb::FunctionGetOutputsItem {
        data_format: done.outcome.data_format,
        result: Some(generic_result(done.outcome)),
        idx: i32::try_from(done.index).unwrap_or(i32::MAX),
        input_id: done.id.into(),
        task_id: done.task.map(String::from).unwrap_or_default(),
        retry_count: done.retry_count,
        ..pb::FunctionGetOutputsItem::default()
    }
}

fn wanted(req: &pb::FunctionGetOutputsRequest) -> Result<Wanted, Refusal> {
    let (Some(low), Some(high)) = (req.start_idx, req.end_idx) else {
        return Ok(Wanted::After(place(&req.last_entry_id)));
    };
    match (u32::try_from(low), u32::try_from(high)) {
        (Ok(low), Ok(high)) if low <= high => Ok(Wanted::Indexes(low, high)),
        _ => Err(Refusal::invalid("start_idx", format!("{low} to {high} is no range"))),
    }
}

/// Waits for outputs of a call: those of a range of indexes, or those after a place in the order
/// of ending. Answers at once when there are some, else when the time is up.
pub(super) async fn get_outputs(
    cx: Cx<Member>,
    req: pb::FunctionGetOutputsRequest,
) -> Result<pb::FunctionGetOutputsResponse, Refusal> {
    let wanted = wanted(&req)?;
    let id = CallId::parse(&req.function_call_id)?;
    let wait = Duration::try_from_secs_f32(req.timeout).unwrap_or_default().min(POLL_MAX);
    let mut poll = Poll::begin(&cx.plane, Hint::Outputs(id.clone()), wait);
    let most = match u32::try_from(req.max_values) {
        Ok(0) | Err(_) => OUTPUTS_MAX,
        Ok(n) => n.min(OUTPUTS_MAX),
    };
    let mut seat = cx.plane.awaited.sit(&id, wanted);
    let call = find(&cx, &mut *cx.plane.store.read().await?, &req.function_call_id).await?;
    let mut may_be_done = call.done_count > 0;
    loop {
        if may_be_done {
            let done =
                outcomes::done(&mut *cx.plane.store.read().await?, &id, wanted, most).await?;
            if let Some(first) = done.first() {
                return Ok(answer(&req, first.unfinished, done));
            }
        }
        tokio::select! {
            biased;
            done = seat.given() => return Ok(answer(&req, done.unfinished, vec![done])),
            more = poll.again(&cx.plane) => may_be_done = more,
        }
        if !may_be_done {
            let mut db = cx.plane.store.read().await?;
            let call = find(&cx, &mut db, &req.function_call_id).await?;
            let unfinished = call.input_count.saturating_sub(call.done_count);
            return Ok(answer(&req, unfinished, Vec::new()));
        }
    }
}

fn answer(
    req: &pb::FunctionGetOutputsRequest,
    unfinished: u32,
    done: Vec<DoneInput>,
) -> pb::FunctionGetOutputsResponse {
    let mut last = place(&req.last_entry_id);
    let mut bytes = 0;
    let mut outputs = Vec::with_capacity(done.len());
    for item in done {
        bytes += inline_bytes(&item.outcome);
        if bytes > OUTPUT_BYTES_MAX && !outputs.is_empty() {
            break;
        }
        last = last.max(item.done_seq);
        outputs.push(output(item));
    }
    pb::FunctionGetOutputsResponse {
        idxs: outputs.iter().map(|output| output.idx).collect(),
        outputs,
        last_entry_id: format!("{last}-0"),
        num_unfinished_inputs: i32::try_from(unfinished).unwrap_or(i32::MAX),
    }
}

/// Cancels a call.
pub(super) async fn cancel(
    cx: Cx<Member>,
    req: pb::FunctionCallCancelRequest,
) -> Result<(), Refusal> {
    let call = {
        let mut db = cx.plane.store.read().await?;
        find(&cx, &mut db, &req.function_call_id).await?
    };
    cx.plane.cancel_call(&call.id, req.terminate_containers).await?;
    Ok(())
}

/// What is known of a call.
pub(super) async fn from_id(
    cx: Cx<Member>,
    req: pb::FunctionCallFromIdRequest,
) -> Result<pb::FunctionCallFromIdResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let call = find(&cx, &mut db, &req.function_call_id).await?;
    Ok(pb::FunctionCallFromIdResponse {
        function_call_id: call.id.into(),
        num_inputs: i32::try_from(call.input_count).unwrap_or(i32::MAX),
        metadata: Some(pb::FunctionCallHandleMetadata {
            app_id: call.app.into(),
            function_id: call.function.into(),
        }),
    })
}
