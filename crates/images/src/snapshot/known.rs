//! What the files of a layer hold, for the next snapshot: their paths and the sha256 of their
//! bytes, as `<sha256> <path>` with a zero byte at each end.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use blobs::Digest;

use crate::limits::SHARED_FILES_MAX;

/// The file, beside the layer's folder.
pub(super) const FILE: &str = "contents";

/// Contents by path, without a leading slash.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<Vec<u8>, Digest>);

impl Known {
    /// Notes a file, unless there are too many.
    pub(super) fn note(&mut self, path: &[u8], digest: Digest) {
        if self.0.len() < SHARED_FILES_MAX {
            self.0.insert(path.to_vec(), digest);
        }
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<Digest> {
        self.0.get(path).copied()
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create_new(path)?);
        for (path, digest) in &self.0 {
            write!(file, "{digest} ")?;
            file.write_all(path)?;
            file.write_all(&[0])?;
        }
        file.flush()
    }

    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        let unreadable = || io::Error::from(io::ErrorKind::InvalidData);
        let mut known = Self::default();
        for line in bytes.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
            let space = line.iter().position(|byte| *byte == b' ').ok_or_else(unreadable)?;
            let digest = std::str::from_utf8(&line[..space]).ok().and_then(|d| d.parse().ok());
            known.note(&line[space + 1..], digest.ok_or_else(unreadable)?);
        }
        Ok(known)
    }
}
