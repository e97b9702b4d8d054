//! The background thread: deletes interfaces of ended containers, and looks at the host's.
//!
//! Deleting an interface takes the kernel 11-30 ms, whether it is one or a group of them: so
//! whatever waits is deleted together.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::fabric::{Inner, lock};
use super::netlink::Netlink;
use super::{Error, Result, at, link};
use crate::limits::{ATTACHED_MAX, LOOK_MS_MAX};

/// The thread and the way to it.
#[derive(Debug)]
pub(super) struct Reaper {
    jobs: SyncSender<Ipv4Addr>,
    thread: JoinHandle<Result<()>>,
}

/// Tells the thread to end: no container has this address.
const STOP: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

impl Reaper {
    /// Starts the thread in the calling thread's network namespace.
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Self> {
        // Each attachment sends once, so that sending never waits.
        let (jobs, inbox) = sync_channel(ATTACHED_MAX as usize + 1);
        let netlink = Netlink::open().map_err(Error::Netlink)?;
        let inner = Arc::clone(inner);
        let thread = std::thread::Builder::new()
            .name("palisade-net".to_owned())
            .spawn(move || run(&inner, &inbox, netlink))
            .map_err(Error::Thread)?;
        Ok(Self { jobs, thread })
    }

    pub(super) fn jobs(&self) -> SyncSender<Ipv4Addr> {
        self.jobs.clone()
    }

    /// Ends the thread after what waits is done. Returns the first error it met.
    pub(super) fn stop(self) -> Result<()> {
        // Fails only when the thread is gone already.
        let _ = self.jobs.send(STOP);
        self.thread.join().unwrap_or(Err(Error::Closed))
    }
}

fn run(inner: &Inner, inbox: &Receiver<Ipv4Addr>, mut netlink: Netlink) -> Result<()> {
    let mut outcome = Ok(());
    loop {
        let done = match inbox.recv_timeout(Duration::from_millis(LOOK_MS_MAX)) {
            Ok(first) => {
                let batch: Vec<_> = std::iter::once(first).chain(inbox.try_iter()).collect();
                let leaving: Vec<_> = batch.iter().copied().filter(|job| *job != STOP).collect();
                let done = reap(inner, &leaving, &mut netlink);
                if leaving.len() < batch.len() {
                    return outcome.and(done);
                }
                done
            }
            Err(RecvTimeoutError::Timeout) => lock(&inner.uplinks).look(&mut netlink),
            Err(RecvTimeoutError::Disconnected) => return outcome,
        };
        outcome = outcome.and(done);
    }
}

/// Deletes the interfaces of the containers at `leaving`, and takes back what they could reach.
/// An address whose traces could not be removed is not given to anybody again.
pub(super) fn reap(inner: &Inner, leaving: &[Ipv4Addr], netlink: &mut Netlink) -> Result<()> {
    let group = inner.slot.dying_group;
    for address in leaving {
        let interface = inner.interface(*address);
        // The interface is gone already if the container's namespace is.
        let _ = link::regroup(netlink, &interface, group);
    }
    link::delete_group(netlink, group).map_err(at("delete interfaces", &inner.slot.stem))?;
    let mut outcome = Ok(());
    let mut gone = Vec::new();
    for address in leaving {
        let interface = inner.interface(*address);
        // Whatever could not be regrouped for another reason than being gone fails here.
        match link::delete(netlink, &interface).map_err(at("delete", &interface)) {
            Ok(()) => gone.push(*address),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    inner.withdraw(&gone)?;
    gone.iter().for_each(|address| inner.release(*address));
    outcome
}
