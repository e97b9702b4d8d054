//! Listening inside a container's network namespace, with the socket outside.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why nobody listens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A thread could not be started, or died.
    #[error("starting a thread to listen inside a container: {0}")]
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
    let act = || {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::Enter(e.into()))?;
        TcpListener::bind(address).map_err(|source| Error::Bind { address, source })
    };
    std::thread::scope(|scope| {
        // The thread ends in the foreign namespace, so it may do nothing else.
        let thread = std::thread::Builder::new().name("listen".into());
        let thread = thread.spawn_scoped(scope, act).map_err(Error::Thread)?;
        let died = |_| Error::Thread(io::Error::other("the listening thread died"));
        thread.join().map_err(died)?
    })
}
