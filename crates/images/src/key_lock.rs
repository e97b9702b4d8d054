//! Locks of build keys: what two builds need at the same time is built by one of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::layer::Key;

/// The locks of the keys that somebody builds. A lock goes away with its last user.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks(Mutex<HashMap<Key, Arc<Mutex<()>>>>);

impl KeyLocks {
    /// The lock of `key`.
    pub(crate) fn lock(&self, key: Key) -> KeyLock<'_> {
        KeyLock { locks: self, key, lock: lock(&self.0).entry(key).or_default().clone() }
    }
}

/// Keeps others in this process from building the same key.
#[derive(Debug)]
pub struct KeyLock<'s> {
    locks: &'s KeyLocks,
    key: Key,
    lock: Arc<Mutex<()>>,
}

impl KeyLock<'_> {
    /// Waits for the turn.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.lock)
    }
}

impl Drop for KeyLock<'_> {
    fn drop(&mut self) {
        let mut locks = lock(&self.locks.0);
        // Ours goes while the map is locked, so that of two that go at the same time the later
        // one sees that the map's is the last.
        drop(std::mem::take(&mut self.lock));
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

/// A panic of another build leaves nothing half-changed behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use blobs::Digest;

    use super::*;

    #[test]
    fn locks_go_away_with_their_last_user() {
        let (locks, key) = (KeyLocks::default(), Key(Digest::of(b"key")));
        let (one, two) = (locks.lock(key), locks.lock(key));
        drop(one.hold());
        drop(one);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
        drop(two);
        assert!(locks.0.lock().unwrap().is_empty());
    }
}
