//! Taking items out of queues, so that none is lost on its way: what was taken is settled once it
//! is known what became of the answer. And lines: of those who wait for one partition only the
//! first looks into the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use model::QueueId;
use store::queues::claims::{self, AnswerId, Run, Wanted};
use store::{Hint, Scope};
use tokio::sync::Notify;

use crate::Plane;
use crate::api::receipt::{Fate, Receipt};
use crate::limits::{QUEUE_UNSETTLED_MAX, SCAN_EVERY};
use crate::unwritten::Unwritten;

/// What is known of claims beside the store.
#[derive(Debug)]
pub struct Claims {
    run: Run,
    unsettled: Unwritten<Settlement>,
    more: Notify,
    lines: Lines,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy)]
struct Settlement {
    answer: AnswerId,
    delivered: bool,
}

impl Claims {
    /// Those of a new run of the server.
    pub fn new(bits: [u8; 8]) -> Self {
        Self {
            run: Run::new(bits),
            unsettled: Unwritten::default(),
            more: Notify::new(),
            lines: Lines::default(),
        }
    }

    /// A place at the end of the line of those who wait for items of a partition.
    pub fn line_up(&self, queue: &QueueId, partition: &Bytes) -> Place {
        self.lines.line_up((queue.clone(), partition.clone()))
    }

    fn add(&self, settlement: Settlement) {
        self.unsettled.add(settlement);
        self.more.notify_one();
    }

    fn is_full(&self) -> bool {
        self.unsettled.len() >= QUEUE_UNSETTLED_MAX
    }
}

impl Plane {
    /// Takes items out of a queue, with the receipt that settles it. Nothing if there is none now.
    ///
    /// This may be dropped at any moment, while it commits too: the receipt is there before.
    pub async fn take(
        self: &Arc<Self>,
        scope: &Scope,
        wanted: &Wanted,
    ) -> Result<Option<(Vec<Bytes>, Receipt)>, store::Error> {
        let now = self.now();
        let available =
            claims::available(&mut *self.store.read().await?, scope, wanted, now).await?;
        if !available || self.claims.is_full() {
            return Ok(None);
        }
        let mut tx = self.store.begin().await?;
        let answer = AnswerId::new(rand::random());
        let taken = claims::take(&mut tx, scope, wanted, answer, self.claims.run, now).await?;
        let Some(taken) = taken else { return Ok(None) };
        let plane = self.clone();
        let receipt = Receipt::new(move |fate| {
            plane.claims.add(Settlement { answer, delivered: fate == Fate::Sent });
        });
        tx.commit().await?;
        Ok(Some((taken.values, receipt)))
    }

    /// Writes what became of answers. What is lost goes back to where it stood. After it, all is
    /// written that was known before.
    pub async fn settle(&self) -> Result<(), store::Error> {
        let Some(batch) = self.claims.unsettled.batch().await else { return Ok(()) };
        self.write_settlements(&batch).await?;
        batch.written();
        Ok(())
    }

    async fn write_settlements(&self, batch: &[Settlement]) -> Result<(), store::Error> {
        let now = self.now();
        let mut tx = self.store.begin().await?;
        for &Settlement { answer, delivered } in batch {
            let queue = claims::settle(&mut tx, answer, delivered, now).await?;
            if let Some(queue) = queue {
                tx.ring(Hint::Queue(queue));
            }
        }
        tx.commit().await
    }

    /// Gives back what was on its way when an earlier run of the server ended.
    pub async fn settle_orphans(&self) -> Result<(), store::Error> {
        let run = self.claims.run;
        let orphans = claims::orphans(&mut *self.store.read().await?, run).await?;
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::info!(claims = orphans.len(), "items were on their way: they go back");
        let lost = |answer| Settlement { answer, delivered: false };
        let orphans: Vec<_> = orphans.into_iter().map(lost).collect();
        self.write_settlements(&orphans).await
    }
}

/// Settles claims as soon as it is known how. Runs until the server ends; what becomes known
/// later is for [`Plane::settle`] before the store is closed.
pub async fn run(plane: Arc<Plane>) {
    while !plane.is_closing() {
        if let Err(error) = plane.settle().await {
            tracing::error!(%error, "items of queues could not be settled");
        }
        tokio::select! {
            () = plane.claims.more.notified() => {}
            () = tokio::time::sleep(SCAN_EVERY) => {}
            () = plane.closed() => {}
        }
    }
}

type LineKey = (QueueId, Bytes);
type Turnstile = Arc<tokio::sync::Mutex<()>>;

/// The lines, one per partition for which somebody waits.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<HashMap<LineKey, Turnstile>>>);

impl Lines {
    fn line_up(&self, key: LineKey) -> Place {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turnstile = lines.entry(key.clone()).or_default().clone();
        Place { turnstile, key, lines: self.clone() }
    }
}

/// A place in a line. Whoever leaves it without its turn makes room for the next.
#[derive(Debug)]
pub struct Place {
    turnstile: Turnstile,
    key: LineKey,
    lines: Lines,
}

impl Place {
    /// Waits for the turn, which lasts until it is dropped.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turnstile.lock().await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The count still includes this place, and the line's own.
        if Arc::strong_count(&self.turnstile) <= 2 {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_and_lines_go_with_their_places() {
        let claims = Claims::new([1; 8]);
        let (queue, key) = (QueueId::new([1; 16]), Bytes::from_static(b"p"));
        let places: Vec<_> = (0..3).map(|_| claims.line_up(&queue, &key)).collect();
        let turn = places[0].turn().await;
        let mut second = Box::pin(places[1].turn());
        let mut third = Box::pin(places[2].turn());
        let soon = Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut second).await.is_err());
        assert!(tokio::time::timeout(soon, &mut third).await.is_err());
        drop(second);
        drop(turn);
        drop(third.await);
        drop(places);
        assert!(claims.lines.0.lock().unwrap().is_empty());
    }
}
