//! What workers report, written down.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::link::{End, LogLine, Order, Report};
use model::{AppId, FunctionId, Millis, TaskId, WorkerId};
use store::tasks::{Phase, Task};
use store::{Hint, Tx, apps, images, logs, tasks};
use tokio::sync::mpsc;

use crate::endings::Kills;
use crate::limits::{REPORT_RETRY, REPORT_TRIES_MAX, REPORTS_PER_WRITE_MAX};
use crate::queue::container_ended;
use crate::{Plane, function_build, sandboxes};

/// Takes reports until the worker is gone.
pub async fn run(plane: Arc<Plane>, mut reports: mpsc::Receiver<Report>) {
    let mut batch = Vec::with_capacity(REPORTS_PER_WRITE_MAX);
    while reports.recv_many(&mut batch, REPORTS_PER_WRITE_MAX).await > 0 {
        take(&plane, &batch).await;
        batch.clear();
    }
}

/// Writes reports down. A report is the only word of what happened: one that cannot be written is
/// tried again, and dropped only when nothing helps.
pub async fn take(plane: &Plane, batch: &[Report]) {
    match write(plane, batch).await {
        Ok(()) => return,
        Err(error) => tracing::warn!(%error, "reports could not be written: each is tried alone"),
    }
    for report in batch {
        let mut tries = 0;
        while let Err(error) = write(plane, std::slice::from_ref(report)).await {
            tries += 1;
            let full = matches!(error, store::Error::Full);
            if !full && tries >= REPORT_TRIES_MAX {
                tracing::error!(%error, ?report, "what a worker reported could not be written");
                break;
            }
            if tries == 1 {
                tracing::error!(%error, "a report waits until it can be written");
            }
            tokio::time::sleep(REPORT_RETRY).await;
            if plane.is_closing() {
                break;
            }
        }
    }
}

async fn write(plane: &Plane, batch: &[Report]) -> Result<(), store::Error> {
    let mut tx = plane.store.begin().await?;
    let mut joined = Vec::new();
    let mut full = BTreeSet::new();
    let mut started = Vec::new();
    for report in batch {
        match report {
            Report::Joined { worker, capacity, running } => {
                tracing::debug!(%worker, ?capacity, "a worker joined");
                forget_lost(plane, &mut tx, worker, running).await?;
                sandboxes::forget_lost(plane, &mut tx, worker, running).await?;
                joined.push((worker, running));
            }
            Report::Started { task } => {
                tasks::advance(&mut tx, task, Phase::Started, plane.now()).await?;
                started.extend(sandboxes::started(plane, &mut tx, task).await?);
            }
            Report::Kept { task, result } => {
                if let Some(task) = tasks::get_any(&mut tx, task).await? {
                    function_build::settle(&mut tx, &task.function, Some(result), plane.now())
                        .await?;
                }
            }
            Report::Ended { task, end } => end_task(plane, &mut tx, task, end).await?,
            Report::Log(line) => full.extend(log(plane, &mut tx, line).await?),
            Report::BuildLog { image, data } => {
                images::append_log(&mut tx, image, data, plane.now()).await?;
                tx.ring(Hint::Image(image.clone()));
            }
            Report::Built { image, result } => {
                images::finish(&mut tx, image, result, plane.now()).await?;
                tx.ring(Hint::Image(image.clone()));
                tx.ring(Hint::Builds);
                tx.ring(Hint::Schedule);
            }
        }
    }
    tx.commit().await?;
    if let Err(error) = plane.trim_output(full).await {
        // The reports are written all the same; it is tried again after more output.
        tracing::error!(%error, "an app's output could not be cut to size");
    }
    for sandbox in started {
        if sandbox.phase == store::sandboxes::Phase::Ended {
            plane.stop_stray(&sandbox);
        } else if let Err(error) = plane.open_ports(&sandbox).await {
            tracing::error!(%error, sandbox = %sandbox.id, "its ports could not be written down");
        }
    }
    for (worker, running) in joined {
        plane.fleet.admit(worker);
        end_unknown(plane, worker, running).await?;
        plane.store.hints().ring(&Hint::Schedule);
        plane.store.hints().ring(&Hint::Builds);
    }
    Ok(())
}

