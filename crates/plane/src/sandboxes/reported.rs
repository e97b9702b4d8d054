//! What workers report of sandboxes.

use model::link::{End, LogLine, Order, Stream};
use model::{AppId, Millis, TaskId, WorkerId};
use store::sandboxes::{self, Phase, Sandbox};
use store::{Hint, Tx, apps, logs};

use super::{Opening, Reach};
use crate::Plane;

/// Notes that a container is there. Answers with its sandbox.
pub(crate) async fn started(
    plane: &Plane,
    tx: &mut Tx,
    task: &TaskId,
) -> Result<Option<Sandbox>, store::Error> {
    let Some(sandbox) = sandboxes::by_task_any(tx, task).await? else { return Ok(None) };
    if sandboxes::start(tx, &sandbox.id, plane.now()).await? {
        tx.ring(Hint::Sandbox(sandbox.id.clone()));
    }
    Ok(Some(sandbox))
}

/// Notes that a container is gone, if it is one of a sandbox.
pub(crate) async fn ended(
    plane: &Plane,
    tx: &mut Tx,
    task: &TaskId,
    end: &End,
) -> Result<(), store::Error> {
    let Some(sandbox) = sandboxes::by_task_any(tx, task).await? else { return Ok(()) };
    let end = called(&sandbox, end, plane.now());
    finish(plane, tx, &sandbox, &end).await
}

/// What an end is called: one that was wanted has the name that it was wanted under, and whoever
/// was lost after its time has had its time.
fn called(sandbox: &Sandbox, end: &End, now: model::Time) -> End {
    match (end, &sandbox.wanted_end) {
        (End::Stopped | End::Lost, Some(wanted)) => wanted.clone(),
        (End::Lost, None) if sandbox.deadline <= now => End::TimedOut,
        (end, _) => end.clone(),
    }
}

/// Writes down that a sandbox has ended.
pub(super) async fn finish(
    plane: &Plane,
    tx: &mut Tx,
    sandbox: &Sandbox,
    end: &End,
) -> Result<(), store::Error> {
    if !sandboxes::end(tx, &sandbox.id, end, plane.now()).await? {
        return Ok(());
    }
    tracing::debug!(sandbox = %sandbox.id, task = %sandbox.task, %end, "a sandbox ended");
    if let Some(reach) = plane.reach.get() {
        reach.close(&sandbox.task);
    }
    tell(plane, tx, sandbox, end).await?;
    apps::finish_logs(tx, &sandbox.app).await?;
    tx.ring(Hint::Sandbox(sandbox.id.clone()));
    tx.ring(Hint::Logs(sandbox.app.clone()));
    tx.ring(Hint::Schedule);
    Ok(())
}

/// An end that its program did not choose, and nobody asked for, stands among its lines.
async fn tell(
    plane: &Plane,
    tx: &mut Tx,
    sandbox: &Sandbox,
    end: &End,
) -> Result<(), store::Error> {
    match end {
        End::Exit { .. } | End::Signal { .. } | End::Stopped | End::Lost => return Ok(()),
        End::TimedOut | End::Idle | End::OutOfMemory { .. } | End::NotStarted { .. } => {}
    }
    let text = format!("sandbox {} ended: {end}\n", sandbox.id);
    let entry = logs::Entry {
        seq: 0,
        app: sandbox.app.clone(),
        function: None,
        task: sandbox.task.clone(),
        stream: Stream::Info.number(),
        at: plane.now(),
        data: text.into_bytes().into(),
    };
    logs::append(tx, &entry).await
}

/// Keeps a line. Answers with its app if that has printed a lot.
pub(crate) async fn log(
    plane: &Plane,
    tx: &mut Tx,
    line: &LogLine,
) -> Result<Option<AppId>, store::Error> {
    let Some(sandbox) = sandboxes::by_task_any(tx, &line.task).await? else { return Ok(None) };
    let entry = logs::Entry {
        seq: 0,
        app: sandbox.app.clone(),
        function: None,
        task: line.task.clone(),
        stream: line.stream.number(),
        at: line.at,
        data: line.data.clone(),
    };
    logs::append(tx, &entry).await?;
    tx.ring(Hint::Sandbox(sandbox.id));
    tx.ring(Hint::Logs(sandbox.app.clone()));
    let full = plane.printed.add(&sandbox.app, line.data.len() as u64);
    Ok(full.then_some(sandbox.app))
}

