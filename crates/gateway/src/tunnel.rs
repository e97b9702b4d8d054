//! Tunnels: a port of the host for each open port of a sandbox. What a peer sends is carried to the
//! port inside as it is, and back; TLS ends here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use model::TaskId;
use model::sandbox::TunnelKind;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::carry::carry;
use crate::host_ports::{Error, HostPorts, Purpose};
use crate::limits::{OPENING_MAX, OPENINGS_MAX};
use crate::opening::{Stream, watch};
use crate::tls::{Identity, Offer};
use crate::visits::{Sandbox, Visit, Visits};

const NOBODY_LISTENS: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain\r\n\
    connection: close\r\n\r\nnobody listens on this port of the sandbox\n";

/// A tunnel to open.
#[derive(Debug, Clone)]
pub struct TunnelSpec {
    /// The port inside.
    pub container_port: u16,
    /// How it is reached.
    pub kind: TunnelKind,
    /// The port of the host that it had before the server's restart.
    pub host_port: Option<u16>,
}

/// The tunnels of all sandboxes. Cheap to clone.
#[derive(Clone)]
pub struct Tunnels(Arc<Shared>);

struct Shared {
    visits: Visits,
    ports: HostPorts,
    openings: Semaphore,
    http1: TlsAcceptor,
    http2: TlsAcceptor,
}

impl std::fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnels").finish_non_exhaustive()
    }
}

impl Tunnels {
    /// None is open yet.
    pub fn new(visits: Visits, ports: HostPorts, identity: &Identity) -> Self {
        Self(Arc::new(Shared {
            visits,
            ports,
            openings: Semaphore::new(OPENINGS_MAX),
            http1: identity.acceptor(Offer::Http1),
            http2: identity.acceptor(Offer::Http2),
        }))
    }

    /// Opens a tunnel to a sandbox that was begun ([`Visits::begin`]), and returns the port of the
    /// host. It is closed when the sandbox ends ([`Visits::end`]). Asked again, it
    /// answers the same.
    pub async fn open(&self, task: &TaskId, spec: &TunnelSpec) -> Result<u16, Error> {
        let sandbox = self.0.visits.find(task).ok_or_else(|| Error::Ended(task.clone()))?;
        let purpose = Purpose::Tunnel(spec.kind, spec.container_port);
        let (port, listener) = self.0.ports.take(&sandbox, purpose, spec.host_port).await?;
        let Some(listener) = listener else { return Ok(port) };
        let tunnel = Tunnel {
            shared: self.0.clone(),
            sandbox: sandbox.clone(),
            port: spec.container_port,
            tls: match spec.kind {
                TunnelKind::Encrypted => Some(self.0.http1.clone()),
                TunnelKind::Http2 => Some(self.0.http2.clone()),
                TunnelKind::Plain => None,
            },
        };
        // One that ended meanwhile has fired its token: the listener is closed at once.
        sandbox.tasks.spawn(tunnel.listen(listener));
        Ok(port)
    }
}

/// One open tunnel.
#[derive(Clone)]
struct Tunnel {
    shared: Arc<Shared>,
    sandbox: Arc<Sandbox>,
    port: u16,
    tls: Option<TlsAcceptor>,
}

impl Tunnel {
    async fn listen(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.sandbox.ended.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a tunnel's connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match self.shared.visits.enter(&self.sandbox, peer.ip()) {
                Ok(visit) => {
                    let tunnel = self.clone();
                    self.sandbox.tasks.spawn(async move {
                        if let Err(error) = tunnel.carry(stream, &visit).await {
                            tracing::debug!(%peer, %error, "a tunnel's connection ended");
                        }
                    });
                }
                Err(refused) => tracing::debug!(%peer, %refused, "a tunnel's peer is refused"),
            }
        }
    }

    /// Carries one connection to its end, or to the sandbox's.
    async fn carry(&self, stream: TcpStream, visit: &Visit) -> io::Result<()> {
        tokio::select! {
            carried = self.carry_on(stream, visit) => carried,
            () = visit.ended() => Ok(()),
        }
    }

    async fn carry_on(&self, stream: TcpStream, visit: &Visit) -> io::Result<()> {
        watch(&stream)?;
        let (mut outside, is_http1) = self.secure(stream).await?;
        visit.use_it();
        let inside = match visit.dial(self.port).await {
            Ok(inside) => inside,
            Err(error) => {
                // A peer that agreed on HTTP/1.1 can be told why.
                if is_http1 {
                    outside.write_all(NOBODY_LISTENS).await?;
                }
                outside.shutdown().await?;
                return Err(error);
            }
        };
        carry(outside, inside).await
    }

    /// The peer's bytes without TLS, and whether it agreed on HTTP/1.1 by name.
    async fn secure(&self, stream: TcpStream) -> io::Result<(Box<dyn Stream>, bool)> {
        let Some(tls) = &self.tls else { return Ok((Box::new(stream), false)) };
        let too_many = |_| io::Error::other("too many connections are in their handshake");
        let _opening = self.shared.openings.try_acquire().map_err(too_many)?;
        let stream = tokio::time::timeout(OPENING_MAX, tls.accept(stream)).await??;
        let is_http1 = stream.get_ref().1.alpn_protocol() == Some(b"http/1.1");
        Ok((Box::new(stream), is_http1))
    }
}
