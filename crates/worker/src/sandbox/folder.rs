//! A sandbox's folder: what a restarted worker needs to go on with it, and its output.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jail::network::Kept;
use model::TaskId;
use model::sandbox::SandboxStart;
use serde::{Deserialize, Serialize};

use crate::limits::{
    ENDED_OUTPUT_BYTES_MAX, ENDED_SANDBOX_KEPT_MAX, ENDED_SANDBOXES_MAX, RECORD_BYTES_MAX,
};
use crate::supervisor::words::{ENDING_FILE, Ending, SOCKET_FILE};
use crate::task::plain_name;

/// The file of a [`Record`]: it is there as long as something of the sandbox may live.
const RECORD_FILE: &str = "record.json";
/// How far its output was reported.
const REPORTED_FILE: &str = "reported";

/// What outlives the worker's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The sandbox, without its variables, which its supervisor has, and the files that were laid
    /// in, which are many.
    pub(crate) start: SandboxStart,
    /// The name of its supervisor's control group; none in records of before that had its own.
    #[serde(default)]
    pub(crate) supervisor: Option<String>,
    /// The first host id of its range.
    pub(crate) first_id: u32,
    /// The layers that its root stands on.
    pub(crate) layers: Vec<String>,
    /// Its first process.
    pub(crate) pid: i32,
    /// Its place in the network, if it has one.
    pub(crate) network: Option<Kept>,
    /// Images that were laid into it, in that order.
    #[serde(default)]
    pub(crate) mounted: Vec<Mounted>,
    /// The layer that the last snapshot of a place became, by that place.
    #[serde(default)]
    pub(crate) kept: BTreeMap<String, String>,
}

impl Record {
    /// The name of its supervisor's control group.
    pub(super) fn supervisor<'r>(&'r self, folder: &'r Folder) -> &'r str {
        self.supervisor.as_deref().unwrap_or(folder.name())
    }
}

/// An image in a running sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mounted {
    /// Its number, by which its place is found; none while it is being laid there.
    pub(crate) id: Option<u64>,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<String>,
    /// The folder of its changes, in the sandbox's disk space.
    pub(crate) folder: String,
}

/// One sandbox's folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    name: String,
}

/// Writes a file so that it is there as a whole or not at all.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    fs::rename(&new, path)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = vec![];
    fs::File::open(path)?.take(RECORD_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

impl Folder {
    /// The folder of a task, below the one of all.
    pub(crate) fn of(all: &Path, task: &TaskId) -> Self {
        Self::named(all, plain_name(task))
    }

    /// The folder of that name, below the one of all.
    pub(super) fn named(all: &Path, name: String) -> Self {
        Self { path: all.join(&name), name }
    }

    /// Makes it.
    pub(crate) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(&self.path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, which is also that of the sandbox's control group and disk space.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The socket by a path that is short enough for an address, as long as the file is open.
    fn socket(&self) -> io::Result<(fs::File, String)> {
        let folder = fs::File::open(&self.path)?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", folder.as_raw_fd());
        Ok((folder, path))
    }

    /// Listens where its supervisor is found.
    pub(crate) fn listen(&self) -> io::Result<UnixListener> {
        let (_folder, path) = self.socket()?;
        UnixListener::bind(path)
    }

    /// Connects to its supervisor. The kernel answers at once, also for one that is busy.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        let (_folder, path) = self.socket()?;
        UnixStream::connect(path)
    }

    /// Writes its record down, if it can be read again.
    pub(crate) fn write_record(&self, record: &Record) -> io::Result<()> {
        let content = serde_json::to_vec(record)?;
        if content.len() as u64 > RECORD_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        replace(&self.path.join(RECORD_FILE), &content)
    }

    /// Says that nothing of it lives any more; what stays is its output.
    pub(crate) fn remove_record(&self) -> io::Result<()> {
        // The record last: one that is there is looked at again, whatever else is gone.
        match fs::remove_file(self.path.join(SOCKET_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::remove_file(self.path.join(RECORD_FILE))
    }

    /// How it ended, if it has.
    pub(crate) fn ending(&self) -> Option<Ending> {
        serde_json::from_slice(&read(&self.path.join(ENDING_FILE)).ok()?).ok()
    }

    /// Writes down how it ended, where its supervisor could not.
    pub(crate) fn write_ending(&self, ending: &Ending) -> io::Result<()> {
        replace(&self.path.join(ENDING_FILE), &serde_json::to_vec(ending)?)
    }

    /// How far its two streams were reported, in bytes.
    pub(crate) fn reported(&self) -> [u64; 2] {
        let read = read(&self.path.join(REPORTED_FILE)).ok();
        read.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Writes that down.
    pub(crate) fn write_reported(&self, reported: [u64; 2]) -> io::Result<()> {
        replace(&self.path.join(REPORTED_FILE), &serde_json::to_vec(&reported)?)
    }

    /// Removes it with all that is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }

    fn record(&self) -> Option<Record> {
        let content = read(&self.path.join(RECORD_FILE)).ok()?;
        match serde_json::from_slice(&content) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "a sandbox's record is lost");
                None
            }
        }
    }

    fn has_record(&self) -> bool {
        self.path.join(RECORD_FILE).exists()
    }

    /// Whether nobody has written down that it ended.
    pub(crate) fn may_live(&self) -> bool {
        self.has_record() && !self.path.join(ENDING_FILE).exists()
    }
}

/// What an earlier worker left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Sandboxes whose supervisors answer.
    pub(crate) living: Vec<(Folder, Record)>,
    /// Sandboxes whose supervisors do not.
    pub(crate) dead: Vec<(Folder, Record)>,
}

