//! A stream of output in a file: the stream's offsets are the file's. It is written once, and read
//! from any offset by as many as come, also again after a lost connection.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use tokio::sync::watch;
use tokio::time::Instant;

use super::held::Held;
use crate::limits::{
    OUTPUT_ALWAYS_BYTES, OUTPUT_FREED_BYTES_MIN, OUTPUT_KEPT_BYTES_MAX, OUTPUT_MESSAGE_BYTES_MAX,
    OUTPUT_STALLED_BYTES_MAX, READER_COMES_MAX, READER_STALL_MAX, SPACE_LOOK_EVERY,
};

/// What happens while nobody reads.
#[derive(Debug)]
enum Keep {
    /// It is kept as far as there is room, then the program waits: nothing is lost.
    All(Arc<Held>),
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

impl Marks {
    /// Bytes that nobody has read.
    pub(crate) fn unread(&self) -> u64 {
        self.end - self.taken
    }

    /// Bytes on the disk.
    fn held(&self) -> u64 {
        self.end - self.start
    }
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

    /// A stream of which all is kept, and that ends with this process: its file has no name.
    pub(crate) fn nameless(folder: &Path, held: &Arc<Held>) -> io::Result<Arc<Self>> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match rustix::fs::open(folder, flags, mode) {
            Ok(file) => file.into(),
            // The file system cannot: a name for a moment.
            Err(_) => {
                static NUMBERS: AtomicU64 = AtomicU64::new(0);
                let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
                let path = folder.join(format!("stream-{number}"));
                let file = File::options().create_new(true).read(true).write(true).open(&path)?;
                std::fs::remove_file(&path)?;
                file
            }
        };
        let spool = Self::new(file, Keep::All(held.clone()), Marks::default());
        held.add(&spool);
        Ok(spool)
    }

