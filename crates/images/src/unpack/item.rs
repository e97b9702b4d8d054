//! What the headers of an entry say, checked before anything is done.

use std::ffi::CString;
use std::io;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};
use tar::EntryType;

use super::extended::Extended;
use super::{Refusal, show};
use crate::limits::{ARCHIVE_PATH_BYTES_MAX, LAYER_DEPTH_MAX};
use crate::stack::{name_of, parent_of};

/// The entry that hides all that lower layers have in its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What begins the name of an entry that removes another.
const WHITEOUT: &[u8] = b".wh.";

/// Users and groups that a container has (its user namespace maps so many).
const IDS: u64 = 65_536;

/// What a header says of an entry, checked.
pub(super) struct Item {
    /// Path below the layer's root, without `.` and double slashes; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) owner: (Uid, Gid),
    pub(super) mode: Mode,
    pub(super) times: Timestamps,
    pub(super) attributes: Vec<(CString, Vec<u8>)>,
}

pub(super) enum Kind {
    Folder,
    File(u64),
    Link(CString),
    HardLink(Vec<u8>),
    Fifo,
    Whiteout(Vec<u8>),
    Opaque,
}

/// Checks what a header and its extended headers say. The outer error is of the archive.
pub(super) fn read_item(
    header: &tar::Header,
    extended: &Extended,
    raw: &[u8],
) -> io::Result<Result<Item, Refusal>> {
    let size = header.entry_size()?;
    let uid = field(header, 108..116, extended.uid, tar::Header::uid)?;
    let gid = field(header, 116..124, extended.gid, tar::Header::gid)?;
    let seconds = field(header, 136..148, extended.mtime, tar::Header::mtime)?;
    let mode = field(header, 100..108, None, |header| header.mode().map(u64::from))?;
    let mode = u32::try_from(mode & 0o7777).unwrap_or_default();
    if extended.size.is_some_and(|said| said != size) {
        return Ok(Err(Refusal::SizeTwice));
    }
    let target = extended.link.clone();
    let target = target.or_else(|| header.link_name_bytes().map(|bytes| bytes.into_owned()));
    let read = || {
        let path = normalize(raw)?;
        let kind = read_kind(header, raw, &path, size, target)?;
        for (what, id) in [("its owner", uid), ("its group", gid)] {
            if id >= IDS {
                return Err(Refusal::Id { what, id });
            }
        }
        let path = match &kind {
            Kind::Opaque => parent_of(&path).to_vec(),
            _ => path,
        };
        let id = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
        let owner = (Uid::from_raw(id(uid)), Gid::from_raw(id(gid)));
        // The kernel's file systems differ in what they keep; this all of them do.
        let seconds = i64::from(u32::try_from(seconds).unwrap_or(u32::MAX));
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        let attributes = extended.attributes()?;
        Ok(Item { path, kind, owner, mode: Mode::from_raw_mode(mode), times, attributes })
    };
    Ok(read())
}

/// A number of a header. What stands in an extended header wins, and a field that was left out
/// is 0, as for all who read archives.
fn field(
    header: &tar::Header,
    place: std::ops::Range<usize>,
    extended: Option<u64>,
    read: impl FnOnce(&tar::Header) -> io::Result<u64>,
) -> io::Result<u64> {
    if let Some(said) = extended {
        return Ok(said);
    }
    let is_out = header.as_bytes()[place].iter().all(|byte| matches!(byte, 0 | b' '));
    if is_out { Ok(0) } else { read(header) }
}

fn read_kind(
    header: &tar::Header,
    raw: &[u8],
    path: &[u8],
    size: u64,
    target: Option<Vec<u8>>,
) -> Result<Kind, Refusal> {
    let name = name_of(path);
    if parent_of(path).split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
        return Err(Refusal::BelowWhiteout);
    }
    let kind = header.entry_type();
    let (noun, made) = match kind {
        // Archives of the seventh edition say by a slash that something is a folder.
        EntryType::Regular if raw.ends_with(b"/") => ("a folder", Kind::Folder),
        EntryType::Regular | EntryType::Continuous => ("", Kind::File(size)),
        EntryType::Directory => ("a folder", Kind::Folder),
        EntryType::Symlink => {
            let target = target.filter(|target| !target.is_empty()).ok_or(Refusal::NoTarget)?;
            if target.len() > ARCHIVE_PATH_BYTES_MAX {
                return Err(Refusal::LongPath);
            }
            let target = CString::new(target).map_err(|_| Refusal::Zero("its target"))?;
            ("a link", Kind::Link(target))
        }
        EntryType::Link => {
            let target = target.filter(|target| !target.is_empty()).ok_or(Refusal::NoTarget)?;
            let outside = |_| Refusal::LinkTarget(show(&target));
            ("a hard link", Kind::HardLink(normalize(&target).map_err(outside)?))
        }
        EntryType::Fifo => ("a pipe", Kind::Fifo),
        EntryType::Char | EntryType::Block => return Err(Refusal::Device),
        EntryType::GNUSparse => return Err(Refusal::Sparse),
        other => return Err(Refusal::Type(char::from(other.as_byte()))),
    };
    if !matches!(made, Kind::File(_)) && size > 0 {
        return Err(Refusal::Content(noun));
    }
    if name.is_empty() && !matches!(made, Kind::Folder) {
        return Err(Refusal::NoName);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(made),
        Some(_) if !matches!(made, Kind::File(0)) => Err(Refusal::WhiteoutType),
        Some(_) if name == OPAQUE && parent_of(path).is_empty() => Err(Refusal::OpaqueRoot),
        Some(_) if name == OPAQUE => Ok(Kind::Opaque),
        Some(removed) if removed.starts_with(WHITEOUT) => Err(Refusal::Aufs),
        Some(b"" | b"." | b"..") => Err(Refusal::Whiteout(show(&name[WHITEOUT.len()..]))),
        Some(removed) => Ok(Kind::Whiteout(removed.to_vec())),
    }
}

/// A path below the layer's root, without `.` and double slashes. Empty for the root.
fn normalize(raw: &[u8]) -> Result<Vec<u8>, Refusal> {
    if raw.is_empty() {
        return Err(Refusal::NoName);
    }
    if raw.len() > ARCHIVE_PATH_BYTES_MAX {
        return Err(Refusal::LongPath);
    }
    if raw.contains(&0) {
        return Err(Refusal::Zero("its path"));
    }
    if raw.starts_with(b"/") {
        return Err(Refusal::Absolute);
    }
    let mut path = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Refusal::Parent),
            part if part.len() > 255 => return Err(Refusal::LongPath),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
                depth += 1;
            }
        }
    }
    if depth > LAYER_DEPTH_MAX { Err(Refusal::Deep) } else { Ok(path) }
}
