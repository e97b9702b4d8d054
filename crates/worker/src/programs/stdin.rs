//! What is written to a program's standard input. Writes say where they begin, so that one that is
//! sent again after a lost answer changes nothing.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::io::unix::AsyncFd;
use tokio::sync::{MutexGuard, watch};
use tonic::Status;

use crate::limits::END_AFTER_STDIN_MAX;
use crate::supervisor::words::Piece;

/// Why nothing more can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// The writer said that nothing follows.
    Eof,
    /// The program has closed it.
    Broken,
    /// The program has ended.
    Ended,
}

#[derive(Debug, Default)]
struct State {
    written: u64,
    closed: Option<Closed>,
}

/// A program's standard input.
#[derive(Debug)]
pub(crate) struct Stdin {
    /// One writes at a time; nobody is there once it is closed.
    pipe: tokio::sync::Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    state: Mutex<State>,
    /// Counts what ends streams that still write.
    evictions: watch::Sender<u64>,
    /// Streams that write.
    streams: watch::Sender<usize>,
    ended: watch::Sender<bool>,
    /// An end is told to a terminal by a character.
    is_terminal: bool,
    /// The last piece that was appended.
    last: tokio::sync::Mutex<Option<Appended>>,
}

/// A piece that was appended, or was begun to be.
#[derive(Debug)]
struct Appended {
    index: u32,
    hash: [u8; 32],
    /// Where it begins.
    offset: u64,
}

/// End of file, as a terminal's default settings have it.
const TERMINAL_EOF: &[u8] = b"\x04";

impl Stdin {
    /// The writer's side of a pipe or a terminal.
    pub(crate) fn new(pipe: Arc<AsyncFd<OwnedFd>>, is_terminal: bool) -> Self {
        Self {
            pipe: tokio::sync::Mutex::new(Some(pipe)),
            state: Mutex::default(),
            evictions: watch::Sender::new(0),
            streams: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            is_terminal,
            last: tokio::sync::Mutex::default(),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins to write at `offset`; `is_stream` says that [`Stdin::status`] ends it. Waits for
    /// others that write.
    ///
    /// # Errors
    /// If bytes between what was written and `offset` are missing.
    pub(crate) async fn write_from(
        &self,
        offset: u64,
        is_stream: bool,
    ) -> Result<Writing<'_>, Status> {
        let evicted = self.evictions.subscribe();
        let pipe = self.pipe.lock().await;
        let written = self.with(|state| state.written);
        let Some(skip) = written.checked_sub(offset) else {
            return Err(Status::invalid_argument(format!(
                "stdin has {written} bytes: the bytes from {written} to {offset} are missing"
            )));
        };
        let ended = self.ended.subscribe();
        self.streams.send_modify(|count| *count += usize::from(is_stream));
        Ok(Writing { stdin: self, pipe, skip, is_stream, evicted, ended })
    }

    /// Writes a piece behind all others; one that comes twice in a row is written once, also where
    /// the first time it was given up midway.
    ///
    /// # Errors
    /// When it is closed.
    pub(crate) async fn append(&self, piece: Piece) -> Result<(), Status> {
        let mut last = self.last.lock().await;
        let hash: [u8; 32] = Sha256::digest(&piece.data).into();
        let again = last.as_ref().filter(|last| (last.index, last.hash) == (piece.index, hash));
        let offset = again.map_or_else(|| self.with(|state| state.written), |last| last.offset);
        *last = Some(Appended { index: piece.index, hash, offset });
        self.write_from(offset, false).await?.write(&piece.data).await?;
        if piece.eof {
            let offset = self.with(|state| state.written);
            self.write_from(offset, false).await?.eof().await?;
        }
        Ok(())
    }

    /// How many bytes were written, and whether it is closed; a stream that still writes is ended
    /// before.
    pub(crate) async fn status(&self) -> (u64, bool) {
        self.evictions.send_modify(|count| *count += 1);
        // Streams go at once; a write that waits for the program is not waited for.
        let _ = self.streams.subscribe().wait_for(|count| *count == 0).await;
        self.with(|state| (state.written, state.closed.is_some()))
    }

    /// Closes it, because the program has ended.
    pub(crate) fn end(&self) {
        self.with(|state| state.closed = state.closed.or(Some(Closed::Ended)));
        self.ended.send_replace(true);
        // Whoever writes lets go at once, and finds it closed.
        if let Ok(mut pipe) = self.pipe.try_lock() {
            *pipe = None;
        }
    }
}

/// The right to write.
#[derive(Debug)]
pub(crate) struct Writing<'s> {
    stdin: &'s Stdin,
    pipe: MutexGuard<'s, Option<Arc<AsyncFd<OwnedFd>>>>,
    /// Bytes that were written before, and come again.
    skip: u64,
    is_stream: bool,
    evicted: watch::Receiver<u64>,
    ended: watch::Receiver<bool>,
}

