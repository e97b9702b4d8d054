//! Sockets of a container's network namespace, held outside of it.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why nobody listens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A thread could not be started, or died.
    #[error("starting a thread that enters a container: {0}")]
    Thread(#[source] io::Error),
    /// The namespace could not be entered.
    #[error("entering a container's network namespace: {0}")]
    Enter(#[source] io::Error),
    /// The address could not be taken.
    #[error("listening on {address} inside a container: {source}")]
    Bind { address: SocketAddr, source: io::Error },
}

/// Binds and listens on `address` inside the network namespace `namespace`. The socket belongs to
/// that namespace whoever holds it, so that accepting works from here.
///
/// # Errors
/// See [`Error`]; this needs the rights of root.
pub fn listen_inside(namespace: BorrowedFd<'_>, address: SocketAddr) -> Result<TcpListener, Error> {
    enter(namespace, || {
        TcpListener::bind(address).map_err(|source| Error::Bind { address, source })
    })
}

/// Connects to `address` as a program in the network namespace `namespace` would, within `limit`
/// (more than zero). Blocks.
///
/// # Errors
/// The kernel's, such as `ConnectionRefused`, and `TimedOut`; this needs the rights of root.
pub fn connect_inside(
    namespace: BorrowedFd<'_>,
    address: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    let connected = enter(namespace, || Ok(TcpStream::connect_timeout(&address, limit)));
    connected.map_err(io::Error::other)?
}

fn enter<T: Send>(
    namespace: BorrowedFd<'_>,
    act: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let act = || {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::Enter(e.into()))?;
        act()
    };
    std::thread::scope(|scope| {
        // The thread ends in the foreign namespace, so it may do nothing else.
        let thread = std::thread::Builder::new().name("inside".into());
        let thread = thread.spawn_scoped(scope, act).map_err(Error::Thread)?;
        let died = |_| Error::Thread(io::Error::other("the thread died"));
        thread.join().map_err(died)?
    })
}
