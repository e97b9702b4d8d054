//! What the plane takes from the world around it: the time, and chance. A simulation gives it
//! both, so that a run can be repeated.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use model::Time;

/// The time, and chance.
pub trait World: Debug + Send + Sync {
    /// The present moment.
    fn now(&self) -> Time;

    /// 128 random bits, for a new id.
    fn bits(&self) -> [u8; 16];
}

/// The machine's own clock and its own randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl World for Machine {
    fn now(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn bits(&self) -> [u8; 16] {
        rand::random()
    }
}
