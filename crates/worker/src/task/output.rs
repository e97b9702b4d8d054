//! What a container prints, on its way to the plane.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use model::link::{LogLine, Report, Stream};
use model::{TaskId, Time};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::Worker;
use crate::limits::LOG_CHUNK_BYTES_MAX;

/// The present moment, for lines.
pub(crate) fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Time(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// A pipe: the container's end, and ours.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((theirs, ours))
}

/// Reports what comes out of a pipe until its end. Back-pressure is the pipe's: a container that
/// prints faster than its lines are kept waits.
pub(crate) async fn follow(
    worker: Arc<Worker>,
    task: TaskId,
    stream: Stream,
    ours: OwnedFd,
) -> io::Result<()> {
    rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK)?;
    let mut pipe = pipe::Receiver::from_owned_fd(ours)?;
    let mut held = BytesMut::with_capacity(LOG_CHUNK_BYTES_MAX);
    loop {
        held.reserve(LOG_CHUNK_BYTES_MAX);
        let ended = pipe.read_buf(&mut held).await? == 0;
        let n = if ended || held.len() > LOG_CHUNK_BYTES_MAX {
            held.len()
        } else {
            model::text::whole(&held)
        };
        if n > 0 {
            let data: Bytes = held.split_to(n).freeze();
            let line = LogLine { task: task.clone(), stream, at: now(), data };
            worker.report(Report::Log(line)).await;
        }
        if ended {
            return Ok(());
        }
    }
}
