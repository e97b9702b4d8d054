//! A sandbox's life, as the worker sees it: from its start, or from being found again, to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::TaskId;
use model::link::{End, Report};
use model::sandbox::SandboxStart;
use tokio::sync::watch;
use tracing::Instrument;

use super::folder::Folder;
use super::link::Error;
use super::{Held, Sandbox, lock, output, start};
use crate::Worker;
use crate::limits::{
    END_PAUSE, END_TRIES_MAX, FORGET_PAUSE, LAST_LINES_MAX, LINGER_MAX, LINGER_MIN,
};
use crate::supervisor::words::{END, ENDED, Ending, State};
use crate::task::{chain, now};

/// Starts a sandbox and stays with it until it ends, or the worker does.
pub(crate) async fn run(
    worker: Arc<Worker>,
    spec: SandboxStart,
    told: watch::Receiver<Option<End>>,
) {
    let task = spec.task.clone();
    let span = tracing::info_span!("sandbox", task = %task, app = %spec.app);
    async move {
        match start::start(&worker, spec).await {
            Ok(sandbox) => {
                worker.sandboxes.set_running(&task, &sandbox);
                worker.report(Report::Started { task: task.clone() }).await;
                go_on(worker, sandbox, told).await;
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(%reason, "a sandbox could not be started");
                worker.sandboxes.remove(&task);
                worker.report(Report::Ended { task, end: End::NotStarted { reason } }).await;
            }
        }
    }
    .instrument(span)
    .await;
}

/// Stays with a sandbox that runs.
pub(crate) async fn go_on(
    worker: Arc<Worker>,
    sandbox: Arc<Sandbox>,
    mut told: watch::Receiver<Option<End>>,
) {
    let task = lock(&sandbox.record).start.task.clone();
    let following = tokio::spawn(output::follow(worker.clone(), sandbox.clone()));
    let mut closing = worker.sandboxes.closing.subscribe();
    let ending = tokio::select! {
        ending = until_end(&worker, &sandbox, &mut told) => ending,
        () = async { let _ = closing.wait_for(|closing| *closing).await; } => {
            following.abort();
            leave(&sandbox).await;
            return;
        }
    };
    // The streams end with it.
    let follower = following.abort_handle();
    if tokio::time::timeout(LAST_LINES_MAX, following).await.is_err() {
        follower.abort();
        tracing::warn!("the last output of a sandbox was not reported");
    }
    finish(&worker, &sandbox, &task, ending.end).await;
}

/// Gives back what a sandbox that is gone has owned, and reports its end.
pub(super) async fn finish(worker: &Arc<Worker>, sandbox: &Arc<Sandbox>, task: &TaskId, end: End) {
    release(worker, sandbox).await;
    worker.sandboxes.remove(task);
    worker.report(Report::Ended { task: task.clone(), end }).await;
    // Last of all, so that a worker that dies before is followed by one that does it again.
    if let Err(error) = sandbox.folder.remove_record() {
        tracing::error!(%error, "the record of a sandbox stays behind");
    }
    tokio::spawn(clear_up(worker.clone(), sandbox.clone()));
}

