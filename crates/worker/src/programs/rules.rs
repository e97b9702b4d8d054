//! How many programs clients may have in a container.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::limits::{EXECS_ENDED_MAX, EXECS_MAX, FUNCTION_EXECS_ENDED_MAX, FUNCTION_EXECS_MAX};

/// How many programs one container takes, and what it is called in texts.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What the client calls such a container.
    pub(crate) noun: &'static str,
    /// Of those that run.
    pub(super) running_max: usize,
    /// Of those that have ended and whose output is kept.
    pub(super) ended_max: usize,
    /// A place for each program that runs or is remembered, in all containers together.
    pub(super) places: Option<Arc<Semaphore>>,
}

impl Rules {
    /// Of a sandbox, whose supervisor has nothing else to do.
    pub(crate) fn of_sandbox() -> Self {
        let (running_max, ended_max) = (EXECS_MAX, EXECS_ENDED_MAX);
        Self { noun: "sandbox", running_max, ended_max, places: None }
    }

    /// Of a function's container: all of a worker share `places`.
    pub(crate) fn of_function(places: Arc<Semaphore>) -> Self {
        let (running_max, ended_max) = (FUNCTION_EXECS_MAX, FUNCTION_EXECS_ENDED_MAX);
        Self { noun: "container", running_max, ended_max, places: Some(places) }
    }

    /// A place for one more.
    pub(super) fn place(&self) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let Some(places) = &self.places else { return Ok(None) };
        places.clone().try_acquire_owned().map(Some).map_err(|_| {
            Status::resource_exhausted(
                "too many programs run in containers of functions, or have ended and may still be \
                 asked for: end some, or wait for some minutes",
            )
        })
    }
}
