//! Taking questions by UDP and TCP. What is over a limit is refused or dropped, never queued.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{Container, Shared, Transport, parse, reply_to};
use crate::limits::{DNS_IDLE_MS_MAX, DNS_QUESTIONS_PER_CONNECTION_MAX, QUESTION_BYTES_MAX};

/// Places under the limit of the container and under that of all.
type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

fn take(own: &Arc<Semaphore>, all: &Arc<Semaphore>) -> Option<Permits> {
    let own = Arc::clone(own).try_acquire_owned().ok()?;
    Some((own, Arc::clone(all).try_acquire_owned().ok()?))
}

/// Answers datagrams until the resolver stops.
pub(super) async fn by_udp(shared: Arc<Shared>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    // One byte more than a question may have, so that a longer one is seen to be.
    let mut buffer = vec![0; QUESTION_BYTES_MAX + 1];
    loop {
        let received = tokio::select! {
            () = shared.stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (len, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                rest_after(&error).await;
                continue;
            }
        };
        let Some(container) = shared.container(peer) else { continue };
        let bytes = buffer[..len].to_vec();
        let Some(permits) = take(&container.questions, &shared.questions) else {
            if let Some(reply) = busy(&bytes) {
                // A full send queue drops it, like any datagram.
                let _ = socket.try_send_to(&reply, peer);
            }
            continue;
        };
        let (task, socket) = (Arc::clone(&shared), Arc::clone(&socket));
        shared.tasks.spawn(async move {
            let answer = task.answer(&container, &bytes, Transport::Udp);
            let reply = tokio::select! {
                () = task.stop.cancelled() => None,
                reply = answer => reply,
            };
            if let Some(reply) = reply {
                // The container may be gone by now.
                let _ = socket.send_to(&reply, peer).await;
            }
            drop(permits);
        });
    }
}

/// "Try again" for a container that asks too much at once.
fn busy(bytes: &[u8]) -> Option<Vec<u8>> {
    match parse(bytes) {
        Ok(asked) => reply_to(&asked, ResponseCode::ServFail).to_vec().ok(),
        Err(reply) => reply,
    }
}

/// Answers connections until the resolver stops.
pub(super) async fn by_tcp(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                rest_after(&error).await;
                continue;
            }
        };
        // Dropping the stream closes it.
        let Some(container) = shared.container(peer) else { continue };
        let Some(permits) = take(&container.connections, &shared.connections) else { continue };
        let task = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            tokio::select! {
                () = task.stop.cancelled() => {}
                // A connection that breaks is its container's own affair.
                _ = converse(&task, &container, stream) => {}
            }
            drop(permits);
        });
    }
}

/// Answers the questions of one connection, one after the other.
async fn converse(
    shared: &Arc<Shared>,
    container: &Container,
    mut stream: TcpStream,
) -> io::Result<()> {
    let wait = Duration::from_millis(DNS_IDLE_MS_MAX);
    for _ in 0..DNS_QUESTIONS_PER_CONNECTION_MAX {
        let bytes = timeout(wait, read_question(&mut stream)).await??;
        let Some(permits) = take(&container.questions, &shared.questions) else { return Ok(()) };
        let reply = shared.answer(container, &bytes, Transport::Tcp).await;
        drop(permits);
        let Some(reply) = reply else { return Ok(()) };
        let len = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let framed = [&len.to_be_bytes(), reply.as_slice()].concat();
        timeout(wait, stream.write_all(&framed)).await??;
    }
    Ok(())
}

async fn read_question(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > QUESTION_BYTES_MAX {
        return Err(io::Error::other("a question is too long"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A socket that fails at once, again and again (no descriptors, no memory), must not keep a
/// processor busy.
async fn rest_after(error: &io::Error) {
    tracing::debug!(%error, "receive a question");
    tokio::time::sleep(Duration::from_millis(10)).await;
}
