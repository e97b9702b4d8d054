//! Retries: how often a failed input runs again, and after which delay.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// A function's retry policy. `retries == 0` means that a failure is final.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: u32,
    /// Delay before the first retry.
    pub initial_delay_ms: Millis,
    /// No delay is longer.
    pub max_delay_ms: Millis,
    /// Each delay is the one before, times this.
    pub backoff_coefficient: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 0,
            initial_delay_ms: Millis(1_000),
            max_delay_ms: Millis(60_000),
            backoff_coefficient: 1.0,
        }
    }
}

impl RetryPolicy {
    /// The delay before attempt `retry_count + 1`, or nothing if `retry_count` retries were all.
    pub fn delay_after(&self, retry_count: u32) -> Option<Millis> {
        if retry_count >= self.retries {
            return None;
        }
        let factor = self.backoff_coefficient.max(1.0).powi(i32::try_from(retry_count).ok()?);
        let delay_ms = (self.initial_delay_ms.0 as f64 * factor).min(self.max_delay_ms.0 as f64);
        Some(Millis(delay_ms as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_the_limit_and_end() {
        let policy = RetryPolicy {
            retries: 4,
            initial_delay_ms: Millis(1_000),
            max_delay_ms: Millis(3_000),
            backoff_coefficient: 2.0,
        };
        let delays: Vec<_> = (0..5).map(|n| policy.delay_after(n)).collect();
        let ms = |n| Some(Millis(n));
        assert_eq!(delays, [ms(1_000), ms(2_000), ms(3_000), ms(3_000), None]);
        assert_eq!(RetryPolicy::default().delay_after(0), None);
    }
}
