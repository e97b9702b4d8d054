//! One blob as a stream that goes on after the connection broke.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use blobs::Digest;
use sha2::{Digest as _, Sha256};
use ureq::http::{StatusCode, header};

use super::{RegistryError, Session};
use crate::limits::{LAYER_PULL_MAX, RETRIES_MAX};
use crate::manifest::Descriptor;

/// Bytes after which a broken download counts as one that goes on.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Reads a blob; at its end the caller asks for [`BlobReader::check`].
pub(crate) struct BlobReader<'s> {
    session: &'s Session<'s>,
    blob: &'s Descriptor,
    body: Option<Box<dyn Read + Send + Sync + 'static>>,
    hasher: Sha256,
    offset: u64,
    started: Instant,
    failures: u32,
    /// Where the last failure was.
    failed_at: u64,
}

impl<'s> BlobReader<'s> {
    pub(crate) fn new(session: &'s Session<'s>, blob: &'s Descriptor) -> Self {
        Self {
            session,
            blob,
            body: None,
            hasher: Sha256::new(),
            offset: 0,
            started: Instant::now(),
            failures: 0,
            failed_at: 0,
        }
    }

    /// Reads what is left and compares the whole with its digest.
    pub(crate) fn check(mut self) -> Result<(), RegistryError> {
        let rest = io::copy(&mut self, &mut io::sink());
        rest.map_err(|error| RegistryError::Unreachable { why: error.to_string() })?;
        let (wanted, found) = (self.blob.digest, Digest::from_bytes(self.hasher.finalize().into()));
        if wanted == found {
            Ok(())
        } else {
            Err(RegistryError::Digest { what: "the layer", wanted, found })
        }
    }

    /// Asks for what is still missing.
    fn open(&mut self) -> Result<(), RegistryError> {
        let path = format!("blobs/sha256:{}", self.blob.digest);
        let range = format!("bytes={}-", self.offset);
        let headers = [(header::RANGE.as_str(), range.as_str())];
        let headers = if self.offset == 0 { &[][..] } else { &headers };
        let answer = self.session.get(&path, headers)?;
        // Whoever knows no ranges sends the blob from its beginning.
        let passed = if answer.status() == StatusCode::PARTIAL_CONTENT { 0 } else { self.offset };
        let mut body = answer.into_body().into_reader();
        let skipped = io::copy(&mut body.by_ref().take(passed), &mut io::sink());
        match skipped {
            Ok(skipped) if skipped == passed => {}
            Ok(_) => return Err(RegistryError::Unreachable { why: "it ends early".to_owned() }),
            Err(error) => return Err(RegistryError::Unreachable { why: error.to_string() }),
        }
        self.body = Some(Box::new(body));
        Ok(())
    }

    /// Waits a little before the next attempt, or gives up.
    fn retry(&mut self, error: RegistryError) -> io::Result<()> {
        self.body = None;
        if self.offset >= self.failed_at + PROGRESS_BYTES {
            self.failures = 0;
        }
        self.failed_at = self.offset;
        self.failures += 1;
        if !error.is_passing()
            || self.failures > RETRIES_MAX
            || self.started.elapsed() > LAYER_PULL_MAX
        {
            return Err(io::Error::other(error));
        }
        tracing::debug!(%error, offset = self.offset, digest = %self.blob.digest, "pull goes on");
        std::thread::sleep(Duration::from_millis(100 << self.failures));
        Ok(())
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.offset < self.blob.size {
            let Some(body) = &mut self.body else {
                if let Err(error) = self.open() {
                    self.retry(error)?;
                }
                continue;
            };
            let left = usize::try_from(self.blob.size - self.offset).unwrap_or(usize::MAX);
            let len = buffer.len().min(left);
            match body.read(&mut buffer[..len]) {
                Ok(0) if len == 0 => return Ok(0),
                Ok(0) => {
                    let why = "the connection ended early".to_owned();
                    self.retry(RegistryError::Unreachable { why })?;
                }
                Ok(read) => {
                    self.hasher.update(&buffer[..read]);
                    self.offset += read as u64;
                    return Ok(read);
                }
                Err(error) => {
                    self.retry(RegistryError::Unreachable { why: error.to_string() })?;
                }
            }
        }
        Ok(0)
    }
}
