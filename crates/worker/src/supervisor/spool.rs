//! A stream of output in a file: the stream's offsets are the file's. It is written once, and read
//! from any offset by as many as come, also again after a lost connection.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits::{
    OUTPUT_FREED_BYTES_MIN, OUTPUT_KEPT_BYTES_MAX, OUTPUT_MESSAGE_BYTES_MAX,
    OUTPUT_WAITING_BYTES_MAX, READER_STALL_MAX,
};

/// What happens while nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The program waits: nothing is lost.
    All,
    /// The newest [`OUTPUT_KEPT_BYTES_MAX`] bytes are kept: the program never waits for long.
    Newest,
}

/// How far a stream has come, in bytes from its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// What lies before is not kept any more.
    pub(crate) start: u64,
    /// The next byte is written here.
    pub(crate) end: u64,
    /// How far the furthest reader has come.
    pub(crate) taken: u64,
    /// How many read now.
    pub(crate) readers: usize,
    /// Nothing more comes.
    pub(crate) finished: bool,
    /// Nothing more comes, because it could not be kept.
    pub(crate) failed: bool,
}

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What was asked for is not kept any more.
    #[error("the output before byte {start} is not kept any more: byte {offset} was asked for")]
    Gone {
        /// What was asked for.
        offset: u64,
        /// Where it begins now.
        start: u64,
    },
    /// More was asked for than there is.
    #[error("the output has {end} bytes: byte {offset} was asked for")]
    Beyond {
        /// What was asked for.
        offset: u64,
        /// Where it ends.
        end: u64,
    },
    /// It was cut.
    #[error("the output was cut at byte {end}, because the server's disk took no more")]
    Cut {
        /// Where.
        end: u64,
    },
    /// The file.
    #[error("the output cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    keep: Keep,
    marks: watch::Sender<Marks>,
    places: Mutex<Places>,
}

/// Where each reader is, and since when.
#[derive(Debug, Default)]
struct Places {
    next: u64,
    readers: BTreeMap<u64, (u64, Instant)>,
}

impl Spool {
    fn new(file: File, keep: Keep, marks: Marks) -> Arc<Self> {
        Arc::new(Self { file, keep, marks: watch::Sender::new(marks), places: Mutex::default() })
    }

