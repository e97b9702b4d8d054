//! `ReadFile` and `WriteFile`.
//!
//! A write is all or nothing: clients that fail midway do not send the end of their stream, and
//! expect that no partial file is left. What comes is staged in a file without a name in the
//! target's folder, which vanishes with this process, and then takes the target's place; links are
//! followed, the old file's owner and mode are kept, its extended attributes are not. Only where
//! that would change more than the content (other hard links, an owner that cannot be given, a
//! mount on the file itself, a folder that cannot be written to) the old file is overwritten in
//! place.

use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::failure::{Failure, Kind};
use crate::folders;
use crate::limits::{LINKS_MAX, NAMES_MAX, READ_BYTES_MAX};
use crate::stream::{Broken, pump, unbuffered};

/// How names of staged files begin, where one needs a name.
pub(crate) const STAGED: &str = ".modal-sandbox-fs-tmp-";

/// Sends a file to stdout.
pub(crate) fn read(path: &Path) -> Result<(), Failure> {
    // Non-blocking: a pipe that nobody writes to must not be waited for.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        // What a socket answers.
        Some(Errno::NXIO) => no_file(),
        _ => Failure::of(error),
    })?;
    let meta = file.metadata().map_err(Failure::of)?;
    if meta.is_dir() {
        return Err(Failure::of(Errno::ISDIR));
    }
    if !meta.is_file() {
        return Err(no_file());
    }
    let too_large = || {
        let what = format!("the file has more than {READ_BYTES_MAX} bytes, the most that is read");
        Failure::new(Kind::FileTooLarge, what)
    };
    if meta.len() > READ_BYTES_MAX {
        return Err(too_large());
    }
    let out = unbuffered(io::stdout()).map_err(Failure::of)?;
    match pump(&file, &out, READ_BYTES_MAX) {
        Ok(_) => Ok(()),
        Err(Broken::Source(error)) => Err(Failure::of(error)),
        Err(Broken::Sink(error)) => Err(Failure::of(error).before("the output cannot be written")),
        Err(Broken::Limit) => Err(too_large()),
    }
}

pub(crate) fn no_file() -> Failure {
    Failure::new(Kind::NotAFile, "this is a device, a pipe or a socket, not a file")
}

/// Takes a file from stdin.
pub(crate) fn write(path: &Path) -> Result<(), Failure> {
    let source = unbuffered(io::stdin()).map_err(Failure::of)?;
    let target = Target::find(path)?;
    let folder = target.path.parent().unwrap_or(Path::new("/"));
    let stage = match Stage::make(folder) {
        Ok(stage) => stage,
        Err(error) if target.old.is_some() && is_of_folder(&error) => {
            return fill(&source, &open_old(&target.path)?);
        }
        Err(error) => return Err(Failure::of(error)),
    };
    fill(&source, &stage.file)?;
    stage.settle(&target)
}

/// The file that a path means, with links followed.
struct Target {
    path: PathBuf,
    old: Option<Metadata>,
}

impl Target {
    /// Finds it; makes the folders above it if it is not there yet.
    fn find(path: &Path) -> Result<Self, Failure> {
        let bytes = path.as_os_str().as_bytes();
        let mut path = path.to_owned();
        let mut is_folder = [&b"/"[..], b"/.", b"/.."].iter().any(|end| bytes.ends_with(end));
        for _ in 0..LINKS_MAX {
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                Err(_) if is_folder => return Err(Failure::of(Errno::ISDIR)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    folders::make_all(path.parent().unwrap_or(Path::new("/")))?;
                    return Ok(Self { path, old: None });
                }
                Err(error) => return Err(Failure::of(error)),
            };
            if meta.is_dir() {
                return Err(Failure::of(Errno::ISDIR));
            } else if meta.is_symlink() {
                let next = fs::read_link(&path).map_err(Failure::of)?;
                is_folder = next.as_os_str().as_bytes().ends_with(b"/");
                path = path.parent().unwrap_or(Path::new("/")).join(next);
            } else if meta.is_file() {
                return Ok(Self { path, old: Some(meta) });
            } else {
                return Err(no_file());
            }
        }
        Err(Failure::of(Errno::LOOP))
    }
}

