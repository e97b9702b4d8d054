//! The addresses of a fabric's containers: number 0 and the last stay unused, 1 is the gateway's.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::ranges::Subnet;
use super::{Error, Result};
use crate::limits::ATTACHED_MAX;

/// The addresses of a share that are in use.
#[derive(Debug)]
pub(super) struct Pool {
    share: Subnet,
    /// Of the last address given: the next is looked for behind it, so that an address rests
    /// before it is given again.
    last: u32,
    used: HashSet<Ipv4Addr>,
}

impl Pool {
    pub(super) fn new(share: Subnet) -> Self {
        Self { share, last: 0, used: HashSet::new() }
    }

    pub(super) fn take(&mut self) -> Result<Ipv4Addr> {
        for _ in 0..ATTACHED_MAX {
            self.last = self.last % ATTACHED_MAX + 1;
            let address = Ipv4Addr::from_bits(self.share.base().to_bits() + 1 + self.last);
            if self.used.insert(address) {
                return Ok(address);
            }
        }
        Err(Error::NoAddress)
    }

    /// Takes an address that a container has already.
    pub(super) fn reserve(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
    }

    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_gives_each_address_once_and_lets_it_rest() {
        let share: Subnet = "10.213.16.0/20".parse().expect("share");
        let mut pool = Pool::new(share);
        let first = pool.take().expect("first");
        assert_eq!(first.to_string(), "10.213.16.2");
        pool.give_back(first);
        let all: Vec<_> = (0..ATTACHED_MAX).map(|_| pool.take().expect("address")).collect();
        assert!(all.iter().all(|address| share.contains(*address)));
        assert_eq!(all.last(), Some(&first));
        assert_eq!(all[ATTACHED_MAX as usize - 2].to_string(), "10.213.31.254");
        assert!(matches!(pool.take(), Err(Error::NoAddress)));
        let mut pool = Pool::new(share);
        pool.reserve(first);
        assert_eq!(pool.take().expect("second").to_string(), "10.213.16.3");
    }
}
