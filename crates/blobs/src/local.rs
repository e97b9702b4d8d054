//! Blobs in a directory: `DIR/sha256/<first two digits>/<digest>`, made in `DIR/tmp` and renamed
//! when whole, so a reader never sees half a blob and a power cut never leaves one.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::Digest as _;
use tokio::fs::{self, File};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use crate::limits::{BLOB_BYTES_MAX, CHUNK_BYTES_MAX};
use crate::{Digest, DigestError};

/// What the giver of some bytes says about them. A wrong claim is an error and nothing is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The sha256 that the bytes must have.
    pub digest: Option<Digest>,
    /// The length in bytes that they must have.
    pub len: Option<u64>,
}

/// What a store knows about bytes that it has just taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Their name.
    pub digest: Digest,
    /// Their length in bytes.
    pub len: u64,
    /// Their md5, 32 lower-case hexadecimal digits: what an HTTP upload answers as its `ETag`.
    pub md5_hex: String,
}

/// Why a store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes have another sha256 than their giver said.
    #[error("the bytes have the sha256 {found}, but {expected} was announced; upload them again")]
    WrongDigest {
        /// As announced.
        expected: Digest,
        /// As computed.
        found: Digest,
    },
    /// The bytes are fewer or more than their giver said.
    #[error("{found} bytes came, but {expected} were announced; upload them again")]
    WrongLength {
        /// As announced.
        expected: u64,
        /// As counted; where more came than announced, what had come when the store gave up.
        found: u64,
    },
    /// The bytes are more than the limit.
    #[error("the blob is larger than the limit of {max} bytes")]
    TooLarge {
        /// The limit in bytes.
        max: u64,
    },
    /// The disk (or the quota) is full.
    #[error("no space is left in {dir}; free some or give the data directory a larger disk")]
    Full {
        /// The store's directory.
        dir: PathBuf,
    },
    /// There is no such blob.
    #[error("no blob {digest} is stored here")]
    NotFound {
        /// The name that was asked for.
        digest: Digest,
    },
    /// The source of the bytes failed before its end.
    #[error("reading the bytes that were to be stored fails")]
    Source(#[source] io::Error),
    /// The file system failed.
    #[error("{action} {} fails", path.display())]
    File {
        /// What was done, as a verb: "opening".
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of a strange name stands among the blobs.
    #[error("{} is no blob", path.display())]
    Stranger {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        source: DigestError,
    },
}

/// A store of blobs in a directory. One process opens a directory at a time.
#[derive(Clone, Debug)]
pub struct Local {
    dir: PathBuf,
    bytes_max: u64,
}

impl Local {
    /// Opens the store in `dir`, which is made if it is missing. What an interrupted `put` left
    /// in `dir/tmp` is removed.
    ///
    /// # Errors
    /// When the directories cannot be made, read or emptied.
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::open_limited(dir, BLOB_BYTES_MAX).await
    }

    /// Like [`Local::open`], with a limit in bytes for one blob.
    ///
    /// # Errors
    /// As for [`Local::open`].
    pub async fn open_limited(dir: impl Into<PathBuf>, bytes_max: u64) -> Result<Self, Error> {
        let store = Self { dir: dir.into(), bytes_max };
        let tmp = store.tmp_dir();
        for path in [store.dir.join("sha256"), tmp.clone()] {
            fs::create_dir_all(&path).await.map_err(|e| store.fail("making", &path, e))?;
        }
        let mut leftovers = fs::read_dir(&tmp).await.map_err(|e| store.fail("listing", &tmp, e))?;
        while let Some(entry) =
            leftovers.next_entry().await.map_err(|e| store.fail("listing", &tmp, e))?
        {
            let path = entry.path();
            fs::remove_file(&path).await.map_err(|e| store.fail("removing", &path, e))?;
        }
        Ok(store)
    }

    /// Stores bytes that are in memory.
    ///
    /// # Errors
    /// As for [`Local::put`].
    pub async fn put_bytes(&self, bytes: Bytes, expected: Expected) -> Result<Stored, Error> {
        self.put(futures::stream::iter([Ok(bytes)]), expected).await
    }

    /// Stores what a reader gives until its end.
    ///
    /// # Errors
    /// As for [`Local::put`].
    pub async fn put_reader<R>(&self, reader: R, expected: Expected) -> Result<Stored, Error>
    where
        R: AsyncRead + Send + Unpin,
    {
        self.put(ReaderStream::with_capacity(reader, CHUNK_BYTES_MAX), expected).await
    }

    /// Stores the bytes of a stream. Returns when they are on the disk for good. Storing what is
    /// already there is fine, also at the same time.
    ///
    /// # Errors
    /// [`Error::WrongDigest`], [`Error::WrongLength`], [`Error::TooLarge`], [`Error::Full`],
    /// [`Error::Source`] or [`Error::File`]; nothing is kept then.
    pub async fn put<S>(&self, stream: S, expected: Expected) -> Result<Stored, Error>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        let draft = Draft { path: self.tmp_dir().join(format!("{:032x}", rand::random::<u128>())) };
        let stored = self.write_draft(&draft, stream, expected).await?;
        self.keep(&draft, stored.digest).await?;
        Ok(stored)
    }

    /// Opens a blob: its length in bytes and its content.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::File`].
    pub async fn get(&self, digest: Digest) -> Result<(u64, File), Error> {
        let path = self.path(digest);
        let file = match File::open(&path).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NotFound { digest })?,
            opened => opened.map_err(|e| self.fail("opening", &path, e))?,
        };
        let meta = file.metadata().await.map_err(|e| self.fail("reading", &path, e))?;
        Ok((meta.len(), file))
    }

    /// Reads a whole blob of at most `bytes_max` bytes into memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a larger one, else as for [`Local::get`].
    pub async fn get_bytes(&self, digest: Digest, bytes_max: u64) -> Result<Bytes, Error> {
        let (len, mut file) = self.get(digest).await?;
        if len > bytes_max {
            return Err(Error::TooLarge { max: bytes_max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        let path = self.path(digest);
        file.read_to_end(&mut bytes).await.map_err(|e| self.fail("reading", &path, e))?;
        Ok(bytes.into())
    }

    /// The length of a blob in bytes, or `None` when it is not stored here.
    ///
    /// # Errors
    /// When the file system fails.
    pub async fn stat(&self, digest: Digest) -> Result<Option<u64>, Error> {
        let path = self.path(digest);
        match fs::metadata(&path).await {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.fail("reading", &path, e)),
        }
    }

    /// Removes a blob. Says whether there was one; whoever has it open reads on.
    ///
    /// # Errors
    /// When the file system fails.
    pub async fn remove(&self, digest: Digest) -> Result<bool, Error> {
        let path = self.path(digest);
        match fs::remove_file(&path).await {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.fail("removing", &path, e)),
        }
    }

    /// Where a blob lies, or would lie. The file never changes; bind it read-only.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join("sha256").join(&name[..2]).join(name)
    }

    /// The names of all blobs, in no order.
    ///
    /// # Errors
    /// When the file system fails or a file among the blobs is none ([`Error::Stranger`]).
    pub async fn list(&self) -> Result<Vec<Digest>, Error> {
        let root = self.dir.join("sha256");
        let mut digests = Vec::new();
        let mut folders = fs::read_dir(&root).await.map_err(|e| self.fail("listing", &root, e))?;
        while let Some(folder) =
            folders.next_entry().await.map_err(|e| self.fail("listing", &root, e))?
        {
            let path = folder.path();
            let mut files =
                fs::read_dir(&path).await.map_err(|e| self.fail("listing", &path, e))?;
            while let Some(file) =
                files.next_entry().await.map_err(|e| self.fail("listing", &path, e))?
            {
                let digest = file.file_name().to_string_lossy().parse();
                digests
                    .push(digest.map_err(|source| Error::Stranger { path: file.path(), source })?);
            }
        }
        Ok(digests)
    }

    async fn write_draft<S>(
        &self,
        draft: &Draft,
        mut stream: S,
        expected: Expected,
    ) -> Result<Stored, Error>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        let path = &draft.path;
        let mut file = File::create_new(path).await.map_err(|e| self.fail("making", path, e))?;
        let (mut sha256, mut md5, mut len) = (sha2::Sha256::new(), md5::Md5::new(), 0_u64);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(Error::Source)?;
            len += chunk.len() as u64;
            if len > self.bytes_max {
                return Err(Error::TooLarge { max: self.bytes_max });
            }
            if let Some(expected) = expected.len.filter(|expected| len > *expected) {
                return Err(Error::WrongLength { expected, found: len });
            }
            sha256.update(&chunk);
            md5.update(&chunk);
            file.write_all(&chunk).await.map_err(|e| self.fail("writing", path, e))?;
        }
        if let Some(expected) = expected.len.filter(|expected| len != *expected) {
            return Err(Error::WrongLength { expected, found: len });
        }
        let digest = Digest::from_bytes(sha256.finalize().into());
        if let Some(expected) = expected.digest.filter(|expected| digest != *expected) {
            return Err(Error::WrongDigest { expected, found: digest });
        }
        file.flush().await.map_err(|e| self.fail("writing", path, e))?;
        file.sync_data().await.map_err(|e| self.fail("syncing", path, e))?;
        Ok(Stored { digest, len, md5_hex: hex::encode(md5.finalize()) })
    }

    async fn keep(&self, draft: &Draft, digest: Digest) -> Result<(), Error> {
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder).await.map_err(|e| self.fail("making", folder, e))?;
        fs::rename(&draft.path, &path).await.map_err(|e| self.fail("renaming", &path, e))?;
        for dir in [folder, &self.dir.join("sha256")] {
            let synced = match File::open(dir).await {
                Ok(dir) => dir.sync_all().await,
                Err(error) => Err(error),
            };
            synced.map_err(|e| self.fail("syncing", dir, e))?;
        }
        Ok(())
    }

    fn tmp_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn fail(&self, action: &'static str, path: &Path, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::Full { dir: self.dir.clone() }
            }
            _ => Error::File { action, path: path.to_owned(), source },
        }
    }
}

/// A file in `tmp` that goes away when it was not renamed, also when the caller stops waiting.
#[derive(Debug)]
struct Draft {
    path: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is nothing to remove; and what stays because of another error
        // is removed when the store is opened again.
        let _ = std::fs::remove_file(&self.path);
    }
}
