//! A simulation of the control plane: the real plane over a real database, with fake workers,
//! fake containers and fake time. One seed gives one run.
//!
//! A run is a sequence of moments: chance names what happens next (a client calls, the scheduler
//! looks, a worker reports, time passes, something breaks), it happens to its end, and what must
//! hold is checked. The clock and the ids are the run's own and the plane keeps what it loops over
//! in order, so an even seed repeats its run. In runs of odd seeds things overlap: while a client
//! is served, the plane's loops look and containers take inputs. Which of them comes first is then
//! up to the threads of SQLite, so that such a seed may need a few runs to fail again.

pub mod chance;
pub mod checks;
pub mod client;
pub mod container;
pub mod run;
pub mod settle;
pub mod worker;
pub mod world;
