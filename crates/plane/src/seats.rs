//! Seats of those who wait, by what they wait for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Waiters that sit at each key, in the order in which they sat down.
#[derive(Debug)]
pub(crate) struct Seats<K, T>(Arc<Mutex<Room<K, T>>>);

#[derive(Debug)]
struct Room<K, T> {
    rows: HashMap<K, Vec<(u64, T)>>,
    /// The number of the next seat.
    next: u64,
}

/// A seat, as he has it who waits. Dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Seat<K: Eq + Hash, T> {
    seats: Seats<K, T>,
    key: K,
    number: u64,
}

impl<K, T> Default for Seats<K, T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Room { rows: HashMap::new(), next: 0 })))
    }
}

impl<K: Eq + Hash, T> Seats<K, T> {
    fn room(&self) -> MutexGuard<'_, Room<K, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sits down at a key.
    pub(crate) fn sit(&self, key: &K, waiter: T) -> Seat<K, T>
    where
        K: Clone,
    {
        let mut room = self.room();
        let number = room.next;
        room.next += 1;
        room.rows.entry(key.clone()).or_default().push((number, waiter));
        Seat { seats: Self(self.0.clone()), key: key.clone(), number }
    }

    /// Takes the one who sat down last out of his seat.
    pub(crate) fn pop(&self, key: &K) -> Option<T> {
        self.change(key, Vec::pop)?.map(|(_, waiter)| waiter)
    }

    /// Takes all that are meant out of their seats.
    pub(crate) fn take(&self, key: &K, is_meant: impl Fn(&T) -> bool) -> Vec<T> {
        let taken = self.change(key, |row| {
            row.extract_if(.., |(_, waiter)| is_meant(waiter)).map(|(_, waiter)| waiter).collect()
        });
        taken.unwrap_or_default()
    }

    /// Changes who sits at a key; nothing is kept of one at which nobody does.
    fn change<R>(&self, key: &K, change: impl FnOnce(&mut Vec<(u64, T)>) -> R) -> Option<R> {
        let mut room = self.room();
        let row = room.rows.get_mut(key)?;
        let changed = change(row);
        if row.is_empty() {
            room.rows.remove(key);
        }
        Some(changed)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.room().rows.is_empty()
    }
}

impl<K: Eq + Hash, T> Seat<K, T> {
    /// Gives the seat up; `false` if who sat there was taken out already.
    pub(crate) fn leave(&self) -> bool {
        let position = |row: &Vec<(u64, T)>| row.iter().position(|(seat, _)| *seat == self.number);
        let left = self.seats.change(&self.key, |row| position(row).map(|at| row.remove(at)));
        left.flatten().is_some()
    }
}

impl<K: Eq + Hash, T> Drop for Seat<K, T> {
    fn drop(&mut self) {
        self.leave();
    }
}
