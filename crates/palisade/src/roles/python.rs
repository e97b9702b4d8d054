//! `palisade python`: Pythons that the client's `add_python` lays into images. They come from
//! archives that the operator got; a server that runs sees a new one at once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use plane::{Pythons, Release};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

use crate::config::{Python, PythonCommand};
use crate::data::{Data, PYTHONS};
use crate::say;

/// Bytes that the files of one Python may have together.
const TREE_BYTES_MAX: u64 = 4 << 30;

/// Files of one Python.
const TREE_FILES_MAX: usize = 200_000;

/// Runs the command.
pub(crate) fn run(python: &Python) -> Result<()> {
    match &python.command {
        PythonCommand::Import { file, data } => import(file, &Data::make(&data.data_dir)?),
        PythonCommand::List { data } => list(&Data::of(&data.data_dir)),
    }
}

fn list(data: &Data) -> Result<()> {
    let dir = data.path(PYTHONS);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot list {}", dir.display()))?,
    };
    let mut archives = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        archives.extend(name.to_str().and_then(Release::of_mount).map(|one| one.archive()));
    }
    archives.sort();
    archives.iter().for_each(say);
    Ok(())
}

fn import(file: &Path, data: &Data) -> Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let release = Release::of_archive(&name).filter(|_| name.ends_with(".tar.gz"));
    let Some(release) = release else {
        let example = "cpython-3.11.5+20230826-x86_64-unknown-linux-gnu-install_only.tar.gz";
        bail!(
            "{name} is no archive of python-build-standalone for this machine ({}): its name says \
             which Python it is, as in {example}",
            std::env::consts::ARCH
        );
    };
    let folder = Pythons::of(data.path(PYTHONS)).folder(&release);
    let dir = data.path(PYTHONS);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    if folder.exists() {
        bail!("{} is there already: to import it again, remove it first", folder.display());
    }
    let draft = tempfile::Builder::new().prefix("draft-").tempdir_in(&dir)?;
    let archive = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let tree = draft.path().join("tree");
    fs::create_dir(&tree)?;
    let sha256 = unpack(archive, &tree).with_context(|| format!("cannot import {name}"))?;
    let program = tree.join("python/bin/python3");
    ensure!(
        program.symlink_metadata().is_ok(),
        "{name} has no python/bin/python3: take the archive whose name ends in install_only.tar.gz"
    );
    fs::write(draft.path().join("sha256"), sha256)?;
    // Whole on the disk before it has its name.
    rustix::fs::syncfs(File::open(draft.path())?)?;
    fs::rename(draft.path(), &folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    rustix::fs::fsync(File::open(&dir)?)?;
    say(format!("imported {} as {}", release.archive(), release.mount()));
    Ok(())
}

/// Counts what passes, for the archive's name.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Unpacks below `tree`; gives the SHA-256 of the archive in hex.
fn unpack(archive: impl Read, tree: &Path) -> Result<String> {
    let mut hashed = Hashed { inner: archive, hasher: Sha256::new() };
    let unpacked = GzDecoder::new(&mut hashed);
    let mut archive = Archive::new(unpacked.take(TREE_BYTES_MAX));
    archive.set_preserve_permissions(true);
    archive.set_unpack_xattrs(false);
    let mut files = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        files += 1;
        ensure!(files <= TREE_FILES_MAX, "it holds more than {TREE_FILES_MAX} files");
        check(&path, entry.header().entry_type())?;
        let is_inside = entry.unpack_in(tree)?;
        ensure!(is_inside, "{} leads out of the archive", path.display());
    }
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    ensure!(rest.limit() > 0, "its files are larger than {TREE_BYTES_MAX} bytes");
    drop(rest);
    io::copy(&mut hashed, &mut io::sink())?;
    Ok(hex::encode(hashed.hasher.finalize()))
}

/// What may be in it: files, folders and links below `python/`.
fn check(path: &Path, kind: EntryType) -> Result<()> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir);
    let is_below = parts.next() == Some(Component::Normal("python".as_ref()))
        && parts.all(|part| matches!(part, Component::Normal(_)));
    ensure!(is_below, "{} is not below python/", path.display());
    let is_known = matches!(
        kind,
        EntryType::Regular | EntryType::Directory | EntryType::Symlink | EntryType::Link
    );
    ensure!(is_known, "{} is no file, folder or link", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, EntryType, Header};

    use super::unpack;

    /// An archive of one entry, after a folder `python/`.
    fn archive(path: &str, kind: EntryType, link: &str) -> Vec<u8> {
        let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = Header::new_gnu();
        header.set_mode(0o755);
        header.set_entry_type(kind);
        header.set_size(if kind == EntryType::Regular { 1 } else { 0 });
        // The crate's own setter refuses what an attacker writes.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, if kind == EntryType::Regular { &b"x"[..] } else { b"" }).unwrap();
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn archives_stay_below_their_folder() {
        let check = |path: &str, kind, link: &str, wanted: &str| {
            let dir = tempfile::tempdir().unwrap();
            let tree = dir.path().join("tree");
            std::fs::create_dir(&tree).unwrap();
            let error = unpack(&archive(path, kind, link)[..], &tree).unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains(wanted), "{path}: {text}");
            let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
            assert_eq!(left.len(), 1, "{path}");
        };
        check("python/../../x", EntryType::Regular, "", "not below python/");
        check("/python/x", EntryType::Regular, "", "not below python/");
        check("etc/x", EntryType::Regular, "", "not below python/");
        check("python/null", EntryType::Char, "", "no file, folder or link");
        check("python/pipe", EntryType::Fifo, "", "no file, folder or link");
        check("python/x", EntryType::Link, "../../outside", "python/x");
    }

    #[test]
    fn the_hash_is_that_of_all_bytes() {
        use sha2::{Digest as _, Sha256};
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = archive("python/x", EntryType::Symlink, "/etc/passwd");
        bytes.write_all(b"after the end").unwrap();
        let found = unpack(&bytes[..], dir.path()).unwrap();
        assert_eq!(found, hex::encode(Sha256::digest(&bytes)));
        let link = std::fs::read_link(dir.path().join("python/x")).unwrap();
        assert_eq!(link.to_str(), Some("/etc/passwd"), "links are text");
    }
}
