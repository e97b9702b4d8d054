//! How many programs clients may have in a container.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::limits::{
    EXECS_ENDED_MAX, EXECS_KNOWN_MAX, EXECS_MAX, FUNCTION_EXECS_ENDED_MAX, FUNCTION_EXECS_MAX,
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
