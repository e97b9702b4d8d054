//! Messages between the caller, the process that builds a container and its first process: JSON
//! with descriptors beside it, over socket pairs that keep message borders.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::MESSAGE_BYTES_MAX;

/// From the caller to a container's first process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// To the building process, before anything: the descriptors are the plan, stdin, stdout,
    /// stderr, v2's directory if `v2`, and v1's member files.
    Build { v2: bool },
    /// Run the program.
    Start,
    /// Send a signal to the program.
    Signal(i32),
    /// Run a further program. The descriptors are the socket for [`ExecNews`] of the first
    /// process, the one for those of the program to be, the program as text, its control group
    /// and, without `terminal`, its stdin, stdout, stderr.
    Exec { terminal: Option<Size> },
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// About a further program, on sockets of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ExecNews {
    /// Its process exists; the descriptors are its pidfd and, if it has one, its terminal.
    Forked,
    /// It could not be executed, and why.
    NotExecuted { failure: Failure, text: String },
    /// It ended with this exit code or by this signal.
    Ended { code: Option<i32>, signal: Option<i32> },
}

/// What kept a program from being executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// There is no such program.
    NotFound,
    /// It is there, but cannot be executed.
    NotExecutable,
    /// Its working folder cannot be entered.
    NoFolder,
    /// Something else.
    Other,
}

/// From a container's processes to the caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// The first process exists; the descriptors are its pidfd and its network namespace.
    Made { pid: i32 },
    /// All walls are up.
    Ready,
    /// It failed, and why.
    Failed { text: String },
    /// The program could not be executed, and why.
    NotExecuted { text: String },
    /// The program runs.
    Started,
    /// The program ended with this exit code or by this signal.
    Ended { code: Option<i32>, signal: Option<i32> },
}

/// Between the building process and the first process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Inner {
    /// The ids are mapped, and this is the root and, in order, what is mounted in it.
    Root,
    /// The process is in all its control groups.
    Attached,
}

/// Most descriptors in one message: SCM_MAX_FD of include/net/scm.h.
const DESCRIPTORS_MAX: usize = 253;

/// A connected pair.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A file in memory that holds `text`: for what is too long for a message.
pub(crate) fn in_memory(name: &str, text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    Ok(file.into())
}

/// Reads such a file from its start, wherever the offset that is shared with the writer stands.
pub(crate) fn read_memory<T: DeserializeOwned>(file: &OwnedFd) -> io::Result<T> {
    let size = usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(io::Error::other)?;
    let (mut text, mut at) = (vec![0; size], 0);
    while at < size {
        match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut text[at..], at as u64))? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            count => at += count,
        }
    }
    Ok(serde_json::from_slice(&text)?)
}

/// Sends one message.
///
/// # Errors
/// `BrokenPipe` when the other end is gone, `InvalidInput` for one that is too long.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    send_now(socket, message, descriptors, SendFlags::empty())
}

fn send_now<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, flags))?;
    Ok(())
}

/// [`send`], but waits for room no longer than until `deadline`: the other end may be frozen.
///
/// # Errors
/// `TimedOut`, and as [`send`].
pub(crate) fn send_until<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<()> {
    loop {
        match send_now(&socket, message, descriptors, SendFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if !is_ready(&socket, PollFlags::OUT, left)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes no messages"));
        }
    }
}

/// Receives one message; waits for it.
///
/// # Errors
/// `UnexpectedEof` when the other end is gone, `InvalidData` for what is not a message.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
    })?;
    if received.bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process is gone"));
    }
    let mut descriptors = vec![];
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    Ok((serde_json::from_slice(&bytes[..received.bytes])?, descriptors))
}

/// [`receive`], but no longer than until `deadline`.
///
/// # Errors
/// `TimedOut`, and as [`receive`].
pub(crate) fn receive_until<T: DeserializeOwned>(
    socket: impl AsFd,
    deadline: Instant,
) -> io::Result<(T, Vec<OwnedFd>)> {
    if ready(&socket, deadline.saturating_duration_since(Instant::now()))? {
        receive(socket)
    } else {
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
    }
}

/// Whether there is something to receive, or the other end is gone, within `time`.
pub(crate) fn ready(socket: impl AsFd, time: Duration) -> io::Result<bool> {
    is_ready(socket, PollFlags::IN, time)
}

fn is_ready(socket: impl AsFd, events: PollFlags, time: Duration) -> io::Result<bool> {
    let mut wanted = [PollFd::new(&socket, events)];
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    let count = rustix::io::retry_on_intr(|| poll(&mut wanted, Some(&time)))?;
    Ok(count > 0)
}
