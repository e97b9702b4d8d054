//! A simulation of the control plane: the real plane over a real database, with fake workers,
//! fake containers and fake time. One seed gives one run.
//!
//! A run is a sequence of moments: chance names what happens next (a client calls, the scheduler
//! looks, a worker reports, time passes, something breaks), it happens to its end, and what must
//! hold is checked. The clock and the ids are the run's own and the plane keeps what it loops over
//! in order, so a seed repeats its run. Two things stay outside: moments do not overlap (races
//! inside one are for `crates/plane/tests/queue`), and what SQLite does in its own threads is not
//! controlled, though each statement is waited for before the next.

pub mod chance;
pub mod checks;
pub mod client;
pub mod container;
pub mod run;
pub mod worker;
pub mod world;
