//! Containers that wait for inputs. An input that comes goes straight to one, in the transaction
//! that keeps it; without that, the container would be woken, look, and take it in another.

use model::{FunctionId, TaskId};
use store::inputs::Ready;
use tokio::sync::oneshot;

use crate::api::receipt::Receipt;
use crate::seats::{self, Seats};

/// An input for the container that waits, with the receipt of the answer that carries it.
#[derive(Debug)]
pub struct Handed {
    /// The input.
    pub ready: Ready,
    /// What takes it back if it does not arrive.
    pub receipt: Receipt,
}

/// Seats of waiting containers, by function. Who sat down last is served first, so that those that
/// are not needed stay idle and go home.
#[derive(Debug, Default)]
pub struct Parked(Seats<FunctionId, Waiter>);

/// Somebody who waits, as the one sees him who brings an input. Dropping it sends him away with
/// nothing: he looks by himself then.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) task: TaskId,
    hand: oneshot::Sender<Handed>,
}

impl Waiter {
    /// Gives him the input. If he has left, its receipt says that it was lost.
    pub(crate) fn give(self, handed: Handed) {
        drop(self.hand.send(handed));
    }
}

/// A seat, as he has it who waits. Leaving it gives it up.
#[derive(Debug)]
pub(crate) struct Seat {
    place: seats::Seat<FunctionId, Waiter>,
    hand: oneshot::Receiver<Handed>,
}

impl Parked {
    /// Sits down to wait for inputs of a function.
    pub(crate) fn sit(&self, function: &FunctionId, task: &TaskId) -> Seat {
        let (sender, hand) = oneshot::channel();
        let waiter = Waiter { task: task.clone(), hand: sender };
        Seat { place: self.0.sit(function, waiter), hand }
    }

    /// The one who sat down last.
    pub(crate) fn pop(&self, function: &FunctionId) -> Option<Waiter> {
        self.0.pop(function)
    }
}

impl Seat {
    /// Waits for an input; nothing if the one who would have brought it could not.
    pub(crate) async fn handed(&mut self) -> Option<Handed> {
        (&mut self.hand).await.ok()
    }

    /// Gives the seat up. If somebody is about to bring an input, it is waited for.
    pub(crate) async fn leave(mut self) -> Option<Handed> {
        if self.place.leave() {
            return None;
        }
        self.handed().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_sat_down_last_is_served_first_and_seats_go_with_those_who_leave() {
        let (parked, function) = (Parked::default(), FunctionId::new([1; 16]));
        let task = |n| TaskId::new([n; 16]);
        let first = parked.sit(&function, &task(1));
        let second = parked.sit(&function, &task(2));
        let third = parked.sit(&function, &task(3));
        drop(third);
        let waiter = parked.pop(&function).unwrap();
        assert_eq!(waiter.task, task(2));
        drop(waiter);
        assert!(second.leave().await.is_none(), "nobody brings anything any more");
        assert!(first.leave().await.is_none());
        assert!(parked.pop(&function).is_none());
        assert!(parked.0.is_empty());
    }
}
