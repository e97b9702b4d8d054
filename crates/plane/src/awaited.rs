//! Callers that wait for outputs. What is done goes straight to them once it is written; without
//! that, each would be woken and read what was just written.

use model::CallId;
use store::outcomes::{DoneInput, Wanted};
use tokio::sync::oneshot;

use crate::seats::{self, Seats};

/// Seats of waiting callers, by call.
#[derive(Debug, Default)]
pub struct Awaited(Seats<CallId, Waiter>);

#[derive(Debug)]
struct Waiter {
    wanted: Wanted,
    hand: oneshot::Sender<DoneInput>,
}

/// A seat, as the caller has it. Leaving it gives it up.
#[derive(Debug)]
pub(crate) struct Seat {
    _place: seats::Seat<CallId, Waiter>,
    hand: oneshot::Receiver<DoneInput>,
}

/// Whether this one is what comes next for someone who has seen nothing that he wants.
fn is_next(wanted: Wanted, done: &DoneInput) -> bool {
    match wanted {
        Wanted::After(seq) => done.done_seq == seq + 1,
        Wanted::Indexes(low, high) => (low..=high).contains(&done.index),
    }
}

impl Awaited {
    /// Sits down to wait. Do it before the first look: what is done between is brought then.
    pub(crate) fn sit(&self, call: &CallId, wanted: Wanted) -> Seat {
        let (sender, hand) = oneshot::channel();
        Seat { _place: self.0.sit(call, Waiter { wanted, hand: sender }), hand }
    }

    /// Gives what is done, and written, to all who wait for it; each seat is used once.
    pub(crate) fn give(&self, call: &CallId, done: &DoneInput) {
        for waiter in self.0.take(call, |waiter| is_next(waiter.wanted, done)) {
            // Whoever has left needs nothing.
            drop(waiter.hand.send(done.clone()));
        }
    }
}

impl Seat {
    /// Waits for what is done. For ever if it was brought before.
    pub(crate) async fn given(&mut self) -> DoneInput {
        match (&mut self.hand).await {
            Ok(done) => done,
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use model::InputId;
    use model::output::{Outcome, Status};

    use super::*;

    fn done(index: u32, done_seq: u64) -> DoneInput {
        DoneInput {
            id: InputId::new([1; 16]),
            index,
            done_seq,
            retry_count: 0,
            task: None,
            outcome: Outcome::without_data(Status::Success, ""),
            unfinished: 0,
        }
    }

    #[tokio::test]
    async fn each_gets_what_comes_next_for_him_and_seats_go_with_those_who_leave() {
        let (awaited, call) = (Awaited::default(), CallId::new([1; 16]));
        let mut by_order = awaited.sit(&call, Wanted::After(1));
        let mut by_index = awaited.sit(&call, Wanted::Indexes(3, 4));
        let left = awaited.sit(&call, Wanted::After(0));
        drop(left);
        // The third to end: one that was not seen is before it.
        awaited.give(&call, &done(4, 3));
        assert_eq!(by_index.given().await.done_seq, 3);
        assert!(by_order.hand.try_recv().is_err());
        awaited.give(&CallId::new([2; 16]), &done(0, 2));
        awaited.give(&call, &done(0, 2));
        assert_eq!(by_order.given().await.index, 0);
        drop((by_order, by_index));
        assert!(awaited.0.is_empty());
    }
}
