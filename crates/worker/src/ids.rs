//! Ranges of host ids: each container gets 65,536 of its own while it lives.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use jail::IdRange;

/// Ids in one range: what a distribution's packages expect.
const COUNT: u32 = 65_536;

/// The first host id. systemd leaves 1879048192 to 2147483647 free for such use.
const FIRST: u32 = 1_879_048_192;

/// Ranges that there are.
const RANGES_MAX: u32 = 4_096;

/// Which ranges are in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Used>>);

#[derive(Debug, Default)]
struct Used {
    taken: BTreeSet<u32>,
    next: u32,
}

/// A range; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    number: u32,
    pool: Pool,
}

impl Pool {
    /// Takes a range, the one that was free for longest; none if all are in use.
    pub(crate) fn take(&self) -> Option<Taken> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = used.next;
        let number = (0..RANGES_MAX)
            .map(|offset| (start + offset) % RANGES_MAX)
            .find(|number| !used.taken.contains(number))?;
        used.taken.insert(number);
        used.next = (number + 1) % RANGES_MAX;
        Some(Taken { number, pool: self.clone() })
    }
}

impl Pool {
    /// Takes the range that begins with an id: that of a container which outlived an earlier
    /// server. None if it is in use, or no range begins there.
    pub(crate) fn take_first(&self, first: u32) -> Option<Taken> {
        let offset = first.checked_sub(FIRST).filter(|offset| offset % COUNT == 0)?;
        let number = Some(offset / COUNT).filter(|number| *number < RANGES_MAX)?;
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.taken.insert(number).then(|| Taken { number, pool: self.clone() })
    }
}

impl Taken {
    /// The range.
    pub(crate) fn range(&self) -> IdRange {
        IdRange { first: FIRST + self.number * COUNT, count: COUNT }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut used = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_are_used_again_late() {
        let pool = Pool::default();
        let a = pool.take().unwrap();
        let first = a.range().first;
        drop(a);
        let all: Vec<_> = (0..RANGES_MAX).map(|_| pool.take().unwrap()).collect();
        assert_ne!(all[0].range().first, first);
        let starts: BTreeSet<_> = all.iter().map(|taken| taken.range().first).collect();
        assert_eq!(starts.len(), RANGES_MAX as usize);
        assert!(all.iter().all(|taken| taken.range().first.checked_add(COUNT).is_some()));
        assert!(pool.take().is_none());
        assert!(pool.take_first(FIRST).is_none(), "it is in use");
        drop(all);
        let first = FIRST + 7 * COUNT;
        let taken = pool.take_first(first).unwrap();
        assert_eq!(taken.range().first, first);
        assert!(pool.take_first(first).is_none());
        for strange in [0, FIRST + 1, FIRST - COUNT] {
            assert!(pool.take_first(strange).is_none(), "{strange}");
        }
    }
}
