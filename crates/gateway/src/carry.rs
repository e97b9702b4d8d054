//! Bytes from one connection to another, both ways, until both have said their last.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::limits::{COPY_BYTES_MAX, HALF_CLOSED_MAX, SILENCE_MAX};

/// When something was heard of either side.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    /// One of them sends no more.
    is_half_closed: bool,
}

/// Carries bytes both ways. The end of one direction is passed on, and the other goes on; an error
/// or a long silence of both ends it.
pub(crate) async fn carry<A, B>(one: A, other: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (from_one, to_one) = tokio::io::split(one);
    let (from_other, to_other) = tokio::io::split(other);
    let heard = Mutex::new(Heard { at: Instant::now(), is_half_closed: false });
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
    heard: &Mutex<Heard>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES_MAX];
    loop {
        let count = from.read(&mut buffer).await?;
        {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.at = Instant::now();
            heard.is_half_closed |= count == 0;
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        // TLS keeps what the socket did not take.
        to.flush().await?;
    }
}

/// Waits until nothing was heard for too long.
async fn silence(heard: &Mutex<Heard>) {
    loop {
        let now = *heard.lock().unwrap_or_else(PoisonError::into_inner);
        let most = if now.is_half_closed { HALF_CLOSED_MAX } else { SILENCE_MAX };
        let end = now.at + most;
        if end <= Instant::now() {
            return;
        }
        // It may be half closed meanwhile.
        tokio::time::sleep_until(end.min(Instant::now() + HALF_CLOSED_MAX / 4)).await;
    }
}
