//! Bytes from one connection to another, both ways, until both have said their last.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::limits::{COPY_BYTES_MAX, SILENCE_MAX};

/// Carries bytes both ways. The end of one direction is passed on, and the other goes on; an error
/// or a long silence of both ends it.
pub(crate) async fn carry<A, B>(one: A, other: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (from_one, to_one) = tokio::io::split(one);
    let (from_other, to_other) = tokio::io::split(other);
    let heard = Mutex::new(Instant::now());
    let both = async {
        tokio::try_join!(copy(from_one, to_other, &heard), copy(from_other, to_one, &heard))
    };
    tokio::select! {
        carried = both => carried.map(|_| ()),
        () = silence(&heard) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    heard: &Mutex<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES_MAX];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        to.write_all(&buffer[..count]).await?;
        // TLS keeps what the socket did not take.
        to.flush().await?;
    }
}

/// Waits until nothing was heard for too long.
async fn silence(heard: &Mutex<Instant>) {
    loop {
        let last = *heard.lock().unwrap_or_else(PoisonError::into_inner);
        let end = last + SILENCE_MAX;
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}
