//! The world that a simulated plane lives in: its clock stands still until the run moves it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use model::{Millis, Time};
use plane::World;

use crate::chance::Chance;

/// A clock and a source of ids.
#[derive(Debug)]
pub struct Simulated {
    now_ms: AtomicU64,
    chance: Mutex<Chance>,
}

impl Simulated {
    /// The world of a seed, in the year 2026.
    pub fn new(seed: u64) -> Self {
        let now_ms = AtomicU64::new(1_780_000_000_000);
        Self { now_ms, chance: Mutex::new(Chance::new(seed)) }
    }

    /// Moves the clock on.
    pub fn pass(&self, time: Millis) {
        self.now_ms.fetch_add(time.0, Ordering::SeqCst);
    }

    /// Sets the clock back, as an operator might.
    pub fn set_back(&self, time: Millis) {
        self.now_ms.fetch_sub(time.0, Ordering::SeqCst);
    }
}

impl World for Simulated {
    fn now(&self) -> Time {
        Time(self.now_ms.load(Ordering::SeqCst))
    }

    fn bits(&self) -> [u8; 16] {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let bits = (u128::from(chance.bits()) << 64) | u128::from(chance.bits());
        bits.to_be_bytes()
    }
}
