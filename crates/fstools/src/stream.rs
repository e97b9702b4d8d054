//! Bytes from one descriptor to another, a chunk at a time.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;

use crate::limits::CHUNK_BYTES_MAX;

/// Why a stream ended before its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The source failed.
    Source(io::Error),
    /// The sink failed.
    Sink(io::Error),
    /// There was more than the limit.
    Limit,
}

/// Copies all of `source`, at most `bytes_max`, and says how much there was.
pub(crate) fn pump(mut source: &File, mut sink: &File, bytes_max: u64) -> Result<u64, Broken> {
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    let mut total = 0;
    loop {
        let length = match source.read(&mut chunk) {
            Ok(0) => return Ok(total),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::Source(error)),
        };
        total += length as u64;
        if total > bytes_max {
            return Err(Broken::Limit);
        }
        sink.write_all(&chunk[..length]).map_err(Broken::Sink)?;
    }
}

/// A standard stream as a file: without the buffers of the standard library.
pub(crate) fn unbuffered(stream: impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}
