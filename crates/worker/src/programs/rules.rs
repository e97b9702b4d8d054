//! How many programs clients may have in a container.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::limits::{
    EXECS_ENDED_MAX, EXECS_KNOWN_MAX, EXECS_MAX, FUNCTION_EXEC_END_PAUSE, FUNCTION_EXECS_ENDED_MAX,
    FUNCTION_EXECS_MAX,
};

/// The place of one program, held by its output and by what reads that from it.
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

/// How many programs one container takes, and what it is called in texts.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What the client calls such a container.
    pub(crate) noun: &'static str,
    /// Of those that run.
    pub(super) running_max: usize,
    /// Of those that have ended and whose output is kept.
    pub(super) ended_max: usize,
    /// Of those that have ended and of which is known how.
    pub(super) known_max: usize,
    /// Pause between what a program has printed and the news of its end. A client that prints both
    /// streams in the background ends when it hears of the end, and what came in the same moment
    /// is lost (1 in 300 times; modal 1.6.4, `container exec`). From a supervisor it comes later.
    pub(super) end_pause: Duration,
    /// A place for each program that runs or is remembered, in all containers together.
    pub(super) places: Option<Arc<Semaphore>>,
}

impl Rules {
    /// Of a sandbox, whose supervisor has nothing else to do.
    pub(crate) fn of_sandbox() -> Self {
        Self {
            noun: "sandbox",
            running_max: EXECS_MAX,
            ended_max: EXECS_ENDED_MAX,
            known_max: EXECS_KNOWN_MAX,
            end_pause: Duration::ZERO,
            places: None,
        }
    }

    /// Of a function's container: all of a worker share `places`.
    pub(crate) fn of_function(places: Arc<Semaphore>) -> Self {
        Self {
            noun: "container",
            running_max: FUNCTION_EXECS_MAX,
            ended_max: FUNCTION_EXECS_ENDED_MAX,
            known_max: FUNCTION_EXECS_ENDED_MAX,
            end_pause: FUNCTION_EXEC_END_PAUSE,
            places: Some(places),
        }
    }

    /// A place for one more.
    pub(super) fn place(&self) -> Result<Option<Place>, Status> {
        let Some(places) = &self.places else { return Ok(None) };
        let place = places.clone().try_acquire_owned().map(Arc::new);
        place.map(Some).map_err(|_| {
            Status::resource_exhausted(
                "too many programs run in containers of functions, or have left background \
                 processes or output that nobody has read: end some, or read what they printed",
            )
        })
    }
}
