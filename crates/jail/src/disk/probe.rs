//! Seeing a limit refuse a write before anybody relies on it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::{Error, Inner, Removal, Result, at};
use crate::caps;
use crate::limits::SCRATCH_BYTES_MIN;

/// A name that no container has: those are ids of the caller, and in use one at a time.
const NAME: &str = "palisade-probe";

/// Makes scratch space, writes beyond its limit as an overlay would, and removes it.
pub(super) fn run(inner: &mut Inner) -> Result<()> {
    let folder = inner.make(NAME, SCRATCH_BYTES_MIN)?;
    let outcome = overfill(&folder);
    let removed = inner.remove(NAME).and_then(|rest| rest.map_or(Ok(()), Removal::finish));
    outcome.and(removed)
}

fn overfill(folder: &Path) -> Result<()> {
    let path = folder.join("probe");
    let mut file = File::create_new(&path).map_err(at("make", &path))?;
    let chunk = vec![0x50; 1 << 20];
    let limit = SCRATCH_BYTES_MIN;
    // Without the right to exceed quotas, as an overlay's mounter must be.
    let write = move || -> io::Result<u64> {
        let mut wrote = 0;
        while wrote <= 2 * limit {
            file.write_all(&chunk)?;
            wrote += chunk.len() as u64;
        }
        // Where blocks are counted only when they are allocated, that is now.
        file.sync_all().map(|()| wrote)
    };
    match caps::without_resource(false, write) {
        Ok(wrote) => Err(Error::NotEnforced { wrote, limit }),
        Err(error) if is_refusal(&error) => Ok(()),
        Err(error) => Err(at("write", &path)(error)),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EDQUOT | libc::ENOSPC))
}
