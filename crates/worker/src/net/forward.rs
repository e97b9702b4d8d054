//! A port inside a container that leads to one address of the host: for a package proxy on the
//! host's loopback, which no route leads to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::{FORWARD_CONNECT_MS_MAX, FORWARDED_MAX};

/// A running forwarder; it ends with this value, [`Forward::stop`] also waits for it.
#[derive(Debug)]
pub struct Forward {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Forward {
    /// Leads every connection to `listener` (which may belong to any network namespace) on to
    /// `to`, from this process's namespace. Connections over [`FORWARDED_MAX`] are closed at once.
    ///
    /// # Errors
    /// If the listener cannot be used without blocking.
    pub fn start(listener: std::net::TcpListener, to: SocketAddr) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(listener, to, stop.clone(), tasks.clone()));
        Ok(Self { stop, tasks })
    }

    /// Closes all connections and waits until nothing of it runs any more.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(FORWARDED_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, %to, "accept a connection to forward");
                // No descriptors or no memory: others may give some back meanwhile.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // A connection that breaks is seen at both of its ends.
                _ = carry(stream, to) => {}
            }
            drop(place);
        });
    }
}

async fn carry(mut inside: TcpStream, to: SocketAddr) -> io::Result<()> {
    let wait = Duration::from_millis(FORWARD_CONNECT_MS_MAX);
    let mut outside = timeout(wait, TcpStream::connect(to)).await??;
    copy_bidirectional(&mut inside, &mut outside).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn exchange(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn connections_are_carried_up_to_the_limit() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let forward = Forward::start(listener, echo().await).expect("start");
        let mut streams = Vec::new();
        for _ in 0..FORWARDED_MAX {
            let mut stream = TcpStream::connect(address).await.expect("connect");
            assert_eq!(exchange(&mut stream, b"hello").await.expect("echo"), b"hello");
            streams.push(stream);
        }
        let mut one_more = TcpStream::connect(address).await.expect("connect");
        assert!(exchange(&mut one_more, b"hello").await.is_err());
        // A place that is given back can be taken again.
        streams.pop();
        let again = async {
            loop {
                let mut stream = TcpStream::connect(address).await.expect("connect");
                if exchange(&mut stream, b"hello").await.is_ok() {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(5), again).await.expect("a place is free");
        forward.stop().await;
        assert!(exchange(&mut streams[0], b"hello").await.is_err());
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_target_that_is_not_there_closes_the_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let to = nobody.local_addr().expect("address");
        drop(nobody);
        let forward = Forward::start(listener, to).expect("start");
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let mut rest = Vec::new();
        // Closed or reset, but not left open.
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(read.expect("closed in time").is_err() || rest.is_empty());
        forward.stop().await;
    }
}
