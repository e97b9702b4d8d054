//! Long polls: look at the store, wait for a hint, look again.

use std::time::Duration;

use futures::Stream;
use store::{Ear, Hint};
use tokio::time::Instant;

use super::refusal::Refusal;
use crate::Plane;
use crate::limits::SCAN_EVERY;

/// A long poll. Begin it before the first look, so that no hint falls between look and wait.
#[derive(Debug)]
pub(super) struct Poll {
    ear: Ear,
    until: Instant,
}

impl Poll {
    /// A poll that listens to `hint` for `most`, from now on.
    pub(super) fn begin(plane: &Plane, hint: Hint, most: Duration) -> Self {
        Self::until(plane, hint, Instant::now() + most)
    }

    /// A poll that listens to `hint` until `until`.
    pub(super) fn until(plane: &Plane, hint: Hint, until: Instant) -> Self {
        Self { ear: plane.store.hints().listen(hint), until }
    }

    /// Waits until it is worth looking again: the hint was rung, or one may have been lost.
    /// `false` at once if the time is up or the server ends: the last look was the last.
    pub(super) async fn again(&mut self, plane: &Plane) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() || plane.is_closing() {
            return false;
        }
        tokio::select! {
            () = self.ear.wait(left.min(SCAN_EVERY)) => {}
            () = plane.closed() => {}
        }
        true
    }
}

/// Something that is told as it goes on: a log, a build.
pub(super) trait Follow: Send + 'static {
    /// What is told at a time.
    type Item: Send + 'static;

    /// What is new since the last look; nothing if there is nothing yet.
    fn look(&mut self) -> impl Future<Output = Result<Option<Self::Item>, Refusal>> + Send;

    /// Whether all is told.
    fn is_done(&self) -> bool;

    /// Its poll, and the plane that it waits for.
    fn poll(&mut self) -> (&mut Poll, &Plane);
}

/// Tells what is followed until all is told, its time is up, or a look is refused.
pub(super) fn stream<F: Follow>(follow: F) -> impl Stream<Item = Result<F::Item, Refusal>> {
    futures::stream::unfold(Some(follow), |follow| async move {
        let mut follow = follow?;
        while !follow.is_done() {
            match follow.look().await {
                Ok(Some(item)) => return Some((Ok(item), Some(follow))),
                Ok(None) => {}
                Err(refusal) => return Some((Err(refusal), None)),
            }
            let (poll, plane) = follow.poll();
            if !poll.again(plane).await {
                return None;
            }
        }
        None
    })
}
