//! `Stat` and `ListFiles`: what lies at a path, as JSON.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::failure::{Failure, Kind};
use crate::limits::ENTRIES_MAX;
use crate::names::quoted;
use crate::owners::Owners;

/// Describes one path; a link itself.
pub(crate) fn stat(path: &Path) -> Result<(), Failure> {
    let meta = fs::symlink_metadata(path).map_err(Failure::of)?;
    // `/` and `/a/..` have no name of their own.
    let name = path.file_name().unwrap_or(path.as_os_str());
    let mut json = Describer::new().describe(name.as_bytes(), path, &meta);
    json.push('\n');
    io::stdout().write_all(json.as_bytes()).map_err(Failure::of)
}

/// Describes the entries of a folder, sorted by their names; a link in `path` is followed.
pub(crate) fn list(path: &Path) -> Result<(), Failure> {
    let names = names_in(path)?;
    let mut out = BufWriter::new(io::stdout().lock());
    write_entries(&mut out, path, &names).and_then(|()| out.flush()).map_err(Failure::of)
}

/// Tells the names of the entries of a folder.
pub(crate) fn list_names(path: &Path) -> Result<(), Failure> {
    let names = names_in(path)?;
    let names: Vec<String> = names.iter().map(|name| quoted(name.as_bytes())).collect();
    let json = format!("{{\"paths\":[{}]}}\n", names.join(","));
    io::stdout().write_all(json.as_bytes()).map_err(Failure::of)
}

/// The names in a folder, sorted.
fn names_in(path: &Path) -> Result<Vec<OsString>, Failure> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(path).map_err(Failure::of)? {
        names.push(entry.map_err(Failure::of)?.file_name());
        if names.len() > ENTRIES_MAX {
            let what = format!("the directory has more than {ENTRIES_MAX} entries");
            return Err(Failure::new(Kind::Io, what));
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn write_entries(out: &mut impl Write, folder: &Path, names: &[OsString]) -> io::Result<()> {
    let describer = Describer::new();
    let mut separator = "";
    out.write_all(b"[")?;
    for name in names {
        let path = folder.join(name);
        // What has gone since is no entry any more.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        write!(out, "{separator}{}", describer.describe(name.as_bytes(), &path, &meta))?;
        separator = ",\n";
    }
    out.write_all(b"]\n")
}

struct Describer {
    users: Owners,
    groups: Owners,
}

impl Describer {
    fn new() -> Self {
        Self { users: Owners::read("/etc/passwd"), groups: Owners::read("/etc/group") }
    }

    /// `mode` has the bits of the type, too; `permissions` are four octal digits or more, as of
    /// `stat -c %a`; `modified_time` is seconds since 1970.
    fn describe(&self, name: &[u8], path: &Path, meta: &Metadata) -> String {
        let target = meta.is_symlink().then(|| fs::read_link(path).ok()).flatten();
        let target = target.map_or("null".to_owned(), |path| quoted(path.as_os_str().as_bytes()));
        format!(
            concat!(
                r#"{{"name":{},"path":{},"type":"{}","size":{},"mode":{},"permissions":"{:04o}","#,
                r#""owner":{},"group":{},"modified_time":{:?},"symlink_target":{}}}"#
            ),
            quoted(name),
            quoted(path.as_os_str().as_bytes()),
            kind(meta),
            meta.len(),
            meta.mode(),
            meta.mode() & 0o7777,
            quoted(&self.users.name(meta.uid())),
            quoted(&self.groups.name(meta.gid())),
            seconds(meta.mtime(), meta.mtime_nsec()),
            target,
        )
    }
}

/// Clients know three types. Devices, pipes and sockets are files to them; `mode` tells.
fn kind(meta: &Metadata) -> &'static str {
    if meta.is_dir() {
        "directory"
    } else if meta.is_symlink() {
        "symlink"
    } else {
        "file"
    }
}

#[expect(clippy::cast_precision_loss, reason = "clients want a float; it is exact to 0.5 µs")]
fn seconds(whole: i64, nanos: i64) -> f64 {
    whole as f64 + nanos as f64 / 1e9
}
