//! Programs that clients start in running containers: what they write is kept in files and read
//! from any offset, what they read is written once, and how they ended is told. A supervisor has
//! them for its sandbox, the worker itself for the containers of functions.

pub(crate) mod activity;
pub(crate) mod container;
pub(crate) mod execs;
pub(crate) mod held;
pub(crate) mod incoming;
pub(crate) mod pump;
pub(crate) mod rows;
pub(crate) mod rules;
mod running;
pub(crate) mod spool;
pub(crate) mod stdin;
