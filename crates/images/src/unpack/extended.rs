//! Headers that say more about the entry after them: long names of GNU tar, and the extended
//! headers of POSIX (pax).

use std::ffi::CString;

use tar::{EntryType, Header};

use super::{Refusal, show};
use crate::limits::XATTR_BYTES_MAX;

/// Keys that give an attribute of the file.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// What was said so far about the next entry.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds; those before 1970 count as 0.
    pub(super) mtime: Option<u64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Something was said, and be it nothing of use.
    is_said: bool,
    has_pax: bool,
}

impl Extended {
    /// Whether a header is of this kind.
    #[expect(clippy::unused_self, reason = "reads as what it is at its caller")]
    pub(super) fn takes(&self, header: &Header) -> bool {
        matches!(
            header.entry_type(),
            EntryType::GNULongName
                | EntryType::GNULongLink
                | EntryType::XHeader
                | EntryType::XGlobalHeader
        )
    }

    /// Whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_said
    }

    /// Takes what such a header holds.
    pub(super) fn add(&mut self, kind: EntryType, bytes: &[u8]) -> Result<(), Refusal> {
        match kind {
            EntryType::GNULongName => {
                self.is_said = true;
                set(&mut self.path, without_end(bytes)?, "its path")
            }
            EntryType::GNULongLink => {
                self.is_said = true;
                set(&mut self.link, without_end(bytes)?, "its target")
            }
            EntryType::XGlobalHeader => read_global(bytes),
            _ => {
                if std::mem::replace(&mut self.has_pax, true) {
                    return Err(Refusal::SaidTwice("its extended header"));
                }
                self.is_said = true;
                self.read_pax(bytes)
            }
        }
    }

    fn read_pax(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        for record in Records(bytes) {
            let (key, value) = record?;
            match key {
                b"path" => set(&mut self.path, value.to_vec(), "its path")?,
                b"linkpath" => set(&mut self.link, value.to_vec(), "its target")?,
                b"size" => set(&mut self.size, number(value)?, "its size")?,
                b"uid" => set(&mut self.uid, number(value)?, "its owner")?,
                b"gid" => set(&mut self.gid, number(value)?, "its group")?,
                b"mtime" => set(&mut self.mtime, seconds(value)?, "its time")?,
                key if key.starts_with(b"GNU.sparse.") => return Err(Refusal::Sparse),
                key => {
                    if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                        if self.attributes.iter().any(|(known, _)| known == name) {
                            return Err(Refusal::SaidTwice("an attribute"));
                        }
                        self.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The attributes that a layer keeps: capabilities of programs, and what users note. Others
    /// are the packing machine's own (its labels and signatures) and mean nothing here.
    pub(super) fn attributes(&self) -> Result<Vec<(CString, Vec<u8>)>, Refusal> {
        let bytes: usize = self.attributes.iter().map(|(k, v)| k.len() + v.len() + 1).sum();
        if bytes > XATTR_BYTES_MAX {
            return Err(Refusal::LargeAttributes);
        }
        let mut kept = Vec::new();
        for (name, value) in &self.attributes {
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                return Err(Refusal::OverlayAttribute(show(name)));
            }
            if name == b"security.capability" || name.starts_with(b"user.") {
                let name = CString::new(name.clone());
                let name = name.map_err(|_| Refusal::Zero("an attribute's name"))?;
                kept.push((name, value.clone()));
            }
        }
        Ok(kept)
    }
}

/// Headers for all entries: programs write comments there, and nothing else is taken.
fn read_global(bytes: &[u8]) -> Result<(), Refusal> {
    for record in Records(bytes) {
        let (key, _) = record?;
        if key != b"comment" {
            return Err(Refusal::Global(show(key)));
        }
    }
    Ok(())
}

fn set<T>(field: &mut Option<T>, value: T, what: &'static str) -> Result<(), Refusal> {
    match field.replace(value) {
        Some(_) => Err(Refusal::SaidTwice(what)),
        None => Ok(()),
    }
}

/// A long name, which ends with a zero byte.
fn without_end(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let name = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if name.contains(&0) { Err(Refusal::Zero("its long name")) } else { Ok(name.to_vec()) }
}

fn number(value: &[u8]) -> Result<u64, Refusal> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number);
    text.and_then(|text| text.parse().ok()).ok_or(Refusal::Garbled)
}

/// Whole seconds of a time like `1700000000.25`.
fn seconds(value: &[u8]) -> Result<u64, Refusal> {
    if value.starts_with(b"-") {
        return Ok(0);
    }
    number(value.split(|byte| *byte == b'.').next().unwrap_or_default())
}

/// The records `<length> <key>=<value>\n` of an extended header. Values may hold any byte.
struct Records<'b>(&'b [u8]);

impl<'b> Iterator for Records<'b> {
    type Item = Result<(&'b [u8], &'b [u8]), Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.split();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record.ok_or(Refusal::Garbled))
    }
}

impl<'b> Records<'b> {
    fn split(&mut self) -> Option<(&'b [u8], &'b [u8])> {
        let space = self.0.iter().take(20).position(|byte| *byte == b' ')?;
        let len = usize::try_from(number(&self.0[..space]).ok()?).ok()?;
        let record = self.0.get(space + 1..len)?.strip_suffix(b"\n")?;
        self.0 = &self.0[len..];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        Some((&record[..equals], &record[equals + 1..])).filter(|(key, _)| !key.is_empty())
    }
}
