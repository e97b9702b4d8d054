//! Stopping all processes of a container without their noticing.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::group::{Error, Group};
use crate::limits::FREEZE_MS_MAX;

impl Group {
    /// Freezes every process and waits until they are. What cannot be frozen in time is thawed
    /// again.
    ///
    /// # Errors
    /// When something is in the middle of a call that does not end, or without v2's tree.
    pub(crate) fn freeze(&self) -> Result<(), Error> {
        let path = self.v2_path("freezing")?;
        let failed = |source| Error::Freeze { action: "freezing", path: path.to_owned(), source };
        let frozen = set(path, true).and_then(|()| wait(path, true));
        frozen.map_err(|source| {
            // The first error is the one to tell.
            let _ = set(path, false);
            failed(source)
        })
    }

    /// Lets all processes go on.
    ///
    /// # Errors
    /// The kernel's, or without v2's tree.
    pub(crate) fn thaw(&self) -> Result<(), Error> {
        let path = self.v2_path("freezing")?;
        let thawed = set(path, false).and_then(|()| wait(path, false));
        thawed.map_err(|source| Error::Freeze { action: "thawing", path: path.to_owned(), source })
    }
}

fn set(path: &Path, frozen: bool) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path.join("cgroup.freeze"))?;
    io::Write::write_all(&mut file, if frozen { b"1" } else { b"0" })
}

fn wait(path: &Path, frozen: bool) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(FREEZE_MS_MAX);
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    let mut pause_us = 50;
    loop {
        let events = fs::read_to_string(path.join("cgroup.events"))?;
        if events.lines().any(|line| line == wanted) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let text = "some process is in the middle of a call that does not end";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        std::thread::sleep(Duration::from_micros(pause_us));
        pause_us = (pause_us * 2).min(5_000);
    }
}