/// Writes all of `source` to `sink`, as far as files of this process may grow: beyond it the
/// kernel would not answer but kill.
fn fill(source: &File, sink: &File) -> Result<(), Failure> {
    let limit = getrlimit(Resource::Fsize).current;
    match pump(source, sink, limit.unwrap_or(u64::MAX)) {
        Ok(_) => Ok(()),
        Err(Broken::Source(error)) => Err(Failure::of(error).before("the input cannot be read")),
        Err(Broken::Sink(error)) => Err(Failure::of(error)),
        Err(Broken::Limit) => {
            let limit = limit.unwrap_or(u64::MAX);
            let what = format!("a file may have at most {limit} bytes in this sandbox");
            Err(Failure::new(Kind::FileTooLarge, what))
        }
    }
}

/// The old file, emptied, for writing in place.
fn open_old(path: &Path) -> Result<File, Failure> {
    OpenOptions::new().write(true).truncate(true).open(path).map_err(Failure::of)
}

/// Whether the folder, not the file, is what cannot be written to. Folders of /proc have nothing
/// new in them, and say that it is not there.
fn is_of_folder(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let of_folder =
        [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::BUSY, Errno::XDEV, Errno::NOENT];
    errno.is_some_and(|errno| of_folder.contains(&errno))
}

/// A file that is not in its place yet. Dropped, it is gone.
struct Stage {
    file: File,
    folder: PathBuf,
    /// Its name, where it needs one.
    name: Option<PathBuf>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = fs::remove_file(name);
        }
    }
}

impl Stage {
    fn make(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let (file, name) = match rustix::fs::openat(CWD, folder, flags, Mode::from(0o666)) {
            Ok(file) => (file.into(), None),
            // File systems without files that have no name.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let open = |name: &Path| {
                    OpenOptions::new().read(true).write(true).create_new(true).open(name)
                };
                let (name, file) = under_new_name(folder, open)?;
                (file, Some(name))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { file, folder: folder.to_owned(), name })
    }

    /// Puts the file in its place.
    fn settle(mut self, target: &Target) -> Result<(), Failure> {
        let Some(old) = &target.old else {
            let put = match &self.name {
                Some(name) => fs::hard_link(name, &target.path),
                None => link(&self.file, &target.path),
            };
            match put {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                put => return put.map_err(Failure::of),
            }
            // Somebody was quicker, and is overwritten.
            return self.replace(&target.path).map_err(Failure::of);
        };
        if old.nlink() > 1 || !self.takes_owner_of(old) {
            return self.pour_into(&target.path);
        }
        match self.replace(&target.path) {
            Err(error) if is_of_folder(&error) => self.pour_into(&target.path),
            done => done.map_err(Failure::of),
        }
    }

    /// Gives the file the old one's owner and mode; says whether that is allowed.
    fn takes_owner_of(&self, old: &Metadata) -> bool {
        let Ok(new) = self.file.metadata() else { return false };
        let same = (new.uid(), new.gid()) == (old.uid(), old.gid());
        let owner = same || fchown(&self.file, Some(old.uid()), Some(old.gid())).is_ok();
        let mode = fs::Permissions::from_mode(old.mode() & 0o7777);
        owner && self.file.set_permissions(mode).is_ok()
    }

    /// Renames the file over what is there.
    fn replace(&mut self, target: &Path) -> io::Result<()> {
        if self.name.is_none() {
            self.name = Some(under_new_name(&self.folder, |name| link(&self.file, name))?.0);
        }
        if let Some(name) = &self.name {
            fs::rename(name, target)?;
        }
        self.name = None;
        Ok(())
    }

    /// Writes the content into the old file, in place.
    fn pour_into(&mut self, target: &Path) -> Result<(), Failure> {
        self.file.rewind().map_err(Failure::of)?;
        fill(&self.file, &open_old(target)?)
    }
}

/// Gives a file without a name a name.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        // Without /proc the kernel wants a capability, or to be new (6.10).
        Err(Errno::NOENT) => rustix::fs::linkat(file, "", CWD, path, AtFlags::EMPTY_PATH)?,
        done => done?,
    }
    Ok(())
}

/// Does something with a name in `folder` that nothing has yet.
fn under_new_name<T>(
    folder: &Path,
    act: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let mut attempt = 0;
    loop {
        let random = RandomState::new().hash_one(std::process::id());
        let name = folder.join(format!("{STAGED}{random:016x}"));
        attempt += 1;
        match act(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < NAMES_MAX => {}
            done => return done.map(|value| (name, value)),
        }
    }
}
