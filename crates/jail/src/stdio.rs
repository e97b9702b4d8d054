//! What a program reads from and writes to.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Gid, Uid};

use crate::plan::{IdRange, Process};

/// The program's standard streams: pipes, sockets, terminals or files, never folders. Pipes are
/// given to the program's user. A file's path on the host is visible inside (/proc/self/fd).
#[derive(Debug)]
pub struct Stdio {
    /// Read by the program.
    pub stdin: OwnedFd,
    /// Written by the program.
    pub stdout: OwnedFd,
    /// Written by the program.
    pub stderr: OwnedFd,
}

impl Stdio {
    /// Reads nothing, writes nowhere.
    ///
    /// # Errors
    /// When /dev/null cannot be opened.
    pub fn null() -> io::Result<Self> {
        let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        Ok(Self { stdin: null()?, stdout: null()?, stderr: null()? })
    }

    /// Programs open /dev/stdout by name: a pipe of the caller's must belong to who opens it. A
    /// folder among them would be a way out of the container's root.
    pub(crate) fn give(&self, ids: IdRange, process: Option<&Process>) -> io::Result<()> {
        for stream in [&self.stdin, &self.stdout, &self.stderr] {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(stream)?.st_mode);
            if kind == FileType::Directory {
                return Err(io::Error::from(io::ErrorKind::IsADirectory));
            }
            if let (FileType::Fifo, Some(process)) = (kind, process) {
                let uid = Uid::from_raw(ids.first + process.uid);
                let gid = Gid::from_raw(ids.first + process.gid);
                rustix::fs::fchown(stream, Some(uid), Some(gid))?;
            }
        }
        Ok(())
    }
}
