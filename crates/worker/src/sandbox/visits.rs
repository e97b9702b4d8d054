//! Connections into a sandbox from outside: the gateway carries them, the worker makes them.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use model::TaskId;
use tokio::net::TcpStream;

use super::Found;
use crate::Worker;
use crate::limits::DIAL_MAX;
use crate::supervisor::words::{CONNECTIONS, STATE, State};

impl Worker {
    /// Connects to a port on a sandbox's own loopback address.
    ///
    /// # Errors
    /// `NotFound` if no such sandbox runs, else the kernel's, such as `ConnectionRefused`.
    pub async fn dial(&self, task: &TaskId, port: u16) -> io::Result<TcpStream> {
        let sandbox = self.running(task)?;
        let pid = sandbox.pid();
        let namespace: OwnedFd = File::open(format!("/proc/{pid}/ns/net"))?.into();
        // A process that ended may have given its number to another, in the host's namespace. Its
        // supervisor has not let go of the number of one that runs now, so it ran before, too.
        let state = sandbox.link.ask::<State>(STATE, &()).await.map_err(io::Error::other)?;
        if state != (State::Running { task: task.clone(), pid }) {
            return Err(ended(task));
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connect = move || jail::connect_inside(namespace.as_fd(), address, DIAL_MAX);
        let stream = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }

    /// Tells a sandbox how many connections into it are in use: it is not idle meanwhile.
    ///
    /// # Errors
    /// `NotFound` if no such sandbox runs, else why its supervisor could not be told.
    pub async fn tell_visits(&self, task: &TaskId, count: usize) -> io::Result<()> {
        let sandbox = self.running(task)?;
        sandbox.link.ask::<()>(CONNECTIONS, &count).await.map_err(io::Error::other)
    }

    fn running(&self, task: &TaskId) -> io::Result<std::sync::Arc<super::Sandbox>> {
        match self.sandboxes.find(task) {
            Some(Found::Running(sandbox)) => Ok(sandbox),
            Some(Found::Starting | Found::Ended(_)) | None => Err(ended(task)),
        }
    }
}

fn ended(task: &TaskId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the sandbox of task `{task}` does not run"))
}
