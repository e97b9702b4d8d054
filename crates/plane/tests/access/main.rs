//! Who may call what: the table against its snapshot, and a running service against the table.

mod hostile;
mod matrix;
mod objects;
mod pickles;
mod place;
mod prison;
mod raw;
mod scope;
mod sweep;