impl Left {
    /// The names of those that live, as their control groups have them.
    pub(crate) fn names(&self) -> Vec<String> {
        self.living.iter().map(|(folder, _)| folder.name().to_owned()).collect()
    }

    /// The names of their supervisors' control groups.
    pub(crate) fn supervisors(&self) -> Vec<String> {
        let name = |(folder, record): &(Folder, Record)| record.supervisor(folder).to_owned();
        self.living.iter().map(name).collect()
    }
}

/// The layers that sandboxes stand on which may live, and those of images in them.
pub(crate) fn layers(all: &Path) -> io::Result<Vec<String>> {
    let records = folders(all)?.into_iter().filter_map(|folder| folder.record());
    let layers = |record: Record| {
        let mounted = record.mounted.into_iter().flat_map(|image| image.layers);
        record.layers.into_iter().chain(mounted)
    };
    Ok(records.flat_map(layers).collect())
}

/// Looks what an earlier worker left. Folders without a record that has a sense, and without an
/// end, are of sandboxes that were never started: they are removed.
pub(crate) fn left(all: &Path) -> io::Result<Left> {
    let mut left = Left::default();
    for folder in folders(all)? {
        match folder.record() {
            Some(record) if folder.connect().is_ok() => left.living.push((folder, record)),
            Some(record) => left.dead.push((folder, record)),
            None if folder.ending().is_some() => {}
            None => folder.remove()?,
        }
    }
    Ok(left)
}

fn folders(all: &Path) -> io::Result<Vec<Folder>> {
    let mut found = vec![];
    for entry in fs::read_dir(all)? {
        let entry = entry?;
        if let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_dir()) {
            found.push(Folder { path: entry.path(), name });
        }
    }
    Ok(found)
}

/// Removes the output of sandboxes that ended long ago, and of the oldest of too many.
pub(crate) fn forget(all: &Path) -> io::Result<()> {
    let mut ended = vec![];
    for folder in folders(all)? {
        if folder.has_record() {
            continue;
        }
        let facts = fs::metadata(folder.path.join(ENDING_FILE)).and_then(|facts| facts.modified());
        if let Ok(at) = facts {
            ended.push((at, bytes(&folder.path), folder));
        }
    }
    ended.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
    let (now, mut total) = (SystemTime::now(), 0);
    for (index, (at, bytes, folder)) in ended.into_iter().enumerate() {
        total += bytes;
        let age = now.duration_since(at).unwrap_or_default();
        if index >= ENDED_SANDBOXES_MAX
            || age >= ENDED_SANDBOX_KEPT_MAX
            || total > ENDED_OUTPUT_BYTES_MAX
        {
            folder.remove()?;
        }
    }
    Ok(())
}

/// Bytes that the files of a folder take on the disk.
fn bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|facts| facts.blocks() * 512).sum()
}

#[cfg(test)]
mod tests {
    use super::super::{Found, Sandboxes};
    use super::*;

    /// A client that asks before a restarted worker has gone on with a sandbox asks again.
    #[test]
    fn nothing_is_said_to_have_ended_that_may_live() {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = Sandboxes::new(dir.path().to_owned(), Left::default());
        let task = TaskId::new([1; 16]);
        assert!(sandboxes.find(&task).is_none());
        let folder = sandboxes.folder(&task);
        folder.make().unwrap();
        fs::write(folder.path.join(RECORD_FILE), "{}").unwrap();
        assert!(matches!(sandboxes.find(&task), Some(Found::Starting)));
        fs::write(folder.path.join(ENDING_FILE), "{}").unwrap();
        assert!(matches!(sandboxes.find(&task), Some(Found::Ended(_))));
        folder.remove_record().unwrap();
        assert!(matches!(sandboxes.find(&task), Some(Found::Ended(_))));
    }
}
