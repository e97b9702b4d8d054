//! Who is making which layer: what two pulls need at the same time is made by one of them.
//!
//! Unlike a [`crate::KeyLock`] a claim may be given to another thread, which the batches of
//! [`crate::pull`] need: a layer's claim ends when the batch it is in was written to the disk.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::layer::Key;

/// The keys that somebody has claimed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims(Arc<(Mutex<HashSet<Key>>, Condvar)>);

impl Claims {
    /// Claims `key` if nobody has.
    pub(crate) fn claim_now(&self, key: Key) -> Option<Claim> {
        self.keys().insert(key).then(|| Claim { claims: self.clone(), key })
    }

    /// Claims `key`, after whoever has it.
    pub(crate) fn claim(&self, key: Key) -> Claim {
        let mut keys = self.keys();
        while !keys.insert(key) {
            keys = self.0.1.wait(keys).unwrap_or_else(PoisonError::into_inner);
        }
        Claim { claims: self.clone(), key }
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody else makes the key until this goes away.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    key: Key,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.keys().remove(&self.key);
        self.claims.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use blobs::Digest;

    use super::*;

    #[test]
    fn one_at_a_time_has_a_key_and_none_stays() {
        let (claims, key) = (Claims::default(), Key(Digest::of(b"key")));
        let first = claims.claim_now(key).unwrap();
        assert!(claims.claim_now(key).is_none());
        let other = claims.clone();
        let waiting = std::thread::spawn(move || drop(other.claim(key)));
        drop(first);
        waiting.join().unwrap();
        assert!(claims.keys().is_empty());
    }
}