/// Sandboxes that a worker does not know any more are lost.
pub(crate) async fn forget_lost(
    plane: &Plane,
    tx: &mut Tx,
    worker: &WorkerId,
    running: &[TaskId],
) -> Result<(), store::Error> {
    for sandbox in sandboxes::alive_of_worker(tx, worker).await? {
        if !running.contains(&sandbox.task) {
            let end = called(&sandbox, &End::Lost, plane.now());
            finish(plane, tx, &sandbox, &end).await?;
        }
    }
    Ok(())
}

/// Settles what a worker runs that is no container of a function: a sandbox that lives goes on,
/// anything else is ended.
pub(crate) async fn adopt(
    plane: &Plane,
    worker: &WorkerId,
    task: &TaskId,
) -> Result<(), store::Error> {
    let mut tx = plane.store.begin().await?;
    let found = started(plane, &mut tx, task).await?;
    tx.commit().await?;
    match found.filter(|sandbox| sandbox.phase < Phase::Ended) {
        Some(sandbox) if sandbox.wanted_end.is_some() => plane.tell_to_end(&sandbox.id).await,
        Some(sandbox) => plane.open_ports(&sandbox).await,
        None => {
            let order = Order::Stop { task: task.clone(), grace_ms: Millis(0) };
            if let Err(error) = plane.fleet.order(worker, order) {
                tracing::warn!(%error, %task, "a lost container could not be stopped");
            }
            Ok(())
        }
    }
}

/// Why nobody can connect by tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unopened {
    /// Nothing leads to sandboxes.
    #[error("this server does not let anyone connect by tokens: open a port instead")]
    Unserved,
    /// The machine's port could not be had.
    #[error("no port for connect tokens could be opened: {0}")]
    Port(#[from] std::io::Error),
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Plane {
    /// Opens the ports of a sandbox whose container is there. Where that fails, the sandbox ends:
    /// it was asked for with them.
    pub(crate) async fn open_ports(&self, sandbox: &Sandbox) -> Result<(), store::Error> {
        let Some(reach) = self.reach.get() else { return Ok(()) };
        let mut tunnels = sandbox.tunnels.clone();
        for port in &sandbox.spec.ports {
            let opening = Opening {
                task: sandbox.task.clone(),
                port: Some(*port),
                inbound: sandbox.spec.inbound.clone(),
                host_port: sandbox.tunnels.get(&port.port).copied(),
            };
            match reach.open(opening).await {
                Ok(host_port) => tunnels.insert(port.port, host_port),
                Err(error) => {
                    let reason = format!("its port {} could not be opened: {error}", port.port);
                    tracing::error!(sandbox = %sandbox.id, %reason, "a sandbox cannot be reached");
                    return self.end_sandbox(sandbox, &End::NotStarted { reason }).await;
                }
            };
        }
        if sandbox.connect_port.is_some()
            && let Err(error) = self.open_for_tokens(sandbox).await
        {
            tracing::error!(sandbox = %sandbox.id, %error, "connect tokens open nothing any more");
        }
        if tunnels == sandbox.tunnels {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        sandboxes::set_tunnels(&mut tx, &sandbox.id, &tunnels).await?;
        tx.ring(Hint::Sandbox(sandbox.id.clone()));
        tx.commit().await?;
        self.close_if_ended(sandbox, &**reach).await
    }

    /// One that ended meanwhile did so before there was anything to close.
    async fn close_if_ended(
        &self,
        sandbox: &Sandbox,
        reach: &dyn Reach,
    ) -> Result<(), store::Error> {
        let now = sandboxes::get_any(&mut *self.store.read().await?, &sandbox.id).await?;
        if now.is_none_or(|now| now.phase == Phase::Ended) {
            reach.close(&sandbox.task);
        }
        Ok(())
    }

    /// The machine's port for the connect tokens of a sandbox, which is opened for the first one.
    pub(crate) async fn open_for_tokens(&self, sandbox: &Sandbox) -> Result<u16, Unopened> {
        let reach = self.reach.get().ok_or(Unopened::Unserved)?;
        let opening = Opening {
            task: sandbox.task.clone(),
            port: None,
            inbound: sandbox.spec.inbound.clone(),
            host_port: sandbox.connect_port,
        };
        let port = reach.open(opening).await?;
        if sandbox.connect_port != Some(port) {
            let mut tx = self.store.begin().await?;
            sandboxes::set_connect_port(&mut tx, &sandbox.id, port).await?;
            tx.commit().await?;
        }
        self.close_if_ended(sandbox, &**reach).await?;
        Ok(port)
    }
}
