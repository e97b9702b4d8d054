//! The bytes of one file: holes stay holes, and what is shared is not written again.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use blobs::Digest;
use rustix::fs::SeekFrom as Place;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::limits::SNAPSHOT_PIECE_BYTES;

/// Why the bytes were not read or written.
pub(super) enum Failure {
    /// The caller stopped it.
    Late,
    /// The kernel refused.
    File(&'static str, io::Error),
}

/// Reads a file of `size` bytes to its end, and writes what is no hole to `to`, if there is one.
/// Gives the sha256 of its content.
pub(super) fn read(
    from: &mut std::fs::File,
    mut to: Option<&mut std::fs::File>,
    size: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Digest, Failure> {
    let reading = |error: io::Error| Failure::File("reading", error);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(SNAPSHOT_PIECE_BYTES)];
    let zeros = vec![0; buffer.len()];
    let mut at = 0;
    while at < size {
        let (data, end) = next_data(from, at, size).map_err(reading)?;
        let mut hole = data - at;
        while hole > 0 {
            in_time(go_on)?;
            let part = usize::try_from(hole).unwrap_or(usize::MAX).min(zeros.len());
            hasher.update(&zeros[..part]);
            hole -= part as u64;
        }
        from.seek(SeekFrom::Start(data)).map_err(reading)?;
        if let Some(to) = &mut to {
            to.seek(SeekFrom::Start(data)).map_err(|e| Failure::File("writing", e))?;
        }
        at = data;
        while at < end {
            in_time(go_on)?;
            let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = from.read(&mut buffer[..part]).map_err(reading)?;
            if read == 0 {
                return Err(reading(io::ErrorKind::UnexpectedEof.into()));
            }
            hasher.update(&buffer[..read]);
            if let Some(to) = &mut to {
                to.write_all(&buffer[..read]).map_err(|e| Failure::File("writing", e))?;
            }
            at += read as u64;
        }
    }
    if let Some(to) = to {
        // A hole at the end.
        to.set_len(size).map_err(|e| Failure::File("writing", e))?;
    }
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

fn in_time(go_on: &dyn Fn() -> bool) -> Result<(), Failure> {
    if go_on() { Ok(()) } else { Err(Failure::Late) }
}

/// Where data begins and ends at or after a place. A file system that knows no holes says that
/// all is data.
fn next_data(file: &std::fs::File, at: u64, size: u64) -> io::Result<(u64, u64)> {
    match rustix::fs::seek(file, Place::Data(at)) {
        Ok(data) if data >= size => Ok((size, size)),
        Ok(data) => match rustix::fs::seek(file, Place::Hole(data)) {
            Ok(hole) => Ok((data, hole.min(size))),
            Err(errno) => Err(errno.into()),
        },
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => Ok((size, size)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((at, size)),
        Err(errno) => Err(errno.into()),
    }
}
