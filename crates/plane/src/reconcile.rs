//! What must happen because time passes: deadlines, apps without a client, silent containers,
//! things that are old enough to be forgotten. Each is idempotent, and looks at the store alone.

use std::sync::Arc;
use std::time::Duration;

use model::limits::{HEARTBEAT_MAX, TASK_HEARTBEAT_MAX};
use model::link::End;
use model::{Millis, Time};
use store::apps::{self, App};
use store::tasks::{self, Phase};
use store::{Hint, inputs, replays, retention, sandboxes};
use wire::client::AppState;

use crate::endings::Kills;
use crate::limits::{CALL_KEPT, FORGET_EVERY, REPLAY_KEPT, SCAN_EVERY, STOP_GRACE};
use crate::scheduler::end_slow_starts;
use crate::{Plane, expiry};

/// Ends attempts in time: sleeps until the next deadline, runs until the server ends.
pub async fn run_deadlines(plane: Arc<Plane>) {
    let mut ear = plane.store.hints().listen(Hint::Deadlines);
    let mut looked_at = plane.now();
    while !plane.is_closing() {
        let now = plane.now();
        let next = match deadlines(&plane, looked_at).await {
            Ok(next) => {
                looked_at = now;
                next
            }
            Err(error) => {
                tracing::error!(%error, "deadlines could not be looked at");
                None
            }
        };
        let now = plane.now();
        let wait = next.map_or(SCAN_EVERY, |next| next.since(now).duration().min(SCAN_EVERY));
        tokio::select! {
            () = ear.wait(wait.max(Duration::from_millis(5))) => {}
            () = plane.closed() => {}
        }
    }
}

/// Ends what is late, and wakes whoever waits for inputs whose delay has ended since `looked_at`.
/// Answers with the next moment at which something is due.
pub async fn deadlines(plane: &Plane, looked_at: Time) -> Result<Option<Time>, store::Error> {
    plane.take_back().await?;
    plane.end_overdue().await?;
    let now = plane.now();
    plane.end_late(now).await?;
    plane.end_late_sandboxes(now).await?;
    let (due, next, next_sandbox) = {
        let mut db = plane.store.read().await?;
        let due = inputs::newly_due(&mut db, looked_at, now).await?;
        let next_sandbox = Plane::next_late_sandbox(&mut db).await?;
        (due, inputs::next_due(&mut db, now).await?, next_sandbox)
    };
    if !due.is_empty() {
        plane.store.hints().ring(&Hint::Schedule);
    }
    for function in due {
        plane.store.hints().ring(&Hint::Inputs(function));
    }
    Ok([next, next_sandbox, plane.cancels.next(), plane.ends.next()].into_iter().flatten().min())
}

/// Everything that may be a moment late. Runs until the server ends.
pub async fn run_sweeps(plane: Arc<Plane>) {
    let mut forgotten_at = Time::default();
    while !plane.is_closing() {
        if plane.now().since(forgotten_at) > FORGET_EVERY {
            forgotten_at = plane.now();
            if let Err(error) = forget(&plane).await {
                tracing::error!(%error, "what is old could not be forgotten");
            }
        }
        if let Err(error) = sweep(&plane).await {
            tracing::error!(%error, "a sweep failed");
        }
        if let Err(error) = plane.store.checkpoint().await {
            tracing::error!(%error, "the database's log could not be moved to its file");
        }
        tokio::select! {
            () = tokio::time::sleep(SCAN_EVERY) => {}
            () = plane.closed() => {}
        }
    }
}

/// One look at everything that may be a moment late.
pub async fn sweep(plane: &Plane) -> Result<(), store::Error> {
    let now = plane.now();
    let (ephemeral, detached) = (AppState::Ephemeral as i32, AppState::Detached as i32);
    let live = [ephemeral, AppState::Initializing as i32, detached];
    let silent = {
        let mut db = plane.store.read().await?;
        apps::silent(&mut db, live, now - HEARTBEAT_MAX).await?
    };
    for app in silent {
        if app.state == detached {
            end_detached(plane, &app).await?;
            continue;
        }
        tracing::info!(app = %app.id, "an app's client has not been heard of: the app ends");
        stop_app(plane, &app, "its client has not been heard of for too long").await?;
    }
    end_slow_starts(plane).await?;
    plane.end_late_sandboxes(now).await?;
    // Before the next, which tells the silent ones to end and counts that as a word of theirs.
    lose_tasks(plane, now).await?;
    end_silent_tasks(plane, now).await?;
    plane.expect_leavers(now).await?;
    expiry::sweep(plane).await?;
    let mut tx = plane.store.begin().await?;
    replays::forget(&mut tx, now - REPLAY_KEPT).await?;
    tx.commit().await
}

