//! Messages between the caller, the process that builds a container and its first process: JSON
//! with descriptors beside it, over socket pairs that keep message borders.

use std::io::{self, IoSlice, IoSliceMut};
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

/// Sends one message.
///
/// # Errors
/// `BrokenPipe` when the other end is gone, `InvalidInput` for one that is too long.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
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
    let flags = SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, flags))?;
    Ok(())
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
    let mut wanted = [PollFd::new(&socket, PollFlags::IN)];
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    let count = rustix::io::retry_on_intr(|| poll(&mut wanted, Some(&time)))?;
    Ok(count > 0)
}
