//! Archives of layers become folders. An archive comes from strangers: what it says is done below
//! its own folder or refused by the name of the entry, and nothing else is touched.
//!
//! Whiteouts (OCI image specification 1.1, "Layer Filesystem Changeset") become the overlay's own
//! marks; they need nothing of the layers below. Headers are read one by one, with limits, so
//! that no two readers of an archive can see two different trees in it: what is said twice, or
//! below something that is no folder, is refused, not guessed.

mod extended;
mod folders;
mod item;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use blobs::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry};

use crate::limits::{
    ARCHIVE_HEADER_BYTES_MAX, LAYER_DEPTH_MAX, LAYER_ENTRIES_MAX, XATTR_BYTES_MAX,
};
use crate::listing::{Content, Contents, entry_path};
use extended::Extended;
use folders::Folders;
use item::{Item, Kind, read_item};

/// Why an entry is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what each is")]
pub enum Refusal {
    #[error("it has no name")]
    NoName,
    #[error("its path begins with /; a layer's paths begin at its own root")]
    Absolute,
    #[error("its path has .. in it and could lead out of the layer")]
    Parent,
    #[error("its path is longer than the kernel takes")]
    LongPath,
    #[error("it lies more than {LAYER_DEPTH_MAX} folders deep")]
    Deep,
    #[error("a zero byte is in {0}")]
    Zero(&'static str),
    #[error("it lies below a link, which could lead anywhere")]
    BelowLink,
    #[error("it lies below something that is no folder")]
    BelowFile,
    #[error("it is there twice")]
    Twice,
    #[error("it is a folder and something else at once")]
    FolderAndNot,
    #[error("the layer removes it and has it")]
    RemovedAndThere,
    #[error("it is a device; a container makes its own devices, a layer cannot bring any")]
    Device,
    #[error("it is a hard link to {0:?}, which is no file of this layer before it")]
    LinkTarget(String),
    #[error("it is a link to nothing")]
    NoTarget,
    #[error("entries of the type {0:?} are not read")]
    Type(char),
    #[error("it is a sparse file of GNU tar; pack the layer without --sparse")]
    Sparse,
    #[error("only a file has content, and this is {0}")]
    Content(&'static str),
    #[error("{what} {id} is above 65535, the last that a container has")]
    Id { what: &'static str, id: u64 },
    #[error("it removes {0:?}, which is no name that can be removed")]
    Whiteout(String),
    #[error("it is a whiteout but no empty file")]
    WhiteoutType,
    #[error("it lies in a folder whose name is a whiteout's")]
    BelowWhiteout,
    #[error("it is a note of AUFS, which only AUFS can use")]
    Aufs,
    #[error("it hides the whole image below; begin FROM scratch instead")]
    OpaqueRoot,
    #[error("the attribute {0:?} would tell the overlay file system to look elsewhere")]
    OverlayAttribute(String),
    #[error("its attributes are larger than {XATTR_BYTES_MAX} bytes")]
    LargeAttributes,
    #[error("{0} is said twice")]
    SaidTwice(&'static str),
    #[error("its size is said twice, and differently")]
    SizeTwice,
    #[error("its extended header cannot be read")]
    Garbled,
    #[error("its extended header is larger than {ARCHIVE_HEADER_BYTES_MAX} bytes")]
    LargeHeader,
    #[error("a header for all entries says {0:?} of them")]
    Global(String),
    #[error("an extended header has no entry after it")]
    NoEntry,
}

/// Why an archive did not become a folder.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry asks for what no layer gets.
    #[error("{path:?} in the archive is refused: {why}")]
    Refused {
        /// The entry's path, as far as it can be shown.
        path: String,
        /// What is wrong with it.
        why: Refusal,
    },
    /// It has more entries than a layer may have.
    #[error("the archive has more than {LAYER_ENTRIES_MAX} files and folders")]
    TooMany,
    /// It ends too early, is garbled, or could not be fetched.
    #[error("the archive cannot be read")]
    Archive(#[source] io::Error),
    /// The file system refuses.
    #[error("{action} {path:?} of the archive fails")]
    File {
        /// What was done, as a verb.
        action: &'static str,
        /// To which entry.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Unpacks an archive into an empty folder that nobody else touches, and gives the digests of
/// the files it wrote. What is there after an error is for the caller to remove.
///
/// # Errors
/// When the archive is refused or cannot be read, or the file system fails.
pub(crate) fn unpack(archive: impl Read, folder: &Path) -> Result<Contents, UnpackError> {
    let open = |source: Errno| UnpackError::File {
        action: "opening the folder for",
        path: folder.display().to_string(),
        source: source.into(),
    };
    let mut unpacking = Unpacking {
        folders: Folders::open(folder).map_err(open)?,
        contents: HashMap::new(),
        entries: 0,
        buffer: vec![0; 256 << 10],
    };
    let mut archive = Archive::new(archive);
    let mut extended = Extended::default();
    for entry in archive.entries().map_err(UnpackError::Archive)?.raw(true) {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        unpacking.count(1)?;
        let shown = show(&entry.header().path_bytes());
        let refuse = |why| UnpackError::Refused { path: shown.clone(), why };
        if extended.takes(entry.header()) {
            let size = entry.header().entry_size().map_err(UnpackError::Archive)?;
            if size > ARCHIVE_HEADER_BYTES_MAX {
                return Err(refuse(Refusal::LargeHeader));
            }
            let mut bytes = Vec::new();
            let read = entry.read_to_end(&mut bytes).map_err(UnpackError::Archive)?;
            if read as u64 != size {
                return Err(UnpackError::Archive(io::ErrorKind::UnexpectedEof.into()));
            }
            extended.add(entry.header().entry_type(), &bytes).map_err(refuse)?;
            continue;
        }
        let extended = std::mem::take(&mut extended);
        unpacking.take(&mut entry, &extended)?;
    }
    if !extended.is_empty() {
        return Err(UnpackError::Refused { path: String::new(), why: Refusal::NoEntry });
    }
    Ok(unpacking.contents)
}

/// Unpacks the archive of a layer into an empty folder that nobody else touches. What is there
/// after an error is for the caller to remove.
///
/// # Errors
/// When the archive is refused or cannot be read, or the file system fails.
pub fn unpack_layer(archive: impl Read, folder: &Path) -> Result<(), UnpackError> {
    unpack(archive, folder).map(drop)
}

struct Unpacking {
    folders: Folders,
    contents: Contents,
    entries: u64,
    buffer: Vec<u8>,
}

impl Unpacking {
    fn count(&mut self, more: u64) -> Result<(), UnpackError> {
        self.entries += more;
        if self.entries > LAYER_ENTRIES_MAX { Err(UnpackError::TooMany) } else { Ok(()) }
    }

    fn take(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        extended: &Extended,
    ) -> Result<(), UnpackError> {
        let raw = extended.path.clone().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let shown = show(&raw);
        let refuse = |why| UnpackError::Refused { path: shown.clone(), why };
        let item = read_item(entry.header(), extended, &raw)
            .map_err(UnpackError::Archive)?
            .map_err(refuse)?;
        let before = self.folders.made();
        let made = self.make(&item, entry);
        self.count(self.folders.made() - before)?;
        made.map_err(|error| match error {
            Failure::Refused(why) => refuse(why),
            Failure::Archive(source) => UnpackError::Archive(source),
            Failure::File(action, source) => {
                UnpackError::File { action, path: shown.clone(), source }
            }
        })
    }

    fn make(&mut self, item: &Item, entry: &mut Entry<'_, impl Read>) -> Result<(), Failure> {
        let cut = item.path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match cut {
            Some(cut) => (&item.path[..cut], &item.path[cut + 1..]),
            None => (&b""[..], &item.path[..]),
        };
        if let Kind::Opaque = item.kind {
            let folder = self.folders.folder(&item.path)?;
            return set_attribute(&folder, c".", c"trusted.overlay.opaque", b"y");
        }
        let folder = self.folders.folder(parent)?;
        let name = CString::new(name).map_err(|_| Failure::Refused(Refusal::Zero("its path")))?;
        match &item.kind {
            Kind::Opaque => Ok(()),
            Kind::Folder => make_folder(&folder, &name, item),
            Kind::Whiteout(name) => {
                let name = CString::new(name.clone()).map_err(|_| Refusal::Zero("its path"))?;
                let made = mknod(folder.as_fd(), &name, FileType::CharacterDevice, Mode::empty());
                made.map_err(|errno| match in_the_way(&folder, &name, errno) {
                    Failure::Refused(Refusal::RemovedAndThere) => Refusal::Twice.into(),
                    Failure::Refused(_) => Refusal::RemovedAndThere.into(),
                    failure => failure,
                })
            }
            Kind::Fifo => {
                let made = mknod(folder.as_fd(), &name, FileType::Fifo, Mode::from_raw_mode(0o600));
                made.map_err(|errno| in_the_way(&folder, &name, errno))?;
                finish(&folder, &name, item)?;
                let chmod = rustix::fs::chmodat(&folder, &name, item.mode, AtFlags::empty());
                chmod.map_err(|errno| Failure::file("setting the mode of", errno))
            }
            Kind::Link(target) => {
                let made = rustix::fs::symlinkat(target, &folder, &name);
                made.map_err(|errno| in_the_way(&folder, &name, errno))?;
                finish(&folder, &name, item)
            }
            Kind::HardLink(target) => self.link(&folder, &name, target),
            Kind::File(size) => self.write(&folder, &name, *size, item, entry),
        }
    }

    fn write(
        &mut self,
        folder: &folders::Folder,
        name: &CStr,
        size: u64,
        item: &Item,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let private = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(folder, name, flags | OFlags::CLOEXEC, private)
            .map_err(|errno| in_the_way(folder, name, errno))?;
        let mut file = std::fs::File::from(file);
        let (mut hasher, mut rest) = (Sha256::new(), size);
        while rest > 0 {
            let read = entry.read(&mut self.buffer).map_err(Failure::Archive)?;
            if read == 0 {
                return Err(Failure::Archive(io::ErrorKind::UnexpectedEof.into()));
            }
            let bytes = &self.buffer[..read];
            hasher.update(bytes);
            file.write_all(bytes).map_err(|source| Failure::File("writing", source))?;
            rest = rest.saturating_sub(read as u64);
        }
        // The owner first: the kernel takes setuid bits and capabilities away when it changes.
        let (uid, gid) = item.owner;
        rustix::fs::fchown(&file, Some(uid), Some(gid))
            .map_err(|errno| Failure::file("giving away", errno))?;
        rustix::fs::fchmod(&file, item.mode)
            .map_err(|errno| Failure::file("setting the mode of", errno))?;
        for (attribute, value) in &item.attributes {
            rustix::fs::fsetxattr(&file, attribute, value, XattrFlags::empty())
                .map_err(|errno| Failure::file("setting an attribute of", errno))?;
        }
        rustix::fs::futimens(&file, &item.times)
            .map_err(|errno| Failure::file("setting the time of", errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| Failure::file("looking at", errno))?;
        let digest = Digest::from_bytes(hasher.finalize().into());
        let content = Content { digest, bytes: size, is_counted: false };
        self.contents.insert((stat.st_dev, stat.st_ino), content);
        Ok(())
    }

    fn link(
        &mut self,
        folder: &folders::Folder,
        name: &CStr,
        target: &[u8],
    ) -> Result<(), Failure> {
        let missing = || Failure::Refused(Refusal::LinkTarget(show(target)));
        let cut = target.iter().rposition(|byte| *byte == b'/');
        let (parent, file) = match cut {
            Some(cut) => (&target[..cut], &target[cut + 1..]),
            None => (&b""[..], target),
        };
        let parent = self.folders.existing(parent).map_err(|_| missing())?;
        let file = CString::new(file).map_err(|_| missing())?;
        let stat =
            rustix::fs::statat(&parent, &file, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Symlink) {
            return Err(missing());
        }
        rustix::fs::linkat(&parent, &file, folder, name, AtFlags::empty())
            .map_err(|errno| in_the_way(folder, name, errno))
    }
}

fn make_folder(folder: &folders::Folder, name: &CStr, item: &Item) -> Result<(), Failure> {
    // The layer's own root has no name, and is there.
    let name = if name.is_empty() { c"." } else { name };
    match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Failure::file("making", errno)),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(in_the_way(folder, name, Errno::EXIST)),
        opened => opened.map_err(|errno| Failure::file("opening", errno))?,
    };
    let (uid, gid) = item.owner;
    rustix::fs::fchown(&made, Some(uid), Some(gid))
        .map_err(|errno| Failure::file("giving away", errno))?;
    rustix::fs::fchmod(&made, item.mode)
        .map_err(|errno| Failure::file("setting the mode of", errno))?;
    for (attribute, value) in &item.attributes {
        rustix::fs::fsetxattr(&made, attribute, value, XattrFlags::empty())
            .map_err(|errno| Failure::file("setting an attribute of", errno))?;
    }
    Ok(())
}

/// Owner, attributes and time of something that is not opened.
fn finish(folder: &folders::Folder, name: &CStr, item: &Item) -> Result<(), Failure> {
    let (uid, gid) = item.owner;
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Failure::file("giving away", errno))?;
    for (attribute, value) in &item.attributes {
        set_attribute(folder, name, attribute, value)?;
    }
    rustix::fs::utimensat(folder, name, &item.times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Failure::file("setting the time of", errno))
}

fn mknod(folder: BorrowedFd<'_>, name: &CStr, kind: FileType, mode: Mode) -> Result<(), Errno> {
    rustix::fs::mknodat(folder, name, kind, mode, 0)
}

fn set_attribute(
    folder: &folders::Folder,
    name: &CStr,
    attribute: &CStr,
    value: &[u8],
) -> Result<(), Failure> {
    let path = entry_path(folder.as_fd(), name);
    rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty())
        .map_err(|errno| Failure::file("setting an attribute of", errno))
}

/// Says what stands where something was to be made.
fn in_the_way(folder: &folders::Folder, name: &CStr, errno: Errno) -> Failure {
    if errno != Errno::EXIST {
        return Failure::file("making", errno);
    }
    let there = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    Failure::Refused(match there.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::CharacterDevice) => Refusal::RemovedAndThere,
        Ok(FileType::Directory) => Refusal::FolderAndNot,
        _ => Refusal::Twice,
    })
}

/// Why an entry was not made.
enum Failure {
    Refused(Refusal),
    Archive(io::Error),
    File(&'static str, io::Error),
}

impl Failure {
    fn file(action: &'static str, errno: Errno) -> Self {
        Self::File(action, errno.into())
    }
}

impl From<Refusal> for Failure {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}

/// A name that came from an archive, for a text.
fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(200).collect()
}

#[cfg(test)]
mod tests;
