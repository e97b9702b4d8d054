//! The queue over a real database: sequences of everything that can happen to an input, and the
//! same things at the same time.

mod bench;
mod races;
mod scaling;
mod walk;
