//! What has become known and is not written yet: kept in a list until a transaction has it, since
//! writing may fail, or be dropped.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A list of what is to be written.
#[derive(Debug)]
pub(crate) struct Unwritten<T> {
    list: Mutex<Vec<T>>,
    /// Held while a batch is being written: only who holds it removes some.
    writing: tokio::sync::Mutex<()>,
}

/// What is being written. It stays in the list unless it is said to be [`Batch::written`].
#[derive(Debug)]
pub(crate) struct Batch<'a, T> {
    items: Vec<T>,
    of: &'a Unwritten<T>,
    _writing: tokio::sync::MutexGuard<'a, ()>,
}

impl<T> Default for Unwritten<T> {
    fn default() -> Self {
        Self { list: Mutex::default(), writing: tokio::sync::Mutex::default() }
    }
}

impl<T: Clone> Unwritten<T> {
    fn list(&self) -> MutexGuard<'_, Vec<T>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, item: T) {
        self.list().push(item);
    }

    pub(crate) fn len(&self) -> usize {
        self.list().len()
    }

    /// All that is known now, once nobody else writes. Nothing if there is nothing to write.
    pub(crate) async fn batch(&self) -> Option<Batch<'_, T>> {
        let writing = self.writing.lock().await;
        let items = self.list().clone();
        (!items.is_empty()).then_some(Batch { items, of: self, _writing: writing })
    }
}

impl<T: Clone> Batch<'_, T> {
    /// It is committed.
    pub(crate) fn written(self) {
        self.of.list().drain(..self.items.len());
    }
}

impl<T> Deref for Batch<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items
    }
}