    /// A stream that ends with this process: its file has no name.
    pub(crate) fn nameless(folder: &Path, keep: Keep) -> io::Result<Arc<Self>> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match rustix::fs::open(folder, flags, mode) {
            Ok(file) => file.into(),
            // The file system cannot: a name for a moment.
            Err(_) => {
                let path = folder.join("stream");
                let file = File::options().create_new(true).read(true).write(true).open(&path)?;
                std::fs::remove_file(&path)?;
                file
            }
        };
        Ok(Self::new(file, keep, Marks::default()))
    }

    /// A stream in a file that outlives this process.
    pub(crate) fn create(path: &Path, keep: Keep) -> io::Result<Arc<Self>> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        Ok(Self::new(file, keep, Marks::default()))
    }

    /// The stream in such a file, once nothing is written to it any more.
    pub(crate) fn open(path: &Path, start: u64) -> io::Result<Arc<Self>> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        let marks = Marks { start: start.min(end), end, finished: true, ..Marks::default() };
        Ok(Self::new(file, Keep::Newest, marks))
    }

    /// How far it has come.
    pub(crate) fn marks(&self) -> Marks {
        *self.marks.borrow()
    }

    /// Told when it goes on.
    pub(crate) fn watch(&self) -> watch::Receiver<Marks> {
        self.marks.subscribe()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until more may be written.
    pub(crate) async fn room(&self) {
        let mut marks = self.marks.subscribe();
        loop {
            let now = *marks.borrow_and_update();
            let late = match self.keep {
                Keep::All if now.end - now.taken < OUTPUT_WAITING_BYTES_MAX => return,
                Keep::All => None,
                // Whoever is far behind is waited for as long as it goes on.
                Keep::Newest => match self.stalls_at(now.end) {
                    Some(late) => Some(late),
                    None => return,
                },
            };
            let stalled = async {
                match late {
                    Some(late) => tokio::time::sleep_until(late).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = marks.changed() => {}
                () = stalled => {}
            }
        }
    }

    /// When the last of the readers that are far behind is not waited for any more; none if none
    /// is.
    fn stalls_at(&self, end: u64) -> Option<Instant> {
        let places = self.places();
        let far = places.readers.values().filter(|(at, _)| end - at >= OUTPUT_WAITING_BYTES_MAX);
        let late = far.map(|(_, since)| *since + READER_STALL_MAX).max()?;
        (late > Instant::now()).then_some(late)
    }

    /// Writes what comes next. What the disk does not take ends the stream, and its readers are
    /// told so.
    pub(crate) fn append(&self, data: &[u8]) {
        let mut marks = self.marks();
        if marks.finished || data.is_empty() {
            return;
        }
        if let Err(error) = self.file.write_all_at(data, marks.end) {
            tracing::error!(%error, "a program's output cannot be kept");
            self.marks.send_modify(|marks| (marks.finished, marks.failed) = (true, true));
            return;
        }
        marks.end += data.len() as u64;
        self.marks.send_modify(|now| now.end = marks.end);
        self.free_old();
    }

    /// Gives back what is not to be kept.
    fn free_old(&self) {
        let marks = self.marks();
        let newest = marks.end.saturating_sub(OUTPUT_KEPT_BYTES_MAX);
        let from = match self.keep {
            Keep::All => marks.taken.saturating_sub(OUTPUT_KEPT_BYTES_MAX),
            Keep::Newest => newest,
        };
        let length = from.saturating_sub(marks.start) & !(OUTPUT_FREED_BYTES_MIN - 1);
        if length == 0 {
            return;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(&self.file, flags, marks.start, length) {
            tracing::debug!(%error, "old output stays on the disk");
        }
        self.marks.send_modify(|now| now.start = marks.start + length);
    }

    /// Says that nothing more comes.
    pub(crate) fn finish(&self) {
        self.marks.send_if_modified(|marks| !std::mem::replace(&mut marks.finished, true));
    }

    /// Reads from `offset` on.
    pub(crate) fn reader(self: &Arc<Self>, offset: u64) -> Reader {
        self.marks.send_modify(|marks| marks.readers += 1);
        let mut places = self.places();
        let number = places.next;
        places.next += 1;
        places.readers.insert(number, (offset.min(self.marks().end), Instant::now()));
        Reader { marks: self.marks.subscribe(), spool: self.clone(), number, at: offset }
    }
}

/// A place in a stream.
#[derive(Debug)]
pub(crate) struct Reader {
    spool: Arc<Spool>,
    marks: watch::Receiver<Marks>,
    number: u64,
    at: u64,
}

impl Reader {
    /// The next bytes, and where they begin; waits for them. None at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Bytes)>, Error> {
        loop {
            let marks = *self.marks.borrow_and_update();
            if self.at < marks.start {
                match self.spool.keep {
                    Keep::All => {
                        return Err(Error::Gone { offset: self.at, start: marks.start });
                    }
                    Keep::Newest => self.at = marks.start,
                }
            }
            if self.at < marks.end {
                return self.take(marks.end).map(Some);
            }
            if self.at > marks.end {
                return Err(Error::Beyond { offset: self.at, end: marks.end });
            }
            if marks.failed {
                return Err(Error::Cut { end: marks.end });
            }
            if marks.finished {
                return Ok(None);
            }
            // The stream lives as long as this reader.
            let _ = self.marks.changed().await;
        }
    }

    fn take(&mut self, end: u64) -> Result<(u64, Bytes), Error> {
        let left = usize::try_from(end - self.at).unwrap_or(usize::MAX);
        let mut data = vec![0; left.min(OUTPUT_MESSAGE_BYTES_MAX)];
        self.spool.file.read_exact_at(&mut data, self.at)?;
        let from = self.at;
        self.at += data.len() as u64;
        let at = self.at;
        self.spool.places().readers.insert(self.number, (at, Instant::now()));
        self.spool.marks.send_modify(|marks| marks.taken = marks.taken.max(at));
        if self.spool.keep == Keep::All {
            self.spool.free_old();
        }
        Ok((from, data.into()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.spool.places().readers.remove(&self.number);
        self.spool.marks.send_modify(|marks| marks.readers -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spool(keep: Keep) -> (tempfile::TempDir, Arc<Spool>) {
        let dir = tempfile::tempdir().expect("a folder");
        let spool = Spool::nameless(dir.path(), keep).expect("a file");
        (dir, spool)
    }

    async fn all(reader: &mut Reader) -> Vec<u8> {
        let mut read = vec![];
        while let Some((from, data)) = reader.next().await.expect("it can be read") {
            assert_eq!(from, read.len() as u64);
            read.extend_from_slice(&data);
        }
        read
    }

    #[tokio::test]
    async fn readers_come_and_come_again() {
        let (_dir, spool) = spool(Keep::All);
        let text: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut first = spool.reader(0);
        let reading = tokio::spawn(async move { all(&mut first).await });
        for piece in text.chunks(70_001) {
            spool.append(piece);
            tokio::task::yield_now().await;
        }
        spool.finish();
        spool.append(b"late");
        assert!(reading.await.expect("it ends") == text);
        assert!(all(&mut spool.reader(0)).await == text);
        let (from, data) = spool.reader(3_999_999).next().await.expect("bytes").expect("one");
        assert_eq!((from, &*data), (3_999_999, &text[3_999_999..]));
        assert!(spool.reader(4_000_000).next().await.expect("the end").is_none());
        let beyond = spool.reader(4_000_001).next().await;
        assert!(matches!(beyond, Err(Error::Beyond { end: 4_000_000, .. })), "{beyond:?}");
    }

    /// More than fits is never waiting, and what was read long ago is gone.
    #[tokio::test(start_paused = true)]
    async fn the_writer_waits_for_the_reader() {
        let (_dir, spool) = spool(Keep::All);
        let piece = vec![1; 1 << 20];
        let mut reader = spool.reader(0);
        for _ in 0..300 {
            while tokio::time::timeout(Duration::from_secs(1), spool.room()).await.is_err() {
                let waiting = spool.marks().end - spool.marks().taken;
                assert!(waiting >= OUTPUT_WAITING_BYTES_MAX, "it waits with {waiting} bytes");
                assert!(waiting < OUTPUT_WAITING_BYTES_MAX + (1 << 20), "{waiting} bytes");
                reader.next().await.expect("bytes");
            }
            spool.append(&piece);
        }
        let marks = spool.marks();
        let kept = marks.taken - marks.start;
        assert!(kept >= OUTPUT_KEPT_BYTES_MAX, "{marks:?}");
        assert!(kept <= OUTPUT_KEPT_BYTES_MAX + OUTPUT_FREED_BYTES_MIN, "{marks:?}");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&spool.file.metadata().expect("facts"));
        assert!(blocks * 512 <= OUTPUT_KEPT_BYTES_MAX + OUTPUT_WAITING_BYTES_MAX + (8 << 20));
        let gone = spool.reader(marks.start - 1).next().await;
        assert!(matches!(gone, Err(Error::Gone { .. })), "{gone:?}");
        assert!(spool.reader(marks.start).next().await.expect("bytes").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_is_kept_where_nobody_reads() {
        let (_dir, spool) = spool(Keep::Newest);
        let piece = vec![1; 1 << 20];
        for _ in 0..300 {
            spool.room().await;
            spool.append(&piece);
        }
        let (from, _) = spool.reader(0).next().await.expect("bytes").expect("some");
        assert_eq!(from, spool.marks().start);
        assert!(from >= (300 << 20) - OUTPUT_KEPT_BYTES_MAX - OUTPUT_FREED_BYTES_MIN);
        // One that reads holds it up, one that stands still does so for a while only.
        let mut reader = spool.reader(0);
        let begun = Instant::now();
        assert!(tokio::time::timeout(READER_STALL_MAX / 2, spool.room()).await.is_err());
        reader.next().await.expect("bytes");
        spool.room().await;
        assert_eq!(begun.elapsed(), READER_STALL_MAX / 2 + READER_STALL_MAX);
    }
}