/// What a worker runs that should be gone is ended.
async fn end_unknown(
    plane: &Plane,
    worker: &WorkerId,
    running: &[TaskId],
) -> Result<(), store::Error> {
    let mut kills = Kills::default();
    for id in running {
        let task = tasks::get_any(&mut *plane.store.read().await?, id).await?;
        match task.map(|task| task.phase) {
            Some(Phase::Placed | Phase::Started | Phase::Ready) => {}
            Some(Phase::Draining) => kills.add(id.clone(), Millis(0)),
            Some(Phase::Ended) => {
                let order = Order::Stop { task: id.clone(), grace_ms: Millis(0) };
                if let Err(error) = plane.fleet.order(worker, order) {
                    tracing::warn!(%error, task = %id, "a lost container could not be stopped");
                }
            }
            None => sandboxes::adopt(plane, worker, id).await?,
        }
    }
    plane.end_tasks(kills).await
}

/// Keeps a line. Answers with its app if that has printed a lot.
async fn log(plane: &Plane, tx: &mut Tx, line: &LogLine) -> Result<Option<AppId>, store::Error> {
    let Some(task) = tasks::get_any(tx, &line.task).await? else {
        return sandboxes::log(plane, tx, line).await;
    };
    let entry = logs::Entry {
        seq: 0,
        app: task.app.clone(),
        function: Some(task.function.clone()),
        task: line.task.clone(),
        stream: line.stream.number(),
        at: line.at,
        data: line.data.clone(),
    };
    if builds(plane, tx, &task.function).await?
        && let Some(image) = images::built_by(tx, &task.function).await?
    {
        images::append_log(tx, &image.id, &line.data, line.at).await?;
        tx.ring(Hint::Image(image.id));
        return Ok(None);
    }
    logs::append(tx, &entry).await?;
    tx.ring(Hint::Logs(task.app.clone()));
    let full = plane.printed.add(&task.app, line.data.len() as u64);
    Ok(full.then_some(task.app))
}

/// Whether a function's run makes an image.
async fn builds(plane: &Plane, tx: &mut Tx, id: &FunctionId) -> Result<bool, store::Error> {
    let function = plane.functions.get(tx, id).await?;
    let spec = function.as_ref().and_then(|function| function.spec.as_ref());
    Ok(spec.is_some_and(|spec| spec.builds))
}

/// Writes down that a container is gone.
pub async fn ended(plane: &Plane, task: &TaskId, end: End) -> Result<(), store::Error> {
    let mut tx = plane.store.begin().await?;
    end_task(plane, &mut tx, task, &end).await?;
    tx.commit().await
}

async fn end_task(plane: &Plane, tx: &mut Tx, id: &TaskId, end: &End) -> Result<(), store::Error> {
    let now = plane.now();
    let Some(task) = tasks::get_any(tx, id).await? else {
        sandboxes::ended(plane, tx, id, end).await?;
        return Ok(());
    };
    if !tasks::end(tx, id, end, now).await? {
        return Ok(());
    }
    tracing::debug!(task = %id, app = %task.app, %end, "a container ended");
    container_ended(plane, tx, &task, end, now).await?;
    if builds(plane, tx, &task.function).await? {
        function_build::settle(tx, &task.function, None, now).await?;
    }
    tell(tx, &task, end, now).await?;
    apps::finish_logs(tx, &task.app).await?;
    tx.ring(Hint::Inputs(task.function.clone()));
    tx.ring(Hint::Logs(task.app));
    Ok(())
}

/// A container that died says so among its app's lines.
async fn tell(tx: &mut Tx, task: &Task, end: &End, now: model::Time) -> Result<(), store::Error> {
    match end {
        End::Exit { code: 0 } | End::Stopped | End::Lost => return Ok(()),
        End::TimedOut | End::Idle => {}
        End::Exit { .. } | End::Signal { .. } => {}
        End::OutOfMemory { .. } | End::NotStarted { .. } => {}
    }
    let text = format!("container {} ended: {end}\n", task.id);
    let entry = logs::Entry {
        seq: 0,
        app: task.app.clone(),
        function: Some(task.function.clone()),
        task: task.id.clone(),
        stream: model::link::Stream::Info.number(),
        at: now,
        data: text.into_bytes().into(),
    };
    logs::append(tx, &entry).await
}

/// Containers that a worker does not know any more are lost, and so are its builds.
async fn forget_lost(
    plane: &Plane,
    tx: &mut Tx,
    worker: &WorkerId,
    running: &[TaskId],
) -> Result<(), store::Error> {
    for task in tasks::alive(tx).await? {
        if task.worker == *worker && !running.contains(&task.id) {
            end_task(plane, tx, &task.id, &End::Lost).await?;
        }
    }
    let builds = images::rewind_builds(tx).await?;
    if builds > 0 {
        tracing::debug!(builds, "builds of a lost worker wait again");
    }
    tx.ring(Hint::Schedule);
    Ok(())
}