    /// A stream of which the newest is kept, in a file that outlives this process.
    pub(crate) fn create(path: &Path) -> io::Result<Arc<Self>> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        Ok(Self::new(file, Keep::Newest, Marks::default()))
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
        match &self.keep {
            Keep::All(held) => self.room_to_keep(held).await,
            Keep::Newest => self.room_for_readers().await,
        }
    }

    async fn room_to_keep(&self, held: &Held) {
        let (mut marks, mut tight) = (self.marks.subscribe(), held.watch());
        loop {
            let unread = marks.borrow_and_update().unread();
            let is_tight = *tight.borrow_and_update();
            if unread < OUTPUT_ALWAYS_BYTES || (!is_tight && unread < held.bounds().unread_bytes) {
                return;
            }
            // Others may fill the disk, and clear it.
            let look = async {
                match is_tight {
                    true => tokio::time::sleep(SPACE_LOOK_EVERY).await,
                    false => std::future::pending().await,
                }
            };
            // Both live as long as this does.
            tokio::select! {
                _ = marks.changed() => {}
                _ = tight.changed() => {}
                () = look => held.look(),
            }
        }
    }

    /// Whoever is far behind is waited for as long as it goes on.
    async fn room_for_readers(&self) {
        let mut marks = self.marks.subscribe();
        loop {
            let end = marks.borrow_and_update().end;
            let Some(late) = self.stalls_at(end) else { return };
            tokio::select! {
                _ = marks.changed() => {}
                () = tokio::time::sleep_until(late) => {}
            }
        }
    }

    /// When the last of the readers that are far behind is not waited for any more; none if none
    /// is.
    fn stalls_at(&self, end: u64) -> Option<Instant> {
        let places = self.places();
        let far = places.readers.values().filter(|(at, _)| end - at >= OUTPUT_STALLED_BYTES_MAX);
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
        if let Keep::All(held) = &self.keep {
            held.grow(data.len() as u64);
        }
        self.free_old();
    }

    /// Gives back what is not to be kept.
    fn free_old(&self) {
        let marks = self.marks();
        let before = match &self.keep {
            Keep::All(held) if held.is_tight() => marks.taken,
            Keep::All(_) => marks.taken.saturating_sub(OUTPUT_KEPT_BYTES_MAX),
            Keep::Newest => marks.end.saturating_sub(OUTPUT_KEPT_BYTES_MAX),
        };
        self.free(before & !(OUTPUT_FREED_BYTES_MIN - 1));
    }

    /// Gives back what somebody has read.
    pub(crate) fn free_read(&self) {
        self.free(self.marks().taken);
    }

    fn free(&self, before: u64) {
        let start = self.marks().start;
        let Some(length @ 1..) = before.checked_sub(start) else { return };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(&self.file, flags, start, length) {
            tracing::debug!(%error, "old output stays on the disk");
        }
        self.marks.send_modify(|now| now.start = before);
        if let Keep::All(held) = &self.keep {
            held.shrink(length);
        }
    }

    /// Waits until all of it was read, or until nobody comes who reads it.
    pub(crate) async fn read_out(&self) {
        let mut marks = self.marks.subscribe();
        let late = Instant::now() + READER_COMES_MAX;
        loop {
            let now = *marks.borrow_and_update();
            if now.readers == 0 && now.finished && now.unread() == 0 {
                return;
            }
            let changed = marks.changed();
            let _ = match now.readers {
                0 => match tokio::time::timeout_at(late, changed).await {
                    Ok(changed) => changed,
                    Err(_) => return,
                },
                _ => changed.await,
            };
        }
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

impl Drop for Spool {
    fn drop(&mut self) {
        if let Keep::All(held) = &self.keep {
            held.shrink(self.marks().held());
        }
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
                    Keep::All(_) => {
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
        if matches!(self.spool.keep, Keep::All(_)) {
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

    use super::super::held::Bounds;
    use super::*;

    const MIB: usize = 1 << 20;

    fn spool() -> (tempfile::TempDir, Arc<Held>, Arc<Spool>) {
        let dir = tempfile::tempdir().expect("a folder");
        let bounds = Bounds { unread_bytes: 64 << 20, ..Bounds::USUAL };
        let held = Held::new(dir.path(), bounds).expect("a folder");
        let spool = Spool::nameless(dir.path(), &held).expect("a file");
        (dir, held, spool)
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
        let (_dir, _held, spool) = spool();
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

    /// No more than is allowed is unread, and what was read long ago is gone.
    #[tokio::test(start_paused = true)]
    async fn the_writer_waits_for_the_reader() {
        let (_dir, held, spool) = spool();
        let piece = vec![1; MIB];
        let mut reader = spool.reader(0);
        let unread_max = held.bounds().unread_bytes;
        for _ in 0..300 {
            while tokio::time::timeout(Duration::from_secs(5), spool.room()).await.is_err() {
                let unread = spool.marks().unread();
                assert!((unread_max..unread_max + MIB as u64).contains(&unread), "{unread} bytes");
                reader.next().await.expect("bytes");
            }
            spool.append(&piece);
        }
        let marks = spool.marks();
        let kept = marks.taken - marks.start;
        assert!(kept >= OUTPUT_KEPT_BYTES_MAX, "{marks:?}");
        assert!(kept <= OUTPUT_KEPT_BYTES_MAX + OUTPUT_FREED_BYTES_MIN, "{marks:?}");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&spool.file.metadata().expect("facts"));
        assert!(blocks * 512 <= OUTPUT_KEPT_BYTES_MAX + unread_max + (8 << 20));
        let gone = spool.reader(marks.start - 1).next().await;
        assert!(matches!(gone, Err(Error::Gone { .. })), "{gone:?}");
        assert!(spool.reader(marks.start).next().await.expect("bytes").is_some());
    }

    /// An end is told behind the output, to those that read it.
    #[tokio::test(start_paused = true)]
    async fn an_end_waits_for_readers() {
        let (_dir, _held, spool) = spool();
        spool.append(b"text");
        let begun = Instant::now();
        spool.read_out().await;
        assert_eq!(begun.elapsed(), READER_COMES_MAX);
        let mut reader = spool.reader(0);
        let minute = Duration::from_secs(60);
        assert!(tokio::time::timeout(minute, spool.read_out()).await.is_err());
        reader.next().await.expect("bytes").expect("some");
        spool.finish();
        assert!(tokio::time::timeout(minute, spool.read_out()).await.is_err());
        assert!(reader.next().await.expect("the end").is_none());
        drop(reader);
        let begun = Instant::now();
        spool.read_out().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_is_kept_where_nobody_reads() {
        let dir = tempfile::tempdir().expect("a folder");
        let spool = Spool::create(&dir.path().join("stdout")).expect("a file");
        let piece = vec![1; MIB];
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
