//! From a program's pipe or terminal into the spool of that stream.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::spool::Spool;
use crate::limits::{DRAIN_PAUSE, SILENCE_AFTER_END_MAX};

/// Bytes that are read at once; nothing is held between two reads, so that one buffer does.
const READ_BYTES: usize = 128 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// How far a stream's program has come. Each comes after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It runs.
    Running,
    /// It has ended; what it has started may still write.
    Ended,
    /// Everything in the container is dead: what is in the pipe now is all there will ever be.
    Gone,
}

/// A descriptor that is watched, for reading or writing without waiting.
pub(crate) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    watched_only(fd, interest)
}

/// A descriptor that is only watched, such as a process.
#[expect(deprecated, reason = "an OwnedFd stays open as long as it is watched")]
pub(crate) fn watched_only(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// What a read has given.
enum Got {
    Some,
    Nothing,
    End,
}

fn read(source: &OwnedFd, mut take: impl FnMut(&[u8])) -> io::Result<Got> {
    BUFFER.with_borrow_mut(|buffer| match rustix::io::read(source, &mut buffer[..]) {
        // A terminal without a program says EIO.
        Ok(0) | Err(rustix::io::Errno::IO) => Ok(Got::End),
        Ok(count) => {
            take(&buffer[..count]);
            Ok(Got::Some)
        }
        Err(rustix::io::Errno::AGAIN) => Ok(Got::Nothing),
        Err(rustix::io::Errno::INTR) => Ok(Got::Some),
        Err(error) => Err(error.into()),
    })
}

/// Moves a stream until its end: the pipe's, or some silence after the program's. What background
/// processes write later is read and thrown away, so that they do not die of it.
pub(crate) async fn run(
    source: Arc<AsyncFd<OwnedFd>>,
    spool: Arc<Spool>,
    mut stage: watch::Receiver<Stage>,
) {
    if let Err(error) = pass(&source, &spool, &mut stage).await {
        tracing::warn!(%error, "a program's output cannot be read");
    }
    spool.finish();
    // What nobody asks for any more need not wait for the end of background processes.
    drop(spool);
    if *stage.borrow() != Stage::Gone {
        let _ = drain(&source, &mut stage).await;
    }
}

async fn pass(
    source: &AsyncFd<OwnedFd>,
    spool: &Spool,
    stage: &mut watch::Receiver<Stage>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            () = spool.room() => {}
            // The rest is small: as much as the pipe holds.
            _ = stage.wait_for(|stage| *stage == Stage::Gone) => {}
        }
        let now = *stage.borrow_and_update();
        if now == Stage::Gone {
            while let Got::Some = read(source.get_ref(), |data| spool.append(data))? {}
            return Ok(());
        }
        let silence = async {
            match now {
                Stage::Running => std::future::pending().await,
                Stage::Ended | Stage::Gone => tokio::time::sleep(SILENCE_AFTER_END_MAX).await,
            }
        };
        tokio::select! {
            ready = source.readable() => {
                let mut ready = ready?;
                match read(source.get_ref(), |data| spool.append(data))? {
                    Got::Some => {}
                    Got::Nothing => ready.clear_ready(),
                    Got::End => return Ok(()),
                }
            }
            _ = stage.changed() => {}
            () = silence => return Ok(()),
        }
    }
}

async fn drain(source: &AsyncFd<OwnedFd>, stage: &mut watch::Receiver<Stage>) -> io::Result<()> {
    loop {
        tokio::select! {
            ready = source.readable() => {
                let mut ready = ready?;
                match read(source.get_ref(), |_| {})? {
                    Got::Some => {}
                    Got::Nothing => ready.clear_ready(),
                    Got::End => return Ok(()),
                }
            }
            _ = stage.wait_for(|stage| *stage == Stage::Gone) => return Ok(()),
        }
        // A program that writes without an end must not cost the host a processor.
        tokio::time::sleep(DRAIN_PAUSE).await;
    }
}
