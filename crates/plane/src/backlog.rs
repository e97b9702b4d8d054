//! How many inputs of each function wait, counted lately. Counting reads every one of them, which
//! a limit that is far away need not cost each call.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{FunctionId, Millis, Time};

/// How long a count is trusted; what is added meanwhile is added to it, what is done is not taken
/// from it.
const TRUSTED: Millis = Millis::from_secs(1);

/// Functions whose counts are kept.
const KEPT_MAX: usize = 4_096;

/// Counts of waiting inputs.
#[derive(Debug, Default)]
pub struct Backlog(Mutex<HashMap<FunctionId, Count>>);

#[derive(Debug)]
struct Count {
    at: Time,
    waiting: u64,
}

impl Backlog {
    fn counts(&self) -> MutexGuard<'_, HashMap<FunctionId, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a function's waiting inputs; nothing if it must be counted.
    pub(crate) fn waiting(&self, function: &FunctionId, now: Time) -> Option<u64> {
        let counts = self.counts();
        let count = counts.get(function)?;
        (now.since(count.at) < TRUSTED).then_some(count.waiting)
    }

    /// Notes what was counted.
    pub(crate) fn set(&self, function: &FunctionId, waiting: u64, now: Time) {
        let mut counts = self.counts();
        if counts.len() >= KEPT_MAX {
            counts.clear();
        }
        counts.insert(function.clone(), Count { at: now, waiting });
    }

    /// Notes that so many more wait.
    pub(crate) fn add(&self, function: &FunctionId, more: u64) {
        if let Some(count) = self.counts().get_mut(function) {
            count.waiting += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_grows_with_what_is_added_and_ages() {
        let (backlog, function) = (Backlog::default(), FunctionId::new([1; 16]));
        let at = |ms: u64| Time(1_000 + ms);
        assert_eq!(backlog.waiting(&function, at(0)), None);
        backlog.add(&function, 5);
        assert_eq!(backlog.waiting(&function, at(0)), None, "what was never counted stays unknown");
        backlog.set(&function, 10, at(0));
        backlog.add(&function, 5);
        assert_eq!(backlog.waiting(&function, at(999)), Some(15));
        assert_eq!(backlog.waiting(&function, at(1_000)), None);
    }
}
