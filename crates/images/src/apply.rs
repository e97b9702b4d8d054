//! From a packed layer to a folder, in one pass over the bytes: hash, unpack, hash, write.

use std::io::{self, BufRead, BufReader, Read};

use blobs::Digest;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::layer::Draft;
use crate::limits::{
    LAYER_BYTES_MAX, LAYER_RATIO_FREE_BYTES, LAYER_RATIO_MAX, ZSTD_WINDOW_LOG_MAX,
};
use crate::listing::Contents;
use crate::unpack::{UnpackError, unpack};

/// Why a packed layer did not become a folder.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Its archive is refused or garbled.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// It is not what the image's configuration names.
    #[error("unpacked it is sha256:{found}, not sha256:{wanted} as the image's configuration says")]
    DiffId {
        /// What the configuration says.
        wanted: Digest,
        /// What came out.
        found: Digest,
    },
}

/// Unpacks a layer of `packed_bytes` bytes into a draft. The caller compares what it read with
/// the layer's digest.
pub(crate) fn apply(
    packed: impl Read,
    packed_bytes: u64,
    diff_id: Digest,
    draft: &Draft,
) -> Result<Contents, ApplyError> {
    let mut unpacked = open(packed, packed_bytes)?;
    let contents = unpack(&mut unpacked, &draft.upper())?;
    let archive = |error| ApplyError::Unpack(UnpackError::Archive(error));
    // What stands after the archive's end belongs to its digest, and to no file.
    io::copy(&mut unpacked, &mut io::sink()).map_err(archive)?;
    let (wanted, found) = (diff_id, Digest::from_bytes(unpacked.hasher.finalize().into()));
    if wanted == found { Ok(contents) } else { Err(ApplyError::DiffId { wanted, found }) }
}

/// Begins to decompress an archive, by what it begins with: gzip, zstd, or not packed at all.
pub(crate) fn open<'r>(
    packed: impl Read + 'r,
    packed_bytes: u64,
) -> Result<Measured<Box<dyn Read + 'r>>, UnpackError> {
    let mut packed = BufReader::with_capacity(128 << 10, packed);
    let start = packed.fill_buf().map_err(UnpackError::Archive)?;
    let inner: Box<dyn Read + 'r> = match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(packed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(packed).map_err(UnpackError::Archive)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(UnpackError::Archive)?;
            Box::new(decoder)
        }
        _ => Box::new(packed),
    };
    let free = LAYER_RATIO_FREE_BYTES.max(packed_bytes.saturating_mul(LAYER_RATIO_MAX));
    Ok(Measured { inner, hasher: Sha256::new(), bytes: 0, max: free.min(LAYER_BYTES_MAX) })
}

/// Hashes and counts what is read.
pub(crate) struct Measured<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
    max: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        if self.bytes > self.max {
            return Err(io::Error::other(Bomb { max: self.max }));
        }
        Ok(read)
    }
}

/// An archive that becomes more than it may.
#[derive(Debug, thiserror::Error)]
#[error(
    "it becomes more than {max} bytes: more than {LAYER_RATIO_MAX} times its packed size, or more \
    than a layer may have"
)]
struct Bomb {
    max: u64,
}
