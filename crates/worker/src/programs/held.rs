//! What the output of a sandbox's programs takes on the disk, all streams together; or
//! that of all functions' containers of a worker. A program waits when it is too much, or when the
//! disk is nearly full; what is kept only for readers that have lost their connection goes first.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{Mode, OFlags};
use tokio::sync::watch;

use super::spool::Spool;
use crate::limits::{
    DISK_FREE_PERCENT_MIN, OUTPUT_ALL_BYTES_MAX, OUTPUT_LOOK_BYTES, OUTPUT_UNREAD_BYTES_MAX,
};

/// How much may be held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of one stream that nobody has read.
    pub(crate) unread_bytes: u64,
    /// Bytes of all streams.
    pub(crate) all_bytes: u64,
    /// Percent of the disk that stay free.
    pub(crate) free_percent: u64,
}

impl Bounds {
    /// As [`crate::limits`] says.
    pub(crate) const USUAL: Self = Self {
        unread_bytes: OUTPUT_UNREAD_BYTES_MAX,
        all_bytes: OUTPUT_ALL_BYTES_MAX,
        free_percent: DISK_FREE_PERCENT_MIN,
    };
}

/// The streams of a sandbox's programs.
#[derive(Debug)]
pub(crate) struct Held {
    folder: OwnedFd,
    bounds: Bounds,
    state: Mutex<State>,
    /// Whether there is too much.
    tight: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    /// Written since the disk was last looked at.
    unlooked: u64,
    is_disk_full: bool,
    /// Oldest first.
    streams: Vec<Weak<Spool>>,
}

impl Held {
    /// No stream yet, in a folder.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub(crate) fn new(folder: &Path, bounds: Bounds) -> std::io::Result<Arc<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let (state, tight) = (Mutex::default(), watch::Sender::new(false));
        Ok(Arc::new(Self { folder, bounds, state, tight }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much may be held.
    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Whether there is too much.
    pub(crate) fn is_tight(&self) -> bool {
        *self.tight.borrow()
    }

    /// Told when there is too much, and when there is not any more.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.tight.subscribe()
    }

    /// One more stream.
    pub(crate) fn add(&self, stream: &Arc<Spool>) {
        let streams = &mut self.lock().streams;
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(stream));
    }

    /// So much was written.
    pub(crate) fn grow(&self, bytes: u64) {
        let is_due = {
            let mut state = self.lock();
            state.bytes += bytes;
            state.unlooked += bytes;
            let is_over = state.bytes >= self.bounds.all_bytes;
            state.unlooked >= OUTPUT_LOOK_BYTES || (is_over && !self.is_tight())
        };
        if is_due {
            self.look();
        } else {
            self.tell();
        }
    }

    /// So much was given back.
    pub(crate) fn shrink(&self, bytes: u64) {
        {
            let mut state = self.lock();
            state.bytes = state.bytes.saturating_sub(bytes);
        }
        self.tell();
    }

    fn tell(&self) {
        let is_tight = {
            let state = self.lock();
            state.is_disk_full || state.bytes >= self.bounds.all_bytes
        };
        let change = |tight: &mut bool| std::mem::replace(tight, is_tight) != is_tight;
        self.tight.send_if_modified(change);
    }

    /// Looks at the disk. If there is too much, streams give back what was read, oldest first.
    pub(crate) fn look(&self) {
        let is_full = self.is_disk_full();
        let streams: Vec<_> = {
            let mut state = self.lock();
            (state.unlooked, state.is_disk_full) = (0, is_full);
            state.streams.iter().filter_map(Weak::upgrade).collect()
        };
        self.tell();
        for stream in streams {
            if !self.is_tight() {
                return;
            }
            stream.free_read();
        }
    }

    fn is_disk_full(&self) -> bool {
        match rustix::fs::fstatvfs(&self.folder) {
            Ok(disk) => disk.f_bavail * 100 < disk.f_blocks * self.bounds.free_percent,
            Err(error) => {
                tracing::debug!(%error, "the disk says nothing about its space");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn has_room(spool: &Spool) -> bool {
        tokio::time::timeout(Duration::from_secs(5), spool.room()).await.is_ok()
    }

    /// What was read makes room first; then each has a little, and one that is read goes on.
    #[tokio::test(start_paused = true)]
    async fn all_together_have_a_bound() {
        let dir = tempfile::tempdir().expect("a folder");
        let bounds = Bounds { unread_bytes: 64 << 20, all_bytes: 90 << 20, free_percent: 0 };
        let held = Held::new(dir.path(), bounds).expect("a folder");
        let new = || Spool::nameless(dir.path(), &held).expect("a file");
        let piece = vec![1; 1 << 20];
        let read = new();
        for _ in 0..40 {
            read.append(&piece);
        }
        read.finish();
        let mut reader = read.reader(0);
        while reader.next().await.expect("it can be read").is_some() {}
        drop(reader);
        assert_eq!(read.marks().start, 0, "it may be asked for again");
        let (first, second) = (new(), new());
        for spool in [&first, &second] {
            for _ in 0..45 {
                assert!(has_room(spool).await);
                spool.append(&piece);
            }
        }
        assert_eq!(read.marks().start, 40 << 20);
        assert!(!has_room(&first).await && !has_room(&second).await);
        let third = new();
        let mut reader = third.reader(0);
        for _ in 0..3 {
            assert!(has_room(&third).await);
            third.append(&piece);
            assert!(!has_room(&third).await);
            while third.marks().unread() > 0 {
                reader.next().await.expect("bytes");
            }
        }
        drop((reader, third, second));
        assert!(has_room(&first).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_nearly_full_holds_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let full = Bounds { free_percent: 100, ..Bounds::USUAL };
        let held = Held::new(dir.path(), full).expect("a folder");
        let spool = Spool::nameless(dir.path(), &held).expect("a file");
        let piece = vec![1; 1 << 20];
        for _ in 0..OUTPUT_LOOK_BYTES >> 20 {
            assert!(has_room(&spool).await);
            spool.append(&piece);
        }
        assert!(!has_room(&spool).await);
        let mut reader = spool.reader(0);
        while spool.marks().unread() > 0 {
            reader.next().await.expect("bytes");
        }
        assert!(has_room(&spool).await);
    }
}
