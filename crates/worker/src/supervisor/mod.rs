//! The process that stays beside one sandbox: it holds the container's pipes, exit status and
//! programs, keeps its output, and ends it in time. It is the server's binary, executed once more,
//! and outlives the server; a restarted one finds it by its socket.

mod control;
mod life;
mod own;
mod readiness;
mod rows;
mod standstill;
pub(crate) mod words;

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tonic::body::Body;

use crate::limits::{
    LINGER_MAX, LINGER_MIN, SUPERVISOR_CONNECTIONS_MAX, SUPERVISOR_REQUESTS_MAX,
    SUPERVISOR_THREADS_MAX, SUPERVISOR_WINDOW_BYTES, UNNOTICED_MAX,
};
use control::Supervisor;
pub(crate) use rows::own_messages;

/// What a supervisor is called in lists of processes: its first argument, by which it knows what
/// it is.
pub(crate) const MARK: &str = "palisade-supervisor";

/// Whether this process was executed to be a supervisor. Ask before anything else is done.
pub fn is_supervisor() -> bool {
    std::env::args_os().next().is_some_and(|name| name == MARK)
}

/// The whole life of a supervisor. Its arguments are the folder in which it is made, the control
/// group that it moves to, and the one below which containers have theirs; its standard input is
/// the socket on which it listens. Which sandbox it is beside, it hears later.
pub fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::new("warn");
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(false).init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the supervisor ends");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let missing = || io::Error::other("an argument is missing");
    let mut argument =
        || arguments.next().and_then(|text| text.into_string().ok()).ok_or_else(missing);
    let (folder, group, containers) = (argument()?, argument()?, argument()?);
    let name = Path::new(&folder).file_name().and_then(OsStr::to_str).ok_or_else(missing)?;
    // What ends the server's session, terminal or service does not end this process.
    let _ = rustix::process::setsid();
    // Each program takes some, and ended ones whose output is kept. With fewer, fewer can run.
    jail::host::raise_open_files();
    let socket = rustix::stdio::stdin().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(SUPERVISOR_THREADS_MAX)
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    runtime.block_on(async {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        // The kernel takes its time for it (some 12 ms); the container goes into groups of its own.
        let joining = tokio::task::spawn_blocking(move || {
            if let Err(error) = jail::join(&group) {
                tracing::warn!(%error, "the supervisor stays in the server's control group");
            }
        });
        serve(UnixListener::from_std(listener)?, joining, &containers, name).await;
        Ok(())
    })
}

/// Makes ready what builds the container. Blocks.
fn stand_by(containers: &str, name: &str) -> Option<jail::Standby> {
    let made = jail::Standby::new(containers, name);
    // The container is built without it then.
    made.inspect_err(|error| tracing::warn!(error = crate::task::chain(error), "no standby")).ok()
}

async fn serve(listener: UnixListener, joining: JoinHandle<()>, containers: &str, name: &str) {
    let (containers, name) = (containers.to_owned(), name.to_owned());
    let standby = tokio::task::spawn_blocking(move || stand_by(&containers, &name));
    let supervisor = Arc::new(Supervisor::new(standby, joining));
    let accepting = tokio::spawn(accept(listener, supervisor.clone()));
    // Whoever has connected has it give up by leaving, if no container was started until then.
    if tokio::time::timeout(UNNOTICED_MAX, supervisor.noticed()).await.is_err() {
        supervisor.give_up().await;
    }
    match supervisor.begun().await {
        Some(life) => {
            life.ended().await;
            tokio::time::sleep(LINGER_MIN).await;
            let _ = tokio::time::timeout(LINGER_MAX, life.unread()).await;
        }
        None => tokio::time::sleep(LINGER_MIN).await,
    }
    accepting.abort();
}

async fn accept(listener: UnixListener, supervisor: Arc<Supervisor>) {
    let slots = Arc::new(Semaphore::new(SUPERVISOR_CONNECTIONS_MAX));
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // Every stream has its own bound. One for all together would let streams that stand still
    // keep the others from going on.
    http.initial_stream_window_size(SUPERVISOR_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SUPERVISOR_WINDOW_BYTES as usize)
        .max_concurrent_streams(SUPERVISOR_REQUESTS_MAX);
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        supervisor.notice();
        let (supervisor, left) = (supervisor.clone(), supervisor.clone());
        let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let work = supervisor.clone().answer(request.map(Body::new));
            async move { Ok::<_, std::convert::Infallible>(work.await) }
        });
        let connection =
            http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            left.give_up().await;
            drop(slot);
        });
    }
}

/// As much as HTTP/2 has: no bound.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