fn closed(why: Closed) -> Status {
    Status::failed_precondition(match why {
        Closed::Eof => "stdin is closed: its end was written before",
        Closed::Broken => "stdin is closed: the program reads no more",
        Closed::Ended => "stdin is closed: the program has ended",
    })
}

async fn evicted(is_stream: bool, evictions: &mut watch::Receiver<u64>) {
    match is_stream {
        true => drop(evictions.changed().await),
        false => std::future::pending().await,
    }
}

fn displaced() -> Status {
    Status::aborted("another stream goes on with stdin")
}

impl Writing<'_> {
    /// Waits until this stream has to make way for another; returns what it hears.
    pub(crate) async fn displaced(&mut self) -> Status {
        evicted(self.is_stream, &mut self.evicted).await;
        displaced()
    }

    /// Writes what comes next; returns when the pipe has taken it.
    ///
    /// # Errors
    /// When nothing can be written any more.
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), Status> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(data.len());
        self.skip -= skipped as u64;
        let mut rest = &data[skipped..];
        while !rest.is_empty() {
            if let Some(why) = self.stdin.with(|state| state.closed) {
                return Err(self.refused(why).await);
            }
            let Some(pipe) = self.pipe.as_ref() else { return Err(closed(Closed::Ended)) };
            let mut ready = tokio::select! {
                biased;
                () = evicted(self.is_stream, &mut self.evicted) => return Err(displaced()),
                ready = pipe.writable() => ready.map_err(|e| Status::internal(e.to_string()))?,
                _ = self.ended.wait_for(|ended| *ended) => return Err(closed(Closed::Ended)),
            };
            match rustix::io::write(pipe.get_ref(), rest) {
                Ok(count) => {
                    self.stdin.with(|state| state.written += count as u64);
                    rest = &rest[count..];
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::IO) => {
                    self.close(Closed::Broken);
                }
                Err(error) => return Err(Status::internal(format!("writing to stdin: {error}"))),
            }
        }
        Ok(())
    }

    /// Says that nothing follows. Saying it twice is fine.
    ///
    /// # Errors
    /// For a terminal that takes nothing more.
    pub(crate) async fn eof(mut self) -> Result<(), Status> {
        if self.stdin.is_terminal && self.stdin.with(|state| state.closed.is_none()) {
            let written = self.stdin.with(|state| state.written);
            self.write(TERMINAL_EOF).await?;
            self.stdin.with(|state| state.written = written);
        }
        self.close(Closed::Eof);
        Ok(())
    }

    /// What a write hears after the end. Clients that hear it ask how the program ended: one that
    /// reads no more is mostly about to end, and is waited for.
    async fn refused(&mut self, why: Closed) -> Status {
        if why == Closed::Broken {
            let ended = self.ended.wait_for(|ended| *ended);
            tokio::select! {
                () = evicted(self.is_stream, &mut self.evicted) => return displaced(),
                _ = tokio::time::timeout(END_AFTER_STDIN_MAX, ended) => {}
            }
        }
        closed(why)
    }

    fn close(&mut self, why: Closed) {
        self.stdin.with(|state| state.closed = state.closed.or(Some(why)));
        *self.pipe = None;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if *self.stdin.ended.borrow() {
            *self.pipe = None;
        }
        self.stdin.streams.send_modify(|count| *count -= usize::from(self.is_stream));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::io::Interest;

    use super::super::pump::watched;
    use super::*;

    fn stdin() -> (OwnedFd, Stdin) {
        let (ours, theirs) = rustix::pipe::pipe().expect("a pipe");
        let pipe = watched(theirs, Interest::WRITABLE).expect("it can be watched");
        (ours, Stdin::new(Arc::new(pipe), false))
    }

    fn read(pipe: &OwnedFd, count: usize) -> Vec<u8> {
        let mut data = vec![0; count];
        let count = rustix::io::read(pipe, &mut data[..]).expect("bytes");
        data.truncate(count);
        data
    }

    #[tokio::test]
    async fn what_is_sent_again_is_written_once() {
        let (pipe, stdin) = stdin();
        stdin.write_from(0, false).await.unwrap().write(b"hello ").await.unwrap();
        // The answer was lost, and more came in the meantime.
        let mut again = stdin.write_from(0, false).await.unwrap();
        again.write(b"hel").await.unwrap();
        again.write(b"lo world").await.unwrap();
        drop(again);
        assert_eq!(read(&pipe, 100), b"hello world");
        let gap = stdin.write_from(12, false).await.unwrap_err();
        assert_eq!(gap.code(), tonic::Code::InvalidArgument);
        stdin.write_from(11, false).await.unwrap().eof().await.unwrap();
        assert_eq!(read(&pipe, 100), b"");
        assert_eq!(stdin.status().await, (11, true));
        // The end again, and what was written before, change nothing; more is an error.
        stdin.write_from(11, false).await.unwrap().eof().await.unwrap();
        stdin.write_from(5, false).await.unwrap().write(b" world").await.unwrap();
        let more = stdin.write_from(11, false).await.unwrap().write(b"!").await.unwrap_err();
        assert_eq!(more.code(), tonic::Code::FailedPrecondition);
    }

    /// A write that is given up in the middle goes on where it stopped.
    #[tokio::test]
    async fn a_full_pipe_holds_up_and_loses_nothing() {
        let (pipe, stdin) = stdin();
        let data: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let mut writing = stdin.write_from(0, false).await.unwrap();
        let stuck = tokio::time::timeout(Duration::from_millis(50), writing.write(&data)).await;
        assert!(stuck.is_err(), "the pipe is full");
        drop(writing);
        let (written, closed) = stdin.status().await;
        assert!(written > 0 && written < 200_000 && !closed);
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = vec![];
            loop {
                let piece = read(&pipe, 65_536);
                all.extend_from_slice(&piece);
                if piece.is_empty() {
                    return all;
                }
            }
        });
        let mut writing = stdin.write_from(0, false).await.unwrap();
        writing.write(&data).await.unwrap();
        writing.eof().await.unwrap();
        assert!(reading.await.unwrap() == data);
    }

    /// What a lost connection had begun is not written twice.
    #[tokio::test]
    async fn a_piece_that_was_begun_is_gone_on_with() {
        let (pipe, stdin) = stdin();
        let data: Bytes = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let piece = |index, data: &Bytes| Piece { index, data: data.clone(), eof: false };
        let stuck = stdin.append(piece(1, &data));
        assert!(tokio::time::timeout(Duration::from_millis(50), stuck).await.is_err());
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = vec![];
            while all.len() < 100_004 {
                all.extend_from_slice(&read(&pipe, 65_536));
            }
            all
        });
        for _ in 0..2 {
            stdin.append(piece(1, &data)).await.unwrap();
        }
        let more = Bytes::from_static(b"more");
        for _ in 0..2 {
            stdin.append(piece(2, &more)).await.unwrap();
        }
        assert!(reading.await.unwrap() == [&data[..], &more[..]].concat());
        assert_eq!(stdin.status().await, (100_004, false));
    }

    #[tokio::test]
    async fn asking_how_far_it_is_ends_a_stream() {
        let (_pipe, stdin) = stdin();
        let stdin = Arc::new(stdin);
        let mine = stdin.clone();
        let stream = tokio::spawn(async move {
            let mut writing = mine.write_from(0, true).await?;
            writing.write(&[7; 1 << 20]).await
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (written, closed) = stdin.status().await;
        assert_eq!((written, closed), (65_536, false));
        let evicted = stream.await.unwrap().unwrap_err();
        assert_eq!(evicted.code(), tonic::Code::Aborted);
    }

    #[tokio::test]
    async fn a_program_that_is_gone_takes_nothing() {
        let (pipe, stdin) = stdin();
        drop(pipe);
        let begun = std::time::Instant::now();
        let broken = stdin.write_from(0, false).await.unwrap().write(b"x").await.unwrap_err();
        assert_eq!(broken.code(), tonic::Code::FailedPrecondition);
        assert!(begun.elapsed() >= END_AFTER_STDIN_MAX);
        // Its end is told first.
        let (pipe, stdin) = self::stdin();
        drop(pipe);
        let mut writing = stdin.write_from(0, false).await.unwrap();
        let begun = std::time::Instant::now();
        let end = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            stdin.end();
        };
        let (broken, ()) = tokio::join!(writing.write(b"x"), end);
        assert_eq!(broken.unwrap_err().code(), tonic::Code::FailedPrecondition);
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert!(begun.elapsed() < END_AFTER_STDIN_MAX);
        drop(writing);
        let (_pipe, stdin) = self::stdin();
        stdin.end();
        let ended = stdin.write_from(0, false).await.unwrap().write(b"x").await.unwrap_err();
        assert!(ended.message().contains("has ended"), "{ended}");
    }
}
