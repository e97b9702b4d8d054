//! Wake-ups. A hint carries nothing: who hears one looks at the store. Losing one costs latency,
//! since every sleeper also looks from time to time (A8).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{AppId, CallId, FunctionId, ImageId, QueueId, SandboxId};
use tokio::sync::watch;

/// What may have changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hint {
    /// There may be an input for a container of this function.
    Inputs(FunctionId),
    /// There may be an output of this call.
    Outputs(CallId),
    /// There may be a chunk beside this call.
    Data(CallId),
    /// There may be a line of this app.
    Logs(AppId),
    /// This image may have a line or an end.
    Image(ImageId),
    /// There may be an item in this queue, or room in it.
    Queue(QueueId),
    /// This sandbox may have started, have a port more, or have ended.
    Sandbox(SandboxId),
    /// Something that the scheduler cares for.
    Schedule,
    /// An image may wait to be built, or a worker to build it.
    Builds,
    /// Something will be due sooner than whoever watches deadlines would look by himself.
    Deadlines,
    /// A running input may have been cancelled.
    Cancels,
}

/// The bells, one per hint that somebody listens to.
#[derive(Debug, Clone, Default)]
pub struct Hints(Arc<Mutex<HashMap<Hint, watch::Sender<()>>>>);

/// A listener: hears every ring since it was made.
#[derive(Debug)]
pub struct Ear {
    receiver: watch::Receiver<()>,
    hint: Hint,
    hints: Hints,
}

impl Hints {
    /// Listens from now on. Make the ear first, look at the store second, then wait.
    pub fn listen(&self, hint: Hint) -> Ear {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver =
            bells.entry(hint.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Ear { receiver, hint, hints: self.clone() }
    }

    /// Wakes whoever listens to `hint`.
    pub fn ring(&self, hint: &Hint) {
        let bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(hint) {
            bell.send_replace(());
        }
    }
}

impl Ear {
    /// Waits until the hint is rung, or `most` has passed.
    pub async fn wait(&mut self, most: Duration) {
        // Both a ring and the end of the time mean the same: look again.
        let _ = tokio::time::timeout(most, self.receiver.changed()).await;
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut bells = self.hints.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The count still includes this ear.
        if bells.get(&self.hint).is_some_and(|bell| bell.receiver_count() <= 1) {
            bells.remove(&self.hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ring_before_the_wait_is_heard_and_bells_go_with_their_ears() {
        let hints = Hints::default();
        let mut ear = hints.listen(Hint::Schedule);
        hints.ring(&Hint::Schedule);
        tokio::time::timeout(Duration::from_secs(5), ear.wait(Duration::from_secs(60)))
            .await
            .unwrap();
        drop(ear);
        assert!(hints.0.lock().unwrap().is_empty());
    }
}
