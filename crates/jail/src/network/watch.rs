//! Puts the table back when somebody empties the host's firewall.
//!
//! `nft flush ruleset` is what restarting the firewall of many hosts begins with; without our
//! table containers would reach the host. The kernel tells of every table that is deleted, so
//! that ours is back within some 30 ms.
//!
//! Facts: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::fabric::Inner;
use super::{Error, Result};
use crate::limits::{LOOK_MS_MAX, NETLINK_BYTES_MAX};

/// `NFNLGRP_NFTABLES` as a bit of the groups to listen to.
const GROUP: u32 = 1 << (7 - 1);
/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_DELTABLE`, joined as the header's type.
const TABLE_DELETED: u16 = (10 << 8) | 2;

/// The watching thread.
#[derive(Debug)]
pub(super) struct Watch {
    stop: OwnedFd,
    thread: JoinHandle<Result<()>>,
}

impl Watch {
    /// Starts the thread in the calling thread's network namespace.
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Self> {
        let open = || -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
            let events = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                Some(netlink::NETFILTER),
            )?;
            rustix::net::bind(&events, &SocketAddrNetlink::new(0, GROUP))?;
            let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
            let stopped = rustix::io::fcntl_dupfd_cloexec(&stop, 0)?;
            Ok((events, stop, stopped))
        };
        let (events, stop, stopped) = open().map_err(Error::Netlink)?;
        let inner = Arc::clone(inner);
        let thread = std::thread::Builder::new()
            .name("palisade-nft".to_owned())
            .spawn(move || run(&inner, &events, &stopped))
            .map_err(Error::Thread)?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread. Returns its last error, if the table could not be put back.
    pub(super) fn stop(self) -> Result<()> {
        // Writing 1 to an event counter of 0 cannot fail.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        self.thread.join().unwrap_or(Err(Error::Closed))
    }
}

fn run(inner: &Inner, events: &OwnedFd, stop: &OwnedFd) -> Result<()> {
    let wait = Timespec::try_from(Duration::from_millis(LOOK_MS_MAX)).unwrap_or_default();
    // What went by before we listened is seen by looking once.
    let mut outcome = inner.put_back();
    loop {
        let mut fds = [PollFd::new(events, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Netlink(error.into())),
        }
        if !fds[1].revents().is_empty() {
            return outcome;
        }
        // After a failure again and again, until it is there.
        if told_of_deletion(events) || outcome.is_err() {
            outcome = inner.put_back();
        }
    }
}

/// Reads all that waits; whether a table was deleted, or messages were lost.
fn told_of_deletion(events: &OwnedFd) -> bool {
    let mut buffer = vec![0; NETLINK_BYTES_MAX];
    let mut deleted = false;
    loop {
        match rustix::net::recv(events, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((len, _)) => deleted |= kinds(&buffer[..len]).any(|kind| kind == TABLE_DELETED),
            Err(Errno::NOBUFS) => deleted = true,
            Err(_) => return deleted,
        }
    }
}

/// The types of the messages in `bytes`: each begins with its length (4 bytes) and type (2).
fn kinds(mut bytes: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let len = usize::try_from(len).ok()?.max(16).next_multiple_of(4);
        bytes = bytes.get(len..).unwrap_or_default();
        Some(kind)
    })
}
