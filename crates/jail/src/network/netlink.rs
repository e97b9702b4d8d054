//! rtnetlink, as much of it as a veth needs: requests, their acknowledgements and dumps.
//!
//! Facts: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/veth.h, linux/neighbour.h.
//! A request is `nlmsghdr` (16 bytes), a fixed body, then attributes (`len`, `kind`, value),
//! each padded to four bytes, all in the machine's byte order.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::limits::{DUMP_MESSAGES_MAX, NETLINK_BYTES_MAX, NETLINK_MS_MAX};

const HEADER_BYTES: usize = 16;

/// One request that is being put together.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of `kind` (`RTM_…`) with its fixed body; `flags` beside `NLM_F_REQUEST`.
    pub(super) fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or(u16::MAX);
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    /// Appends one attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// Appends an attribute that holds `body` and the attributes that `fill` appends.
    pub(super) fn nest(mut self, kind: u16, body: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.push(kind, body);
        let mut whole = fill(self);
        let len = u16::try_from(whole.bytes.len() - start).unwrap_or(u16::MAX);
        whole.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        whole
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message of a dump: its fixed body and attributes, undivided.
#[derive(Debug)]
pub(super) struct Message {
    payload: Vec<u8>,
}

impl Message {
    /// The `len` bytes of the fixed body, or `None` if the message is shorter.
    pub(super) fn body(&self, len: usize) -> Option<&[u8]> {
        self.payload.get(..len)
    }

    /// The attributes that follow a fixed body of `body` bytes.
    pub(super) fn attributes(&self, body: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.payload.get(body.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// Attributes in `bytes`; stops at the first one that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        // NLA_F_NESTED and NLA_F_NET_BYTEORDER are the two highest bits of the kind.
        Some((kind & 0x3fff, value))
    })
}

/// An rtnetlink socket. It belongs to the network namespace in which it was opened, and may be
/// used from a thread in any other.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let wait = Some(Duration::from_millis(NETLINK_MS_MAX));
        set_socket_timeout(&socket, Timeout::Recv, wait)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends `request` and waits for its acknowledgement.
    ///
    /// # Errors
    /// What the kernel answered, or that it did not answer in time.
    pub(super) fn ask(&mut self, request: Request) -> io::Result<()> {
        self.send(request, libc::NLM_F_ACK)?;
        self.collect().map(drop)
    }

    /// Sends `request` for one object and returns it.
    ///
    /// # Errors
    /// What the kernel answered, or that it did not answer in time.
    pub(super) fn get(&mut self, request: Request) -> io::Result<Option<Message>> {
        self.send(request, libc::NLM_F_ACK)?;
        self.collect().map(|messages| messages.into_iter().next())
    }

    /// Sends `request` as a dump and collects its messages.
    ///
    /// # Errors
    /// What the kernel answered, or that the dump is too long or did not end in time.
    pub(super) fn dump(&mut self, request: Request) -> io::Result<Vec<Message>> {
        self.send(request, libc::NLM_F_DUMP)?;
        self.collect()
    }

    fn send(&mut self, request: Request, flags: i32) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = request.bytes;
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let more = u16::from_ne_bytes([bytes[6], bytes[7]])
            | u16::try_from(flags).map_err(io::Error::other)?;
        bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        bytes[6..8].copy_from_slice(&more.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Reads until the acknowledgement, the error or the end of the dump of the last request.
    fn collect(&mut self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        let mut buffer = vec![0; NETLINK_BYTES_MAX];
        loop {
            let (len, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut bytes = &buffer[..len];
            while let Some((kind, sequence, payload, rest)) = split(bytes) {
                bytes = rest;
                if sequence != self.sequence {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return outcome(payload).map(|()| messages);
                    }
                    _ => messages.push(Message { payload: payload.to_vec() }),
                }
                if messages.len() > DUMP_MESSAGES_MAX {
                    return Err(io::Error::other("the kernel's list is longer than expected"));
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The first message of `bytes`: kind, sequence, payload, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let len = usize::try_from(len).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let payload = bytes.get(HEADER_BYTES..len)?;
    Some((kind, sequence, payload, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// Error and end-of-dump messages both begin with 0 or a negative errno.
fn outcome(payload: &[u8]) -> io::Result<()> {
    let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("a netlink answer was cut short")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_a_request_read_back() {
        let request = Request::new(libc::RTM_NEWLINK, 0, &[0; 16])
            .with(libc::IFLA_IFNAME, b"pal0n2\0")
            .nest(libc::IFLA_LINKINFO, &[], |inner| inner.with(libc::IFLA_INFO_KIND, b"veth"));
        let message = Message { payload: request.bytes[HEADER_BYTES..].to_vec() };
        let all: Vec<_> = message.attributes(16).collect();
        assert_eq!(all[0], (libc::IFLA_IFNAME, &b"pal0n2\0"[..]));
        assert_eq!(all[1].0, libc::IFLA_LINKINFO);
        let inner: Vec<_> = attributes(all[1].1).collect();
        assert_eq!(inner, [(libc::IFLA_INFO_KIND, &b"veth"[..])]);
    }

    #[test]
    fn a_cut_answer_is_not_taken_for_success() {
        assert!(outcome(&[0, 0]).is_err());
        assert!(outcome(&(-19i32).to_ne_bytes()).is_err());
        assert!(outcome(&0i32.to_ne_bytes()).is_ok());
        assert!(attributes(&[9, 0, 1, 0, 7]).next().is_none());
    }

    #[test]
    fn loopback_is_in_the_list_of_links() {
        let mut netlink = Netlink::open().expect("open netlink");
        let links = netlink.dump(Request::new(libc::RTM_GETLINK, 0, &[0; 16])).expect("dump");
        let lo = |m: &Message| m.attributes(16).any(|a| a == (libc::IFLA_IFNAME, &b"lo\0"[..]));
        assert!(links.iter().any(lo));
        let missing =
            Request::new(libc::RTM_DELLINK, 0, &[0; 16]).with(libc::IFLA_IFNAME, b"palnosuch\0");
        let error = netlink.ask(missing).expect_err("no such link");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
