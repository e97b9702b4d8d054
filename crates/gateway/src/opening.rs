//! How a connection opens: TLS or not, HTTP/2 or HTTP/1. The first bytes tell.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::limits::{KEEPALIVE, OPENING_MAX, REFUSAL_MAX};
use crate::tls::{Identity, Offer};

/// The first byte of each TLS connection: a record that holds a handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// The first bytes of each HTTP/2 connection (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a refused request that are read, so that its answer arrives.
const REFUSED_BYTES_MAX: u64 = 64 << 10;

const TLS_ONLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    connection: close\r\n\r\nthis port takes TLS only: begin with https://\n";

/// What a port takes.
#[derive(Debug, Clone)]
pub enum Speech {
    /// Plaintext alone.
    Plaintext,
    /// TLS and plaintext, told apart by the first byte.
    Both(Identity),
    /// TLS alone.
    Tls(Identity),
}

/// A connection's bytes, both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The version of HTTP that a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// A connection whose peer has said what it speaks.
pub(crate) struct Opened {
    pub(crate) stream: Rewound<Box<dyn Stream>>,
    pub(crate) version: Version,
    pub(crate) is_tls: bool,
}

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Opener {
    tls: Option<TlsAcceptor>,
    plaintext: bool,
}

impl Opener {
    pub(crate) fn new(speech: &Speech) -> Self {
        match speech {
            Speech::Plaintext => Self { tls: None, plaintext: true },
            Speech::Both(one) => Self { tls: Some(one.acceptor(Offer::Http)), plaintext: true },
            Speech::Tls(one) => Self { tls: Some(one.acceptor(Offer::Http)), plaintext: false },
        }
    }

    /// Waits for the handshake and the first bytes, for a while.
    pub(crate) async fn open(&self, stream: TcpStream) -> io::Result<Opened> {
        let stream = match tokio::time::timeout(OPENING_MAX, self.secure(stream)).await {
            Ok(Ok(Ok(opened))) => return Ok(opened),
            Ok(Ok(Err(refused))) => refused,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let _ = tokio::time::timeout(REFUSAL_MAX, refuse(stream)).await;
        Err(io::Error::other("plaintext on a port that takes TLS only"))
    }

    /// The opened connection, or the one whose language is not taken.
    async fn secure(&self, stream: TcpStream) -> io::Result<Result<Opened, TcpStream>> {
        watch(&stream)?;
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (stream, is_tls): (Box<dyn Stream>, _) = match &self.tls {
            Some(tls) if first[0] == TLS_HANDSHAKE => (Box::new(tls.accept(stream).await?), true),
            _ if self.plaintext => (Box::new(stream), false),
            _ => return Ok(Err(stream)),
        };
        let (stream, version) = version(stream).await?;
        Ok(Ok(Opened { stream, version, is_tls }))
    }
}

/// Finds out when a peer is gone without a word, and sends small messages at once.
pub(crate) fn watch(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE / 4)?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(())
}

/// Says what is taken, in plaintext.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(TLS_ONLY).await?;
    stream.shutdown().await?;
    // Closed with bytes unread, the kernel would send a reset and the answer might be lost.
    tokio::io::copy(&mut stream.take(REFUSED_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Reads until the version of HTTP is clear, and puts the bytes back.
async fn version(mut stream: Box<dyn Stream>) -> io::Result<(Rewound<Box<dyn Stream>>, Version)> {
    let mut head = [0; HTTP2_PREFACE.len()];
    let mut length = 0;
    while length < head.len() && head[..length] == HTTP2_PREFACE[..length] {
        match stream.read(&mut head[length..]).await? {
            0 => break,
            read => length += read,
        }
    }
    let is_http2 = head == *HTTP2_PREFACE;
    let version = if is_http2 { Version::Http2 } else { Version::Http1 };
    Ok((Rewound { head, read: 0, length, stream }, version))
}

/// A stream whose first bytes are read once more.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    head: [u8; HTTP2_PREFACE.len()],
    read: usize,
    length: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.length {
            let count = into.remaining().min(self.length - self.read);
            into.put_slice(&self.head[self.read..self.read + count]);
            self.read += count;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
