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
mod make;

use std::io::{self, Read};
use std::path::Path;

use rustix::io::Errno;
use tar::{Archive, Entry};

use crate::limits::{
    ARCHIVE_HEADER_BYTES_MAX, LAYER_DEPTH_MAX, LAYER_ENTRIES_MAX, XATTR_BYTES_MAX,
};
use crate::listing::Contents;
use extended::Extended;
use item::read_item;
use make::{Failure, Maker};

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
    let mut unpacking = Unpacking { maker: Maker::new(folder).map_err(open)?, entries: 0 };
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
    Ok(unpacking.maker.into_contents())
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
    maker: Maker,
    entries: u64,
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
        let before = self.maker.folders();
        let made = self.maker.make(&item, entry);
        self.count(self.maker.folders() - before)?;
        made.map_err(|error| match error {
            Failure::Refused(why) => refuse(why),
            Failure::Archive(source) => UnpackError::Archive(source),
            Failure::File(action, source) => {
                UnpackError::File { action, path: shown.clone(), source }
            }
        })
    }
}

/// A name that came from an archive, for a text.
fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(200).collect()
}

#[cfg(test)]
mod tests;
