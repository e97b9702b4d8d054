//! How much each container has streamed beside its calls: it is limited, or one container could
//! fill the disk for all.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use model::TaskId;

/// Bytes by container. Containers do not outlive the server, so nothing of this is stored.
#[derive(Debug, Default)]
pub struct Streamed(Mutex<BTreeMap<TaskId, u64>>);

impl Streamed {
    /// Adds bytes of a container, unless that makes more than `most`. Says whether it was added.
    #[must_use]
    pub fn add(&self, task: &TaskId, bytes: u64, most: u64) -> bool {
        let mut streamed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_task = streamed.entry(task.clone()).or_default();
        let sum = of_task.saturating_add(bytes);
        if sum > most {
            return false;
        }
        *of_task = sum;
        true
    }

    /// The container is gone.
    pub fn forget(&self, task: &TaskId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(task);
    }
}