/// Forgets what nobody can want any more, and removes its bytes.
async fn forget(plane: &Plane) -> Result<(), store::Error> {
    let before = plane.now() - CALL_KEPT;
    let mut tx = plane.store.begin().await?;
    let calls = retention::forget_calls(&mut tx, before).await?;
    let output = retention::forget_output(&mut tx, before).await?;
    let secrets = retention::forget_app_secrets(&mut tx, before).await?.len();
    let free = retention::forget_blobs(&mut tx, before).await?;
    tracing::debug!(calls, output, secrets, blobs = free.len(), "what is old was forgotten");
    // Inside the transaction: whoever sends the same bytes now looks for them in one of its own.
    for sha256 in free {
        let Ok(digest) = sha256.parse() else { continue };
        if let Err(error) = plane.blobs.remove(digest).await {
            tracing::warn!(%error, %sha256, "a payload's bytes stay behind");
        }
    }
    tx.commit().await
}

/// Ends a detached app whose client has left, unless it has work.
pub(crate) async fn end_detached(plane: &Plane, app: &App) -> Result<(), store::Error> {
    let works = {
        let mut db = plane.store.read().await?;
        inputs::app_has_open(&mut db, &app.id).await?
            || !sandboxes::alive_of_app(&mut db, &app.id).await?.is_empty()
    };
    if works {
        return Ok(());
    }
    tracing::info!(app = %app.id, "a detached app has no work any more: it ends");
    stop_app(plane, app, "its work is done").await
}

/// Ends an app: its inputs are cancelled, its containers and sandboxes ended.
pub async fn stop_app(plane: &Plane, app: &App, why: &str) -> Result<(), store::Error> {
    let now = plane.now();
    let mut tx = plane.store.begin().await?;
    apps::stop(&mut tx, &app.id, AppState::Stopped as i32, now).await?;
    let open = inputs::open_of_app(&mut tx, &app.id).await?;
    let why = format!("the app was stopped: {why}");
    let mut kills = plane.cancel(&mut tx, open, &why, true, now).await?;
    for task in tasks::alive_of_app(&mut tx, &app.id).await? {
        if task.is_spent() && !kills.contains(&task.id) {
            // It has had its only input, and leaves: a signal would only make its program say that
            // it was interrupted.
            plane.ends.hasten(&task.id, now + STOP_GRACE);
            continue;
        }
        kills.add(task.id, STOP_GRACE);
    }
    let sandboxes = Plane::want_app_sandboxes_to_end(&mut tx, &app.id).await?;
    tx.ring(Hint::Deadlines);
    apps::finish_logs(&mut tx, &app.id).await?;
    plane.printed.forget(&app.id);
    tx.ring(Hint::Logs(app.id.clone()));
    tx.commit().await?;
    for sandbox in sandboxes {
        plane.tell_to_end(&sandbox).await?;
    }
    plane.end_tasks(kills).await
}

/// A container that says nothing any more hangs.
async fn end_silent_tasks(plane: &Plane, now: Time) -> Result<(), store::Error> {
    let mut kills = Kills::default();
    for task in tasks::alive(&mut *plane.store.read().await?).await? {
        if task.phase == Phase::Ready && now.since(task.heartbeat_at) > TASK_HEARTBEAT_MAX {
            tracing::info!(task = %task.id, "a container has not been heard of: it is ended");
            kills.add(task.id, Millis(0));
        }
    }
    plane.end_tasks(kills).await
}

/// A container whose worker has not been there for so long that its containers would be silent
/// is lost. Should the worker come back with it, it is told to end it.
async fn lose_tasks(plane: &Plane, now: Time) -> Result<(), store::Error> {
    for task in tasks::alive(&mut *plane.store.read().await?).await? {
        let silent = now.since(task.heartbeat_at) > TASK_HEARTBEAT_MAX;
        if silent && !plane.fleet.has(&task.worker) {
            tracing::info!(task = %task.id, worker = %task.worker, "a container's worker is gone");
            crate::reports::ended(plane, &task.id, End::Lost).await?;
        }
    }
    Ok(())
}
