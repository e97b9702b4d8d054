//! The queue over a real database: sequences of everything that can happen to an input, and the
//! same things at the same time.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod bench;
mod commands;
mod detached;
mod handouts;
mod races;
mod scaling;
mod wakes;
mod walk;
