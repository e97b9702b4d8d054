//! Whether a sandbox is ready: what its probe says.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jail::{ExecIo, Exit, Process, Stdio};
use model::Time;
use model::sandbox::{Probe, ProbeCheck};
use tokio::sync::watch;

use super::life::Life;
use crate::limits::PROBE_TRY_MAX;
use crate::programs::container::Container;
use crate::programs::execs::until_end;
use crate::task::now;

/// When a sandbox became ready.
#[derive(Debug)]
pub(crate) struct Readiness {
    is_probed: bool,
    at: watch::Sender<Option<Time>>,
}

impl Readiness {
    /// It is not yet; `is_probed` says whether anything will tell.
    pub(crate) fn new(is_probed: bool) -> Self {
        Self { is_probed, at: watch::Sender::new(None) }
    }

    /// Whether the sandbox has a probe.
    pub(crate) fn is_probed(&self) -> bool {
        self.is_probed
    }

    /// Waits until it is ready; none if that takes longer than `time`.
    pub(crate) async fn within(&self, time: Duration) -> Option<Time> {
        let mut ready = self.at.subscribe();
        let ready = tokio::time::timeout(time, ready.wait_for(Option::is_some)).await;
        ready.ok()?.ok().and_then(|ready| *ready)
    }
}

/// Tries the probe until it succeeds once.
pub(crate) async fn run(life: Arc<Life>, probe: Probe) {
    loop {
        let tried = async {
            match &probe.check {
                ProbeCheck::Tcp(port) => connects(life.container().pid(), *port).await,
                ProbeCheck::Exec(argv) => succeeds(life.container(), argv).await,
            }
        };
        if tokio::time::timeout(PROBE_TRY_MAX, tried).await.unwrap_or_default() {
            life.readiness().at.send_replace(Some(now()));
            return;
        }
        tokio::time::sleep(probe.interval_ms.duration()).await;
    }
}

/// Whether somebody listens on a port inside.
async fn connects(pid: i32, port: u16) -> bool {
    let connect = move || -> std::io::Result<()> {
        let namespace: OwnedFd = std::fs::File::open(format!("/proc/{pid}/ns/net"))?.into();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        jail::connect_inside(std::os::fd::AsFd::as_fd(&namespace), address, PROBE_TRY_MAX).map(drop)
    };
    matches!(tokio::task::spawn_blocking(connect).await, Ok(Ok(())))
}

/// Whether a program ends with code 0.
async fn succeeds(container: &Arc<Container>, argv: &[String]) -> bool {
    let process = Process {
        argv: argv.to_vec(),
        env: container.env().to_vec(),
        cwd: container.cwd().into(),
        uid: 0,
        gid: 0,
        groups: vec![],
    };
    let Ok(stdio) = Stdio::null() else { return false };
    let Ok(exec) = container.exec(process, ExecIo::Streams(stdio)).await else { return false };
    until_end(&exec, Some(PROBE_TRY_MAX / 2)).await == Exit::Code(0)
}
