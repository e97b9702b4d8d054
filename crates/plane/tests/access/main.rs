//! Who may call what: the table against its snapshot, and a running service against the table.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod hostile;
mod intake;
mod matrix;
mod mutants;
mod objects;
mod pickles;
mod place;
mod prison;
mod raw;
mod sandboxes;
mod scope;
mod sweep;
