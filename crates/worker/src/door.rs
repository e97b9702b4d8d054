//! Doors: each container's own socket to the control plane. The socket is the identity; whatever
//! a container writes into its requests, it is served as the task whose socket it came through.

use std::fs;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use model::TaskId;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::limits::DOOR_CONNECTIONS_MAX;

/// Where the folder with the socket is inside a container.
pub const DOOR_INSIDE: &str = "/run/palisade/door";

/// The socket's name in that folder.
pub const SOCKET_NAME: &str = "sock";

/// What the server holds of one request that it has not read yet.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// What the server holds of one connection's requests that it has not read yet: with
/// `DOOR_CONNECTIONS_MAX` of them, 128 MiB for a container that does its worst. A socket on the
/// same machine gains nothing from more.
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;

/// How long a door waits after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes the routes behind one container's door; none if it has ended.
pub type MakeRoutes = dyn Fn(TaskId) -> BoxFuture<'static, Option<Router>> + Send + Sync;

/// The routes behind doors, made by whoever wires worker and plane together.
#[derive(Clone)]
pub struct Routes(pub Arc<MakeRoutes>);

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Routes")
    }
}

/// A door cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The small file system that holds the doors.
    #[error("the tmpfs at {path}: {source}")]
    Tmpfs {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket.
    #[error("the socket at {path}: {source}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The task has ended.
    #[error("task {0} has ended already")]
    Ended(TaskId),
}

/// All doors of a worker: folders on a tmpfs of their own, so that a container's list of mounts
/// shows no path of the host.
#[derive(Debug)]
pub struct Doors {
    dir: PathBuf,
    routes: Routes,
}

/// One container's door. Dropping it ends its connections and removes its folder.
#[derive(Debug)]
pub struct Door {
    dir: PathBuf,
    serving: JoinSet<()>,
    router: Router,
    slots: Arc<Semaphore>,
}

impl Doors {
    /// Makes the tmpfs; one that an earlier run left is removed first.
    pub fn open(dir: PathBuf, routes: Routes) -> Result<Self, Error> {
        let doors = Self { dir, routes };
        doors.close()?;
        let options = Some(c"size=4m,mode=0711");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("palisade", &doors.dir, "tmpfs", flags, options).map_err(|e| doors.tmpfs(e))?;
        Ok(doors)
    }

    fn tmpfs(&self, error: rustix::io::Errno) -> Error {
        Error::Tmpfs { path: self.dir.clone(), source: error.into() }
    }

    /// Removes the tmpfs.
    pub fn close(&self) -> Result<(), Error> {
        loop {
            match unmount(&self.dir, UnmountFlags::DETACH) {
                Ok(()) => {}
                // EINVAL: it is no mount point (any more).
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
                Err(error) => return Err(self.tmpfs(error)),
            }
        }
    }

    /// Makes a task's door. `name` is a plain word; `owner` is the host's id of the container's
    /// root, which alone may connect.
    pub async fn make(&self, task: &TaskId, name: &str, owner: u32) -> Result<Door, Error> {
        let ended = || Error::Ended(task.clone());
        let router = (self.routes.0)(task.clone()).await.ok_or_else(ended)?;
        let dir = self.dir.join(name);
        let path = dir.join(SOCKET_NAME);
        let fail = |source| Error::Socket { path: path.clone(), source };
        fs::create_dir(&dir).map_err(fail)?;
        let serving = JoinSet::new();
        let slots = Arc::new(Semaphore::new(DOOR_CONNECTIONS_MAX));
        let mut door = Door { dir, serving, router, slots };
        let listener = bind(&door.dir).map_err(fail)?;
        let owner = Some(owner);
        std::os::unix::fs::chown(&door.dir, owner, owner).map_err(fail)?;
        fs::set_permissions(&door.dir, fs::Permissions::from_mode(0o755)).map_err(fail)?;
        std::os::unix::fs::chown(&path, owner, owner).map_err(fail)?;
        // Whoever runs inside may connect, whatever user it became: the jail lets only this
        // container see the folder.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(fail)?;
        door.serve_unix(listener);
        Ok(door)
    }
}

/// Binds through a descriptor of the folder: its path may be longer than the 108 bytes that a
/// socket's address has room for.
fn bind(dir: &Path) -> io::Result<UnixListener> {
    use std::os::fd::AsRawFd;
    let folder = fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd());
    UnixListener::bind(path)
}

async fn serve<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(1_024);
    let service = TowerToHyperService::new(router);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a container's connection ended");
    }
}

impl Door {
    /// The folder that is bound into the container.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    fn serve_unix(&mut self, listener: UnixListener) {
        let listener = Arc::new(listener);
        self.serve_from(move || {
            let listener = listener.clone();
            async move { Ok(listener.accept().await?.0) }
        });
    }

    /// Serves on a socket that listens inside the container's network namespace, too: blobs are
    /// fetched over TCP.
    pub fn serve_tcp(&mut self, listener: StdTcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(TcpListener::from_std(listener)?);
        self.serve_from(move || {
            let listener = listener.clone();
            async move { Ok(listener.accept().await?.0) }
        });
        Ok(())
    }

    /// Serves every connection that `accept` gives; all sockets of the door share its slots. A
    /// failed accept (a connection given up by its maker, the server out of descriptors) is tried
    /// again: a door that ended for it would shut its container out for good.
    fn serve_from<S, F>(&mut self, accept: impl Fn() -> F + Send + 'static)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<S>> + Send,
    {
        let (router, slots) = (self.router.clone(), self.slots.clone());
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok(slot) = slots.clone().acquire_owned().await {
                let stream = match accept().await {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a container's connection was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let work = serve(stream, router.clone());
                connections.spawn(async move {
                    work.await;
                    drop(slot);
                });
                while connections.try_join_next().is_some() {}
            }
        });
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "a door's folder stays behind");
        }
    }
}
