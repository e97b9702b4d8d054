//! `OpenFile`, and how other commands get at what it has opened.
//!
//! A client that works on an open file sends one command after the other, and each is a process of
//! its own; between them the file is held by another process, which `OpenFile` leaves behind. It
//! listens on an abstract socket, whose name is the file's handle, and gives whoever connects the
//! descriptor itself: position, mode and file are shared, also once the file has no name any more.
//! While a command has the connection, others wait for their turn. Abstract names belong to the
//! sandbox's network namespace, so nobody outside can connect.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, SeekFrom, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::command::Handle;
use crate::failure::{Failure, Kind};
use crate::files::no_file;
use crate::stream::unbuffered;

/// What tells a holder that its file is closed.
const CLOSE: u8 = b'c';

/// The argument that makes this program hold a file.
const HOLD: &str = r#""HoldFile""#;

/// How a file is opened: as with Python's `open`, whose `b` and `t` say nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    kind: char,
    both: bool,
}

impl Mode {
    /// Reads a mode; nothing if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut kinds = text.chars().filter(|c| "rwax".contains(*c));
        let mut rest: Vec<char> = text.chars().filter(|c| !"rwax".contains(*c)).collect();
        rest.sort_unstable();
        let mode = Self { kind: kinds.next()?, both: rest.contains(&'+') };
        let is_plain = matches!(rest[..], [] | ['+'] | ['b' | 't'] | ['+', 'b' | 't']);
        (kinds.next().is_none() && is_plain).then_some(mode)
    }

    fn options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(self.kind == 'r' || self.both);
        match self.kind {
            'r' => options.write(self.both),
            'w' => options.write(true).create(true).truncate(true),
            'a' => options.append(true).create(true),
            _ => options.write(true).create_new(true),
        };
        options
    }
}

fn address(handle: &Handle) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("modal-sandbox-fs-{handle}"))
}

/// Opens a file and leaves a process behind that holds it.
pub(crate) fn open(path: &Path, mode: Mode, handle: &Handle) -> Result<(), Failure> {
    // Non-blocking: a pipe that nobody has open must not be waited for.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = mode.options().custom_flags(flags).open(path).map_err(Failure::of)?;
    let meta = file.metadata().map_err(Failure::of)?;
    if meta.is_dir() {
        return Err(Failure::of(Errno::ISDIR));
    }
    if !meta.is_file() {
        return Err(no_file());
    }
    if mode.kind == 'a' {
        file.seek(SeekFrom::End(0)).map_err(Failure::of)?;
    }
    let listener = address(handle).and_then(|address| UnixListener::bind_addr(&address));
    let listener = OwnedFd::from(listener.map_err(Failure::of)?);
    let held = Command::new("/proc/self/exe")
        .arg0("modal-sandbox-fs-tools")
        .arg(HOLD)
        .current_dir("/")
        .stdin(file)
        .stdout(listener)
        .stderr(Stdio::null())
        .spawn();
    held.map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            let what = "the sandbox has no room for another process, which would hold the file";
            Failure::new(Kind::TooMany, what)
        }
        _ => Failure::of(error).before("the file cannot be held open"),
    })
}

/// Holds the file that is this process's stdin, and gives it to those that connect to its stdout,
/// until one says that it is closed.
pub(crate) fn hold() -> Result<(), Failure> {
    let file = unbuffered(io::stdin()).map_err(Failure::of)?;
    let listener = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::of)?;
    let listener = UnixListener::from(listener);
    loop {
        let (mut taker, _) = listener.accept().map_err(Failure::of)?;
        if give(&taker, &file).is_err() {
            continue;
        }
        // It says that the file is closed, or hangs up when it is done.
        let mut word = [0];
        if matches!(taker.read(&mut word), Ok(1)) && word[0] == CLOSE {
            return Ok(());
        }
    }
}

fn give(taker: &UnixStream, file: &File) -> io::Result<()> {
    let fds = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    message.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(taker, &[IoSlice::new(&[0])], &mut message, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// An open file, as long as this process has its turn.
pub(crate) struct Held {
    /// The file itself.
    pub(crate) file: File,
    holder: UnixStream,
}

/// Takes the open file of a handle.
pub(crate) fn take(handle: &Handle) -> Result<Held, Failure> {
    let not_open = || {
        let what =
            "the file is not open any more: it was closed, or the process that held it ended";
        Failure::new(Kind::NotOpen, what)
    };
    let holder = address(handle).and_then(|address| UnixStream::connect_addr(&address));
    let holder = holder.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => not_open(),
        _ => Failure::of(error),
    })?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let came = recvmsg(&holder, &mut [IoSliceMut::new(&mut word)], &mut message, flags);
    let came = came.map_err(Failure::of)?;
    if came.bytes == 0 || came.flags.contains(ReturnFlags::CTRUNC) {
        return Err(not_open());
    }
    let fds = message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(Held { file: fds.ok_or_else(not_open)?.into(), holder })
}

/// Closes the open file of a handle.
pub(crate) fn close(handle: &Handle) -> Result<(), Failure> {
    let mut held = take(handle)?;
    held.holder.write_all(&[CLOSE]).map_err(Failure::of)?;
    // The holder has gone once it hangs up.
    let _ = held.holder.read(&mut [0]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_python() {
        for (text, kind, both) in [
            ("r", 'r', false),
            ("rb", 'r', false),
            ("w+", 'w', true),
            ("b+a", 'a', true),
            ("x", 'x', false),
            ("rt", 'r', false),
        ] {
            assert_eq!(Mode::parse(text), Some(Mode { kind, both }), "{text}");
        }
        for text in ["", "b", "+", "rw", "rr", "r++", "rbt", "rU", "ra+"] {
            assert_eq!(Mode::parse(text), None, "{text}");
        }
    }
}