/// Removes what stays for a moment longer than the sandbox: its supervisor answers those who still
/// read, and then ends by itself.
async fn clear_up(worker: Arc<Worker>, sandbox: Arc<Sandbox>) {
    let mut closing = worker.sandboxes.closing.subscribe();
    let gone = async {
        while sandbox.folder.connect().is_ok() {
            tokio::time::sleep(LINGER_MIN).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(LINGER_MIN + LINGER_MAX, gone) => {}
        // The worker clears up when it closes.
        () = async { let _ = closing.wait_for(|closing| *closing).await; } => return,
    }
    let clearing = worker.clone();
    let cleared = tokio::task::spawn_blocking(move || {
        let name = lock(&sandbox.record).supervisor(&sandbox.folder).to_owned();
        jail::end_named(&clearing.supervisor_cgroup_parent(), &name)
    });
    if let Ok(Err(error)) = cleared.await {
        tracing::error!(%error, "the control group of a supervisor stays behind");
    }
    if worker.sandboxes.will_forget.swap(true, Ordering::AcqRel) {
        return;
    }
    // For all that end until then: each time the folders of all are looked at.
    tokio::time::sleep(FORGET_PAUSE).await;
    worker.sandboxes.will_forget.store(false, Ordering::Release);
    let _ = tokio::task::spawn_blocking(move || worker.sandboxes.forget()).await;
}

/// Waits for its end, by itself or because it is told to.
async fn until_end(
    worker: &Worker,
    sandbox: &Sandbox,
    told: &mut watch::Receiver<Option<End>>,
) -> Ending {
    let told = async {
        let end = told.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone()).unwrap_or(End::Stopped)
    };
    tokio::select! {
        ending = ended(worker, sandbox) => ending,
        end = told => {
            match sandbox.link.wait_for(END, &end).await {
                Ok(State::Ended(ending)) => ending,
                Ok(State::Unstarted | State::Running { .. }) => lost(worker, &sandbox.folder).await,
                Err(error) => {
                    tracing::warn!(%error, "a supervisor does not end its sandbox");
                    ended(worker, sandbox).await
                }
            }
        }
    }
}

async fn ended(worker: &Worker, sandbox: &Sandbox) -> Ending {
    loop {
        match sandbox.link.wait_for(ENDED, &()).await {
            Ok(ending) => return ending,
            Err(Error::Gone(error)) => {
                tracing::debug!(%error, "a sandbox's supervisor is gone");
                return lost(worker, &sandbox.folder).await;
            }
            Err(error) => {
                tracing::debug!(%error, "a supervisor is asked again");
                tokio::time::sleep(END_PAUSE).await;
            }
        }
    }
}

/// Ends what is left of a sandbox whose supervisor is gone, and finds out how it ended.
pub(super) async fn lost(worker: &Worker, folder: &Folder) -> Ending {
    for _ in 0..END_TRIES_MAX {
        let (parent, name) = (worker.sandbox_cgroup_parent(), folder.name().to_owned());
        match tokio::task::spawn_blocking(move || jail::end_named(&parent, &name)).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => tracing::error!(%error, "a sandbox that is alone does not end"),
            Err(_) => tracing::error!("a thread that ends a sandbox died"),
        }
    }
    if let Some(ending) = folder.ending() {
        return ending;
    }
    let ending = Ending { end: End::Lost, at: now(), stdout_start: 0, stderr_start: 0 };
    if let Err(error) = folder.write_ending(&ending) {
        tracing::error!(%error, "a sandbox's end cannot be written down");
    }
    ending
}

/// Gives back what a sandbox owned.
async fn release(worker: &Arc<Worker>, sandbox: &Sandbox) {
    let _files = sandbox.files.stop().await;
    let _turn = worker.changes.acquire().await;
    let (network, held) = sandbox.take_owned();
    let removed = tokio::task::spawn_blocking(move || {
        drop(network);
        let Some(Held { scratch, ids, layers, mounted }) = held else { return Ok(()) };
        let removed = scratch.remove();
        drop((ids, layers, mounted));
        removed
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a sandbox's disk space stays behind"),
        Err(_) => tracing::error!("a sandbox's disk space may stay behind"),
    }
}

/// Lets go of a sandbox that goes on without this worker.
async fn leave(sandbox: &Sandbox) {
    let _files = sandbox.files.stop().await;
    let (network, held) = sandbox.take_owned();
    let left = tokio::task::spawn_blocking(move || {
        if let Some(Held { scratch, .. }) = held {
            scratch.leave();
        }
        network.map(crate::networks::Attached::leave).transpose()
    });
    match left.await {
        Ok(Ok(kept)) => {
            let mut record = lock(&sandbox.record);
            record.network = kept;
            if let Err(error) = sandbox.folder.write_record(&record) {
                tracing::error!(%error, "a sandbox's record is not up to date");
            }
        }
        Ok(Err(error)) => tracing::error!(%error, "a sandbox that lives on has no network now"),
        Err(_) => tracing::error!("a thread that lets go of a sandbox died"),
    }
}
