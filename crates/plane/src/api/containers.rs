//! The container's side: it says hello, takes inputs, gives outputs, and hears of cancellations.

use std::time::Duration;

use model::output::Payload;
use model::{FunctionId, InputId, Millis};
use store::inputs::Ready;
use store::tasks::{self, Phase};
use store::{Hint, inputs};
use wire::client as pb;

use super::chunks::own_blob;
use super::gate::{Cx, Task};
use super::outcome::{function_input, outcome, without_pickles};
use super::poll::Poll;
use super::receipt::Receipt;
use super::refusal::Refusal;
use crate::limits::{BATCH_LINGER_MAX, HEARTBEAT_POLL, OUTPUTS_PER_REQUEST_MAX, SCAN_EVERY};
use crate::parked::Handed;
use crate::work::Work;

/// The container's program runs: from here on it can take inputs.
pub(super) async fn hello(cx: Cx<Task>, (): ()) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    tasks::advance(&mut tx, &cx.caller.id, Phase::Ready, cx.now()).await?;
    tx.ring(Hint::Schedule);
    tx.commit().await?;
    cx.plane.failures.reset(&cx.caller.function);
    Ok(())
}

/// The container lives. Held until an input of its is cancelled, or for a while.
pub(super) async fn heartbeat(
    cx: Cx<Task>,
    _: pb::ContainerHeartbeatRequest,
) -> Result<pb::ContainerHeartbeatResponse, Refusal> {
    let mut ear = cx.plane.store.hints().listen(Hint::Cancels);
    let mut tx = cx.plane.store.begin().await?;
    tasks::beat(&mut tx, &cx.caller.id, cx.now()).await?;
    tx.commit().await?;
    let until = tokio::time::Instant::now() + HEARTBEAT_POLL;
    loop {
        let cancelled = cx.plane.cancels.untold(&cx.caller.id);
        if !cancelled.is_empty() {
            let event = pb::CancelInputEvent {
                input_ids: cancelled.into_iter().map(InputId::into).collect(),
                ..pb::CancelInputEvent::default()
            };
            return Ok(pb::ContainerHeartbeatResponse { cancel_input_event: Some(event) });
        }
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() || cx.plane.is_closing() {
            return Ok(pb::ContainerHeartbeatResponse::default());
        }
        tokio::select! {
            () = ear.wait(left) => {}
            () = cx.plane.closed() => {}
        }
    }
}

fn kill_switch() -> pb::FunctionGetInputsResponse {
    let item = pb::FunctionGetInputsItem { kill_switch: true, ..Default::default() };
    pb::FunctionGetInputsResponse { inputs: vec![item], ..Default::default() }
}

/// Gives the container inputs; waits for some; sends it home when it is no longer wanted. The
/// receipt takes the inputs back if the answer is lost.
pub(super) async fn get_inputs(
    cx: Cx<Task>,
    req: pb::FunctionGetInputsRequest,
) -> Result<(pb::FunctionGetInputsResponse, Receipt), Refusal> {
    let function = FunctionId::parse(&req.function_id)?;
    if function != cx.caller.function {
        return Err(Refusal::not_found("function", &req.function_id));
    }
    let mut ear = cx.plane.store.hints().listen(Hint::Inputs(function.clone()));
    let began = cx.now();
    loop {
        match cx.plane.work(&cx.caller.id, &function, began).await? {
            Work::GoHome => return Ok((kill_switch(), Receipt::none())),
            Work::Nothing => {}
            Work::Waits => {
                let most = batch(&cx, &function, req.batch_max_size, req.batch_linger_ms).await?;
                let (task, mut receipt) = (&cx.caller.id, Receipt::none());
                let note = |taken: &[Ready]| receipt = cx.plane.handout(task, taken);
                let taken = cx.plane.claim_noting(task, &function, most, note).await?;
                if !taken.is_empty() {
                    return Ok((items(taken), receipt));
                }
            }
        }
        if let Some(handed) = wait(&cx, &function, &req, &mut ear).await {
            return Ok((items(vec![handed.ready]), handed.receipt));
        }
    }
}

/// Waits until it is worth looking again, or an input is handed over.
async fn wait(
    cx: &Cx<Task>,
    function: &FunctionId,
    req: &pb::FunctionGetInputsRequest,
    ear: &mut store::Ear,
) -> Option<Handed> {
    // A batch is filled from the queue.
    let mut seat = (req.batch_max_size <= 1).then(|| cx.plane.parked.sit(function, &cx.caller.id));
    let brought = async {
        match &mut seat {
            Some(seat) => seat.handed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        handed = brought => return handed,
        () = ear.wait(SCAN_EVERY) => {}
        () = cx.plane.closed() => {
            // What runs is ended by the worker; this one only must not ask again at once.
            tokio::time::sleep(SCAN_EVERY).await;
        }
    }
    seat?.leave().await
}

/// How many inputs to take. A batch waits until it is full or its time is up.
async fn batch(
    cx: &Cx<Task>,
    function: &FunctionId,
    batch_max: u32,
    linger_ms: u64,
) -> Result<u32, Refusal> {
    let most = batch_max.clamp(1, crate::limits::BATCH_MAX);
    if most > 1 && linger_ms > 0 {
        let linger = Duration::from_millis(linger_ms).min(BATCH_LINGER_MAX);
        let mut poll = Poll::begin(&cx.plane, Hint::Inputs(function.clone()), linger);
        loop {
            let mut db = cx.plane.store.read().await?;
            let ready = inputs::ready(&mut db, function, cx.now(), most).await?.len();
            drop(db);
            if ready >= most as usize || !poll.again(&cx.plane).await {
                break;
            }
        }
    }
    Ok(most)
}

fn items(taken: Vec<Ready>) -> pb::FunctionGetInputsResponse {
    let item = |Ready { open, carried, invocation }| pb::FunctionGetInputsItem {
        input_id: open.id.into(),
        input: Some(function_input(carried)),
        function_call_id: open.call.into(),
        function_call_invocation_type: invocation,
        retry_count: open.input.retry_count,
        function_map_idx: i32::try_from(open.index).ok(),
        ..pb::FunctionGetInputsItem::default()
    };
    let inputs = taken.into_iter().map(item).collect();
    pb::FunctionGetInputsResponse { inputs, ..Default::default() }
}

/// Takes the container's answers. Those to inputs that it does not hold change nothing.
pub(super) async fn put_outputs(
    cx: Cx<Task>,
    req: pb::FunctionPutOutputsRequest,
) -> Result<(), Refusal> {
    if req.outputs.len() > OUTPUTS_PER_REQUEST_MAX {
        let text = format!("more than {OUTPUTS_PER_REQUEST_MAX} outputs in one request");
        return Err(Refusal::Exhausted(text));
    }
    let restricted_output = restricts_output(&cx).await?;
    let mut answers = Vec::with_capacity(req.outputs.len());
    for output in req.outputs {
        let id = InputId::parse(&output.input_id)?;
        let mut outcome = outcome(output.result, output.data_format)?;
        if let Some(Payload::Blob(blob)) = &outcome.data {
            let mut db = cx.plane.store.read().await?;
            own_blob(&cx, &mut db, blob.as_str()).await?;
        }
        if restricted_output {
            outcome = without_pickles(outcome);
        }
        answers.push((id, output.retry_count, outcome));
    }
    cx.plane.answer(&cx.caller.id, answers).await?;
    Ok(())
}

/// Whether the caller's function must not send pickles.
pub(super) async fn restricts_output(cx: &Cx<Task>) -> Result<bool, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let function = cx.plane.functions.get(&mut db, &cx.caller.function).await?;
    let spec = function.as_ref().and_then(|function| function.spec.as_ref());
    Ok(spec.is_some_and(|spec| spec.restrict_output))
}

/// The container could not start: whoever waits gets what it says.
pub(super) async fn task_result(cx: Cx<Task>, req: pb::TaskResultRequest) -> Result<(), Refusal> {
    let Some(result) = req.result else { return Ok(()) };
    if result.status == pb::generic_result::GenericStatus::Success as i32 {
        return Ok(());
    }
    let mut outcome = outcome(Some(result), 0)?;
    if let Some(Payload::Blob(blob)) = &outcome.data {
        own_blob(&cx, &mut *cx.plane.store.read().await?, blob.as_str()).await?;
    }
    if restricts_output(&cx).await? {
        outcome = without_pickles(outcome);
    }
    // Only a container that has taken nothing tells of the start; a later word is about itself.
    let task = {
        let mut db = cx.plane.store.read().await?;
        tasks::get_any(&mut db, &cx.caller.id).await?
    };
    if task.is_some_and(|task| task.taken_count == 0) {
        cx.plane.fail_queued(&cx.caller.function, &outcome).await?;
    }
    let mut kills = crate::endings::Kills::default();
    kills.add(cx.caller.id.clone(), Millis(5_000));
    cx.plane.end_tasks(kills).await?;
    Ok(())
}

/// How many inputs the container should take at the same time.
pub(super) async fn dynamic_concurrency(
    cx: Cx<Task>,
    req: pb::FunctionGetDynamicConcurrencyRequest,
) -> Result<pb::FunctionGetDynamicConcurrencyResponse, Refusal> {
    if req.function_id != cx.caller.function.as_str() {
        return Err(Refusal::not_found("function", &req.function_id));
    }
    let waiting = {
        let mut db = cx.plane.store.read().await?;
        inputs::counts(&mut db, &cx.caller.function, cx.now()).await?.0
    };
    // While inputs wait, a container takes what it can; else what its author aims at.
    let concurrency = if waiting > 0 { req.max_concurrency } else { req.target_concurrency };
    Ok(pb::FunctionGetDynamicConcurrencyResponse { concurrency })
}
